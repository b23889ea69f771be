package lockquorum_test

import (
	"bytes"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// operations has one of each.
var operations = []lockquorum.Operation{
	&lockquorum.Tick{}, &lockquorum.Open{TTL: 60_000}, &lockquorum.Keep{}, &lockquorum.End{},
	&lockquorum.Acquire{Lock: lists, TTL: 20_000, Try: true},
	&lockquorum.Renew{Lock: lists, Token: lockquorum.Token{Epoch: 1, Index: 300}},
	&lockquorum.Commit{Lock: lists, Token: lockquorum.Token{Epoch: 1, Index: 3}, Document: codes, Expected: heads(1), New: heads(2)},
	&lockquorum.Release{Lock: lists, Token: lockquorum.Token{Epoch: 2, Index: 3}}, &lockquorum.Cancel{Lock: lists},
	&lockquorum.Break{Lock: lists, Token: lockquorum.Token{Epoch: 1, Index: 3}, Note: []byte("sealed"),
		Back: []lockquorum.Certified{{Document: codes, Heads: heads(1)}, {Document: prices, Heads: heads(2)}}},
	&lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{2}},
	&lockquorum.Resolve{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{2}, To: lockquorum.NumberVoid, Note: []byte("sealed")},
	&lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1 << 40}, &lockquorum.CloseCircle{Circle: lockquorum.CircleID{1}},
	&lockquorum.Grant{Range: lockquorum.RangeID{1}, Log: [32]byte{3}, Min: 1, Max: 1000, Increment: 1},
	&lockquorum.Void{Range: lockquorum.RangeID{1}, Min: 1, From: 1001, Note: []byte("sealed")},
	&lockquorum.Define{Range: lockquorum.RangeID{1}, First: 1, Last: 1 << 40, Increment: 2, Part: 1000},
	&lockquorum.Take{Range: lockquorum.RangeID{1}, Log: [32]byte{3}, Have: 2},
	&lockquorum.GiveBack{Void: lockquorum.Void{Range: lockquorum.RangeID{1}, Min: 1, From: 1001, Note: []byte("sealed")}},
	&lockquorum.Voters{List: []lockquorum.Voter{{ID: 1}, {ID: 2, Device: lockquorum.DeviceID{4}}}},
}

// FuzzParse: what is read as a command is written the same, and a State takes it.
func FuzzParse(f *testing.F) {
	var seeds [][]byte
	for i, o := range operations {
		c := &lockquorum.Command{Clock: int64(i) << 20, Device: lockquorum.DeviceID{1}, Operation: o}
		if i%2 == 1 {
			c.Session, c.Seq, c.Done = lockquorum.SessionID{1}, uint64(i)+1, uint64(i)
		}
		b, err := c.Marshal()
		if err != nil {
			f.Fatalf("%T: %v", o, err)
		}
		seeds = append(seeds, b)
		f.Add(b)
	}
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		var c *lockquorum.Command
		var err error
		fuzzing.Allocates(t, len(b), 16, 4<<10, func() { c, err = lockquorum.Parse(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again, err := c.Marshal(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%T is written %x (%v), and was read of %x", c.Operation, again, err, b)
		}
		st := full(t)
		st.Apply(st.Index()+1, c, b)
		if _, err := lockquorum.Restore(st.Snapshot()); err != nil {
			t.Fatalf("after %T the State does not restore: %v", c.Operation, err)
		}
	})
}

// full returns a State that has some of everything.
func full(t testing.TB) *lockquorum.State {
	q := begin(t)
	a, b, c := q.client("a"), q.client("b"), q.client("c")
	l := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	b.expect(lockquorum.CodeQueued, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, New: heads(1)})
	a.expect(lockquorum.CodeDone, &lockquorum.Commit{Lock: lists, Token: l.Token, Document: codes, Expected: heads(1), New: heads(2)})
	other := c.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lockquorum.LockID{7}, TTL: 20_000})
	a.expect(lockquorum.CodeDone, &lockquorum.Break{Lock: lockquorum.LockID{7}, Token: other.Token, Note: []byte("sealed")})
	for i := range 3 {
		circle := lockquorum.CircleID{byte(i)}
		a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: circle, First: 5, Last: 7})
		for n := range i {
			a.expect(lockquorum.CodeDone, &lockquorum.Assign{Circle: circle, Item: lockquorum.ItemID{byte(n)}})
		}
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Resolve{Circle: lockquorum.CircleID{2}, Item: lockquorum.ItemID{1}, To: lockquorum.NumberVoid, Note: []byte("why")})
	a.expect(lockquorum.CodeDone, &lockquorum.CloseCircle{Circle: lockquorum.CircleID{2}})
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: lockquorum.CircleID{2}, First: 1, Last: 1})
	for i := range 3 {
		a.expect(lockquorum.CodeDone, &lockquorum.Grant{Range: lockquorum.RangeID{1}, Owner: a.device, Min: int64(100 * i), Max: int64(100*i + 99), Increment: 2})
	}
	a.expect(lockquorum.CodeDone, &lockquorum.Void{Range: lockquorum.RangeID{1}, Min: 100, From: 150, Note: []byte("why")})
	q.apply(&lockquorum.Command{Operation: &lockquorum.Voters{List: []lockquorum.Voter{{ID: 1, Device: a.device}, {ID: 2, Device: b.device}}}})
	return q.st
}

