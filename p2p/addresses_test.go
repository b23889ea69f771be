package p2p_test

import (
	"bytes"
	"fmt"
	"io"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p"
	"chartmesh/trust"
)

// devices makes members of some test devices.
func devices(numbers ...int) *members {
	m := &members{}
	for _, i := range numbers {
		m.set1(newIdentity(i).Device(), true)
	}
	return m
}

func device(i int) trust.DeviceID { return newIdentity(i).Device() }

// TestMembersTellWhereOthersAre: B and C know where A is, and of each other no more than that there is one. They meet, go on when A is off,
// and find each other again without it.
func TestMembersTellWhereOthersAre(t *testing.T) {
	m := devices(1, 2, 3)
	a, b, c := newSite(t, 1, m, nil), newSite(t, 2, m, nil), newSite(t, 3, m, nil)
	b.SetPeers([]p2p.PeerAddr{a.at(), {Device: device(3)}})
	wait(t, "A and B agree", agreed(a, b))
	c.SetPeers([]p2p.PeerAddr{a.at(), {Device: device(2)}})
	wait(t, "B and C agree", agreed(b, c))
	if way := b.peer(device(3)).Way; way != "direct quic" {
		t.Errorf("the way is %q", way)
	}
	a.stop()
	wait(t, "A is off", func() bool { return !b.peer(device(1)).Connected && !c.peer(device(1)).Connected })
	b.edit("without A")
	wait(t, "it arrives", func() bool { return len(c.Vector(clinical)) == 1 && same(b, c)() })
	c.SetOnline(false)
	wait(t, "B is alone", func() bool { return !b.peer(device(3)).Connected })
	c.SetOnline(true)
	wait(t, "B and C agree again", agreed(b, c))
}

// TestOldMemberTellsNothing: with a member of a version that does not speak of this, all is as it was.
func TestOldMemberTellsNothing(t *testing.T) {
	m := devices(1, 2, 3)
	a := newSite(t, 1, m, nil)
	wait(t, "A serves", a.Opened)
	a.Libp2p().RemoveStreamHandler(p2p.AddressesProtocol)
	b, c := newSite(t, 2, m, nil), newSite(t, 3, m, nil)
	b.SetPeers([]p2p.PeerAddr{a.at(), {Device: device(3)}})
	c.SetPeers([]p2p.PeerAddr{a.at(), {Device: device(2)}})
	wait(t, "A and B agree", agreed(a, b))
	wait(t, "A and C agree", agreed(a, c))
	if err := b.AskAddresses(t.Context(), device(1)); err == nil {
		t.Error("who does not speak of it has answered")
	}
	if b.peer(device(3)).Connected || !agreed(a, b)() {
		t.Errorf("C at B: %+v", b.peer(device(3)))
	}
}

// sealed signs where a device is.
func sealed(t *testing.T, by, of int, seq uint64, addrs ...string) []byte {
	t.Helper()
	id, err := p2p.PeerID(device(of))
	if err != nil {
		t.Fatal(err)
	}
	rec := &peer.PeerRecord{PeerID: id, Seq: seq}
	for _, a := range addrs {
		rec.Addrs = append(rec.Addrs, ma.StringCast(a))
	}
	return seal(t, by, rec)
}

