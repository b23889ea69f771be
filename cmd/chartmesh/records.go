package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/cmd/chartmesh/wholefile"
)

func (c *cli) findCommand() *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "find [TEXT|-]",
		Short: "find people and organisations by name, birth date or identifier",
		Long: `Finds what has all the words of TEXT, or their beginnings, in a name, birth date or identifier. Accents and capitals do
not matter.

Without TEXT, or with "-", it is read from stdin. Where others use this machine too, that is the better way: a command line
can be seen by them, and stays in the shell's history.`,
		Example: `  chartmesh find müller 1970
  chartmesh find --json < text`,
		RunE: c.do(func(ctx context.Context, args []string) (err error) {
			text := strings.Join(args, " ")
			if text == "" && len(args) == 0 || text == "-" {
				if text, err = c.readLine("text", api.MaxText+2); err != nil {
					return err
				}
			}
			if strings.TrimSpace(text) == "" || len(text) > api.MaxText {
				return usage("there is nothing to find, or too much")
			}
			if limit < 1 || limit > api.MaxMatches {
				return usage("--limit is 1 to %d", api.MaxMatches)
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				matches, err := agent.Find(ctx, text, limit)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(orEmpty(matches))
					return p.failed
				}
				if len(matches) == 0 {
					p.remark("nothing found")
					return p.failed
				}
				var rows [][]string
				for _, m := range matches {
					rows = append(rows, []string{m.Ref, shorten(m.Name, 40), m.BirthDate, shorten(strings.Join(m.Identifier, ", "), 60)})
				}
				p.table([]string{"RESOURCE", "NAME", "BIRTH DATE", "IDENTIFIER"}, rows)
				if len(matches) == limit {
					p.remark("There may be more: use more words, or --limit.")
				}
				return p.failed
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "at most so many results")
	return cmd
}

func (c *cli) getCommand() *cobra.Command {
	var asOf string
	cmd := &cobra.Command{
		Use:   "get TYPE/ID",
		Short: "print a resource",
		Long: `Prints a resource as FHIR JSON. meta.versionId names the version that was read: keep it in the file, so that "put" knows
what the edit was based on. With --json it is one line in canonical form.`,
		Example: `  chartmesh get Patient/p1 > p1.json
  chartmesh get Patient/p1 --version 9f8e7d6c5b4a3210`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				res, err := agent.Get(ctx, ref, asOf)
				if err != nil {
					return err
				}
				p := c.printer()
				switch {
				case res.JSON == nil:
					return &api.Error{Code: api.CodeDeleted, Message: ref.String() + " was deleted by that version",
						Hint: "earlier ones: chartmesh history " + ref.String()}
				case c.json:
					p.write(append(append([]byte(nil), res.JSON...), '\n'))
				default:
					text, err := prettyJSON(res.JSON)
					if err != nil {
						return err
					}
					p.line("%s", text)
				}
				if res.Deleted {
					p.remark("%s was deleted by that version", ref)
				}
				if res.Newer != "" {
					p.remark("%s was changed at %s by a newer version of chartmesh: it is shown as it was before, and cannot be edited here", ref, visible(res.Newer))
					p.hint("update chartmesh on this device")
				}
				if res.Conflicts > 0 {
					p.hint(plural(res.Conflicts, "conflict") + " of this resource to decide: chartmesh conflict list")
				}
				return p.failed
			})
		}),
	}
	cmd.Flags().StringVar(&asOf, "version", "", "as of that `VERSION`")
	return cmd
}

func (c *cli) putCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "put FILE|-",
		Short: "write a resource",
		Long: `Writes the resource in FILE (FHIR JSON; "-" is stdin) and prints its new version.

What differs from the version that the file names in meta.versionId is what was edited, and only that is written: what
others wrote since stays, and where both changed the same field, it becomes a conflict. A file that names no version is
taken for a new resource; if there is one of that name already, --force takes the difference against it as it is now.`,
		Example: `  chartmesh put p1.json
  chartmesh get Patient/p1 | sed 's/1970-01-01/1970-01-10/' | chartmesh put -`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			data, err := c.readResource(args[0])
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				written, err := agent.Put(ctx, author, data, force)
				if err != nil {
					return err
				}
				return c.printer().written(written, c.json)
			})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "write over what is there, if the file names no version")
	return cmd
}

// readResource reads a file, or stdin for "-", up to the cap of a resource.
func (c *cli) readResource(name string) ([]byte, error) {
	in := c.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err // it says "open NAME: why"
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, api.MaxResource+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the resource: %w", err)
	case len(data) > api.MaxResource:
		return nil, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("%s is larger than a resource may be (%d bytes)", name, api.MaxResource)}
	case len(strings.TrimSpace(string(data))) == 0:
		return nil, &api.Error{Code: api.CodeInvalid, Message: name + " is empty"}
	}
	return data, nil
}

