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
	"chartmesh/lockquorum/certificate"
	"chartmesh/lockquorum/voter"
	"chartmesh/trust"
)

// host is a machine that votes, or may come to.
type host struct {
	w      *World
	index  int
	device lockquorum.DeviceID
	rate   float64 // of its clock
	node   *voter.Node
	boot   uint64
	disk   disk
	copies []stored // of its disk, as it was
	full   bool
	fails  bool        // its disk: the next write is lost, and it says so
	gone   []*pb.Entry // of a mutant: that were lost, though they were read afterwards

	paused    time.Duration // until then
	suspended time.Duration // how long its clock has stood still
	wall      time.Duration // how far its time of day is off
	leads     bool
	answers   map[uint64]func(reply)
	early     *lockquorum.State // of a mutant
	freezing  *voter.Freezing   // its pieces are being stored
	met       begin             // who votes, as the machine has heard

	past      past // how far the ledger knows that it came
	noted     uint64
	certified map[lockquorum.DocumentID]lockquorum.Heads
	tokens    map[lockquorum.LockID]lockquorum.Token
}

// disk is what a machine wrote, and what of it is durable.
type disk struct{ now, durable stored }

// stored is what a machine keeps.
type stored struct {
	voter.Stored
	id    uint64 // of its voter; zero: it has none
	begin begin  // what that joined
	lost  bool   // it does not go on
}

// begin is a quorum that a voter joins: it hears these until it has a State.
type begin struct {
	epoch  uint64
	voters []lockquorum.Voter
}

func newHost(w *World, i int) *host {
	return &host{w: w, index: i, device: lockquorum.DeviceID{byte(i + 1)}, rate: 1 + w.drift*(2*w.rng.Float64()-1)}
}

func cloneStored(s stored) stored {
	s.Entries = slices.Clone(s.Entries)
	return s
}

// found puts a voter on the disk that a quorum begins with, in the place of whatever was there.
func (h *host) found(id uint64, st *lockquorum.State) {
	h.replace(stored{Stored: *voter.Found(st), id: id, begin: begin{epoch: st.Epoch()}})
}

// join puts a voter on the disk that waits to be made one.
func (h *host) join(id uint64, of begin) {
	h.w.note("machine %d is to join epoch %d as voter %d", h.index, of.epoch, id)
	h.replace(stored{id: id, begin: of})
}

// replace puts something on the disk in the place of whatever was there, and starts.
func (h *host) replace(s stored) {
	h.node, h.full, h.fails = nil, false, false
	h.disk = disk{s, cloneStored(s)}
	if s.id != 0 {
		h.start()
	}
}

var (
	errDiskFull = errors.New("disk full")
	errSync     = errors.New("what was written is not durable")
)

// save stores a Batch as the driver does.
func (h *host) save(b voter.Batch) error {
	if h.full && (len(b.Entries) > 0 || b.Sync) {
		if h.w.cfg.Mutant == FullIgnored {
			return nil
		}
		return errDiskFull
	}
	d := &h.disk.now
	if b.Snapshot != nil {
		d.Snapshot, d.Pieces, d.Entries = b.Snapshot, b.Pieces, nil
	}
	if b.HardState != nil {
		d.HardState = b.HardState
	}
	if len(b.Entries) > 0 {
		first := b.Entries[0].GetIndex()
		d.Entries = append(slices.DeleteFunc(slices.Clone(d.Entries), func(e *pb.Entry) bool { return e.GetIndex() >= first }), b.Entries...)
	}
	if h.fails && b.Sync && h.w.cfg.Mutant == SyncIgnored {
		h.gone = append(h.gone, b.Entries...)
	}
	return h.sync(b.Sync)
}

