// Command fuzzall runs every fuzz target of the module, each for the same part of the time, and prints what came of it.
//
//	go run ./internal/fuzzall -time 30m
//	go run ./internal/fuzzall -time 2m -run '^chunk '
//
// Go keeps what a target finds interesting in its build cache (go clean -fuzzcache forgets it) and writes an input that
// fails to testdata/fuzz beside the target, where it is a seed of every later test: keep it, with what mends it. Nothing
// else is written. Building does not count as time.
//
// The exit code is 0 if no target failed, 1 if one did, 2 if the command line is wrong.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	total := flag.Duration("time", 5*time.Minute, "for all targets together")
	pattern := flag.String("run", "", "only targets whose \"package FuzzName\" matches this regular expression")
	workers := flag.Int("parallel", runtime.GOMAXPROCS(0), "processes that fuzz at once")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "usage: go run ./internal/fuzzall [-time 30m] [-run regexp] [-parallel n]\n\n")
		flag.PrintDefaults()
	}
	flag.Parse()
	choose, err := regexp.Compile(*pattern)
	if err != nil || flag.NArg() > 0 || *total <= 0 || *workers <= 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, ".", *total, choose, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "fuzzall:", err)
		stop()
		os.Exit(1)
	}
}

// outcome is what a target came to.
type outcome struct {
	execs, interesting, corpus int
	failure                    string // the output of a target that failed; empty: it did not
	input                      string // the file with the input on which it failed, if there is one
}

// errCrashers says that some target failed.
var errCrashers = errors.New("some targets failed")

func run(ctx context.Context, out io.Writer, dir string, total time.Duration, choose *regexp.Regexp, workers int) error {
	root, err := moduleRoot(dir)
	if err != nil {
		return err
	}
	all, err := scan(root)
	if err != nil {
		return err
	}
	var chosen []target
	for _, t := range all.targets {
		if choose.MatchString(t.String()) {
			chosen = append(chosen, t)
		}
	}
	if len(chosen) == 0 {
		return errors.New("there is no such target")
	}
	each := max(total/time.Duration(len(chosen)), time.Second).Round(time.Second)
	fmt.Fprintf(out, "%d targets, %v each\n\n", len(chosen), each)
	const row = "%-14s %-24s %11v %9v %7v %7v  %s\n"
	fmt.Fprintf(out, row, "package", "target", "execs", "a second", "new", "corpus", "result")
	var failed []outcome
	var sum outcome
	for _, t := range chosen {
		o := fuzz(ctx, root, t, each, workers)
		if ctx.Err() != nil {
			return fmt.Errorf("interrupted at %v: %w", t, context.Cause(ctx))
		}
		result := "ok"
		if o.failure != "" {
			result = "FAILED"
			failed = append(failed, o)
		}
		fmt.Fprintf(out, row, t.folder, t.name, o.execs, int(float64(o.execs)/each.Seconds()), o.interesting, o.corpus, result)
		sum.execs, sum.interesting, sum.corpus = sum.execs+o.execs, sum.interesting+o.interesting, sum.corpus+o.corpus
		if o.failure != "" {
			fmt.Fprintf(out, "\n%s\n", o.failure)
			if o.input != "" {
				fmt.Fprintf(out, "again: go test -run '^%s$/^%s$' ./%s\n\n", t.name, path.Base(o.input), t.folder)
			} else {
				fmt.Fprintf(out, "again: go test -run '^$' -fuzz '^%s$' -fuzztime %v ./%s\n\n", t.name, each, t.folder)
			}
		}
	}
	fmt.Fprintf(out, row, "all", "", sum.execs, int(float64(sum.execs)/each.Seconds()/float64(len(chosen))), sum.interesting, sum.corpus,
		fmt.Sprintf("%d of %d failed", len(failed), len(chosen)))
	if len(failed) > 0 {
		return errCrashers
	}
	return nil
}

// minimize is how often Go may try to shorten one input. It does so for each that is new, and with its own measure, a
// minute each, some targets would do nothing else.
const minimize = "100x"

// fuzz runs one target. A target that hangs is ended by Go when its time is over; one that does not end even then, here.
func fuzz(ctx context.Context, root string, t target, each time.Duration, workers int) outcome {
	ctx, cancel := context.WithTimeout(ctx, each+10*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-fuzz", "^"+t.name+"$", "-fuzztime", each.String(),
		"-fuzzminimizetime", minimize, "-parallel", strconv.Itoa(workers), "./"+t.folder)
	cmd.Dir = root
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) } // go test ends its children and cleans up
	cmd.WaitDelay = 10 * time.Second
	b, err := cmd.CombinedOutput()
	o := read(string(b))
	if err != nil {
		o.failure = strings.TrimSpace(withoutProgress(string(b)) + "\n" + err.Error())
	}
	return o
}

var (
	progress = regexp.MustCompile(`(?m)^fuzz: elapsed: .*\n?`)
	counted  = regexp.MustCompile(`execs: (\d+) .*new interesting: (\d+) \(total: (\d+)\)`)
	written  = regexp.MustCompile(`(?m)^\s*Failing input written to (\S+)`)
)

// read takes the counts off what go test printed.
func read(output string) (o outcome) {
	if all := counted.FindAllStringSubmatch(output, -1); len(all) > 0 {
		last := all[len(all)-1]
		o.execs, _ = strconv.Atoi(last[1]) // digits, by the expression
		o.interesting, _ = strconv.Atoi(last[2])
		o.corpus, _ = strconv.Atoi(last[3])
	}
	if m := written.FindStringSubmatch(output); m != nil {
		o.input = m[1]
	}
	return o
}

func withoutProgress(output string) string { return progress.ReplaceAllString(output, "") }

// moduleRoot returns the folder at or above dir that has a go.mod.
func moduleRoot(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("%s is in no module", abs)
		}
	}
}
