// Package voter keeps a voter's copy of a lockquorum.State by Raft.
//
// Nouns: a Node is one voter; it is told of ticks, messages and commands, and says in a Batch what to store, and to whom to send what. An
// Answer is what became of a command that was proposed here.
//
// Guarantees: a Node looks at no clock, starts nothing and writes nothing. It says an Answer when the command is stored by a majority and
// applied here; the answer to one whose outcome it cannot know is ErrOutcomeUnknown, and to ask again under the same place in a session is
// safe. Commands get their time from the leader alone: the replicated clock of the last one that was applied, and what has gone by on the
// leader's own since it leads.
//
// Left to others: to store a Batch durably before its messages are sent, in order; to carry messages, each from whom it says; to tick.
//
// Sources: Ongaro and Ousterhout, In Search of an Understandable Consensus Algorithm (2014); Ongaro's dissertation (2014), for the order of
// writing and sending (10.2.1), leadership transfer (3.10) and PreVote (9.6).
package voter

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// Config is what a Node is told. Times count in ticks.
type Config struct {
	ID uint64
	// Boot is drawn by chance when the process starts: proposals of an earlier one are not taken for this one's.
	Boot uint64
	// Heartbeat is after how many ticks a leader says a word, 0: after each; Election after how many without one another is wanted.
	Heartbeat, Election int
	// Prefer is the voter that leads when it is well: the anchor. Zero: none.
	Prefer uint64
	// PreferAfter is for how many ticks it has to have been well.
	PreferAfter int
	// SnapshotEvery is after how many commands a snapshot is made. So many commands again are kept before it, for voters that are behind.
	SnapshotEvery uint64
	Logger        raft.Logger
}

// Stored is what a voter has on its disk: what Batches said.
type Stored struct {
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Pieces    lockquorum.Pieces // of the snapshot
	Entries   []*pb.Entry       // that follow the snapshot, without a gap; or overlap it
}

// Batch is what follows from what a Node was told.
type Batch struct {
	// HardState, Snapshot and Entries are to be stored. An entry takes the place of one with its index and all after that; a snapshot that of
	// all entries, also of those that follow it: they are of another history. Where Sync is set, durably before the messages are sent and before Advance is called. Nil: as it was.
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Pieces    *lockquorum.Frozen // of the snapshot
	Entries   []*pb.Entry
	Sync      bool
	// Ahead are a leader's entries for others, which may be sent before that: their disks need not wait for its own. Messages are to be sent after it.
	Ahead, Messages []*pb.Message

	ready raft.Ready
	taken *Taken
}

// Outcome is what came of a Batch that was carried out.
type Outcome struct {
	Answers []Answer
	Events  []lockquorum.Event
	// Freezing is what a snapshot is to be made of: its pieces are to be stored, and Compact to be called then. Nil: none is.
	Freezing *Freezing
	// Led says that this Node began or ceased to lead, or that another one does.
	Led bool
}

// Answer is what became of the proposal of a number.
type Answer struct {
	Proposal uint64
	Result   lockquorum.Result
	Index    uint64
	Err      error // ErrOutcomeUnknown; of a Read: ErrNotLeader
}

// Errors of Propose and Answers.
var (
	ErrNotLeader      = lockquorum.ErrNotLeader
	ErrBusy           = lockquorum.ErrBusy
	ErrOutcomeUnknown = lockquorum.ErrOutcomeUnknown
	ErrLost           = lockquorum.ErrLost
)

// Node is one voter. It is not safe for concurrent use.
type Node struct {
	cfg   Config
	raft  *raft.RawNode
	log   *raft.MemoryStorage // what is stored, as Raft reads it
	state *lockquorum.State
	conf  *pb.ConfState

	applied  uint64
	snapshot uint64 // index of the last one
	kept     kept
	freezing *Freezing // nil: none is made
	taken    []*Taken  // that Raft was told of since the last Batch
	changed  bool      // the voters did since
	changing bool      // a change of them is proposed here

	leader  uint64
	leads   bool
	settled bool                         // it leads and has applied a command of its own term
	base    int64                        // replicated clock when it had
	baseAt  time.Duration                // by its own
	last    uint64                       // number of the last proposal
	waiting map[uint64][]lockquorum.Seen // what was shown with it
	reads   reads
	chains  chains
	err     error // why it does not go on

	preference preference
	heard      bool // the preferred voter, since the last tick
}

