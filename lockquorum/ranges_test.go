package lockquorum_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"chartmesh/lockquorum"
)

var patients = lockquorum.RangeID{1}

// take has a device have a part more, and returns it.
func (c *client) take(log, have byte) lockquorum.Part {
	c.q.t.Helper()
	lo := c.expect(lockquorum.CodeDone, &lockquorum.Take{Range: patients, Log: [32]byte{log}, Have: uint64(have)}).Number
	for _, p := range c.q.st.Range(patients) {
		if p.Min == lo {
			return p
		}
	}
	c.q.t.Fatalf("no part begins with %d", lo)
	return lockquorum.Part{}
}

// TestTake: a device takes what was set aside for it, and then the lowest numbers that nobody has, as many as an administrator said; asked again it
// has no more.
func TestTake(t *testing.T) {
	q := begin(t)
	a, b := q.client("a"), q.client("b")
	a.expect(lockquorum.CodeUnknown, &lockquorum.Take{Range: patients, Log: [32]byte{1}})
	a.expect(lockquorum.CodeDone, &lockquorum.Define{Range: patients, First: 11, Last: 60, Increment: 1})
	a.expect(lockquorum.CodeExhausted, &lockquorum.Take{Range: patients, Log: [32]byte{1}})
	aside := func(lo, hi int64) *lockquorum.Grant {
		return &lockquorum.Grant{Range: patients, Owner: b.device, Min: lo, Max: hi, Increment: 1}
	}
	a.expect(lockquorum.CodeUnknown, aside(10, 12)) // numbers that the range does not have
	a.expect(lockquorum.CodeUnknown, aside(60, 61))
	a.expect(lockquorum.CodeDone, aside(20, 24))
	a.expect(lockquorum.CodeExhausted, &lockquorum.Take{Range: patients, Log: [32]byte{1}}) // it is b's
	if p := b.take(2, 0); p.Min != 20 || p.Max != 24 || p.Log != [32]byte{2} {
		t.Errorf("b has %+v", p)
	}
	b.expect(lockquorum.CodeExhausted, &lockquorum.Take{Range: patients, Log: [32]byte{3}}) // once
	a.expect(lockquorum.CodeDone, &lockquorum.Define{Range: patients, First: 11, Last: 60, Increment: 2, Part: 6})
	if p := a.take(1, 0); p.Min != 11 || p.Max != 19 || p.Increment != 2 {
		t.Errorf("a has %+v", p)
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Take{Range: patients, Log: [32]byte{1}}) // again
	if n := len(q.st.Range(patients)); n != 2 {
		t.Errorf("asked again it has %d parts", n)
	}
	if p := a.take(1, 1); p.Min != 25 || p.Max != 36 {
		t.Errorf("a has %+v", p)
	}
	b.expect(lockquorum.CodeUnknown, &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: 25, From: 30}}) // another's
	a.expect(lockquorum.CodeDone, &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: 25, From: 30}})
	a.expect(lockquorum.CodeDone, &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: 25, From: 30}})
	a.expect(lockquorum.CodeResolved, &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: 25, From: 29}})
	if p := b.take(2, 1); p.Min != 37 || p.Max != 48 {
		t.Errorf("b has %+v", p)
	}
	if p := b.take(2, 2); p.Min != 49 || p.Max != 60 {
		t.Errorf("b has %+v", p)
	}
	b.expect(lockquorum.CodeExhausted, &lockquorum.Take{Range: patients, Log: [32]byte{2}, Have: 3})
	if d, ok := q.st.Defined(patients); !ok || d.Part != 6 || d.By != a.device {
		t.Errorf("it is defined as %+v (%v)", d, ok)
	}
}

