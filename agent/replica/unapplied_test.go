package replica_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/internal/hostile"
	"chartmesh/storage"
)

// countingEngine fails on one document, as one does that the document's changes abort, and counts how often it was asked.
type countingEngine struct {
	crdt.Engine
	doc   crdt.DocumentID
	asked *int
}

func (e countingEngine) Apply(ctx context.Context, doc crdt.DocumentID, changes [][]byte) (crdt.State, error) {
	if doc == e.doc {
		*e.asked++
		return crdt.State{}, crdt.ErrEngine
	}
	return e.Engine.Apply(ctx, doc, changes)
}

// openWith opens a device's folder over an engine, as a build, at a time.
func (d *device) openWith(e crdt.Engine, build string, now time.Time) {
	d.t.Helper()
	var err error
	d.Replica, err = replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e, Build: build, Now: func() time.Time { return now }})
	must(d.t, err)
}

// TestUnappliedIsTriedLess gives a device a chunk on which its engine fails at every start: it is tried at the next starts,
// then ever more rarely, and again after an update; by hand whenever somebody asks. What builds on it waits.
func TestUnappliedIsTriedLess(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	doc := f.Document("section", "eve", "core")
	first, second := f.chain(doc)
	chunks := [][]byte{f.SealChange(doc, first), f.SealChange(doc, second)}
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	asked := 0
	bad := countingEngine{e, doc, &asked}
	now := time.Date(2026, 11, 25, 8, 0, 0, 0, time.UTC)
	b.openWith(bad, "1", now)
	b.take(f.device, chunks...)
	b.put(bernd, false)
	status := func(unapplied, parked int) {
		t.Helper()
		if s := b.Status(); s.Unapplied != unapplied || s.Parked != parked || !s.AtEnd {
			t.Fatalf("status %+v", s)
		}
	}
	status(1, 1)
	// A start tries it again when it is due; one try of the applier asks the engine a bounded number of times.
	start := func(build string, at time.Time, tried bool) {
		t.Helper()
		b.twin = b.twin.Crash()
		asked = 0
		b.openWith(bad, build, at)
		b.applyAll()
		status(1, 1)
		if (asked > 0) != tried || asked > 3 {
			t.Fatalf("the engine was asked %d times, want some: %v", asked, tried)
		}
	}
	start("1", now, true)
	start("1", now, true) // the third
	for range 20 {
		start("1", now.Add(30*time.Minute), false)
	}
	start("1", now.Add(61*time.Minute), true)
	start("1", now.Add(2*time.Hour), false) // twice as long after that
	start("1", now.Add(4*time.Hour), true)
	h := b.heldList(false)
	var stuck api.Held
	for _, x := range h {
		if x.State == "unapplied" {
			stuck = x
		}
	}
	if stuck.Tries != 5 || stuck.NextTry == nil || stuck.Reason == "" || len(stuck.Waiting) != 1 {
		t.Fatalf("held %+v", stuck)
	}
	start("2", now, true) // an update begins anew
	if got := b.heldList(false)[0]; got.State == "unapplied" && got.Tries != 1 {
		t.Fatalf("held %+v", got)
	}
	start("2", now.Add(-365*24*time.Hour), true)
	asked = 0
	if out, err := b.RetryHeld(t.Context(), stuck.Chunk); err != nil || out.Tried != 1 || out.Applied != 0 || asked == 0 {
		t.Fatalf("by hand: %+v, %v, asked %d times", out, err, asked)
	}
	var refused *api.Error
	if _, err := b.DecideHeld(t.Context(), "user", stuck.Chunk, api.HeldDecision{Verdict: "discard"}); !errors.As(err, &refused) {
		t.Fatalf("it was discarded: %v", err)
	}
	n := len(b.ownLog())
	out, err := b.DecideHeld(t.Context(), "user", stuck.Chunk, api.HeldDecision{Verdict: "release"})
	if err != nil || out.Verdict != "retry" || out.State != "unapplied" || len(b.ownLog()) != n {
		t.Fatalf("released: %+v, %v", out, err)
	}
	// An engine that manages takes it in, with what waited for it.
	b.twin = b.twin.Crash()
	b.openWith(e, "2", now)
	if out, err := b.RetryHeld(t.Context(), ""); err != nil || out.Applied != out.Tried {
		t.Fatalf("by hand: %+v, %v", out, err)
	}
	status(0, 0)
	a.take(f.device, chunks...)
	sync(t, a, b)
	alike(t, a, b)
}

