package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chartmesh/agent/api"
)

func (c *cli) peerLogCommand() *cobra.Command {
	verify := false
	cmd := &cobra.Command{
		Use:   "log",
		Short: "list who added, removed, promoted or renamed whom, and when",
		Long: `Lists the membership log, the oldest entry first: each is signed by the device that made it, or by the recovery code's key.
Times are of that device's clock. "void" says why an entry has no effect: somebody made it after he was removed, or before he
could know of that.

With --verify every signature, and every author's right, is checked anew from the founding on.`,
		Example: `  chartmesh peer log
  chartmesh peer log --verify
  chartmesh peer log --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				log, err := agent.MembershipLog(ctx, verify)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(log)
					return p.failed
				}
				p.membership(log)
				return p.failed
			})
		}),
	}
	cmd.Flags().BoolVar(&verify, "verify", false, "check every signature and right anew")
	return cmd
}

func (p *printer) membership(log api.MembershipLog) {
	var rows [][]string
	for _, e := range log.Entries {
		void := ""
		if e.Void != "" {
			void = "void: " + e.Void
		}
		rows = append(rows, []string{when(e.Time), who(e.By), deed(e), void})
	}
	p.table([]string{"WHEN", "WHO", "DID WHAT", ""}, rows)
	if log.Verified {
		p.line("checked, from the founding %.16s on: each is signed, and by somebody who might", log.Founding)
	}
}

// who names a device as people know it.
func who(k api.MembershipKey) string {
	switch {
	case k.Root:
		return "the recovery code"
	case k.Name != "" && k.Site != "":
		return k.Name + " at " + k.Site
	case k.Name != "":
		return k.Name
	}
	return k.PeerID
}

// deed says what an entry states.
func deed(e api.MembershipEntry) string {
	whom := who(e.Device)
	switch e.Kind {
	case "found":
		return "founded the practice on " + whom
	case "add":
		return "added " + whom + " as " + e.Role
	case "anchor":
		return "added the anchor " + whom
	case "remove":
		return "removed " + whom
	case "role":
		return "made " + whom + " " + e.Role
	case "rename":
		if whom == "" {
			return "renamed the practice"
		}
		return "renamed what is now " + whom
	case "rotate":
		return "made new keys for " + e.Scope
	case "scope":
		return "created the scope " + e.Scope
	case "reseed":
		return "began exclusive operations anew"
	case "checkpoint":
		return "agreed to the membership so far"
	case "recovery":
		return "replaced the recovery code"
	}
	return e.Kind
}

func (c *cli) peerCheckpointCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "checkpoint",
		Short: "agree, as an administrator, to the membership so far",
		Long: `Has this administrator's device agree to everything that the membership log says so far, as "chartmesh peer log" lists it. Once all
administrators have agreed nothing comes beside it any more: what a removed administrator dates back is void, whenever it turns up.

The first to call it begins a checkpoint; the others call it on their devices to agree.`,
		Example: `  chartmesh peer checkpoint
  chartmesh peer checkpoint --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				a, err := agent.AgreeMembership(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(a)
				} else {
					p.agreement(a)
				}
				return p.failed
			})
		}),
	}
}

func (p *printer) agreement(a api.Agreement) {
	switch a.Did {
	case "began":
		p.line("agreed to the membership so far")
	case "agreed":
		p.line("agreed to what another administrator has agreed to")
	default:
		p.line("there is nothing new to agree to")
	}
	var waiting []string
	for _, k := range a.Waiting {
		waiting = append(waiting, who(k))
	}
	if a.Sealed {
		p.line("all administrators have agreed: nothing comes beside it any more")
	} else {
		p.line("still to agree, by the same command: %s", strings.Join(waiting, ", "))
	}
}

func (c *cli) peerRenameCommand() *cobra.Command {
	req := api.RenameRequest{}
	practice := ""
	cmd := &cobra.Command{
		Use:   "rename [DEVICE] [--name NAME] [--site NAME] [--practice NAME]",
		Short: "give a device, its site or the practice another name",
		Long: `Gives a device another name, says that it is at another site now, or renames the practice. DEVICE is a name or a peer ID, as
"chartmesh peer list" shows them. Names are sealed: nobody outside the practice can read them.`,
		Example: `  chartmesh peer rename Labor --name "Labor 2"
  chartmesh peer rename Laptop --site Nord
  chartmesh peer rename --practice "Praxis Berg und Tal"`,
		Args: cobra.MaximumNArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			switch {
			case len(args) == 0 && practice == "", len(args) == 1 && practice != "":
				return usage("name a device, or give --practice")
			case len(args) == 1 && req.Name == "" && req.Site == "":
				return usage("give --name or --site")
			case len(args) == 0 && (req.Name != "" || req.Site != ""):
				return usage("--name and --site are a device's: name it")
			case len(args) == 1:
				req.Device = args[0]
			default:
				req.Name = practice
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if err := agent.Rename(ctx, req); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(req)
				} else {
					p.line("renamed")
				}
				return p.failed
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Name, "name", "", "the device's new `NAME`")
	flags.StringVar(&req.Site, "site", "", "the `NAME` of the site where it is now")
	flags.StringVar(&practice, "practice", "", "the practice's new `NAME`")
	return cmd
}

