package lockquorum_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// some are the pieces of a snapshot that somebody has.
type some map[lockquorum.Sum][]byte

func (s some) Piece(sum lockquorum.Sum) ([]byte, error) {
	if b, ok := s[sum]; ok {
		return b, nil
	}
	return nil, lockquorum.ErrPiece
}

// take adds the pieces of a State that are not there, and returns how many and how large these are.
func (s some) take(t testing.TB, f *lockquorum.Frozen) (n, size int) {
	t.Helper()
	sums, err := lockquorum.SumsOf(f.Manifest())
	if err != nil {
		t.Fatal(err)
	}
	for _, sum := range sums {
		if _, ok := s[sum]; ok {
			continue
		}
		b, err := f.Piece(sum)
		if err != nil {
			t.Fatal(err)
		}
		s[sum] = b
		n, size = n+1, size+len(b)
	}
	return n, size
}

// assembled returns the State of pieces, which must be that of a snapshot in one.
func assembled(t testing.TB, manifest []byte, from lockquorum.Pieces, whole []byte) *lockquorum.State {
	t.Helper()
	st, err := lockquorum.Assemble(manifest, from)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(st.Snapshot(), whole) || !bytes.Equal(st.Freeze().Manifest(), manifest) {
		t.Fatal("the State of its pieces is another one")
	}
	return st
}

// numbers gives so many numbers of a circle, by commands as they stand in a log.
func numbers(t testing.TB, st *lockquorum.State, circle lockquorum.CircleID, from, to int, o func(item lockquorum.ItemID) lockquorum.Operation) {
	t.Helper()
	for i := from; i < to; i++ {
		c := &lockquorum.Command{Clock: int64(i), Device: lockquorum.DeviceID{1}, Operation: o(lockquorum.ItemID{byte(i >> 16), byte(i >> 8), byte(i), 1})}
		raw, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if r, _ := st.Apply(st.Index()+1, c, raw); r.Code != lockquorum.CodeDone || r.Number != int64(i+1) {
			t.Fatalf("number %d: %+v", i+1, r)
		}
	}
}

func assigned(circle lockquorum.CircleID) func(lockquorum.ItemID) lockquorum.Operation {
	return func(item lockquorum.ItemID) lockquorum.Operation {
		return &lockquorum.Assign{Circle: circle, Item: item}
	}
}

func used(circle lockquorum.CircleID) func(lockquorum.ItemID) lockquorum.Operation {
	return func(item lockquorum.ItemID) lockquorum.Operation {
		return &lockquorum.Resolve{Circle: circle, Item: item, To: lockquorum.NumberUsed, Note: bytes.Repeat([]byte{7}, 168)}
	}
}

func opened(t testing.TB, circle lockquorum.CircleID) *lockquorum.State {
	t.Helper()
	st := lockquorum.New(1)
	c := &lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: circle, First: 1, Last: lockquorum.MaxNumber}}
	raw, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	st.Apply(1, c, raw)
	return st
}

// TestFrozen: what is frozen stays while the State goes on, and what did not change is not a new piece.
func TestFrozen(t *testing.T) {
	circle := lockquorum.CircleID{1}
	st := opened(t, circle)
	stored := some{}
	var before *lockquorum.Frozen
	var whole []byte
	for round := range 8 {
		numbers(t, st, circle, round*500, round*500+500, assigned(circle))
		numbers(t, st, circle, max(0, round*500-30), round*500+200, used(circle))
		f, now := st.Freeze(), st.Snapshot()
		if n, _ := stored.take(t, f); n > 5 { // the head, two or three pages, and one that was resolved late
			t.Errorf("round %d: %d pieces are new", round, n)
		}
		assembled(t, f.Manifest(), stored, now)
		if before != nil {
			assembled(t, before.Manifest(), before, whole)
		}
		before, whole = f, now
	}
	// One that goes on from pieces changes none that somebody else holds.
	other := assembled(t, before.Manifest(), before, whole)
	numbers(t, other, circle, 0, 0, used(circle))
	numbers(t, other, circle, 3900, 4000, used(circle))
	assembled(t, before.Manifest(), before, whole)
	if n, _ := stored.take(t, other.Freeze()); n > 3 {
		t.Errorf("%d pieces are new after 100 numbers", n)
	}
}