// defined returns a State with ranges that were defined, which needs a snapshot of version 2.
func defined(t testing.TB) *lockquorum.State {
	st := full(t)
	for _, o := range []lockquorum.Operation{
		&lockquorum.Define{Range: lockquorum.RangeID{1}, First: 1, Last: 1000, Increment: 2, Part: 20},
		&lockquorum.Define{Range: lockquorum.RangeID{2}, First: 1, Last: 1, Increment: 1},
		&lockquorum.Take{Range: lockquorum.RangeID{1}, Log: [32]byte{9}},
	} {
		if r, _ := st.Apply(st.Index()+1, &lockquorum.Command{Device: lockquorum.DeviceID{3}, Operation: o}, nil); r.Code != lockquorum.CodeDone {
			t.Fatalf("%T: %v", o, r.Code)
		}
	}
	return st
}

// FuzzRestore: what is read as a snapshot is written the same, and goes on.
func FuzzRestore(f *testing.F) {
	seeds := [][]byte{lockquorum.New(3).Snapshot(), full(f).Snapshot(), defined(f).Snapshot()}
	for _, b := range seeds {
		if _, err := lockquorum.Restore(b); err != nil {
			f.Fatalf("a seed is refused: %v", err)
		}
		f.Add(b)
	}
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		var st *lockquorum.State
		var err error
		fuzzing.Allocates(t, len(b), 64, 16<<10, func() { st, err = lockquorum.Restore(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again := st.Snapshot(); !bytes.Equal(again, b) {
			t.Fatalf("a snapshot is written otherwise than it was read")
		}
		for _, o := range operations {
			c := &lockquorum.Command{Clock: 1 << 40, Operation: o}
			raw, err := c.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			st.Apply(st.Index()+1, c, raw)
		}
		if _, err := lockquorum.Restore(st.Snapshot()); err != nil {
			t.Fatalf("it does not restore after going on: %v", err)
		}
	})
}

// FuzzOwned: the parts that a device says it has are read as they were written, and are such as a quorum grants.
func FuzzOwned(f *testing.F) {
	read := func(b []byte) ([]lockquorum.Owned, error) {
		r := wire.NewReader(b)
		list := lockquorum.ReadOwned(r)
		return list, r.Close()
	}
	write := func(list []lockquorum.Owned) []byte {
		var w wire.Writer
		lockquorum.AppendOwned(&w, list)
		return w.Bytes()
	}
	part := lockquorum.Part{Min: 3, Max: 300, Increment: 1, Owner: lockquorum.DeviceID{4}, Log: [32]byte{5}}
	void := part
	void.Void, void.From = true, 301
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err }, write(nil), write([]lockquorum.Owned{{Range: lockquorum.RangeID{1}, Part: part}, {Range: lockquorum.RangeID([]byte(fuzzing.Canary + "................................")[:32]), Part: void}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var list []lockquorum.Owned
		var err error
		fuzzing.Allocates(t, len(b), 16, 8<<10, func() { list, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(write(list), b) {
			t.Errorf("%x is written %x", b, write(list))
		}
	})
}
