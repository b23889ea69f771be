package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) metricsCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "metrics",
		Short: "print figures for a monitoring system",
		Long: `Prints figures of the agent in the text form that Prometheus reads: records, conflicts, sessions, chunks, commits and their
time, memory, disk. docs/operations.md lists them. No label names a person, a place or a record; devices are named by
their peer IDs. Programs of the same user get the same from the data folder's socket, at /v1/metrics.`,
		Example: `  chartmesh metrics
  chartmesh metrics > /var/lib/node_exporter/chartmesh.prom
  curl --unix-socket ~/.local/share/chartmesh/agent.sock http://chartmesh/v1/metrics`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				var text bytes.Buffer
				if err := agent.Metrics(ctx, &text); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					p.json(map[string]string{"metrics": text.String()})
				} else {
					p.write(text.Bytes())
				}
				return p.failed
			})
		}),
	}
}

func (c *cli) diagnoseCommand() *cobra.Command {
	var output string
	cmd := &cobra.Command{
		Use:   "diagnose --output FILE.tar.gz",
		Short: "write a report for whoever helps, without patient data",
		Long: `Writes what somebody outside the practice needs to help: version, settings, status, what the last checks of the store
found, figures, where the program's parts are, the sizes of the store's files, and the end of the log, if an agent runs. Names
of the practice, its sites and devices are replaced; addresses and peer IDs stay. Records are in none of it. Unpack it and look
before you send it.`,
		Example: `  chartmesh diagnose --output report.tar.gz
  tar -xzf report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			if output == "" {
				return usage("--output names the file to write")
			}
			return c.with(ctx, func(agent api.Agent, running bool) error {
				d, err := agent.Diagnose(ctx)
				if err != nil {
					return err
				}
				d.Status.Running = running
				files := bundle(d)
				if err := writeBundle(output, files, d.Time); err != nil {
					return err
				}
				p := c.printer()
				if c.json {
					names := []string{}
					for _, f := range files {
						names = append(names, f.name)
					}
					p.json(map[string]any{"output": output, "files": names})
					return p.failed
				}
				for _, f := range files {
					p.line("%-16s %s", f.name, f.what)
				}
				p.remark("written to %s", visible(output))
				return p.failed
			})
		}),
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "the `FILE` to write; it must not exist")
	return cmd
}

// bundled is one file of a report.
type bundled struct {
	name, what string
	data       []byte
}

// bundle makes the files of a report.
func bundle(d api.Diagnosis) []bundled {
	asJSON := func(v any) []byte {
		b, err := json.MarshalIndent(v, "", "  ")
		if err != nil {
			panic(err) // of values that encoding/json knows
		}
		return append(b, '\n')
	}
	version := map[string]any{"time": d.Time, "version": d.Version, "go": d.Go, "platform": d.Platform, "cpus": d.CPUs}
	files := []bundled{
		{"version.json", "program, platform and time", asJSON(version)},
		{"settings.json", "how the agent was started", asJSON(d.Settings)},
		{"status.json", "the status; practice, sites and devices have other names", asJSON(d.Status)},
		{"checks.json", "when the store was checked last, and how many of which kinds were damaged", asJSON(d.Checks)},
		{"metrics.txt", "figures, in Prometheus' text form", []byte(d.Metrics)},
		{"goroutines.txt", "where the program's parts are, without arguments", []byte(d.Goroutines)},
		{"store.json", "names and sizes of the store's files", asJSON(d.Store)},
		{"log.txt", "the end of the log, names replaced; empty where no agent runs", []byte(d.Log)},
	}
	var readme bytes.Buffer
	readme.WriteString("A report of chartmesh, for whoever helps. It holds no records and no names.\n\n")
	for _, f := range files {
		fmt.Fprintf(&readme, "%-16s %s\n", f.name, f.what)
	}
	readme.WriteString("\nAddresses of the practice's network and peer IDs of its devices are in status.json, metrics.txt and log.txt.\n")
	return append([]bundled{{"README.txt", "what this is", readme.Bytes()}}, files...)
}

// writeBundle writes the files whole or not at all, for this user alone.
func writeBundle(path string, files []bundled, at time.Time) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() {
		if err = errors.Join(err, f.Close()); err != nil {
			err = fmt.Errorf("write the report: %w", errors.Join(err, os.Remove(path)))
		}
	}()
	z := gzip.NewWriter(f)
	t := tar.NewWriter(z)
	folder := "chartmesh-report-" + at.Format("20060102-150405")
	for _, file := range files {
		head := tar.Header{Name: filepath.ToSlash(filepath.Join(folder, file.name)), Mode: 0o600, Size: int64(len(file.data)), ModTime: at, Format: tar.FormatPAX}
		if err := t.WriteHeader(&head); err != nil {
			return err
		}
		if _, err := t.Write(file.data); err != nil {
			return err
		}
	}
	return errors.Join(t.Close(), z.Close())
}