// TestPiecesRefused: what is not all that a manifest names is no State.
func TestPiecesRefused(t *testing.T) {
	circle := lockquorum.CircleID{1}
	st := opened(t, circle)
	numbers(t, st, circle, 0, 700, assigned(circle))
	f := st.Freeze()
	all := some{}
	all.take(t, f)
	for sum := range all {
		lacks, bent := maps.Clone(all), maps.Clone(all)
		delete(lacks, sum)
		if _, err := lockquorum.Assemble(f.Manifest(), lacks); !errors.Is(err, lockquorum.ErrPiece) {
			t.Errorf("without a piece: %v", err)
		}
		bent[sum] = append(slices.Clone(bent[sum]), 0)
		if _, err := lockquorum.Assemble(f.Manifest(), bent); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("with another piece: %v", err)
		}
	}
	manifest := f.Manifest()
	for what, b := range map[string][]byte{
		"a piece less": append(append(slices.Clone(manifest[:6]), manifest[6]-1), manifest[7:len(manifest)-32]...),
		"a piece more": append(append(append(slices.Clone(manifest[:6]), manifest[6]+1), manifest[7:]...), manifest[len(manifest)-32:]...),
		"cut short":    manifest[:len(manifest)-1], "a snapshot in one": st.Snapshot(), "nothing": nil,
	} {
		if _, err := lockquorum.Assemble(b, all); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestOnePieceManyTimes: a manifest that names one piece of the head many thousand times makes no memory of many thousand.
func TestOnePieceManyTimes(t *testing.T) {
	piece := make([]byte, 256<<10)
	sum := lockquorum.SumOf(piece)
	var w wire.Writer
	w.Raw([]byte{'c', 'm', 'l', 'm', 1})
	w.Uvarint(1000)
	w.Uvarint(1000)
	for range 1000 {
		w.Raw(sum[:])
	}
	got := fuzzing.Allocated(func() {
		if _, err := lockquorum.Assemble(w.Bytes(), some{sum: piece}); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("it is taken: %v", err)
		}
	})
	if got > 4<<20 {
		t.Errorf("it takes %d bytes", got)
	}
}

// TestListsEnd: a part of a list that is not the one that follows does not read, else who asks for one after another might never come to an end.
func TestListsEnd(t *testing.T) {
	circle := lockquorum.CircleID{1}
	st := opened(t, circle)
	numbers(t, st, circle, 0, 5000, assigned(circle))
	q := lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: circle}
	part := st.View(q, 0)
	v, err := lockquorum.ParseView(q, part)
	if err != nil {
		t.Fatal(err)
	}
	next, more := v.Next()
	if !more {
		t.Fatal("that is all")
	}
	if _, err := lockquorum.ParseView(next, part); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("the first part is read as the second: %v", err)
	}
	q.Kind = lockquorum.ReadLocks
	for i := range uint64(2000) {
		q := lockquorum.Command{Session: lockquorum.SessionID{1}, Seq: i + 1, Done: i, Operation: &lockquorum.Open{TTL: 60_000}}
		if i > 0 {
			q.Operation = &lockquorum.Acquire{Lock: lockquorum.LockID{byte(i >> 8), byte(i)}, TTL: 60_000}
		}
		raw, err := q.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		st.Apply(10_000+i, &q, raw)
	}
	q.ID = [32]byte{}
	part = st.View(q, 0)
	if v, err = lockquorum.ParseView(q, part); err != nil {
		t.Fatal(err)
	}
	if next, more = v.Next(); !more {
		t.Fatal("these are all locks")
	}
	if _, err := lockquorum.ParseView(next, part); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("the first locks are read as the second: %v", err)
	}
	if len(everything(t, st, q)) < 2 {
		t.Error("all of it is one part")
	}
}

