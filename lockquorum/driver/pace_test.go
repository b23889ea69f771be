package driver

import (
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
)

// TestPace: near voters find another leader within about a second; those of whom one is far or an anchor send each other a third as much while nothing is done, and
// take some seconds. Where one takes the way for short and the others do not, the lead stays where it is.
func TestPace(t *testing.T) {
	for _, c := range []struct {
		name     string
		near     func(from lockquorum.DeviceID) func(lockquorum.DeviceID) bool
		anchor   lockquorum.DeviceID
		messages int           // a minute at most
		most     time.Duration // until another leads
	}{
		{"near", func(lockquorum.DeviceID) func(lockquorum.DeviceID) bool { return all }, lockquorum.DeviceID{}, 1700, 1700 * time.Millisecond},
		{"nobody knows", func(lockquorum.DeviceID) func(lockquorum.DeviceID) bool { return nil }, lockquorum.DeviceID{}, 600, 5 * time.Second},
		{"one is an anchor", func(lockquorum.DeviceID) func(lockquorum.DeviceID) bool { return all }, lockquorum.DeviceID{2}, 600, 5 * time.Second},
		{"one is far", func(lockquorum.DeviceID) func(lockquorum.DeviceID) bool {
			return func(d lockquorum.DeviceID) bool { return d != lockquorum.DeviceID{3} }
		}, lockquorum.DeviceID{}, 1700, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}}
				for id := range 3 {
					device := lockquorum.DeviceID{byte(id + 1)}
					d := open(t, founded(t, id+1, 3), Config{Transport: end{n, device}, Near: c.near(device), Prefer: func(d lockquorum.DeviceID) bool { return d == c.anchor }})
					n.set(func() { n.voters[device] = d })
					start(t, d)
					time.Sleep(17 * time.Millisecond) // clocks of machines do not tick together
				}
				openCircle(t, leader{n})
				time.Sleep(DefaultPreferAfter + 5*time.Second)
				first := leader{n}.find()
				term := first.Status().Term
				n.set(func() { n.sent = 0 })
				time.Sleep(time.Minute)
				n.mu.Lock()
				sent := n.sent
				n.mu.Unlock()
				if sent == 0 || sent > c.messages {
					t.Errorf("%d messages are sent in a minute in which nothing is done", sent)
				}
				if now := (leader{n}).find(); now != first || now.Status().Term != term {
					t.Error("another one leads, though nothing happened")
				}
				n.set(func() { n.cut[first.cfg.Device] = true })
				begun := time.Now()
				for leads := false; !leads; time.Sleep(10 * time.Millisecond) {
					for _, d := range n.voters {
						leads = leads || d != first && d.Status().Leads
					}
					if time.Since(begun) > c.most {
						t.Fatalf("nobody else leads after %v", c.most)
					}
				}
				t.Logf("%d messages a minute; another leads after %v", sent, time.Since(begun))
			})
		})
	}
}

func all(lockquorum.DeviceID) bool { return true }
