package session_test

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/internal/fuzzing"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// A liar is a member's device that speaks by hand.
type liar struct {
	t       testing.TB
	now     time.Time
	scope   trust.ScopeID
	replica *sessiontest.Replica // of the device that it speaks to
	s       *session.Session     // with the liar
	self    *sessiontest.Replica // the liar's own, for its signature
	listens *session.Session     // gets what is heard, if set
}

// lie begins a session with a device that holds chunks of 1,000 bytes in its own log.
func lie(t testing.TB, cfg session.Config, chunks int) *liar {
	l := &liar{t: t, now: time.Unix(1790000000, 0), scope: trust.ScopeID{1}}
	l.replica = sessiontest.New(device(0), trust.EntryID{1}, l.scope)
	l.replica.Fail = t.Errorf
	for range chunks {
		l.replica.Edit(l.scope, make([]byte, 1000))
	}
	l.self = sessiontest.New(device(1), trust.EntryID{1}, l.scope)
	cfg.Self, cfg.Peer, cfg.Replica, cfg.Locate = device(0), device(1), l.replica, sessiontest.Locate
	l.s = session.New(cfg)
	l.s.Start(l.now)
	return l
}

// say hands a frame to the session.
func (l *liar) say(f session.Frame) error {
	_, err := l.s.Handle(context.Background(), l.now, f)
	return err
}

// hear takes out all that the session has to say, and holds that it comes to an end and then rests.
func (l *liar) hear() (bytes int) {
	l.t.Helper()
	for n := 0; ; n++ {
		f, err := l.s.Next(context.Background(), l.now)
		if err != nil {
			l.t.Fatalf("next: %v", err)
		}
		if f == nil {
			break
		}
		if bytes += len(f); n > 10_000 {
			l.t.Fatal("it never stops")
		}
		if l.listens != nil {
			_, _ = l.listens.Handle(context.Background(), l.now, f) // what the liar makes of lies is its own affair
		}
	}
	if d := l.s.Deadline(); !d.IsZero() && !d.After(l.now) {
		l.t.Fatalf("it has nothing to say and wants to be asked again %v ago", l.now.Sub(d))
	}
	return bytes
}

func (l *liar) log() chunk.LogID { return sessiontest.Log(device(0), l.scope) }

// greet claims to hold nothing.
func (l *liar) greet() {
	l.t.Helper()
	l.hear()
	if err := l.say(session.EncodeHello(l.replica.Hello(device(1)), true, session.ScopeDigest{Scope: l.scope})); err != nil {
		l.t.Fatal(err)
	}
	l.hear()
}

// TestFullWindowRests has a peer that takes what fits the window and says nothing: the session waits for it, and does not
// ask a thousand times a second whether it may send.
func TestFullWindowRests(t *testing.T) {
	l := lie(t, session.Config{Window: 10_000, FramePayload: 2000}, 50)
	l.greet()
	if err := l.say(session.EncodeVector(l.scope, nil)); err != nil {
		t.Fatal(err)
	}
	// Another peer's chunks wait a moment, and the moment passes while the window is full.
	for range 50 {
		l.replica.EditAs(l.scope, chunk.LogID{9}, make([]byte, 1000))
	}
	l.s.Relayed(l.now, []session.Progress{{Scope: l.scope, Logs: []chunk.LogID{{9}}}})
	if l.hear() == 0 {
		t.Fatal("nothing was sent")
	}
	for range 40 {
		l.now = l.now.Add(250 * time.Millisecond)
		l.hear()
	}
	if n := l.s.Status().InFlight; n < 8000 || n > 10_000 {
		t.Errorf("%d bytes are on the way", n)
	}
}

