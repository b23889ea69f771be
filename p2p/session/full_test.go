package session_test

import (
	"sync/atomic"
	"testing"
	"time"

	"chartmesh/p2p/session"
)

// TestPeerIsFull: a peer is told at once that this device stores nothing, and that it does again, by one HELLO each; a new
// session is told from the start; and nobody else is said to be full.
func TestPeerIsFull(t *testing.T) {
	m := pair(t)
	m.full = make([]atomic.Uint32, 2)
	a, b := m.reconnect()
	m.heal(time.Minute)
	told := func(want session.Full, frames int) {
		t.Helper()
		m.now = m.now.Add(time.Second)
		before := m.messages
		m.settle()
		if a.Status().PeerFull != want || b.Status().PeerFull != session.NotFull || m.messages != before+frames {
			t.Errorf("the peer is full: %d, %d, after %d frames", a.Status().PeerFull, b.Status().PeerFull, m.messages-before)
		}
	}
	told(session.NotFull, 4) // PINGs and PONGs
	m.full[1].Store(uint32(session.DiskFull))
	told(session.DiskFull, 1)
	told(session.DiskFull, 0)
	m.full[1].Store(uint32(session.UsedUp))
	told(session.UsedUp, 1)
	m.full[1].Store(uint32(session.NotFull))
	told(session.NotFull, 1)
	m.full[1].Store(uint32(session.DiskFull))
	a, b = m.reconnect()
	told(session.DiskFull, 6)
	if !a.Status().Agreed || !b.Status().Agreed {
		t.Error("they hold the same and do not agree")
	}
}

// TestRoomAgain: what a peer did not keep while it was full is sent at once when it is not any more, however long that took.
func TestRoomAgain(t *testing.T) {
	m := pair(t)
	m.full = make([]atomic.Uint32, 2)
	m.full[1].Store(uint32(session.UsedUp))
	m.nodes[1].Drop = func(session.Place) bool { return true }
	m.reconnect()
	m.edit(0, 0, 1000)
	m.settle()
	for range 400 {
		m.now = m.now.Add(time.Second)
		m.settle()
	}
	m.nodes[1].Drop = nil
	m.full[1].Store(uint32(session.NotFull))
	m.settle()
	if !m.agreed() {
		t.Error("it is not sent when there is room")
	}
}
