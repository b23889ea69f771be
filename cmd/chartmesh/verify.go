package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

// progressEvery is how often a line of progress is printed where there is no terminal to overwrite one.
const progressEvery = 5 * time.Second

func (c *cli) verifyCommand() *cobra.Command {
	var opts api.VerifyOptions
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "check everything that this device stores",
		Long: `Checks every chunk (that it reads, its hash, its author's signature, its place in its log), rebuilds every document from its
chunks and compares it with what is shown, and checks indexes, counts and caches. It names what is damaged by opaque IDs. It
takes a while, and reading and writing go on meanwhile.

With --repair, what follows from the chunks is made anew, and damaged chunks are asked for again from the other devices;
"chartmesh status" says how many have come. A store that does not open at all is repaired by "chartmesh agent" when it
starts.

The exit code is 0 when nothing is damaged, or nothing is any more after --repair, and 10 when something is.`,
		Example: `  chartmesh verify
  chartmesh verify --repair
  chartmesh verify --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			show := c.showProgress()
			var report api.VerifyReport
			err := c.with(ctx, func(agent api.Agent, _ bool) (err error) {
				report, err = agent.Verify(ctx, opts, show.tell)
				return err
			})
			show.end()
			if err != nil {
				return err
			}
			p := c.printer()
			if c.json {
				p.json(report)
			} else {
				p.verified(report)
			}
			if p.failed != nil || report.Clean {
				return p.failed
			}
			return damaged(report, opts.Repair)
		}),
	}
	cmd.Flags().BoolVar(&opts.Repair, "repair", false, "make anew what can be, and ask the other devices for the rest")
	return cmd
}

// damaged is the error of a verification that leaves something damaged.
func damaged(r api.VerifyReport, repaired bool) error {
	e := &api.Error{Code: api.CodeDamaged, Message: plural(r.Found, "thing") + " of what this device stores is damaged",
		Hint: "run: chartmesh verify --repair"}
	if r.Found != 1 {
		e.Message = plural(r.Found, "thing") + " of what this device stores are damaged"
	}
	if repaired {
		e.Message += " still"
		e.Hint = "stop the agent, rename the folder \"records\", and start it again: it fills a new one from the other devices"
	}
	return e
}

// verified prints a report for a person.
func (p *printer) verified(r api.VerifyReport) {
	p.line("checked     %s in %s, %s in %s, and %s, in %s", plural(r.Chunks, "chunk"), plural(r.Logs, "log"),
		plural(r.Resources, "resource"), plural(r.Documents, "document"), plural(r.Values, "other value"), span(r.Took))
	switch {
	case r.Found == 0:
		p.line("damaged     nothing")
	case r.Clean:
		p.line("damaged     %s, now repaired", plural(r.Found, "thing"))
	default:
		p.line("damaged     %s", plural(r.Found, "thing"))
	}
	for _, f := range r.Findings {
		p.line("            %s", visible(strings.Join(nonEmpty(f.Kind, f.ID), " ")+": "+f.What))
	}
	if more := r.Found - uint64(len(r.Findings)); more > 0 {
		p.line("            and %s more", count(more))
	}
	if r.Wanted > 0 {
		p.line("wanted      %s, asked for from the other devices; see chartmesh status", plural(r.Wanted, "chunk"))
	}
	if r.Kept > 0 {
		p.line("kept        %s after those, not shown or passed on before they have come", plural(r.Kept, "chunk"))
	}
}

// progressShown prints how far something long is.
type progressShown struct {
	p        *printer
	terminal bool
	start    time.Time // of the stage
	last     time.Time
	stage    string
	open     bool // a line without its end stands on the terminal
}

func (c *cli) showProgress() *progressShown {
	now := time.Now()
	return &progressShown{p: c.printer(), terminal: terminal(c.err), start: now, last: now}
}

func (s *progressShown) tell(v api.VerifyProgress) {
	now := time.Now()
	if v.Stage != s.stage {
		s.stage, s.start = v.Stage, now
	}
	if !s.terminal && now.Sub(s.last) < progressEvery {
		return
	}
	s.last = now
	line := fmt.Sprintf("%s: %s", v.Stage, count(v.Done))
	passed := now.Sub(s.start)
	if v.Of > 0 {
		line += " of " + count(v.Of)
	}
	if passed > time.Second && v.Done > 0 {
		rate := float64(v.Done) / passed.Seconds()
		line += fmt.Sprintf(", %s/s", count(int(rate)))
		if v.Of > v.Done {
			line += ", " + span(time.Duration(float64(v.Of-v.Done)/rate*float64(time.Second))) + " left"
		}
	}
	if s.terminal {
		_, _ = fmt.Fprintf(s.p.err, "\r%-70s", line)
		s.open = true
		return
	}
	s.p.remark("%s", line)
}

func (s *progressShown) end() {
	if s.open {
		s.p.remark("")
	}
}
