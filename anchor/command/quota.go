package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"chartmesh/anchor"
)

func quotaCommand(dir *string) *cobra.Command {
	var texts [4]string
	var asJSON bool
	cmd := &cobra.Command{
		Use: "quota PRACTICE", Short: "Show or change what a practice may take", Args: exactly(1, "quota takes a practice: the beginning of its ID, as status shows it"),
		Long: `Shows what a practice may take, or changes it: at once and for good. At a limit nothing is lost: what is held stays, the devices keep
everything, and go on by themselves when there is room. "none" is no limit, "default" what "run" was told.`,
		Example: `  chartmesh-anchor quota 836284be
  chartmesh-anchor quota 836284be --bytes 50GB --rate 4MB
  chartmesh-anchor quota 836284be --connections none --chunks default`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var c anchor.Change
			for i, f := range []struct {
				name  string
				limit **anchor.Limit
				parse func(string) (uint64, error)
			}{{"bytes", &c.Bytes, parseSize}, {"chunks", &c.Chunks, parseCount}, {"connections", &c.Connections, parseCount}, {"rate", &c.Rate, parseSize}} {
				if !cmd.Flags().Changed(f.name) {
					continue
				}
				var err error
				if *f.limit, err = parseLimit(texts[i], f.parse); err != nil {
					return usageError{fmt.Errorf("--%s: %w", f.name, err)}
				}
			}
			u, err := quota(cmd.Context(), *dir, args[0], c)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), u)
			}
			return printQuota(cmd.OutOrStdout(), u)
		},
	}
	f := cmd.Flags()
	f.StringVar(&texts[0], "bytes", "", "`SIZE` on the disk: 50GB, none, default")
	f.StringVar(&texts[1], "chunks", "", "`COUNT` of chunks")
	f.StringVar(&texts[2], "connections", "", "`COUNT` of devices connected at once")
	f.StringVar(&texts[3], "rate", "", "`SIZE` taken in a second: 4MB, none, default")
	f.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printQuota(w io.Writer, u anchor.Usage) error {
	var b strings.Builder
	fmt.Fprintf(&b, "practice %s\n", u.ID)
	line := func(name, used string, limit uint64, of string) {
		whose := "default"
		if slices.Contains(u.Own, name) {
			whose = "its own"
		}
		if limit == 0 {
			of = none
		}
		fmt.Fprintf(&b, "  %-12s %s%s (%s)\n", name, used, of, whose)
	}
	line("bytes", size(u.Bytes)+" of ", u.Quota.Bytes, size(u.Quota.Bytes))
	line("chunks", fmt.Sprint(u.Chunks, " of "), u.Quota.Chunks, fmt.Sprint(u.Quota.Chunks))
	line("connections", fmt.Sprint(u.Connected, " of "), u.Quota.Connections, fmt.Sprint(u.Quota.Connections))
	line("rate", "", u.Quota.Rate, size(u.Quota.Rate)+" a second")
	if u.UsedUp {
		b.WriteString("its share is used up: nothing more of it is taken, its devices keep everything\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func usageCommand(dir *string) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "usage", Short: "Show what each practice takes", Args: exactly(0, "usage takes no arguments"),
		Example: "  chartmesh-anchor usage\n  chartmesh-anchor usage --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			list, err := usage(cmd.Context(), *dir, "")
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			return printUsage(cmd.OutOrStdout(), list.Practices, time.Now())
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printUsage(w io.Writer, list []anchor.Usage, now time.Time) error {
	if len(list) == 0 {
		_, err := fmt.Fprintln(w, "no practice is admitted")
		return err
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { _, _ = fmt.Fprintln(t, strings.Join(cells, "\t")) } // Flush says what failed
	row("PRACTICE", "BYTES", "CHUNKS", "SHARE", "DEVICES", "CONNECTED", "LAST CONTACT", "LAST STORED", "IN", "OUT")
	for _, u := range list {
		share := "-"
		switch {
		case u.Damaged:
			share = "damaged"
		case u.UsedUp:
			share = "used up"
		case u.Quota.Bytes > 0 || u.Quota.Chunks > 0:
			share = fmt.Sprintf("%.0f %%", 100*u.Share)
		}
		row(u.ID, size(u.Bytes), fmt.Sprint(u.Chunks), share, fmt.Sprint(u.Devices), fmt.Sprint(u.Connected), ago(u.LastContact, now), ago(u.LastStored, now),
			size(u.BytesIn), size(u.BytesOut))
	}
	return t.Flush()
}

// ago writes how long ago t was.
func ago(t *time.Time, now time.Time) string {
	if t == nil {
		return "-"
	}
	d := max(now.Sub(*t), 0)
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	}
	return fmt.Sprintf("%.0f days", d.Hours()/24)
}

var (
	errUnasked  = usageError{errors.New("drop asks before it deletes: run it on a terminal, or with --yes")}
	errDeclined = errors.New("nothing was dropped")
)

func dropCommand(dir *string) *cobra.Command {
	var yes, voter, asJSON bool
	cmd := &cobra.Command{
		Use: "drop PRACTICE", Short: "Let a practice go, and delete what is held of it", Args: exactly(1, "drop takes a practice: the beginning of its ID, as status shows it"),
		Long: `Lets a practice go: its devices are let in no more, and what is held of it is deleted. They keep everything. If it is admitted again, by a
token of "chartmesh anchor add", they fill it again.

Have an administrator of the practice take the anchor out of it first ("chartmesh peer remove NAME"): devices that have it still cannot tell that
it dropped their practice from that it is away, and go on showing what it held as stored there. An anchor that keeps leases and numbers of the
practice (status says so) is to do so no more before that ("chartmesh quorum remove NAME"); with --voter it is dropped all the same.`,
		Example: "  chartmesh-anchor drop 836284be\n  chartmesh-anchor drop 836284be --yes --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			in, ok := cmd.InOrStdin().(*os.File)
			if ok = ok && term.IsTerminal(int(in.Fd())); !yes && !ok {
				return errUnasked
			}
			list, err := usage(cmd.Context(), *dir, args[0])
			if err != nil {
				return err
			}
			if !yes {
				if err := confirm(in, cmd.ErrOrStderr(), list.Practices[0]); err != nil {
					return err
				}
			}
			id, err := drop(cmd.Context(), *dir, args[0], voter)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), id)
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "dropped practice %s; what was held of it is being deleted\n"+
				"its devices that were not connected show what was held as stored here, until `chartmesh peer remove` takes this anchor out of the practice\n", id.ID)
			return err
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&voter, "voter", false, "drop it although this anchor keeps its leases and numbers: its devices then begin them anew")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// confirm asks whether a practice is to be dropped.
func confirm(in io.Reader, out io.Writer, u anchor.Usage) error {
	if _, err := fmt.Fprintf(out, "Practice %s: %s in %d chunks, of %d devices, %d of them connected.\nDelete all that this anchor holds of it? Its devices keep everything. [y/N] ",
		u.ID, size(u.Bytes), u.Chunks, u.Devices, u.Connected); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(in, 100)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if answer := strings.ToLower(strings.TrimSpace(line)); answer != "y" && answer != "yes" {
		return errDeclined
	}
	return nil
}

// usages is the answer to usage.
type usages struct {
	Practices []anchor.Usage `json:"practices"`
}

// named names a practice, and what is to be done with it.
type named struct {
	Practice string        `json:"practice"`
	Change   anchor.Change `json:"change,omitzero"`
	// AlthoughVoter drops a practice also if the anchor keeps its leases and numbers.
	AlthoughVoter bool `json:"although_voter,omitempty"`
}

// dropped is the answer to drop.
type dropped struct {
	ID string `json:"dropped"`
}

func quota(ctx context.Context, dir, practice string, c anchor.Change) (u anchor.Usage, err error) {
	err = post(ctx, dir, "/v1/quota", named{Practice: practice, Change: c}, &u)
	return u, err
}

func drop(ctx context.Context, dir, practice string, althoughVoter bool) (d dropped, err error) {
	err = post(ctx, dir, "/v1/drop", named{Practice: practice, AlthoughVoter: althoughVoter}, &d)
	return d, err
}

// usage asks what practices take: one, or all if it names none.
func usage(ctx context.Context, dir, practice string) (u usages, err error) {
	err = post(ctx, dir, "/v1/usage", named{Practice: practice}, &u)
	if err == nil && practice != "" && len(u.Practices) != 1 {
		err = errors.New("the anchor answers for another practice")
	}
	return u, err
}