// TestEngineThatAborts applies what the validator accepts with an engine process that has no memory for it: the process
// ends, the chunk is unapplied, and everything else goes on in the next process. With memory it is applied.
func TestEngineThatAborts(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	doc := f.Document("section", "eve", "core")
	in := hostile.Resource("Basic/big", hostile.Field("resourceType", crdt.String, "Basic"), hostile.Field("id", crdt.String, "big"))
	for i := range 3 {
		in = append(in, hostile.Set(1, string(rune('a'+i)), hostile.Str(strings.Repeat(hostile.Canary, crdt.MaxValueBytes/len(hostile.Canary)-1))))
	}
	big := f.SealChange(doc, f.Change(doc, in...))
	small, err := engine.Start(engine.Config{Memory: 6 << 20})
	must(t, err)
	t.Cleanup(func() { _ = small.Close() })
	b.openWith(small, "1", time.Now())
	b.take(f.device, big)
	b.put(bernd, false)
	s := b.Status()
	if s.Unapplied != 1 || s.Resources != 1 || small.Restarts() == 0 {
		t.Fatalf("status %+v, %d restarts", s, small.Restarts())
	}
	if small.Restarts() > 8 {
		t.Errorf("the engine was started %d times for one chunk", small.Restarts())
	}
	a.take(f.device, big)
	sync(t, a, b)
	if s := b.Status(); s.Unapplied != 1 || a.Status().Unapplied != 0 {
		t.Fatalf("status %+v", s)
	}
	b.crash()
	b.applyAll()
	sync(t, a, b)
	alike(t, a, b)
}

// TestProgramThatEnds counts the starts of a program that ends whenever it applies a chunk, and holds the chunk at last.
func TestProgramThatEnds(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	good, bad := f.Document("good"), f.Document("bad")
	chunks := [][]byte{f.SealChange(good, f.Change(good, hostile.Resource("Basic/one")...)), f.SealChange(bad, f.Change(bad, hostile.Resource("Basic/two")...)),
		f.SealChange(f.Document("last"), f.Change(f.Document("last"), hostile.Resource("Basic/three")...))}
	must(t, a.Arrive(t.Context(), f.Device(), chunks))
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	ends := endingEngine{e, bad}
	for starts := 1; ; starts++ {
		a.twin = a.twin.Crash()
		a.openWith(ends, "1", time.Now())
		ended := func() (ended bool) {
			defer func() { ended = recover() != nil }() // as if the process had ended: the replica is not used any more
			a.applyAll()
			return false
		}()
		if !ended {
			if starts < 3 || starts > 8 {
				t.Errorf("it took %d starts", starts)
			}
			break
		}
		if starts == 10 {
			t.Fatal("the program ends at every start")
		}
	}
	if s := a.Status(); s.Unapplied != 1 || s.Resources != 2 || !s.AtEnd {
		t.Fatalf("status %+v", s)
	}
	held := a.heldList(false)
	if len(held) != 1 || held[0].Reason != "the program ended whenever it tried it" {
		t.Fatalf("held %+v", held)
	}
	a.crash() // with an engine that manages
	a.applyAll()
	if s := a.Status(); s.Unapplied != 0 || s.Resources != 3 {
		t.Fatalf("status %+v", s)
	}
	must(t, a.twin.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Meta.Key(10))
		if err == nil && string(b) != "\x01\x00" {
			t.Errorf("starts are counted as %x after one that went well", b)
		}
		return err
	}))
}

type endingEngine struct {
	crdt.Engine
	doc crdt.DocumentID
}

func (e endingEngine) Apply(ctx context.Context, doc crdt.DocumentID, changes [][]byte) (crdt.State, error) {
	if doc == e.doc {
		panic("the program ends")
	}
	return e.Engine.Apply(ctx, doc, changes)
}
