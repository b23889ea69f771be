package driver

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
)

var invoices = lockquorum.CircleID{1}

// full returns a State in which so many numbers were given, each of which says what became of it.
func full(t testing.TB, n, voters int) *lockquorum.State {
	t.Helper()
	st := founding(voters)
	do := func(o lockquorum.Operation) {
		c := &lockquorum.Command{Device: quorumtest.A, Operation: o}
		raw, err := c.Marshal()
		must(t, err)
		if r, _ := st.Apply(st.Index()+1, c, raw); r.Code != lockquorum.CodeDone {
			t.Fatalf("%T: %v", o, r.Code)
		}
	}
	do(&lockquorum.OpenCircle{Circle: invoices, First: 1, Last: lockquorum.MaxNumber})
	note := make([]byte, 168)
	for i := range n {
		item := lockquorum.ItemID{1, byte(i >> 16), byte(i >> 8), byte(i)}
		do(&lockquorum.Assign{Circle: invoices, Item: item})
		do(&lockquorum.Resolve{Circle: invoices, Item: item, To: lockquorum.NumberUsed, Note: note})
	}
	return st
}

// given returns how many numbers a voter has given.
func given(t testing.TB, e lockquorum.Engine) int {
	t.Helper()
	v, _, err := e.Read(t.Context(), quorumtest.A, lockquorum.Query{Kind: lockquorum.ReadCircle, ID: invoices})
	must(t, err)
	list, _ := v.Circle(invoices)
	if len(list) == 0 {
		return 0
	}
	return list[0].Given
}

// TestLarge: a State beyond what a value of the store holds is kept, and a follower that was away is sent the pieces alone that it lacks.
func TestLarge(t *testing.T) {
	const many = 110_000 // 27 MB: more than a value
	st := full(t, many, 3)
	if n := len(st.Snapshot()); n <= storage.MaxValue {
		t.Fatalf("the State has only %d bytes", n)
	}
	synctest.Test(t, func(t *testing.T) {
		n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}, stop: map[lockquorum.DeviceID]func() error{}}
		stores := map[lockquorum.DeviceID]*storage.Twin{}
		for i := 1; i <= 3; i++ {
			device := lockquorum.DeviceID{byte(i)}
			stores[device] = storage.NewTwin()
			must(t, Found(t.Context(), stores[device], Record{Epoch: 1, ID: uint64(i)}, voter.Found(st)))
			d := open(t, stores[device], Config{Transport: end{n, device}, SnapshotEvery: 20})
			n.set(func() { n.voters[device] = d })
		}
		for _, d := range n.voters {
			n.stop[d.cfg.Device] = start(t, d)
		}
		e := leader{n}
		lead := e.find().cfg.Device
		away := lockquorum.DeviceID{1}
		if lead == away {
			away = lockquorum.DeviceID{2}
		}
		n.set(func() { n.cut[away] = true })
		for i := range 100 {
			assign(t, e, byte(100+i))
		}
		time.Sleep(3 * time.Second)
		n.set(func() { n.cut[away] = false })
		for range 100 {
			if time.Sleep(100 * time.Millisecond); n.voters[away].Status().Chain == n.voters[lead].Status().Chain {
				break
			}
		}
		sent := 0
		n.set(func() { sent = n.pieces })
		if at := n.voters[away].Status(); at.Chain != n.voters[lead].Status().Chain || sent == 0 || sent > 4 {
			t.Errorf("who was away is at %d after %d pieces", at.Index, sent)
		}
		// Killed where it stands, it has all.
		must(t, n.stop[away]())
		twin := stores[away].Crash()
		stores[away] = twin
		d := open(t, twin, Config{Transport: end{n, away}, SnapshotEvery: 20})
		n.set(func() { n.voters[away] = d })
		start(t, d)
		if got := given(t, e); got != many+100 {
			t.Errorf("%d numbers were given", got)
		}
		time.Sleep(time.Second)
		if a, b := d.Status(), n.voters[lead].Status(); a.Chain != b.Chain {
			t.Errorf("it is at %d, and who leads at %d", a.Index, b.Index)
		}
	})
}

