package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
	"chartmesh/cmd/chartmesh/crash"
	"chartmesh/cmd/chartmesh/demo"
)

// garbage is how much the agent's heap may grow before it is collected, in percent of what is in use. Beyond memory, which it
// reaches when records are imported or merged, it is collected more often rather than let grow.
const (
	garbage = 40
	memory  = 208 << 20
)

// readyTimeout is how long an agent may take to find its addresses before it says that it is ready all the same.
const readyTimeout = 10 * time.Second

func (c *cli) agentCommand() *cobra.Command {
	var listen []string
	var log logOptions
	var noMDNS, noPorts bool
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "run this device's agent",
		Long: `Runs the agent of the data folder until it gets SIGINT or SIGTERM: it serves the commands, and exchanges changes with the
practice's other devices. One line on stdout says when it is ready; the log goes to stderr and holds no patient data, nor
does what is printed should the agent crash.

With --log-file the log goes to that file and to older parts beside it (FILE.1 is the newest), each of --log-size bytes at
most. Devices of the practice find each other on the local network by multicast DNS, unless --no-mdns is given; the router is
asked to let the others' connections through (UPnP, NAT-PMP), unless --no-port-mapping is given.

When the records are damaged it sets them aside, keeps what can be read and gets the rest from the other devices; "chartmesh
status" says how far it is. With less than 500 MB free on the disk (CHARTMESH_LEAST_FREE_MB) nothing is written until there
is more; reading goes on.`,
		Example: `  chartmesh agent
  chartmesh agent --listen /ip4/0.0.0.0/udp/4801/quic-v1 --log-level debug
  chartmesh agent --log-file /var/log/chartmesh/agent.log --log-format json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			opened, err := c.openLog(log)
			if err != nil {
				return err
			}
			defer func() { _ = opened.close() }()
			c.crashes = crash.Options{Format: log.format, File: opened.path}
			if err := c.guarded(); err != nil {
				return err
			}
			return c.serve(ctx, openOptions{dir: dir, listen: listen, logger: opened.logger, recent: opened.recent, noMDNS: noMDNS, noPorts: noPorts,
				leastFree: c.leastFree(), unlock: c.unlock})
		}),
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&listen, "listen", nil, "multiaddrs to listen on (default all interfaces, QUIC and TCP)")
	flags.BoolVar(&noMDNS, "no-mdns", false, "do not look for the practice's devices on the local network")
	flags.BoolVar(&noPorts, "no-port-mapping", false, "do not ask the router to pass on what comes for this device (UPnP, NAT-PMP)")
	log.flags(flags)
	return cmd
}

// serve runs an agent until ctx ends. The order of the end: no more requests, those under way finish, the network and the
// applier stop, the store closes.
func (c *cli) serve(ctx context.Context, opts openOptions) (err error) {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(garbage) // a workstation has other work to do with its memory
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(memory)
	}
	if other, err := client.Dial(opts.dir); err == nil { // one that serves will not end in a moment, which open would wait for
		return errors.Join(&api.Error{Code: api.CodeInUse, Message: "an agent already serves " + opts.dir, Hint: "see chartmesh status"}, other.Close())
	}
	agent, err := c.joins.open(opts)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	socket, err := api.Listen(opts.dir) // after the folder's lock is held
	if err != nil {
		return err
	}
	serving, stopServing := context.WithCancel(ctx)
	defer stopServing()
	running, stopRunning := context.WithCancel(context.WithoutCancel(ctx))
	defer stopRunning()
	ran := make(chan error, 1)
	go func() {
		ran <- agent.Run(running)
		stopServing()
	}()
	var serveErr error
	if status, up := await(serving, agent); up {
		// Only now does the socket answer, so that whoever gets an answer finds the network there.
		served := make(chan error, 1)
		go func() {
			served <- api.ServeOn(serving, socket, api.NewHandler(agent, api.Options{Logger: opts.logger}))
		}()
		c.ready(status)
		serveErr = <-served
	} else {
		serveErr = socket.Close()
	}
	asked := ctx.Err() != nil
	stopRunning()
	runErr := <-ran
	switch {
	case errors.Is(runErr, context.Canceled):
		runErr = nil
	case runErr != nil:
		runErr = fmt.Errorf("run the agent: %w", runErr)
	case !asked && serveErr == nil:
		runErr = errors.New("run the agent: it ended by itself")
	}
	return errors.Join(serveErr, runErr)
}

// await waits until the agent is on the network and has addresses, or has found none for a while.
func await(ctx context.Context, agent api.Agent) (status api.Status, up bool) {
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	late := time.After(readyTimeout)
	for over := false; ; {
		status, err := agent.Status(ctx, "")
		if err == nil && status.Running && (over || len(status.Addresses) > 0) {
			return status, true
		}
		select {
		case <-ctx.Done():
			return status, false
		case <-late:
			over = true
		case <-poll.C:
		}
	}
}

// ready prints the line that says that the agent is.
func (c *cli) ready(s api.Status) {
	p := c.printer()
	if c.json {
		p.jsonLine(struct {
			Ready     bool     `json:"ready"`
			Practice  string   `json:"practice"`
			Device    string   `json:"device"`
			Site      string   `json:"site"`
			PeerID    string   `json:"peer_id"`
			Addresses []string `json:"addresses"`
			Version   string   `json:"version"`
		}{true, s.Practice, s.Device, s.Site, s.PeerID, orEmpty(s.Addresses), s.Version})
		return
	}
	p.line("ready: %s", visible(fmt.Sprintf("%s at %s, %s, on %s", s.Device, s.Site, s.PeerID, strings.Join(s.Addresses, " "))))
}

func (c *cli) networkCommand(online bool, use, short, long string) *cobra.Command {
	return &cobra.Command{
		Use:     use,
		Short:   short,
		Long:    long,
		Example: "  chartmesh " + use,
		Args:    cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.running(func(agent *client.Client) error {
				if err := agent.SetOnline(ctx, online); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(api.Network{Online: &online})
				} else {
					p.remark("the network is %s", map[bool]string{true: "on", false: "off"}[online])
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) offlineCommand() *cobra.Command {
	return c.networkCommand(false, "offline", "cut the running agent off from the network",
		`Cuts the running agent off from the network, until "chartmesh online" or until the agent ends. Reading and writing go on.`)
}

func (c *cli) onlineCommand() *cobra.Command {
	return c.networkCommand(true, "online", "let the running agent use the network again",
		`Lets the running agent use the network again after "chartmesh offline".`)
}

func (c *cli) demoCommand() *cobra.Command {
	opts := demo.Options{}
	var level string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "show two sites of a made-up practice on this machine",
		Long: `Makes a practice with two sites and synthetic patients on this machine, and tells step by step what happens: an edit
appears at the other site, the link is cut, both sides edit, the link heals, a conflict is decided. Then it leaves both
agents running until it is interrupted; with --once it checks every step and ends.`,
		Example: `  chartmesh demo
  chartmesh demo --once --patients 50`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			var min slog.Level
			if err := min.UnmarshalText([]byte(level)); err != nil {
				return usage("--log-level is debug, info, warn or error")
			}
			if opts.Patients < 1 {
				return usage("--patients is at least 1")
			}
			if err := c.guarded(); err != nil {
				return err
			}
			opts.Dir = c.data // never CHARTMESH_DATA, which names a real practice's folder
			opts.JSON, opts.Version, opts.Stdout, opts.Stderr, opts.Logger = c.json, version(), c.out, c.err, c.logger(min)
			return demo.Run(ctx, opts)
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&opts.Once, "once", false, "check every step and end")
	flags.IntVar(&opts.Patients, "patients", 20, "how many patients are made")
	flags.Uint64Var(&opts.Seed, "seed", 1, "of the patients: the same number makes the same ones")
	flags.StringVar(&level, "log-level", "error", "debug, info, warn or error")
	return cmd
}
