package main

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) numberCommand() *cobra.Command {
	return family("number", "numbers without gaps, for invoices", c.numberAssignCommand(), c.numberUseCommand(), c.numberVoidCommand(), c.numberListCommand(),
		c.numberReportCommand(), c.numberOpenCommand(), c.numberCloseCommand())
}

// number prints a number that was given.
func (c *cli) number(n api.Number) error {
	p := c.printer()
	if c.json {
		p.json(n)
	} else {
		p.line("%d", n.Number)
	}
	return p.failed
}

func (c *cli) numberAssignCommand() *cobra.Command {
	req := api.NumberRequest{}
	cmd := &cobra.Command{
		Use:   "assign CIRCLE --item ID",
		Short: "give an item its number",
		Long: `Gives an item the next number of a circle, and prints it. An item has one number for ever: asked again, also after a crash or at another
device, it is the same. It is reserved until "number use" or "number void" says what became of it.`,
		Example: `  chartmesh number assign invoices --item Invoice/2026-0412
  chartmesh number assign invoices --item Invoice/2026-0412 --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			if req.Circle = args[0]; req.Item == "" {
				return usage("say with --item what is numbered")
			}
			return c.running(func(agent *client.Client) error {
				n, err := agent.AssignNumber(ctx, req)
				if err != nil {
					return err
				}
				return c.number(n)
			})
		}),
	}
	cmd.Flags().StringVar(&req.Item, "item", "", "what is numbered: an `ID` of yours that never changes")
	return cmd
}

func (c *cli) numberUseCommand() *cobra.Command {
	return c.numberResolveCommand(api.NumberUsed, "use CIRCLE --item ID | --number N", "say that an item with a number exists",
		"Says that the item was finalised under its number. That is said once, and cannot be taken back.",
		"  chartmesh number use invoices --item Invoice/2026-0412")
}

func (c *cli) numberVoidCommand() *cobra.Command {
	return c.numberResolveCommand(api.NumberVoid, "void CIRCLE --item ID | --number N --reason TEXT", "say that a number is not used, and why",
		"Says that the item's number is not used. It is never given again; the report says who voided it, when and why. That cannot be taken back.\n"+
			"Where nobody knows any more what has a number, since the device that asked for it is gone, it is named by itself.",
		`  chartmesh number void invoices --item Invoice/2026-0412 --reason "entered twice"
  chartmesh number void invoices --number 412 --reason "asked for by a device that was stolen"`)
}

func (c *cli) numberResolveCommand(state, use, short, long, example string) *cobra.Command {
	req := api.ResolveRequest{State: state}
	cmd := &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			switch req.Circle = args[0]; {
			case (req.Item == "") == (req.Number == 0), req.Series != "" && req.Number == 0:
				return usage("say with --item what has the number, or with --number which one it is, and with --series whose where several have it")
			case state == api.NumberVoid && req.Reason == "":
				return usage("say with --reason why the number is void")
			}
			return c.running(func(agent *client.Client) error {
				n, err := agent.ResolveNumber(ctx, author, req)
				if err != nil {
					return err
				}
				return c.number(n)
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&req.Item, "item", "", "the `ID` that it was assigned to")
	flags.Int64Var(&req.Number, "number", 0, "in place of that: the number `N`")
	flags.StringVar(&req.Series, "series", "", "the `SERIES` of the number, as the report says it, where several have it")
	flags.StringVar(&req.Reason, "reason", "", "why, for the report")
	return cmd
}

func (c *cli) numberListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the circles of numbers",
		Example: `  chartmesh number list
  chartmesh number list --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.running(func(agent *client.Client) error {
				list, err := agent.Circles(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(list)
					return p.failed
				}
				if len(list) == 0 {
					p.remark("there is no circle; an administrator begins one with: chartmesh number open NAME")
				} else {
					p.circles(list)
				}
				return p.failed
			})
		}),
	}
}

// circles prints circles with their series.
func (p *printer) circles(list []api.Circle) {
	var rows [][]string
	for _, circle := range list {
		name := circle.Name
		if name == "" {
			name = "(" + circle.ID + ")"
		}
		for _, s := range circle.Series {
			next := strconv.FormatInt(s.First+int64(s.Given), 10)
			if s.Closed != "" || s.First+int64(s.Given) > s.Last {
				next = "none"
			}
			rows = append(rows, []string{name, s.ID, strconv.FormatInt(s.First, 10), next, count(s.Given), count(s.Used), count(s.Void), count(s.Reserved), s.Closed})
		}
	}
	p.table([]string{"CIRCLE", "SERIES", "FIRST", "NEXT", "GIVEN", "USED", "VOID", "OPEN", ""}, rows)
}

func (c *cli) numberReportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "report CIRCLE",
		Short: "explain every number of a circle",
		Long: `Lists every number that a circle gave, from the first on without a gap: what it was given to and what became of it, who said so, when and
why. For the tax office.`,
		Example: `  chartmesh number report invoices
  chartmesh number report invoices --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				report, err := agent.Numbers(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(report)
					return p.failed
				}
				p.circles([]api.Circle{report.Circle})
				var rows [][]string
				for _, n := range report.Numbers {
					row := []string{strconv.FormatInt(n.Number, 10), n.Series, n.State, n.Item, "", n.User, "", n.Reason}
					if n.Item == "" {
						row[3] = "(" + n.ItemID + ")"
					}
					if n.Device != nil {
						row[4] = party(*n.Device)
					}
					if n.Time != nil {
						row[6] = when(*n.Time)
					}
					rows = append(rows, row)
				}
				if len(rows) > 0 {
					p.line("")
					p.table([]string{"NUMBER", "SERIES", "STATE", "ITEM", "ASKED FOR BY", "SAID BY", "WHEN", "REASON"}, rows)
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) numberOpenCommand() *cobra.Command {
	req := api.CircleRequest{}
	cmd := &cobra.Command{
		Use:   "open CIRCLE",
		Short: "begin a circle of numbers, or its next series",
		Long: `Begins a circle of numbers, or its next series after it was closed. A number is told from the same one of another series by its series,
which the report shows. Only an administrator's device may.`,
		Example: `  chartmesh number open invoices
  chartmesh number open invoices-2027 --first 20270001`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			if req.First < 0 || req.Last != 0 && req.Last < req.First {
				return usage("numbers go from --first up to --last")
			}
			req.Name = args[0]
			return c.circle(func(agent *client.Client) (api.Circle, error) { return agent.OpenCircle(ctx, req) })
		}),
	}
	flags := cmd.Flags()
	flags.Int64Var(&req.First, "first", 1, "the first `NUMBER`")
	flags.Int64Var(&req.Last, "last", 0, "the last `NUMBER` (default: there is none)")
	return cmd
}

func (c *cli) numberCloseCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "close CIRCLE",
		Short:   "end a circle's series: it gives no number any more",
		Example: "  chartmesh number close invoices-2026",
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.circle(func(agent *client.Client) (api.Circle, error) { return agent.CloseCircle(ctx, args[0]) })
		}),
	}
}

func (c *cli) circle(change func(*client.Client) (api.Circle, error)) error {
	return c.running(func(agent *client.Client) error {
		circle, err := change(agent)
		if err != nil {
			return err
		}
		p := c.printer()
		if c.json {
			p.json(circle)
		} else {
			p.circles([]api.Circle{circle})
		}
		return p.failed
	})
}
