package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
)

func (c *cli) initCommand() *cobra.Command {
	var opts initOptions
	cmd := &cobra.Command{
		Use:   "init --practice NAME --site NAME [--device NAME]",
		Short: "found a practice on this device",
		Long: `Founds a practice: makes its root key, its first keys and this device, which becomes its first administrator.

The recovery code is printed once, to stdout. It opens everything when no device is left. Write it down, keep it away from
the devices, and do not store it in a file.`,
		Example: `  chartmesh init --practice "Praxis Berg" --site Mitte --device Empfang`,
		Args:    cobra.NoArgs,
		RunE: c.do(func(context.Context, []string) error {
			dir, err := c.folder()
			if err != nil {
				return err
			}
			for _, name := range []struct{ flag, value string }{{"practice", opts.practice}, {"site", opts.site}, {"device", opts.device}} {
				if strings.TrimSpace(name.value) == "" {
					return usage("a practice needs --%s", name.flag)
				}
			}
			f, err := c.joins.init(dir, opts)
			if err != nil {
				return err
			}
			p := c.printer()
			if c.json {
				p.json(struct {
					RecoveryCode string `json:"recovery_code"`
					PeerID       string `json:"peer_id"`
				}{f.recoveryCode, f.peerID})
				return p.failed
			}
			p.remark("%s begins on %s at %s, in %s", visible(opts.practice), visible(opts.device), visible(opts.site), visible(dir))
			p.remark("peer ID %s", f.peerID)
			p.remark("The recovery code, shown only now. Write it down and keep it away from the devices:")
			p.line("%s", f.recoveryCode)
			p.hint("next: chartmesh agent")
			return p.failed
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&opts.practice, "practice", "", "the practice's `NAME`")
	flags.StringVar(&opts.site, "site", "", "the site's `NAME`")
	flags.StringVar(&opts.device, "device", hostname(), "this device's `NAME`")
	return cmd
}

func hostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// readLine reads one line of at most limit bytes from stdin, for what should not stand on a command line.
func (c *cli) readLine(what string, limit int64) (string, error) {
	if terminal(c.in) {
		c.printer().remark("%s:", strings.ToUpper(what[:1])+what[1:])
	}
	line, err := bufio.NewReader(io.LimitReader(c.in, limit)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read the %s: %w", what, err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", usage("there is no %s on stdin", what)
	}
	return line, nil
}

func (c *cli) peerCommand() *cobra.Command {
	list := &cobra.Command{
		Use:     "list",
		Short:   "list the other devices of the practice",
		Example: "  chartmesh peer list --json",
		Args:    cobra.NoArgs,
		RunE: c.do(func(ctx context.Context, _ []string) error {
			return c.with(ctx, func(agent api.Agent, _ bool) error {
				status, err := agent.Status(ctx, "")
				if err != nil {
					return err
				}
				p := c.printer()
				switch {
				case c.json:
					p.json(orEmpty(status.Peers))
				case len(status.Peers) == 0:
					p.remark("No other device has joined yet.")
					p.hint("make a code for one: chartmesh invite")
				default:
					p.peers(status.Peers, time.Now())
				}
				return p.failed
			})
		}),
	}
	return family("peer", "the devices of the practice", list, c.peerRemoveCommand(), c.peerRoleCommand(), c.peerRenameCommand(), c.peerLogCommand(),
		c.peerCheckpointCommand())
}

// orEmpty makes an empty list [] in JSON, never null.
func orEmpty[T any](s []T) []T {
	if s == nil {
		return []T{}
	}
	return s
}