func (c *cli) peerRoleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "role DEVICE admin|member|reader|server",
		Short: "give a device another role",
		Long: `Gives a device another role:

  admin    invites and removes devices, and does all that a member does
  member   reads and writes
  server   as a member; for a site's machine that is always on
  reader   reads. What it wrote until now counts as far as it has come to this device

DEVICE is a name or a peer ID, as "chartmesh peer list" shows them.`,
		Example: `  chartmesh peer role Laptop reader
  chartmesh peer role Empfang admin`,
		Args: cobra.ExactArgs(2),
		RunE: c.do(func(ctx context.Context, args []string) error {
			req := api.RoleRequest{Device: args[0], Role: args[1]}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if err := agent.SetRole(ctx, req); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(req)
				} else {
					p.line("%s is %s now", visible(req.Device), req.Role)
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) peerRemoveCommand() *cobra.Command {
	var yes, recovery, stolen bool
	cmd := &cobra.Command{
		Use:   "remove DEVICE",
		Short: "remove a device for ever, for example one that was stolen",
		Long: `Removes a device from the practice for ever: its connections end, and everything that is written from now on is under new keys that
it does not have. What it wrote counts as far as it has come to this device; what comes of it later is kept aside for
somebody to decide ("chartmesh quarantine list"). If the device is found again, reset it and let it join anew.

What the device has read it may keep: the report says what that was. DEVICE is a name or a peer ID.

An administrator's device that was added before this one can remove this one in return, until all have heard of its removal. With
--recovery the removal is made with the recovery code, which nobody can gainsay; it is read from stdin.

A device, or an anchor, that keeps leases and numbers (chartmesh quorum status) is to do so no more first: chartmesh quorum remove. With
--stolen it is removed at once all the same; what is left of the quorum is said, and what to do then.`,
		Example: `  chartmesh peer remove Laptop
  chartmesh peer remove Laptop --yes --json
  chartmesh peer remove Server-Nord --stolen
  chartmesh peer remove Laptop --recovery`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) (err error) {
			p := c.printer()
			req := api.RemovalRequest{Device: args[0], AlthoughOlder: yes, AlthoughVoter: stolen}
			switch {
			case recovery:
				if req.RecoveryCode, err = c.readSecret(p, "Recovery code:"); err != nil {
					return err
				}
			case !yes:
				p.remark("This removes %s for ever. Type its name to go on:", visible(req.Device))
				line, err := c.readLine("name", maxCode)
				if err != nil {
					return err
				}
				if line != req.Device {
					return usage("that is another name; nothing was removed (--yes removes without asking)")
				}
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				report, err := agent.Remove(ctx, req)
				if err != nil {
					return err
				}
				if c.json {
					p.json(report)
				} else {
					p.removed(report)
				}
				return p.failed
			})
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&yes, "yes", false, "do not ask, and do not insist on the recovery code for an older administrator")
	flags.BoolVar(&recovery, "recovery", false, "remove it with the recovery code, read from stdin")
	flags.BoolVar(&stolen, "stolen", false, "it was lost or stolen: remove it at once, although it keeps leases and numbers")
	return cmd
}

func (p *printer) removed(report api.RemovalReport) {
	p.line("removed %s, %s", who(report.Device), report.Role)
	p.line("last contact: %s", ago(report.LastContact, time.Now()))
	if report.Quorum != nil {
		p.quorumLeft(*report.Quorum)
	}
	if report.Role == "anchor" {
		p.remark("It keeps what it has, which it cannot read, and is given nothing more.")
		return
	}
	for _, s := range report.Scopes {
		next := "new keys follow when an administrator's device hears of it"
		if s.NewKey {
			next = "what is written from now on is under another"
		}
		p.line("%s: it may know %s of %s, up to key %d; %s", s.Name, plural(s.Documents, "document"), plural(s.Patients, "patient"), s.LastKey, next)
		p.line("%s: of what it wrote %s count", s.Name, plural(s.Chunks, "chunk"))
	}
	p.remark("What it has read it may keep. What comes of it later is listed by: chartmesh quarantine list")
}

// quorumLeft says what a voter that was removed leaves of its quorum.
func (p *printer) quorumLeft(q api.QuorumLeft) {
	if !q.GoesOn {
		p.line("it kept leases and numbers: nobody gets any from now on; reading and writing records goes on")
	} else {
		var names []string
		for _, left := range q.Left {
			names = append(names, party(left))
		}
		p.line("it was one of %d voters, which keep leases and numbers: they go on while all that are left are reached: %s", q.Voters, strings.Join(names, ", "))
	}
	p.remark("%s", q.Next)
}