// everything reads all of a list, part by part.
func everything(t testing.TB, st *lockquorum.State, q lockquorum.Query) (list []*lockquorum.View) {
	t.Helper()
	for {
		v, err := lockquorum.ParseView(q, st.View(q, 0))
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, v)
		var more bool
		if q, more = v.Next(); !more {
			return list
		}
	}
}

// TestViews: what is read in parts is what there is.
func TestViews(t *testing.T) {
	circle := lockquorum.CircleID{9}
	st := full(t)
	c := &lockquorum.Command{Operation: &lockquorum.OpenCircle{Circle: circle, First: 1, Last: lockquorum.MaxNumber}}
	raw, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	st.Apply(st.Index()+1, c, raw)
	numbers(t, st, circle, 0, 5000, assigned(circle))
	numbers(t, st, circle, 0, 3000, used(circle))
	for i := range 3000 {
		apply(t, st, &lockquorum.Command{Device: lockquorum.DeviceID{byte(i % 4), 9}, Session: lockquorum.SessionID{byte(i % 4), 9}, Seq: uint64(i/4 + 2), Done: uint64(i/4 + 1),
			Operation: &lockquorum.Acquire{Lock: lockquorum.LockID{byte(i >> 8), byte(i), 5}, TTL: 1000}}, i < 4)
	}
	for _, id := range st.Circles() {
		want, _ := st.Circle(id)
		got := map[lockquorum.SeriesID][]lockquorum.Number{}
		list := everything(t, st, lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: id})
		for _, v := range list {
			in, numbers := v.Numbers()
			got[in] = append(got[in], numbers...)
		}
		if id == circle && len(list) < 3 {
			t.Errorf("%d numbers come in %d parts", 5000, len(list))
		}
		for _, in := range want {
			if fmt.Sprint(got[in.ID]) != fmt.Sprint(in.Numbers) {
				t.Errorf("circle %v: of series %v %d numbers are read, and there are %d", id, in.ID, len(got[in.ID]), len(in.Numbers))
			}
		}
		v := everything(t, st, lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: id, Series: uint64(len(want)), Number: want[len(want)-1].First + 1})
		if in, numbers := v[0].Numbers(); len(want[len(want)-1].Numbers) > 1 && (in != want[len(want)-1].ID || numbers[0].Number != want[len(want)-1].First+1) {
			t.Errorf("from the second number on there are %v of %v", numbers, in)
		}
	}
	var locks []lockquorum.Lease
	var circles []lockquorum.CircleID
	var ranges []lockquorum.RangeID
	parts := 0
	for _, v := range everything(t, st, lockquorum.Query{Kind: lockquorum.ReadLocks}) {
		locks, parts = append(locks, v.Leases()...), parts+1
	}
	for _, v := range everything(t, st, lockquorum.Query{Kind: lockquorum.ReadCircles}) {
		circles = append(circles, v.Circles()...)
	}
	for _, v := range everything(t, st, lockquorum.Query{Kind: lockquorum.ReadRanges}) {
		ranges = append(ranges, v.Ranges()...)
	}
	if parts < 2 || fmt.Sprint(locks) != fmt.Sprint(st.Leases()) || !slices.Equal(circles, st.Circles()) || !slices.Equal(ranges, st.Ranges()) || len(ranges) == 0 {
		t.Errorf("%d locks of %d in %d parts, %d circles, %d ranges", len(locks), len(st.Leases()), parts, len(circles), len(ranges))
	}
	for _, q := range []lockquorum.Query{{Kind: lockquorum.ReadLock, ID: lists}, {Kind: lockquorum.ReadCircle, ID: circle}, {Kind: lockquorum.ReadRange, ID: lockquorum.RangeID{1}}, {Kind: lockquorum.ReadVoters}} {
		v := everything(t, st, q)[0]
		l, _ := v.Lease(lists)
		is, _ := st.Lease(lists)
		series, _ := v.Circle(circle)
		switch {
		case v.Seen() != st.Seen() || v.Clock() != st.Clock() || !slices.Equal(v.Voters(), st.Voters()):
			t.Errorf("%v: it is read at %v", q.Kind, v.Seen())
		case q.Kind == lockquorum.ReadLock && fmt.Sprint(l) != fmt.Sprint(is), q.Kind != lockquorum.ReadLock && len(v.Leases()) > 0:
			t.Errorf("%v: the lease is %+v", q.Kind, l)
		case q.Kind == lockquorum.ReadCircle && (len(series) != 1 || series[0].Given != 5000 || series[0].Used != 3000 || series[0].Void != 0):
			t.Errorf("the circle is %+v", series)
		case q.Kind == lockquorum.ReadRange && fmt.Sprint(v.Range(lockquorum.RangeID{1})) != fmt.Sprint(st.Range(lockquorum.RangeID{1})):
			t.Errorf("the range is %+v", v.Range(lockquorum.RangeID{1}))
		case len(v.Marshal()) > 4096:
			t.Errorf("%v: one thing is read in %d bytes", q.Kind, len(v.Marshal()))
		}
	}
}