// TestOlderFolder: what an older version stored in one value is read, and is in pieces after the next snapshot.
func TestOlderFolder(t *testing.T) {
	st := full(t, 600, 1)
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 1, 1)
		from := voter.Found(st)
		from.Snapshot.Data = st.Snapshot()
		var b storage.Batch
		b.Put(storage.Quorum.Key(itemSnapshot), marshalSnapshot(from.Snapshot))
		must(t, twin.Commit(t.Context(), &b))
		for run := range 3 {
			d := open(t, twin, Config{SnapshotEvery: 5})
			stop := start(t, d)
			for i := range 4 {
				assign(t, d, byte(100+4*run+i))
			}
			if got, want := given(t, d), 604+4*run; got != want {
				t.Errorf("in run %d there are %d numbers, not %d", run, got, want)
			}
			must(t, stop())
			twin = twin.Crash()
		}
		open(t, twin, Config{}) // which removes what nobody names
		must(t, twin.View(func(r storage.Reader) error {
			v, err := r.Get(storage.Quorum.Key(itemSnapshot))
			must(t, err)
			s, err := parseSnapshot(v)
			must(t, err)
			if !lockquorum.IsManifest(s.GetData()) {
				t.Error("the snapshot is still in one")
			}
			sums, err := lockquorum.SumsOf(s.GetData())
			must(t, err)
			there := 0
			must(t, r.Keys(storage.QuorumPiece.All(), nil, func([]byte) error { there++; return nil }))
			if there != len(sums) {
				t.Errorf("%d pieces are stored, and the snapshot has %d", there, len(sums))
			}
			return nil
		}))
	})
}

// TestCrashBetweenPieces: wherever a voter is killed while it stores a snapshot, it has all that was answered, and what nobody names is gone once it was opened.
func TestCrashBetweenPieces(t *testing.T) {
	for _, stage := range []storage.Stage{storage.Begin, storage.Applied, storage.Synced} {
		for at := range 12 {
			synctest.Test(t, func(t *testing.T) {
				twin := founded(t, 1, 1)
				d := open(t, twin, Config{SnapshotEvery: 3})
				start(t, d)
				openCircle(t, d)
				commits, failed := 0, errors.New("killed")
				twin.OnCommit(func(s storage.Stage, _ int) error {
					if s == stage {
						commits++
					}
					if commits > at {
						return failed
					}
					return nil
				})
				last := 0
				for i := range 12 {
					a, err := d.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{Circle: invoices, Item: lockquorum.ItemID{byte(i)}}})
					if err != nil {
						break
					}
					last = int(a.Number)
				}
				<-d.Ended()
				twin = twin.Crash()
				twin.OnCommit(nil)
				d = open(t, twin, Config{SnapshotEvery: 3})
				named, there := map[lockquorum.Sum]bool{}, 0
				must(t, twin.View(func(r storage.Reader) error {
					must(t, manifestAt(r, itemSnapshot, named))
					return r.Keys(storage.QuorumPiece.All(), nil, func([]byte) error { there++; return nil })
				}))
				if there != len(named) {
					t.Errorf("%v %d: %d pieces are stored, and the snapshot has %d", stage, at, there, len(named))
				}
				start(t, d)
				if got := given(t, d); got < last || got > last+1 {
					t.Errorf("%v %d: %d numbers were answered, and there are %d", stage, at, last, got)
				}
			})
		}
	}
}

// TestPieceLost: a voter that lacks a piece of its snapshot has lost something, and does not start.
func TestPieceLost(t *testing.T) {
	for what, bend := range map[string]func(*storage.Twin, []byte){
		"gone": func(s *storage.Twin, key []byte) {
			var b storage.Batch
			b.Delete(key)
			must(t, s.Commit(t.Context(), &b))
		},
		"damaged": func(s *storage.Twin, key []byte) { s.Corrupt(key) },
	} {
		twin := founded(t, 1, 1)
		must(t, twin.View(func(r storage.Reader) error {
			return r.Keys(storage.QuorumPiece.All(), nil, func(key []byte) error { defer bend(twin, append([]byte(nil), key...)); return storage.ErrStop })
		}))
		disk, rec, err := OpenDisk(twin)
		must(t, err)
		if _, err := Open(t.Context(), Config{ID: rec.ID, Disk: disk, Allow: quorumtest.Allow}); !errors.Is(err, voter.ErrLost) || !errors.Is(err, ErrBroken) {
			t.Errorf("a piece is %s: %v", what, err)
		}
	}
}
