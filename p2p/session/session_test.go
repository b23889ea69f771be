package session_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

func pair(t *testing.T) *mesh { return newMesh(t, 1, 2, 2) }

// clear empties the books of a pair by a new connection.
func (m *mesh) reconnect() (a, b *session.Session) {
	if len(m.links) == 0 {
		m.connect(0, 1)
	} else {
		m.restart(m.links[0])
	}
	return m.links[0].s[0], m.links[0].s[1]
}

func TestNothingToDo(t *testing.T) {
	m := newMesh(t, 1, 5, 2)
	for i := range 5 {
		for scope := range 2 {
			for range 40 {
				m.edit(i, scope, 200)
			}
		}
	}
	for i := range 5 {
		for j := range i {
			m.connect(j, i)
		}
	}
	m.heal(time.Minute)
	m.links = m.links[:1]
	a, b := m.reconnect()
	m.settle()
	for _, s := range []session.Status{a.Status(), b.Status()} {
		if !s.Agreed || s.RoundTrips != 1 {
			t.Errorf("agreed %v after %d round trips", s.Agreed, s.RoundTrips)
		}
		if total := s.BytesIn + s.BytesOut; total > 1024 {
			t.Errorf("%d bytes", total)
		}
	}
	t.Logf("5 devices, 2 scopes: %d bytes both ways", a.Status().BytesIn+a.Status().BytesOut)
	m.now = m.now.Add(10 * time.Second)
	m.settle()
	if st := a.Status(); st.BytesOut > 512+100 {
		t.Errorf("%d bytes after the PINGs: something goes on", st.BytesOut)
	}
}

func TestEditsWhileApart(t *testing.T) {
	m := pair(t)
	for range 300 {
		m.edit(0, 0, 300)
		m.edit(1, 0, 300)
	}
	m.reconnect()
	m.heal(time.Minute)
	for range 20 {
		m.edit(0, 0, 300)
		m.edit(1, 1, 300)
	}
	// The running session is not told; a new one finds out.
	a, b := m.reconnect()
	m.heal(time.Minute)
	m.converged()
	for _, s := range []session.Status{a.Status(), b.Status()} {
		if s.ChunksOut != 20 || s.ChunksIn != 20 {
			t.Errorf("%d chunks out, %d in; 20 were needed", s.ChunksOut, s.ChunksIn)
		}
		if s.RoundTrips != 2 {
			t.Errorf("%d round trips", s.RoundTrips)
		}
	}
}

func TestPush(t *testing.T) {
	m := pair(t)
	a, b := m.reconnect()
	m.heal(time.Minute)
	before, frames := a.Status(), m.messages
	m.edit(0, 0, 500)
	m.settle()
	if !a.Status().Agreed || !b.Status().Agreed {
		t.Error("no agreement after a push")
	}
	if n := m.messages - frames; n != 2 {
		t.Errorf("%d frames for one edit, want CHUNKS and ACK", n)
	}
	t.Logf("one edit of 572 bytes: %d bytes out, %d in", a.Status().BytesOut-before.BytesOut, a.Status().BytesIn-before.BytesIn)
}

// TestCutAtHalf cuts a first sync when half of it is durable: the rest is no more than was not durable.
func TestCutAtHalf(t *testing.T) {
	m := pair(t)
	const chunks = 4000
	for range chunks {
		m.edit(0, 0, 1000)
	}
	m.cfg.Window = 256 << 10
	m.reconnect()
	l := m.links[0]
	id := m.scopes[0]
	for m.nodes[1].Vector(id)[sessiontest.Log(device(0), id)].Counter < chunks/2 {
		m.pump()
		m.deliver(l, 0)
		m.deliver(l, 1)
	}
	first := l.s[0].Status().BytesOut
	a, _ := m.reconnect() // what was on the wire is lost
	m.heal(time.Minute)
	m.converged()
	second := a.Status().BytesOut
	total := uint64(chunks * 1060)
	t.Logf("%d bytes before the cut, %d after it, of %d", first, second, total)
	if second*100 > total*55 {
		t.Errorf("%d %% were sent after the cut", second*100/total)
	}
}

