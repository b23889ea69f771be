package main

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) rangeCommand() *cobra.Command {
	return family("range", "numbers that each device gives without a network, for patients", c.rangeNextCommand(), c.rangeShowCommand(), c.rangeSetCommand(),
		c.rangeGrantCommand(), c.rangeVoidCommand(), c.rangeReportCommand())
}

func (c *cli) rangeNextCommand() *cobra.Command {
	req := api.RangeNext{}
	cmd := &cobra.Command{
		Use:   "next NAME",
		Short: "take this device's next number",
		Long: `Takes the next number of this device's part of a range, and prints it. Nobody else has it, and no network is needed. With --for the same
item gets the same number when it is asked for again at this device, also after a crash. The first number that a device ever takes needs a
connection, unless a part was set aside for it while it was connected.`,
		Example: `  chartmesh range next patients --for Patient/4f1c
  chartmesh range next patients --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			req.Name = args[0]
			return c.running(func(agent *client.Client) error {
				n, err := agent.NextInRange(ctx, req)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(n)
				} else {
					p.line("%d", n.Number)
				}
				c.few(p, n.Warning)
				return p.failed
			})
		}),
	}
	cmd.Flags().StringVar(&req.For, "for", "", "what is numbered: an `ID` of yours that never changes")
	return cmd
}

// few warns that few numbers are left.
func (c *cli) few(p *printer, warning string) {
	if warning != "" {
		p.remark("chartmesh: warning: %s", visible(warning))
		p.hint("it takes more by itself where the range says how many, and else an administrator grants them: chartmesh range grant")
	}
}

func (c *cli) rangeShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show [NAME]",
		Short: "show who gives which numbers, and how many are left",
		Long: `Shows the ranges, the part that each device gives numbers from, and for how many days those of this device are enough, by how many it gave in
the last 30 days. How far another device has come only that one shows; of others it is said when they were last connected, as far as this
device knows, and whether their part is to be taken back.`,
		Example: `  chartmesh range show
  chartmesh range show patients --json`,
		Args: cobra.MaximumNArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				list, err := agent.Ranges(ctx)
				if err != nil {
					return err
				}
				if len(args) == 1 {
					for _, r := range list {
						if r.Name == args[0] && c.json {
							p := c.printer()
							p.json(r)
							return p.failed
						} else if r.Name == args[0] {
							return c.ranges([]api.Range{r})
						}
					}
					return &api.Error{Code: api.CodeNotFound, Message: "there is no range of that name, or this device does not know it",
						Hint: "see chartmesh range show; an administrator defines a range with `chartmesh range set`"}
				}
				if len(list) == 0 && !c.json {
					p := c.printer()
					p.remark("there is no range; an administrator defines one with: chartmesh range set NAME --first 1 --last 999999 --part 1000")
					return p.failed
				}
				return c.ranges(list)
			})
		}),
	}
}

// ranges prints ranges with their parts.
func (c *cli) ranges(list []api.Range) error {
	p := c.printer()
	if c.json {
		p.json(list)
		return p.failed
	}
	for i, r := range list {
		if i > 0 {
			p.line("")
		}
		p.oneRange(r)
		c.few(p, r.Here.Warning)
	}
	return p.failed
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func (p *printer) oneRange(r api.Range) {
	name := r.Name
	if name == "" {
		name = "(" + r.ID + ")"
	}
	if r.Unreached != "" {
		p.remark("only what this device has is shown: %s", visible(r.Unreached))
		p.line("%s", visible(name))
	} else {
		part := "an administrator grants them"
		if r.Part > 0 {
			part = fmt.Sprintf("a device takes %d at a time", r.Part)
		}
		step := ""
		if r.Increment > 1 {
			step = fmt.Sprintf(" in steps of %d", r.Increment)
		}
		p.line("%s: %d to %d%s, %d of them free; %s", visible(name), r.First, r.Last, step, r.Free, part)
	}
	var rows [][]string
	for _, part := range r.Parts {
		row := []string{party(part.Device), number(part.First), number(part.Last), part.State, "", "", heard(part, time.Now())}
		if part.Left != nil {
			row[4] = number(*part.Left)
		}
		if part.From != nil {
			row[5] = part.Reason
			if *part.From <= part.Last {
				row[3] = "void from " + number(*part.From)
			}
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		p.table([]string{"DEVICE", "FIRST", "LAST", "STATE", "LEFT", "", "LAST CONTACT"}, rows)
	}
	for _, part := range r.Parts {
		var again string
		switch {
		case part.State == api.PartForgotten:
			again = "this device does not know any more how far it came in the part that begins with " + number(part.First) + ", since its store was lost or filled anew: it gives nothing from it"
		case part.Removed:
			again = "the device with the part that begins with " + number(part.First) + " was removed, or may not write: nobody gives numbers from it"
		default:
			continue
		}
		p.remark("%s; an administrator takes it back: chartmesh range void %s %d --reason TEXT", again, visible(name), part.First)
	}
	if r.Here.PerDay > 0 {
		p.line("left at this device: %d, of which it gives %.1f a day: enough for about %d days", r.Here.Left, r.Here.PerDay, *r.Here.Days)
	}
}

// heard says when the device was last there that has a part.
func heard(part api.RangePart, now time.Time) string {
	switch {
	case part.Mine || part.State == api.PartForgotten:
		return "this device"
	case part.State != api.PartInUse && part.State != api.PartAside:
		return ""
	case part.Removed:
		return "removed"
	case part.Connected:
		return "connected"
	}
	return ago(part.LastContact, now)
}

// changedRange prints a range after it was changed.
func (c *cli) changedRange(change func(*client.Client) (api.Range, error)) error {
	return c.running(func(agent *client.Client) error {
		r, err := change(agent)
		if err != nil {
			return err
		}
		p := c.printer()
		if c.json {
			p.json(r)
		} else {
			p.oneRange(r)
		}
		return p.failed
	})
}

func (c *cli) rangeSetCommand() *cobra.Command {
	req := api.RangeRequest{}
	cmd := &cobra.Command{
		Use:   "set NAME --last NUMBER [--part N]",
		Short: "say which numbers a range has",
		Long: `Says which numbers a range has. With --part each device that asks for a number takes so many for itself, and more when a tenth is left;
without it an administrator grants them. Set again it holds from then on; what a device has it keeps. Only an administrator's device may.`,
		Example: `  chartmesh range set patients --first 1 --last 999999 --part 10000
  chartmesh range set patients --first 100000 --last 999999`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			if req.Name = args[0]; req.Last == 0 || req.First < 0 || req.Last < req.First {
				return usage("numbers go from --first up to --last")
			}
			return c.changedRange(func(agent *client.Client) (api.Range, error) { return agent.SetRange(ctx, req) })
		}),
	}
	flags := cmd.Flags()
	flags.Int64Var(&req.First, "first", 1, "the first `NUMBER`")
	flags.Int64Var(&req.Last, "last", 0, "the last `NUMBER`")
	flags.Int64Var(&req.Increment, "increment", 1, "how far it is from one number to the next: 2 gives every other one")
	flags.Int64Var(&req.Part, "part", 0, "how many numbers a device takes at a time (default: an administrator grants them)")
	return cmd
}

