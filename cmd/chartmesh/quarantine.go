package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) quarantineCommand() *cobra.Command {
	return family("quarantine", "changes that are stored and not applied, and what becomes of them", c.quarantineListCommand(),
		c.quarantineShowCommand(), c.quarantineDecideCommand("release"), c.quarantineDecideCommand("discard"), c.quarantineRetryCommand())
}

func (c *cli) quarantineListCommand() *cobra.Command {
	query := api.HeldQuery{}
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the changes that are held back",
		Long: `Lists the chunks that are stored here and not part of the records:

  parked       something is missing that is likely to arrive: a key, an earlier change, a newer version of this program
  quarantined  it breaks a rule, on every device alike; somebody decides what becomes of it
  unapplied    this machine failed on it; it is tried again after a restart, an update, or by "quarantine retry"
  discarded    somebody decided to leave it aside; only listed with --all or --state discarded

Nothing of it is lost: it stays stored and is passed on to the other devices.`,
		Example: `  chartmesh quarantine list
  chartmesh quarantine list --state quarantined --json
  chartmesh quarantine list --all --limit 1000`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				page, err := agent.Held(ctx, query)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(page)
				} else {
					p.held(page)
				}
				return p.failed
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&query.State, "state", "", "only `parked`, quarantined, unapplied or discarded")
	flags.BoolVar(&query.Discarded, "all", false, "discarded ones too")
	flags.IntVar(&query.Limit, "limit", 100, "at most so many, up to 1,000")
	flags.StringVar(&query.After, "after", "", "the next page: from the `CURSOR` that the one before ended with")
	return cmd
}

// held prints a page of held chunks.
func (p *printer) held(page api.HeldPage) {
	if len(page.Chunks) == 0 {
		p.remark("nothing is held back")
		return
	}
	var rows [][]string
	for _, h := range page.Chunks {
		since := ""
		if h.Since != nil {
			since = when(*h.Since)
		}
		from := h.Device
		if h.Site != "" {
			from += " at " + h.Site
		}
		rows = append(rows, []string{h.Chunk, h.State, from, since, strings.Join(h.Resources, " "), waits(h), h.Reason})
	}
	p.table([]string{"CHUNK", "STATE", "FROM", "SINCE", "ABOUT", "WAITING", "REASON"}, rows)
	if page.Total > len(page.Chunks) {
		p.remark("%s of %s", count(len(page.Chunks)), plural(page.Total, "chunk"))
	}
	if page.Next != "" {
		p.hint("the next page: --after " + page.Next)
	}
	p.hint("to look at one: chartmesh quarantine show CHUNK")
}

// waits says how many wait for a held chunk.
func waits(h api.Held) string {
	if len(h.Waiting) == 0 {
		return ""
	}
	return count(len(h.Waiting)) + " for it"
}

func (c *cli) quarantineShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "show CHUNK",
		Short: "show one of them, with what can be read of it",
		Long: `Shows a chunk that is held back: why, what waits for it, what it waits for, what was decided about it, and the values
that it would write as far as they can be read. The beginning of its id is enough where it is the only one that begins so.`,
		Example: `  chartmesh quarantine show 3fa9c1
  chartmesh quarantine show 3fa9c1 --json`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				h, err := agent.HeldChunk(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(h)
				} else {
					p.heldChunk(h)
				}
				return p.failed
			})
		}),
	}
}

// heldChunk prints one held chunk in full.
func (p *printer) heldChunk(h api.HeldDetail) {
	row := func(label, format string, args ...any) {
		p.line("%-11s %s", label, visible(fmt.Sprintf(format, args...)))
	}
	row("chunk", "%s", h.ID)
	row("state", "%s: %s", h.State, h.Reason)
	from := h.Device
	if h.Site != "" {
		from += " at " + h.Site
	}
	row("from", "%s, chunk %s of log %s, %s, %s", from, count(h.Counter), h.Log, h.Kind, size(uint64(max(h.Bytes, 0))))
	if h.Written != nil {
		row("written", "%s by its author's clock", when(*h.Written))
	}
	if h.Since != nil {
		row("held since", "%s", when(*h.Since))
	}
	if h.Document != "" {
		row("document", "%s in %s", h.Document, h.Scope)
	}
	if len(h.Resources) > 0 {
		row("about", "%s", strings.Join(h.Resources, " "))
	}
	if n := h.WaitsFor; n != nil {
		text := strings.TrimSpace(n.Kind + " " + n.ID)
		if n.Chunk != "" {
			text += ", which chunk " + n.Chunk + " brings, held back too"
		}
		row("waits for", "%s", text)
	}
	if len(h.Waiting) > 0 {
		row("waiting", "%s", strings.Join(h.Waiting, " "))
	}
	if h.Tries > 0 {
		next := "at the next start"
		if h.NextTry != nil {
			next = "at a start after " + when(*h.NextTry)
		}
		row("tried", "%s, again %s", plural(h.Tries, "time"), next)
	}
	for _, d := range h.Decisions {
		text := fmt.Sprintf("%s by %s, %s, %s", d.Verdict, d.User, d.Device, when(d.Time))
		if d.Reason != "" {
			text += ": " + d.Reason
		}
		if d.Replaced {
			text += " (replaced)"
		}
		row("decision", "%s", text)
	}
	p.heldContent(h)
	switch {
	case h.State == "unapplied":
		p.hint("to try again: chartmesh quarantine retry " + h.Chunk)
	case h.Releasable:
		p.hint("to decide: chartmesh quarantine release " + h.Chunk + ", or discard")
	case h.State == "quarantined":
		p.hint("a release cannot help; to leave it aside: chartmesh quarantine discard " + h.Chunk)
	}
}

