package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/anchor"
)

// usageError is a wrong call.
type usageError struct{ error }

// errOpen says that the folder does not open.
var errOpen = errors.New("cannot open the anchor's folder")

func root() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use: "chartmesh-anchor", Short: "An always-on peer of practices that cannot read their records", Version: version(),
		SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.PersistentFlags().StringVar(&dir, "data", "chartmesh-anchor", "folder with the anchor's identity and store")
	cmd.AddCommand(runCommand(&dir), admitCommand(&dir), statusCommand(&dir))
	return cmd
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

// exactly wants n arguments.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{errors.New(what)}
		}
		return nil
	}
}

func runCommand(dir *string) *cobra.Command {
	var listen []string
	var grace time.Duration
	cmd := &cobra.Command{
		Use: "run", Short: "Run the anchor until it is told to stop", Args: exactly(0, "run takes no arguments"),
		Example: "  chartmesh-anchor run --data /var/lib/chartmesh-anchor --listen /ip4/0.0.0.0/udp/4001/quic-v1,/ip4/0.0.0.0/tcp/4001",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), *dir, listen, grace, cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	cmd.Flags().StringSliceVar(&listen, "listen", []string{"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"},
		"multiaddrs to listen at")
	cmd.Flags().DurationVar(&grace, "grace", anchor.DefaultGrace, "how long chunks are kept that a checkpoint stands for, though every device has found it good")
	return cmd
}

// run opens the anchor, answers the commands of its folder, and ends in the reverse order.
func run(ctx context.Context, dir string, listen []string, grace time.Duration, out io.Writer, log *slog.Logger) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	a, err := anchor.Open(ctx, anchor.Config{Dir: dir, Listen: listen, Version: version(), Logger: log, Grace: max(grace, 1)})
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	control, err := listenControl(dir, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.close()) }()
	if _, err := fmt.Fprintf(out, "the anchor runs; administrators of practices add it with one of\n\n%s\n", addCommands(a.Addresses())); err != nil {
		return err
	}
	return a.Run(ctx)
}

func addCommands(addresses []string) string {
	var b strings.Builder
	for _, addr := range addresses {
		fmt.Fprintf(&b, "  chartmesh anchor add %s\n", addr)
	}
	return b.String()
}

func admitCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "admit TOKEN", Short: "Admit a practice by the token of its administrator", Args: exactly(1, "admit takes the token, and nothing else"),
		Example: "  chartmesh-anchor admit cma1-…",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := admit(cmd.Context(), *dir, args[0])
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "admitted; its devices connect within seconds (practice %s)\n", p.ID)
			return err
		},
	}
}

func statusCommand(dir *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status", Aliases: []string{"practices"}, Short: "Show the anchor and the practices that it holds", Args: exactly(0, "status takes no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := status(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			if asJSON {
				enc := json.NewEncoder(cmd.OutOrStdout())
				enc.SetIndent("", "  ")
				return enc.Encode(s)
			}
			return printStatus(cmd.OutOrStdout(), s)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s anchor.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "anchor %s, version %s\n%d devices connected\n\n", s.PeerID, s.Version, s.Connected)
	for _, a := range s.Addresses {
		fmt.Fprintf(&b, "  at %s\n", a)
	}
	if s.Full {
		b.WriteString("\nthe disk is full: nothing is taken until there is more room\n")
	}
	if len(s.Practices) == 0 {
		b.WriteString("\nno practice is admitted yet: an administrator runs `chartmesh anchor add` with one of these addresses\n")
	}
	for _, p := range s.Practices {
		fmt.Fprintf(&b, "\npractice %s, admitted %s\n", p.ID, p.Admitted.Format("2006-01-02 15:04 MST"))
		switch {
		case p.Damaged != "":
			fmt.Fprintf(&b, "  damaged, nothing of it is held: %s\n", p.Damaged)
		case !p.Known:
			b.WriteString("  its administrator's device has not connected yet\n")
		case !p.Anchor:
			b.WriteString("  it does not name this anchor (any more); nothing is given or taken\n")
		default:
			fmt.Fprintf(&b, "  %d devices, %d chunks", p.Devices, p.Chunks)
			if p.Deleted > 0 {
				fmt.Fprintf(&b, ", %d of them deleted since checkpoints stand for them", p.Deleted)
			}
			b.WriteString("\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
