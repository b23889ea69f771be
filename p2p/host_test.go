package p2p_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// identity is a device's key in a test.
type identity struct{ key ed25519.PrivateKey }

func newIdentity(i int) identity {
	seed := sha256.Sum256(fmt.Appendf(nil, "test device %d", i))
	return identity{ed25519.NewKeyFromSeed(seed[:])}
}

func (i identity) Device() trust.DeviceID { return trust.DeviceID(i.key.Public().(ed25519.PublicKey)) }

func (i identity) SignTransport(m []byte) ([]byte, error) {
	for _, p := range []string{"libp2p-tls-handshake:", "\x12libp2p-peer-record", "\x11libp2p-relay-rsvp"} {
		if bytes.HasPrefix(m, []byte(p)) {
			return ed25519.Sign(i.key, m), nil
		}
	}
	return nil, errors.New("not a message of the transport")
}

func (i identity) Derive(context string) [32]byte {
	return sha256.Sum256(append(i.key.Seed(), context...))
}

var (
	practice = trust.EntryID{1}
	clinical = trust.ScopeID{1}
	billing  = trust.ScopeID{2}

	quicOnly = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	tcpOnly  = []string{"/ip4/127.0.0.1/tcp/0"}
)

// site is a host with its replica.
type site struct {
	*p2p.Host
	*sessiontest.Replica
	id   identity
	cfg  p2p.Config
	stop func()
}

// members is who is admitted.
type members struct {
	mu  sync.Mutex
	set map[trust.DeviceID]bool
}

func (m *members) admit(d trust.DeviceID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.set[d]
}

func (m *members) set1(d trust.DeviceID, in bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.set == nil {
		m.set = map[trust.DeviceID]bool{}
	}
	m.set[d] = in
}

func newSite(t testing.TB, i int, m *members, change func(*p2p.Config)) *site {
	t.Helper()
	s := &site{id: newIdentity(i)}
	s.Replica = sessiontest.New(s.id.Device(), practice, clinical, billing)
	s.Enter([]byte("founding"))
	s.Fail = t.Errorf
	s.cfg = p2p.Config{
		Identity: s.id, Replica: s.Replica, Admit: m.admit, Listen: quicOnly, Version: "0.1.0",
		Session: session.Config{Locate: sessiontest.Locate},
	}
	if testing.Verbose() {
		s.cfg.Logger = slog.New(slog.NewTextHandler(t.Output(), nil)).With("site", i)
	}
	if change != nil {
		change(&s.cfg)
	}
	s.open(t)
	return s
}

func (s *site) open(t testing.TB) {
	t.Helper()
	h, err := p2p.Open(s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.Host = h
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := h.Run(context.Background()); err != nil {
			t.Errorf("run: %v", err)
		}
	})
	s.stop = sync.OnceFunc(func() {
		if err := h.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		wg.Wait()
	})
	t.Cleanup(s.stop)
}

func (s *site) at() p2p.PeerAddr { return p2p.PeerAddr{Device: s.id.Device(), Addrs: s.Addresses()} }

func (s *site) edit(body string) {
	s.Edit(clinical, []byte(body))
	s.Push(clinical)
}

func (s *site) peer(d trust.DeviceID) p2p.PeerStatus {
	for _, p := range s.Peers() {
		if p.Device == d {
			return p
		}
	}
	return p2p.PeerStatus{}
}

// wait polls until ok, which becomes true within a second or so.
func wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.NewTimer(15 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline.C:
			t.Fatalf("waited too long: %s", what)
		case <-tick.C:
		}
	}
}

func agreed(a, b *site) func() bool {
	return func() bool {
		return a.peer(b.id.Device()).Session.Agreed && b.peer(a.id.Device()).Session.Agreed &&
			a.peer(b.id.Device()).Connected && b.peer(a.id.Device()).Connected
	}
}

func same(sites ...*site) func() bool {
	return func() bool {
		for _, s := range sites[1:] {
			if s.Vector(clinical).Hash() != sites[0].Vector(clinical).Hash() {
				return false
			}
		}
		return true
	}
}

// pair returns two sites that know each other's addresses, as members of one practice.
func pair(t testing.TB, listen []string) (a, b *site, m *members) {
	m = &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	a = newSite(t, 1, m, func(c *p2p.Config) { c.Listen = listen })
	b = newSite(t, 2, m, func(c *p2p.Config) { c.Listen = listen })
	return a, b, m
}