func keyOf(t *testing.T, i int) crypto.PrivKey {
	t.Helper()
	key, err := crypto.UnmarshalEd25519PrivateKey(newIdentity(i).key)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func seal(t *testing.T, by int, rec record.Record) []byte {
	t.Helper()
	e, err := record.Seal(rec, keyOf(t, by))
	if err != nil {
		t.Fatal(err)
	}
	b, err := e.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// elsewhere is a peer record under another domain.
type elsewhere struct{ *peer.PeerRecord }

func (elsewhere) Domain() string { return "another" }

// TestLyingMember: what a member passes on counts only as the sought member's own signed word, which is newer than what is known; of its addresses
// few, and none that may not be dialled. Nothing else that it says changes anything.
func TestLyingMember(t *testing.T) {
	const good = "/ip4/192.0.2.7/udp/4801/quic-v1"
	m := devices(1, 2, 3, 4)
	a, b := newSite(t, 1, m, nil), newSite(t, 2, m, nil)
	wait(t, "A serves", a.Opened)
	var answer atomic.Value // to whatever B asks, and whenever
	answer.Store([]byte{})
	a.Libp2p().SetStreamHandler(p2p.AddressesProtocol, func(s network.Stream) {
		_, _ = s.Write(framed(answer.Load().([]byte)))
		_ = s.Close()
	})
	b.SetPeers([]p2p.PeerAddr{a.at(), {Device: device(3)}, {Device: device(4)}, {Device: device(6)}})
	wait(t, "A and B agree", agreed(a, b))
	says := func(records ...[]byte) error {
		t.Helper()
		answer.Store(p2p.EncodePeerRecords(records))
		return b.AskAddresses(t.Context(), device(1))
	}
	id3, err := p2p.PeerID(device(3))
	if err != nil {
		t.Fatal(err)
	}
	right := sealed(t, 3, 3, 10, good)
	forged := bytes.Clone(right)
	forged[len(forged)-1] ^= 1
	many := make([]string, 10_000)
	for i := range many {
		many[i] = fmt.Sprintf("/ip4/10.0.%d.%d/tcp/4801", i>>8, i&255)
	}
	for name, rec := range map[string][]byte{
		"forged":              forged,
		"signed by A":         sealed(t, 1, 3, 10, good),
		"a stranger's":        sealed(t, 5, 5, 10, good),
		"B's own":             sealed(t, 2, 2, 10, good),
		"A's":                 sealed(t, 1, 1, 10, good),
		"a removed device's":  sealed(t, 6, 6, 10, good),
		"of another domain":   seal(t, 3, elsewhere{&peer.PeerRecord{PeerID: id3, Seq: 10, Addrs: []ma.Multiaddr{ma.StringCast(good)}}}),
		"nothing":             {},
		"something else":      []byte("no envelope"),
		"cut short":           right[:len(right)-1],
		"not to be dialled":   sealed(t, 4, 4, 10, "/ip4/0.0.0.0/udp/1/quic-v1", "/ip4/224.0.0.1/udp/1/quic-v1", "/ip4/255.255.255.255/tcp/1", "/dns4/praxis.example/tcp/1", "/ip4/192.0.2.7/udp/53", "/ip4/192.0.2.7/tcp/1/p2p/"+id3.String()+"/p2p-circuit", "/ip4/192.0.2.7/tcp/1/p2p/"+id3.String()),
		"with 10,000 of them": nil,
	} {
		if rec != nil || name == "nothing" {
			if err := says(rec); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		} else if err := says(sealed(t, 3, 3, 10, many...)); err == nil {
			t.Errorf("%s: taken", name)
		}
		for i := range 7 {
			if list := b.Hearsay(device(i)); len(list) > 0 {
				t.Errorf("%s: device %d is sought at %v", name, i, list)
			}
		}
	}
	answer.Store(append(p2p.EncodePeerRecords([][]byte{right}), 0))
	if err := b.AskAddresses(t.Context(), device(1)); err == nil || len(b.Hearsay(device(3))) > 0 {
		t.Errorf("an answer with more behind it is taken: %v", err)
	}

	// What is right counts, also behind what is not; and no older one after it.
	if err := says(forged, sealed(t, 3, 3, 10, many[:100]...)); err != nil || len(b.Hearsay(device(3))) != 16 {
		t.Errorf("of 100 addresses it takes %v (%v)", b.Hearsay(device(3)), err)
	}
	if err := says(sealed(t, 3, 3, 11, good, good)); err != nil || !slices.Equal(b.Hearsay(device(3)), []string{good}) {
		t.Errorf("what is newer: %v (%v)", b.Hearsay(device(3)), err)
	}
	for _, seq := range []uint64{9, 11} {
		if err := says(sealed(t, 3, 3, seq, "/ip4/192.0.2.8/tcp/1")); err != nil || !slices.Equal(b.Hearsay(device(3)), []string{good}) {
			t.Errorf("what is not newer: %v (%v)", b.Hearsay(device(3)), err)
		}
	}
	if !agreed(a, b)() {
		t.Error("A and B do not agree any more")
	}
}

// TestLoopbackElsewhere: an address of one machine counts where it was told on that machine, and nowhere else.
func TestLoopbackElsewhere(t *testing.T) {
	list := []ma.Multiaddr{ma.StringCast("/ip4/127.0.0.1/udp/4801/quic-v1"), ma.StringCast("/ip6/::1/tcp/4801"), ma.StringCast("/ip4/192.0.2.7/tcp/443/ws")}
	if here, there := p2p.ToldPlaces(list, true), p2p.ToldPlaces(list, false); len(here) != 3 || len(there) != 1 || !there[0].Equal(list[2]) {
		t.Errorf("on the machine %v, elsewhere %v", here, there)
	}
}

// says asks a site where members are, and returns all that it answers.
func (s *site) says(t *testing.T, h host.Host, b []byte) ([]byte, error) {
	t.Helper()
	id, err := p2p.PeerID(s.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	stream, err := h.NewStream(network.WithNoDial(t.Context(), "connected"), id, p2p.AddressesProtocol)
	if err != nil {
		return nil, err
	}
	defer func() { _ = stream.Reset() }()
	_, _ = stream.Write(b)
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	return io.ReadAll(stream)
}

// TestWhoIsToldWhereMembersAre: a member is told of those whom it seeks and who are connected, at its pace. A removed device and a stranger, who
// is let in to join, are told nothing, and nothing is told of them; neither by nor of an anchor.
func TestWhoIsToldWhereMembersAre(t *testing.T) {
	m, anchor := devices(1, 2, 3, 4, 5, 7, 9), device(9)
	o := &office{members: m, invites: map[p2p.InviteID]*invite{}, log: [][]byte{[]byte("founding entry")}}
	blind := func(c *p2p.Config) { c.Blind = func(d trust.DeviceID) bool { return d == anchor } }
	a := newSite(t, 1, m, func(c *p2p.Config) { blind(c); c.Invites = o })
	b := newSite(t, 2, m, blind)
	o.invite(t, a, time.Hour)
	r := newSite(t, 9, m, func(c *p2p.Config) {
		c.Relay, c.Blind = circle{device(1): true, device(2): true}, func(trust.DeviceID) bool { return true }
	})
	a.SetPeers([]p2p.PeerAddr{b.at(), r.at()})
	b.SetPeers([]p2p.PeerAddr{r.at()})
	wait(t, "A and B agree", agreed(a, b))
	wait(t, "A and the anchor are connected", func() bool { return a.peer(anchor).Connected && b.peer(anchor).Connected })

	all := framed(p2p.EncodeSought(device(1), device(2), device(4), device(6), device(7), anchor))
	asks := func(s *site, i int) ([]byte, error) {
		t.Helper()
		h := newStranger(t, i)
		defer func() { _ = h.Close() }()
		if !s.reach(t, h) {
			t.Fatalf("device %d is not let in", i)
		}
		return s.says(t, h, all)
	}
	of := func() []trust.DeviceID {
		t.Helper()
		got, err := asks(a, 4)
		list, bad := p2p.OpenPeerRecords(got)
		if err != nil || bad != nil {
			t.Fatalf("the answer is %x (%v, %v)", got, err, bad)
		}
		slices.SortFunc(list, func(x, y trust.DeviceID) int { return bytes.Compare(x[:], y[:]) })
		return list
	}
	h, err := libp2p.New(libp2p.ListenAddrStrings(quicOnly...), libp2p.Identity(keyOf(t, 7)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	if !a.reach(t, h) {
		t.Fatal("a member is not let in")
	}
	wait(t, "A knows where its members are", func() bool { return a.HasRecord(device(2)) && a.HasRecord(device(7)) && a.HasRecord(anchor) })
	if list := of(); len(list) != 2 || !slices.Contains(list, device(2)) || !slices.Contains(list, device(7)) {
		t.Errorf("a member is told of %v", list)
	}
	got, err := a.says(t, h, all)
	if list, bad := p2p.OpenPeerRecords(got); err != nil || bad != nil || !slices.Equal(list, []trust.DeviceID{device(2)}) {
		t.Errorf("a member who seeks itself too is told of %v (%v, %v)", list, err, bad)
	}
	m.set1(device(7), false) // as the membership log has it, before connections are closed
	if list := of(); !slices.Equal(list, []trust.DeviceID{device(2)}) {
		t.Errorf("after a removal a member is told of %v", list)
	}
	if got, err := a.says(t, h, all); len(got) > 0 {
		t.Errorf("a removed device is told %x (%v)", got, err)
	}
	for i, who := range map[int]string{6: "a removed device that comes again", 8: "a stranger"} {
		if got, err := asks(a, i); len(got) > 0 {
			t.Errorf("%s is told %x (%v)", who, got, err)
		}
	}
	if got, err := a.says(t, r.Libp2p(), all); len(got) > 0 {
		t.Errorf("an anchor is told %x (%v)", got, err)
	}
	if got, err := asks(r, 4); len(got) > 0 || slices.Contains(r.Libp2p().Mux().Protocols(), p2p.AddressesProtocol) {
		t.Errorf("an anchor tells %x (%v)", got, err)
	}
	b.SetOnline(false)
	wait(t, "B is off", func() bool { return !a.peer(device(2)).Connected })
	if list := of(); len(list) > 0 {
		t.Errorf("of who is not connected a member is told: %v", list)
	}

	none := framed(p2p.EncodePeerRecords(nil))
	h = newStranger(t, 5)
	if !a.reach(t, h) {
		t.Fatal("a member is not let in")
	}
	answered := 0
	for range 10 {
		if got, err := a.says(t, h, framed(p2p.EncodeSought(device(9)))); err == nil && bytes.Equal(got, none) {
			answered++
		}
	}
	if answered < 1 || answered > 4 {
		t.Errorf("a member is answered %d times in a moment", answered)
	}
	_ = h.Close()
	for _, bad := range [][]byte{framed(append(p2p.EncodeSought(), 0)), framed([]byte("cmad\x02\x00")), {0, 1, 0, 0}} {
		if h := newStranger(t, 3); a.reach(t, h) {
			if got, err := a.says(t, h, bad); len(got) > 0 {
				t.Errorf("%x is answered %x (%v)", bad, got, err)
			}
			_ = h.Close()
		}
	}
}
