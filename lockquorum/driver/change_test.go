package driver

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/storage"
)

// added returns two more voters that wait to be made such, in the network of one that is alone.
func added(t *testing.T, n *network, begin Begin) []lockquorum.Voter {
	t.Helper()
	want := []lockquorum.Voter{{ID: 1, Device: lockquorum.DeviceID{1}}}
	for _, v := range []lockquorum.Voter{{ID: 7, Device: lockquorum.DeviceID{7}}, {ID: 8, Device: lockquorum.DeviceID{8}}} {
		want = append(want, v)
		twin := storage.NewTwin()
		must(t, Found(t.Context(), twin, Record{Epoch: 1, ID: v.ID}, nil))
		d := open(t, twin, Config{Transport: end{n, v.Device}, SnapshotEvery: 10, Begin: begin})
		n.set(func() { n.voters[v.Device] = d })
		n.stop[v.Device] = start(t, d)
	}
	return want
}

func alone(t *testing.T) (*network, *Driver) {
	t.Helper()
	n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}, stop: map[lockquorum.DeviceID]func() error{}}
	first := open(t, founded(t, 1, 1), Config{Transport: end{n, lockquorum.DeviceID{1}}, SnapshotEvery: 10})
	n.voters[lockquorum.DeviceID{1}] = first
	n.stop[lockquorum.DeviceID{1}] = start(t, first)
	return n, first
}

// TestChange: one voter becomes three, which go on when it is gone, and are one again; nothing that was answered is lost.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := alone(t)
		e := leader{n}
		openCircle(t, e)
		for i := range 25 {
			assign(t, e, byte(i))
		}
		begin := Begin{1, first.Status().Voters}
		want := added(t, n, begin)
		if err := first.Change(t.Context(), want[:2]); !errors.Is(err, ErrVoters) {
			t.Errorf("two voters: %v", err)
		}
		must(t, first.Change(t.Context(), want))
		must(t, first.Change(t.Context(), want)) // again
		time.Sleep(time.Second)
		for _, d := range n.voters {
			if st := d.Status(); len(st.Voters) != 3 || st.Index != first.Status().Index || st.Chain != first.Status().Chain {
				t.Errorf("voter %d says %+v", d.cfg.ID, st)
			}
		}
		must(t, n.stop[lockquorum.DeviceID{1}]())
		n.set(func() { delete(n.voters, lockquorum.DeviceID{1}) })
		if again, next := assign(t, e, 3), assign(t, e, 100); again.Number != 4 || next.Number != 26 {
			t.Errorf("the others give %d again and %d next", again.Number, next.Number)
		}
		lead := e.find()
		only := []lockquorum.Voter{{ID: lead.cfg.ID, Device: lead.cfg.Device}}
		must(t, lead.Change(t.Context(), only))
		for device := range n.voters {
			if device != lead.cfg.Device {
				must(t, n.stop[device]())
			}
		}
		if next := assign(t, e, 101); next.Number != 27 {
			t.Errorf("the one that is left gives %d", next.Number)
		}
	})
}

// TestChangedAndGone: once three vote, two go on, although the one that led has gone at that moment.
func TestChangedAndGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := alone(t)
		openCircle(t, first)
		want := added(t, n, Begin{1, first.Status().Voters})
		must(t, first.Change(t.Context(), want))
		n.set(func() { delete(n.voters, lockquorum.DeviceID{1}); n.cut[lockquorum.DeviceID{1}] = true })
		time.Sleep(5 * time.Second)
		if got := assign(t, leader{n}, 1); got.Number != 1 {
			t.Errorf("the others give %d", got.Number)
		}
	})
}

