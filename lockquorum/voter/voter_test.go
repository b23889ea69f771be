package voter

import (
	"bytes"
	"errors"
	"io"
	"log"
	"slices"
	"testing"
	"testing/cryptotest"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
)

// cluster is some voters on a network that loses nothing, unless one is cut off.
type cluster struct {
	t       *testing.T
	nodes   map[uint64]*Node
	stored  map[uint64]*Stored
	cut     map[uint64]bool
	now     time.Duration
	answers map[uint64][]Answer
	ahead   map[uint64]int // messages that were sent before anything was stored
}

func found(t *testing.T, n int) *cluster {
	t.Helper()
	cryptotest.SetGlobalRandom(t, 1)
	c := &cluster{t: t, nodes: map[uint64]*Node{}, stored: map[uint64]*Stored{}, cut: map[uint64]bool{}, answers: map[uint64][]Answer{}, ahead: map[uint64]int{}}
	st := lockquorum.New(1)
	var list []lockquorum.Voter
	for i := range n {
		list = append(list, lockquorum.Voter{ID: uint64(i + 1)})
	}
	st.Reseed(1, list)
	for _, v := range list {
		c.stored[v.ID] = Found(st)
		c.open(v.ID)
	}
	return c
}

func (c *cluster) open(id uint64) {
	c.t.Helper()
	from := *c.stored[id]
	from.Entries = slices.Clone(from.Entries)
	n, err := Open(Config{ID: id, Boot: uint64(c.now) + 1, Election: 10, Prefer: 2, PreferAfter: 20, SnapshotEvery: 10,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)}}, &from)
	if err != nil {
		c.t.Fatal(err)
	}
	c.nodes[id] = n
}

// settle does what the voters say until they say nothing.
func (c *cluster) settle() {
	c.t.Helper()
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= uint64(len(c.nodes)); id++ {
			n := c.nodes[id]
			b, ok := n.Batch()
			if !ok {
				continue
			}
			busy = true
			if hs, stored := b.HardState, c.stored[id].HardState; len(b.Ahead) > 0 && hs != nil && (hs.GetTerm() != stored.GetTerm() || hs.GetVote() != stored.GetVote()) {
				c.t.Fatalf("%d says %v ahead of %v, and has stored %v", id, b.Ahead, hs, stored)
			}
			for _, m := range b.Ahead {
				if c.ahead[id]++; m.GetType() != pb.MsgApp {
					c.t.Fatalf("%v goes ahead", m.GetType())
				}
			}
			c.carry(id, b.Ahead)
			before, err := n.Before(c.now, b)
			if err != nil {
				c.t.Fatal(err)
			}
			s := c.stored[id]
			if b.HardState != nil {
				s.HardState = b.HardState
			}
			if b.Snapshot != nil {
				s.Snapshot, s.Pieces, s.Entries = b.Snapshot, b.Pieces, nil
			}
			if len(b.Entries) > 0 {
				first := b.Entries[0].GetIndex()
				s.Entries = append(slices.DeleteFunc(slices.Clone(s.Entries), func(e *pb.Entry) bool { return e.GetIndex() >= first }), b.Entries...)
			}
			c.carry(id, b.Messages)
			out, err := n.Advance(c.now, b)
			if err != nil {
				c.t.Fatal(err)
			}
			if out.Freezing != nil {
				snapshot, forget, err := n.Compact(out.Freezing)
				if err != nil {
					c.t.Fatal(err)
				}
				s.Snapshot, s.Pieces = snapshot, out.Freezing
				s.Entries = slices.DeleteFunc(slices.Clone(s.Entries), func(e *pb.Entry) bool { return e.GetIndex() <= forget })
			}
			c.answers[id] = append(c.answers[id], append(before.Answers, out.Answers...)...)
		}
	}
}

