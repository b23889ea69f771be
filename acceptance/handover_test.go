package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"chartmesh/fhir"
)

// TestHandOver: one device edits 1,000 records (50 without HEAVY) and goes; another one comes, and gets all of it from the
// anchor, which was killed and started anew in between.
func TestHandOver(t *testing.T) {
	edits, patients := 50, 4
	if os.Getenv("HEAVY") != "" {
		edits, patients = 1000, 40
	}
	root := t.TempDir()
	a := found(t, root, "surgery")
	anchor := newAnchor(t, root, "frankfurt")
	anchor.takes(a)
	b := join(t, root, "branch", a)
	b.inSync()
	b.stop()

	if os.Getenv("CHARTMESH_TESTDATA") != "" {
		a.load()
	} else {
		a.patients(7, patients)
	}
	began := time.Now()
	n := a.editAll(edits)
	wrote := time.Since(began)
	began = time.Now()
	a.syncsWith(anchor.name)
	want := a.export()
	resources := a.status().Resources
	a.stop()
	t.Logf("%d edits in %v, at the anchor %v after the last", n, wrote.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))
	anchor.kill()
	anchor.start()

	began = time.Now()
	b.start()
	for end := time.Now().Add(10 * time.Minute); b.status().Resources < resources; wait(t, 20*time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d of %d resources came", b.status().Resources, resources)
		}
	}
	b.syncsWith(anchor.name)
	took := time.Since(began)
	got := b.export()
	if !bytes.Equal(want, got) {
		t.Errorf("the exports differ: %d and %d bytes", len(want), len(got))
	}
	st := b.status()
	if st.Parked+st.Quarantined+st.Unapplied+st.Conflicts != 0 {
		t.Errorf("something is held back: %d parked, %d quarantined, %d unapplied, %d conflicts", st.Parked, st.Quarantined, st.Unapplied, st.Conflicts)
	}
	for _, p := range st.Peers {
		if p.Name == a.name && (p.State == "in-sync" || p.State == "syncing") {
			t.Errorf("%s is %s: it was meant to be gone", p.Name, p.State)
		}
	}
	t.Logf("%d resources, %d of them edited, %d chunks: all at the other device %v after its start, %d bytes of JSON equal", resources, n, anchor.chunks(),
		took.Round(time.Millisecond), len(got))
}

// editAll edits as many records, each once, as a user does: one after the other, each answered when it is durable.
func (s *site) editAll(most int) (n int) {
	s.t.Helper()
	for line := range bytes.Lines(s.export()) {
		if n == most {
			break
		}
		o, err := fhir.Parse(bytes.TrimSpace(line))
		must(s.t, err)
		switch o.Type() {
		case "Patient":
			o["birthDate"] = fmt.Sprintf("19%02d-03-%02d", 20+n%70, 1+n%28)
		case "Observation":
			o["issued"] = fmt.Sprintf("2026-11-%02dT08:%02d:00Z", 1+n%26, n%60)
		default:
			o["language"] = "de-AT"
		}
		if _, err := s.put(fhir.Canonical(o), true); err != nil {
			s.t.Fatalf("edit %d, of a resource of type %s: %v", n, o.Type(), err)
		}
		n++
	}
	if n < most {
		s.t.Fatalf("there are %d records to edit, not %d", n, most)
	}
	return n
}