// TestChangeCutShort: a change that is cut short leaves a quorum that goes on, and goes on itself when it is asked for again.
func TestChangeCutShort(t *testing.T) {
	for _, after := range []time.Duration{0, 10, 40, 60, 100, 200, 500} {
		synctest.Test(t, func(t *testing.T) {
			n, first := alone(t)
			e := leader{n}
			openCircle(t, e)
			want := added(t, n, Begin{1, first.Status().Voters})
			n.set(func() { n.cut[lockquorum.DeviceID{8}] = after < 200 })
			ctx, cancel := context.WithTimeout(t.Context(), after*time.Millisecond)
			err := first.Change(ctx, want)
			cancel()
			if after < 200 && err == nil {
				t.Error("a voter that is not reached was made one")
			}
			if got := assign(t, e, 1); got.Number != 1 {
				t.Errorf("meanwhile it gives %d", got.Number)
			}
			n.set(func() { n.cut[lockquorum.DeviceID{8}] = false })
			must(t, e.find().Change(t.Context(), want))
			if got := assign(t, e, 2); got.Number != 2 || len(e.find().Status().Voters) != 3 {
				t.Errorf("then it gives %d", got.Number)
			}
		})
	}
}

// TestChangeGivesUpTheLead: who leads and is not to vote any more gives up the lead first.
func TestChangeGivesUpTheLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := alone(t)
		e := leader{n}
		openCircle(t, e)
		want := added(t, n, Begin{1, first.Status().Voters})
		must(t, first.Change(t.Context(), want))
		only := want[1:2]
		if err := first.Change(t.Context(), only); !errors.Is(err, lockquorum.ErrNotLeader) {
			t.Fatalf("who leads and is to go: %v", err)
		}
		for range 50 {
			if err := e.find().Change(t.Context(), only); err == nil {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
		if st := n.voters[only[0].Device].Status(); !st.Leads || len(st.Voters) != 1 {
			t.Fatalf("it says %+v", st)
		}
		must(t, n.stop[lockquorum.DeviceID{1}]())
		if got := assign(t, e, 1); got.Number != 1 {
			t.Errorf("it gives %d", got.Number)
		}
	})
}

// TestAwayWhileAllChanged: a voter that was away while all the others changed knows none of them by its State. It gets what it lacks once its device has heard who they are.
func TestAwayWhileAllChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, first := alone(t)
		e := leader{n}
		openCircle(t, e)
		want := added(t, n, Begin{1, first.Status().Voters})
		must(t, first.Change(t.Context(), want))
		away := n.voters[lockquorum.DeviceID{8}]
		n.set(func() { n.cut[lockquorum.DeviceID{8}] = true })
		for i, goes := range want[:2] {
			v := lockquorum.Voter{ID: uint64(20 + i), Device: lockquorum.DeviceID{byte(20 + i)}}
			twin := storage.NewTwin()
			must(t, Found(t.Context(), twin, Record{Epoch: 1, ID: v.ID}, nil))
			d := open(t, twin, Config{Transport: end{n, v.Device}, SnapshotEvery: 10, Begin: Begin{1, e.find().Status().Voters}})
			n.set(func() { n.voters[v.Device] = d })
			n.stop[v.Device] = start(t, d)
			want = append(slices.DeleteFunc(slices.Clone(want), func(o lockquorum.Voter) bool { return o == goes }), v)
			for len(e.find().Status().Voters) != 3 || !slices.Equal(e.find().Status().Voters, want) {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_ = e.find().Change(ctx, slices.Clone(want)) // one of them is away
				cancel()
			}
			must(t, n.stop[goes.Device]())
			n.set(func() { delete(n.voters, goes.Device) })
		}
		n.set(func() { n.cut[lockquorum.DeviceID{8}] = false })
		time.Sleep(5 * time.Second)
		away.Meet(Begin{1, want})
		time.Sleep(5 * time.Second)
		if has, is := away.Status(), e.find().Status(); has.Index != is.Index || !slices.Equal(has.Voters, want) {
			t.Errorf("it is at %d of %d, and %v vote", has.Index, is.Index, has.Voters)
		}
	})
}
