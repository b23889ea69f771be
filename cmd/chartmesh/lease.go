package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) leaseCommand() *cobra.Command {
	return family("lease", "what one device may do at a time", c.leaseAcquireCommand(), c.leaseReleaseCommand(), c.leaseListCommand(),
		c.leaseBreakCommand(), c.leaseWaitCommand(), c.leaseRunCommand())
}

// within bounds ctx by a --timeout; 0 bounds nothing.
func within(ctx context.Context, timeout time.Duration) (context.Context, context.CancelFunc) {
	if timeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, timeout)
}

func (c *cli) leaseAcquireCommand() *cobra.Command {
	var lasts, timeout time.Duration
	var try bool
	cmd := &cobra.Command{
		Use:   "acquire NAME",
		Short: "take the lease of a lock for a time",
		Long: `Waits until it is this device's turn, takes the lease and prints its token. The running agent keeps it for the time that --for
says, or until "chartmesh lease release". Nobody else has it meanwhile, at any site. If this device stops or is cut off, the lease
ends by itself 20 seconds later at most.

To hold a lease for as long as a command runs, "chartmesh lease run" is safer.`,
		Example: `  chartmesh lease acquire billing
  chartmesh lease acquire code-lists --for 30m --try --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			if lasts <= 0 || lasts > api.MaxLease {
				return usage("--for is a time of at most 24 hours, for example 30m")
			}
			return c.running(func(agent *client.Client) error {
				ctx, cancel := within(ctx, timeout)
				defer cancel()
				lease, err := agent.AcquireLease(ctx, author, api.LeaseRequest{Name: args[0], For: lasts.Milliseconds(), Try: try})
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(lease)
					return p.failed
				}
				p.line("%s", lease.Token)
				p.hint("it is kept for " + span(lasts) + "; to give it back before: chartmesh lease release " + args[0])
				return p.failed
			})
		}),
	}
	flags := cmd.Flags()
	flags.DurationVar(&lasts, "for", api.DefaultLease, "how long it is kept")
	flags.BoolVar(&try, "try", false, "do not wait for who holds it")
	flags.DurationVar(&timeout, "timeout", 0, "wait no longer than this (default: as long as it takes)")
	return cmd
}

func (c *cli) leaseReleaseCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "release NAME",
		Short:   "give back a lease that this device holds",
		Example: "  chartmesh lease release billing",
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				if err := agent.ReleaseLease(ctx, args[0]); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(map[string]string{"released": args[0]})
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) leaseListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the locks, who holds them and who waits",
		Example: `  chartmesh lease list
  chartmesh lease list --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.running(func(agent *client.Client) error {
				list, err := agent.Leases(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(list)
					return p.failed
				}
				if len(list) == 0 {
					p.remark("nobody ever asked for a lease")
					return p.failed
				}
				var rows [][]string
				for _, l := range list {
					row := []string{l.Name, "nobody", "", "", l.Token}
					if l.Name == "" {
						row[0] = "(" + l.ID + ")"
					}
					if l.Held {
						row[1], row[2] = party(*l.Holder), when(*l.Expires)
					} else if l.Ended != "" {
						row[1] = "nobody, " + l.Ended
					}
					var waiting []string
					for _, w := range l.Waiting {
						waiting = append(waiting, party(w))
					}
					row[3] = strings.Join(waiting, ", ")
					rows = append(rows, row)
				}
				p.table([]string{"LOCK", "HELD BY", "UNTIL", "WAITING", "TOKEN"}, rows)
				for _, l := range list {
					for _, b := range l.Breaks {
						p.remark("%s %s was broken by %s, %s: %s", visible(l.Name), b.Token, visible(b.User), visible(party(b.By)), visible(b.Reason))
					}
				}
				return p.failed
			})
		}),
	}
}

func party(p api.Party) string {
	switch {
	case p.Name == "":
		return p.PeerID
	case p.Site == "":
		return p.Name
	}
	return p.Name + " at " + p.Site
}

