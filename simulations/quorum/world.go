// Package quorum runs voters and clients of package lockquorum in virtual time: the real state machine and voter code, on clocks that run
// apart, machines that crash, pause and sleep, disks that fill, fail and go back, administrators who change who votes and found the quorum anew, and a network that
// loses, repeats, reorders and parts.
//
// Nouns: a World is one seed's run; a host is a machine that may vote, with its disk; a client holds leases, writes and takes numbers; the ledger is what an
// outsider knows of all of it, against which the invariants are checked; a past names a history.
//
// Guarantees: a seed gives the same run every time. Invariants have the names of docs/spec/lockquorum.md.
package quorum

import (
	"container/heap"
	"fmt"
	"hash/crc64"
	"math/rand/v2"
	"time"

	"chartmesh/lockquorum"
)

// Mutant names a fault that is put in on purpose, and has to be found.
type Mutant string

// Mutants.
const (
	WallClock    Mutant = "wall-clock"     // leaders stamp commands with the time of day
	NoDrift      Mutant = "no-drift"       // holders allow nothing for clocks that run apart
	NoBarrier    Mutant = "no-barrier"     // holders write on what they have, without what was certified before
	NoSync       Mutant = "no-sync"        // voters send before what they wrote is durable
	LeaderMemory Mutant = "leader-memory"  // leaders answer before a majority has the command
	ReadsMemory  Mutant = "reads-memory"   // leaders answer who reads without asking whether they still lead
	TTLFromReply Mutant = "ttl-from-reply" // holders count their time from the answer, and not from when they asked

	NoSnapshot     Mutant = "no-snapshot"     // voters make no snapshot after a change of voters
	RestAtTwo      Mutant = "rest-at-two"     // voters are added one at a time
	NoWitness      Mutant = "no-witness"      // voters do not look at what they are shown
	SameEpoch      Mutant = "same-epoch"      // the next epoch is the one after the last
	PartsForgotten Mutant = "parts-forgotten" // a quorum is founded anew without the parts of ranges that devices have
	LogKept        Mutant = "log-kept"        // a device that was put back to an image goes on giving numbers from its parts
	TokenOrder     Mutant = "token-order"     // replicas accept what has no smaller token than what they have
	AppliedOnly    Mutant = "applied-only"    // a quorum is founded anew with what a voter has applied, and not with all that it has stored
	FullIgnored    Mutant = "full-ignored"    // voters go on when their disk is full
	EndedGoesOn    Mutant = "ended-goes-on"   // voters that ended since they had lost something are started again
	SyncIgnored    Mutant = "sync-ignored"    // voters go on when their disk says that something is not durable
)

// meant reports whether a seed's world has what a mutant needs to do harm.
func (m Mutant) meant(seed uint64) bool {
	k, drift, _ := kindOf(seed)
	switch m {
	case NoDrift:
		return drift > 0.02
	case NoSnapshot, RestAtTwo:
		return k.changes
	case NoWitness, SameEpoch, PartsForgotten, AppliedOnly, EndedGoesOn:
		return k.back
	}
	return true
}

// Config is a run.
type Config struct {
	Seed     uint64
	Duration time.Duration // of trouble, after which everything heals; zero: 80 s
	Mutant   Mutant
}

// Report says what a run went through.
type Report struct {
	Elections, Crashes, Grants, Commits, Late, Numbers, Snapshots, Suspensions int
	// Changes of voters that somebody wanted, and that came about; voters that were replaced.
	Changes, Changed, Replaced int
	// Machines put back to a copy or wiped, and what came of it: voters that ended since they had lost something, or their epoch was over.
	PutBack, Wiped, Lost, Over int
	Reseeds, Twins             int // twins: two made apart
	Breaks, Backs, Cancels     int
	Ends, Images               int
	Parts, Patients, Voids     int
	Reads                      int
	Accepted                   int
	// What nobody could know of whom it was asked for: histories that parted, and what was given or lost in one of them.
	Forks, Doubled, LostCommits, LostAtReseed, Unseen, TwoEpochs int

	Trace uint64 // a hash of all steps, which one seed gives again
}

var crcTable = crc64.MakeTable(crc64.ECMA)

// Failure is an invariant that does not hold.
type Failure struct {
	Seed      uint64
	Invariant string
	Detail    string
	Trace     []string
}

func (f *Failure) Error() string {
	return fmt.Sprintf("seed %d: %s: %s", f.Seed, f.Invariant, f.Detail)
}

