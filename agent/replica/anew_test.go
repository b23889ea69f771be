package replica_test

import (
	"bytes"
	"fmt"
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

// TestConflictLeftAlone takes a machine back that has one side of a conflict. Who had seen both sides and edited something else
// settled nothing by that, also when the edit goes with the side that lost its place and is written anew without it.
func TestConflictLeftAlone(t *testing.T) {
	anew := 0
	for try := range 20 {
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		a.put(`{"resourceType":"Patient","id":"p1","birthDate":"1960-01-01","name":[{"family":"Berg"}]}`, false)
		settleAll(t, a, b)
		was := a.twin.Copy()
		married := func(d *device, text string) {
			t.Helper()
			d.edit("Patient/p1", func(o map[string]any) { o["maritalStatus"] = map[string]any{"text": text} })
		}
		married(b, "single")
		married(a, "widowed")
		settleAll(t, a, b)
		b.edit("Patient/p1", func(o map[string]any) { o["gender"] = "other" })
		a = a.rollBack(was, a.keys)
		a.edit("Patient/p1", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("19%d-01-01", 61+try) })
		settleAll(t, a, b)
		sameEverywhere(t, a, b)
		if s := a.Status(); s.Quarantined+s.Parked+s.Unapplied > 0 {
			t.Fatalf("status %+v, held %s", s, heldBy(a))
		}
		if strings.Count(heldBy(a), "written anew as") == 2 {
			anew++
		}
		var all string
		for _, c := range a.conflicts() {
			for _, v := range c.Values {
				all += string(v.Value) + " "
			}
		}
		if !strings.Contains(all, "single") || !strings.Contains(all, "widowed") || !strings.Contains(a.get("Patient/p1"), `"other"`) {
			t.Errorf("try %d: listed are %s of %s", try, all, a.get("Patient/p1"))
		}
	}
	if anew == 0 {
		t.Error("no edit was ever written anew with what it was made on")
	}
}

// TestDecisionWithinASide takes a machine back on which somebody had decided a conflict within one side of another. What they said is
// written anew, and the conflict around it stays open: nobody decided that.
func TestDecisionWithinASide(t *testing.T) {
	anew := 0
	for try := range 20 {
		p := practice(t, "surgery", "branch", "home")
		a, b, c := p[0], p[1], p[2]
		observe := func(d *device, id, text string) {
			t.Helper()
			d.put(fmt.Sprintf(`{"resourceType":"Observation","id":%q,"subject":{"reference":"Patient/p1"},"valueString":%q}`, id, text), true)
		}
		observe(a, "o1", "first")
		settleAll(t, a, b, c)
		observe(c, "o2", "of home")
		observe(b, "o2", "of the branch")
		settleAll(t, a, b)
		observe(b, "o2", "eighty")
		observe(a, "o2", "ninety")
		settleAll(t, a, b, c)
		was := a.twin.Copy()
		within, outer := false, false
		for _, x := range a.conflicts() {
			within, outer = within || x.Path == "value[x]", outer || x.Path == ""
			if x.Path == "value[x]" {
				_, err := a.Resolve(t.Context(), "user", x.ID, api.Decision{Choose: new(int)})
				must(t, err)
			}
		}
		if !outer || !within { // the other side is shown
			continue
		}
		settleAll(t, a, b)
		a = a.rollBack(was, a.keys)
		observe(a, "o3", fmt.Sprint(try))
		settleAll(t, a, b, c)
		sameEverywhere(t, a, b, c)
		if s := a.Status(); s.Quarantined+s.Parked+s.Unapplied > 0 {
			t.Fatalf("status %+v, held %s", s, heldBy(a))
		}
		if strings.Contains(heldBy(a), "written anew as") {
			anew++
		}
		paths := ""
		for _, x := range a.conflicts() {
			paths += fmt.Sprintf("%q ", x.Path)
		}
		if paths != `"" ` {
			t.Errorf("try %d: open are %s", try, paths)
		}
	}
	if anew == 0 {
		t.Error("no decision was ever written anew")
	}
}

// TestRemovalOfWhatLostItsPlace takes a machine back that had created a record, and removed it is elsewhere: the removal holds, or
// is listed, whichever of what was created there stands.
func TestRemovalOfWhatLostItsPlace(t *testing.T) {
	anew := 0
	for try := range 20 {
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		a.put(`{"resourceType":"Basic","id":"first"}`, false)
		settleAll(t, a, b)
		was := a.twin.Copy()
		create := func(family string) {
			t.Helper()
			a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"`+family+`"}]}`, false)
		}
		create("Berg")
		settleAll(t, a, b)
		_, err := b.Delete(t.Context(), "user", parseRef(t, "Patient/p1"))
		must(t, err)
		a = a.rollBack(was, a.keys)
		create(fmt.Sprintf("Lind %d", try))
		settleAll(t, a, b)
		sameEverywhere(t, a, b)
		if s := a.Status(); s.Quarantined+s.Parked+s.Unapplied > 0 {
			t.Fatalf("status %+v, held %s", s, heldBy(a))
		}
		if strings.Count(heldBy(a), "written anew as") == 2 {
			anew++
		}
		removed := false
		for _, c := range a.conflicts() {
			removed = removed || slices.ContainsFunc(c.Values, func(v api.ConflictValue) bool { return v.Removed })
		}
		if !removed {
			t.Errorf("try %d: the removal is not listed: %+v", try, a.conflicts())
		}
	}
	if anew == 0 {
		t.Error("no removal was ever written anew with what it was made on")
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
