package main

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) recoveryRestoreCommand() *cobra.Command {
	var opts restoreOptions
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "restore --site NAME [--device NAME] [--address IP:PORT]",
		Short: "get back into the practice on an empty machine",
		Long: `Makes an empty data folder an administrator's device of the practice by the recovery code alone, which is read from stdin: for a practice
that has lost every administrator's device, or every device but one. Some device of the practice must be left and its agent running,
whatever its role; an administrator need not be. The records follow when the agent runs.

Devices are looked for on the local network. Elsewhere, name where one is: --address, as "chartmesh status" there shows it. Several
are better than one, since each may know of removals that others have not heard of.

If it is interrupted, run it again with the same folder. What it reports as other devices may be lost ones: remove those.`,
		Example: `  chartmesh recovery restore --site Mitte --device "Empfang 2"
  chartmesh recovery restore --site Mitte --address 203.0.113.7:4801 --json`,
		Args: cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			if strings.TrimSpace(opts.site) == "" || strings.TrimSpace(opts.device) == "" {
				return usage("a device needs --site and --device")
			}
			p := c.printer()
			if opts.code, err = c.readSecret(p, "Recovery code:"); err != nil {
				return err
			}
			opts.logger = c.logger(slog.LevelWarn)
			ctx, cancel := context.WithTimeout(ctx, timeout)
			defer cancel()
			if len(opts.addresses) == 0 && !c.json {
				p.remark("Looking for devices of the practice on the local network …")
			}
			report, err := c.joins.restore(ctx, dir, opts)
			if err != nil {
				return err
			}
			if c.json {
				p.json(report)
			} else {
				p.restored(report, opts)
			}
			return p.failed
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.site, "site", "", "the site's `NAME`")
	flags.StringVar(&opts.device, "device", hostname(), "this device's `NAME`")
	flags.StringArrayVar(&opts.addresses, "address", nil, "where a device of the practice is: `IP:PORT`, or as its status shows it; may be given again")
	flags.DurationVar(&timeout, "timeout", time.Minute, "how long to try")
	return cmd
}

func (p *printer) restored(r api.Restored, opts restoreOptions) {
	p.line("%s, an administrator's device at %s, belongs to %s now", visible(opts.device), visible(opts.site), visible(r.Practice))
	p.line("the code opens %s of %s", plural(r.Epochs, "key"), plural(r.Scopes, "scope"))
	if r.Closed > 0 {
		p.line("%s do not open with it: whoever made them (chartmesh peer log) did not seal them to the code", plural(r.Closed, "key"))
	}
	var rows [][]string
	for _, d := range r.Devices {
		answered := ""
		if d.Answered {
			answered = "answered"
		}
		rows = append(rows, []string{d.Name, d.Site, d.Role, answered})
	}
	p.table([]string{"DEVICE", "SITE", "ROLE", ""}, rows)
	p.hint("next: chartmesh agent, and then chartmesh status --wait in-sync; remove what is lost: chartmesh peer remove NAME --recovery --stolen")
}
