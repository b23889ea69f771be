package p2p_test

import (
	"strings"
	"testing"
	"time"

	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p"
	"chartmesh/trust"
)

// TestWebSocket: who is reached by nothing else is reached by WebSocket under TLS, at the port that TCP has too.
func TestWebSocket(t *testing.T) {
	var m members
	a, b := newIdentity(1).Device(), newIdentity(2).Device()
	for _, d := range []trust.DeviceID{a, b} {
		m.set1(d, true)
	}
	two := newSite(t, 2, &m, func(cfg *p2p.Config) { cfg.Listen = []string{"/ip4/127.0.0.1/tcp/0"} })
	port := strings.Split(two.Addresses()[0], "/")[4]
	two.stop()
	two.cfg.Listen = []string{"/ip4/127.0.0.1/tcp/" + port, "/ip4/127.0.0.1/tcp/" + port + "/tls/ws"}
	two.open(t)
	if got := len(two.Addresses()); got != 2 {
		t.Fatalf("it has %d addresses: %q", got, two.Addresses())
	}
	for _, c := range []struct{ addr, way string }{
		{"/ip4/127.0.0.1/tcp/" + port + "/tls/ws", "direct websocket"},
		{"/ip4/127.0.0.1/tcp/" + port, "direct tcp"},
	} {
		one := newSite(t, 1, &m, func(cfg *p2p.Config) { cfg.Listen = []string{} })
		one.SetPeers([]p2p.PeerAddr{{Device: b, Addrs: []string{c.addr}}})
		one.edit("an edit")
		wait(t, "in sync by "+c.way, func() bool { return one.peer(b).State == p2p.InSync && one.peer(b).Way == c.way })
		one.stop()
	}
}

// TestCertificate: a certificate is made by who listens by WebSocket, and by no other.
func TestCertificate(t *testing.T) {
	for text, want := range map[string]int{
		"": 1, "/ip4/0.0.0.0/tcp/0": 1, "/ip4/0.0.0.0/udp/0/quic-v1": 1, "/ip4/0.0.0.0/tcp/443/tls/ws": 2, "/ip4/0.0.0.0/tcp/443/wss": 2,
	} {
		var listen []string
		if text != "" {
			listen = []string{"/ip4/127.0.0.1/tcp/1", text}
		}
		if options, err := p2p.WebSocket(listen); err != nil || len(options) != want {
			t.Errorf("%q: %d options, %v", text, len(options), err)
		}
	}
}

// TestWebSocketIsLast: what costs least is tried first.
func TestWebSocketIsLast(t *testing.T) {
	addr := func(text string) ma.Multiaddr {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	web, tcp, quic := addr("/ip4/1.2.3.4/tcp/443/tls/ws"), addr("/ip4/1.2.3.4/tcp/4001"), addr("/ip4/1.2.3.4/udp/4001/quic-v1")
	at := map[string]time.Duration{}
	for _, a := range p2p.Rank([]ma.Multiaddr{web, tcp, quic}) {
		at[a.Addr.String()] = a.Delay
	}
	if len(at) != 3 || at[quic.String()] != 0 || at[tcp.String()] <= 0 || at[web.String()] < at[tcp.String()]+time.Second {
		t.Errorf("they are tried at %v", at)
	}
	if alone := p2p.Rank([]ma.Multiaddr{web}); len(alone) != 1 || alone[0].Delay != 0 {
		t.Errorf("alone it is tried at %v", alone)
	}
}