// TestLiarKeepsNoTurn has a peer that claims to hold what it never sends, and asks and answers as often as it may. The
// others, who do hold it, get their turn.
func TestLiarKeepsNoTurn(t *testing.T) {
	feed := new(session.Feed)
	l := lie(t, session.Config{Feed: feed}, 0)
	honest := sessiontest.New(device(2), trust.EntryID{1}, l.scope)
	for range 5 {
		honest.Edit(l.scope, make([]byte, 1000))
	}
	a := session.New(session.Config{Self: device(0), Peer: device(2), Replica: l.replica, Locate: sessiontest.Locate, Feed: feed})
	b := session.New(session.Config{Self: device(2), Peer: device(0), Replica: honest, Locate: sessiontest.Locate})
	l.greet()
	claim := chunk.Vector{sessiontest.Log(device(1), l.scope): {Counter: 1000}}
	if err := l.say(session.EncodeVector(l.scope, claim)); err != nil {
		t.Fatal(err)
	}
	l.hear()
	a.Start(l.now)
	b.Start(l.now)
	pass := func(from, to *session.Session) {
		for {
			f, err := from.Next(context.Background(), l.now)
			if err != nil {
				t.Fatal(err)
			}
			if f == nil {
				return
			}
			if _, err := to.Handle(context.Background(), l.now, f); err != nil {
				t.Fatal(err)
			}
		}
	}
	log := sessiontest.Log(device(2), l.scope)
	for waited := time.Duration(0); l.replica.Vector(l.scope)[log].Counter < 5; waited += 200 * time.Millisecond {
		if waited > time.Minute {
			t.Fatalf("%d of 5 chunks came in a minute", l.replica.Vector(l.scope)[log].Counter)
		}
		// It says something that differs each time, so that it is asked for its vector, and answers.
		if err := l.say(session.EncodeHello(l.replica.Hello(device(1)), false,
			session.ScopeDigest{Scope: l.scope, Digest: session.Digest{VectorHash: [32]byte{byte(waited / 200)}}})); err != nil {
			t.Fatal(err)
		}
		if err := l.say(session.EncodeVector(l.scope, claim)); err != nil {
			t.Fatal(err)
		}
		l.hear()
		pass(a, b)
		pass(b, a)
		l.now = l.now.Add(200 * time.Millisecond)
	}
}

// TestLiarIsSoonForgotten has a peer name ever new logs in every way that there is.
func TestLiarIsSoonForgotten(t *testing.T) {
	l := lie(t, session.Config{}, 3)
	l.greet()
	n := uint64(0)
	for range 20 {
		v := chunk.Vector{}
		for range 1000 {
			n++
			var id chunk.LogID
			binary.BigEndian.PutUint64(id[:], n)
			v[id] = chunk.Position{Counter: 1 << 62}
		}
		for _, f := range []session.Frame{session.EncodeVector(l.scope, v), session.EncodeSigned(l.self, l.scope, 0, v, session.Digest{})} {
			if err := l.say(f); err != nil {
				t.Fatal(err)
			}
			l.hear()
		}
	}
	if got := session.Remembered(l.s); got > 3*chunk.MaxLogs {
		t.Errorf("something of %d logs is remembered", got)
	}
	if s := l.s.Status(); s.BehindChunks == 0 || s.BehindChunks > 1<<41 || s.BehindBytes < s.BehindChunks || s.InSync {
		t.Errorf("status %+v", s)
	}
}

// TestChunkOfALaterVersion comes among others, which are kept.
func TestChunkOfALaterVersion(t *testing.T) {
	l := lie(t, session.Config{}, 0)
	later := []byte("later")
	locate := func(b []byte) (session.Place, error) {
		if string(b) == string(later) {
			return session.Place{}, chunk.ErrNewer
		}
		return sessiontest.Locate(b)
	}
	l.s = session.New(session.Config{Self: device(0), Peer: device(1), Replica: l.replica, Locate: locate})
	l.s.Start(l.now)
	l.greet()
	log := sessiontest.Log(device(1), l.scope)
	if err := l.say(session.EncodeChunks(l.scope, 1, later, sessiontest.Chunk(l.scope, log, 1, chunk.Tip{}, nil), later)); err != nil {
		t.Fatal(err)
	}
	if err := l.say(session.EncodeChunks(l.scope, 2, later)); err != nil {
		t.Fatal(err)
	}
	if got := l.replica.Vector(l.scope)[log].Counter; got != 1 {
		t.Errorf("the log is held up to %d", got)
	}
}

