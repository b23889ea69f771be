package replica_test

import (
	"encoding/json"
	"strings"
	"testing"

	"chartmesh/agent/api"
)

// TestPutSentAgainAfterAnotherEdit sends an edit once more, as a client does whose answer was lost, after somebody went on with the
// record: what it said stands there once, and the other edit stands.
func TestPutSentAgainAfterAnotherEdit(t *testing.T) {
	put := func(d *device, user, body string) api.Written {
		t.Helper()
		w, err := d.Put(t.Context(), user, json.RawMessage(body), false)
		must(t, err)
		return w
	}
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	put(a, "berg", `{"resourceType":"Condition","id":"c1","subject":{"reference":"Patient/p1"},"note":[{"id":"n1","text":"pain"}],"category":[{"text":"a"}]}`)
	start := a.get("Condition/c1")
	body := strings.Replace(start, `"pain"`, `"pain in the left knee"`, 1)
	put(a, "berg", body)
	put(a, "lind", strings.Replace(a.get("Condition/c1"), `{"text":"a"}`, `{"text":"a"},{"text":"b"}`, 1))
	sync(t, a, b)
	want := a.get("Condition/c1")
	for _, d := range p {
		before := len(history(t, d, "Condition/c1"))
		if w := put(d, "berg", body); w.Outcome != "repeated" || w.Conflicts != 0 {
			t.Errorf("%s: sent again: %+v", d.name, w)
		}
		if n := len(history(t, d, "Condition/c1")); n != before {
			t.Errorf("%s: it was written again", d.name)
		}
		if got := d.get("Condition/c1"); !sameContent(t, got, want) {
			t.Errorf("%s shows %s instead of %s", d.name, got, want)
		}
	}

	// What was changed since is not said to stand, nor written beside the change.
	put(a, "lind", strings.Replace(a.get("Condition/c1"), `left knee`, `right knee`, 1))
	want = a.get("Condition/c1")
	if _, err := a.Put(t.Context(), "berg", json.RawMessage(body), false); api.CodeOf(err) != api.CodeConflict || a.get("Condition/c1") != want {
		t.Errorf("sent again after it was changed: %v, %s", err, a.get("Condition/c1"))
	}

	// What somebody else writes, or the same person on another version, is no repetition.
	if w := put(a, "lind", body); w.Outcome != "changed" {
		t.Errorf("the same by another person: %+v", w)
	}
	if w := put(a, "berg", strings.Replace(start, `"pain"`, `"no pain"`, 1)); w.Outcome != "changed" {
		t.Errorf("something else on the same version: %+v", w)
	}
}

// TestCreationSentAgain: what is there as it was sent stays; a removed record that is entered again is written.
func TestCreationSentAgain(t *testing.T) {
	a := practice(t, "surgery")[0]
	const body = `{"resourceType":"Patient","id":"p1","birthDate":"1970-01-01"}`
	a.put(body, false)
	if w := a.put(body, false); w.Outcome != "unchanged" {
		t.Errorf("%+v", w)
	}
	_, err := a.Put(t.Context(), "berg", json.RawMessage(strings.Replace(body, "1970", "1971", 1)), false)
	if api.CodeOf(err) != api.CodeConflict {
		t.Errorf("something else without a version: %v", err)
	}
	_, err = a.Delete(t.Context(), "berg", parseRef(t, "Patient/p1"))
	must(t, err)
	if w := a.put(body, false); w.Outcome != "created" {
		t.Errorf("after a removal: %+v", w)
	}
}

// sameContent compares two resources without the agent's metadata.
func sameContent(t *testing.T, a, b string) bool {
	t.Helper()
	var x, y map[string]json.RawMessage
	must(t, json.Unmarshal([]byte(a), &x))
	must(t, json.Unmarshal([]byte(b), &y))
	delete(x, "meta")
	delete(y, "meta")
	one, err := json.Marshal(x)
	must(t, err)
	other, err := json.Marshal(y)
	must(t, err)
	return string(one) == string(other)
}
