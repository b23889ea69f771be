package voter

import (
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"
)

// TestAhead: a leader's entries may be on the way before its own disk has them, and it does not count itself until then; of a term or a vote that is not
// stored nothing is said, nor is an answer to another voter.
func TestAhead(t *testing.T) {
	c := found(t, 3)
	n := c.leader()
	id := n.cfg.ID
	number, err := n.Propose(c.now, assign(1))
	if err != nil {
		t.Fatal(err)
	}
	b, ok := n.Batch()
	if !ok || !b.Sync || len(b.Entries) != 1 || len(b.Ahead) != 2 || len(b.Messages) != 0 {
		t.Fatalf("a leader says %+v", b)
	}
	at := b.Entries[0].GetIndex()
	var one *Node
	for _, m := range b.Ahead {
		if one == nil {
			one = c.nodes[m.GetTo()]
		}
	}
	one.Step(b.Ahead[0])
	f, _ := one.Batch()
	if len(f.Ahead) != 0 || len(f.Entries) != 1 || len(f.Messages) != 1 || f.Messages[0].GetType() != pb.MsgAppResp {
		t.Fatalf("a follower says %+v", f)
	}
	if _, err := one.Advance(c.now, f); err != nil {
		t.Fatal(err)
	}
	n.Step(f.Messages[0]) // it has it, and the leader does not
	if n.State().Index() >= at {
		t.Fatal("it is applied")
	}
	out, err := n.Advance(c.now, b)
	if err != nil || len(out.Answers) != 0 {
		t.Fatalf("it answers %+v (%v)", out.Answers, err)
	}
	c.settle()
	if got := c.answers[id]; len(got) == 0 || got[len(got)-1].Proposal != number {
		t.Fatalf("it answers %+v", got)
	}

	// The next one who leads says nothing ahead of what it stores of its term, as settle checks, and then does.
	c.cut[id] = true
	next := c.leader()
	ahead := c.ahead[next.cfg.ID]
	c.do(assign(2))
	if next == n || c.ahead[next.cfg.ID] == ahead {
		t.Fatalf("%d leads, and has said %d ahead", next.cfg.ID, c.ahead[next.cfg.ID])
	}
}

// TestBefore: what is agreed on is answered before what was asked next is stored.
func TestBefore(t *testing.T) {
	c := found(t, 3)
	n := c.leader()
	first, err := n.Propose(c.now, assign(1))
	if err != nil {
		t.Fatal(err)
	}
	b, _ := n.Batch()
	if out, err := n.Before(c.now, b); err != nil || len(out.Answers) != 0 {
		t.Fatalf("what nobody has is answered: %+v (%v)", out.Answers, err)
	}
	if _, err := n.Advance(c.now, b); err != nil {
		t.Fatal(err)
	}
	for _, m := range b.Ahead {
		other := c.nodes[m.GetTo()]
		other.Step(m)
		f, _ := other.Batch()
		if _, err := other.Advance(c.now, f); err != nil {
			t.Fatal(err)
		}
		for _, m := range f.Messages {
			n.Step(m)
		}
	}
	second, err := n.Propose(c.now, assign(2))
	if err != nil {
		t.Fatal(err)
	}
	b, _ = n.Batch()
	out, err := n.Before(c.now, b)
	if err != nil || len(out.Answers) != 1 || out.Answers[0].Proposal != first || len(b.Entries) != 1 {
		t.Fatalf("before %d entries are stored it answers %+v (%v)", len(b.Entries), out.Answers, err)
	}
	at := out.Answers[0].Index
	c.carry(n.cfg.ID, b.Ahead)
	if out, err = n.Advance(c.now, b); err != nil || len(out.Answers) != 0 {
		t.Fatalf("then it answers %+v (%v)", out.Answers, err)
	}
	c.settle()
	got := c.answers[n.cfg.ID]
	if last := got[len(got)-1]; last.Proposal != second || last.Index != at+1 {
		t.Fatalf("in the end it answers %+v, and the first was at %d", last, at)
	}
}
