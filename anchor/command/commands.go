package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"chartmesh/anchor"
)

// usageError is a wrong call.
type usageError struct{ error }

// errOpen says that the folder does not open.
var errOpen = errors.New("cannot open the anchor's folder")

func root() *cobra.Command {
	var dir, state string
	cmd := &cobra.Command{
		Use: "chartmesh-anchor", Short: "An always-on peer of practices that cannot read their records", Version: version(),
		SilenceErrors: true, SilenceUsage: true, Args: cobra.NoArgs,
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	cmd.PersistentFlags().StringVar(&dir, "data", "chartmesh-anchor", "folder with the anchor's identity and store")
	cmd.PersistentFlags().StringVar(&state, "state", "", "`FOLDER` outside of --data where a running anchor keeps how far its voters came, by which a folder that was put back from a copy is known (default: the user's state folder)")
	cmd.AddCommand(runCommand(&dir, &state), admitCommand(&dir), statusCommand(&dir), usageCommand(&dir), quotaCommand(&dir), dropCommand(&dir))
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

func admitCommand(dir *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "admit TOKEN", Short: "Admit a practice by the token of its administrator", Args: exactly(1, "admit takes the token, and nothing else"),
		Example: "  chartmesh-anchor admit cma1-…",
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := admit(cmd.Context(), *dir, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), p)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "admitted; its devices connect within seconds (practice %s)\n", p.ID)
			return err
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// errTrouble says that the anchor runs and does not do its work.
var errTrouble = errors.New("the anchor is in trouble")

func statusCommand(dir *string) *cobra.Command {
	var asJSON, check bool
	cmd := &cobra.Command{
		Use: "status", Aliases: []string{"practices"}, Short: "Show the anchor and the practices that it holds", Args: exactly(0, "status takes no arguments"),
		Example: "  chartmesh-anchor status\n  chartmesh-anchor status --check      for scripts and containers: exit code 0 if it stores and serves",
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := status(cmd.Context(), *dir)
			if err != nil {
				return err
			}
			switch {
			case asJSON:
				err = printJSON(cmd.OutOrStdout(), s)
			case !check:
				err = printStatus(cmd.OutOrStdout(), s)
			}
			if check && s.Trouble != "" {
				err = fmt.Errorf("%w: %s", errTrouble, s.Trouble)
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&check, "check", false, "say nothing if all is well, and end with exit code 6 if not")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printStatus(w io.Writer, s anchor.Status) error {
	var b strings.Builder
	fmt.Fprintf(&b, "anchor %s, version %s\n", s.PeerID, s.Version)
	if s.Region != "" {
		fmt.Fprintf(&b, "region %s\n", s.Region)
	}
	fmt.Fprintf(&b, "%d devices connected\n\n", s.Connected)
	for _, a := range s.Addresses {
		fmt.Fprintf(&b, "  at %s\n", a)
	}
	switch {
	case s.Full:
		b.WriteString("\nthe disk is full: nothing is taken until there is more room\n")
	case s.Trouble != "":
		fmt.Fprintf(&b, "\nin trouble: %s\n", s.Trouble)
	}
	if s.Deleting > 0 {
		fmt.Fprintf(&b, "\n%d dropped practices are being deleted\n", s.Deleting)
	}
	if len(s.Practices) == 0 {
		b.WriteString("\nno practice is admitted yet: an administrator runs `chartmesh anchor add` with one of these addresses\n")
	}
	for _, p := range s.Practices {
		fmt.Fprintf(&b, "\npractice %s, admitted %s\n", p.ID, p.Admitted.Format("2006-01-02 15:04 MST"))
		switch {
		case p.Damaged != "":
			fmt.Fprintf(&b, "  damaged, nothing of it is held: %s\n", p.Damaged)
			fmt.Fprintf(&b, "  its devices keep everything, and fill it again: `chartmesh-anchor drop %s`, then admit it again\n", p.ID)
		case !p.Known:
			b.WriteString("  its administrator's device has not connected yet\n")
		case !p.Anchor:
			b.WriteString("  it does not name this anchor (any more); nothing is given or taken\n")
		default:
			fmt.Fprintf(&b, "  %d devices, %d chunks", p.Devices, p.Chunks)
			if p.Deleted > 0 {
				fmt.Fprintf(&b, ", %d of them deleted: packed by checkpoints, or erased", p.Deleted)
			}
			b.WriteString("\n")
		}
		if v := p.Voter; v != nil {
			b.WriteString("  " + voterLine(*v) + "\n")
		}
		if p.UsedUp {
			b.WriteString("  its share is used up: nothing more of it is taken (chartmesh-anchor quota)\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// voterLine says how an anchor's voter is, on leases and numbers.
func voterLine(v anchor.Voter) string {
	switch {
	case v.Out != "":
		return "its voter on leases and numbers stays out: " + v.Out
	case !v.Awake:
		return "votes on leases and numbers, or did: it rests until a device asks"
	case v.Leads:
		return fmt.Sprintf("votes on leases and numbers, and leads (%d voters)", v.Voters)
	}
	return fmt.Sprintf("votes on leases and numbers (%d voters)", v.Voters)
}
