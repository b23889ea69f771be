package p2p_test

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// circle relays between the devices of one circle.
type circle map[trust.DeviceID]bool

func (c circle) Serves(d trust.DeviceID) bool { return c[d] }

func (c circle) Passes(from, to trust.DeviceID) bool { return c[from] && c[to] }

// by has a host use a relay, of which it wants nothing else; nowhere: it listens for nobody.
func by(relay p2p.PeerAddr, nowhere bool) func(*p2p.Config) {
	return func(cfg *p2p.Config) {
		if nowhere {
			cfg.Listen = []string{}
		}
		cfg.Relays = func() []p2p.PeerAddr { return []p2p.PeerAddr{relay} }
		own := cfg.Replica
		cfg.ReplicaOf = func(d trust.DeviceID) session.Replica {
			if d == relay.Device {
				return nil
			}
			return own
		}
	}
}

// TestRelayed: two devices that listen nowhere meet through a relay that both reach; who it does not serve meets nobody.
func TestRelayed(t *testing.T) {
	var m members
	a, b, c, r := newIdentity(1).Device(), newIdentity(2).Device(), newIdentity(3).Device(), newIdentity(9).Device()
	for _, d := range []trust.DeviceID{a, b, c, r} {
		m.set1(d, true)
	}
	relay := newSite(t, 9, &m, func(cfg *p2p.Config) { cfg.Relay = circle{a: true, b: true} })
	at := p2p.PeerAddr{Device: r, Addrs: relay.Addresses()}
	nowhere := by(at, true)
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
	through := by(at, false)
	one := newSite(t, 1, &m, through)
	two := newSite(t, 2, &m, through)
	for _, s := range []*site{one, two} {
		s.SetPeers([]p2p.PeerAddr{at, {Device: a}, {Device: b}}) // nobody knows where the other is
	}
	wait(t, "in sync", func() bool { return one.peer(b).State == p2p.InSync && two.peer(a).State == p2p.InSync })
	direct := func(p p2p.PeerStatus) bool { return p.Way == "punched quic" || p.Way == "direct quic" } // whichever was first
	wait(t, "directly", func() bool { return direct(one.peer(b)) && direct(two.peer(a)) })
	one.edit("an edit of one")
	wait(t, "in sync once more", func() bool { return two.Holds(clinical, one.Vector(clinical)) })
}

// TestJoinThroughRelay: a newcomer that reaches nothing but a relay joins through it, while an invitation is open, and gets nowhere else.
func TestJoinThroughRelay(t *testing.T) {
	a, b, r := newIdentity(1).Device(), newIdentity(2).Device(), newIdentity(9).Device()
	o := &office{members: &members{}, invites: map[p2p.InviteID]*invite{}, log: [][]byte{[]byte("founding entry")}}
	for _, d := range []trust.DeviceID{a, b, r} {
		o.members.set1(d, true)
	}
	relay := newSite(t, 9, o.members, func(cfg *p2p.Config) { cfg.Relay = circle{a: true, b: true} })
	at := p2p.PeerAddr{Device: r, Addrs: relay.Addresses()}
	nowhere := by(at, true)
	inviter := newSite(t, 1, o.members, func(cfg *p2p.Config) { nowhere(cfg); cfg.Invites = o })
	other := newSite(t, 2, o.members, nowhere)
	for _, s := range []*site{inviter, other} {
		s.SetPeers([]p2p.PeerAddr{at, {Device: a}, {Device: b}})
	}
	wait(t, "both have a place", func() bool { return inviter.peer(b).State == p2p.InSync })
	through := func(i int, inv p2p.Invitation) (p2p.JoinResult, error) {
		cfg := joinConfig(i, inv)
		cfg.Through = at
		return p2p.Join(t.Context(), cfg)
	}
	words, err := p2p.NewWords(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := through(3, words.Invitation()); !errors.Is(err, p2p.ErrNoRelay) {
		t.Errorf("a stranger is let in though nobody takes newcomers: %v", err)
	}

	words = o.speak(t)
	inviter.InvitesChanged()
	stranger, err := libp2p.New(libp2p.NoListenAddrs, libp2p.EnableRelay())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stranger.Close() }()
	relayAt, err := peer.AddrInfoFromString(at.Addrs[0])
	if err != nil {
		t.Fatal(err)
	}
	wait(t, "a stranger may knock", func() bool {
		return stranger.Connect(t.Context(), *relayAt) == nil && len(stranger.Network().ConnsToPeer(relayAt.ID)) > 0
	})
	if _, err := client.Reserve(t.Context(), stranger, *relayAt); err == nil {
		t.Error("a stranger has a place at the relay")
	}
	reaches := func(d trust.DeviceID) error {
		id, err := p2p.PeerID(d)
		if err != nil {
			t.Fatal(err)
		}
		m, err := ma.NewMultiaddr(at.Addrs[0] + "/p2p-circuit")
		if err != nil {
			t.Fatal(err)
		}
		return stranger.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: []ma.Multiaddr{m}})
	}
	if reaches(b) == nil {
		t.Error("a stranger reaches a device that takes no newcomers")
	}
	if err := reaches(a); err != nil {
		t.Errorf("a stranger does not reach the device that takes newcomers: %v", err)
	}
	if s, err := stranger.NewStream(t.Context(), relayAt.ID, p2p.IntroduceProtocol); err == nil {
		if _, err := s.Write(append([]byte{0, 0, 0, 8}, "cmin\x01\x01\x01\x05"...)); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(s); err == nil && len(got) > 0 {
			t.Errorf("a stranger takes newcomers: %x", got)
		}
	}

	elsewhere, err := p2p.NewWords(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	elsewhere.Locator = words.Locator ^ 1
	if _, err := through(3, elsewhere.Invitation()); !errors.Is(err, p2p.ErrNobody) {
		t.Errorf("words of nobody: %v", err)
	}
	if _, err := through(4, words.Invitation()); err != nil {
		t.Errorf("by words: %v", err)
	}
	c := o.invite(t, inviter, time.Hour)
	if res, err := through(5, c.Invitation()); err != nil || res.Inviter.Device != a || len(res.Inviter.Addrs) != 0 {
		t.Errorf("by a code: %+v, %v", res.Inviter, err)
	}
	if o.tries() != 2 {
		t.Errorf("%d tries were counted", o.tries())
	}
}

