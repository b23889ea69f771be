package replica_test

import (
	"strings"
	"testing"
)

const anna = `{"resourceType":"Patient","id":"anna","name":[{"family":"Müller","given":["Anna"]}],"birthDate":"1954-03-02"}`

func TestEditReachesTheOther(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	w := a.put(anna, false)
	if w.Outcome != "created" {
		t.Fatalf("outcome %q", w.Outcome)
	}
	sync(t, a, b)
	if got := b.get("Patient/anna"); !strings.Contains(got, w.Version) {
		t.Fatalf("the branch has %s", got)
	}
	if a.export() != b.export() || !strings.Contains(a.export(), "Müller") {
		t.Fatal("exports differ")
	}
	m, err := b.Find(t.Context(), "muller", 10)
	must(t, err)
	if len(m) != 1 || m[0].Ref != "Patient/anna" {
		t.Fatalf("found %v", m)
	}
	if s := a.Status(); s.NotElsewhere != 0 || s.Resources != 1 || s.Documents != 1 {
		t.Fatalf("status %+v", s)
	}
}

func TestConflictIsListedAlikeAndDecided(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(anna, false)
	sync(t, a, b)
	a.edit("Patient/anna", func(o map[string]any) { o["birthDate"] = "1954-02-03" })
	b.edit("Patient/anna", func(o map[string]any) { o["birthDate"] = "1955-03-02"; o["active"] = true })
	sa, sb := sync(t, a, b)
	if !sa.Agreed || !sb.Agreed {
		t.Fatalf("not agreed: %+v %+v", sa, sb)
	}
	ca, cb := a.conflicts(), b.conflicts()
	if len(ca) != 1 || len(cb) != 1 || ca[0].ID != cb[0].ID || ca[0].Path != "birthDate" || len(ca[0].Values) != 2 {
		t.Fatalf("conflicts %+v %+v", ca, cb)
	}
	if !strings.Contains(a.get("Patient/anna"), `"active":true`) {
		t.Fatal("an independent edit is not merged")
	}
}

// TestAtEnd: a log is read to its end when all that has come of it is applied, and not when it has arrived.
func TestAtEnd(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	check := func(want bool) {
		t.Helper()
		if got, status := b.AtEnd(), b.Status().AtEnd; got != want || status != want {
			t.Errorf("at its end: %v, and %v by the status; want %v", got, status, want)
		}
	}
	check(true)
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	must(t, b.Arrive(t.Context(), a.Device(), a.ownLog()))
	check(false)
	b.applyAll()
	check(true)
}
