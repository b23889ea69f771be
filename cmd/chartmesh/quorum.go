package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) quorumCommand() *cobra.Command {
	return family("quorum", "who keeps leases and numbers", c.quorumStatusCommand(), c.quorumAddCommand(), c.quorumRemoveCommand(), c.quorumReseedCommand())
}

func (c *cli) quorumStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "say who the voters are, and how things stand with them",
		Long: `Says which devices keep leases and numbers (the voters), which of them can be reached, which gives nothing any more, and which one leads.
Leases and numbers need a majority of them; everything else goes on without. It says too what nobody can notice: where all that knows of
a number is put back from copies, of one voter or of all, that number can be given twice.`,
		Example: `  chartmesh quorum status
  chartmesh quorum status --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.running(func(agent *client.Client) error {
				s, err := agent.Quorum(ctx)
				if err != nil {
					return err
				}
				return c.quorumStatus(s)
			})
		}),
	}
}

func (c *cli) quorumStatus(s api.QuorumStatus) error {
	p := c.printer()
	if c.json {
		p.json(s)
		return p.failed
	}
	p.line("%s", s.State)
	if s.Reason != "" {
		p.line("%s", visible(s.Reason))
	}
	var rows [][]string
	for _, v := range s.Voters {
		row := []string{party(v.Party), "not reachable", "", ""}
		if v.Reachable {
			row[1] = "reachable"
		}
		if v.Self {
			row[1] = "this device"
		}
		if v.Out != "" {
			row[1] += ": " + v.Out
		}
		if v.Removed {
			row[1] = "removed from the practice"
		}
		if v.Leads {
			row[2] = "leads"
		}
		if v.Anchor {
			row[3] = "anchor"
		}
		rows = append(rows, row)
	}
	if len(rows) > 0 {
		p.table([]string{"VOTER", "", "", ""}, rows)
	}
	if s.Founded != nil {
		p.remark("founded anew by %s on %s, as epoch %d", visible(party(s.Founded.By)), s.Founded.Time.Local().Format(time.DateTime), s.Founded.Epoch)
	}
	if s.Notice != "" {
		p.remark("%s", visible(s.Notice))
	}
	if s.State != api.QuorumOK {
		p.remark("leases and numbers wait; reading and writing records goes on")
	}
	if s.Next != "" {
		p.remark("%s", visible(s.Next))
	}
	if s.Risk != "" {
		p.remark("%s", visible(s.Risk))
	}
	return p.failed
}

func (c *cli) quorumAddCommand() *cobra.Command {
	return c.quorumChangeCommand("add NAME…", "have an anchor, or more devices, keep leases and numbers",
		`Has other devices vote: an anchor alone in the place of the one that did, an anchor and two devices, or two more devices.
One voter alone keeps leases and numbers while it is reached: an anchor is always on. With three they go on when one of the
three is gone; take devices that always run, at several sites. An anchor that votes leads once it has been well for half a
minute. It knows no names: what it keeps are keyed hashes.
All that are to vote must be running now. Where one is not ready the voters of before go on: give the command again. Only an
administrator's device may.`,
		`  chartmesh quorum add Anker                           the anchor alone
  chartmesh quorum add Anker Server-Nord Server-Sued   the anchor and two devices
  chartmesh quorum add Server-Nord Server-Sued         two devices beside the one that votes`,
		func(names []string) api.QuorumChange { return api.QuorumChange{Add: names} })
}

func (c *cli) quorumRemoveCommand() *cobra.Command {
	return c.quorumChangeCommand("remove NAME…", "have two of three devices, or the one, keep leases and numbers no more",
		`Has two of three devices vote no more, so that one is left. Two of the three must be running now. Of an anchor or a device that votes
alone this device takes the place. Only an administrator's device may.`,
		`  chartmesh quorum remove Server-Nord Server-Sued
  chartmesh quorum remove Anker                        this device votes in the anchor's place`,
		func(names []string) api.QuorumChange { return api.QuorumChange{Remove: names} })
}

func (c *cli) quorumChangeCommand(use, short, long, example string, change func([]string) api.QuorumChange) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Long: long, Example: example, Args: cobra.MinimumNArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.running(func(agent *client.Client) error {
				s, err := agent.ChangeQuorum(ctx, change(args))
				if err != nil {
					return err
				}
				return c.quorumStatus(s)
			})
		}),
	}
}
