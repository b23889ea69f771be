// Command figures runs the benchmarks of package bench and prints a table: what each took, what its physical limit took
// right after it, and how many times as long that is.
//
//	go run ./bench/figures
//	go run ./bench/figures -run 'Edit|Apply' -time 5s
//
// Set TMPDIR to a folder on the disk that is to be measured; a temporary folder in memory makes a commit cost nothing.
package main

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"time"
)

func main() {
	pattern := flag.String("run", ".", "benchmarks whose name matches this regular expression")
	each := flag.String("time", "2s", "how long to run each, or how often (100x)")
	flag.Parse()
	if flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout, *pattern, *each); err != nil {
		fmt.Fprintln(os.Stderr, "figures:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, pattern, each string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", each, "-timeout", "60m", "chartmesh/bench")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Fprintf(out, layout, "benchmark", "took", "limit", "ratio", "made of", "and")
	rows, lines := 0, bufio.NewScanner(pipe)
	for lines.Scan() {
		switch f, ok := parse(lines.Text()); {
		case ok:
			rows++
			f.print(out)
		case strings.Contains(lines.Text(), "FAIL"), strings.HasPrefix(lines.Text(), "    "):
			fmt.Fprintln(out, lines.Text())
		}
	}
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("run the benchmarks: %w", err)
	}
	if rows == 0 {
		return fmt.Errorf("no benchmark matches %q", pattern)
	}
	return nil
}

const layout = "%-27s %10s %10s %7s  %-34s %s\n"

// figure is one line of go test's.
type figure struct {
	name    string
	metrics []metric
}

type metric struct {
	value float64
	unit  string
}

// parse reads "BenchmarkEdit-2   1000   1400 ns/op   3.2 x-limit".
func parse(line string) (f figure, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return f, false
	}
	f.name = strings.TrimPrefix(fields[0], "Benchmark")
	if at := strings.LastIndexByte(f.name, '-'); at > 0 {
		f.name = f.name[:at]
	}
	for i := 2; i+1 < len(fields); i += 2 {
		v, err := strconv.ParseFloat(fields[i], 64)
		if err != nil {
			return f, false
		}
		f.metrics = append(f.metrics, metric{v, fields[i+1]})
	}
	return f, true
}

func (f figure) print(out io.Writer) {
	var took, limit, ratio string
	var parts, rest []string
	for _, m := range f.metrics {
		switch name, isPart := strings.CutSuffix(m.unit, "-ns"); {
		case m.unit == "ns/op":
			took = span(m.value)
		case m.unit == "limit-ns":
			limit = span(m.value)
		case m.unit == "x-limit":
			ratio = fmt.Sprintf("%.1f", m.value)
		case isPart:
			parts = append(parts, name+" "+span(m.value))
		case m.unit == "B/op" || m.unit == "allocs/op":
		default:
			rest = append(rest, strconv.FormatFloat(m.value, 'f', digits(m.value), 64)+" "+m.unit)
		}
	}
	slices.Sort(parts)
	fmt.Fprintf(out, layout, f.name, took, limit, ratio, strings.Join(parts, ", "), strings.Join(rest, ", "))
}

// digits is how many digits of v say something behind the point.
func digits(v float64) int {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return 0
	case v >= 10:
		return 1
	}
	return 2
}

// span writes nanoseconds for a person.
func span(ns float64) string {
	for _, unit := range []struct {
		of   float64
		name string
	}{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}} {
		if ns >= unit.of {
			return strconv.FormatFloat(ns/unit.of, 'g', 3, 64) + " " + unit.name
		}
	}
	return strconv.FormatFloat(ns, 'f', 0, 64) + " ns"
}
