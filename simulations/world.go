// Package simulations runs whole practices in virtual time and checks that their promises hold.
//
// Nouns: a [World] is a practice of several devices with the real replica, session, trust, chunk and crdt code, on stores
// in memory that can lose what was not durable, joined by a network that partitions, loses, doubles and delays. Users
// edit, import, decide and delete at random; devices crash at every stage of a commit. The ledger records outside of all
// of them what was acknowledged. An invariant is a named promise, checked while the world runs and when it has come to
// rest; a [Failure] is the first one that did not hold, with the steps that led there.
//
// Guarantees: one goroutine, one seed, no clock: the same seed gives the same steps (see docs/simulation.md for what has
// to hold for that). What a world finds is therefore found again by the command that a failing test prints.
//
// Transport, discovery and the supervision of the engine's process are left to the tests of their own packages.
package simulations

import (
	"container/heap"
	"context"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Config says what a world is like. The zero value of every field but Seed is useful.
type Config struct {
	Seed    uint64
	Devices int // at the start; zero: 5. One more joins on the way.
	Writes  int // tries of users; zero: 160
	// Removals has administrators remove devices, instead of disks go back.
	Removals bool
	// Anchor has an anchor hold what the devices write. In some of these worlds they reach nobody else.
	Anchor bool
}

// Report is what a world went through.
type Report struct {
	Seed                               uint64
	Writes, Imports, Decisions         int // acknowledged
	Frames, Crashes, Partitions        int
	Rollbacks, Clones                  int
	Stages                             map[string]int // crashes and failures by stage of the commit
	Conflicts, Changes, Digests, Steps int
	Checkpoints, Deleted               int
	Removed, Barred, Spared            int // devices, and what they wrote beyond their cuts: taken out, or built on
	Apart                              int // devices that belong by what most know, and let none of these in
	Readmitted, AnchorReadmitted       int // times that a device was let in again by entries that it brought; by the anchor
	Said                               int // times that a member said a key which no administrator had
	AnchorDeleted                      int // chunks that checkpoints stand for
	AnchorBack, AnchorWiped, Newcomers int
	Virtual                            time.Duration
	Trace                              uint64 // a hash of all steps
}

// Failure is an invariant that did not hold.
type Failure struct {
	Seed      uint64
	Invariant string
	Detail    string
	Trace     []string // the last steps
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d: %s: %s", f.Seed, f.Invariant, f.Detail)
}

// What a world keeps to.
const (
	defaultDevices = 5
	defaultWrites  = 160
	traceLength    = 30
	healLimit      = 30 * time.Minute // virtual, until a healed network must agree
	compactRounds  = 3                // at rest
)

var crcTable = crc64.MakeTable(crc64.ISO)

// World is one run.
type World struct {
	ctx     context.Context
	cfg     Config
	rng     *rand.Rand
	now     time.Time
	start   time.Time
	queue   queue
	serial  uint64 // of events, so that equal times have an order
	devices []*device
	net     network
	ledger  *ledger
	users   users
	healed  bool // from here on nothing breaks any more
	trace   []string
	failure *Failure
	report  Report

	membership membership
	anchor     *anchor // nil: there is none, or not yet
	anchorRand *rand.Rand
}

// Run runs one world to its end, or to the first invariant that does not hold.
func Run(ctx context.Context, cfg Config) (Report, *Failure) {
	if cfg.Devices == 0 {
		cfg.Devices = defaultDevices
	}
	if cfg.Writes == 0 {
		cfg.Writes = defaultWrites
	}
	w := &World{
		ctx: ctx, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x63686172746d6573)),
		start: time.Date(2026, 11, 22, 8, 0, 0, 0, time.UTC), ledger: newLedger(),
	}
	w.now, w.report.Seed, w.report.Stages = w.start, cfg.Seed, map[string]int{}
	defer w.close()
	w.runAll()
	w.report.Virtual = w.now.Sub(w.start)
	return w.report, w.failure
}

