package quorum

import (
	"errors"
	"io"
	"log"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// host is a machine with a voter.
type host struct {
	w     *World
	index int
	id    uint64
	rate  float64 // of its clock
	node  *voter.Node
	boot  uint64
	disk  disk
	full  bool

	paused    time.Duration // until then
	suspended time.Duration // how long its clock has stood still
	wall      time.Duration // how far its time of day is off
	leads     bool
	answers   map[uint64]func(lockquorum.Result, error)
	early     *lockquorum.State // of a mutant
}

// disk is what a voter wrote, and what of it is durable.
type disk struct{ now, durable voter.Stored }

func newHost(w *World, i int, founding *lockquorum.State) *host {
	h := &host{w: w, index: i, id: uint64(i + 1), rate: 1 + drift*(2*w.rng.Float64()-1)}
	h.disk.now = *voter.Found(founding)
	h.disk.sync()
	h.start()
	return h
}

func (d *disk) sync() { d.durable = cloneStored(d.now) }

func cloneStored(s voter.Stored) voter.Stored {
	s.Entries = slices.Clone(s.Entries)
	return s
}

var errDiskFull = errors.New("disk full")

// save stores a Batch as the driver does.
func (h *host) save(b voter.Batch) error {
	if h.full && (len(b.Entries) > 0 || b.Sync) {
		return errDiskFull
	}
	d := &h.disk.now
	if b.Snapshot != nil {
		d.Snapshot, d.Entries = b.Snapshot, nil
	}
	if b.HardState != nil {
		d.HardState = b.HardState
	}
	if len(b.Entries) > 0 {
		first := b.Entries[0].GetIndex()
		d.Entries = append(slices.DeleteFunc(slices.Clone(d.Entries), func(e *pb.Entry) bool { return e.GetIndex() >= first }), b.Entries...)
	}
	if b.Sync && h.w.cfg.Mutant != NoSync {
		h.disk.sync()
	}
	return nil
}

// monotonic is the machine's clock, which stands still while it sleeps.
func (h *host) monotonic() time.Duration {
	return time.Duration(float64(h.w.now-h.suspended) * h.rate)
}

// stamp is the clock by which it stamps commands, if it leads.
func (h *host) stamp() time.Duration {
	if h.w.cfg.Mutant == WallClock {
		return h.monotonic() + h.wall
	}
	return h.monotonic()
}

func (h *host) start() {
	w := h.w
	h.boot = w.rng.Uint64()
	h.answers, h.leads, h.early = map[uint64]func(lockquorum.Result, error){}, false, nil
	from := cloneStored(h.disk.durable)
	h.disk.now = cloneStored(from)
	node, err := voter.Open(voter.Config{
		ID: h.id, Boot: h.boot, Election: 10, Prefer: 1, PreferAfter: 200, SnapshotEvery: 40,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	}, &from)
	if err != nil {
		w.fail("I-opens", "voter %d does not start: %v", h.index, err)
		return
	}
	h.node = node
	h.ticking()
	h.pump()
}

// ticking ticks until the process ends.
func (h *host) ticking() {
	node := h.node
	h.w.after(time.Duration(float64(tick)/h.rate), func() {
		if node == nil || h.node != node {
			return
		}
		if h.w.now >= h.paused {
			node.Tick()
			h.expire()
			h.pump()
		}
		h.ticking()
	})
}

// expire has the leader tick the replicated clock on when a lease may have ended.
func (h *host) expire() {
	if _, settled := h.node.Leader(); settled && h.node.Clock(h.stamp()) >= h.node.State().NextExpiry() {
		_, _ = h.node.Propose(h.stamp(), &lockquorum.Command{Operation: &lockquorum.Tick{}})
	}
}

func (h *host) pause(d time.Duration) {
	h.w.note("voter %d pauses for %v", h.index, d)
	h.paused = max(h.paused, h.w.now+d)
}

// suspend has the machine sleep: nothing runs, and its clock stands still.
func (h *host) suspend(d time.Duration) {
	if h.w.now < h.paused {
		return
	}
	h.w.report.Suspensions++
	h.w.note("voter %d sleeps for %v", h.index, d)
	h.paused = h.w.now + d
	h.suspended += d
}

func (h *host) crash(why string) {
	if h.node == nil {
		return
	}
	w := h.w
	w.note("voter %d: %s", h.index, why)
	w.report.Crashes++
	h.node = nil
	h.full = false
	w.after(w.between(100*time.Millisecond, 4*time.Second), func() {
		if h.node == nil {
			h.start()
		}
	})
}

// deliver takes a message when the machine runs.
func (h *host) deliver(b []byte) {
	if h.node == nil {
		return
	}
	if h.w.now < h.paused {
		node := h.node
		h.w.after(h.paused-h.w.now, func() {
			if h.node == node {
				h.deliver(b)
			}
		})
		return
	}
	m := &pb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		h.w.fail("I-sound", "a message does not read: %v", err)
		return
	}
	h.node.Step(m)
	h.pump()
}