func (c *cli) leaseBreakCommand() *cobra.Command {
	req := api.BreakRequest{}
	cmd := &cobra.Command{
		Use:   "break NAME --reason TEXT",
		Short: "end somebody else's lease",
		Long: `Ends the lease of a lock, whoever holds it. What its holder commits later is kept aside and shown, and never merged silently. It is
noted who broke it and why. Only an administrator's device may.

With --take-back, also if nobody holds it: where edits say for good that what was committed last has not arrived, since the device that
wrote it is lost, the documents go back to the last that was committed before and is on this device. If that device turns up, what it
wrote is kept aside and shown. Bring it back first, if that can be done.`,
		Example: `  chartmesh lease break billing --reason "the workstation in room 2 does not answer"
  chartmesh lease break code-lists --take-back --reason "the laptop with the last change is lost"`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			if strings.TrimSpace(req.Reason) == "" {
				return usage("say why with --reason")
			}
			req.Name = args[0]
			return c.running(func(agent *client.Client) error {
				lease, err := agent.BreakLease(ctx, author, req)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(lease)
				} else {
					if lease.Holder != nil {
						p.remark("the lease %s of %s is broken", lease.Token, visible(party(*lease.Holder)))
					}
					if lease.TakenBack > 0 {
						p.line("%s taken back to what was committed before and is here", plural(lease.TakenBack, "document"))
					}
				}
				return p.failed
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Reason, "reason", "", "why, for everybody to read")
	flags.StringVar(&req.Token, "token", "", "only if the lease that is held has this `TOKEN`")
	flags.BoolVar(&req.TakeBack, "take-back", false, "go back where what was committed last is lost")
	return cmd
}

func (c *cli) leaseWaitCommand() *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait NAME",
		Short: "wait until nobody holds a lock",
		Long:  "Waits until nobody holds a lock or waits for it, and takes no lease.",
		Example: `  chartmesh lease wait billing
  chartmesh lease wait billing --timeout 10m`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				ctx, cancel := within(ctx, timeout)
				defer cancel()
				lease, err := agent.WaitLease(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(lease)
				}
				return p.failed
			})
		}),
	}
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "wait no longer than this (default: as long as it takes)")
	return cmd
}

// exitError is the exit code of a command that was run, which has said itself what was wrong.
type exitError int

func (e exitError) Error() string { return fmt.Sprintf("the command ended with %d", int(e)) }

// ending is how long a command may take to end when its lease is lost.
const ending = 5 * time.Second

func (c *cli) leaseRunCommand() *cobra.Command {
	var timeout time.Duration
	var try bool
	cmd := &cobra.Command{
		Use:   "run NAME -- COMMAND [ARGUMENT …]",
		Short: "run a command while a lease is held",
		Long: `Waits until it is this device's turn, takes the lease of a lock and runs a command. The lease is renewed until the command ends, and
then given back. If it is lost before, the command is ended (SIGTERM, and 5 seconds later SIGKILL) and the exit code is 14; else
it is the command's. The command finds CHARTMESH_LEASE and CHARTMESH_LEASE_TOKEN in its environment.`,
		Example: `  chartmesh lease run billing -- ./billing-run.sh november
  chartmesh lease run code-lists --try -- ./update-lists`,
		Args: cobra.MinimumNArgs(2),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		dash := cmd.ArgsLenAtDash()
		return c.do(func(ctx context.Context, args []string) error {
			if dash != 1 {
				return usage("the command stands after --: lease run NAME -- COMMAND")
			}
			author, err := c.author()
			if err != nil {
				return err
			}
			return c.running(func(agent *client.Client) error {
				return c.runHolding(ctx, agent, author, api.LeaseRequest{Name: args[0], Try: try}, timeout, args[1:])
			})
		})(cmd, args)
	}
	flags := cmd.Flags()
	flags.BoolVar(&try, "try", false, "do not wait for who holds it")
	flags.DurationVar(&timeout, "timeout", 0, "wait no longer than this for the lease (default: as long as it takes)")
	return cmd
}

// runHolding runs a command while a lease is held.
func (c *cli) runHolding(ctx context.Context, agent *client.Client, author string, req api.LeaseRequest, timeout time.Duration, command []string) error {
	holding, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	granted := func() bool { return true } // in time
	if timeout > 0 {
		granted = time.AfterFunc(timeout, func() { stop(context.DeadlineExceeded) }).Stop
	}
	got, over := make(chan api.Lease, 1), make(chan error, 1)
	go func() {
		over <- agent.HoldLease(holding, author, req, func(l api.Lease) error {
			got <- l
			return nil
		})
	}()
	var lease api.Lease
	select {
	case err := <-over:
		return err
	case lease = <-got:
	}
	if !granted() {
		return <-over
	}
	running, end := context.WithCancel(ctx)
	defer end()
	run := exec.CommandContext(running, command[0], command[1:]...)
	run.Stdin, run.Stdout, run.Stderr = c.in, c.out, c.err
	run.Env = append(os.Environ(), "CHARTMESH_LEASE="+lease.Name, "CHARTMESH_LEASE_TOKEN="+lease.Token)
	run.Cancel = func() error {
		if runtime.GOOS == "windows" {
			return run.Process.Kill()
		}
		return run.Process.Signal(syscall.SIGTERM)
	}
	run.WaitDelay = ending
	ran := make(chan error, 1)
	go func() { ran <- run.Run() }()
	select {
	case err := <-over: // it is lost, or was given back by somebody on this machine
		end()
		ended := <-ran
		if err == nil {
			err = &api.Error{Code: api.CodeHeld, Message: "the lease was given back while the command ran", Err: ended}
		}
		return err
	case err := <-ran:
		release, cancel := context.WithTimeout(context.WithoutCancel(ctx), ending)
		defer cancel()
		_ = agent.ReleaseLease(release, req.Name) // else it ends by itself
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() >= 0 {
			return exitError(exit.ExitCode())
		}
		return err
	}
}