// carry brings messages to those who are not cut off.
func (c *cluster) carry(from uint64, list []*pb.Message) {
	for _, m := range list {
		if to := m.GetTo(); c.nodes[to] != nil && !c.cut[from] && !c.cut[to] {
			c.deliver(c.nodes[from], m)
		}
	}
}

// deliver has a message arrive, with the pieces of what it carries.
func (c *cluster) deliver(from *Node, m *pb.Message) {
	c.t.Helper()
	to := c.nodes[m.GetTo()]
	if m.GetType() != pb.MsgSnap {
		to.Step(m)
		return
	}
	pieces, ok := from.Pieces(m)
	if ok {
		taken, err := Assemble(m, pieces)
		if err != nil {
			c.t.Fatal(err)
		}
		to.Take(taken)
	}
	from.Sent(m.GetTo(), ok)
}

// run lets some ticks go by.
func (c *cluster) run(ticks int) {
	c.t.Helper()
	for range ticks {
		c.now += 20 * time.Millisecond
		for id := uint64(1); id <= uint64(len(c.nodes)); id++ {
			c.nodes[id].Tick()
		}
		c.settle()
	}
}

// leader lets ticks go by until somebody leads who is not cut off.
func (c *cluster) leader() *Node {
	c.t.Helper()
	for range 500 {
		for id, n := range c.nodes {
			if _, settled := n.Leader(); settled && !c.cut[id] {
				return n
			}
		}
		c.run(1)
	}
	c.t.Fatal("nobody leads")
	return nil
}

func assign(item byte) *lockquorum.Command {
	return &lockquorum.Command{Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{item}}}
}

// do has the leader carry a command out, and returns its answer.
func (c *cluster) do(cmd *lockquorum.Command) lockquorum.Result {
	c.t.Helper()
	n := c.leader()
	c.answers[n.cfg.ID] = nil // of an earlier run
	number, err := n.Propose(c.now, cmd)
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	for _, a := range c.answers[n.cfg.ID] {
		if a.Proposal == number {
			if a.Err != nil {
				c.t.Fatal(a.Err)
			}
			return a.Result
		}
	}
	c.t.Fatal("no answer")
	return lockquorum.Result{}
}

// A voter alone is a quorum; what it answered is there after a restart, snapshots or not.
func TestOneVoter(t *testing.T) {
	c := found(t, 1)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	for i := range 25 {
		if r := c.do(assign(byte(i))); r.Number != int64(i+1) {
			t.Fatalf("item %d is %d", i, r.Number)
		}
		before := c.nodes[1].State().Snapshot()
		if c.open(1); i%7 == 0 {
			c.leader()
			if after := c.nodes[1].State(); after.Index() <= 1 || len(before) != len(after.Snapshot()) {
				t.Fatalf("after a restart at %d it is at %d", i, after.Index())
			}
		}
	}
	if c.stored[1].Snapshot.GetMetadata().GetIndex() < 10 || len(c.stored[1].Entries) > 25 {
		t.Errorf("its log was never cut: %d entries", len(c.stored[1].Entries))
	}
}

// A voter that was away gets what it lacks, by a snapshot too; the preferred one leads in the end; who does not lead takes no command.
func TestThreeVoters(t *testing.T) {
	c := found(t, 3)
	c.cut[2] = true // the preferred one
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	for i := range 30 {
		c.do(assign(byte(i)))
	}
	if _, err := c.nodes[2].Propose(c.now, assign(99)); !errors.Is(err, ErrNotLeader) {
		t.Fatalf("a command to who does not lead: %v", err)
	}
	c.cut[2] = false
	c.run(100)
	if id, settled := c.nodes[2].Leader(); id != 2 || !settled {
		t.Fatalf("the preferred voter is well, and %d leads", id)
	}
	if r := c.do(assign(3)); r.Number != 4 {
		t.Errorf("under another leader an item is %d", r.Number)
	}
	c.run(3) // until everybody has heard that it is agreed
	for id, n := range c.nodes {
		if n.State().Chain() != c.nodes[2].State().Chain() {
			t.Errorf("voter %d is at %d, and 2 at %d", id, n.State().Index(), c.nodes[2].State().Index())
		}
	}
}

