package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
)

func (c *cli) eventsCommand() *cobra.Command {
	var since uint64
	var follow bool
	cmd := &cobra.Command{
		Use:   "events",
		Short: "print what happened, with cursors to go on from",
		Long: `Prints what happened after a cursor, oldest first, and with --follow goes on with what happens from now, until it is
interrupted. With --json it is one object a line. Events name resources and never hold them. A cursor that is no longer
held ends with exit code 12: read everything again, and go on from the newest cursor.`,
		Example: `  chartmesh events --since 0
  chartmesh events --since 1042 --follow --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			p := c.printer()
			each := func(e api.Event) error {
				if c.json {
					p.jsonLine(e)
				} else {
					p.line("%s", visible(strings.TrimRight(fmt.Sprintf("%8d  %s  %-20s %s", e.Cursor, when(e.Time), e.Kind,
						strings.Join(nonEmpty(e.Resource, e.Version, e.Conflict, e.Peer), "  ")), " ")))
				}
				return p.failed
			}
			visit := func(agent api.Agent) error {
				err := agent.Events(ctx, since, follow, each)
				if follow && ctx.Err() != nil && p.failed == nil {
					return nil // being interrupted is how following ends
				}
				return err
			}
			if follow {
				return c.running(func(agent *client.Client) error { return visit(agent) })
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error { return visit(agent) })
		}),
	}
	flags := cmd.Flags()
	flags.Uint64Var(&since, "since", 0, "after this `CURSOR`; 0: from the oldest that is held")
	flags.BoolVarP(&follow, "follow", "f", false, "go on with new events (needs a running agent)")
	return cmd
}

func nonEmpty(values ...string) []string {
	var kept []string
	for _, v := range values {
		if v != "" {
			kept = append(kept, v)
		}
	}
	return kept
}