// apply applies a command, within a session that is opened first if that is said.
func apply(t testing.TB, st *lockquorum.State, c *lockquorum.Command, open bool) {
	t.Helper()
	if open {
		apply(t, st, &lockquorum.Command{Device: c.Device, Session: c.Session, Seq: 1, Operation: &lockquorum.Open{TTL: 3_600_000}}, false)
	}
	raw, err := c.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := st.Apply(st.Index()+1, c, raw); r.Code != lockquorum.CodeDone {
		t.Fatalf("%T: %v", c.Operation, r.Code)
	}
}

// FuzzAssemble: what is read of pieces is written in the same ones, and goes on. The input is the pieces, of which so many are the head.
func FuzzAssemble(f *testing.F) {
	pack := func(st *lockquorum.State) []byte {
		frozen := st.Freeze()
		sums, err := lockquorum.SumsOf(frozen.Manifest())
		if err != nil {
			f.Fatal(err)
		}
		var w wire.Writer
		w.Byte(1)
		for _, sum := range sums {
			b, err := frozen.Piece(sum)
			if err != nil {
				f.Fatal(err)
			}
			w.Blob(b)
		}
		return w.Bytes()
	}
	many := opened(f, lockquorum.CircleID{1})
	numbers(f, many, lockquorum.CircleID{1}, 0, 300, assigned(lockquorum.CircleID{1}))
	seeds := [][]byte{pack(lockquorum.New(3)), pack(full(f)), pack(many)}
	unpack := func(b []byte) (manifest []byte, pieces some) {
		r := wire.NewReader(b)
		pieces = some{}
		var w wire.Writer
		heads, n := r.Byte(), uint64(0)
		for r.Len() > 0 && r.Err() == nil {
			piece := r.Blob(lockquorum.MaxPiece)
			sum := lockquorum.SumOf(piece)
			pieces[sum], n = piece, n+1
			w.Raw(sum[:])
		}
		var head wire.Writer
		head.Raw([]byte("cmlm\x01"))
		head.Uvarint(uint64(heads))
		head.Uvarint(n)
		return append(head.Bytes(), w.Bytes()...), pieces
	}
	for _, b := range seeds {
		manifest, pieces := unpack(b)
		if _, err := lockquorum.Assemble(manifest, pieces); err != nil {
			f.Fatalf("a seed is refused: %v", err)
		}
		f.Add(b)
	}
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		manifest, pieces := unpack(b)
		var st *lockquorum.State
		var err error
		fuzzing.Allocates(t, len(b), 64, 64<<10, func() { st, err = lockquorum.Assemble(manifest, pieces) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		frozen := st.Freeze()
		if !bytes.Equal(frozen.Manifest(), manifest) {
			t.Fatal("it is written in other pieces than it was read of")
		}
		whole, err := lockquorum.Restore(st.Snapshot())
		if err != nil || !bytes.Equal(whole.Freeze().Manifest(), manifest) {
			t.Fatalf("it is another State in one: %v", err)
		}
		for _, o := range operations {
			c := &lockquorum.Command{Clock: 1 << 40, Operation: o}
			raw, err := c.Marshal()
			if err != nil {
				t.Fatal(err)
			}
			st.Apply(st.Index()+1, c, raw)
		}
		if !bytes.Equal(frozen.Manifest(), manifest) {
			t.Fatal("what is frozen has changed")
		}
		again := st.Freeze()
		if _, err := lockquorum.Assemble(again.Manifest(), again); err != nil {
			t.Fatalf("it does not come back after going on: %v", err)
		}
	})
}