// TestRelayIsNotSentTwice has three who all know each other: an edit crosses each of its author's links once.
func TestRelayIsNotSentTwice(t *testing.T) {
	m := newMesh(t, 1, 3, 1)
	m.connect(0, 1)
	m.connect(0, 2)
	m.connect(1, 2)
	m.heal(time.Minute)
	for range 10 {
		m.edit(0, 0, 100)
		m.settle()
		m.now = m.now.Add(time.Second)
		m.settle()
	}
	m.converged()
	var sent uint64
	for _, l := range m.links {
		sent += l.s[0].Status().ChunksOut + l.s[1].Status().ChunksOut
	}
	if sent != 20 {
		t.Errorf("%d chunks were sent for 10 edits to two others", sent)
	}
}

func TestRelayedWhenNobodyElseBringsIt(t *testing.T) {
	m := newMesh(t, 1, 3, 1)
	m.connect(0, 1)
	m.connect(1, 2)
	m.heal(time.Minute)
	m.edit(0, 0, 100)
	m.settle()
	m.now = m.now.Add(100 * time.Millisecond)
	m.settle()
	m.converged()
}

// TestRefusedChunk has a replica that never keeps one chunk: it is offered again, more and more seldom.
func TestRefusedChunk(t *testing.T) {
	m := pair(t)
	m.nodes[1].Drop = func(p session.Place) bool { return p.Position.Counter >= 3 }
	for range 5 {
		m.edit(0, 0, 100)
	}
	a, _ := m.reconnect()
	for end := m.now.Add(time.Hour); m.now.Before(end); {
		m.settle()
		next := end
		for _, s := range m.links[0].s {
			if d := s.Deadline(); d.After(m.now) && d.Before(next) {
				next = d
			}
		}
		m.now = next
	}
	st := a.Status()
	if st.ChunksOut > 3000 || st.AheadChunks != 3 {
		t.Errorf("%d chunks sent in an hour, %d ahead", st.ChunksOut, st.AheadChunks)
	}
	t.Logf("%d chunks sent in an hour", st.ChunksOut)
	m.nodes[1].Drop = nil
	m.heal(5 * time.Minute)
	m.converged()
}

func TestDiverged(t *testing.T) {
	m := pair(t)
	m.edit(0, 0, 100)
	a, b := m.reconnect()
	m.heal(time.Minute)
	m.nodes[1].Taint(m.scopes[0])
	b.Applied(m.now, m.scopes[0])
	m.settle()
	if a.Status().Diverged || b.Status().Diverged {
		t.Error("diverged at the first sign")
	}
	if a.Status().Agreed || !a.Status().InSync {
		t.Error("the difference was not noticed")
	}
	for range 5 {
		m.now = m.now.Add(time.Second)
		m.settle()
	}
	if !a.Status().Diverged || !b.Status().Diverged {
		t.Error("not diverged though it persists")
	}
	m.nodes[0].Taint(m.scopes[0]) // both the same again
	a.Applied(m.now, m.scopes[0])
	m.heal(2 * time.Minute)
	if a.Status().Diverged || b.Status().Diverged {
		t.Error("diverged though they agree again")
	}
}

// TestBlind: a peer that applies nothing is agreed with when it holds the same, and costs no more while nothing happens than one that applies.
func TestBlind(t *testing.T) {
	idle := func(blind bool) uint64 {
		m := pair(t)
		m.cfg.Blind, m.nodes[1].Lazy = blind, blind
		for range 3 {
			m.edit(0, 0, 100)
		}
		a, b := m.reconnect()
		for range 10 { // heal waits for both to apply
			m.now = m.now.Add(time.Second)
			m.settle()
		}
		for i, s := range []session.Status{a.Status(), b.Status()} {
			if !s.InSync || !s.Agreed || s.Diverged {
				t.Errorf("blind %v, side %d: in sync %v, agreed %v, diverged %v", blind, i, s.InSync, s.Agreed, s.Diverged)
			}
		}
		before := a.Status().BytesOut + a.Status().BytesIn
		for range 10 {
			m.now = m.now.Add(time.Minute)
			m.settle()
		}
		return a.Status().BytesOut + a.Status().BytesIn - before
	}
	if with, without := idle(true), idle(false); with > without {
		t.Errorf("%d bytes in ten idle minutes with one that applies nothing, %d with another", with, without)
	}
}

