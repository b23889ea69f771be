package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
	"chartmesh/cmd/chartmesh/crash"
)

// cli is one run of the command line.
type cli struct {
	in       io.Reader
	out, err io.Writer
	env      func(string) string
	joins    joins
	patience time.Duration // how long to wait for a folder that another command or a starting agent has open
	guard    func() error  // gives the process a crash monitor, once; nil: none, in tests
	crashes  crash.Options // how it reports

	data, user   string // global flags
	json         bool
	passphraseFD int
	passphrase   []byte // as it was given, for who opens the folder twice
	begun        bool   // a command's own code has begun: what fails now is not the command line
}

// usageError says that the command line is wrong.
type usageError struct{ error }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// run executes one command line and returns its exit code.
func (c *cli) run(ctx context.Context, args []string) int {
	root := c.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !c.begun {
		err = usageError{err}
	}
	return c.report(ctx, cmd, err)
}

// report prints err, if it is one, and returns the exit code that it has.
func (c *cli) report(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return api.ExitOK
	}
	p := c.printer()
	if _, ok := errors.AsType[usageError](err); ok {
		p.fail(err.Error(), "see "+cmd.CommandPath()+" --help")
		return api.ExitUsage
	}
	if ctx.Err() != nil && api.CodeOf(err) == api.CodeUnavailable {
		p.fail("interrupted", "")
		return api.ExitInterrupted
	}
	if exit, ok := errors.AsType[exitError](err); ok {
		return int(exit)
	}
	if refused, ok := errors.AsType[refusedError](err); ok {
		p.fail(refused.Error(), "the rest is imported; correct them and import the file again")
		return api.ExitRefused
	}
	if e, ok := errors.AsType[*api.Error](err); ok {
		p.fail(err.Error(), e.Hint) // with what the command adds to the agent's message
		return e.Code.Class().Exit
	}
	if errors.Is(err, context.DeadlineExceeded) {
		err = api.AsError(err)
	}
	p.fail(err.Error(), "")
	return api.CodeOf(err).Class().Exit
}

const (
	groupPractice = "practice"
	groupRecords  = "records"
	groupRunning  = "running"
)

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "chartmesh",
		Short: "keeps a practice's patient records the same on all its devices",
		Long: `chartmesh keeps the patient records of a medical practice the same on all its devices, with or without a network.

Each device runs "chartmesh agent" on a data folder of its own. The other commands speak to that agent; where none runs,
they open the folder themselves.`,
		Example: `  chartmesh init --practice "Praxis Berg" --site Mitte
  chartmesh agent &
  chartmesh import ./bundles
  chartmesh find müller
  chartmesh status`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetIn(c.in)
	root.SetOut(c.out)
	root.SetErr(c.err)
	flags := root.PersistentFlags()
	flags.StringVar(&c.data, "data", "", "the data `DIR` (CHARTMESH_DATA; default "+c.shortDefault()+")")
	flags.StringVar(&c.user, "user", "", "the `NAME` under which writes are made (CHARTMESH_USER; default: the system's user)")
	flags.BoolVar(&c.json, "json", false, "print JSON")
	flags.IntVar(&c.passphraseFD, "passphrase-fd", -1, "the file descriptor `N` that a protected keyring's passphrase is read from")
	root.AddGroup(&cobra.Group{ID: groupPractice, Title: "The practice and its devices:"},
		&cobra.Group{ID: groupRecords, Title: "Records:"}, &cobra.Group{ID: groupRunning, Title: "Running:"})
	add := func(group string, commands ...*cobra.Command) {
		for _, cmd := range commands {
			cmd.GroupID = group
			root.AddCommand(cmd)
		}
	}
	add(groupPractice, c.initCommand(), c.inviteCommand(), c.joinCommand(), c.peerCommand(), c.anchorCommand(), c.recoveryCommand())
	add(groupRecords, c.importCommand(), c.exportCommand(), c.findCommand(), c.getCommand(), c.putCommand(), c.deleteCommand(),
		c.historyCommand(), c.conflictCommand(), c.quarantineCommand(), c.eraseCommand(), c.leaseCommand(), c.numberCommand(), c.rangeCommand(), c.quorumCommand())
	add(groupRunning, c.agentCommand(), c.statusCommand(), c.verifyCommand(), c.eventsCommand(), c.metricsCommand(), c.diagnoseCommand(),
		c.offlineCommand(), c.onlineCommand(), c.keyringCommand(), c.serviceCommand(), c.compactCommand(), c.demoCommand())
	root.AddCommand(c.versionCommand(), exitCodesTopic())
	return root
}

// do wraps a command's own code. A panic in it is reported without its value, which may hold data; those of other
// goroutines need a guarded process.
func (c *cli) do(fn func(ctx context.Context, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		c.begun = true
		defer func() {
			if p := recover(); p != nil {
				c.printer().remark("%s", crash.Caught(p, debug.Stack()))
				err = &api.Error{Code: api.CodeInternal, Message: "it crashed", Hint: "please report the lines above; they hold no data"}
			}
		}()
		return fn(cmd.Context(), args)
	}
}

// guarded keeps what a crash of this process would print to what holds no data. It costs a small process, so commands that
// only ask the agent go without.
func (c *cli) guarded() error {
	if c.guard == nil {
		return nil
	}
	return c.guard()
}

