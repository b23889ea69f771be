package p2p

import (
	"fmt"
	"net"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/trust"
)

// TestPlacesApart: whoever fills all places that strangers can have leaves those of who comes from where a member came from.
func TestPlacesApart(t *testing.T) {
	places, err := placesOf(true, func(trust.DeviceID) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = places.Close() }()
	taken := func(from string) bool {
		t.Helper()
		_, err := places.OpenConnection(network.DirInbound, true, ma.StringCast(from))
		return err == nil
	}
	places.(*apart).came(ma.StringCast("/ip4/192.0.2.7/tcp/4001"))
	places.(*apart).came(ma.StringCast("/ip6/2001:db8:1:2::7/udp/4001/quic-v1"))
	n := 0
	for taken(fmt.Sprintf("/ip4/198.51.100.%d/tcp/1", n%200)) {
		n++
	}
	if n < maxTransientAtRelay/2 || n > maxTransientAtRelay {
		t.Errorf("strangers have %d places", n)
	}
	for from, want := range map[string]bool{
		"/ip4/198.51.100.250/tcp/1": false, "/ip4/192.0.2.8/tcp/1": false, "/ip6/2001:db8:1:3::7/tcp/1": false,
		"/ip4/192.0.2.7/tcp/9": true, "/ip6/2001:db8:1:2::8/tcp/9": true, "/ip6/::ffff:192.0.2.7/tcp/9": true,
	} {
		if got := taken(from); got != want {
			t.Errorf("%s gets a place: %v", from, got)
		}
	}
	if places.VerifySourceAddress(&net.UDPAddr{IP: net.IPv4(192, 0, 2, 7), Port: 1}) {
		t.Error("a known address has to be shown at once")
	}
	for i := range 2 * maxHomes {
		places.(*apart).came(ma.StringCast(fmt.Sprintf("/ip4/10.%d.%d.%d/tcp/1", i>>16, i>>8&255, i&255)))
	}
	if n := len(places.(*apart).mu.known); n != maxHomes {
		t.Errorf("%d addresses are kept", n)
	}
}

// TestPlacesForMany: as many devices as an anchor takes have a session each, circuits, and a stream to its voter, whatever the machine's memory.
func TestPlacesForMany(t *testing.T) {
	places, err := placesOf(true, func(trust.DeviceID) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = places.Close() }()
	for i := range 10_000 {
		id := strangerID(t, i)
		for _, name := range []protocol.ID{SyncProtocol, QuorumProtocol, KnockProtocol, proto.ProtoIDv2Hop, identify.ID} {
			s, err := places.OpenStream(id, network.DirInbound)
			if err == nil {
				err = s.SetProtocol(name)
			}
			if service := map[protocol.ID]string{proto.ProtoIDv2Hop: relay.ServiceName, identify.ID: identify.ServiceName}[name]; err == nil && service != "" {
				err = s.SetService(service)
			}
			if err == nil && name == SyncProtocol {
				err = s.ReserveMemory(256<<10, network.ReservationPriorityAlways)
			}
			if err != nil {
				t.Fatalf("device %d has no stream of %s: %v", i, name, err)
			}
		}
	}
}

// TestPlacesToAsk: a device may ask an anchor's voter as much at a time as voters take.
func TestPlacesToAsk(t *testing.T) {
	places, err := placesOf(true, func(trust.DeviceID) bool { return true })
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = places.Close() }()
	for i := range 320 {
		s, err := places.OpenStream(strangerID(t, 0), network.DirInbound)
		if err == nil {
			err = s.SetProtocol(QuorumProtocol)
		}
		if err != nil {
			t.Fatalf("question %d has no stream: %v", i, err)
		}
	}
}

// TestStreamsThatSayNothing: members of an anchor, and all strangers who are let in anywhere, that open streams and do not say what for, leave
// places for everybody else's.
func TestStreamsThatSayNothing(t *testing.T) {
	for relay, strangers := range map[bool]int{false: maxStrangers, true: maxStrangersAtRelay} {
		member := map[trust.DeviceID]bool{}
		places, err := placesOf(relay, func(d trust.DeviceID) bool { return member[d] })
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = places.Close() }()
		admits := func(i int) peer.ID {
			id := strangerID(t, i)
			d, err := DeviceOf(id)
			if err != nil {
				t.Fatal(err)
			}
			member[d] = true
			return id
		}
		hostile := 0
		if relay {
			hostile = 64
		}
		for i := range hostile + strangers {
			id := strangerID(t, i)
			if i < hostile {
				id = admits(i)
			}
			for range maxStreamsAtRelay {
				if _, err := places.OpenStream(id, network.DirInbound); err != nil {
					break
				}
			}
		}
		one := admits(1000)
		for _, dir := range []network.Direction{network.DirInbound, network.DirOutbound} {
			s, err := places.OpenStream(one, dir)
			if err != nil {
				t.Fatalf("relay %v, direction %v: %v", relay, dir, err)
			}
			s.Done()
		}
		for range 1000 { // one after the other
			s, err := places.OpenStream(one, network.DirInbound)
			if err == nil {
				err = s.SetProtocol(QuorumProtocol)
			}
			if err != nil {
				t.Fatal(err)
			}
			s.Done()
		}
	}
}

// TestOnePort: TCP and WebSocket share a listener only where they are told the same port.
func TestOnePort(t *testing.T) {
	for _, x := range []struct {
		listen []string
		want   bool
	}{
		{DefaultListen, false},
		{[]string{"/ip4/0.0.0.0/udp/443/quic-v1", "/ip4/0.0.0.0/tcp/4001", "/ip4/0.0.0.0/tcp/443/tls/ws"}, false},
		{[]string{"/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/tcp/0/ws"}, false},
		{[]string{"/ip4/0.0.0.0/tcp/443", "/ip4/0.0.0.0/tcp/443/tls/ws"}, true},
		{[]string{"/ip4/0.0.0.0/tcp/443/wss", "/ip6/::/tcp/443"}, true},
	} {
		if got := onePort(x.listen); got != x.want {
			t.Errorf("%v: %v", x.listen, got)
		}
	}
}
