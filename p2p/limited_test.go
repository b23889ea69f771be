package p2p_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/time/rate"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// limited is a replica with a share.
type limited struct {
	*sessiontest.Replica
	usedUp      atomic.Bool
	gone        atomic.Bool
	connections int
	rate        *rate.Limiter
}

func (l *limited) UsedUp() bool        { return l.usedUp.Load() }
func (l *limited) Gone() bool          { return l.gone.Load() }
func (l *limited) Connections() int    { return l.connections }
func (l *limited) Rate() *rate.Limiter { return l.rate }

// holder returns a site with a share, and sites that are members with it.
func holder(t *testing.T, share *limited, others int) (*site, []*site) {
	m := &members{}
	for i := range others + 1 {
		m.set1(newIdentity(i+1).Device(), true)
	}
	a := newSite(t, 1, m, func(c *p2p.Config) {
		share.Replica = c.Replica.(*sessiontest.Replica)
		c.Replica = share
	})
	var list []*site
	for i := range others {
		b := newSite(t, i+2, m, nil)
		b.SetPeers([]p2p.PeerAddr{a.at()})
		list = append(list, b)
	}
	return a, list
}

// TestCrowded: no more devices are let in for a replica than it admits, the others are told why, and come in when there is room.
func TestCrowded(t *testing.T) {
	share := &limited{connections: 1}
	a, list := holder(t, share, 2)
	connected := func(b *site) bool { return b.peer(a.id.Device()).Session.Agreed && b.peer(a.id.Device()).Connected }
	told := func(b *site) bool {
		return strings.Contains(b.peer(a.id.Device()).Reason, "as many devices of the practice")
	}
	wait(t, "one is let in and the other is told why it is not", func() bool {
		return connected(list[0]) && told(list[1]) || connected(list[1]) && told(list[0])
	})
	in, out := list[0], list[1]
	if connected(out) {
		in, out = out, in
	}
	in.edit("of who is in")
	wait(t, "who is in goes on", same(a, in))
	in.stop()
	wait(t, "the other comes in", func() bool { return connected(out) })
	moved := a.Moved()[share]
	if moved.Open != 1 || moved.Sessions < 2 || moved.BytesIn == 0 || moved.ChunksIn != 1 || time.Since(moved.Contact) > time.Minute {
		t.Errorf("moved %+v", moved)
	}
	a.Forget(share)
	if moved := a.Moved()[share]; moved.BytesIn > 10_000 || moved.ChunksIn > 0 {
		t.Errorf("after it was forgotten: %+v", moved)
	}
}

// TestGone: a session that was about to begin when its replica was forgotten does not begin, and nothing is kept of it.
func TestGone(t *testing.T) {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	share := &limited{}
	var host atomic.Pointer[p2p.Host]
	var asked atomic.Int32
	a := newSite(t, 1, m, func(c *p2p.Config) {
		share.Replica = c.Replica.(*sessiontest.Replica)
		c.Replica, c.Recovered = nil, func(trust.DeviceID) session.Replica { return nil }
		c.ReplicaOf = func(trust.DeviceID) session.Replica {
			if asked.Add(1) == 1 {
				share.gone.Store(true)
				host.Load().Forget(share)
			}
			return share
		}
	})
	host.Store(a.Host)
	b := newSite(t, 2, m, nil)
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "it is turned away and calls again, or is let in", func() bool { return asked.Load() > 1 || b.peer(a.id.Device()).Session.Agreed })
	if moved, ok := a.Moved()[share]; ok {
		t.Errorf("it has a session: %+v", moved)
	}
	share.gone.Store(false)
	wait(t, "it comes in when there is a replica again", agreed(a, b))
}

// books is a replica that is told who dropped the practice.
type books struct {
	*sessiontest.Replica
	dropped chan trust.DeviceID
}

func (b books) Dropped(_ context.Context, from trust.DeviceID) error {
	b.dropped <- from
	return nil
}

// TestDropped: the devices of a replica that is forgotten are told so before they are cut off.
func TestDropped(t *testing.T) {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	share, of := &limited{}, books{dropped: make(chan trust.DeviceID, 1)}
	a := newSite(t, 1, m, func(c *p2p.Config) {
		share.Replica = c.Replica.(*sessiontest.Replica)
		c.Replica = share
	})
	b := newSite(t, 2, m, func(c *p2p.Config) {
		of.Replica = c.Replica.(*sessiontest.Replica)
		c.Replica = of
	})
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "it connects", agreed(a, b))
	share.gone.Store(true)
	a.Forget(share)
	select {
	case from := <-of.dropped:
		if from != a.id.Device() {
			t.Errorf("%v dropped it", from)
		}
	default:
		t.Error("it is not told")
	}
}

