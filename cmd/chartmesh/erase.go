package main

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) eraseCommand() *cobra.Command {
	return family("erase", "take records out of every device and anchor, for ever", c.erasePlanCommand(), c.eraseOrderCommand(), c.eraseAgreeCommand(),
		c.eraseListCommand())
}

// erasureRequest reads what is to be erased: a resource, or with again an earlier erasure.
func erasureRequest(args []string, again bool) (req api.ErasureRequest, err error) {
	if again {
		req.Again = args[0]
		return req, nil
	}
	req.Resource, err = api.ParseRef(args[0])
	return req, err
}

func (c *cli) erasePlanCommand() *cobra.Command {
	var again bool
	cmd := &cobra.Command{
		Use:   "plan TYPE/ID",
		Short: "say what an erasure would take away, and what stands against it",
		Long: `Says what "erase order" would name: of a patient the whole chart, of a resource that is in no chart that resource. Nothing is changed.

Final invoices and other protected documents stay; so do copies in exports, printouts and backups. With --again the erasure
that is named is looked at again: what came of it later, from devices that had not heard of it.`,
		Example: `  chartmesh erase plan Patient/p1
  chartmesh erase plan --again 3fa9c1`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			req, err := erasureRequest(args, again)
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				plan, err := agent.PlanErasure(ctx, req)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(plan)
				} else {
					p.erasurePlan(plan)
				}
				return p.failed
			})
		}),
	}
	cmd.Flags().BoolVar(&again, "again", false, "what has come since of the erasure that is named")
	return cmd
}

// erasurePlan prints what would be erased.
func (p *printer) erasurePlan(plan api.ErasurePlan) {
	p.line("%s in %s%s", plural(plan.Chunks, "chunk"), plural(plan.Documents, "document"), byType(plan.Resources))
	for _, n := range plan.Stays {
		p.line("stays: %s", noted(n))
	}
	for _, n := range plan.Against {
		p.line("against it: %s", noted(n))
	}
	if plan.Alone {
		p.remark("There is no other administrator to agree: it takes the recovery code (--recovery).")
	}
}

func noted(n api.ErasureNote) string {
	return visible(strings.TrimPrefix(n.Resource+": "+n.Note, ": "))
}

func byType(resources map[string]int) string {
	var list []string
	for _, typ := range slices.Sorted(maps.Keys(resources)) {
		list = append(list, count(resources[typ])+" "+visible(typ))
	}
	if len(list) == 0 {
		return ""
	}
	return ": " + strings.Join(list, ", ")
}

func (c *cli) eraseOrderCommand() *cobra.Command {
	var again, yes, recovery bool
	var reason string
	cmd := &cobra.Command{
		Use:   "order TYPE/ID",
		Short: "order that a patient's chart is erased; another administrator agrees",
		Long: `Orders that a patient's whole chart, or a resource that is in no chart, is deleted on every device and anchor of the practice, for ever.
Nothing happens before a second administrator has agreed ("erase agree", on their device); with --recovery the recovery code, read
from stdin, takes the second one's place.

What somebody writes to the record meanwhile, without having heard of it, is kept aside and listed ("erase list"); another order,
with --again, takes that away too. The record's id cannot be used again. The reason is kept for ever, so it names nobody.`,
		Example: `  chartmesh erase order Patient/p1 --reason "kept for 30 years"
  chartmesh erase order Patient/p1 --recovery
  chartmesh erase order --again 3fa9c1`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			req, err := erasureRequest(args, again)
			if err != nil {
				return err
			}
			req.Reason = reason
			p := c.printer()
			if recovery {
				if req.RecoveryCode, err = c.readSecret(p, "Recovery code:"); err != nil {
					return err
				}
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if !yes {
					plan, err := agent.PlanErasure(ctx, req)
					if err != nil {
						return err
					}
					p.remark("This erases %s in %s%s.", plural(plan.Chunks, "chunk"), plural(plan.Documents, "document"), byType(plan.Resources))
					for _, n := range plan.Stays {
						p.remark("Stays: %s", noted(n))
					}
					p.remark("Type %s to go on:", visible(args[0]))
					line, err := c.readLine("name", maxCode)
					if err != nil {
						return err
					}
					if line != args[0] {
						return usage("that is another name; nothing was ordered (--yes orders without asking)")
					}
				}
				e, err := agent.OrderErasure(ctx, author, req)
				if err != nil {
					return err
				}
				return c.erasure(p, e)
			})
		}),
	}
	flags := cmd.Flags()
	flags.BoolVar(&again, "again", false, "what has come since of the erasure that is named")
	flags.BoolVar(&yes, "yes", false, "do not ask")
	flags.BoolVar(&recovery, "recovery", false, "agree with the recovery code, read from stdin")
	flags.StringVar(&reason, "reason", "", "why, in a `TEXT` that names nobody")
	return cmd
}