// World is one run.
type World struct {
	cfg     Config
	rng     *rand.Rand
	now     time.Duration // true time
	queue   events
	count   int
	hosts   []*host
	clients []*client
	cut     map[[2]int]bool // from, to
	calm    bool
	ledger  ledger
	report  Report
	failure *Failure
	trace   []string
	admins  []*admin
	numbers uint64                    // of voters, the last one
	broke   map[lockquorum.Heads]bool // to which a break takes a document back

	kind           kind
	drift, epsilon float64
	snapshotEvery  uint64
}

// kind says what a world is about, besides what is in all of them.
type kind struct {
	changes bool // who votes changes
	back    bool // disks go back
}

// kindOf returns a seed's. Half of the worlds have clocks that run apart as far as it is assumed; half so much that a holder who allows nothing for it is found out.
func kindOf(seed uint64) (k kind, drift, epsilon float64) {
	k = kind{changes: seed%4 == 1 || seed%4 == 3, back: seed%4 >= 2}
	if seed%8 < 4 {
		return k, 0.015, 0.03
	}
	return k, 0.05, 0.11
}

// Timings of a quorum on a LAN.
const (
	tick        = 20 * time.Millisecond
	ttl         = 3 * time.Second
	traceLength = 60
	machines    = 5
	clients     = 5
	firstEpoch  = 1
)

// Run runs a world, and returns the first invariant that does not hold.
func Run(cfg Config) (Report, *Failure) {
	if cfg.Duration == 0 {
		cfg.Duration = 80 * time.Second
	}
	w := &World{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x71756f72756d)), cut: map[[2]int]bool{}, broke: map[lockquorum.Heads]bool{}, numbers: 10}
	w.kind, w.drift, w.epsilon = kindOf(cfg.Seed)
	w.snapshotEvery = 10 + w.rng.Uint64N(50)
	w.ledger.init()
	for i := range machines {
		w.hosts = append(w.hosts, newHost(w, i))
	}
	w.begin()
	for i := range clients {
		w.clients = append(w.clients, newClient(w, i))
	}
	for i := range 2 {
		w.admins = append(w.admins, newAdmin(w, 20+i))
	}
	if w.kind.back {
		w.copies()
	}
	w.trouble()
	w.until(cfg.Duration)
	w.heal()
	w.until(cfg.Duration + 60*time.Second)
	if w.failure == nil {
		w.checkRest()
	}
	return w.report, w.failure
}

// begin founds the quorum: with three voters, or with one that becomes more.
func (w *World) begin() {
	n := 3
	if w.kind.changes && w.chance(60) || w.kind.back && w.chance(50) {
		n = 1
	}
	st := lockquorum.New(firstEpoch)
	var list []lockquorum.Voter
	for _, h := range w.hosts[:n] {
		list = append(list, lockquorum.Voter{ID: uint64(h.index + 1), Device: h.device})
	}
	st.Reseed(firstEpoch, list)
	w.ledger.founded(st, past{})
	for i, v := range list {
		w.hosts[i].found(v.ID, st)
	}
}

// prefer returns the voter that is to lead when it is well: the first machine's.
func (w *World) prefer() uint64 { return w.hosts[0].disk.durable.id }

func (w *World) hostOf(device lockquorum.DeviceID) *host { return w.hosts[device[0]-1] }

// event is something that happens at a moment.
type event struct {
	at  time.Duration
	seq int
	do  func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	old := *q
	e := old[len(old)-1]
	*q = old[:len(old)-1]
	return e
}

// after has something happen when a time has gone by.
func (w *World) after(d time.Duration, do func()) {
	w.count++
	heap.Push(&w.queue, event{w.now + d, w.count, do})
}

func (w *World) until(end time.Duration) {
	for len(w.queue) > 0 && w.queue[0].at <= end && w.failure == nil {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	w.now = max(w.now, end)
}

func (w *World) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)))
}

func (w *World) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *World) note(format string, args ...any) {
	step := fmt.Sprintf("%8.3fs  ", w.now.Seconds()) + fmt.Sprintf(format, args...)
	w.report.Trace = w.report.Trace*1099511628211 ^ crc64.Checksum([]byte(step), crcTable)
	w.trace = append(w.trace, step)
	if len(w.trace) > traceLength {
		w.trace = w.trace[1:]
	}
}

func (w *World) fail(invariant, format string, args ...any) {
	if w.failure == nil {
		w.failure = &Failure{w.cfg.Seed, invariant, fmt.Sprintf(format, args...), append([]string(nil), w.trace...)}
	}
}

