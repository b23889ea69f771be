package replica_test

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
)

// A decision that loses its place, with one of the sides that it was between or alone, is written anew and decides what it decided.

func (d *device) listed() string {
	var all []string
	for _, c := range d.conflicts() {
		s := c.Path + ":"
		for _, v := range c.Values {
			s += " " + string(v.Value)
		}
		all = append(all, s)
	}
	return strings.Join(all, "\n")
}

// choose decides the conflict at a path by the side that holds a text.
func (d *device) choose(path, text string) {
	d.t.Helper()
	for _, c := range d.conflicts() {
		for i, s := range c.Values {
			if c.Path == path && strings.Contains(string(s.Value), text) {
				_, err := d.Resolve(d.t.Context(), "user", c.ID, api.Decision{Choose: &i})
				must(d.t, err)
				return
			}
		}
	}
	d.t.Fatalf("no conflict at %q has a side with %q: %s", path, text, d.listed())
}

func (d *device) language(text string) {
	d.t.Helper()
	d.edit("Patient/p1", func(o map[string]any) { o["language"] = text })
}

// takenBack takes v back behind what it wrote, has it write something else, and lets others hear of that before v hears that something
// of it lost its place. It reports whether what v had written lost it.
func takenBack(v *device, was *storage.Twin, others ...*device) (*device, bool) {
	v = v.rollBack(was, v.keys)
	v.edit("Patient/p1", func(o map[string]any) { o["active"] = true })
	for _, d := range others {
		d.take(v, v.ownLog()...)
	}
	return v, strings.Contains(heldBy(others[0]), "builds on")
}

func atLeastOnce(t *testing.T, tries int, what func(try int) bool) {
	t.Helper()
	hit := 0
	for try := range tries {
		if what(try) {
			hit++
		}
	}
	if hit == 0 {
		t.Error("it never came to what is tested")
	}
}

// What was chosen does not stand any more, and was shown: nothing seems to be left to write.
func TestDecisionForWhatLostItsPlace(t *testing.T) {
	atLeastOnce(t, 40, func(try int) bool {
		p := practice(t, "surgery", "branch", "vee")
		b, y, v := p[0], p[1], p[2]
		b.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`, false)
		settleAll(t, b, y, v)
		was := v.twin.Copy()
		v.language("of-v")
		y.language("of-y")
		settleAll(t, b, y, v)
		b.choose("language", "of-v")
		_, lost := takenBack(v, was, b)
		if !lost {
			return false
		}
		settleAll(t, b, y)
		if got := b.listed() + b.get("Patient/p1"); !strings.Contains(got, "of-v") {
			t.Errorf("try %d: %s\nheld %s", try, got, heldBy(b))
		}
		return true
	})
}

// Two people decide one conflict differently and apart.
func TestDecisionsWrittenAnewMeet(t *testing.T) {
	atLeastOnce(t, 30, func(try int) bool {
		p := practice(t, "surgery", "branch", "home", "vee")
		w, b, y, v := p[0], p[1], p[2], p[3]
		w.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`, false)
		settleAll(t, w, b, y, v)
		was := v.twin.Copy()
		v.language("of-v")
		y.language("of-y")
		settleAll(t, w, b, y, v)
		w.choose("language", "of-y")
		b.choose("language", "of-v")
		_, lost := takenBack(v, was, w, b)
		if !lost {
			return false
		}
		settleAll(t, w, b, y)
		if got := w.listed(); !strings.Contains(got, "of-v") || !strings.Contains(got, "of-y") {
			t.Errorf("try %d: %s of %s\nheld %s", try, got, w.get("Patient/p1"), heldBy(w))
		}
		return true
	})
}

