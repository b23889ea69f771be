package p2p_test

import (
	"context"
	"io"
	"testing"
	"time"

	"chartmesh/p2p"
	"chartmesh/trust"
)

// TestQuorumStream: members speak the quorum's protocol, each as who it is; who was removed, and who is not connected, does not.
func TestQuorumStream(t *testing.T) {
	m := &members{}
	asked := make(chan trust.DeviceID, 10)
	answers := func(cfg *p2p.Config) {
		cfg.Quorum = func(_ context.Context, s p2p.QuorumStream, from trust.DeviceID) {
			asked <- from
			b, err := io.ReadAll(io.LimitReader(s, 4))
			if err == nil {
				_, _ = s.Write(b)
			}
			_, _ = io.ReadAll(s)
		}
	}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	m2 := &members{} // what b knows
	m2.set1(newIdentity(1).Device(), true)
	m2.set1(newIdentity(2).Device(), true)
	a, b := newSite(t, 1, m, answers), newSite(t, 2, m2, nil)
	if _, err := b.OpenQuorum(t.Context(), a.id.Device()); err == nil {
		t.Error("a stream was opened to a device that is not connected")
	}
	a.SetPeers([]p2p.PeerAddr{b.at()})
	wait(t, "both agree", agreed(a, b))
	s, err := b.OpenQuorum(t.Context(), a.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(10 * time.Second))
	_, err = s.Write([]byte("ping"))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "ping" || <-asked != b.id.Device() {
		t.Errorf("it is answered %q (%v)", got, err)
	}
	_ = s.Reset()
	if s, err := a.OpenQuorum(t.Context(), b.id.Device()); err == nil { // which answers nobody
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = s.Write([]byte("ping"))
		if n, err := s.Read(got); err == nil {
			t.Errorf("a device without that protocol answers %d bytes", n)
		}
	}
	m.set1(b.id.Device(), false) // as the membership log of one device has it, before connections are closed
	if s, err := b.Libp2p().NewStream(t.Context(), a.Libp2p().ID(), p2p.QuorumProtocol); err == nil {
		_ = s.SetDeadline(time.Now().Add(10 * time.Second))
		_, _ = s.Write([]byte("ping"))
		if n, err := s.Read(got); err == nil {
			t.Errorf("a device that was removed is answered %d bytes", n)
		}
	}
	select {
	case d := <-asked:
		t.Errorf("%v was heard", d)
	default:
	}
}