func (c *cli) recoveryCommand() *cobra.Command {
	check := &cobra.Command{
		Use:   "check",
		Short: "see whether a recovery code is the practice's and opens everything",
		Long: `Reads a recovery code from stdin and says whether it is this practice's and opens every key that there is. Do so now and then
with the one on paper. Nothing is changed or stored.`,
		Example: "  chartmesh recovery check",
		Args:    cobra.NoArgs,
		RunE: c.withCode(func(ctx context.Context, agent api.Agent, p *printer, code string) error {
			report, err := agent.CheckRecovery(ctx, code)
			if err != nil {
				return err
			}
			if c.json {
				p.json(report)
			} else {
				if report.Closed > 0 {
					p.line("It is the recovery code of %s, and opens %d keys of %d scopes. %d do not open with it: whoever made them", visible(report.Practice),
						report.Epochs, report.Scopes, report.Closed)
					p.line("(chartmesh peer log) did not seal them to the code.")
					return p.failed
				}
				p.line("It is the recovery code of %s, and opens all %d keys of %d scopes.", visible(report.Practice), report.Epochs, report.Scopes)
			}
			return p.failed
		}),
	}
	promote := &cobra.Command{
		Use:   "promote",
		Short: "make this device an administrator's, when no other is left",
		Long: `Makes this device an administrator's by the recovery code, which is read from stdin: when every administrator's device is lost and this
one is left. It can then invite new devices, remove the lost ones and replace the code.`,
		Example: "  chartmesh recovery promote",
		Args:    cobra.NoArgs,
		RunE: c.withCode(func(ctx context.Context, agent api.Agent, p *printer, code string) error {
			if err := agent.Promote(ctx, code); err != nil {
				return err
			}
			if c.json {
				p.json(struct {
					Role string `json:"role"`
				}{"admin"})
				return p.failed
			}
			p.line("This device is an administrator's now.")
			p.hint("remove the lost ones: chartmesh peer remove NAME --stolen; let new ones join: chartmesh invite")
			return p.failed
		}),
	}
	lost := false
	replace := &cobra.Command{
		Use:   "replace",
		Short: "put another recovery code in the place of the practice's",
		Long: `Makes another recovery code and new keys. It is printed once, to stdout: write it down and keep it away from the devices.

The old code is read from stdin; typed in, it is worth nothing from now on, whoever has it. If nobody has it any more, give --lost: then
it can still act towards devices that have not heard of the new one. In either case it can go on opening what was written before
now: what was once readable stays so for whoever kept a copy.`,
		Example: `  chartmesh recovery replace
  chartmesh recovery replace --lost`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) (err error) {
			p := c.printer()
			old := ""
			if !lost {
				if old, err = c.readSecret(p, "The recovery code until now (--lost if nobody has it):"); err != nil {
					return err
				}
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				replaced, err := agent.ReplaceRecovery(ctx, old)
				if err != nil {
					return err
				}
				if c.json {
					p.json(replaced)
					return p.failed
				}
				p.remark("New keys were made for %s.", plural(replaced.Scopes, "scope"))
				p.remark("The new recovery code, shown only now. Write it down and keep it away from the devices:")
				p.line("%s", replaced.Code)
				return p.failed
			})
		}),
	}
	replace.Flags().BoolVar(&lost, "lost", false, "nobody has the old code any more")
	return family("recovery", "the recovery code, which opens everything when no device is left", check, promote, replace, c.recoveryRestoreCommand())
}

// withCode runs fn with an agent and the recovery code, which it reads first.
func (c *cli) withCode(fn func(ctx context.Context, agent api.Agent, p *printer, code string) error) func(*cobra.Command, []string) error {
	return c.do(func(ctx context.Context, _ []string) error {
		p := c.printer()
		code, err := c.readSecret(p, "Recovery code:")
		if err != nil {
			return err
		}
		return c.with(ctx, func(agent api.Agent, _ bool) error { return fn(ctx, agent, p, code) })
	})
}

// readSecret reads a line from stdin; at a terminal it does not show what is typed.
func (c *cli) readSecret(p *printer, prompt string) (string, error) {
	if f, ok := c.in.(*os.File); ok && terminal(f) {
		_, _ = fmt.Fprint(p.err, prompt+" ")
		b, err := term.ReadPassword(int(f.Fd()))
		p.remark("")
		if err != nil {
			return "", fmt.Errorf("read the code: %w", err)
		}
		if line := strings.TrimSpace(string(b)); line != "" {
			return line, nil
		}
		return "", usage("nothing was typed")
	}
	return c.readLine("code", maxCode)
}