// send carries something from one machine to another: late, twice or not at all.
func (w *World) send(from, to int, do func()) {
	if w.cut[[2]int{from, to}] || !w.calm && w.chance(3) {
		return
	}
	deliver := func() {
		if !w.cut[[2]int{from, to}] {
			do()
		}
	}
	d := w.between(time.Millisecond, 30*time.Millisecond)
	if !w.calm && w.chance(2) {
		d += w.between(0, 400*time.Millisecond)
	}
	w.after(d, deliver)
	if !w.calm && w.chance(2) {
		w.after(d+w.between(0, 200*time.Millisecond), deliver)
	}
}

// machines returns the numbers of all machines, for the network.
func (w *World) machines() (list []int) {
	for _, h := range w.hosts {
		list = append(list, h.index)
	}
	for _, c := range w.clients {
		list = append(list, c.index)
	}
	for _, a := range w.admins {
		list = append(list, a.index)
	}
	return list
}

// trouble makes trouble now and then, until the network heals.
func (w *World) trouble() {
	w.after(w.between(200*time.Millisecond, 3*time.Second), func() {
		if w.calm {
			return
		}
		h, c := w.hosts[w.rng.IntN(machines)], w.clients[w.rng.IntN(clients)]
		if w.kind.back && w.chance(12) {
			w.goBack()
		}
		switch w.rng.IntN(15) {
		case 0:
			h.crash("its voter crashes", false)
		case 1:
			h.crash("no power", true)
		case 2:
			h.full = true
			w.note("machine %d: disk full", h.index)
		case 12:
			h.fails = true
			w.note("machine %d: its disk is failing", h.index)
		case 13:
			if w.kind.back || w.kind.changes {
				c.image()
			}
		case 14:
			w.strand()
		case 3:
			h.pause(w.between(100*time.Millisecond, 4*time.Second))
		case 4: // one way
			a, b := w.machines(), w.machines()
			from, to := a[w.rng.IntN(len(a))], b[w.rng.IntN(len(b))]
			w.note("cut %d to %d", from, to)
			w.cut[[2]int{from, to}] = true
			w.after(w.between(time.Second, 6*time.Second), func() { delete(w.cut, [2]int{from, to}) })
		case 5, 6: // both ways, into two parts
			var one, other []int
			for _, m := range w.machines() {
				if w.chance(50) {
					one = append(one, m)
				} else {
					other = append(other, m)
				}
			}
			w.note("partition %v %v", one, other)
			w.part(one, other, true)
			w.after(w.between(time.Second, 8*time.Second), func() { w.part(one, other, false) })
		case 7:
			h.wall += w.between(-24*time.Hour, 24*time.Hour)
			w.note("machine %d: its time of day is set", h.index)
		case 8:
			c.suspend(w.between(500*time.Millisecond, 8*time.Second))
		case 9:
			c.crash()
		case 10:
			h.suspend(w.between(500*time.Millisecond, 6*time.Second))
		case 11:
			if !c.sleeps {
				c.wall += w.between(-24*time.Hour, 24*time.Hour)
				w.note("client %d: its time of day is set", c.index)
			}
		}
		w.trouble()
	})
}

// strand has who leads stand still, and cuts it off from the other machines until a while after it goes on: to clients that reach it, it is the leader that it was. Where quorums
// are founded anew, sometimes all that vote stand still but one, which may have stored what the leader alone knows to be agreed on, until somebody does that.
func (w *World) strand() {
	for _, h := range w.hosts {
		if !h.runs() || !h.leads {
			continue
		}
		var others []int
		for _, o := range w.hosts {
			if o != h {
				others = append(others, o.index)
			}
		}
		if left := w.hosts[w.rng.IntN(machines)]; w.kind.back && left != h && w.chance(50) {
			for _, o := range w.hosts {
				if o != left && o.runs() {
					o.pause(w.between(8*time.Second, 12*time.Second))
				}
			}
			return
		}
		d := w.between(500*time.Millisecond, 4*time.Second)
		h.pause(d)
		w.part([]int{h.index}, others, true)
		w.after(d+w.between(0, time.Second), func() { w.part([]int{h.index}, others, false) })
		return
	}
}

func (w *World) part(one, other []int, cut bool) {
	for _, a := range one {
		for _, b := range other {
			if cut {
				w.cut[[2]int{a, b}], w.cut[[2]int{b, a}] = true, true
			} else {
				delete(w.cut, [2]int{a, b})
				delete(w.cut, [2]int{b, a})
			}
		}
	}
}

// heal ends all trouble.
func (w *World) heal() {
	w.note("everything heals")
	w.calm = true
	clear(w.cut)
	for _, h := range w.hosts {
		h.full, h.fails, h.paused = false, false, 0
		h.start()
	}
}
