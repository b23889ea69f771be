package main

import (
	"context"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) compactCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "pack long histories now",
		Long: `Packs the histories of documents that were changed often, which the agent does by itself once nobody has touched a document
for a while. Nothing of a history is lost: the changes are kept in one piece, compressed together, instead of one by one.
What was packed is deleted when every device of the practice has compared it and found it good: by this command at once, by
the agent itself a week later. A document with changes of a log that was written twice, by a copy or after a roll-back, is not
packed: its chunks stay, and the number of such documents is told.`,
		Example: `  chartmesh compact
  chartmesh compact --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				done, err := agent.Compact(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(done)
				} else {
					p.compaction(done)
				}
				return p.failed
			})
		}),
	}
}

// compaction prints what a compaction did.
func (p *printer) compaction(c api.Compaction) {
	p.line("packed      %s", plural(c.Checkpoints, "document"))
	p.line("compared    %s of other devices", plural(c.Words, "checkpoint"))
	p.line("deleted     %s", plural(c.Deleted, "chunk"))
	if c.Waiting > 0 {
		p.line("waiting     %s for the word of every device", plural(c.Waiting, "checkpoint"))
	}
	if c.Contested > 0 {
		p.line("not packed  %s with changes of a device that was copied or rolled back", plural(c.Contested, "document"))
	}
	p.line("stored      %s, %s", plural(c.Chunks, "chunk"), size(uint64(c.Bytes)))
}
