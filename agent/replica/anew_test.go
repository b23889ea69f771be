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

// TestDecisionsWrittenAnew takes a machine back on which a user had settled a conflict, and lets the user settle it otherwise
// there: the decision that loses its place meets the other as a conflict, as one made elsewhere does, also when it was for the
// value that is shown meanwhile. The conflict is in an honest resource, or in one that a member wrote and FHIR cannot say.
func TestDecisionsWrittenAnew(t *testing.T) {
	for name, make := range map[string]func(a, b *device, f, g *forger){
		"a resource": func(a, b *device, _, _ *forger) {
			a.put(`{"resourceType":"Basic","id":"odd","code":{"text":"none"}}`, false)
			sync(t, a, b)
			for d, text := range map[*device]string{a: "one", b: "two"} {
				d.edit("Basic/odd", func(o map[string]any) { o["code"] = map[string]any{"text": text} })
			}
		},
		"no resource": func(a, b *device, f, g *forger) {
			chunks, others := oddity(f, g)
			a.take(f.device, chunks...)
			a.take(g.device, others...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			lost := map[bool]bool{} // the decision that lost its place was for what is shown
			for try := 0; len(lost) < 2; try++ {
				if try == 40 {
					t.Fatal("the same side loses for ever")
				}
				p := practice(t, "surgery", "branch", "forger", "other")
				a, b := p[0], p[1]
				sync(t, a, b)
				make(a, b, forge(p[2]), forge(p[3]))
				settleAll(t, a, b)
				was := a.twin.Copy()
				open := a.conflicts()[0]
				shown := string(open.Values[open.Shown].Value)
				choose := func(side int) {
					t.Helper()
					_, err := a.Resolve(t.Context(), "user", a.conflicts()[0].ID, api.Decision{Choose: &side})
					must(t, err)
				}
				choose(try % 2)
				sync(t, a, b)
				a = a.rollBack(was, a.keys)
				choose(1 - try%2)
				settleAll(t, a, b)
				sameEverywhere(t, a, b)
				if s := a.Status(); s.Quarantined+s.Parked+s.Unapplied > 0 || s.Conflicts != 1 || !strings.Contains(heldBy(a), "written anew as") {
					t.Fatalf("%s was shown; status %+v, held %s", shown, s, heldBy(a))
				}
				var sides []string
				for _, v := range a.conflicts()[0].Values {
					sides = append(sides, string(v.Value))
				}
				if all := strings.Join(sides, " "); !strings.Contains(all, "one") || !strings.Contains(all, "two") {
					t.Errorf("listed are %s", all)
				}
				history, err := a.History(t.Context(), api.Ref{Type: "Basic", ID: "odd"})
				must(t, err)
				for _, r := range history {
					if r.Anew != "" {
						lost[strings.Contains(string(r.JSON), shown)] = true
					}
				}
			}
		})
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
