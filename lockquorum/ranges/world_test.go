package ranges

import (
	"context"
	"errors"
	"testing"

	"chartmesh/lockquorum"
	"chartmesh/storage"
)

var patients = lockquorum.RangeID{1}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// why a log was begun.
type why int

const (
	first    why = iota
	copied       // the folder is at another place than it was
	restored     // it was put back in its place
	rebuilt      // something of its chunks was damaged; it is the same folder
)

// ownLog is a log of a folder.
type ownLog struct {
	id  [32]byte
	why why
}

// fakeMarks are the machine's.
type fakeMarks struct {
	at       map[Place]int64
	readOnly bool
	hidden   bool // they cannot be read either
}

func (m *fakeMarks) Read(p Place) (int64, bool, error) {
	if m.hidden {
		return 0, false, errReadOnly
	}
	n, ok := m.at[p]
	return n, ok, nil
}

func (m *fakeMarks) Write(p Place, n int64) error {
	if m.readOnly {
		return errReadOnly
	}
	m.at[p] = n
	return nil
}

func (m *fakeMarks) Remove(p Place) error {
	if _, there := m.at[p]; there && m.readOnly {
		return errReadOnly
	}
	return nil
}

var errReadOnly = errors.New("read-only")

// quorum is one that always agrees.
type quorum struct {
	t    testing.TB
	st   *lockquorum.State
	away bool
	lose func() int // of the next command: 0 nothing, 1 it does not arrive, 2 the answer does not
	logs byte       // that were ever begun
}

var errAway = errors.New("no quorum")

func (q *quorum) do(device lockquorum.DeviceID, o lockquorum.Operation) error {
	q.t.Helper()
	lose := 0
	if q.lose != nil {
		lose = q.lose()
	}
	if q.away || lose == 1 {
		return errAway
	}
	c := &lockquorum.Command{Device: device, Operation: o}
	raw, err := c.Marshal()
	must(q.t, err)
	r, _ := q.st.Apply(q.st.Index()+1, c, raw)
	if lose == 2 {
		return errAway
	}
	if r.Code != lockquorum.CodeDone && r.Code != lockquorum.CodeResolved {
		return errors.New(r.Code.String())
	}
	return nil
}

// folder is a device's data folder.
type folder struct {
	q     *quorum
	self  lockquorum.DeviceID
	store *storage.Twin
	logs  []ownLog
	due   bool // a new log is to begin
	marks *fakeMarks
	a     *Allocator
}

func newQuorum(t testing.TB) *quorum { return &quorum{t: t, st: lockquorum.New(1)} }

func (q *quorum) define(last, part int64) {
	q.t.Helper()
	must(q.t, q.do(lockquorum.DeviceID{99}, &lockquorum.Define{Range: patients, First: 1, Last: last, Increment: 1, Part: part}))
}

func (q *quorum) folder(self byte) *folder {
	f := &folder{q: q, self: lockquorum.DeviceID{self}, store: storage.NewTwin(), marks: &fakeMarks{at: map[Place]int64{}}}
	f.begin(first)
	f.open()
	return f
}

// begin begins another log.
func (f *folder) begin(w why) {
	f.q.logs++
	f.logs = append(f.logs, ownLog{[32]byte{f.self[0], f.q.logs}, w})
}

func (f *folder) open() {
	f.a = New(Config{Store: f.store, Device: f.self, Quorum: f, Marks: f.marks,
		Log: Log{Current: func() [32]byte { return f.logs[len(f.logs)-1].id }, Continues: f.continues, Replaced: f.replaced, All: f.all}})
}

func (f *folder) continues(since [32]byte) bool {
	found := false
	for _, l := range f.logs {
		if found && (l.why == copied || l.why == restored) {
			return false
		}
		found = found || l.id == since
	}
	return found && !f.due
}

func (f *folder) replaced(since [32]byte) bool {
	found, is := false, false
	for _, l := range f.logs {
		if found && l.why == copied {
			return false
		}
		is = is || found && l.why == restored
		found = found || l.id == since
	}
	return is
}

func (f *folder) all() (list [][32]byte) {
	for _, l := range f.logs {
		list = append(list, l.id)
	}
	return list
}

// image is what a backup has of a folder.
type image struct {
	store *storage.Twin
	logs  []ownLog
}

func (f *folder) image() image { return image{f.store.Copy(), append([]ownLog{}, f.logs...)} }

// putBack puts an image in the folder's place. What is kept outside of it shows that it went back, or does not.
func (f *folder) putBack(i image, shows bool) {
	f.store, f.logs = i.store.Copy(), append([]ownLog{}, i.logs...)
	if shows {
		f.begin(restored)
	}
	f.open()
}

// clone copies an image to another place on the machine, where the copy goes on beside the folder.
func (f *folder) clone(i image) *folder {
	c := &folder{q: f.q, self: f.self, store: i.store.Copy(), logs: append([]ownLog{}, i.logs...), marks: f.marks}
	c.begin(copied)
	c.open()
	return c
}

// crash ends the process, and starts another.
func (f *folder) crash() {
	f.store = f.store.Crash()
	f.open()
}

// Read implements Quorum.
func (f *folder) Read(context.Context) (*lockquorum.View, error) {
	if f.q.away {
		return nil, errAway
	}
	q := lockquorum.Query{Kind: lockquorum.ReadRanges}
	return lockquorum.ParseView(q, f.q.st.View(q, 0))
}

// Take implements Quorum.
func (f *folder) Take(_ context.Context, id lockquorum.RangeID, log [32]byte, have int) error {
	return f.q.do(f.self, &lockquorum.Take{Range: id, Log: log, Have: uint64(have)})
}

// GiveBack implements Quorum.
func (f *folder) GiveBack(_ context.Context, id lockquorum.RangeID, lo, from int64) error {
	return f.q.do(f.self, &lockquorum.GiveBack{Void: lockquorum.Void{Range: id, Min: lo, From: from}})
}

// founds has the quorum founded anew with a State that it had before, and the parts that some folders say they have.
func (q *quorum) founds(st *lockquorum.State, say ...*folder) {
	q.t.Helper()
	for _, f := range say {
		held, err := f.a.Parts()
		must(q.t, err)
		for _, h := range held {
			st.Adopt(h.Range, h.Part)
		}
	}
	st.Reseed(st.Epoch()+1, nil)
	q.st = st
}

// copy returns the State as it is now.
func (q *quorum) copy() *lockquorum.State {
	q.t.Helper()
	st, err := lockquorum.Restore(q.st.Snapshot())
	must(q.t, err)
	return st
}

// item names what is numbered.
func item(name string) (id lockquorum.ItemID) { copy(id[:], name); return id }

func (f *folder) next(name string) (Given, error) {
	return f.a.Next(context.Background(), patients, item(name), name)
}

// gives has the folder give a number.
func (f *folder) gives(t testing.TB, name string, want int64) Given {
	t.Helper()
	g, err := f.next(name)
	if err != nil || g.Number != want {
		t.Fatalf("it gives %d (%v), want %d", g.Number, err, want)
	}
	return g
}
