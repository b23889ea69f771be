package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"github.com/spf13/cobra"

	"chartmesh/anchor"
	"chartmesh/lockquorum/local"
	"chartmesh/p2p"
)

// options are what run is told.
type options struct {
	listen, public []string
	region, health string
	perPractice    bool
	quota          anchor.Quota
	grace          time.Duration
}

func runCommand(dir, state *string) *cobra.Command {
	o := options{quota: anchor.DefaultQuota}
	cmd := &cobra.Command{
		Use: "run", Short: "Run the anchor until it is told to stop", Args: exactly(0, "run takes no arguments"),
		Long: `Runs the anchor until it is told to stop. The limits are those of each practice of which "chartmesh-anchor quota" says nothing else.
At a limit nothing is lost: the devices keep everything, show it, and go on by themselves when there is room.`,
		Example: `  chartmesh-anchor run --data /var/lib/chartmesh-anchor --listen /ip4/0.0.0.0/udp/4001/quic-v1,/ip4/0.0.0.0/tcp/4001
  chartmesh-anchor run --public /dns4/anchor.example.org/udp/4001/quic-v1,/dns4/anchor.example.org/tcp/4001 --region EU-DE
  chartmesh-anchor run --max-bytes 20GB --max-rate 4MB --health 127.0.0.1:9464`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return run(cmd.Context(), *dir, *state, o, cmd.OutOrStdout(), slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), nil)))
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&o.listen, "listen", []string{"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001"}, "multiaddrs to listen at")
	f.StringSliceVar(&o.public, "public", nil, "multiaddrs under which devices reach it, where those are others: behind a forwarded port, or in a container")
	f.StringVar(&o.region, "region", "", "where it stands, for `PEOPLE`: EU-DE")
	f.StringVar(&o.health, "health", "", "`ADDRESS` at which /healthz, /readyz and /metrics are served, like 127.0.0.1:9464; empty: nowhere")
	f.BoolVar(&o.perPractice, "metrics-per-practice", false, "tell each practice's figures, by the beginning of its ID")
	f.Var(sizeValue{&o.quota.Bytes}, "max-bytes", "`SIZE` that a practice may take on the disk, or none")
	f.Var(countValue{&o.quota.Chunks}, "max-chunks", "`COUNT` of chunks that are held of a practice, or none")
	f.Var(countValue{&o.quota.Connections}, "max-connections", "`COUNT` of a practice's devices that are connected at once, or none")
	f.Var(sizeValue{&o.quota.Rate}, "max-rate", "`SIZE` that is taken of a practice's devices in a second, or none")
	f.DurationVar(&o.grace, "grace", anchor.DefaultGrace, "how long chunks are kept that a checkpoint stands for, though every device has found it good")
	return cmd
}

// run opens the anchor, answers the commands of its folder, and ends in the reverse order.
func run(ctx context.Context, dir, state string, o options, out io.Writer, log *slog.Logger) (err error) {
	dir, err = filepath.Abs(dir)
	if err != nil {
		return err
	}
	state, err = stateFolder(state)
	if err != nil {
		log.Warn("there is no place outside of the folder to keep how far its voters came: name one with --state", "error", err)
	}
	a, err := anchor.Open(ctx, anchor.Config{
		Dir: dir, State: state, Listen: o.listen, Public: o.public, Region: o.region, Quota: o.quota, MetricsPerPractice: o.perPractice, Version: version(), Logger: log,
		Grace: max(o.grace, 1),
	})
	if errors.Is(err, anchor.ErrConfig) || errors.Is(err, p2p.ErrPublic) {
		return usageError{err}
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOpen, err)
	}
	defer func() { err = errors.Join(err, a.Close()) }()
	control, err := listenControl(dir, a)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, control.close()) }()
	told := "the anchor runs; administrators of practices add it with one of\n\n" + addCommands(a.Addresses())
	if o.health != "" {
		health, err := listenHealth(o.health, a)
		if err != nil {
			return err
		}
		defer func() { _ = health.close() }() // who asks is gone
		told += fmt.Sprintf("\nits health is at http://%s/healthz\n", health.addr)
	}
	if _, err := fmt.Fprintln(out, told); err != nil {
		return err
	}
	return a.Run(ctx)
}

// stateFolder is where it is kept how far the voters came.
func stateFolder(named string) (string, error) {
	if named != "" {
		return filepath.Abs(named)
	}
	return local.StateFolder()
}

// addCommands lists what an administrator may run. A loopback address leads to this machine, wherever it is used: it is listed only
// where there is no other.
func addCommands(addresses []string) string {
	far := slices.DeleteFunc(slices.Clone(addresses), func(addr string) bool {
		a, err := multiaddr.NewMultiaddr(addr)
		return err == nil && manet.IsIPLoopback(a)
	})
	if len(far) == 0 {
		far = addresses
	}
	var b strings.Builder
	for _, addr := range far {
		fmt.Fprintf(&b, "  chartmesh anchor add %s\n", addr)
	}
	return b.String()
}
