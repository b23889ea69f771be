package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/kardianos/service"
	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

// serviceName names the service to the system: one for each machine or user.
const serviceName = "chartmesh"

// idle satisfies the library, which would also run a service: the agent runs itself.
type idle struct{}

func (idle) Start(service.Service) error { return nil }
func (idle) Stop(service.Service) error  { return nil }

// serviceOptions are the flags of all service commands.
type serviceOptions struct{ owner string }

func (o serviceOptions) system() (bool, error) {
	switch o.owner {
	case "system":
		return true, nil
	case "user":
		return false, nil
	case "":
		return os.Geteuid() == 0, nil
	}
	return false, usage("--for is system or user")
}

// open returns the service as the system's manager knows it. u says how it is run; it matters for installing alone.
func (o serviceOptions) open(u unit) (service.Service, error) {
	system, err := o.system()
	if err != nil {
		return nil, err
	}
	switch manager := service.Platform(); {
	case runtime.GOOS == "linux" && manager != "linux-systemd":
		return nil, &api.Error{Code: api.CodeUnavailable, Message: "this system is not run by systemd",
			Hint: "run `chartmesh agent` under the supervisor that this system has; docs/operations.md says what it needs"}
	case runtime.GOOS != "linux" && runtime.GOOS != "darwin":
		return nil, &api.Error{Code: api.CodeUnavailable, Message: "the agent does not run as a service on this system yet"}
	}
	s, err := service.New(idle{}, &service.Config{
		Name: serviceName, DisplayName: "chartmesh", Description: unitDescription, Executable: u.program, Arguments: u.args, UserName: u.account,
		Option: service.KeyValue{"UserService": !system, "SystemdScript": templated(u.systemd()), "LaunchdConfig": templated(u.launchd(serviceName))},
	})
	if err != nil {
		return nil, fmt.Errorf("reach the service manager: %w", err)
	}
	return s, nil
}

// templated keeps the library from taking what stands in a path for a template: it is one that gives the text.
func templated(text string) string { return strings.ReplaceAll(text, "{{", `{{"{{"}}`) }

func (c *cli) serviceCommand() *cobra.Command {
	cmd := family("service", "run the agent as a service of this system", c.serviceInstall(),
		c.serviceAction("uninstall", "remove the service; the data folder stays", "the service is removed; the data folder is as it was",
			func(s service.Service) error {
				// What runs is stopped first. It may be stopped already.
				_ = s.Stop()
				return s.Uninstall()
			}),
		c.serviceAction("start", "start the service", "started", service.Service.Start),
		c.serviceAction("stop", "stop the service, until the next start of the system or of the service", "stopped", service.Service.Stop),
		c.serviceAction("restart", "stop the service and start it again, for example after an update", "restarted", service.Service.Restart),
		c.serviceStatus())
	return cmd
}

func (o *serviceOptions) flags(cmd *cobra.Command) {
	cmd.Flags().StringVar(&o.owner, "for", "", "system: a service of the machine; user: one of this user (default: system for root, else user)")
}

func (c *cli) serviceInstall() *cobra.Command {
	var o serviceOptions
	var account string
	var show bool
	cmd := &cobra.Command{
		Use:   "install [-- AGENT FLAGS]",
		Short: "install the agent as a service that starts with the system",
		Long: `Installs a service (systemd, launchd) that runs the agent of the data folder from now on: as the folder's owner, without core
files, with files for that user alone, started again after a crash. It is not started yet.

What stands after -- is given to the agent. An update replaces the program and restarts the service; install it again only
if the program moves.`,
		Example: `  sudo chartmesh service install --data /var/lib/chartmesh
  chartmesh service install --for user -- --listen /ip4/0.0.0.0/udp/4801/quic-v1
  chartmesh service install --show`,
		RunE: c.do(func(_ context.Context, args []string) error {
			system, err := o.system()
			if err != nil {
				return err
			}
			u, err := c.unit(system, account, args)
			if err != nil {
				return err
			}
			p := c.printer()
			if show {
				text := u.systemd()
				if runtime.GOOS == "darwin" {
					text = u.launchd(serviceName)
				}
				p.write([]byte(text))
				return p.failed
			}
			s, err := o.open(u)
			if err != nil {
				return err
			}
			if err := s.Install(); err != nil {
				return serviceError("install", err)
			}
			return c.serviceDone("install", "installed", "next: chartmesh service start"+lingering(system))
		}),
	}
	o.flags(cmd)
	cmd.Flags().StringVar(&account, "account", "", "the system's user `NAME` that a service of the machine runs as (default: the owner of the data folder)")
	cmd.Flags().BoolVar(&show, "show", false, "print what would be installed, and install nothing")
	return cmd
}

// lingering tells what a service of a user needs on Linux.
func lingering(system bool) string {
	if system || runtime.GOOS != "linux" {
		return ""
	}
	return "; to keep it running while nobody is logged in: loginctl enable-linger"
}

// unit says how the agent of the data folder is run.
func (c *cli) unit(system bool, account string, args []string) (unit, error) {
	dir, err := c.folder()
	if err != nil {
		return unit{}, err
	}
	if _, err := os.Stat(filepath.Join(dir, "keyring")); err != nil {
		return unit{}, &api.Error{Code: api.CodeNotFound, Message: "there is no practice in " + dir, Err: err,
			Hint: "found or join one as the user that the service will run as, then install it"}
	}
	program, err := os.Executable()
	if err == nil {
		program, err = filepath.EvalSymlinks(program)
	}
	if err != nil {
		return unit{}, fmt.Errorf("find this program: %w", err)
	}
	for _, word := range append([]string{dir, program, account}, args...) {
		if strings.ContainsFunc(word, steers) {
			return unit{}, usage("a path or flag of a service has no control characters")
		}
	}
	if runtime.GOOS == "linux" && strings.ContainsAny(program, systemdRefuses) {
		return unit{}, &api.Error{Code: api.CodeInvalid, Message: "systemd runs no program whose path has a quotation mark or a backslash: " + program,
			Hint: "move the program, for example to /usr/local/bin, and install the service from there"}
	}
	u := unit{program: program, args: append([]string{"--data", dir, "agent"}, args...), system: system}
	switch {
	case !system && account != "":
		return unit{}, usage("a service of a user runs as that user: --account goes with --for system")
	case system:
		if u.account = account; account == "" {
			if u.account, err = owner(dir); err != nil {
				return unit{}, err
			}
		}
		u.logs = "/var/log/chartmesh.log"
	default:
		u.logs = filepath.Join(dir, "agent.log")
	}
	return u, nil
}

