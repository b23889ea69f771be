package p2p_test

import (
	"testing"
	"time"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// circle relays between the devices of one circle.
type circle map[trust.DeviceID]bool

func (c circle) Serves(d trust.DeviceID) bool { return c[d] }

func (c circle) Passes(from, to trust.DeviceID) bool { return c[from] && c[to] }

// TestRelayed: two devices that listen nowhere meet through a relay that both reach; who it does not serve meets nobody.
func TestRelayed(t *testing.T) {
	var m members
	a, b, c, r := newIdentity(1).Device(), newIdentity(2).Device(), newIdentity(3).Device(), newIdentity(9).Device()
	for _, d := range []trust.DeviceID{a, b, c, r} {
		m.set1(d, true)
	}
	relay := newSite(t, 9, &m, func(cfg *p2p.Config) { cfg.Relay = circle{a: true, b: true} })
	at := p2p.PeerAddr{Device: r, Addrs: relay.Addresses()}
	nowhere := func(cfg *p2p.Config) {
		cfg.Listen = []string{}
		cfg.Relays = func() []p2p.PeerAddr { return []p2p.PeerAddr{at} }
		cfg.ReplicaOf = func(d trust.DeviceID) session.Replica {
			if d == r {
				return nil // what the relay would hold is not the matter here
			}
			return cfg.Replica
		}
	}
	one, two, three := newSite(t, 1, &m, nowhere), newSite(t, 2, &m, nowhere), newSite(t, 3, &m, nowhere)
	everybody := []p2p.PeerAddr{at, {Device: a}, {Device: b}, {Device: c}}
	for _, s := range []*site{one, two, three} {
		s.SetPeers(everybody)
	}
	one.edit("an edit of one")
	wait(t, "both hold the same through the relay", func() bool {
		p := one.peer(b)
		return p.State == p2p.InSync && p.Way == "relayed" && two.peer(a).State == p2p.InSync
	})
	for _, d := range []trust.DeviceID{a, b} {
		if p := three.peer(d); p.Connected {
			t.Errorf("who the relay does not serve is connected to %v", d)
		}
	}
	// The relay goes and comes again.
	relay.stop()
	_, where, err := p2p.SplitAddress(at.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	relay.cfg.Listen = []string{where}
	wait(t, "they are apart", func() bool { return !one.peer(b).Connected && !two.peer(a).Connected })
	relay.open(t)
	two.edit("an edit of two")
	began := time.Now()
	wait(t, "they meet again", func() bool { return one.peer(b).State == p2p.InSync && two.peer(a).State == p2p.InSync })
	t.Logf("%v after the relay came again", time.Since(began).Round(time.Millisecond))
}

// TestRelayedGoesDirect: a link through a relay moves to a direct connection as soon as there can be one.
func TestRelayedGoesDirect(t *testing.T) {
	var m members
	a, b, r := newIdentity(1).Device(), newIdentity(2).Device(), newIdentity(9).Device()
	for _, d := range []trust.DeviceID{a, b, r} {
		m.set1(d, true)
	}
	relay := newSite(t, 9, &m, func(cfg *p2p.Config) { cfg.Relay = circle{a: true, b: true} })
	at := p2p.PeerAddr{Device: r, Addrs: relay.Addresses()}
	through := func(cfg *p2p.Config) {
		cfg.Relays = func() []p2p.PeerAddr { return []p2p.PeerAddr{at} }
		cfg.ReplicaOf = func(d trust.DeviceID) session.Replica {
			if d == r {
				return nil
			}
			return cfg.Replica
		}
	}
	one := newSite(t, 1, &m, through)
	two := newSite(t, 2, &m, through)
	for _, s := range []*site{one, two} {
		s.SetPeers([]p2p.PeerAddr{at, {Device: a}, {Device: b}}) // nobody knows where the other is
	}
	wait(t, "in sync", func() bool { return one.peer(b).State == p2p.InSync && two.peer(a).State == p2p.InSync })
	wait(t, "directly", func() bool { return one.peer(b).Way == "direct quic" && two.peer(a).Way == "direct quic" })
	one.edit("an edit of one")
	wait(t, "in sync once more", func() bool { return two.Holds(clinical, one.Vector(clinical)) })
}