// TestFeed has a newcomer that lacks everything and meets four who have it: it gets it once.
func TestFeed(t *testing.T) {
	m := newMesh(t, 1, 5, 2)
	m.feed()
	m.cfg.Window, m.cfg.FramePayload = 64<<10, 16<<10
	for i := range 4 {
		for range 200 {
			m.edit(i, 0, 1000)
		}
		m.edit(i, 1, 1000)
		for j := range i {
			m.connect(j, i)
		}
	}
	m.heal(time.Minute)
	m.links = nil
	began := m.now
	for i := range 4 {
		m.connect(i, 4)
	}
	m.heal(time.Minute)
	m.converged()
	sum := uint64(0)
	for _, l := range m.links {
		sum += l.s[0].Status().ChunksOut
	}
	if sum < 804 || sum > 804*12/10 {
		t.Errorf("%d chunks were sent to one that lacked 804", sum)
	}
	t.Logf("%d chunks sent for 804, in %v", sum, m.now.Sub(began))

	t.Run("the one whose turn it is goes silent", func(t *testing.T) {
		for range 100 {
			m.edit(0, 0, 1000)
		}
		m.nodes = append(m.nodes, sessiontest.New(device(5), trust.EntryID{1}, m.scopes...))
		m.nodes[5].Enter([]byte("founding"))
		m.feeds = append(m.feeds, new(session.Feed))
		for i := range 4 {
			m.connect(i, 5)
		}
		dead := m.links[len(m.links)-4]
		for range 3 { // HELLO and VECTOR cross, then nothing
			m.pump()
			m.deliver(dead, 0)
			m.deliver(dead, 1)
		}
		dead.down, dead.wire = true, [2][]session.Frame{}
		for range 30 {
			m.settle()
			m.now = m.now.Add(time.Second)
		}
		if !m.nodes[5].Holds(m.scopes[0], m.nodes[0].Vector(m.scopes[0])) {
			t.Error("nobody else was asked")
		}
	})
}

// TestBranches has two copies of one device write one log: each side gets all of the other's branch, once.
func TestBranches(t *testing.T) {
	for name, extra := range map[string][2]int{"of equal length": {3, 3}, "one longer": {2, 9}, "the other longer": {9, 2}} {
		t.Run(name, func(t *testing.T) {
			m := pair(t)
			id := m.scopes[0]
			log := sessiontest.Log(device(7), id)
			for _, n := range m.nodes {
				for i := range 4 {
					n.EditAs(id, log, []byte{byte(i)}) // what both have in common
				}
			}
			for i, n := range extra {
				for j := range n {
					m.nodes[i].EditAs(id, log, []byte{byte(i), byte(j)})
				}
			}
			m.edit(0, 0, 100) // another log goes its way
			a, b := m.reconnect()
			for range 10 {
				m.settle()
				m.now = m.now.Add(20 * time.Second)
			}
			for i, n := range m.nodes {
				if got := n.Forked(id, log); got != extra[1-i] {
					t.Errorf("device %d holds %d chunks of the other branch, want %d", i, got, extra[1-i])
				}
			}
			if a.Status().Forked != 1 || b.Status().Forked != 1 || !a.Status().Agreed || !b.Status().Agreed {
				t.Errorf("statuses %+v and %+v", a.Status(), b.Status())
			}
			if st := a.Status(); st.ChunksOut > 2+2*uint64(4+extra[0]) {
				t.Errorf("%d chunks sent", st.ChunksOut)
			}
			own := sessiontest.Log(device(0), id)
			if m.nodes[1].Vector(id)[own].Counter != 1 {
				t.Error("the other log did not cross")
			}
		})
	}
}

func TestLargeChunk(t *testing.T) {
	m := pair(t)
	m.cfg.FramePayload = 4 << 10
	m.edit(0, 0, 1000)
	m.edit(0, 0, 300<<10) // larger than the window: it goes alone
	m.edit(0, 0, 1000)
	a, _ := m.reconnect()
	m.heal(time.Minute)
	m.converged()
	if a.Status().ChunksOut != 3 {
		t.Errorf("%d chunks", a.Status().ChunksOut)
	}
}

