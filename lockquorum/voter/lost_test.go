package voter

import (
	"errors"
	"slices"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
)

func (s *Stored) copied() *Stored {
	return &Stored{HardState: s.HardState, Snapshot: s.Snapshot, Pieces: s.Pieces, Entries: slices.Clone(s.Entries)}
}

// numbered returns a quorum that has given some numbers.
func numbered(t *testing.T, voters, n int) *cluster {
	c := found(t, voters)
	c.do(&lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	for i := range n {
		c.do(assign(byte(i)))
	}
	c.run(3)
	return c
}

// A follower that went back, and that its leader relies on for more than it has, ends without taking the process with it.
func TestWentBack(t *testing.T) {
	c := numbered(t, 3, 3)
	c.run(60) // the preferred one leads
	before := c.stored[1].copied()
	for i := range 5 {
		c.do(assign(byte(50 + i)))
	}
	c.run(3)
	c.stored[1] = before
	c.open(1)
	c.run(20)
	if err := c.nodes[1].Err(); !errors.Is(err, ErrLost) {
		t.Fatalf("it says %v", err)
	}
	c.nodes[1].Tick()
	if _, ok := c.nodes[1].Batch(); ok {
		t.Error("it goes on all the same")
	}
	if _, err := c.nodes[1].Propose(c.now, assign(1)); !errors.Is(err, ErrLost) {
		t.Errorf("it takes commands: %v", err)
	}
	if r := c.do(assign(60)); r.Number != 9 {
		t.Errorf("the others give %d", r.Number)
	}
}

// A voter alone that went back gives nothing to who saw it later, whether it has come that far again or not; and nothing to who saw a later epoch.
func TestShown(t *testing.T) {
	c := numbered(t, 1, 5)
	before := c.stored[1].copied()
	c.do(assign(100))
	earlier := c.nodes[1].State().Seen()
	c.do(assign(101))
	seen := c.nodes[1].State().Seen()
	for what, test := range map[string]struct {
		again int // numbers that it gives to others first
		seen  lockquorum.Seen
		back  bool
		err   error
	}{
		"it has all":            {0, seen, false, nil},
		"it had it before":      {3, seen, false, nil},
		"it went back":          {0, seen, true, ErrLost},
		"it has come as far":    {1, seen, true, ErrLost},
		"it has come farther":   {9, earlier, true, ErrLost},
		"an epoch is over":      {0, lockquorum.Seen{Place: lockquorum.Place{Epoch: 7, Index: 1}}, false, ErrOver},
		"an epoch that is over": {0, lockquorum.Seen{Place: lockquorum.Place{Index: 1 << 40}}, false, nil},
	} {
		t.Run(what, func(t *testing.T) {
			from := c.stored[1].copied()
			if test.back {
				from = before.copied()
			}
			c := &cluster{t: t, nodes: map[uint64]*Node{}, stored: map[uint64]*Stored{1: from}, cut: map[uint64]bool{}, answers: map[uint64][]Answer{}, ahead: map[uint64]int{}}
			c.open(1)
			n := c.leader()
			for i := range test.again {
				c.do(assign(byte(200 + i)))
			}
			number, err := n.Propose(c.now, assign(150), test.seen)
			for err == nil {
				b, ok := n.Batch()
				if !ok {
					break
				}
				var out Outcome
				if out, err = n.Advance(c.now, b); len(out.Answers) > 0 && (err != nil || out.Answers[0].Proposal != number) {
					t.Errorf("answered %+v, and %v", out.Answers, err)
				}
			}
			if !errors.Is(err, test.err) || !errors.Is(n.Err(), test.err) {
				t.Errorf("it says %v, and %v", err, n.Err())
			}
		})
	}
}

// Of two voters of one epoch with another history each, one that is shown it ends; one that is behind does not.
func TestShownByAnother(t *testing.T) {
	c := numbered(t, 1, 5)
	n, st := c.nodes[1], c.nodes[1].State().Seen()
	for _, s := range []lockquorum.Seen{{}, st, {Place: lockquorum.Place{Epoch: 1, Index: st.Index + 9}, Chain: [32]byte{9}}, n.chains.get(2)} {
		if n.Shown(s); n.Err() != nil {
			t.Fatalf("shown %v: %v", s.Place, n.Err())
		}
	}
	other := n.chains.get(2)
	other.Chain[0]++
	if n.Shown(other); !errors.Is(n.Err(), ErrLost) {
		t.Errorf("shown another history: %v", n.Err())
	}
}

// What an earlier command's chain was is known of the last ones, and nothing is said of those before.
func TestChains(t *testing.T) {
	var c chains
	n := &Node{state: lockquorum.New(1)}
	for i := range uint64(maxChains + 500) {
		n.state.Apply(3*i+2, &lockquorum.Command{Operation: &lockquorum.Tick{}}, []byte{byte(i)})
		c.add(n.state.Seen())
	}
	n.chains = c
	oldest := c.get(0).Index
	for i := range uint64(3*(maxChains+500) + 2) {
		s := lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: i}, Chain: [32]byte{1}}
		want := Other
		if i < oldest {
			want = Unknown
		} else if i%3 == 2 {
			s, want = c.get(int(i-oldest)/3), Has
		} else if i > n.state.Index() {
			want = Behind
		}
		if got := n.Compare(s); got != want {
			t.Fatalf("at %d of %d to %d: %v, want %v", i, oldest, n.state.Index(), got, want)
		}
	}
}