// sync makes durable what was written. Where that fails, the system has let go of it, and would say of the next one that all is well.
func (h *host) sync(asked bool) error {
	switch {
	case !asked || h.w.cfg.Mutant == NoSync:
		return nil
	case h.w.cfg.Mutant == SyncIgnored:
		h.fails = false
	case h.fails:
		return errSync
	}
	h.disk.durable = cloneStored(h.disk.now)
	h.disk.durable.Entries = slices.DeleteFunc(h.disk.durable.Entries, func(e *pb.Entry) bool { return slices.Contains(h.gone, e) })
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
	if h.node != nil || h.disk.durable.id == 0 || h.disk.durable.lost && w.cfg.Mutant != EndedGoesOn {
		return
	}
	h.boot = w.rng.Uint64()
	h.answers, h.leads, h.early, h.freezing = map[uint64]func(reply){}, false, nil, nil
	from := cloneStored(h.disk.durable)
	h.disk.now = cloneStored(from)
	node, err := voter.Open(voter.Config{
		ID: from.id, Boot: h.boot, Heartbeat: 3, Election: 10, Prefer: w.prefer(), PreferAfter: 200, SnapshotEvery: w.snapshotEvery,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	}, &from.Stored)
	if err != nil {
		h.ends(err, from.begin.epoch)
		return
	}
	h.node = node
	h.restored(node.State())
	h.ticking()
	h.pump()
}

// restored notes what a State says that did not come command by command.
func (h *host) restored(st *lockquorum.State) {
	h.past, h.noted = pastOf(st.Seen()), st.Index()
	h.certified, h.tokens = map[lockquorum.DocumentID]lockquorum.Heads{}, map[lockquorum.LockID]lockquorum.Token{}
	for _, l := range st.Leases() {
		h.tokens[l.Lock] = l.Token
		for _, d := range l.Documents {
			h.certified[d.ID] = d.Heads
		}
	}
}

// ends has a voter not go on, for good.
func (h *host) ends(err error, epoch uint64) {
	w := h.w
	w.note("voter of machine %d ends: %v", h.index, err)
	switch over := errors.Is(err, voter.ErrOver); {
	case over && len(w.ledger.epochs) < 2:
		w.fail("I-sound", "voter of machine %d ends: %v", h.index, err)
	case over:
		w.report.Over++
	case !w.ledger.back[epoch]:
		w.fail("I-sound", "voter of machine %d ends, and no disk went back: %v", h.index, err)
	default:
		w.report.Lost++
	}
	h.node = nil
	h.disk.now.lost, h.disk.durable.lost = true, true
	if w.cfg.Mutant == EndedGoesOn {
		w.after(time.Second, h.start)
	}
}

// epoch and voters are the State's, or those that this voter begins with.
func (h *host) epoch() uint64 {
	if h.node != nil && h.node.State().Epoch() > 0 {
		return h.node.State().Epoch()
	}
	return h.disk.now.begin.epoch
}

func (h *host) voters() []lockquorum.Voter {
	if h.node != nil && h.node.State().Epoch() > 0 {
		return h.node.State().Voters()
	}
	return h.disk.now.begin.voters
}

// known are those that messages are taken from.
func (h *host) known() []lockquorum.Voter {
	if h.met.epoch != h.epoch() {
		return h.voters()
	}
	return slices.Concat(h.voters(), h.met.voters)
}

// latest returns the State that all amounts to that a machine has stored, and how far that is; zero: it has none, or cannot say.
func (h *host) latest() (*lockquorum.State, voter.Reach) {
	on := &h.disk.durable
	if on.id == 0 || on.Snapshot == nil {
		return nil, voter.Reach{}
	}
	st, far, err := voter.Latest(&on.Stored)
	if err != nil {
		return nil, voter.Reach{}
	}
	l := &h.w.ledger
	var before past
	certified := map[lockquorum.LockID]lockquorum.Heads{}
	for n := 0; l.pasts[pastOf(st.Seen())].depth == 0 && n <= len(on.Entries); n++ { // the ledger comes to know all on the way there
		s := on.Stored
		s.Entries, s.HardState = on.Entries[:n], &pb.HardState{Term: on.HardState.Term}
		some, _, err := voter.Latest(&s)
		if err != nil {
			h.w.fail("I-sound", "a part of a log does not read: %v", err)
			return nil, voter.Reach{}
		}
		at := pastOf(some.Seen())
		if _, known := l.pasts[at]; !known {
			l.pasts[at] = passage{before, l.pasts[before].depth + 1}
		}
		before = at
		for _, lock := range some.Leases() {
			for _, d := range lock.Documents {
				l.certifies(h.w, certified[lock.Lock], d.Heads)
				certified[lock.Lock] = d.Heads
			}
		}
	}
	return st, far
}

