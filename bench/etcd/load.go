package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"
)

// ttl is how long a lease lasts, of both.
const ttl = 20 * time.Second

// plan is what the processes of one engine are told.
type plan struct {
	Engine  string
	Dir     string // of the engine's files
	Voters  int
	Ports   []int // free ones of loopback, two for each voter
	Certs   certs
	Process int // which of the client processes this is
	Workers int // in it
}

// engine is one of the two that are compared.
type engine interface {
	name() string
	// node runs voter i until ctx ends, and says when it serves.
	node(ctx context.Context, p plan, i int, ready func()) error
	// connect is called once in each client process.
	connect(ctx context.Context, p plan) (connection, error)
}

type connection interface {
	// worker returns a client with a session and a lock of its own.
	worker(ctx context.Context, name, circle string) (worker, error)
	close() error
}

type worker interface {
	lock(ctx context.Context) error // acquires and releases
	assign(ctx context.Context, item string) (uint64, error)
	close(ctx context.Context) error
}

// order is what the parent asks of a client process, one JSON object a line.
type order struct {
	Work   string        // lock, assign (a circle each) or share (one circle for all)
	Active int           // how many of the workers take part
	For    time.Duration // how long
	Round  int           // makes items new
}

// outcome is what it answers.
type outcome struct {
	Micros  []int64 // of each operation
	Took    time.Duration
	Numbers []uint64 `json:",omitempty"` // of share
	Error   string   `json:",omitempty"`
}

// serveClient carries out orders until in ends.
func serveClient(ctx context.Context, e engine, p plan, in io.Reader, out io.Writer) error {
	conn, err := e.connect(ctx, p)
	if err != nil {
		return err
	}
	defer conn.close()
	var own, common []worker
	for i := range p.Workers {
		name := fmt.Sprintf("p%d-w%d", p.Process, i)
		for _, to := range []struct {
			list   *[]worker
			circle string
		}{{&own, name}, {&common, shared}} {
			w, err := conn.worker(ctx, name+"-"+to.circle, to.circle)
			if err != nil {
				return fmt.Errorf("worker %s: %w", name, err)
			}
			defer w.close(ctx)
			*to.list = append(*to.list, w)
		}
	}
	enc := json.NewEncoder(out)
	if err := enc.Encode(outcome{}); err != nil { // ready
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		var o order
		if err := json.Unmarshal(lines.Bytes(), &o); err != nil {
			return err
		}
		workers := own
		if o.Work == "share" {
			workers = common
		}
		if err := enc.Encode(carryOut(ctx, workers[:min(o.Active, len(workers))], o, p.Process)); err != nil {
			return err
		}
	}
	return lines.Err()
}

func carryOut(ctx context.Context, workers []worker, o order, process int) (all outcome) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	var failed error
	start := time.Now()
	end := start.Add(o.For)
	for i, w := range workers {
		wg.Go(func() {
			var micros []int64
			var numbers []uint64
			var err error
			for n := 0; err == nil && time.Now().Before(end); n++ {
				begin := time.Now()
				if o.Work == "lock" {
					err = w.lock(ctx)
				} else {
					var number uint64
					number, err = w.assign(ctx, fmt.Sprintf("r%d-p%d-w%d-%d", o.Round, process, i, n))
					numbers = append(numbers, number)
				}
				if err == nil {
					micros = append(micros, time.Since(begin).Microseconds())
				}
			}
			mu.Lock()
			defer mu.Unlock()
			all.Micros = append(all.Micros, micros...)
			if o.Work == "share" {
				all.Numbers = append(all.Numbers, numbers...)
			}
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	all.Took = time.Since(start)
	if failed != nil {
		all.Error = failed.Error()
	}
	return all
}

// result is what came of one order in all client processes.
type result struct {
	P50, P99, Max time.Duration
	Rate          float64 // operations a second
	Ops           int
}

func summarize(micros []int64, took time.Duration) result {
	slices.Sort(micros)
	if len(micros) == 0 {
		return result{}
	}
	at := func(q float64) time.Duration {
		return time.Duration(micros[int(q*float64(len(micros)-1))]) * time.Microsecond
	}
	return result{P50: at(0.5), P99: at(0.99), Max: at(1), Ops: len(micros), Rate: float64(len(micros)) / took.Seconds()}
}