func (c *cli) deleteCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "delete TYPE/ID",
		Short: "delete a resource",
		Long: `Deletes a resource, on all devices. Its history stays, and an edit that somebody makes elsewhere at the same time is not
lost: it becomes a conflict.`,
		Example: "  chartmesh delete Observation/o17",
		Args:    cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			author, err := c.author()
			if err != nil {
				return err
			}
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				written, err := agent.Delete(ctx, author, ref)
				if err != nil {
					return err
				}
				return c.printer().written(written, c.json)
			})
		}),
	}
}

func (c *cli) historyCommand() *cobra.Command {
	var full bool
	cmd := &cobra.Command{
		Use:   "history TYPE/ID",
		Short: "show who changed a resource, and when",
		Long: `Shows every change of a resource, oldest first, and where it is stored, by what other devices have confirmed: here only,
at the anchor (which cannot read it), or at so many other devices. With --json stored_at and readable_at name them.`,
		Example: `  chartmesh history Patient/p1
  chartmesh history Patient/p1 --json --full`,
		Args: cobra.ExactArgs(1),
		RunE: c.do(func(ctx context.Context, args []string) error {
			if full && !c.json {
				return usage("--full goes with --json; for people there is chartmesh get --version")
			}
			ref, err := api.ParseRef(args[0])
			if err != nil {
				return err
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				revisions, err := agent.History(ctx, ref)
				if err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					for i := range revisions {
						if !full {
							revisions[i].JSON, revisions[i].Omitted = nil, false
						}
					}
					p.json(orEmpty(revisions))
					return p.failed
				}
				var rows [][]string
				for _, r := range revisions {
					rows = append(rows, []string{when(r.Time), r.Author, r.Device, r.Site, change(r), r.Version, storedAt(r.Stored)})
				}
				p.table([]string{"TIME", "AUTHOR", "DEVICE", "SITE", "CHANGE", "VERSION", "STORED"}, rows)
				return p.failed
			})
		}),
	}
	cmd.Flags().BoolVar(&full, "full", false, "with the resource as of each change (with --json); of more than 32 MB, only the newest")
	return cmd
}

// change says how a revision came about.
func change(r api.Revision) string {
	if r.Anew != "" {
		return r.Origin + ", written anew"
	}
	return r.Origin
}

// storedAt says where a change is stored beside this device.
func storedAt(s api.Stored) string {
	switch s.Where {
	case api.StoredAnchor:
		return "at the anchor"
	case api.StoredDevices:
		if len(s.StoredAt) > s.Devices {
			return "at " + plural(s.Devices, "device") + " and the anchor"
		}
		return "at " + plural(s.Devices, "device")
	}
	return "here only"
}

func (c *cli) exportCommand() *cobra.Command {
	var opts api.ExportOptions
	var output string
	cmd := &cobra.Command{
		Use:   "export",
		Short: "write all records, or one patient's, as FHIR JSON",
		Long: `Writes resources sorted by type and id, in canonical form, with the digits of their numbers as they came. What the agent
adds (meta.versionId, meta.lastUpdated) is left out unless --meta is given, so that the exports of two devices in sync are
equal byte for byte.

What is written is not encrypted.`,
		Example: `  chartmesh export > all.ndjson
  chartmesh export --patient p1 --format bundle --output p1.json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			if opts.Format != "ndjson" && opts.Format != "bundle" {
				return usage("--format is ndjson or bundle")
			}
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				if output != "" && output != "-" {
					return exportFile(ctx, agent, output, opts)
				}
				w := bufio.NewWriterSize(c.out, 256<<10)
				if err := agent.Export(ctx, w, opts); err != nil {
					return errors.Join(fmt.Errorf("the export is incomplete: %w", err), w.Flush())
				}
				if err := w.Flush(); err != nil {
					return fmt.Errorf("write the export: %w", err)
				}
				return nil
			})
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.Patient, "patient", "", "only the chart of the patient with this `ID`")
	flags.StringVar(&opts.Format, "format", "ndjson", "ndjson (one resource a line) or bundle (one collection Bundle)")
	flags.BoolVar(&opts.Meta, "meta", false, "with the metadata that the agent sets")
	flags.StringVarP(&output, "output", "o", "", "write to `FILE`, which appears when it is complete")
	return cmd
}

// exportFile writes a file that has its name only once it is whole, and of which nothing is left otherwise: it is not encrypted.
func exportFile(ctx context.Context, agent api.Agent, name string, opts api.ExportOptions) error {
	f, err := wholefile.Create(name)
	if err != nil {
		return fmt.Errorf("begin the export: %w", err)
	}
	w := bufio.NewWriterSize(f, 256<<10)
	err = agent.Export(ctx, w, opts)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Commit()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("export to %s: %w", name, err), f.Discard())
	}
	return nil
}