// FuzzPeer lets a peer say anything, in any order and at any time, to a device that edits and relays meanwhile. Whatever
// it says ends the session or does not: the device says what it has to say and rests, keeps no more of what it is told
// than its caps, and never calls that in sync which is not equal by the peer's own word.
func FuzzPeer(f *testing.F) {
	play := func(t testing.TB, script []byte) (frames int) {
		l := lie(t, session.Config{Window: 5000, FramePayload: 1500}, 2)
		p := session.New(session.Config{Self: device(1), Peer: device(0), Replica: l.self, Locate: sessiontest.Locate})
		p.Start(l.now)
		l.listens = p
		l.hear()
		next := func() byte {
			if len(script) == 0 {
				return 0
			}
			b := script[0]
			script = script[1:]
			return b
		}
		position := func() chunk.Position {
			c := uint64(next())
			if c > 200 {
				c = 1<<63 - 1 - c
			}
			return chunk.Position{Counter: c, Tip: chunk.Tip{next() % 2}}
		}
		logs := []chunk.LogID{l.log(), sessiontest.Log(device(1), l.scope), {7}, {8}}
		vector := func() chunk.Vector {
			v := chunk.Vector{}
			for range next() % 4 {
				if p := position(); p.Counter > 0 {
					v[logs[next()%4]] = p
				}
			}
			return v
		}
		digest := func() session.Digest {
			d := session.Digest{VectorHash: [32]byte{next() % 2}, AtEnd: next()%2 == 0}
			if next()%3 == 0 {
				d = l.replica.Hello(device(1)).Scopes[0].Digest // as if it held the same
			}
			return d
		}
		seq := uint64(0)
		for steps := 0; len(script) > 0 && steps < 200; steps++ {
			var said session.Frame
			switch next() % 12 {
			case 0:
				n := min(int(next()), len(script))
				said, script = session.Frame(script[:n]), script[n:]
			case 1:
				l.now = l.now.Add(time.Duration(next()) * 100 * time.Millisecond)
			case 2:
				l.replica.Edit(l.scope, make([]byte, int(next())*4))
				l.s.LocalChunks(l.now)
			case 3:
				l.replica.EditAs(l.scope, chunk.LogID{7}, make([]byte, int(next())*8))
				l.s.Relayed(l.now, []session.Progress{{Scope: l.scope, Logs: []chunk.LogID{{7}, {9}}}})
			case 4:
				said = session.EncodeHello(l.replica.Hello(device(1)), next()%2 == 0, session.ScopeDigest{Scope: l.scope, Digest: digest()})
			case 5:
				said = session.EncodeSeen(l.scope, uint64(next()), vector())
			case 6:
				said = session.EncodeSigned(l.self, l.scope, uint64(next()), vector(), digest())
			case 7:
				seq += uint64(next() % 3)
				log := logs[next()%4]
				said = session.EncodeChunks(l.scope, seq+1, sessiontest.Chunk(l.scope, log, uint64(next()), chunk.Tip{}, []byte{next()}))
			case 8: // what an honest peer would say
				var err error
				if said, err = p.Next(context.Background(), l.now); err != nil {
					t.Fatal(err)
				}
			case 9:
				l.self.Edit(l.scope, make([]byte, int(next())))
				p.LocalChunks(l.now)
			case 10:
				l.replica.Enter([]byte{next()})
				l.s.LocalEntries(l.now)
			case 11:
				l.s.Applied(l.now, l.scope)
			}
			if said != nil {
				frames++
				if err := l.say(said); err != nil {
					return frames // the session is over
				}
			}
			l.hear()
			if n := session.Remembered(l.s); n > 32 {
				t.Fatalf("%d things are remembered of 5 logs", n)
			}
		}
		return frames
	}
	// An honest conversation, and one with edits, lies and time.
	honest := []byte{8, 8, 8, 1, 1, 9, 100, 8, 8, 2, 200, 3, 250, 8, 1, 20, 8, 11, 10, 1, 8}
	lies := []byte{4, 0, 0, 1, 1, 5, 0, 0, 3, 250, 3, 250, 3, 250, 1, 10, 1, 10, 6, 3, 2, 5, 0, 0, 250, 1, 1, 1, 1, 7, 1, 1, 1, 5, 4, 1, 0, 0, 0, 1, 255}
	for _, script := range [][]byte{honest, lies} {
		if n := play(f, script); n < 4 {
			f.Fatalf("of a seed %d frames are said", n)
		}
		f.Add(script)
	}
	for _, m := range []session.Frame{session.EncodeVector(trust.ScopeID{1}, chunk.Vector{{9}: {Counter: 5}}), {100}, {8, 1}} {
		f.Add(append([]byte{8, 8, 0, byte(len(m))}, m...))
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		fuzzing.Allocates(t, len(script), 256<<10, 4<<20, func() { play(t, script) })
	})
}