func (c *cli) serviceAction(use, short, done string, act func(service.Service) error) *cobra.Command {
	var o serviceOptions
	cmd := &cobra.Command{
		Use: use, Short: short, Long: strings.ToUpper(short[:1]) + short[1:] + ".", Example: "  chartmesh service " + use, Args: cobra.NoArgs,
		RunE: c.do(func(context.Context, []string) error {
			s, err := o.open(unit{})
			if err != nil {
				return err
			}
			if _, err := s.Status(); errors.Is(err, service.ErrNotInstalled) {
				return notInstalled()
			}
			if err := act(s); err != nil {
				return serviceError(use, err)
			}
			return c.serviceDone(use, done, "")
		}),
	}
	o.flags(cmd)
	return cmd
}

func notInstalled() error {
	return &api.Error{Code: api.CodeNotFound, Message: "the service is not installed", Hint: "chartmesh service install; with --for, of the machine or of this user"}
}

func (c *cli) serviceDone(action, done, hint string) error {
	p := c.printer()
	if c.json {
		p.json(map[string]string{"service": serviceName, "done": action})
		return p.failed
	}
	p.line("%s", done)
	p.hint(hint)
	return p.failed
}

// serviceError explains what the service manager said.
func serviceError(action string, err error) error {
	e := &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("%s the service: %v", action, err), Err: err,
		Hint: "chartmesh service status, and the manager's own log (journalctl -u chartmesh; add --user for a user's)"}
	switch {
	case errors.Is(err, os.ErrPermission), strings.Contains(err.Error(), "permission denied"):
		e.Code, e.Hint = api.CodeForbidden, "services of the machine need the system's administrator: sudo, or --for user"
	case strings.Contains(err.Error(), "already exists"):
		e.Code, e.Hint = api.CodeConflict, "it is installed: chartmesh service uninstall first"
	}
	return e
}

// serviceState is what service status prints as JSON.
type serviceState struct {
	Installed bool   `json:"installed"`
	Running   bool   `json:"running"`         // as the service manager says
	Agent     string `json:"agent,omitempty"` // the agent's own state, if it answers
	Problem   string `json:"problem,omitempty"`
	Hint      string `json:"hint,omitempty"`
}

func (c *cli) serviceStatus() *cobra.Command {
	var o serviceOptions
	cmd := &cobra.Command{
		Use:   "status",
		Short: "show whether the service is installed and runs, and what to do if not",
		Long: `Shows what the service manager says of the service, and whether the agent of the data folder answers. Where something is
wrong it says what to do; the exit code is then 5.`,
		Example: "  chartmesh service status --json",
		Args:    cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			s, err := o.open(unit{})
			if err != nil {
				return err
			}
			dir, err := c.folder()
			if err != nil {
				return err
			}
			state := judge(s, func() (string, error) {
				agent, err := client.Dial(dir)
				if err != nil {
					return "", err
				}
				defer func() { _ = agent.Close() }() // only idle connections
				status, err := agent.Status(ctx, "")
				return status.State, err
			})
			p := c.printer()
			if c.json {
				p.json(state)
			} else {
				p.line("service  %s", map[bool]string{true: "installed", false: "not installed"}[state.Installed])
				p.line("manager  %s", map[bool]string{true: "runs it", false: "does not run it"}[state.Running])
				p.line("agent    %s", visible(orElse(state.Agent, "does not answer on "+dir)))
			}
			if state.Problem != "" {
				return errors.Join(p.failed, &api.Error{Code: api.CodeUnavailable, Message: state.Problem, Hint: state.Hint})
			}
			return p.failed
		}),
	}
	o.flags(cmd)
	return cmd
}

func orElse(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// judge compares what the manager says with what the agent says.
func judge(s service.Service, ask func() (string, error)) serviceState {
	manager, err := s.Status()
	state := serviceState{Installed: !errors.Is(err, service.ErrNotInstalled), Running: err == nil && manager == service.StatusRunning}
	agent, agentErr := ask()
	state.Agent = agent
	switch {
	case !state.Installed && agentErr == nil:
		state.Problem, state.Hint = "the agent runs, but not as a service", "stop it, then: chartmesh service install, chartmesh service start"
	case !state.Installed:
		state.Problem, state.Hint = "the service is not installed", "chartmesh service install; with --for, of the machine or of this user"
	case err != nil:
		state.Problem, state.Hint = "the service has failed", "journalctl -u chartmesh (--user for a user's) says why; then: chartmesh service restart"
	case !state.Running && agentErr == nil:
		state.Problem, state.Hint = "another agent has the data folder, so the service cannot", "stop that agent, then: chartmesh service start"
	case !state.Running:
		state.Problem, state.Hint = "the service is stopped", "chartmesh service start"
	case agentErr != nil:
		state.Problem = "the service runs, but no agent answers on the data folder"
		state.Hint = "it may be starting, or serve another folder: name it with --data; else see journalctl -u chartmesh"
	}
	return state
}
