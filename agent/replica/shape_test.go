package replica_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// TestShapes puts what no profile foresees: it must come back equal, at the other device too, and survive an edit.
func TestShapes(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	for _, body := range []string{
		`{"resourceType":"Basic","id":"x","":1,"~v":0,"{x":[],"[y":{},"\"z":"q","a[x]":{"b":1},"~~":"t"}`,
		`{"resourceType":"Patient","id":"x","name":"text","birthDate":["1954"],"telecom":{"system":"phone"},"active":"yes"}`,
		`{"resourceType":"Patient","id":"x","name":[{"given":["A",null,"C"],"_given":[null,{"id":"e"},null,{"id":"f"}]}]}`,
		`{"resourceType":"Observation","id":"x","valueQuantity":{"value":0.10e-3},"valueString":"both","_valueString":{"id":"e"},"code":null}`,
		`{"resourceType":"Observation","id":"x","component":[[1,[2,{"a":[]}]],{"valueInteger":9007199254740993},[],{}],"n":-0,"m":1E400}`,
		`{"resourceType":"NoSuchType","id":"x","note":[{"text":""},{"text":"ä\u0000\ud83d\ude00"}],"deep":` +
			strings.Repeat(`{"d":[`, 25) + `1` + strings.Repeat(`]}`, 25) + `}`,
	} {
		w := a.put(body, true)
		want, err := fhir.Parse([]byte(body))
		must(t, err)
		sync(t, a, b)
		alike(t, a, b)
		for _, d := range []*device{a, b} {
			got, err := d.Get(t.Context(), parseRef(t, w.Ref), "")
			must(t, err)
			obj, err := fhir.Parse(got.JSON)
			must(t, err)
			if !fhir.Equal(fhir.RestoreMeta(obj, want), want) {
				t.Errorf("%s came back as %s", body, got.JSON)
			}
		}
		d := a.edit(w.Ref, func(o map[string]any) { o["edited"] = map[string]any{"by": "hand"} })
		if d.Outcome != "changed" {
			t.Errorf("an edit of %s: %+v", body, d)
		}
		_, err = a.Delete(t.Context(), "user", parseRef(t, w.Ref))
		must(t, err)
	}
}

// TestTooLarge refuses what does not fit one record, and takes the rest of its batch.
func TestTooLarge(t *testing.T) {
	a := practice(t, "surgery")[0]
	image := `{"resourceType":"Binary","id":"big","contentType":"image/png","data":"` + strings.Repeat("A", 2<<20) + `"}`
	_, err := a.Put(t.Context(), "user", json.RawMessage(image), false)
	if api.CodeOf(err) != api.CodeInvalid {
		t.Fatalf("a large record: %v", err)
	}
	res, err := a.Import(t.Context(), "user", api.ImportBatch{Resources: []json.RawMessage{
		json.RawMessage(image), json.RawMessage(anna), json.RawMessage(`{"resourceType":"Patient"}`), json.RawMessage(`[]`),
	}})
	must(t, err)
	if res.Created != 1 || len(res.Refused) != 3 {
		t.Fatalf("%+v", res)
	}
	named := map[int]bool{}
	for _, r := range res.Refused {
		named[r.Index] = true
	}
	if !named[0] || !named[2] || !named[3] {
		t.Fatalf("%+v", res.Refused)
	}
}

// TestImportBesideHandmade imports a record that a person made before: theirs is not overwritten unseen.
func TestImportBesideHandmade(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(anna, false)
	imp := func(body string) api.ImportResult {
		t.Helper()
		res, err := a.Import(t.Context(), "importer", api.ImportBatch{Resources: []json.RawMessage{json.RawMessage(body)}})
		must(t, err)
		return res
	}
	if res := imp(anna); res.Unchanged != 1 {
		t.Fatalf("an equal file: %+v", res)
	}
	other := strings.Replace(anna, "1954-03-02", "1955-03-02", 1)
	if res := imp(other); res.Changed != 1 || res.Conflicts != 1 {
		t.Fatalf("another file: %+v", res)
	}
	if res := imp(other); res.Unchanged != 1 {
		t.Fatalf("the same file again: %+v", res)
	}
	sync(t, a, b)
	alike(t, a, b)
	if c := b.conflicts(); len(c) != 1 || len(c[0].Values) != 2 {
		t.Fatalf("conflicts %+v", c)
	}
}

// TestImportBesideManyHandmade does so for more records of one document than a device has branches.
func TestImportBesideManyHandmade(t *testing.T) {
	a := practice(t, "surgery")[0]
	a.put(anna, false)
	for i := range 300 {
		body := fmt.Sprintf(`{"resourceType":"Condition","id":"c%d","subject":{"reference":"Patient/anna"},"code":{"text":"by hand"}}`, i)
		a.put(body, false)
		res, err := a.Import(t.Context(), "importer", api.ImportBatch{Resources: []json.RawMessage{
			json.RawMessage(strings.Replace(body, "by hand", "by file", 1)),
		}})
		must(t, err)
		if res.Changed != 1 || res.Conflicts != 1 {
			t.Fatalf("import %d: %+v", i, res)
		}
	}
	if n := len(a.conflicts()); n != 300 {
		t.Fatalf("%d conflicts", n)
	}
}