// TestStrangerThenMember: who came to a relay as a stranger and then belongs is synced with, whichever of the two opens the session.
func TestStrangerThenMember(t *testing.T) {
	a, r := newIdentity(1).Device(), newIdentity(9).Device()
	numbers := map[bool]int{} // by whether its key is the smaller one
	for i := 20; len(numbers) < 2; i++ {
		d := newIdentity(i).Device()
		numbers[bytes.Compare(d[:], r[:]) < 0] = i
	}
	var all, known members
	for _, d := range []trust.DeviceID{a, r, newIdentity(numbers[true]).Device(), newIdentity(numbers[false]).Device()} {
		all.set1(d, true)
	}
	known.set1(a, true)
	known.set1(r, true)
	o := &office{members: &all, invites: map[p2p.InviteID]*invite{}, log: [][]byte{[]byte("founding entry")}}
	relay := newSite(t, 9, &known, func(cfg *p2p.Config) { cfg.Relay = circle{a: true} })
	at := p2p.PeerAddr{Device: r, Addrs: relay.Addresses()}
	inviter := newSite(t, 1, &all, func(cfg *p2p.Config) { by(at, true)(cfg); cfg.Invites = o })
	inviter.SetPeers([]p2p.PeerAddr{at})
	o.speak(t) // so that the relay lets strangers in
	for smaller, i := range numbers {
		d := newIdentity(i).Device()
		s := newSite(t, i, &all, nil)
		s.SetPeers([]p2p.PeerAddr{at})
		connected := func() bool { return slices.Contains(relay.Connected(), d) }
		wait(t, "it is connected as a stranger", func() bool { inviter.InvitesChanged(); return connected() })
		known.set1(d, true)
		relay.MembershipChanged()
		wait(t, fmt.Sprintf("it is synced with, its key smaller: %v", smaller), func() bool { return s.peer(r).Connected })
	}
}

// TestPunchedByTCPIsNotKept: where a punch led over TCP is not dialled without one, unless the peer says that it is there.
func TestPunchedByTCPIsNotKept(t *testing.T) {
	tcp, quic := ma.StringCast("/ip4/1.2.3.4/tcp/4001"), ma.StringCast("/ip4/1.2.3.4/udp/4001/quic-v1")
	if p2p.Dialable(tcp) || !p2p.Dialable(tcp, nil, []ma.Multiaddr{quic, tcp}) || !p2p.Dialable(quic) {
		t.Error("an address is kept that only a punch reaches, or one is not that can be dialled")
	}
}
