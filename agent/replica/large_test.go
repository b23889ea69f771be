package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/crdt"
)

// TestManyResourcesInOneChange is a change at the validator's caps.
func TestManyResourcesInOneChange(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	doc := f.Document("section", "eve", "core")
	const n = crdt.MaxChangeOps / 2
	in := make([]crdt.Instruction, n)
	for i := range in {
		in[i] = crdt.Instruction{Do: crdt.Set, Key: fmt.Sprintf("Basic/%05d", i), Value: crdt.Scalar{Kind: crdt.Map}}
	}
	a.take(f.device, f.SealChange(doc, f.Change(doc, in...)))
	a.put(bernd, false)
	if s := a.Status(); !s.AtEnd || s.Resources+s.Unapplied < 2 {
		t.Fatalf("status %+v", s)
	}
	t.Logf("%+v", a.Status())
}

func tiny(i int) string {
	return fmt.Sprintf(`{"resourceType":"Observation","id":"o%d","status":"final","code":{"text":"x"},`+
		`"subject":{"reference":"Patient/bernd"},"effectiveDateTime":"2024-01-01"}`, i)
}

// TestImportOfManySmallResources imports as many as the API takes at once, all of one document.
func TestImportOfManySmallResources(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	var batch api.ImportBatch
	for i := range api.MaxImportResources {
		batch.Resources = append(batch.Resources, []byte(tiny(i)))
	}
	res, err := a.Import(t.Context(), "importer", batch)
	must(t, err)
	if res.Created != api.MaxImportResources {
		t.Fatalf("%+v", res)
	}
	sync(t, a, b)
	alike(t, a, b)
	if s := b.Status(); s.Resources != api.MaxImportResources || s.Unapplied != 0 {
		t.Fatalf("status %+v", s)
	}
}

// TestLargeConflict changes one large resource at two sites apart: what is shown of it holds every version, and is longer
// than any of them.
func TestLargeConflict(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	const parts = 3
	set := func(d *device, i int, data string) {
		d.edit("DocumentReference/scan", func(o map[string]any) {
			o["content"].([]any)[i].(map[string]any)["attachment"].(map[string]any)["data"] = data
		})
	}
	a.put(`{"resourceType":"DocumentReference","id":"scan","status":"current","subject":{"reference":"Patient/eve"},"content":[`+
		`{"id":"e0","attachment":{"title":"0","data":"AA=="}},{"id":"e1","attachment":{"title":"1","data":"AA=="}},{"id":"e2","attachment":{"title":"2","data":"AA=="}}]}`, false)
	sync(t, a, b)
	for i := range parts {
		set(a, i, strings.Repeat("A", 1_000_000))
		set(b, i, strings.Repeat("B", 1_000_000))
	}
	sync(t, a, b)
	if a.export() != b.export() {
		t.Fatal("the exports differ")
	}
	for _, d := range p {
		if s := d.Status(); s.Unapplied != 0 || s.Conflicts != parts {
			t.Errorf("%s: %+v", d.name, s)
		}
	}
	c := a.conflicts()[0]
	if len(c.Values) != 2 || len(c.Values[0].Value)+len(c.Values[1].Value) < 2_000_000 {
		t.Errorf("the conflict at %s shows %d values", c.Path, len(c.Values))
	}
}