// Both sides are written anew before the decision is.
func TestDecisionAfterBothSides(t *testing.T) {
	atLeastOnce(t, 60, func(try int) bool {
		p := practice(t, "surgery", "branch", "vee", "why")
		w, b, v, y := p[0], p[1], p[2], p[3]
		w.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`, false)
		settleAll(t, w, b, v, y)
		wasV, wasY := v.twin.Copy(), y.twin.Copy()
		v.language("of-v")
		y.language("of-y")
		settleAll(t, w, b, v, y)
		chosen := []string{"of-v", "of-y"}[try%2]
		w.choose("language", chosen)
		v, y = v.rollBack(wasV, v.keys), y.rollBack(wasY, y.keys)
		v.edit("Patient/p1", func(o map[string]any) { o["gender"] = "other" })
		y.edit("Patient/p1", func(o map[string]any) { o["active"] = true })
		settleAll(t, b, v, y)
		if strings.Count(heldBy(b), "written anew as") < 2 || len(b.conflicts()) != 1 {
			return false
		}
		settleAll(t, w, b, v, y)
		if len(w.conflicts()) > 0 || !strings.Contains(w.get("Patient/p1"), chosen) {
			t.Errorf("try %d: open are %s of %s\nheld %s", try, w.listed(), w.get("Patient/p1"), heldBy(w))
		}
		return true
	})
}

// The conflict that was decided is within the side of another that is not shown, at a place that the side which is shown has not.
func TestDecisionInWhatIsNotShown(t *testing.T) {
	for try := range 12 {
		p := practice(t, "surgery", "branch", "home")
		a, b, c := p[0], p[1], p[2]
		observe := func(d *device, id, rest string) {
			t.Helper()
			d.put(fmt.Sprintf(`{"resourceType":"Observation","id":%q,"subject":{"reference":"Patient/p1"}%s}`, id, rest), true)
		}
		observe(a, "o1", "")
		settleAll(t, a, b, c)
		for i := range 6 { // so that it is shown
			observe(c, "o2", fmt.Sprintf(`,"valueString":"of home %d"`, i))
		}
		measure := func(d *device, value string) {
			observe(d, "o2", `,"component":[{"id":"k","code":{"text":"K"},"valueString":"`+value+`"}]`)
		}
		measure(b, "none")
		settleAll(t, a, b)
		measure(b, "eighty")
		measure(a, "ninety")
		settleAll(t, a, b, c)
		was := a.twin.Copy()
		if !strings.Contains(a.get("Observation/o2"), "of home 5") {
			t.Fatal("the other side is shown")
		}
		a.choose("component[0].value[x]", "ninety")
		settleAll(t, a, b)
		want := a.listed()
		a = a.rollBack(was, a.keys)
		observe(a, "o3", fmt.Sprintf(`,"valueString":"%d"`, try))
		settleAll(t, a, b, c)
		sameEverywhere(t, a, b, c)
		if got := a.listed(); got != want {
			t.Errorf("try %d: %s\ninstead of %s\nheld %s", try, got, want, heldBy(a))
		}
	}
}

// One of several conflicts is decided; the others stay open, and nothing that is beside them comes twice.
func TestDecisionBesideOthers(t *testing.T) {
	atLeastOnce(t, 30, func(try int) bool {
		p := practice(t, "surgery", "branch", "home", "vee")
		w, x, y, v := p[0], p[1], p[2], p[3]
		w.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`, false)
		settleAll(t, w, x, y, v)
		was := v.twin.Copy()
		v.edit("Patient/p1", func(o map[string]any) { o["maritalStatus"] = map[string]any{"text": "of-v"} })
		x.edit("Patient/p1", func(o map[string]any) { o["birthDate"], o["language"] = "1961-01-01", "xx" })
		y.edit("Patient/p1", func(o map[string]any) { o["birthDate"], o["gender"], o["language"] = "1962-01-01", "female", "yy" })
		y.edit("Patient/p1", func(o map[string]any) { o["maritalStatus"] = map[string]any{"text": "of-y"} })
		x.edit("Patient/p1", func(o map[string]any) {
			o["telecom"] = []any{map[string]any{"system": "phone", "value": "111"}, map[string]any{"system": "phone", "value": "222"}}
		})
		y.edit("Patient/p1", func(o map[string]any) { o["name"] = append(o["name"].([]any), map[string]any{"family": "Tal"}) })
		settleAll(t, w, x, y, v)
		w.choose("maritalStatus", "of-v")
		_, lost := takenBack(v, was, w)
		x.edit("Patient/p1", func(o map[string]any) { o["telecom"].([]any)[0].(map[string]any)["value"] = "333" })
		settleAll(t, w, x, y)
		if !lost {
			return false
		}
		listed, shown := w.listed(), w.get("Patient/p1")
		for text, n := range map[string]int{"xx": 1, "yy": 1, "1961": 1, "1962": 1} {
			if strings.Count(listed, text) != n {
				t.Errorf("try %d: %q is listed %d times: %s", try, text, strings.Count(listed, text), listed)
			}
		}
		for text, n := range map[string]int{`"111"`: 0, `"222"`: 1, `"333"`: 1, "Tal": 1, "of-v": 1} {
			if strings.Count(shown, text) != n {
				t.Errorf("try %d: %q is shown %d times: %s", try, text, strings.Count(shown, text), shown)
			}
		}
		return true
	})
}

// refusing fails commits while it is full.
type refusing struct {
	storage.Store
	full *bool
}

func (s refusing) Commit(ctx context.Context, b *storage.Batch) error {
	if *s.full {
		return storage.ErrNoRoom
	}
	return s.Store.Commit(ctx, b)
}

// The commit that takes in the word of a member fails once: what waited for the key is woken all the same when it is taken in again.
func TestKeysSaidToAFullDisk(t *testing.T) {
	admin, member, _ := parted(t)
	if admin.parked() == 0 {
		t.Fatal("nothing waits; the test shows nothing")
	}
	must(t, member.SayKeys(t.Context()))
	full := false
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	r, err := replica.Open(replica.Config{Store: refusing{admin.twin, &full}, Keyring: admin.keys, Engine: e})
	must(t, err)
	admin.Replica = r
	admin.applyAll()
	must(t, admin.Arrive(t.Context(), member.Device(), member.ownLog()))
	full = true
	if _, err := admin.Apply(t.Context()); err == nil {
		t.Fatal("it was not refused")
	}
	full = false
	admin.applyAll()
	if n := admin.parked(); n != 0 || !strings.Contains(admin.get("Patient/p"), "written-apart") {
		t.Errorf("%d chunks wait: %s", n, admin.get("Patient/p"))
	}
}