func TestMembership(t *testing.T) {
	t.Run("one is ahead", func(t *testing.T) {
		m := pair(t)
		for range 100 {
			m.nodes[0].Enter(make([]byte, 1000))
		}
		m.nodes[1].Enter([]byte("x"))
		if err := m.nodes[1].AddEntries(context.Background(), trust.DeviceID{}, m.nodes[0].EntriesSince(nil)); err != nil {
			t.Fatal(err)
		}
		m.heal1()
		m.nodes[0].Enter([]byte("one more"))
		a, b := m.reconnect()
		m.heal(time.Minute)
		m.converged()
		if n := a.Status().BytesOut + b.Status().BytesOut; n > 3000 {
			t.Errorf("%d bytes crossed for one entry", n)
		}
	})
	t.Run("apart", func(t *testing.T) {
		m := pair(t)
		m.nodes[0].Enter([]byte("a"))
		m.nodes[1].Enter([]byte("b"))
		m.reconnect()
		m.heal(time.Minute)
		m.converged()
	})
	t.Run("before chunks", func(t *testing.T) { // or who has not heard of a removal passes on to whom what was written since
		m := pair(t)
		arrived := 0
		for i, r := range m.nodes {
			r.Enter([]byte{byte(i)})
			m.edit(i, 0, 100)
			r.OnArrive = func(trust.DeviceID, trust.ScopeID) {
				if arrived++; r.Entries() != 3 { // the founding too
					t.Errorf("device %d gets chunks and knows %d entries of 3", i, r.Entries())
				}
			}
		}
		m.heal1()
		m.converged()
		if arrived < 2 {
			t.Errorf("chunks came %d times", arrived)
		}
	})
	t.Run("by another way", func(t *testing.T) { // between the HELLO that tells of an entry and the entry
		m := newMesh(t, 1, 3, 1)
		direct := m.connect(0, 2)
		for _, l := range [][2]int{{0, 1}, {1, 2}} {
			m.connect(l[0], l[1])
		}
		m.heal(time.Minute)
		m.converged()
		m.now = m.now.Add(time.Second)
		m.nodes[0].Enter([]byte("one more"))
		m.each(0, func(s *session.Session) { s.LocalEntries(m.now) })
		m.pump()
		m.deliver(direct, 1) // the HELLO
		held := direct.wire[1]
		direct.wire[1] = nil
		for range 5 {
			m.settle()
			m.now = m.now.Add(300 * time.Millisecond)
		}
		if len(held) == 0 || m.nodes[2].Entries() != 2 {
			t.Fatalf("%d frames wait, and the other knows %d entries of 2", len(held), m.nodes[2].Entries())
		}
		direct.wire[1] = append(held, direct.wire[1]...)
		for range 5 {
			m.settle()
			m.now = m.now.Add(300 * time.Millisecond)
		}
		for i, s := range direct.s {
			if !s.Status().InSync {
				t.Errorf("end %d does not know that both agree", i)
			}
		}
	})
	t.Run("opens a scope", func(t *testing.T) {
		m := pair(t)
		m.reconnect()
		m.heal(time.Minute)
		id := trust.ScopeID{99}
		m.nodes[0].AddScope(id)
		m.nodes[0].Edit(id, []byte("x"))
		m.nodes[0].Enter([]byte("scope"))
		m.each(0, func(s *session.Session) { s.LocalEntries(m.now) })
		m.scopes = append(m.scopes, id)
		added := false
		m.nodes[1].OnArrive = nil
		for range 20 {
			m.settle()
			if m.nodes[1].Entries() == 2 && !added {
				added = true
				m.nodes[1].AddScope(id)
				m.each(1, func(s *session.Session) { s.LocalEntries(m.now) })
			}
			m.now = m.now.Add(300 * time.Millisecond)
		}
		m.converged()
	})
}

// heal1 connects and heals.
func (m *mesh) heal1() {
	m.reconnect()
	m.heal(time.Minute)
}