// Found returns what the founding voters of a quorum begin with: all with the same State.
func Found(st *lockquorum.State) *Stored {
	var ids []uint64
	for _, v := range st.Voters() {
		ids = append(ids, v.ID)
	}
	one, f := uint64(1), st.Freeze()
	return &Stored{
		HardState: &pb.HardState{Term: &one, Commit: &one},
		Snapshot:  &pb.Snapshot{Data: f.Manifest(), Metadata: &pb.SnapshotMetadata{Index: &one, Term: &one, ConfState: &pb.ConfState{Voters: ids}}},
		Pieces:    f,
	}
}

// whole checks that what is stored fits together, as Batches leave it.
func (s *Stored) whole() error {
	last, term := s.Snapshot.GetMetadata().GetIndex(), s.Snapshot.GetMetadata().GetTerm()
	for i, e := range s.Entries {
		before := s.Entries[max(0, i-1)]
		switch {
		case i > 0 && (e.GetIndex() != before.GetIndex()+1 || e.GetTerm() < before.GetTerm()):
			return fmt.Errorf("%w: entry %d of term %d follows %d of term %d", ErrLost, e.GetIndex(), e.GetTerm(), before.GetIndex(), before.GetTerm())
		case e.GetIndex() <= last: // the snapshot has it
		case i == 0 && e.GetIndex() != last+1, e.GetTerm() < term:
			return fmt.Errorf("%w: entry %d of term %d follows a snapshot at %d of term %d", ErrLost, e.GetIndex(), e.GetTerm(), last, term)
		}
	}
	if n := len(s.Entries); n > 0 && s.Entries[n-1].GetIndex() > last {
		last, term = s.Entries[n-1].GetIndex(), s.Entries[n-1].GetTerm()
	}
	if s.HardState.GetCommit() > last || s.HardState.GetTerm() < term {
		return fmt.Errorf("%w: the log ends at %d of term %d, and was known to be agreed on up to %d in term %d", ErrLost, last, term,
			s.HardState.GetCommit(), s.HardState.GetTerm())
	}
	return nil
}

