package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) anchorCommand() *cobra.Command {
	req := api.AnchorRequest{}
	add := &cobra.Command{
		Use:   "add ADDRESS…",
		Short: "add an anchor, as an administrator",
		Long: `Adds an anchor to the practice: a peer that is always on, keeps what every device writes and gives it to the others, and can read none
of it. ADDRESS is where it is, as "chartmesh-anchor run" prints it.

Whoever runs the anchor admits the practice by the token that this prints. The token is no secret: it names the practice and this device.`,
		Example: `  chartmesh anchor add /dns4/anchor.example.org/udp/4001/quic-v1/p2p/12D3KooW…
  chartmesh anchor add --name Frankfurt /ip4/203.0.113.7/tcp/4001/p2p/12D3KooW…
  chartmesh-anchor admit cma1-…      (where the anchor runs)`,
		Args: cobra.ArbitraryArgs,
		RunE: c.do(func(ctx context.Context, args []string) error {
			if req.Addresses = args; len(args) == 0 {
				return usage("name the anchor's address")
			}
			return c.with(ctx, func(agent api.Agent, running bool) error {
				a, err := agent.AddAnchor(ctx, req)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(a)
					return p.failed
				}
				if a.Again {
					p.remark("%s was added before; it stays as it is, at %s.", visible(a.Name), visible(strings.Join(a.Addresses, ", ")))
				} else {
					p.remark("Added %s. Where it runs, it admits the practice with:", visible(a.Name))
				}
				p.line("chartmesh-anchor admit %s", a.Token)
				if !running {
					p.hint("start the agent, so that the anchor hears of it: chartmesh agent")
				}
				return p.failed
			})
		}),
	}
	add.Flags().StringVar(&req.Name, "name", "anchor", "what the devices call it: a `NAME`")
	return family("anchor", "always-on peers that keep the sealed records", add)
}