// TestScopeNotShared has one device that is no member of billing.
func TestScopeNotShared(t *testing.T) {
	m := pair(t)
	m.nodes[0].Shared = func(trust.DeviceID) []trust.ScopeID { return m.scopes[:1] }
	m.edit(0, 0, 100)
	m.edit(0, 1, 100)
	m.edit(1, 1, 100)
	m.reconnect()
	l := m.links[0]
	for range 100 {
		m.pump()
		for end := range l.wire {
			for _, f := range l.wire[end] {
				if end == 1 && bytes.Contains(f, m.scopes[1][:]) {
					t.Fatal("a scope that is not shared was spoken of")
				}
			}
			m.deliver(l, end)
		}
	}
	if len(m.nodes[1].Vector(m.scopes[0])) != 1 || len(m.nodes[1].Vector(m.scopes[1])) != 1 {
		t.Error("the shared scope did not sync, or the other did")
	}
}

func TestVersions(t *testing.T) {
	for _, c := range []struct {
		name       string
		theirs     session.Config
		compatible bool
	}{
		{"same", session.Config{}, true},
		{"newer that still speaks ours", session.Config{Protocol: session.Range{Min: 1, Max: 4}, Schema: session.Range{Min: 1, Max: 9}}, true},
		{"protocol too new", session.Config{Protocol: session.Range{Min: 3, Max: 4}}, false},
		{"schema too new", session.Config{Schema: session.Range{Min: 2, Max: 2}}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s [2]*session.Session
			now := time.Unix(1790000000, 0)
			for i := range s {
				cfg := session.Config{Version: "1.0.0"}
				if i == 1 {
					cfg = c.theirs
					cfg.Version = "2.0.0"
				}
				cfg.Self, cfg.Peer, cfg.Locate = device(i), device(1-i), sessiontest.Locate
				cfg.Replica = sessiontest.New(device(i), trust.EntryID{1}, trust.ScopeID{1})
				s[i] = session.New(cfg)
				s[i].Start(now)
			}
			for i := range s {
				f, err := s[1-i].Next(context.Background(), now)
				if err != nil {
					t.Fatal(err)
				}
				_, err = s[i].Handle(context.Background(), now, f)
				e, incompatible := errors.AsType[*session.IncompatibleError](err)
				if incompatible == c.compatible || s[i].Status().Incompatible == c.compatible {
					t.Errorf("side %d: %v", i, err)
				}
				if !incompatible {
					continue
				}
				if st := s[i].Status(); e.OurVersion == e.TheirVersion || st.PeerVersion != e.TheirVersion {
					t.Errorf("the message does not name both versions: %v", err)
				}
				// Who hears it by BYE knows as much.
				_, err = s[1-i].Handle(context.Background(), now, s[i].Farewell(err))
				if e, ok := errors.AsType[*session.IncompatibleError](err); !ok || e.OurVersion == e.TheirVersion {
					t.Errorf("by BYE: %v", err)
				}
			}
		})
	}
}

// TestClock measures what PING and PONG find out.
func TestClock(t *testing.T) {
	m := pair(t)
	a, _ := m.reconnect()
	m.heal(time.Minute)
	l := m.links[0]
	m.now = m.now.Add(2 * time.Second)
	m.pump()
	const ahead = time.Hour
	ctx := context.Background()
	sent := m.now
	for _, f := range l.wire[1] {
		if _, err := l.s[1].Handle(ctx, sent.Add(20*time.Millisecond).Add(ahead), f); err != nil {
			t.Fatal(err)
		}
	}
	for {
		f, err := l.s[1].Next(ctx, sent.Add(20*time.Millisecond).Add(ahead))
		if err != nil {
			t.Fatal(err)
		}
		if f == nil {
			break
		}
		if _, err := a.Handle(ctx, sent.Add(40*time.Millisecond), f); err != nil {
			t.Fatal(err)
		}
	}
	if st := a.Status(); st.RTT != 40*time.Millisecond || st.ClockOffset != ahead {
		t.Errorf("round trip %v, clock ahead by %v", st.RTT, st.ClockOffset)
	}
}

func ExampleIncompatibleError() {
	fmt.Println(&session.IncompatibleError{OurVersion: "1.0.0", TheirVersion: "2.0.0",
		OurProtocol: session.Range{Min: 1, Max: 1}, TheirProtocol: session.Range{Min: 2, Max: 3},
		OurSchema: session.Range{Min: 1, Max: 1}, TheirSchema: session.Range{Min: 1, Max: 1}})
	// Output:
	// no version in common: this device is "1.0.0" (protocol 1 to 1, schema 1 to 1), the peer is "2.0.0" (protocol 2 to 3, schema 1 to 1)
}