func (c *cli) rangeGrantCommand() *cobra.Command {
	req := api.RangeGrant{}
	cmd := &cobra.Command{
		Use:   "grant NAME DEVICE|SITE",
		Short: "set numbers aside for a device, or for each device of a site",
		Long: `Sets a part of a range aside for a device: the lowest numbers that nobody has, or those from --first to --last. Of a site each device that
writes has a part of its own. A device takes what was set aside for it when it is connected next, and gives these numbers without a network
from then on. Only an administrator's device may.`,
		Example: `  chartmesh range grant patients Labor --count 500
  chartmesh range grant patients Nord
  chartmesh range grant patients Server-Sued --first 200000 --last 299999 --increment 2`,
		Args: cobra.ExactArgs(2),
		RunE: c.do(func(ctx context.Context, args []string) error {
			req.Name, req.To = args[0], args[1]
			return c.changedRange(func(agent *client.Client) (api.Range, error) { return agent.GrantRange(ctx, req) })
		}),
	}
	flags := cmd.Flags()
	flags.Int64Var(&req.Count, "count", 0, "how many `NUMBERS` (default: as many as a device takes by itself)")
	flags.Int64Var(&req.First, "first", 0, "the first `NUMBER`, with --last")
	flags.Int64Var(&req.Last, "last", 0, "the last `NUMBER`, with --first")
	flags.Int64Var(&req.Increment, "increment", 0, "how far it is from one of these numbers to the next, with --first (default: as the range says)")
	cmd.MarkFlagsRequiredTogether("first", "last")
	cmd.MarkFlagsMutuallyExclusive("count", "first")
	return cmd
}

func (c *cli) rangeVoidCommand() *cobra.Command {
	req := api.RangeVoid{}
	var from int64
	cmd := &cobra.Command{
		Use:   "void NAME FIRST --reason TEXT",
		Short: "take back what is left of a part, of a device that is lost",
		Long: `Takes back what is left of the part that begins with FIRST. Nobody is given these numbers: it is not known how far its device came, unless
--from says which number it certainly did not give. That cannot be taken back. A device that is still there hears of it when it is
connected next. Only an administrator's device may.`,
		Example: `  chartmesh range void patients 10001 --reason "laptop stolen"
  chartmesh range void patients 10001 --from 10420 --reason "laptop broken, its last number was 10419"`,
		Args: cobra.ExactArgs(2),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			if req.First, err = strconv.ParseInt(args[1], 10, 64); err != nil || req.First < 0 {
				return usage("a part is named by its first number: see chartmesh range show")
			}
			if req.Name = args[0]; req.Reason == "" {
				return usage("say with --reason why the part is taken back")
			}
			if from >= 0 {
				req.From = &from
			}
			return c.changedRange(func(agent *client.Client) (api.Range, error) { return agent.VoidRange(ctx, author, req) })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Reason, "reason", "", "why, for the report")
	flags.Int64Var(&from, "from", -1, "the first `NUMBER` that certainly was not given (default: it is not known)")
	return cmd
}

func (c *cli) rangeReportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "report NAME",
		Short: "explain every number of a range, and every gap",
		Long: `Lists every number of a range, from the first to the last: which this device gave, when and to what; which another device may have given (its
own report says); which were taken back, by whom and why; and which are free.`,
		Example: `  chartmesh range report patients
  chartmesh range report patients --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				report, err := agent.RangeReport(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(report)
					return p.failed
				}
				var rows [][]string
				for _, e := range report.Entries {
					row := []string{number(e.First), number(e.Last), e.What, "", e.Item, e.User, "", e.Reason}
					if e.First == e.Last {
						row[1] = ""
					}
					if e.Device != nil {
						row[3] = party(*e.Device)
					}
					if e.Time != nil {
						row[6] = when(*e.Time)
					}
					rows = append(rows, row)
				}
				p.table([]string{"FROM", "TO", "", "DEVICE", "ITEM", "SAID BY", "WHEN", "REASON"}, rows)
				return p.failed
			})
		}),
	}
}