func (h *host) runs() bool { return h.node != nil && h.w.now >= h.paused }

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
	h.w.note("machine %d pauses for %v", h.index, d)
	h.paused = max(h.paused, h.w.now+d)
}

// suspend has the machine sleep: nothing runs, and its clock stands still.
func (h *host) suspend(d time.Duration) {
	if h.w.now < h.paused {
		return
	}
	h.w.report.Suspensions++
	h.w.note("machine %d sleeps for %v", h.index, d)
	h.paused = h.w.now + d
	h.suspended += d
}

// crash ends the voter's process; power: the machine's, with what was not durable.
func (h *host) crash(why string, power bool) {
	if h.node == nil {
		return
	}
	w := h.w
	w.note("machine %d: %s", h.index, why)
	w.report.Crashes++
	if !power && w.cfg.Mutant != NoSync && w.cfg.Mutant != SyncIgnored {
		h.disk.durable = cloneStored(h.disk.now)
	}
	h.node = nil
	h.full, h.fails = false, false
	w.after(w.between(100*time.Millisecond, 4*time.Second), h.start)
}

// deliver takes a message when the machine runs.
func (h *host) deliver(from lockquorum.DeviceID, epoch uint64, seen lockquorum.Seen, b []byte, pieces lockquorum.Pieces) {
	if h.node == nil {
		return
	}
	if h.w.now < h.paused {
		node := h.node
		h.w.after(h.paused-h.w.now, func() {
			if h.node == node {
				h.deliver(from, epoch, seen, b, pieces)
			}
		})
		return
	}
	m := &pb.Message{}
	if err := proto.Unmarshal(b, m); err != nil {
		h.w.fail("I-sound", "a message does not read: %v", err)
		return
	}
	if h.w.cfg.Mutant != NoWitness {
		h.node.Shown(seen)
	}
	if epoch == h.epoch() && m.GetTo() == h.disk.now.id && slices.Contains(h.known(), lockquorum.Voter{ID: m.GetFrom(), Device: from}) {
		if m.GetType() != pb.MsgSnap {
			h.node.Step(m)
		} else if taken, err := voter.Assemble(m, pieces); err != nil {
			h.w.fail("I-sound", "a snapshot does not read: %v", err)
		} else {
			h.node.Take(taken)
		}
	}
	h.pump()
}

// pump does what the voter says, as the driver does.
func (h *host) pump() {
	for h.node != nil && h.w.failure == nil {
		b, ok := h.node.Batch()
		if err := h.node.Err(); err != nil {
			h.ends(err, h.epoch())
			return
		}
		if !ok {
			return
		}
		for _, m := range b.Ahead {
			h.send(m)
		}
		before, err := h.node.Before(h.stamp(), b)
		if err != nil {
			h.ends(err, h.epoch())
			return
		}
		if !h.done(before) {
			return
		}
		if err := h.save(b); err != nil {
			h.crash(err.Error(), true)
			return
		}
		for _, m := range b.Messages {
			h.send(m)
		}
		if b.Snapshot != nil {
			st, err := lockquorum.Assemble(b.Snapshot.GetData(), b.Pieces)
			if err != nil {
				h.w.fail("I-sound", "a snapshot does not read: %v", err)
				return
			}
			h.restored(st)
		}
		out, err := h.node.Advance(h.stamp(), b)
		if err != nil {
			h.ends(err, h.epoch())
			return
		}
		if !h.done(out) {
			return
		}
	}
}

func (h *host) send(m *pb.Message) {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		h.w.fail("I-sound", "a message does not marshal: %v", err)
		return
	}
	if h.disk.durable.lost {
		h.w.fail("I9", "machine %d sends messages, and had lost something that it had stored", h.index)
	}
	list := h.known()
	at := slices.IndexFunc(list, func(v lockquorum.Voter) bool { return v.ID == m.GetTo() })
	var pieces lockquorum.Pieces
	if m.GetType() == pb.MsgSnap {
		var ok bool
		if pieces, ok = h.node.Pieces(m); !ok {
			h.node.Sent(m.GetTo(), false)
			return
		}
	}
	if at >= 0 {
		to, epoch, seen := h.w.hostOf(list[at].Device), h.epoch(), h.node.State().Seen()
		h.w.send(h.index, to.index, func() { to.deliver(h.device, epoch, seen, b, pieces) })
	}
	if m.GetType() == pb.MsgSnap {
		node, took := h.node, at >= 0 && h.w.chance(80)
		h.w.after(h.w.between(10*time.Millisecond, 500*time.Millisecond), func() { // it hears how it went, or takes it for lost
			if h.node == node {
				node.Sent(m.GetTo(), took)
			}
		})
	} else if at < 0 {
		h.node.Unreachable(m.GetTo())
	}
}