func (p *printer) heldContent(h api.HeldDetail) {
	p.line("")
	if h.Content == nil {
		p.line("content     %s", visible(h.Hidden))
		return
	}
	if h.Content.Decides != "" {
		p.line("content     %s", visible(fmt.Sprintf("%s of chunk %s by %s", h.Content.Origin, h.Content.Decides, h.Content.Author)))
		return
	}
	p.line("content     %s", visible(fmt.Sprintf("%s by %s", h.Content.Origin, h.Content.Author)))
	for _, ch := range h.Content.Changes {
		if ch.Malformed != "" {
			p.line("  change of %s that cannot be read: %s", size(uint64(max(ch.Bytes, 0))), visible(ch.Malformed))
			continue
		}
		p.line("  change %s, %s", visible(ch.Hash), plural(ch.Operations, "operation"))
		for _, v := range ch.Values {
			text := string(v.Value)
			if v.Removed {
				text = "(removed)"
			}
			p.line("    %s  %s", visible(v.Path), visible(text))
		}
	}
	if h.Content.Cut {
		p.line("  … and more")
	}
}

func (c *cli) quarantineDecideCommand(verdict string) *cobra.Command {
	var why string
	cmd := &cobra.Command{Use: verdict + " CHUNK", Args: cobra.ExactArgs(1)}
	if verdict == "release" {
		cmd.Short = "let one of them into the records after all"
		cmd.Long = `Decides, on all devices, that a chunk is to be applied although a rule about its author or its log keeps it out. What is
malformed can never be applied, and what waits is applied when what it waits for arrives: then the answer says why a release
cannot help. Of a chunk that this machine failed on, it tries again. Of two changes that one device wrote in one place the
other stands already: this device writes anew what is in the chunk, and where the two differ that is a conflict. The author's
device does so by itself when it learns of it; release it if that device does not come back. If others decided to discard a
chunk meanwhile, the release wins.`
		cmd.Example = `  chartmesh quarantine release 3fa9c1 --reason "Labor's laptop was restored from a copy"`
	} else {
		cmd.Short = "leave one of them aside"
		cmd.Long = `Decides, on all devices, that a chunk is to be left aside, and with it those that wait for it. It stays stored, and is no
longer listed as waiting for a decision. Nothing that is applied is taken out, and what is parked is applied if what it waits
for arrives after all. A later release takes the decision back where it can help.`
		cmd.Example = `  chartmesh quarantine discard 3fa9c1 --reason "written anew by hand"`
	}
	cmd.RunE = c.do(func(ctx context.Context, args []string) error {
		author, err := c.author()
		if err != nil {
			return err
		}
		return c.with(ctx, func(agent api.Agent, _ bool) error {
			out, err := agent.DecideHeld(ctx, author, args[0], api.HeldDecision{Verdict: verdict, Reason: why})
			if err != nil {
				return err
			}
			p := c.printer()
			if c.json {
				p.json(out)
				return p.failed
			}
			text := out.State
			if out.Reason != "" {
				text += ": " + out.Reason
			}
			p.line("%s", visible(out.Chunk+" "+text))
			if out.With > 0 {
				p.remark("and %s that waited for it", plural(out.With, "chunk"))
			}
			return p.failed
		})
	})
	cmd.Flags().StringVar(&why, "reason", "", "why, for the others; sealed into the decision")
	return cmd
}

func (c *cli) quarantineRetryCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "retry [CHUNK]",
		Short: "try again what this machine failed on",
		Long: `Tries again, now, to apply what this machine failed on: one chunk, or all that are unapplied. It is tried by itself at the
next starts of the agent, then ever more rarely, and at once after an update.`,
		Example: `  chartmesh quarantine retry
  chartmesh quarantine retry 3fa9c1`,
		Args: cobra.MaximumNArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				out, err := agent.RetryHeld(ctx, strings.Join(args, ""))
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(out)
				} else {
					p.line("%s tried, %s applied", plural(out.Tried, "chunk"), count(out.Applied))
				}
				return p.failed
			})
		}),
	}
}