// The one voter moves to another machine while there is much to do: at whatever moment something is asked for, and lost on the way, the new one leads in the end.
func TestMovesUnderLoad(t *testing.T) {
	for at := range 40 {
		c := numbered(t, 1, 5)
		c.stored[2] = &Stored{}
		c.open(2)
		want := []lockquorum.Voter{{ID: 2, Device: lockquorum.DeviceID{2}}}
		steps := 0
		for done := false; !done; {
			n := c.leader()
			step, err := n.Change(want)
			if err != nil {
				t.Fatal(err)
			}
			if done = step.Done; step.Voters != nil {
				if _, err := n.Propose(c.now, &lockquorum.Command{Operation: &lockquorum.Voters{List: step.Voters}}); err != nil {
					t.Fatal(err)
				}
			}
			for busy := true; busy; { // as settle, and something is asked for after so many batches
				busy = false
				for id := uint64(1); id <= 2; id++ {
					b, ok := c.nodes[id].Batch()
					if !ok {
						continue
					}
					busy = true
					for _, m := range slices.Concat(b.Ahead, b.Messages) {
						if last := len(m.GetEntries()) - 1; id == 1 && steps >= at && steps < at+6 && last >= 0 && m.GetEntries()[last].GetType() == pb.EntryNormal {
							continue // lost on the way
						}
						c.deliver(c.nodes[id], m)
					}
					out, err := c.nodes[id].Advance(c.now, b)
					if err == nil && out.Freezing != nil {
						_, _, err = c.nodes[id].Compact(out.Freezing)
					}
					if err != nil {
						t.Fatal(err)
					}
					if steps++; steps >= at && steps < at+3 {
						_, _ = c.nodes[1].Propose(c.now, assign(byte(100+steps)))
					}
				}
			}
			c.run(1)
		}
		if id := c.leader().cfg.ID; id != 2 {
			t.Errorf("asked after %d batches: %d leads", at, id)
		}
	}
}

// Who is left of three has stored what was answered, and was not told yet that it was agreed on: a quorum that is founded anew with what it has, has that.
func TestLatest(t *testing.T) {
	c := numbered(t, 3, 3)
	leader := c.leader()
	_, before, err := Latest(c.stored[leader.cfg.ID])
	if err != nil {
		t.Fatal(err)
	}
	number, err := leader.Propose(c.now, assign(77))
	if err != nil {
		t.Fatal(err)
	}
	c.settle()
	if a := c.answers[leader.cfg.ID]; len(a) == 0 || a[len(a)-1].Proposal != number || a[len(a)-1].Result.Number != 4 {
		t.Fatalf("it answers %+v", a)
	}
	for id, s := range c.stored {
		st, reach, err := Latest(s)
		if err != nil {
			t.Fatal(err)
		}
		in, _ := st.Circle(lockquorum.CircleID{1})
		if n := len(in[0].Numbers); n != 4 || reach.Compare(before) <= 0 {
			t.Errorf("voter %d has %d numbers, and reaches %v after %v", id, n, reach, before)
		}
	}
	if st, reach, err := Latest(&Stored{}); err != nil || reach != (Reach{}) || st.Epoch() != 0 {
		t.Errorf("of nothing: %v, %v", reach, err)
	}
	bent := c.stored[1].copied()
	bent.Entries = bent.Entries[:len(bent.Entries)-2]
	if _, _, err := Latest(bent); !errors.Is(err, ErrLost) {
		t.Errorf("of a log that lacks something: %v", err)
	}
}
