package replica_test

import (
	"bytes"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/internal/hostile"
)

// oddity makes a resource without a type, with two values of one field beside each other: members write what is no FHIR.
func oddity(f, g *forger) (chunks, others [][]byte) {
	doc := f.Document("section", "odd", "core")
	first := f.Change(doc, hostile.Resource("Basic/odd", hostile.Field("note", crdt.String, "none"))...)
	made, err := crdt.Decode(first)
	must(f.T.(*testing.T), err)
	note := func(h *forger, text string) []byte {
		return h.EditsOn(doc, [][]byte{first}, []crdt.Instruction{
			{Do: crdt.Enter, Key: "Basic/odd", Op: made.ID(0)}, hostile.Set(1, "~v", crdt.Scalar{Kind: crdt.Int, Int: 1}), hostile.Set(1, "note", hostile.Str(text))})[0]
	}
	return [][]byte{f.SealChange(doc, first), f.SealChange(doc, note(f, "one"))}, [][]byte{g.SealChange(doc, note(g, "two"))}
}

// TestWrittenAnewWithoutAType takes a machine back on which a user had settled a conflict in what a member wrote and FHIR cannot
// say, and lets the user settle it otherwise there. The decision that loses its place is written anew like any edit.
func TestWrittenAnewWithoutAType(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger", "other")
	a, b, f, g := p[0], p[1], forge(p[2]), forge(p[3])
	sync(t, a, b)
	chunks, others := oddity(f, g)
	a.take(f.device, chunks...)
	a.take(g.device, others...)
	settleAll(t, a, b)
	was := a.twin.Copy()
	choose := func(side int) {
		t.Helper()
		open := a.conflicts()
		if len(open) != 1 {
			t.Fatalf("conflicts %+v, resource %s, held %s", open, a.export(), heldBy(a))
		}
		_, err := a.Resolve(t.Context(), "user", open[0].ID, api.Decision{Choose: &side})
		must(t, err)
	}
	choose(0)
	sync(t, a, b)
	a = a.rollBack(was, a.keys)
	choose(1)
	settleAll(t, a, b)
	sameEverywhere(t, a, b)
	if s := a.Status(); s.Quarantined+s.Parked+s.Unapplied > 0 || !strings.Contains(heldBy(a), "written anew as") {
		t.Errorf("status %+v, held %s", s, heldBy(a))
	}
}

// TestReleaseWithoutAType releases the loser of two changes in one place that says nothing in FHIR, and restarts the device
// whose change it is, which meets it at every start: neither fails on it.
func TestReleaseWithoutAType(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	list := hostile.List[slices.IndexFunc(hostile.List, func(h hostile.Bad) bool { return h.Name == "a sequence number used again" })]
	last := list.Make(f.Forger)
	chunks := append(f.Pending, last)
	a.take(f.device, chunks...)
	b.take(f.device, chunks...)
	held := a.heldList(false)
	if len(held) != 1 || !held[0].Releasable {
		t.Fatalf("held %+v", held)
	}
	if out := a.decide(held[0].Chunk, "release"); out.State != "settled" {
		t.Fatalf("released: %+v", out)
	}
	settleAll(t, a, b)
	sameEverywhere(t, a, b)

	var log bytes.Buffer
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	for range 3 {
		var err error
		f.Replica, err = replica.Open(replica.Config{Store: f.twin, Keyring: f.keys, Engine: e,
			Logger: slog.New(slog.NewTextHandler(&log, nil))})
		must(t, err)
		settleAll(t, a, f.device)
		f.twin = f.twin.Crash()
	}
	if strings.Contains(log.String(), slog.LevelError.String()) {
		t.Errorf("the author's device fails on its own change:\n%s", log.String())
	}
	if got := heldBy(a); !strings.Contains(got, "settled") || heldBy(b) == "" {
		t.Errorf("held %s", got)
	}
}
