package main

import (
	"context"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) quorumCommand() *cobra.Command {
	return family("quorum", "who keeps leases and numbers", c.quorumStatusCommand())
}

func (c *cli) quorumStatusCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "say who the voters are, and how things stand with them",
		Long: `Says which devices keep leases and numbers (the voters), which of them can be reached, and which one leads. Leases and numbers need a
majority of them; everything else goes on without.`,
		Example: `  chartmesh quorum status
  chartmesh quorum status --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.running(func(agent *client.Client) error {
				s, err := agent.Quorum(ctx)
				if err != nil {
					return err
				}
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
					row := []string{party(v.Party), "not reachable", ""}
					if v.Reachable {
						row[1] = "reachable"
					}
					if v.Self {
						row[1] = "this device"
					}
					if v.Leads {
						row[2] = "leads"
					}
					rows = append(rows, row)
				}
				if len(rows) > 0 {
					p.table([]string{"VOTER", "", ""}, rows)
				}
				if s.State != api.QuorumOK {
					p.remark("leases and numbers wait; reading and writing records goes on")
				}
				if s.Risk != "" {
					p.remark("%s", visible(s.Risk))
				}
				return p.failed
			})
		}),
	}
}
