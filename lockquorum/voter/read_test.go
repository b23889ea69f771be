package voter

import (
	"errors"
	"slices"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
)

// answer returns what became of a proposal or a read; false: nothing yet.
func (c *cluster) answer(id, number uint64) (Answer, bool) {
	i := slices.IndexFunc(c.answers[id], func(a Answer) bool { return a.Proposal == number })
	if i < 0 {
		return Answer{}, false
	}
	return c.answers[id][i], true
}

func (c *cluster) read(n *Node, seen ...lockquorum.Seen) uint64 {
	c.t.Helper()
	c.answers[n.cfg.ID] = nil
	number, err := n.Read(seen...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.settle()
	return number
}

// A read is answered with all that was answered before, and nothing is stored for it.
func TestRead(t *testing.T) {
	for _, voters := range []int{1, 3} {
		c := found(t, voters)
		c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
		for i := range 20 {
			c.do(assign(byte(i)))
			n := c.leader()
			entries := len(c.stored[n.cfg.ID].Entries)
			a, ok := c.answer(n.cfg.ID, c.read(n, n.State().Seen()))
			if list, _ := n.State().Circle(lockquorum.CircleID{1}); !ok || a.Err != nil || len(list[0].Numbers) != i+1 {
				t.Fatalf("of %d voters a read is answered %v: %+v", voters, ok, a)
			}
			if len(c.stored[n.cfg.ID].Entries) != entries {
				t.Errorf("of %d voters a read stores something", voters)
			}
		}
	}
}

// A leader that a majority does not hear any more answers no read, whatever it was told before that was asked: another one may have answered commands that it does
// not have.
func TestReadOfDeposedLeader(t *testing.T) {
	c := found(t, 3)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	old := c.leader()
	id := old.cfg.ID
	c.read(old) // a read that was confirmed confirms none that comes after it
	c.cut[id] = true
	number := c.read(old)
	if _, ok := c.answer(id, number); ok {
		t.Fatal("a leader that nobody hears answers a read")
	}
	// The others go on; the one that was deposed has not noticed, as if it had stood still.
	for range 200 {
		c.now += 1
		for other, n := range c.nodes {
			if other != id {
				n.Tick()
			}
		}
		c.settle()
	}
	if r := c.do(assign(1)); r.Number != 1 {
		t.Fatalf("the next leader gives %d", r.Number)
	}
	if _, settled := old.Leader(); !settled {
		t.Fatal("it does not lead any more by its own account, and this test is about one that does")
	}
	again := c.read(old)
	if _, ok := c.answer(id, again); ok {
		t.Fatal("who leads no more answers a read without what another one has answered")
	}
	c.cut[id] = false
	c.run(30)
	for _, asked := range []uint64{number, again} {
		if a, ok := c.answer(id, asked); !ok || !errors.Is(a.Err, ErrNotLeader) {
			t.Errorf("a read of who was deposed is answered %v: %+v", ok, a)
		}
	}
	n := c.leader()
	if a, ok := c.answer(n.cfg.ID, c.read(n)); !ok || a.Err != nil {
		t.Errorf("who leads answers %v: %+v", ok, a)
	}
}

// What confirms a read is an answer to a heartbeat of after it: one that was on the way does not.
func TestReadIsNotConfirmedByWhatWasOnItsWay(t *testing.T) {
	c := found(t, 3)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	n := c.leader()
	var onItsWay []*pb.Message
	for id := range c.nodes {
		if id != n.cfg.ID {
			term := n.raft.BasicStatus().GetTerm()
			onItsWay = append(onItsWay, &pb.Message{Type: pb.MsgHeartbeatResp.Enum(), From: &id, To: &n.cfg.ID, Term: &term})
			c.cut[id] = true
		}
	}
	number := c.read(n)
	for _, m := range onItsWay {
		n.Step(m)
	}
	c.settle()
	if _, ok := c.answer(n.cfg.ID, number); ok {
		t.Error("a read is confirmed by what was said before it")
	}
	clear(c.cut)
	c.run(2)
	if a, ok := c.answer(n.cfg.ID, number); !ok || a.Err != nil {
		t.Errorf("confirmed, it is answered %v: %+v", ok, a)
	}
}

// A read that shows what this voter does not have ends it: something was lost that a majority agreed on.
func TestReadShowsWhatIsMissing(t *testing.T) {
	c := found(t, 1)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	n := c.leader()
	beyond := n.State().Seen()
	beyond.Index++
	number, err := n.Read(beyond)
	if err != nil {
		t.Fatal(err)
	}
	for b, ok := n.Batch(); ok; b, ok = n.Batch() {
		out, err := n.Advance(c.now, b)
		if len(out.Answers) > 0 {
			t.Errorf("read %d is answered: %+v (%v)", number, out.Answers, err)
		}
	}
	if !errors.Is(n.Err(), ErrLost) {
		t.Errorf("it goes on: %v", n.Err())
	}
}