func (h *host) done(out voter.Outcome) bool {
	w := h.w
	if out.Freezing != nil && !h.freezes(out.Freezing) {
		return false
	}
	if out.Led {
		if _, settled := h.node.Leader(); settled && !h.leads {
			w.report.Elections++
			w.note("machine %d leads epoch %d at %d", h.index, h.epoch(), h.node.State().Index())
		}
		_, h.leads = h.node.Leader()
	}
	w.ledger.applied(w, h)
	w.ledger.happened(w, h, out.Events)
	w.checkVoters(h)
	for _, a := range out.Answers {
		if answer := h.answers[a.Proposal]; answer != nil {
			delete(h.answers, a.Proposal)
			answer(h.reply(a.Result, a.Err))
		}
	}
	return true
}

// reply is an answer, with how far the voter has come.
type reply struct {
	lockquorum.Result
	err    error
	seen   lockquorum.Seen
	oldest uint64 // what its voter can compare begins there
	leader int    // another machine that may lead; below zero: none is known
	heads  lockquorum.Heads
	says   []certificate.Statement // of the lock that was asked about
}

func (h *host) reply(r lockquorum.Result, err error) reply {
	out := reply{Result: r, err: err, leader: -1}
	if h.node == nil {
		return out
	}
	if err == nil && h.disk.durable.lost {
		h.w.fail("I9", "machine %d answers, and had lost something that it had stored", h.index)
	}
	out.seen = h.node.State().Seen()
	out.oldest = h.node.Oldest()
	if id, _ := h.node.Leader(); id != 0 {
		for _, v := range h.voters() {
			if v.ID == id {
				out.leader = int(v.Device[0]) - 1
			}
		}
	}
	return out
}

// ask has the voter carry a command out, if it leads. With it comes how far whoever asks has seen the quorum come.
func (h *host) ask(c lockquorum.Command, seen []lockquorum.Seen, answer func(reply)) {
	if !h.runs() {
		return
	}
	if h.w.cfg.Mutant == NoWitness {
		seen = nil
	}
	number, err := h.node.Propose(h.stamp(), &c, seen...)
	if err != nil {
		answer(h.reply(lockquorum.Result{}, err))
		h.pump()
		return
	}
	then := func(r reply) {
		if lock, ok := lockquorum.LockOf(c.Operation); ok && r.err == nil && h.node != nil {
			st := h.node.State()
			says := certificate.Of(st, trust.EntryID{}, lock, documentOf(lock))
			r.heads, r.says = says.Heads, []certificate.Statement{says}
		}
		answer(r)
	}
	if h.w.cfg.Mutant == LeaderMemory {
		if h.early == nil || h.early.Index() < h.node.State().Index() {
			h.early, _ = lockquorum.Restore(h.node.State().Snapshot())
		}
		raw, _ := c.Marshal()
		r, _ := h.early.Apply(h.early.Index()+1, &c, raw)
		then(h.reply(r, nil))
	} else {
		h.answers[number] = then
	}
	h.pump()
}

// read has the voter answer with how far it has come, if it leads, and with all that was answered before.
func (h *host) read(seen []lockquorum.Seen, answer func(reply)) {
	if node := h.node; node == nil {
		return
	} else if h.w.now < h.paused { // it is read when the machine goes on
		h.w.after(h.paused-h.w.now, func() {
			if h.node == node {
				h.read(seen, answer)
			}
		})
		return
	}
	if _, settled := h.node.Leader(); settled && h.w.cfg.Mutant == ReadsMemory {
		answer(h.reply(lockquorum.Result{}, nil))
		return
	}
	if h.w.cfg.Mutant == NoWitness {
		seen = nil
	}
	if number, err := h.node.Read(seen...); err != nil {
		answer(h.reply(lockquorum.Result{}, err))
	} else {
		h.answers[number] = answer
	}
	h.pump()
}