// runAll lets the whole life of the world happen.
func (w *World) runAll() {
	defer func() {
		if r := recover(); r != nil {
			w.fail("I-sound", "panic: %v\n%s", r, debug.Stack())
		}
	}()
	w.found()
	w.connectAll()
	w.scheduleUsers()
	w.scheduleFaults()
	w.scheduleCompaction()
	w.scheduleRemovals()
	w.run(func() bool { return w.users.left == 0 })
	w.heal()
	w.checkRest()
}

func (w *World) close() {
	for _, d := range w.devices {
		d.stop()
	}
}

// event is something that will happen.
type event struct {
	at    time.Time
	order uint64
	chaos bool // not any more once the world is healed
	do    func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	if !q[i].at.Equal(q[j].at) {
		return q[i].at.Before(q[j].at)
	}
	return q[i].order < q[j].order
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	x := old[len(old)-1]
	*q = old[:len(old)-1]
	return x
}

// after has do called later; chaos marks what a healed world leaves out.
func (w *World) after(d time.Duration, chaos bool, do func()) {
	w.serial++
	heap.Push(&w.queue, event{at: w.now.Add(d), order: w.serial, chaos: chaos, do: do})
}

// run lets things happen until done says so, nothing is left to happen, or an invariant has failed.
func (w *World) run(done func() bool) {
	for w.failure == nil && len(w.queue) > 0 && !done() {
		e := heap.Pop(&w.queue).(event)
		if e.at.After(w.now) {
			w.now = e.at
		}
		if e.chaos && w.healed {
			continue
		}
		w.report.Steps++
		e.do()
		w.checkAll()
	}
}

// heal repairs everything and lets the world come to rest.
func (w *World) heal() {
	if w.failure != nil {
		return
	}
	w.note("heal")
	w.healed = true
	w.net.heal(w)
	for _, d := range w.devices {
		d.armed, d.slow = nil, 10*time.Millisecond
		if d.replica == nil {
			d.restart()
		}
		d.wakeApplier()
	}
	if w.addAnchor(); w.anchor != nil {
		w.anchor.mend()
	}
	w.connectAll()
	end := w.now.Add(healLimit)
	rest := func() { w.run(func() bool { return w.atRest() || w.now.After(end) }) }
	rest()
	for range compactRounds { // words, what they allow, and what was packed meanwhile
		for _, d := range w.devices {
			if w.failure == nil {
				d.compact(true)
			}
		}
		rest()
		if w.failure == nil && w.anchor != nil {
			w.anchor.settleAll()
			rest()
		}
	}
	if w.failure == nil && !w.atRest() {
		w.fail("I-equal", "the devices do not agree %v after the network healed: %s", healLimit, w.net.statuses())
	}
}

// atRest reports whether every device has applied all it holds and every session agrees.
func (w *World) atRest() bool {
	for _, d := range w.remaining() {
		if d.replica == nil || !d.replica.AtEnd() {
			return false
		}
	}
	return w.net.agreed(w.parties()) && w.settled()
}

// chance is true once in n times.
func (w *World) chance(n int) bool { return w.rng.IntN(n) == 0 }

// between returns a random duration.
func (w *World) between(least, most time.Duration) time.Duration {
	return least + time.Duration(w.rng.Int64N(int64(most-least)+1))
}

// note adds a step to the trace.
func (w *World) note(format string, args ...any) {
	step := fmt.Sprintf("%9.3fs  ", w.now.Sub(w.start).Seconds()) + fmt.Sprintf(format, args...)
	w.report.Trace = w.report.Trace*1099511628211 ^ crc64.Checksum([]byte(step), crcTable)
	w.trace = append(w.trace, step)
	if len(w.trace) > traceLength {
		w.trace = w.trace[1:]
	}
}

// fail records the first invariant that does not hold.
func (w *World) fail(invariant, format string, args ...any) {
	if w.failure != nil {
		return
	}
	w.failure = &Failure{Seed: w.cfg.Seed, Invariant: invariant, Detail: fmt.Sprintf(format, args...)}
	w.failure.Trace = append(w.failure.Trace, w.trace...)
}
