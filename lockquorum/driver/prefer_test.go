package driver

import (
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
)

// TestPreferred: the preferred voter leads once it has been well for its time, not before; without it another leads soon; one that is away now and then does not
// get the lead.
func TestPreferred(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}}
		anchor := lockquorum.DeviceID{2}
		for id := range 3 {
			device := lockquorum.DeviceID{byte(id + 1)}
			d := open(t, founded(t, id+1, 3), Config{Transport: end{n, device}, Prefer: func(d lockquorum.DeviceID) bool { return d == anchor }})
			n.set(func() { n.voters[device] = d })
			start(t, d)
		}
		leads := func() lockquorum.DeviceID { return leader{n}.find().cfg.Device }
		cut := func(is bool) { n.set(func() { n.cut[anchor] = is }) }
		// within says whether the anchor leads within a time, and after how much of it.
		within := func(most time.Duration) (time.Duration, bool) {
			for begun := time.Now(); time.Since(begun) < most; time.Sleep(50 * time.Millisecond) {
				if leads() == anchor {
					return time.Since(begun), true
				}
			}
			return most, false
		}
		openCircle(t, leader{n})
		cut(true)
		time.Sleep(5 * time.Second)
		if leads() == anchor {
			t.Fatal("who is cut off leads")
		}
		for i := range 4 {
			assign(t, leader{n}, byte(i))
			cut(false)
			if took, is := within(DefaultPreferAfter + 5*time.Second); !is || took < DefaultPreferAfter-2*time.Second { // a while of silence counts as well
				t.Errorf("the preferred voter leads after %v: %v", took, is)
			}
			cut(true) // as if it were killed
			time.Sleep(4 * time.Second)
			if leads() == anchor || assign(t, leader{n}, byte(i)).Number != int64(i+1) {
				t.Error("nobody leads without it")
			}
		}
		for range 10 { // its connection comes and goes
			cut(false)
			if _, is := within(20 * time.Second); is {
				t.Error("who is away now and then leads")
			}
			cut(true)
			time.Sleep(2 * time.Second)
		}
	})
}
