package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) conflictCommand() *cobra.Command {
	return family("conflict", "fields that several people changed at the same time", c.conflictListCommand(),
		c.conflictShowCommand(), c.conflictResolveCommand())
}

// choice is a value with the number by which it is chosen.
type choice struct {
	Choose int `json:"choose"`
	api.ConflictValue
	Shown bool `json:"shown,omitempty"` // what reads show until somebody decides
}

// conflictView is a conflict as it is printed.
type conflictView struct {
	ID       string   `json:"id"`
	Resource string   `json:"resource"`
	Path     string   `json:"path"`
	Values   []choice `json:"values"`
	Shown    int      `json:"shown"` // index in values
}

func view(c api.Conflict) conflictView {
	o := conflictView{ID: c.ID, Resource: c.Resource, Path: c.Path, Values: []choice{}, Shown: c.Shown}
	for i, v := range c.Values {
		o.Values = append(o.Values, choice{Choose: i + 1, ConflictValue: v, Shown: i == c.Shown})
	}
	return o
}

func (c *cli) conflictListCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "list the conflicts that are open",
		Example: `  chartmesh conflict list
  chartmesh conflict list --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				conflicts, err := agent.Conflicts(ctx)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					list := []conflictView{}
					for _, conflict := range conflicts {
						list = append(list, view(conflict))
					}
					p.json(list)
					return p.failed
				}
				if len(conflicts) == 0 {
					p.remark("no conflicts")
				}
				for i, conflict := range conflicts {
					if i > 0 {
						p.line("")
					}
					p.conflict(view(conflict), 60)
				}
				if len(conflicts) > 0 {
					p.hint("to decide: chartmesh conflict resolve ID --choose N")
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) conflictShowCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "show ID",
		Short:   "show one conflict with its values in full",
		Long:    "Shows one conflict. The beginning of its id is enough where it is the only one that begins so.",
		Example: "  chartmesh conflict show 3fa9c1",
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				conflict, err := agent.Conflict(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(view(conflict))
				} else {
					p.conflict(view(conflict), 0)
					p.hint("to decide: chartmesh conflict resolve " + conflict.ID + " --choose N")
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) conflictResolveCommand() *cobra.Command {
	var chosen int
	var value string
	cmd := &cobra.Command{
		Use:   "resolve ID --choose N | --value JSON|-",
		Short: "decide a conflict",
		Long: `Decides a conflict, on all devices: for one of its values, by the number that "conflict list" and "conflict show" print
before it (counted from 1), or for a value of your own, as JSON. "--value -" reads it from stdin, where other users of this
machine cannot see it. The values that were not chosen stay in the history.`,
		Example: `  chartmesh conflict resolve 3fa9c1 --choose 2
  chartmesh conflict resolve 3fa9c1 --value '"1970-01-10"'`,
		Args: cobra.ExactArgs(1),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		flags := cmd.Flags()
		return c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			if flags.Changed("choose") == flags.Changed("value") {
				return usage("decide with either --choose N or --value JSON")
			}
			var decision api.Decision
			if flags.Changed("value") {
				if decision.Value, err = c.readValue(value); err != nil {
					return err
				}
			} else if chosen < 1 {
				return usage("--choose counts from 1")
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				conflict, err := agent.Conflict(ctx, args[0])
				if err != nil {
					return err
				}
				p := c.printer()
				if decision.Value == nil {
					if chosen > len(conflict.Values) {
						return usage("the conflict has %s", plural(len(conflict.Values), "value"))
					}
					index := chosen - 1
					decision.Choose = &index
					v := conflict.Values[index]
					p.remark("chose %d: %s, by %s", chosen, visible(shorten(show(v), 60)), visible(v.Author))
				}
				written, err := agent.Resolve(ctx, author, conflict.ID, decision)
				if err != nil {
					return err
				}
				return p.written(written, c.json)
			})
		})(cmd, args)
	}
	flags := cmd.Flags()
	flags.IntVar(&chosen, "choose", 0, "for the value with this `NUMBER`")
	flags.StringVar(&value, "value", "", `for this value, as JSON ("-": from stdin)`)
	return cmd
}

// readValue returns the JSON given as a flag or, for "-", on stdin.
func (c *cli) readValue(value string) (json.RawMessage, error) {
	data := []byte(value)
	if value == "-" {
		var err error
		if data, err = io.ReadAll(io.LimitReader(c.in, api.MaxResource+1)); err != nil {
			return nil, fmt.Errorf("read the value: %w", err)
		}
	}
	data = bytes.TrimSpace(data)
	if len(data) > api.MaxResource || !json.Valid(data) {
		return nil, usage(`the value is not JSON; a text needs its quotes: --value '"text"'`)
	}
	return data, nil
}

// show writes a conflict's value as one line of JSON.
func show(v api.ConflictValue) string {
	if v.Removed {
		return "(removed)"
	}
	var buf bytes.Buffer
	if err := json.Compact(&buf, v.Value); err != nil {
		return "(not JSON)"
	}
	return buf.String()
}

// conflict prints a conflict; values are cut to width characters, unless it is 0.
func (p *printer) conflict(c conflictView, width int) {
	path := c.Path
	if path == "" {
		path = "(the whole resource)"
	}
	p.line("%s  %s  %s", visible(c.ID), visible(c.Resource), visible(path))
	for _, v := range c.Values {
		text := show(v.ConflictValue)
		if width > 0 {
			text = shorten(text, width)
		}
		mark := ""
		if v.Shown {
			mark = ", shown until it is decided"
		}
		p.line("  %d  %s", v.Choose, visible(text))
		p.line("     %s", visible(fmt.Sprintf("%s, %s at %s, %s%s", v.Author, v.Device, v.Site, when(v.Time), mark)))
	}
}
