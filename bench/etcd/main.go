package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"chartmesh/agent"
)

var engines = []engine{etcdEngine{}, meshEngine{}}

func main() {
	agent.ChildMain()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	if role := os.Getenv("BENCH_ROLE"); role != "" {
		err = child(ctx, role)
	} else {
		err = compare(ctx)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// child is one process of an engine: a voter, or clients.
func child(ctx context.Context, role string) error {
	var p plan
	if err := json.Unmarshal([]byte(os.Getenv("BENCH_PLAN")), &p); err != nil {
		return err
	}
	i := slices.IndexFunc(engines, func(e engine) bool { return e.name() == p.Engine })
	if i < 0 {
		return fmt.Errorf("no engine %q", p.Engine)
	}
	if role == "clients" {
		return serveClient(ctx, engines[i], p, os.Stdin, os.Stdout)
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with its parent
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	return engines[i].node(ctx, p, p.Process, func() { fmt.Println("ready") })
}

// process is a child that runs.
type process struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
	raw io.Reader
}

func start(role string, p plan) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "BENCH_ROLE="+role, "BENCH_PLAN="+string(text))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &process{cmd: cmd, in: in, out: json.NewDecoder(out), raw: out}, cmd.Start()
}

func (c *process) stop() {
	_ = c.in.Close()
	_ = c.cmd.Wait()
}

// cluster is an engine's voters and clients.
type cluster struct {
	engine  engine
	voters  []*process
	clients []*process
}

// begin starts all of an engine.
func begin(e engine, dir string, voters, processes, workers int, c certs) (*cluster, error) {
	p := plan{Engine: e.name(), Dir: filepath.Join(dir, fmt.Sprintf("%s-%d", e.name(), voters)), Voters: voters, Certs: c, Workers: workers}
	if err := os.MkdirAll(p.Dir, 0o700); err != nil {
		return nil, err
	}
	var err error
	if p.Ports, err = freePorts(2 * voters); err != nil {
		return nil, err
	}
	all := &cluster{engine: e}
	for i := range voters {
		p.Process = i
		v, err := start("voter", p)
		if err != nil {
			all.stop()
			return nil, err
		}
		all.voters = append(all.voters, v)
	}
	for i, v := range all.voters {
		if _, err := io.ReadFull(v.raw, make([]byte, len("ready\n"))); err != nil {
			all.stop()
			return nil, fmt.Errorf("%s: voter %d did not start: %w", e.name(), i, err)
		}
	}
	for i := range processes {
		p.Process = i
		c, err := start("clients", p)
		if err == nil {
			all.clients = append(all.clients, c)
			var ready outcome
			err = c.out.Decode(&ready)
		}
		if err != nil {
			all.stop()
			return nil, fmt.Errorf("%s: clients %d did not start: %w", e.name(), i, err)
		}
	}
	return all, nil
}

func (c *cluster) stop() {
	for _, p := range slices.Concat(c.clients, c.voters) {
		p.stop()
	}
}

// run has so many clients work.
func (c *cluster) run(o order, clients int) (result, error) {
	active := 0
	for i, p := range c.clients {
		share := clients / len(c.clients)
		if i < clients%len(c.clients) {
			share++
		}
		if share == 0 {
			continue
		}
		o.Active = share
		if err := json.NewEncoder(p.in).Encode(o); err != nil {
			return result{}, err
		}
		active++
	}
	var micros []int64
	var took time.Duration
	numbers := map[uint64]bool{}
	for _, p := range c.clients[:active] {
		var got outcome
		if err := p.out.Decode(&got); err != nil {
			return result{}, fmt.Errorf("%s: %w", c.engine.name(), err)
		}
		if got.Error != "" {
			return result{}, fmt.Errorf("%s: %s: %s", c.engine.name(), o.Work, got.Error)
		}
		for _, n := range got.Numbers {
			if numbers[n] {
				return result{}, fmt.Errorf("%s: number %d was given twice", c.engine.name(), n)
			}
			numbers[n] = true
		}
		micros, took = append(micros, got.Micros...), max(took, got.Took)
	}
	return summarize(micros, took), nil
}

func freePorts(n int) (list []int, err error) {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		open = append(open, l)
		list = append(list, l.Addr().(*net.TCPAddr).Port)
	}
	return list, nil
}

// compare runs all engines in turn and prints a table.
func compare(ctx context.Context) error {
	var (
		dir       = flag.String("dir", "", "a folder on the disk that is to be measured (a temporary one)")
		length    = flag.Duration("time", 5*time.Second, "how long each piece takes")
		rounds    = flag.Int("rounds", 3, "how often the engines take turns")
		processes = flag.Int("processes", 4, "client processes of each engine")
		counts    = flag.String("voters", "3,1", "how many voters")
	)
	flag.Parse()
	if *dir == "" {
		tmp, err := os.MkdirTemp("", "bench-etcd")
		if err != nil {
			return err
		}
		defer os.RemoveAll(tmp)
		*dir = tmp
	}
	c, err := makeCerts(*dir)
	if err != nil {
		return err
	}
	for _, count := range strings.Split(*counts, ",") {
		var voters int
		if _, err := fmt.Sscan(count, &voters); err != nil || voters < 1 {
			return errors.New("--voters: numbers from 1 on, with commas between")
		}
		if err := side(ctx, *dir, voters, *processes, *rounds, *length, c); err != nil {
			return err
		}
	}
	return nil
}

// side compares the engines with so many voters.
func side(ctx context.Context, dir string, voters, processes, rounds int, length time.Duration, c certs) error {
	const most = 64
	var all []*cluster
	defer func() {
		for _, c := range all {
			c.stop()
		}
	}()
	for _, e := range engines {
		started, err := begin(e, dir, voters, processes, (most+processes-1)/processes, c)
		if err != nil {
			return err
		}
		all = append(all, started)
	}
	fmt.Printf("%d voters, %d client processes, median of %d rounds of %v\n", voters, processes, rounds, length)
	fmt.Printf("%-28s %-10s %10s %10s %10s %12s\n", "", "", "p50", "p99", "most", "a second")
	for _, piece := range []struct {
		what, work string
		clients    int
	}{
		{"acquire+release, 1 client", "lock", 1}, {"acquire+release, 64", "lock", most},
		{"assign, 1 client", "assign", 1}, {"assign, 64, a circle each", "assign", most}, {"assign, 64, one circle", "share", most},
	} {
		results := make([][]result, len(all))
		for round := range rounds {
			for i, c := range all {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r, err := c.run(order{Work: piece.work, For: length, Round: round}, piece.clients)
				if err != nil {
					return err
				}
				results[i] = append(results[i], r)
			}
		}
		var first result
		for i, list := range results {
			slices.SortFunc(list, func(a, b result) int { return int(a.P50 - b.P50) })
			r := list[len(list)/2]
			ratio := ""
			if i == 0 {
				first = r
			} else {
				ratio = fmt.Sprintf("  p50 × %.2f, rate × %.2f", float64(r.P50)/float64(first.P50), r.Rate/first.Rate)
			}
			fmt.Printf("%-28s %-10s %10v %10v %10v %12.0f%s\n", piece.what, all[i].engine.name(), r.P50, r.P99, r.Max, r.Rate, ratio)
		}
	}
	return nil
}
