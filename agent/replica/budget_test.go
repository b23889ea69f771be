package replica_test

import (
	"fmt"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
)

// withBudget opens a device anew that keeps hardly any document open.
func (d *device) withBudget(ops uint64) {
	d.t.Helper()
	e := engine.NewLocal()
	d.t.Cleanup(func() { _ = e.Close() })
	var err error
	d.Replica, err = replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e, OpenOps: ops})
	must(d.t, err)
}

// TestSmallBudget closes and opens documents all the time, from saved forms too.
func TestSmallBudget(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.withBudget(1)
	b.withBudget(1)
	patient := func(i int, birth string) []byte {
		return fmt.Appendf(nil, `{"resourceType":"Patient","id":"p%d","birthDate":"%s"}`, i, birth)
	}
	var batch api.ImportBatch
	for i := range 10 {
		batch.Resources = append(batch.Resources, patient(i, "1970-01-01"))
	}
	_, err := a.Import(t.Context(), "importer", batch)
	must(t, err)
	sync(t, a, b)
	for i := range 40 {
		a.edit("Patient/p0", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("19%02d-01-01", i) })
	}
	for i := range 10 {
		b.edit(fmt.Sprintf("Patient/p%d", i), func(o map[string]any) { o["birthDate"] = "1980-01-01" })
	}
	sync(t, a, b)
	alike(t, a, b)
	if n := len(a.conflicts()); n != 1 {
		t.Fatalf("%d conflicts", n)
	}
	if res, err := a.Import(t.Context(), "importer", batch); err != nil || res.Unchanged != 10 {
		t.Fatalf("importing again: %+v, %v", res, err)
	}
	if n := len(history(t, b, "Patient/p0")); n != 42 {
		t.Fatalf("%d revisions", n)
	}
	before := a.Status()
	a.crash()
	a.edit("Patient/p0", func(o map[string]any) { o["active"] = true })
	if s := a.Status(); s.Documents != 10 || s.Resources != 10 || s.Conflicts != 1 || before.Resources != 10 {
		t.Fatalf("status %+v, before the crash %+v", s, before)
	}
}