// TestTheLastPartIsGivenBack: of a part with the largest number there is, whose numbers were all given, the first that was not is one beyond. The session
// keeps that answer, and so does who restores a snapshot.
func TestTheLastPartIsGivenBack(t *testing.T) {
	q := begin(t)
	c := q.client("a")
	c.expect(lockquorum.CodeDone, &lockquorum.Define{Range: patients, First: lockquorum.MaxNumber - 9, Last: lockquorum.MaxNumber, Increment: 1, Part: 10})
	p := c.take(1, 0)
	back := &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: p.Min, From: p.Max + 1}}
	if r := c.expect(lockquorum.CodeDone, back); r.Number != lockquorum.MaxNumber+1 {
		t.Errorf("it is given back from %d", r.Number)
	}
	c.expect(lockquorum.CodeDone, back)
	c.expect(lockquorum.CodeResolved, &lockquorum.GiveBack{Void: lockquorum.Void{Range: patients, Min: p.Min, From: p.Max}})
	c.expect(lockquorum.CodeDone, &lockquorum.Keep{})
}

// TestOlderSnapshots: a State without a definition has the snapshot that it had before there were any.
func TestOlderSnapshots(t *testing.T) {
	for want, st := range map[byte]*lockquorum.State{1: full(t), 2: defined(t)} {
		b := st.Snapshot()
		if b[4] != want {
			t.Errorf("the snapshot has version %d, want %d", b[4], want)
		}
		b[4] = 3 - want
		if _, err := lockquorum.Restore(b); err == nil {
			t.Errorf("a snapshot of version %d is read as one of %d", want, 3-want)
		}
	}
	if again, err := lockquorum.Restore(defined(t).Snapshot()); err != nil || !bytes.Equal(again.Snapshot(), defined(t).Snapshot()) {
		t.Errorf("it comes back otherwise (%v)", err)
	}
}

// TestTakeFindsWhatIsFree holds Take against a table of numbers: no part has a number that another one has or that the range does not have, each
// begins as low as it can, and nothing is left while a part is refused.
func TestTakeFindsWhatIsFree(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 7))
		q := begin(t)
		c := q.client("a")
		owner := map[int64]int64{} // number -> min of its part
		first, last, step, size := int64(rng.IntN(5)), int64(20+rng.IntN(60)), int64(1+rng.IntN(3)), int64(1+rng.IntN(9))
		c.expect(lockquorum.CodeDone, &lockquorum.Define{Range: patients, First: first, Last: last, Increment: step, Part: size})
		for n := byte(0); n < 40; n++ {
			lowest, free := int64(-1), int64(0)
			for i := last - (last-first)%step; i >= first; i -= step {
				if _, had := owner[i]; !had {
					lowest, free = i, free+1
				}
			}
			if got := q.st.Free(patients); got != free {
				t.Fatalf("seed %d: %d numbers are free, and it says %d", seed, free, got)
			}
			if rng.IntN(4) == 0 {
				lo := int64(rng.IntN(int(last) + 1))
				hi := lo + int64(rng.IntN(6))
				c.do(&lockquorum.Grant{Range: patients, Owner: lockquorum.DeviceID{9}, Log: [32]byte{9}, Min: lo, Max: hi, Increment: 1})
			} else if have := c.parts(); lowest < 0 {
				c.expect(lockquorum.CodeExhausted, &lockquorum.Take{Range: patients, Log: [32]byte{1}, Have: have})
			} else if p := c.take(1, byte(have)); p.Min != lowest || p.Max >= p.Min+size*step {
				t.Fatalf("seed %d: part %+v, and %d is free", seed, p, lowest)
			}
			clear(owner)
			for _, p := range q.st.Range(patients) {
				for i := p.Min; i <= p.Max; i++ {
					if other, had := owner[i]; had || i < first || i > last {
						t.Fatalf("seed %d: %d is in the part from %d and in that from %d", seed, i, p.Min, other)
					}
					owner[i] = p.Min
				}
			}
		}
	}
}

// parts counts the device's parts of its log.
func (c *client) parts() (n uint64) {
	for _, p := range c.q.st.Range(patients) {
		if p.Owner == c.device && p.Log == [32]byte{1} {
			n++
		}
	}
	return n
}
