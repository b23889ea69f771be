package session_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
)

// TestHistoriesClaimed has a member claim positions in as many logs as the protocol lets it name: what is remembered stays
// bounded for the session as a whole, and goes with it when the peer begins anew.
func TestHistoriesClaimed(t *testing.T) {
	m := newMesh(t, 1, 2, 4)
	l := m.connect(0, 1)
	m.heal(time.Minute)
	logs := make([]chunk.LogID, session.MaxBranchedLogs)
	for i := range logs {
		binary.BigEndian.PutUint32(logs[i][:], uint32(i)+1)
	}
	held := make([]chunk.Position, session.MaxLocators)
	for i := range held {
		held[i].Counter = uint64(i) + 1
	}
	m.nodes[0].OnAck = nil // it is a lie
	claim := func(logs []chunk.LogID, held []chunk.Position) {
		t.Helper()
		for _, id := range m.scopes {
			if _, err := l.s[0].Handle(context.Background(), m.now, session.EncodeBranches(id, logs, held)); err != nil {
				t.Fatal(err)
			}
		}
		counted, kept := session.Places(l.s[0])
		if counted > session.MaxPlaces || kept > session.MaxPlaces {
			t.Errorf("%d positions are kept, %d counted, of at most %d", kept, counted, session.MaxPlaces)
		}
	}
	claim(logs[:64], held)
	if _, kept := session.Places(l.s[0]); kept < session.MaxPlaces/2 {
		t.Fatalf("%d positions are kept: the test shows nothing", kept)
	}
	claim(logs, held[:16])
	claim(logs[100:], held[:32])
	claim(logs[:64], held)
	first := session.EncodeHello(m.nodes[1].Hello(device(0)), true)
	if _, err := l.s[0].Handle(context.Background(), m.now, first); err != nil {
		t.Fatal(err)
	}
	if counted, kept := session.Places(l.s[0]); counted+kept > 0 {
		t.Errorf("%d positions are kept, %d counted, of a peer that began anew", kept, counted)
	}
}

// TestManyHistories has two devices hold other histories of many logs, with room for what one of them tells of few: all cross, in
// portions, and without waiting for the time after which whatever was lost is told again.
func TestManyHistories(t *testing.T) {
	const logs, common, extra = 60, 3, 2
	m := pair(t)
	id := m.scopes[0]
	for i := range logs {
		log := sessiontest.Log(device(100+i), id)
		for _, n := range m.nodes {
			for j := range common {
				n.EditAs(id, log, []byte{byte(j)})
			}
		}
		for k, n := range m.nodes {
			for j := range extra {
				n.EditAs(id, log, []byte{byte(k), byte(j), 1})
			}
		}
	}
	a, b := m.reconnect()
	most := 8 * (common + 2*extra)
	session.SetMostPlaces(a, most)
	session.SetMostPlaces(b, most)
	for range 100 {
		m.settle()
		for _, s := range []*session.Session{a, b} {
			if counted, kept := session.Places(s); counted > most || counted < 0 || counted > kept {
				t.Fatalf("%d positions are counted, %d kept, of at most %d", counted, kept, most)
			}
		}
		if a.Status().Agreed && b.Status().Agreed {
			break
		}
		m.now = m.now.Add(250 * time.Millisecond)
	}
	for i, n := range m.nodes {
		for j := range logs {
			if got := n.Forked(id, sessiontest.Log(device(100+j), id)); got != extra {
				t.Fatalf("device %d holds %d chunks of the other history of log %d, want %d", i, got, j, extra)
			}
		}
	}
	if !a.Status().Agreed || !b.Status().Agreed {
		t.Errorf("statuses %+v and %+v", a.Status(), b.Status())
	}
	if st := a.Status(); st.ChunksOut > 4*logs*extra {
		t.Errorf("%d chunks sent of %d", st.ChunksOut, logs*extra)
	}
}