// What was proposed to a leader that a majority does not hear is not answered as done; another one leads, and nothing is done twice.
func TestOutcomeUnknown(t *testing.T) {
	c := found(t, 3)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	old := c.leader()
	id := old.cfg.ID
	c.cut[id] = true
	number, err := old.Propose(c.now, assign(1))
	if err != nil {
		t.Fatal(err)
	}
	c.run(30)
	if got := c.answers[id]; len(got) == 0 || got[len(got)-1].Proposal != number || !errors.Is(got[len(got)-1].Err, ErrOutcomeUnknown) {
		t.Fatalf("a leader that nobody hears answers %+v", got)
	}
	if r := c.do(assign(2)); r.Number != 1 {
		t.Fatalf("the next leader gives %d", r.Number)
	}
	c.cut[id] = false
	c.run(30)
	if r := c.do(assign(1)); r.Number != 2 {
		t.Errorf("asked again, the item is %d", r.Number)
	}
}

// A voter whose log has a gap, or another history than its snapshot, or less than was agreed on, does not go on: it says so.
func TestLost(t *testing.T) {
	c := found(t, 1)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	for i := range 5 {
		c.do(assign(byte(i)))
	}
	entry := func(index, term uint64) *pb.Entry { return &pb.Entry{Index: &index, Term: &term} }
	snapshot := func(s *Stored, term uint64) *pb.Snapshot {
		return &pb.Snapshot{Data: s.Snapshot.GetData(), Metadata: &pb.SnapshotMetadata{Index: proto.Uint64(4), Term: &term,
			ConfState: s.Snapshot.GetMetadata().GetConfState()}}
	}
	for what, test := range map[string]struct {
		bend func(*Stored)
		err  error
	}{
		"as it was":                  {func(*Stored) {}, nil},
		"an entry is missing":        {func(s *Stored) { s.Entries = slices.Delete(s.Entries, 2, 3) }, ErrLost},
		"the first is missing":       {func(s *Stored) { s.Entries = s.Entries[1:] }, ErrLost},
		"the last is missing":        {func(s *Stored) { s.Entries = s.Entries[:len(s.Entries)-1] }, ErrLost},
		"the vote is missing":        {func(s *Stored) { s.HardState = nil }, ErrLost},
		"all but the vote":           {func(s *Stored) { s.Snapshot, s.Entries = nil, nil }, ErrLost},
		"an entry of an older term":  {func(s *Stored) { s.Entries[2] = entry(s.Entries[2].GetIndex(), 1) }, ErrLost},
		"a log older than snapshots": {func(s *Stored) { s.HardState.Term, s.Snapshot = proto.Uint64(9), snapshot(s, 9) }, ErrLost},
		"a commit before a snapshot": {func(s *Stored) { s.HardState.Commit, s.Snapshot = proto.Uint64(2), snapshot(s, s.HardState.GetTerm()) }, nil},
	} {
		s := *c.stored[1]
		s.HardState, s.Entries = proto.Clone(s.HardState).(*pb.HardState), slices.Clone(s.Entries)
		test.bend(&s)
		if _, err := Open(c.nodes[1].cfg, &s); !errors.Is(err, test.err) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// The one voter moves: a new one learns all that was agreed on, votes, and goes on alone when the old one is taken out; each also after a
// restart at any moment.
func TestVotersChange(t *testing.T) {
	c := found(t, 1)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	for i := range 25 {
		c.do(assign(byte(i)))
	}
	c.stored[2] = &Stored{}
	c.open(2)
	change := func(kind pb.ConfChangeType, id uint64) {
		t.Helper()
		one := &pb.ConfChangeV2{Changes: []*pb.ConfChangeSingle{{Type: kind.Enum(), NodeId: &id}}}
		if err := c.leader().ProposeVoters(one); err != nil {
			t.Fatal(err)
		}
		if err := c.leader().ProposeVoters(one); !errors.Is(err, ErrBusy) { // Raft would forget it without a word
			t.Errorf("another change while one is under way: %v", err)
		}
		c.run(5)
		for id := range c.nodes {
			if got := c.stored[id].Snapshot.GetMetadata().GetConfState(); got == nil || !proto.Equal(got, c.nodes[id].conf) {
				t.Errorf("after a change, voter %d's snapshot says %v, and it goes by %v", id, got, c.nodes[id].conf)
			}
			c.open(id)
		}
		c.leader()
	}
	change(pb.ConfChangeAddLearnerNode, 2)
	if c.nodes[2].State().Chain() != c.nodes[1].State().Chain() {
		t.Fatalf("who learns is at %d of %d", c.nodes[2].State().Index(), c.nodes[1].State().Index())
	}
	change(pb.ConfChangeAddNode, 2)
	if r := c.do(assign(100)); r.Number != 26 {
		t.Fatalf("two voters give %d", r.Number)
	}
	change(pb.ConfChangeRemoveNode, 1)
	if id := c.leader().cfg.ID; id != 2 {
		t.Fatalf("%d leads", id)
	}
	c.cut[1] = true
	if r := c.do(assign(101)); r.Number != 27 {
		t.Errorf("the new voter alone gives %d", r.Number)
	}
}

// Nobody but the leader itself brings entries to its log, and stamps them: what another voter has it propose is dropped. An entry that does
// not read would end every voter for ever.
func TestTakesNoProposalOfOthers(t *testing.T) {
	c := found(t, 3)
	n := c.leader()
	var other uint64 = 3
	if n.cfg.ID == other {
		other = 1
	}
	for _, entry := range []*pb.Entry{
		{Data: []byte("no command")},
		{Type: pb.EntryConfChangeV2.Enum()}, // leaves a joint configuration, or none
	} {
		n.Step(&pb.Message{Type: pb.MsgProp.Enum(), From: &other, To: &n.cfg.ID, Entries: []*pb.Entry{entry}})
		c.run(3)
	}
	before := n.conf
	if r := c.do(&lockquorum.Command{Operation: &lockquorum.Tick{}}); r.Code != lockquorum.CodeDone || n.conf != before {
		t.Errorf("afterwards: %+v, %v", r, n.conf)
	}
}

// The clock goes on under each leader from where the last command left it.
func TestClock(t *testing.T) {
	c := found(t, 1)
	c.leader()
	c.now += time.Hour
	c.do(&lockquorum.Command{Operation: &lockquorum.Tick{}})
	at := c.nodes[1].State().Clock()
	if at < time.Hour.Milliseconds() {
		t.Fatalf("after an hour the clock is at %d ms", at)
	}
	c.now = 0 // it starts again, and its own clock with it
	c.open(1)
	c.do(&lockquorum.Command{Operation: &lockquorum.Tick{}})
	if got := c.nodes[1].State().Clock(); got < at || got > at+time.Minute.Milliseconds() {
		t.Errorf("after a restart the clock goes on at %d, from %d", got, at)
	}
}

// FuzzEnvelope: who proposed an entry is read as it is written.
func FuzzEnvelope(f *testing.F) {
	command, err := assign(1).Marshal()
	if err != nil {
		f.Fatal(err)
	}
	seeds := [][]byte{envelope(1, 1<<63, 300, command), envelope(7, 0, 1, nil)}
	for _, b := range seeds {
		if _, _, _, _, err := parseEnvelope(b); err != nil {
			f.Fatalf("a seed is refused: %v", err)
		}
		f.Add(b)
	}
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		var id, boot, number uint64
		var raw []byte
		var err error
		fuzzing.Allocates(t, len(b), 4, 1<<10, func() { id, boot, number, raw, err = parseEnvelope(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(envelope(id, boot, number, raw), b) {
			t.Fatal("written otherwise than read")
		}
	})
}