func (c *cli) eraseAgreeCommand() *cobra.Command {
	var recovery bool
	cmd := &cobra.Command{
		Use:   "agree ERASURE",
		Short: "agree to what another administrator has ordered to be erased",
		Long: `Agrees to an erasure that another administrator has ordered: it is carried out at once here, and on every other device and anchor as it hears
of it. Nobody can take it back. "erase list" shows what it is about. This device first compares what the order names with what it has.`,
		Example: `  chartmesh erase list
  chartmesh erase agree 3fa9c1`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			p := c.printer()
			var req api.ErasureAgreement
			if recovery {
				if req.RecoveryCode, err = c.readSecret(p, "Recovery code:"); err != nil {
					return err
				}
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				e, err := agent.AgreeErasure(ctx, author, args[0], req)
				if err != nil {
					return err
				}
				return c.erasure(p, e)
			})
		}),
	}
	cmd.Flags().BoolVar(&recovery, "recovery", false, "agree with the recovery code, read from stdin")
	return cmd
}

// erasure prints what has become of one.
func (c *cli) erasure(p *printer, e api.Erasure) error {
	if c.json {
		p.json(e)
		return p.failed
	}
	switch e.State {
	case "ordered":
		p.line("ordered: %s in %s", plural(e.Chunks, "chunk"), plural(e.Documents, "document"))
		p.hint("another administrator agrees on their device: chartmesh erase agree " + e.ID)
	case "erased":
		p.line("erased here: %s in %s", plural(e.Chunks, "chunk"), plural(e.Documents, "document"))
		p.remark("The other devices and the anchors erase it as they hear of it.")
	case "agreed":
		p.line("agreed: nothing of it is shown any more. What is not here yet of what it names is deleted when it comes")
	default:
		p.line("%s", e.State)
		p.hint("what it says: chartmesh erase list")
	}
	return p.failed
}

func (c *cli) eraseListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list what was ordered to be erased, and what became of it",
		Long: `Lists erasures, the newest first:

  ordered   waits for another administrator to agree
  agreed    is not shown any more; not all that it names has come to this device, to be deleted
  erased    is deleted on this device
  refused   names what is of no such record; nothing is deleted for it
  worthless was ordered by nobody who may: it never counts. At most 50 of these are listed, after all others

LATE counts what came of it since, from devices that had not heard: it is kept aside, and "erase order --again" takes it away.`,
		Example: `  chartmesh erase list
  chartmesh erase list --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				list, err := agent.Erasures(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(list)
				} else {
					p.erasures(list)
				}
				return p.failed
			})
		}),
	}
}

func (p *printer) erasures(list []api.Erasure) {
	if len(list) == 0 {
		p.remark("nothing was ordered to be erased")
		return
	}
	var rows [][]string
	late := false
	for _, e := range list {
		agreed, came := "", ""
		if e.Agreed != nil {
			agreed = erasureWord(*e.Agreed)
		}
		if len(e.Late) > 0 {
			came, late = count(len(e.Late)), true
		}
		rows = append(rows, []string{e.ID, e.State, e.Patient, count(e.Documents), count(e.Chunks), erasureWord(e.Ordered), agreed, came, e.Reason})
	}
	p.table([]string{"ERASURE", "STATE", "ABOUT", "DOCUMENTS", "CHUNKS", "ORDERED", "AGREED", "LATE", "REASON"}, rows)
	if late {
		p.hint("what came later: chartmesh quarantine list --state quarantined; to erase it too: chartmesh erase order --again ERASURE")
	}
}

func erasureWord(w api.ErasureWord) string {
	by := w.User
	if w.Device != "" {
		by += " at " + w.Device
	}
	if w.Recovery {
		by += ", recovery code"
	}
	return strings.TrimSpace(by) + ", " + when(w.At)
}