// pump does what the voter says, as the driver does.
func (h *host) pump() {
	for h.node != nil && h.w.failure == nil {
		b, ok := h.node.Batch()
		if !ok {
			return
		}
		if err := h.save(b); err != nil {
			h.crash("it cannot store, and ends")
			return
		}
		for _, m := range b.Messages {
			h.send(m)
		}
		out, err := h.node.Advance(h.stamp(), b)
		if err != nil {
			h.w.fail("I-sound", "voter %d cannot go on: %v", h.index, err)
			return
		}
		h.done(out)
		if st := h.node.State(); st.Index() > 0 {
			h.w.ledger.applied(h.w, h, st)
		}
	}
}

func (h *host) send(m *pb.Message) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		h.w.fail("I-sound", "a message does not marshal: %v", err)
		return
	}
	to := int(m.GetTo()) - 1
	h.w.send(h.index, to, func() { h.w.hosts[to].deliver(b) })
	if m.GetType() == pb.MsgSnap {
		h.node.Sent(m.GetTo(), true)
	}
}

func (h *host) done(out voter.Outcome) {
	if out.Snapshot != nil {
		h.w.report.Snapshots++
		d := &h.disk.now
		d.Snapshot = out.Snapshot
		d.Entries = slices.DeleteFunc(slices.Clone(d.Entries), func(e *pb.Entry) bool { return e.GetIndex() <= out.Forget })
		if h.w.cfg.Mutant != NoSync {
			h.disk.sync()
		}
	}
	if out.Led {
		if _, settled := h.node.Leader(); settled && !h.leads {
			h.w.report.Elections++
			h.w.note("voter %d leads", h.index)
		}
		_, h.leads = h.node.Leader()
	}
	h.w.ledger.happened(h.w, h.node.State(), out.Events)
	for _, a := range out.Answers {
		if answer := h.answers[a.Proposal]; answer != nil {
			delete(h.answers, a.Proposal)
			answer(a.Result, a.Err)
		}
	}
}

// ask has the voter carry a command out, if it leads.
func (h *host) ask(c lockquorum.Command, answer func(lockquorum.Result, error)) {
	if h.node == nil || h.w.now < h.paused {
		return
	}
	number, err := h.node.Propose(h.stamp(), &c)
	if err != nil {
		answer(lockquorum.Result{}, err)
		return
	}
	if h.w.cfg.Mutant == LeaderMemory {
		if h.early == nil || h.early.Index() < h.node.State().Index() {
			h.early, _ = lockquorum.Restore(h.node.State().Snapshot())
		}
		raw, _ := c.Marshal()
		r, _ := h.early.Apply(h.early.Index()+1, &c, raw)
		answer(r, nil)
	} else {
		h.answers[number] = answer
	}
	h.pump()
}
