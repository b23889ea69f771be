package session_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
	"chartmesh/wire"
)

// TestHostile gives a session frames that no honest peer sends.
func TestHostile(t *testing.T) {
	now := time.Unix(1790000000, 0)
	ctx := context.Background()
	scope := trust.ScopeID{1}
	log := sessiontest.Log(device(1), scope)
	// open returns a session that has been greeted, its replica, and one that speaks for the peer.
	open := func(practice trust.EntryID) (*session.Session, *sessiontest.Replica, *session.Session) {
		r := sessiontest.New(device(0), trust.EntryID{1}, scope)
		r.Fail = t.Errorf
		s := session.New(session.Config{Self: device(0), Peer: device(1), Replica: r, Locate: sessiontest.Locate})
		s.Start(now)
		p := session.New(session.Config{Self: device(1), Peer: device(0), Locate: sessiontest.Locate,
			Replica: sessiontest.New(device(1), practice, scope)})
		p.Start(now)
		return s, r, p
	}
	greet := func(s, p *session.Session) error {
		f, err := p.Next(ctx, now)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Handle(ctx, now, f)
		return err
	}

	s, r, p := open(trust.EntryID{1})
	good := session.EncodeChunks(scope, 1, sessiontest.Chunk(scope, log, 1, chunk.Tip{}, []byte("x")))
	if _, err := s.Handle(ctx, now, good); err != nil || len(r.Vector(scope)) != 0 {
		t.Errorf("before HELLO: %v, %d logs", err, len(r.Vector(scope)))
	}
	if err := greet(s, p); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Handle(ctx, now, good); err != nil || len(r.Vector(scope)) != 1 {
		t.Errorf("after HELLO: %v, %d logs", err, len(r.Vector(scope)))
	}
	other := session.EncodeChunks(trust.ScopeID{7}, 2, sessiontest.Chunk(trust.ScopeID{7}, log, 1, chunk.Tip{}, nil))
	if _, err := s.Handle(ctx, now, other); err != nil {
		t.Errorf("scope that is not shared: %v", err) // ignored; Fail would tell if it had arrived
	}
	if _, err := s.Handle(ctx, now, session.Frame{100, 1, 2, 3}); err != nil {
		t.Errorf("kind of a later version: %v", err)
	}
	for name, f := range map[string]session.Frame{
		"empty":                  {},
		"unknown kind":           {200},
		"kind 0":                 {0},
		"cut short":              good[:len(good)-1],
		"bytes after the end":    append(bytes.Clone(good), 0),
		"chunk of another scope": session.EncodeChunks(scope, 3, sessiontest.Chunk(trust.ScopeID{7}, log, 1, chunk.Tip{}, nil)),
		"chunk at 0":             session.EncodeChunks(scope, 3, sessiontest.Chunk(scope, log, 0, chunk.Tip{}, nil)),
		"no chunk":               session.EncodeChunks(scope, 3),
		"junk chunk":             session.EncodeChunks(scope, 3, []byte("junk")),
		"too long":               make(session.Frame, session.MaxFrame+1),
	} {
		if _, err := s.Handle(ctx, now, f); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ack := session.EncodeAck(scope, chunk.Vector{log: {Counter: 9}})
	if _, err := s.Handle(ctx, now, ack); !errors.Is(err, session.ErrBadSignature) {
		t.Errorf("forged ACK: %v", err)
	}

	s, _, p = open(trust.EntryID{2})
	if err := greet(s, p); !errors.Is(err, session.ErrWrongPractice) {
		t.Errorf("another practice: %v", err)
	}

	s, _, p = open(trust.EntryID{1})
	f, err := p.Next(ctx, now)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if _, err := s.Handle(ctx, now, f); err != nil {
			if !errors.Is(err, session.ErrFlood) || i < 10 {
				t.Errorf("HELLO %d: %v", i, err)
			}
			return
		}
	}
	t.Error("a thousand HELLOs at once were taken")
}

// TestMemoryIsBounded has a member that claims ever new logs and never reads.
func TestMemoryIsBounded(t *testing.T) {
	m := pair(t)
	a, _ := m.reconnect()
	m.heal(time.Minute)
	rng := rand.New(rand.NewPCG(1, 1))
	m.nodes[0].OnAck = nil // it is a liar's
	for range 40 {
		v := chunk.Vector{}
		for range 1000 {
			var id chunk.LogID
			for i := range id {
				id[i] = byte(rng.Uint32())
			}
			v[id] = chunk.Position{Counter: 1}
		}
		if _, err := a.Handle(context.Background(), m.now, session.EncodeVector(m.scopes[0], v)); err != nil {
			t.Fatal(err)
		}
	}
	if n := a.Status().BehindChunks; n > chunk.MaxLogs {
		t.Errorf("%d logs are remembered of a liar", n)
	}
}

// TestBranchSentForEver has a member that sends one history of a log again and again: what is noted of it stays bounded.
func TestBranchSentForEver(t *testing.T) {
	m := pair(t)
	id := m.scopes[0]
	log := sessiontest.Log(device(7), id)
	m.nodes[0].EditAs(id, log, []byte("one history"))
	a, _ := m.reconnect()
	m.heal(time.Minute)
	var list [][]byte
	tip := chunk.Tip{}
	for i := range session.MaxLocators / 4 {
		c := sessiontest.Chunk(id, log, uint64(i)+1, tip, []byte("the other"))
		place, err := sessiontest.Locate(c)
		if err != nil {
			t.Fatal(err)
		}
		list, tip = append(list, c), place.Position.Tip
	}
	for seq := range uint64(40) {
		if _, err := a.Handle(context.Background(), m.now, session.EncodeBranch(id, seq+1, list...)); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.nodes[0].Forked(id, log); got != len(list) {
		t.Fatalf("%d chunks of the other history are held", got)
	}
	if n := session.Positions(a, id, log); n > 4*session.MaxLocators {
		t.Errorf("%d positions are kept of %d chunks", n, len(list))
	}
}