func TestTwoHosts(t *testing.T) {
	for way, listen := range map[string][]string{"direct quic": quicOnly, "direct tcp": tcpOnly} {
		t.Run(way, func(t *testing.T) {
			a, b, _ := pair(t, listen)
			a.edit("before the first contact")
			a.SetPeers([]p2p.PeerAddr{b.at()}) // b learns a by a's coming
			wait(t, "both agree", agreed(a, b))
			if !same(a, b)() || len(b.Vector(clinical)) != 1 {
				t.Error("the first edit did not arrive")
			}
			for i := range 20 {
				a.edit(fmt.Sprint("a", i))
				b.edit(fmt.Sprint("b", i))
			}
			wait(t, "edits arrive", func() bool { return same(a, b)() && len(a.Vector(clinical)) == 2 && agreed(a, b)() })
			p := a.peer(b.id.Device())
			if p.Way != way || p.Version != "0.1.0" || p.State != p2p.InSync || p.Addr == "" {
				t.Errorf("status: %+v", p)
			}
			wait(t, "round trip measured", func() bool { return a.peer(b.id.Device()).RTT > 0 })
			if d := a.peer(b.id.Device()).ClockDiff.Abs(); d > time.Second {
				t.Errorf("clock difference on one machine: %v", d)
			}
		})
	}
}

// TestRelay has b between a and c, who do not know each other.
func TestRelay(t *testing.T) {
	a, b, m := pair(t, quicOnly)
	m.set1(newIdentity(3).Device(), true)
	c := newSite(t, 3, m, nil)
	a.SetPeers([]p2p.PeerAddr{b.at()})
	c.SetPeers([]p2p.PeerAddr{b.at()})
	wait(t, "connected", func() bool { return agreed(a, b)() && agreed(b, c)() })
	a.edit("by way of b")
	a.Enter([]byte("entry"))
	a.MembershipChanged()
	wait(t, "relayed", func() bool { return same(a, b, c)() && c.Entries() == 2 })
	if c.peer(a.id.Device()).Connected {
		t.Error("a and c are connected, so this test shows nothing")
	}
}

func TestStrangerGetsNothing(t *testing.T) {
	a, b, m := pair(t, quicOnly)
	a.edit("secret")
	m2 := &members{} // the stranger takes everybody for a member
	for i := range 4 {
		m2.set1(newIdentity(i).Device(), true)
	}
	s := newSite(t, 3, m2, nil)
	s.SetPeers([]p2p.PeerAddr{a.at()})
	a.SetPeers([]p2p.PeerAddr{b.at(), s.at()})
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "members agree", agreed(a, b))
	wait(t, "the stranger has tried", func() bool { return s.peer(a.id.Device()).Reason != "" })
	if got := s.peer(a.id.Device()).Session; got.BytesIn != 0 || len(s.Vector(clinical)) != 0 {
		t.Errorf("a stranger got %d bytes", got.BytesIn)
	}

	// A member that is removed is cut off, and not let in again.
	m.set1(b.id.Device(), false)
	a.MembershipChanged()
	wait(t, "cut off", func() bool { return !a.peer(b.id.Device()).Connected })
	a.edit("after the removal")
	wait(t, "the removed one has tried", func() bool { return b.peer(a.id.Device()).Reason != "" })
	if same(a, b)() {
		t.Error("a removed device got an edit")
	}
}

