package session_test

import (
	"context"
	"testing"
	"time"

	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// busy is a replica of which something else is told between the moment that entries are durable and the return of AddEntries.
type busy struct {
	*sessiontest.Replica
	meanwhile func()
}

func (b *busy) AddEntries(ctx context.Context, from trust.DeviceID, entries [][]byte) error {
	err := b.Replica.AddEntries(ctx, from, entries)
	b.meanwhile()
	return err
}

// TestEntriesAreTold: that the membership grew is told to the caller, who cuts off whoever was removed and tells the other sessions, also if
// the session met the new entries on another occasion first.
func TestEntriesAreTold(t *testing.T) {
	m := pair(t)
	m.heal1()
	l, now := m.links[0], m.now
	b := &busy{Replica: m.nodes[1]}
	s := session.New(session.Config{Self: m.nodes[1].Device, Peer: m.nodes[0].Device, Replica: b, Locate: sessiontest.Locate})
	b.meanwhile = func() { s.Applied(now, m.scopes[0]) }
	s.Start(now)
	m.nodes[0].Enter([]byte("a removal"))
	told := false
	l.s[1] = nil
	l.s[0] = session.New(session.Config{Self: m.nodes[0].Device, Peer: m.nodes[1].Device, Replica: m.nodes[0], Locate: sessiontest.Locate})
	l.s[0].Start(now)
	for range 100 {
		for from, to := range map[*session.Session]*session.Session{l.s[0]: s, s: l.s[0]} {
			f, err := from.Next(t.Context(), now)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				continue
			}
			res, err := to.Handle(t.Context(), now, f)
			if err != nil {
				t.Fatal(err)
			}
			told = told || to == s && res.Entries
		}
		now = now.Add(100 * time.Millisecond)
	}
	if m.nodes[1].Entries() != 2 {
		t.Fatalf("%d entries came of 2", m.nodes[1].Entries())
	}
	if !told {
		t.Error("nobody was told that the membership grew")
	}
}

// TestEntriesGoFirst: what was written since a removal goes after it, also if the session hears of what was written first.
func TestEntriesGoFirst(t *testing.T) {
	for name, later := range map[string]func(*session.Session, time.Time){
		"told of what was written": func(s *session.Session, now time.Time) { s.LocalChunks(now) },
		"told that it was applied": func(s *session.Session, now time.Time) { s.LocalChunks(now); s.Applied(now, trust.ScopeID{}) },
	} {
		m := pair(t)
		m.heal1()
		m.now = m.now.Add(time.Minute)
		m.settle()
		arrived := 0
		m.nodes[1].OnArrive = func(trust.DeviceID, trust.ScopeID) {
			if arrived++; m.nodes[1].Entries() != 2 {
				t.Errorf("%s: chunks come before the entries: %d of 2", name, m.nodes[1].Entries())
			}
		}
		m.nodes[0].Enter([]byte("a removal"))
		m.nodes[0].Edit(m.scopes[0], []byte("written since"))
		m.each(0, func(s *session.Session) { later(s, m.now) })
		m.settle()
		m.each(0, func(s *session.Session) { s.LocalEntries(m.now) })
		m.heal(time.Minute)
		if arrived == 0 {
			t.Errorf("%s: no chunk came", name)
		}
	}
}