// family is a command that has others below it and does nothing itself.
func family(use, short string, commands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs}
	var names []string
	for _, sub := range commands {
		cmd.AddCommand(sub)
		names = append(names, sub.Name())
	}
	cmd.RunE = func(*cobra.Command, []string) error {
		return fmt.Errorf("%s needs one of: %s", use, strings.Join(names, ", "))
	}
	return cmd
}

// exitCodesTopic is "chartmesh help exit-codes".
func exitCodesTopic() *cobra.Command {
	meanings := map[int][]string{api.ExitOK: {"done"}, api.ExitRefused: {"an import went through, but some of its items were refused"},
		api.ExitInterrupted: {"interrupted by a signal"}}
	last := api.ExitInterrupted
	for _, class := range api.Classes() {
		meanings[class.Exit] = append(meanings[class.Exit], class.Meaning)
	}
	var text strings.Builder
	text.WriteString("Every command ends with one of these codes. A number never changes its meaning.\n\n")
	for code := range last + 1 {
		for i, meaning := range meanings[code] {
			number := fmt.Sprint(code)
			if i > 0 {
				number = ""
			}
			fmt.Fprintf(&text, "  %3s  %s\n", number, meaning)
		}
	}
	return &cobra.Command{Use: "exit-codes", Short: "what the exit codes mean", Long: strings.TrimSuffix(text.String(), "\n")}
}

// folder returns the data folder as an absolute path.
func (c *cli) folder() (string, error) {
	dir := cmp.Or(c.data, c.env("CHARTMESH_DATA"))
	if dir == "" {
		var err error
		if dir, err = c.defaultFolder(); err != nil {
			return "", usage("there is no default data folder: name one with --data")
		}
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("find the data folder: %w", err)
	}
	return abs, nil
}

// defaultFolder is where data of this kind belongs on this system. Linux has a place for data besides that for
// configuration; elsewhere they are one.
func (c *cli) defaultFolder() (string, error) {
	if runtime.GOOS == "windows" || runtime.GOOS == "darwin" {
		dir, err := os.UserConfigDir()
		return filepath.Join(dir, "chartmesh"), err
	}
	if dir := c.env("XDG_DATA_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "chartmesh"), nil
	}
	home := c.env("HOME")
	if home == "" {
		return "", errors.New("HOME is not set")
	}
	return filepath.Join(home, ".local", "share", "chartmesh"), nil
}

// shortDefault is the default folder as help shows it.
func (c *cli) shortDefault() string {
	dir, err := c.defaultFolder()
	if err != nil {
		return "none here"
	}
	if home := c.env("HOME"); home != "" {
		if rest, ok := strings.CutPrefix(dir, home+string(filepath.Separator)); ok {
			return filepath.Join("~", rest)
		}
	}
	return dir
}

// author returns the name under which this run writes.
func (c *cli) author() (string, error) {
	name := cmp.Or(c.user, c.env("CHARTMESH_USER"))
	if name == "" {
		if who, err := user.Current(); err == nil {
			name = who.Username
		}
	}
	return name, api.CheckUser(name)
}

// leastFree is how much room is to be left free on the disk, in bytes; 0: what the store keeps by itself.
func (c *cli) leastFree() uint64 {
	mega, err := strconv.ParseUint(c.env("CHARTMESH_LEAST_FREE_MB"), 10, 32)
	if err != nil {
		return 0
	}
	return mega * 1_000_000
}

// with calls fn with the agent of the data folder: the one that runs, or one opened here without a network.
func (c *cli) with(ctx context.Context, fn func(agent api.Agent, running bool) error) error {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	agent, running, done, err := c.connect(ctx, dir)
	if err != nil {
		return err
	}
	return errors.Join(fn(agent, running), done())
}

// running calls fn with the agent that runs on the data folder.
func (c *cli) running(fn func(agent *client.Client) error) error {
	dir, err := c.folder()
	if err != nil {
		return err
	}
	agent, err := client.Dial(dir)
	if err != nil {
		return err
	}
	return errors.Join(fn(agent), agent.Close())
}

// connect tries the socket and then the folder, and both again for a moment while somebody else has the folder.
func (c *cli) connect(ctx context.Context, dir string) (agent api.Agent, running bool, done func() error, err error) {
	retry := time.NewTicker(50 * time.Millisecond)
	defer retry.Stop()
	for end := time.Now().Add(c.patience); ; {
		remote, err := client.Dial(dir)
		if err == nil {
			return remote, true, remote.Close, nil
		}
		if api.CodeOf(err) != api.CodeUnavailable {
			return nil, false, nil, err
		}
		if err := c.guarded(); err != nil {
			return nil, false, nil, err
		}
		local, err := c.joins.open(openOptions{dir: dir, offline: true, logger: c.logger(slog.LevelWarn), leastFree: c.leastFree(), unlock: c.unlock})
		if err == nil {
			within := client.InProcess(local)
			return within, false, func() error { return errors.Join(within.Close(), local.Close()) }, nil
		}
		if api.CodeOf(err) != api.CodeInUse {
			return nil, false, nil, err
		}
		if time.Now().After(end) {
			return nil, false, nil, err
		}
		select {
		case <-ctx.Done():
			return nil, false, nil, ctx.Err()
		case <-retry.C:
		}
	}
}

func (c *cli) logger(level slog.Level) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.err, &slog.HandlerOptions{Level: level}))
}
