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
	"chartmesh/trust"
)

// numbered returns the store of a voter that is alone and has given some numbers.
func numbered(t *testing.T, n int) (*storage.Twin, Status) {
	t.Helper()
	twin := founded(t, 1, 1)
	d := open(t, twin, Config{})
	stop := start(t, d)
	openCircle(t, d)
	for i := range n {
		assign(t, d, byte(i))
	}
	must(t, stop())
	return twin, d.Status()
}

// TestKept: a voter's whole log is read whatever became of the voter, also as far as it reads; nothing of it changes thereby.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin, at := numbered(t, 5)
		for _, c := range []struct {
			how   string
			do    func(*storage.Twin)
			whole bool
			last  uint64
		}{
			{"it could run", func(*storage.Twin) {}, true, at.Last},
			{"it has lost something", func(s *storage.Twin) { must(t, End(t.Context(), s, voter.ErrLost)) }, false, at.Last},
			{"it is over", func(s *storage.Twin) { must(t, End(t.Context(), s, voter.ErrOver)) }, false, at.Last},
			{"its end is gone", func(s *storage.Twin) { s.Corrupt(storage.QuorumEntry.Key(at.Last)) }, false, at.Last - 1},
			{"its middle is gone", func(s *storage.Twin) { s.Corrupt(storage.QuorumEntry.Key(at.Last - 2)) }, false, at.Last - 3},
			{"its vote is gone", func(s *storage.Twin) { s.Corrupt(storage.Quorum.Key(itemHard)) }, false, 1},
			{"its snapshot is gone", func(s *storage.Twin) { s.Corrupt(storage.Quorum.Key(itemSnapshot)) }, false, 0},
		} {
			less := twin.Copy()
			c.do(less)
			k, err := ReadKept(less)
			must(t, err)
			b, err := k.Marshal()
			must(t, err)
			if k, err = ParseKept(b); err != nil {
				t.Fatal(err)
			}
			_, reach, err := k.Latest()
			if err != nil || k.Whole != c.whole || reach.Index != c.last || k.Epoch != 1 || k.ID != 1 {
				t.Errorf("%s: it reaches %+v, whole: %v (%v); want %d", c.how, reach, k.Whole, err, c.last)
			}
		}
		if _, err := ReadKept(storage.NewTwin()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("of no voter: %v", err)
		}
	})
}

// TestOverForGood: a voter that is shown a later epoch ends, also for who starts it again.
func TestOverForGood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 1, 1)
		d := open(t, twin, Config{})
		start(t, d)
		must(t, d.within(t.Context(), func() { d.node.Shown(lockquorum.Seen{Place: lockquorum.Place{Epoch: 2}}) }))
		synctest.Wait()
		if st := d.Status(); st.Running || !errors.Is(st.Err, voter.ErrOver) {
			t.Fatalf("it says %+v", st)
		}
		disk, rec, err := OpenDisk(twin)
		must(t, err)
		if _, err := Open(t.Context(), Config{ID: rec.ID, Disk: disk, Allow: quorumtest.Allow}); !errors.Is(err, voter.ErrOver) || !errors.Is(err, ErrBroken) {
			t.Errorf("started again: %v", err)
		}
	})
}

// TestTakeUp: a voter that is prepared touches nothing of the one that there is, and takes its place at once or not at all.
func TestTakeUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin, at := numbered(t, 3)
		if err := TakeUp(t.Context(), twin); !errors.Is(err, storage.ErrNotFound) {
			t.Fatalf("without one that is prepared: %v", err)
		}
		k, err := ReadKept(twin)
		must(t, err)
		st, _, err := k.Latest()
		must(t, err)
		for _, epoch := range []uint64{7, 9} { // the one of before was interrupted
			st.Reseed(epoch, []lockquorum.Voter{{ID: 1, Device: lockquorum.DeviceID{1}}})
			must(t, Prepare(t.Context(), twin, Prepared{Record{Epoch: epoch, ID: 1, Log: [32]byte{5}}, trust.EntryID{byte(epoch)}}, st))
			if again, err := ReadKept(twin); err != nil || again.Epoch != 1 || uint64(len(again.Stored.Entries)) != at.Last-1 || !again.Whole {
				t.Errorf("the log of epoch %d has %d entries (%v)", again.Epoch, len(again.Stored.Entries), err)
			}
		}
		must(t, End(t.Context(), twin, voter.ErrOver))
		failing := twin.Copy()
		failing.OnCommit(func(storage.Stage, int) error { return errors.New("the machine fails") })
		if err := TakeUp(t.Context(), failing); err == nil {
			t.Fatal("it does not fail")
		}
		if k, err := ReadKept(failing); err != nil || k.Epoch != 1 {
			t.Errorf("cut short it is of epoch %d (%v)", k.Epoch, err)
		}
		must(t, TakeUp(t.Context(), twin))
		if err := TakeUp(t.Context(), twin); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("twice: %v", err)
		}
		_, rec, err := OpenDisk(twin)
		if err != nil || rec.Epoch != 9 || rec.Log != [32]byte{5} {
			t.Errorf("the voter is %+v (%v)", rec, err)
		}
		d := open(t, twin, Config{})
		start(t, d)
		time.Sleep(time.Second)
		if s := d.Status(); !s.Leads || s.Epoch != 9 || s.Last > 3 {
			t.Errorf("it says %+v", s)
		}
		if got := assign(t, d, 1); got.Code != lockquorum.CodeDone || got.Number != 2 || got.Series.Epoch != 1 {
			t.Errorf("a number of before is %+v", got)
		}
		more := &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{77}}
		if got, err := d.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: more}); err != nil || got.Code != lockquorum.CodeClosed {
			t.Errorf("its series goes on: %+v (%v)", got, err)
		}
	})
}
