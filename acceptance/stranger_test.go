package acceptance

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/multiformats/go-multiaddr"

	"chartmesh/p2p"
)

// strangerGets connects as a stranger and asks for a protocol; it returns what came back.
func strangerGets(t *testing.T, s *site, proto string, say []byte) int {
	t.Helper()
	h, err := libp2p.New(libp2p.NoListenAddrs)
	must(t, err)
	defer func() { must(t, h.Close()) }()
	st, err := s.client.Status(t.Context(), "")
	must(t, err)
	addr, err := multiaddr.NewMultiaddr(st.Addresses[0])
	must(t, err)
	info, err := peer.AddrInfoFromP2pAddr(addr)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if err := h.Connect(network.WithForceDirectDial(ctx, "test"), *info); err != nil {
		return 0
	}
	stream, err := h.NewStream(ctx, info.ID, protocol.ID(proto))
	if err != nil {
		return 0
	}
	must(t, stream.SetDeadline(time.Now().Add(2*time.Second)))
	if _, err := stream.Write(say); err != nil {
		return 0
	}
	_ = stream.CloseWrite()
	buf := make([]byte, 1<<16)
	n, _ := stream.Read(buf)
	return n
}

// TestStrangers shows that a stranger's peer, a wrong code and a used code get nothing.
func TestStrangers(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	a.patients(1, 2)
	if n := strangerGets(t, a, "/chartmesh/sync/1.0.0", []byte{0, 0, 0, 1, 1}); n != 0 {
		t.Errorf("a stranger got %d bytes of a sync session", n)
	}
	code := a.invite() // the gate is open to the join protocol now
	if n := strangerGets(t, a, "/chartmesh/sync/1.0.0", []byte{0, 0, 0, 1, 1}); n != 0 {
		t.Errorf("with an invitation open a stranger got %d bytes of a sync session", n)
	}

	parsed, err := p2p.ParseCode(code)
	must(t, err)
	parsed.Secret[0] ^= 1
	wrong, err := parsed.Text()
	must(t, err)
	x := newSite(t, root, "wrong")
	if _, err := x.run("join", wrong, "--site", "x", "--device", "x"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a wrong code: %v", err)
	}
	if _, err := x.run("status"); err == nil {
		t.Error("a wrong code made a folder that opens")
	}

	b := newSite(t, root, "branch")
	b.mustRun("join", code, "--site", "branch", "--device", "branch")
	y := newSite(t, root, "used")
	if _, err := y.run("join", code, "--site", "y", "--device", "y"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a used code: %v", err)
	}
	b.start()
	b.inSync()
	st, err := a.client.Status(t.Context(), "")
	must(t, err)
	if len(st.Peers) != 1 {
		t.Errorf("%d other devices belong to the practice, and one was admitted", len(st.Peers))
	}
}