// FuzzView: what is read as a View is what a State writes. The first byte says what was asked for.
func FuzzView(f *testing.F) {
	query := func(n byte) lockquorum.Query {
		return lockquorum.Query{Kind: lockquorum.Kind(n), ID: lockquorum.CircleID{2}}
	}
	st := full(f)
	var seeds [][]byte
	for kind := lockquorum.ReadVoters; kind <= lockquorum.ReadRanges; kind++ {
		b := append([]byte{byte(kind)}, st.View(query(byte(kind)), 5)...)
		if _, err := lockquorum.ParseView(query(b[0]), b[1:]); err != nil {
			f.Fatalf("a seed is refused: %v", err)
		}
		seeds = append(seeds, b)
		f.Add(b)
	}
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		var v *lockquorum.View
		var err error
		fuzzing.Allocates(t, len(b), 64, 16<<10, func() { v, err = lockquorum.ParseView(query(b[0]), b[1:]) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		_, _ = v.Leases(), v.Circles()
		_, list := v.Numbers()
		if next, more := v.Next(); more && next == query(b[0]) || len(list) > 0 && v.Circles() == nil {
			t.Fatal("it goes on where it was, or has numbers of no circle")
		}
	})
}

// TestMillion: with a million numbers nothing takes longer than with few, and a snapshot stops nobody for as long as an election takes.
func TestMillion(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("HEAVY=1")
	}
	const all = 1_000_000
	circle := lockquorum.CircleID{1}
	st := opened(t, circle)
	pace := func(from, to int, o func(lockquorum.ItemID) lockquorum.Operation) time.Duration {
		begun := time.Now()
		numbers(t, st, circle, from, to, o)
		return time.Since(begun) / time.Duration(to-from)
	}
	few := pace(0, 10_000, assigned(circle))
	pace(10_000, all-10_000, assigned(circle))
	many := pace(all-10_000, all, assigned(circle))
	resolving := pace(0, all, used(circle))
	begun := time.Now()
	first := st.Freeze()
	freezing := time.Since(begun)
	stored := some{}
	n, size := stored.take(t, first)
	writing := time.Since(begun) - freezing
	t.Logf("assign %v with few, %v with a million; use %v; freeze %v; find and write %d pieces of %d bytes: %v", few, many, resolving, freezing, n, size, writing)
	for i := range 4096 {
		apply(t, st, &lockquorum.Command{Operation: &lockquorum.Tick{}, Clock: int64(all + i)}, false)
	}
	begun = time.Now()
	again := st.Freeze()
	freezing = max(freezing, time.Since(begun))
	if n, size := stored.take(t, again); n > 1 {
		t.Errorf("%d pieces of %d bytes are new where no number changed", n, size)
	}
	begun = time.Now()
	if _, err := lockquorum.Assemble(again.Manifest(), stored); err != nil {
		t.Fatal(err)
	}
	t.Logf("freeze again %v, assemble %v", freezing, time.Since(begun))
	if many > 10*few+20*time.Microsecond || freezing > 200*time.Millisecond {
		t.Errorf("an operation takes %v instead of %v, and freezing %v", many, few, freezing)
	}
}