// TestUsedUp: the devices of a replica are told that its share is used up, and that it is not any more.
func TestUsedUp(t *testing.T) {
	share := &limited{}
	a, list := holder(t, share, 1)
	full := func() session.Full { return list[0].peer(a.id.Device()).Session.PeerFull }
	wait(t, "it connects", agreed(a, list[0]))
	share.usedUp.Store(true)
	a.FullChanged(share)
	wait(t, "it is told", func() bool { return full() == session.UsedUp })
	a.SetFull(true)
	wait(t, "it is told that the disk is full, too", func() bool { return full() == session.DiskFull })
	a.SetFull(false)
	share.usedUp.Store(false)
	a.FullChanged(share)
	wait(t, "it is told that there is room", func() bool { return full() == session.NotFull })
}

// TestRate: what arrives beyond the rate waits, and nobody hangs up.
func TestRate(t *testing.T) {
	share := &limited{rate: rate.NewLimiter(400_000, p2p.RateBurst)}
	a, list := holder(t, share, 1)
	b := list[0]
	wait(t, "it connects", agreed(a, b))
	begun := time.Now()
	for range 12 {
		b.edit(strings.Repeat("x", 50_000))
	}
	wait(t, "all of it comes", same(a, b))
	if took := time.Since(begun); took < time.Second {
		t.Errorf("600 KB took %v at 400 KB/s", took)
	}
	if moved := a.Moved()[share]; moved.Sessions != 1 {
		t.Errorf("%d sessions", moved.Sessions)
	}
}

// TestAwait: a wait ends with its context, and is never longer than a peer's patience.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		share := &limited{rate: rate.NewLimiter(100, p2p.RateBurst)}
		p2p.Await(t.Context(), share, p2p.RateBurst)
		begun := time.Now()
		p2p.Await(t.Context(), share, 200)
		if took := time.Since(begun); took != 2*time.Second {
			t.Errorf("200 bytes at 100 a second took %v", took)
		}
		begun = time.Now()
		for range 3 {
			p2p.Await(t.Context(), share, p2p.RateBurst)
		}
		if took := time.Since(begun); took != 15*time.Second {
			t.Errorf("three waits took %v", took)
		}
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		begun = time.Now()
		p2p.Await(ctx, share, p2p.RateBurst)
		if took := time.Since(begun); took != time.Second {
			t.Errorf("a wait whose session ended took %v", took)
		}
	})
}

// TestPublic: a device is told the public addresses of another, by which it is reached, by name too.
func TestPublic(t *testing.T) {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	var heard atomic.Value
	probe := newSite(t, 1, m, func(c *p2p.Config) { c.Listen = tcpOnly })
	port := strings.Split(probe.Addresses()[0], "/")[4]
	probe.stop()
	name := "/dns4/localhost/tcp/" + port
	a := newSite(t, 1, m, func(c *p2p.Config) {
		c.Listen, c.Public = []string{"/ip4/127.0.0.1/tcp/" + port}, []string{name}
	})
	if got := a.Addresses(); len(got) != 1 || !strings.HasPrefix(got[0], name+"/p2p/") {
		t.Fatalf("it is at %v", got)
	}
	b := newSite(t, 2, m, func(c *p2p.Config) {
		c.OnAddrs = func(_ trust.DeviceID, addrs []string) { heard.Store(addrs) }
	})
	texts, err := p2p.Addresses(a.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	b.SetPeers([]p2p.PeerAddr{{Device: a.id.Device(), Addrs: texts}})
	wait(t, "it is reached by its name", agreed(a, b))
	wait(t, "the name is told", func() bool {
		addrs, _ := heard.Load().([]string)
		return slices.Contains(addrs, name)
	})
	for _, text := range []string{"", "anchor.example.org:4001", "/dns4/anchor.example.org", a.Addresses()[0], "/ip4/1.2.3.4/udp/1", name + "/p2p-circuit"} {
		if _, err := p2p.Open(p2p.Config{Identity: newIdentity(3), Replica: a.Replica, Admit: m.admit, Public: []string{text}}); !errors.Is(err, p2p.ErrPublic) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestEnters: a member that the owner does not let in gets no connection.
func TestEnters(t *testing.T) {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	var open atomic.Bool
	asked := make(chan struct{}, 100)
	a := newSite(t, 1, m, func(c *p2p.Config) {
		c.Enters = func(trust.DeviceID) bool {
			select {
			case asked <- struct{}{}:
			default:
			}
			return open.Load()
		}
	})
	b := newSite(t, 2, m, nil)
	b.SetPeers([]p2p.PeerAddr{a.at()})
	<-asked
	<-asked
	if a.HasConnection(b.id.Device()) {
		t.Error("it has a connection")
	}
	open.Store(true)
	wait(t, "it comes in", agreed(a, b))
	if !a.HasConnection(b.id.Device()) {
		t.Error("it has no connection")
	}
}
