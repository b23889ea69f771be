package replica_test

import (
	"encoding/json"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/fhir"
)

// newer has a device's last chunk say that it is of a newer schema, in the place that it has in its log.
func newer(t *testing.T, d *device) []byte {
	t.Helper()
	list := d.ownLog()
	sealed, err := chunk.Parse(list[len(list)-1])
	must(t, err)
	opened, err := chunk.Open(d.keys, sealed)
	must(t, err)
	body := opened.(*chunk.Changes)
	body.Schema = fhir.Schema + 1
	f := forge(d)
	f.Counter = uint64(len(list)) - 1
	if len(list) > 1 {
		before, err := chunk.Parse(list[len(list)-2])
		must(t, err)
		f.Last = before.ID()
	}
	return f.Seal(body)
}

// TestNewerSchema: what a newer version wrote is parked and passed on, and its resource read-only; the rest of the chart is not.
func TestNewerSchema(t *testing.T) {
	p := practice(t, "surgery", "branch", "updated")
	a, b, u := p[0], p[1], p[2]
	_, err := a.Import(t.Context(), "u", api.ImportBatch{Resources: []json.RawMessage{ // one change that makes both
		json.RawMessage(`{"resourceType":"Patient","id":"p1","name":[{"family":"Berg"}]}`),
		json.RawMessage(`{"resourceType":"Observation","id":"o1","status":"final","subject":{"reference":"Patient/p1"},"note":[{"text":"a"}]}`),
	}})
	must(t, err)
	sync(t, a, u)
	sync(t, a, b)
	u.edit("Patient/p1", func(m map[string]any) { m["name"] = []any{map[string]any{"family": "Berg", "given": []any{"Anna"}}} })
	bad := newer(t, u)
	a.take(u, bad)
	sync(t, a, b)
	for _, d := range []*device{a, b} {
		for range 2 {
			if s := d.Status(); s.Parked != 1 || s.Quarantined+s.Unapplied > 0 {
				t.Fatalf("status of %s: %+v", d.name, s)
			}
			refused := func(what string, err error) {
				t.Helper()
				e := api.AsError(err)
				if e == nil || e.Code != api.CodeIncompat || !strings.Contains(e.Message, "Patient/p1 was changed at updated by a newer version") {
					t.Errorf("%s at %s: %#v", what, d.name, err)
				}
			}
			got, err := d.Get(t.Context(), parseRef(t, "Patient/p1"), "")
			must(t, err)
			if got.Newer != "updated" || strings.Contains(string(got.JSON), "Anna") {
				t.Errorf("%s shows %+v", d.name, got)
			}
			_, err = d.Put(t.Context(), "u", json.RawMessage(strings.Replace(string(got.JSON), "Berg", "Tal", 1)), false)
			refused("an edit", err)
			_, err = d.Put(t.Context(), "u", json.RawMessage(`{"resourceType":"Patient","id":"p1"}`), true)
			refused("an edit by force", err)
			_, err = d.Delete(t.Context(), "u", parseRef(t, "Patient/p1"))
			refused("a removal", err)
			res, err := d.Import(t.Context(), "u", api.ImportBatch{Resources: []json.RawMessage{
				json.RawMessage(`{"resourceType":"Patient","id":"p1","name":[{"family":"Au"}]}`),
				json.RawMessage(`{"resourceType":"Observation","id":"o2","status":"final","subject":{"reference":"Patient/p1"}}`),
			}})
			must(t, err)
			if len(res.Refused) != 1 || res.Refused[0].Index != 0 || res.Created+res.Unchanged != 1 {
				t.Errorf("an import at %s: %+v", d.name, res)
			}
			got, err = d.Get(t.Context(), parseRef(t, "Observation/o1"), "")
			must(t, err)
			if got.Newer != "" {
				t.Errorf("%s says of the rest of the chart: %+v", d.name, got)
			}
			d.edit("Observation/o1", func(m map[string]any) { m["note"].([]any)[0].(map[string]any)["text"] = "of " + d.name })
			d.crash()
		}
	}
}