func TestReconnect(t *testing.T) {
	a, b, _ := pair(t, []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"})
	for range 5 {
		a.edit("one of five")
	}
	a.SetPeers([]p2p.PeerAddr{b.at()})
	wait(t, "both agree", agreed(a, b))

	addrs := b.Addresses()
	b.stop()
	wait(t, "a sees b go", func() bool { return !a.peer(b.id.Device()).Connected })
	b.cfg.Listen = nil
	for _, addr := range addrs { // the same ports
		b.cfg.Listen = append(b.cfg.Listen, addr[:bytes.Index([]byte(addr), []byte("/p2p/"))])
	}
	b.open(t)
	wait(t, "both agree again", agreed(a, b))
	st := a.peer(b.id.Device()).Session
	if total := st.BytesIn + st.BytesOut; st.RoundTrips != 1 || total > 1024 {
		t.Errorf("reconnect with nothing to do: %d bytes, %d round trips", total, st.RoundTrips)
	}
	t.Logf("reconnect with nothing to do: %d bytes out, %d in", st.BytesOut, st.BytesIn)
}

func TestSetOnline(t *testing.T) {
	a, b, _ := pair(t, quicOnly)
	a.SetPeers([]p2p.PeerAddr{b.at()})
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "both agree", agreed(a, b))
	b.SetOnline(false)
	if b.peer(a.id.Device()).Connected {
		t.Error("still connected")
	}
	wait(t, "a sees b go", func() bool { return !a.peer(b.id.Device()).Connected })
	a.edit("while apart, at a")
	b.edit("while apart, at b")
	wait(t, "a has tried again", func() bool {
		r := a.peer(b.id.Device()).Reason
		return r == "cannot reach it" || r == "it hangs up on this device"
	})
	if same(a, b)() {
		t.Error("an edit reached a device that is offline")
	}
	b.SetOnline(true)
	wait(t, "both agree again", func() bool { return agreed(a, b)() && same(a, b)() })
}

func TestCallbacks(t *testing.T) {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	var last atomic.Int32
	var addrs atomic.Pointer[[]string]
	a := newSite(t, 1, m, func(c *p2p.Config) {
		c.OnPeer = func(_ trust.DeviceID, s p2p.State) { last.Store(int32(s)) }
		c.OnAddrs = func(_ trust.DeviceID, list []string) { addrs.Store(&list) }
	})
	b := newSite(t, 2, m, nil)
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "in sync is told", func() bool { return p2p.State(last.Load()) == p2p.InSync })
	wait(t, "addresses are told", func() bool { return addrs.Load() != nil })
	if want := b.Addresses()[0]; !bytes.HasPrefix([]byte(want), []byte((*addrs.Load())[0])) {
		t.Errorf("learnt %v, want %v", *addrs.Load(), want)
	}
	b.stop()
	wait(t, "offline is told", func() bool { return p2p.State(last.Load()) == p2p.Offline })

	// a was never told where b is, but learnt it.
	b.cfg.Listen = []string{(*addrs.Load())[0]}
	b.open(t)
	a.SetPeers([]p2p.PeerAddr{{Device: b.id.Device(), Addrs: *addrs.Load()}})
	wait(t, "a found b", agreed(a, b))
}

func TestIncompatible(t *testing.T) {
	a, b, _ := pair(t, quicOnly)
	b.stop()
	b.cfg.Schema, b.cfg.Version = session.Range{Min: 7, Max: 9}, "9.0.0"
	b.open(t)
	a.SetPeers([]p2p.PeerAddr{b.at()})
	for s, o := range map[*site]*site{a: b, b: a} {
		d := o.id.Device()
		if s == b {
			b.SetPeers([]p2p.PeerAddr{a.at()})
		}
		wait(t, "incompatible is shown, with the reason", func() bool {
			p := s.peer(d) // at one moment: they try again and again
			return p.State == p2p.Incompatible && !p.Connected && (s == b || p.Version == "9.0.0" && strings.Contains(p.Reason, "9.0.0"))
		})
	}
}

// TestCloseAtOnce: a host may be closed while it begins to run (asks the race detector).
func TestCloseAtOnce(t *testing.T) {
	m := &members{}
	for range 20 {
		newSite(t, 1, m, func(c *p2p.Config) { c.Listen = tcpOnly }).stop()
	}
}

func TestNothingIsLeft(t *testing.T) {
	before := runtime.NumGoroutine()
	a, b, _ := pair(t, []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"})
	a.SetPeers([]p2p.PeerAddr{b.at()})
	b.SetPeers([]p2p.PeerAddr{a.at()})
	wait(t, "both agree", agreed(a, b))
	a.stop()
	b.stop()
	if err := a.Close(); err != nil {
		t.Errorf("close again: %v", err)
	}
	defer func() {
		if t.Failed() {
			stacks := make([]byte, 1<<20)
			t.Logf("%s", stacks[:runtime.Stack(stacks, true)])
		}
	}()
	wait(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