// Open returns a Node that goes on from what is stored; nil: from nothing, as one that waits to be made a voter. It is ErrLost if that
// is not whole.
func Open(cfg Config, from *Stored) (_ *Node, err error) {
	n := &Node{cfg: cfg, log: raft.NewMemoryStorage(), state: lockquorum.New(0), conf: &pb.ConfState{}, waiting: map[uint64][]lockquorum.Seen{}}
	defer func() {
		if err == nil && n.err != nil {
			err = fmt.Errorf("open voter: %w", n.err)
		}
	}()
	defer n.contain()
	n.cfg.Heartbeat = max(1, cfg.Heartbeat)
	n.chains.add(n.state.Seen())
	if from != nil {
		if err := from.whole(); err != nil {
			return nil, fmt.Errorf("open voter: %w", err)
		}
		if from.Snapshot != nil {
			st, err := Restore(from.Snapshot, from.Pieces)
			if err != nil {
				return nil, fmt.Errorf("open voter: %w", err)
			}
			frozen := st.Freeze()
			snapshot := &pb.Snapshot{Metadata: from.Snapshot.GetMetadata(), Data: frozen.Manifest()} // older versions stored it in one
			if err := n.log.ApplySnapshot(snapshot); err != nil {
				return nil, fmt.Errorf("open voter: apply snapshot: %w", err)
			}
			n.restored(st, frozen, snapshot)
		}
		if from.HardState != nil {
			hs := proto.Clone(from.HardState).(*pb.HardState)
			if hs.GetCommit() < n.applied { // it need not be durable, and what a snapshot has was agreed on
				hs.Commit = proto.Uint64(n.applied)
			}
			if err := n.log.SetHardState(hs); err != nil {
				return nil, fmt.Errorf("open voter: %w", err)
			}
		}
		if err := n.log.Append(from.Entries); err != nil {
			return nil, fmt.Errorf("open voter: append entries: %w", err)
		}
	}
	node, err := raft.NewRawNode(&raft.Config{
		ID: cfg.ID, ElectionTick: cfg.Election, HeartbeatTick: n.cfg.Heartbeat, Storage: n.log, Applied: n.applied,
		MaxSizePerMsg: maxMessage, MaxInflightMsgs: maxInflight, MaxUncommittedEntriesSize: maxUncommitted,
		// A leader that a majority does not hear steps down; who was away does not push it out; and nobody but the leader stamps commands.
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: refusing{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("open voter: %w", err)
	}
	n.raft = node
	return n, nil
}

const (
	maxMessage     = 1 << 20
	maxInflight    = 256
	maxUncommitted = 16 << 20
)

func (n *Node) restored(st *lockquorum.State, frozen *lockquorum.Frozen, snapshot *pb.Snapshot) {
	n.state, n.conf = st, snapshot.GetMetadata().GetConfState()
	n.applied = snapshot.GetMetadata().GetIndex()
	n.snapshot, n.changed, n.freezing = n.applied, false, nil
	n.kept.add(n.applied, frozen)
	n.chains = chains{}
	n.chains.add(st.Seen())
}

// State returns what is applied. Nobody may change it.
func (n *Node) State() *lockquorum.State { return n.state }

// Leader returns who leads, as far as this Node knows; zero: nobody. Settled says that it is this one and takes commands.
func (n *Node) Leader() (id uint64, settled bool) { return n.leader, n.leads && n.settled }

// Clock returns the replicated clock, as the leader stamps commands; now is its own, which runs evenly.
func (n *Node) Clock(now time.Duration) int64 { return n.base + (now - n.baseAt).Milliseconds() }

// Campaign has this voter ask for the lead at once, for who is alone and has nobody to wait for.
func (n *Node) Campaign() {
	defer n.contain()
	if n.err == nil {
		_ = n.raft.Campaign()
	}
}

// Tick says that the time of one has gone by.
func (n *Node) Tick() {
	defer n.contain()
	if n.err != nil {
		return
	}
	n.raft.Tick()
	n.prefer()
}

// Step takes a message of another voter. What does not fit is dropped, as a network would; so is what voters do not send each other: Raft
// would propose what one hands on, and the leader would not have stamped it. Snapshots are for Take.
func (n *Node) Step(m *pb.Message) {
	defer n.contain()
	if n.err != nil {
		return
	}
	n.heard = n.heard || m.GetFrom() == n.cfg.Prefer
	switch m.GetType() {
	case pb.MsgApp, pb.MsgAppResp, pb.MsgHeartbeat, pb.MsgHeartbeatResp, pb.MsgTimeoutNow,
		pb.MsgVote, pb.MsgVoteResp, pb.MsgPreVote, pb.MsgPreVoteResp:
		_ = n.raft.Step(m)
	}
}

// Unreachable says that messages to a voter do not arrive.
func (n *Node) Unreachable(id uint64) { n.raft.ReportUnreachable(id) }

// Sent says what became of a snapshot that was sent to a voter.
func (n *Node) Sent(id uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	n.raft.ReportSnapshot(id, status)
}

// Propose has the quorum carry a command out, and returns the number by which its Answer comes; the leader sets its Clock. With it comes how far
// whoever asks has seen the quorum come: if that is not part of what the quorum has when the command is agreed on, something was
// lost, and the Node ends without an answer. Errors are ErrNotLeader, ErrBusy, ErrOver, ErrLost and those of Marshal.
func (n *Node) Propose(now time.Duration, c *lockquorum.Command, seen ...lockquorum.Seen) (uint64, error) {
	if err := n.takes(seen); err != nil {
		return 0, err
	}
	if n.leaving() {
		return 0, ErrBusy
	}
	c.Clock = max(0, min(n.Clock(now), lockquorum.MaxClock))
	b, err := c.Marshal()
	if err != nil {
		return 0, err
	}
	n.last++
	if err := n.raft.Propose(envelope(n.cfg.ID, n.cfg.Boot, n.last, b)); err != nil {
		return 0, ErrBusy
	}
	n.waiting[n.last] = seen
	return n.last, nil
}

// takes says why this Node does not take what somebody asks who has seen this; nil: it does.
func (n *Node) takes(seen []lockquorum.Seen) error {
	for _, s := range seen {
		if n.err == nil && n.state.Epoch() > 0 {
			n.over(s)
		}
	}
	switch {
	case n.err != nil:
		return n.err
	case !n.leads || !n.settled:
		return ErrNotLeader
	}
	return nil
}

// envelopeVersion begins every entry of the log: who proposed it, in which run, and under which number.
const envelopeVersion = 1

func envelope(id, boot, number uint64, command []byte) []byte {
	var w wire.Writer
	w.Byte(envelopeVersion)
	w.Uvarint(id)
	w.Uint64(boot)
	w.Uvarint(number)
	w.Raw(command)
	return w.Bytes()
}

func parseEnvelope(b []byte) (id, boot, number uint64, command []byte, err error) {
	r := wire.NewReader(b)
	if r.Byte() != envelopeVersion {
		r.Fail("version")
	}
	id = r.Uvarint(1<<63 - 1)
	boot = r.Uint64()
	number = r.Uvarint(1<<63 - 1)
	return id, boot, number, r.Rest(), r.Err()
}

// Batch returns what is to be done next; false: nothing.
func (n *Node) Batch() (Batch, bool) {
	defer n.contain()
	if n.err != nil {
		return Batch{}, false
	}
	if n.confirm(); !n.raft.HasReady() {
		return Batch{}, false
	}
	rd := n.raft.Ready()
	b := Batch{HardState: rd.HardState, Entries: rd.Entries, Sync: rd.MustSync, ready: rd}
	if !raft.IsEmptySnap(rd.Snapshot) {
		b.taken = n.takenOf(rd.Snapshot)
		b.Snapshot, b.Pieces, b.Sync = rd.Snapshot, b.taken.frozen, true
	}
	n.taken = nil
	ahead := n.ahead(rd)
	for _, m := range rd.Messages {
		if ahead && m.GetType() == pb.MsgApp {
			b.Ahead = append(b.Ahead, m)
		} else {
			b.Messages = append(b.Messages, m)
		}
	}
	return b, true
}

// ahead reports whether entries may be sent before they are stored here: this Node leads, in a term that is stored. It counts itself among those
// who have them once it does.
func (n *Node) ahead(rd raft.Ready) bool {
	if n.raft.BasicStatus().RaftState != raft.StateLeader {
		return false
	}
	stored, _, err := n.log.InitialState()
	return err == nil && (rd.HardState == nil || rd.HardState.GetTerm() == stored.GetTerm() && rd.HardState.GetVote() == stored.GetVote())
}

// Before applies what of a Batch is agreed on and stored here by now, so that its answers need not wait for what else the Batch stores. It may be called
// before that is, and Advance follows in any case.
func (n *Node) Before(now time.Duration, b Batch) (out Outcome, err error) {
	if b.ready.SoftState != nil || b.Snapshot != nil || len(b.Entries) == 0 {
		return out, nil
	}
	defer n.errs(&out, &err)
	defer n.contain()
	for _, e := range b.ready.CommittedEntries {
		if e.GetIndex() >= b.Entries[0].GetIndex() || e.GetType() != pb.EntryNormal {
			break
		}
		if err := n.apply(now, e, &out); err != nil {
			return out, fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
	}
	return out, nil
}

// Advance says that a Batch was carried out, at a time of this Node's own clock. An error says that what the quorum agreed on does not read
// here, or is not what it was seen to be: this voter must not go on, see Err.
func (n *Node) Advance(now time.Duration, b Batch) (out Outcome, err error) {
	defer n.errs(&out, &err)
	defer n.contain()
	if n.err != nil {
		return out, n.err
	}
	if s := b.ready.SoftState; s != nil {
		n.lead(s, &out)
	}
	if b.Snapshot != nil {
		if err := n.log.ApplySnapshot(b.Snapshot); err != nil {
			return out, fmt.Errorf("take a snapshot: %w", err)
		}
		n.restored(b.taken.state, b.taken.frozen, b.Snapshot)
	}
	if b.HardState != nil {
		if err := n.log.SetHardState(b.HardState); err != nil {
			return out, err
		}
	}
	if err := n.log.Append(b.Entries); err != nil {
		return out, err
	}
	for _, e := range b.ready.CommittedEntries {
		if e.GetIndex() <= n.applied { // Before has
			continue
		}
		if err := n.apply(now, e, &out); err != nil {
			return out, fmt.Errorf("apply entry %d: %w", e.GetIndex(), err)
		}
	}
	if err := n.read(b, &out); err != nil {
		return out, err
	}
	n.raft.Advance(b.ready)
	out.Freezing = n.Freeze()
	return out, nil
}

// errs has an Outcome say nothing where the Node ended.
func (n *Node) errs(out *Outcome, err *error) {
	if n.err != nil {
		out.Answers, *err = nil, n.err
	}
}

// lead notes who leads. Who ceases to does not know what becomes of what it proposed.
func (n *Node) lead(s *raft.SoftState, out *Outcome) {
	leads := s.RaftState == raft.StateLeader
	out.Led = leads != n.leads || s.Lead != n.leader
	n.leader = s.Lead
	if n.leads && !leads {
		for _, number := range slices.Sorted(maps.Keys(n.waiting)) {
			out.Answers = append(out.Answers, Answer{Proposal: number, Err: ErrOutcomeUnknown})
		}
		clear(n.waiting)
		n.unread(out)
	}
	if n.leads = leads; !leads {
		n.settled, n.changing = false, false
	}
}

func (n *Node) apply(now time.Duration, e *pb.Entry, out *Outcome) error {
	n.applied = e.GetIndex()
	switch e.GetType() {
	case pb.EntryConfChange:
		var change pb.ConfChange
		if err := proto.Unmarshal(e.GetData(), &change); err != nil {
			return err
		}
		n.conf, n.changed, n.changing = n.raft.ApplyConfChange(&change), true, false
	case pb.EntryConfChangeV2:
		var change pb.ConfChangeV2
		if err := proto.Unmarshal(e.GetData(), &change); err != nil {
			return err
		}
		n.conf, n.changed, n.changing = n.raft.ApplyConfChange(&change), true, false
	default:
		if len(e.GetData()) == 0 {
			break // a leader's first
		}
		id, boot, number, raw, err := parseEnvelope(e.GetData())
		if err != nil {
			return err
		}
		c, err := lockquorum.Parse(raw)
		if err != nil {
			return err
		}
		seen, asked := n.waiting[number]
		if asked = asked && id == n.cfg.ID && boot == n.cfg.Boot; asked {
			if err := n.against(seen, e.GetIndex()); err != nil {
				n.stop(err)
				return err
			}
		}
		r, events := n.state.Apply(e.GetIndex(), c, raw)
		n.chains.add(n.state.Seen())
		out.Events = append(out.Events, events...)
		if asked {
			delete(n.waiting, number)
			out.Answers = append(out.Answers, Answer{Proposal: number, Result: r, Index: e.GetIndex()})
		}
	}
	if n.leads && !n.settled && e.GetTerm() == n.raft.BasicStatus().HardState.GetTerm() {
		n.settled, n.base, n.baseAt, out.Led = true, n.state.Clock(), now, true
	}
	return nil
}
