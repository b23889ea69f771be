package replica_test

import (
	"encoding/json"
	"strings"
	"testing"

	"chartmesh/agent/api"
)

const weight = `{"resourceType":"Observation","id":"w","status":"final","subject":{"reference":"Patient/anna"},` +
	`"effectiveDateTime":"2024-05-01","code":{"text":"weight"},"valueQuantity":{"value":70.50,"unit":"kg"},` +
	`"note":[{"text":"fasting"}]}`

const bernd = `{"resourceType":"Patient","id":"bernd","name":[{"use":"official","family":"Kraus","given":["Bernd"]},` +
	`{"use":"nickname","given":["Berni"]}],"telecom":[{"system":"phone","value":"030 1","use":"home"},` +
	`{"system":"email","value":"b@example.org"}],"birthDate":"1960-01-01","active":true}`

func newWeight(date, value string) string {
	return strings.NewReplacer(`"w"`, `"new"`, "2024-05-01", date, "70.50", value).Replace(weight)
}

// apart is one case: what each site does while they are apart, and which conflict both list afterwards.
type apart struct {
	name   string
	a, b   func(d *device)
	path   string   // of the only conflict; "-": there is none
	ref    string   // of the conflict
	values []string // JSON of its sides, "removed" for a removal, in any order
	shown  []string // what the resource shows then, besides one of the values
}

func object(o map[string]any, key string) map[string]any { return o[key].(map[string]any) }
func element(o map[string]any, key string, i int) map[string]any {
	return o[key].([]any)[i].(map[string]any)
}

var apartCases = []apart{
	{
		name: "the same field",
		a:    func(d *device) { d.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1961-01-01" }) },
		b:    func(d *device) { d.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1960-10-01" }) },
		ref:  "Patient/bernd", path: "birthDate", values: []string{`"1961-01-01"`, `"1960-10-01"`},
	},
	{
		name: "value at one site and unit at the other",
		a: func(d *device) {
			d.edit("Observation/w", func(o map[string]any) { object(o, "valueQuantity")["value"] = json.Number("155.4") })
		},
		b: func(d *device) {
			d.edit("Observation/w", func(o map[string]any) { object(o, "valueQuantity")["unit"] = "lb" })
		},
		ref: "Observation/w", path: "value[x]",
		values: []string{`{"valueQuantity":{"unit":"kg","value":155.4}}`, `{"valueQuantity":{"unit":"lb","value":70.50}}`},
	},
	{
		name: "an edit against a delete",
		a:    func(d *device) { d.edit("Observation/w", func(o map[string]any) { o["status"] = "amended" }) },
		b: func(d *device) {
			_, err := d.Delete(d.t.Context(), "user", api.Ref{Type: "Observation", ID: "w"})
			must(d.t, err)
		},
		ref: "Observation/w", path: "", values: []string{`amended`, "removed"}, shown: []string{`"status":"amended"`},
	},
	{
		name: "an edit of a list element against its removal",
		a: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { element(o, "telecom", 0)["value"] = "030 2" })
		},
		b: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { o["telecom"] = o["telecom"].([]any)[1:] })
		},
		ref: "Patient/bernd", path: "telecom[0]", values: []string{`030 2`, "removed"}, shown: []string{"030 2"},
	},
	{
		name: "an edit of a scalar in a list against its removal",
		a: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { element(o, "name", 0)["given"] = []any{"Bernhard"} })
		},
		b: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { delete(element(o, "name", 0), "given") })
		},
		ref: "Patient/bernd", path: "name[0].given[0]", values: []string{`"Bernhard"`, "removed"}, shown: []string{"Bernhard"},
	},
	{
		name: "the same new resource, equal",
		a:    func(d *device) { d.put(anna, false) },
		b:    func(d *device) { d.put(anna, false) },
		path: "-",
	},
	{
		name: "the same new resource, different",
		a:    func(d *device) { d.put(anna, false) },
		b:    func(d *device) { d.put(strings.Replace(anna, "Anna", "Anne", 1), false) },
		ref:  "Patient/anna", path: "", values: []string{`"Anna"`, `"Anne"`},
	},
	{
		name: "the same new resource, different, in another year",
		a:    func(d *device) { d.put(newWeight("2024-05-01", "70.50"), false) },
		b:    func(d *device) { d.put(newWeight("2023-05-01", "70.50"), false) },
		ref:  "Observation/new", path: "", values: []string{`"2024-05-01"`, `"2023-05-01"`},
	},
	{
		name: "independent elements and additions to one list",
		a: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) {
				o["gender"] = "male"
				element(o, "name", 0)["family"] = "Krauß"
				o["telecom"] = append(o["telecom"].([]any), map[string]any{"system": "phone", "value": "0171 3"})
			})
		},
		b: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) {
				o["active"] = false
				element(o, "telecom", 1)["value"] = "bernd@example.org"
				o["telecom"] = append(o["telecom"].([]any), map[string]any{"system": "fax", "value": "030 4"})
			})
		},
		path: "-", ref: "Patient/bernd",
		shown: []string{`"gender":"male"`, "Krauß", "0171 3", `"active":false`, "bernd@example.org", "030 4"},
	},
	{
		name: "first elements of a list at both sites",
		a: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { o["address"] = []any{map[string]any{"city": "Berlin"}} })
		},
		b: func(d *device) {
			d.edit("Patient/bernd", func(o map[string]any) { o["address"] = []any{map[string]any{"city": "Potsdam"}} })
		},
		path: "-", ref: "Patient/bernd", shown: []string{"Berlin", "Potsdam"},
	},
}

// TestApart is the promise that nothing is hidden: what two sites do apart is merged, or listed alike at both.
func TestApart(t *testing.T) {
	for _, c := range apartCases {
		t.Run(c.name, func(t *testing.T) {
			p := practice(t, "surgery", "branch")
			a, b := p[0], p[1]
			a.put(bernd, false)
			a.put(weight, false)
			sync(t, a, b)
			c.a(a)
			c.b(b)
			if sa, sb := sync(t, a, b); !sa.Agreed || !sb.Agreed {
				t.Fatalf("the devices do not agree: %+v, %+v", sa, sb)
			}
			alike(t, a, b)
			list := a.conflicts()
			if c.path == "-" {
				if len(list) != 0 {
					t.Fatalf("conflicts: %+v", list)
				}
			} else {
				checkConflict(t, c, list)
			}
			for _, s := range c.shown {
				if got := a.get(c.ref); !strings.Contains(got, s) {
					t.Errorf("%s does not show %s", got, s)
				}
			}
			if c.path != "-" {
				decideAtOne(t, c, a, b, list[0])
			}
		})
	}
}

func alike(t *testing.T, a, b *device) {
	t.Helper()
	if a.export() != b.export() {
		t.Fatalf("the exports differ:\n%s\n%s", a.export(), b.export())
	}
	ja, _ := json.Marshal(a.conflicts())
	jb, _ := json.Marshal(b.conflicts())
	if string(ja) != string(jb) {
		t.Fatalf("the conflicts differ:\n%s\n%s", ja, jb)
	}
}

func checkConflict(t *testing.T, c apart, list []api.Conflict) {
	t.Helper()
	if len(list) != 1 || list[0].Resource != c.ref || list[0].Path != c.path || len(list[0].Values) != len(c.values) {
		t.Fatalf("conflicts: %+v", list)
	}
	sites := map[string]bool{}
	for _, want := range c.values {
		found := false
		for _, v := range list[0].Values {
			if want == "removed" && v.Removed || !v.Removed && want != "removed" && strings.Contains(string(v.Value), want) {
				found = true
			}
			if v.Author == "" || v.Device == "" || v.Time.IsZero() {
				t.Errorf("a value without author, device or time: %+v", v)
			}
			sites[v.Site] = true
		}
		if !found {
			t.Errorf("no side %s in %+v", want, list[0].Values)
		}
	}
	if len(sites) != 2 {
		t.Errorf("the sides are of the sites %v", sites)
	}
}

// decideAtOne decides the conflict at the branch for each value in turn, in a new pair of devices each.
func decideAtOne(t *testing.T, c apart, a, b *device, conflict api.Conflict) {
	t.Helper()
	before := len(history(t, a, c.ref))
	choice := 0
	_, err := b.Resolve(t.Context(), "decider", conflict.ID, api.Decision{Choose: &choice})
	must(t, err)
	if n := len(b.conflicts()); n != 0 {
		t.Fatalf("%d conflicts after the decision: %+v", n, b.conflicts())
	}
	sync(t, a, b)
	alike(t, a, b)
	if n := len(a.conflicts()); n != 0 {
		t.Fatalf("the decision did not reach the other site: %d conflicts", n)
	}
	revisions := history(t, a, c.ref)
	if len(revisions) <= before {
		t.Errorf("%d revisions after the decision, %d before", len(revisions), before)
	}
	for _, v := range conflict.Values {
		kept := v.Removed
		for _, r := range revisions {
			if !v.Removed && contains(r.JSON, v.Value) {
				kept = true
			}
		}
		if !kept {
			t.Errorf("the history does not hold %s", v.Value)
		}
	}
}

// contains reports whether a resource holds a conflict's value: the value itself, or the fields of a choice.
func contains(resource, value json.RawMessage) bool {
	trimmed := strings.TrimSuffix(strings.TrimPrefix(string(value), "{"), "}")
	if strings.Contains(trimmed, "resourceType") {
		var o map[string]json.RawMessage
		if json.Unmarshal(value, &o) != nil {
			return false
		}
		for k, v := range o {
			if k != "meta" && !strings.Contains(string(resource), string(v)) {
				return false
			}
		}
		return true
	}
	return strings.Contains(string(resource), trimmed)
}

func history(t *testing.T, d *device, ref string) []api.Revision {
	t.Helper()
	h, err := d.History(t.Context(), parseRef(t, ref))
	must(t, err)
	return h
}

func TestDecisionsApartAreANewConflict(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(bernd, false)
	sync(t, a, b)
	a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1961-01-01" })
	b.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1960-10-01" })
	sync(t, a, b)
	first := a.conflicts()[0]
	for i, d := range []*device{a, b} {
		_, err := d.Resolve(t.Context(), "decider", first.ID, api.Decision{Choose: &i})
		must(t, err)
	}
	sync(t, a, b)
	alike(t, a, b)
	again := a.conflicts()
	if len(again) != 1 || again[0].ID == first.ID || len(again[0].Values) != 2 {
		t.Fatalf("conflicts after two decisions: %+v", again)
	}
	for _, d := range []*device{a, b} { // deciding alike is none
		_, err := d.Resolve(t.Context(), "decider", again[0].ID, api.Decision{Value: json.RawMessage(`"1960-01-10"`)})
		must(t, err)
	}
	sync(t, a, b)
	alike(t, a, b)
	if n := len(a.conflicts()); n != 0 || !strings.Contains(a.get("Patient/bernd"), "1960-01-10") {
		t.Fatalf("%d conflicts after equal decisions: %s", n, a.get("Patient/bernd"))
	}
}

// TestDecisionsApartBetweenDocuments decides differently where the two sides live in two documents: neither may vanish.
func TestDecisionsApartBetweenDocuments(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(newWeight("2024-05-01", "70.50"), false)
	b.put(newWeight("2023-05-01", "81.00"), false)
	sync(t, a, b)
	c := a.conflicts()
	if len(c) != 1 {
		t.Fatalf("conflicts %+v", c)
	}
	for i, d := range []*device{a, b} {
		_, err := d.Resolve(t.Context(), "decider", c[0].ID, api.Decision{Choose: &i})
		must(t, err)
		if n := len(d.conflicts()); n != 0 {
			t.Fatalf("%d conflicts after deciding", n)
		}
	}
	sync(t, a, b)
	alike(t, a, b)
	if n := len(a.conflicts()); n == 0 || !strings.Contains(a.export(), "Observation") {
		t.Fatalf("two decisions apart left %d conflicts and %q", n, a.export())
	}
	for len(a.conflicts()) > 0 { // settle whatever there is by keeping what is live
		c := a.conflicts()[0]
		choice := 0
		for i, v := range c.Values {
			if !v.Removed {
				choice = i
			}
		}
		_, err := a.Resolve(t.Context(), "decider", c.ID, api.Decision{Choose: &choice})
		must(t, err)
	}
	sync(t, a, b)
	alike(t, a, b)
	if n := strings.Count(a.export(), "Observation"); n != 1 {
		t.Fatalf("%d observations are left", n)
	}
}

func TestStaleFileReverts(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(bernd, false)
	stale := a.get("Patient/bernd")
	a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1961-01-01"; o["gender"] = "male" })
	sync(t, a, b)
	// The old file, with another birth date and nothing else changed.
	w := b.put(strings.Replace(stale, "1960-01-01", "1960-10-01", 1), false)
	if w.Conflicts != 1 {
		t.Fatalf("%d conflicts", w.Conflicts)
	}
	sync(t, a, b)
	alike(t, a, b)
	if c := a.conflicts(); len(c) != 1 || c[0].Path != "birthDate" {
		t.Fatalf("conflicts %+v", c)
	}
	if got := a.get("Patient/bernd"); !strings.Contains(got, `"gender":"male"`) {
		t.Fatalf("the stale file reverted what it did not touch: %s", got)
	}
	// The same from the device that wrote the newer version itself.
	a.put(strings.Replace(stale, `"active":true`, `"active":false`, 1), false)
	if got := a.get("Patient/bernd"); !strings.Contains(got, `"active":false`) || !strings.Contains(got, `"gender":"male"`) {
		t.Fatalf("got %s", got)
	}
	sync(t, a, b)
	alike(t, a, b)
}

// TestStaleFileOfADeletedResource: a file from before a delete is an edit apart from it, and no silent undoing.
func TestStaleFileOfADeletedResource(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(bernd, false)
	sync(t, a, b)
	stale := a.get("Patient/bernd")
	_, err := b.Delete(t.Context(), "user", parseRef(t, "Patient/bernd"))
	must(t, err)
	sync(t, a, b)
	a.put(strings.Replace(stale, "1960-01-01", "1960-10-01", 1), false)
	sync(t, a, b)
	alike(t, a, b)
	c := a.conflicts()
	if len(c) != 1 || c[0].Path != "" || !(c[0].Values[0].Removed || c[0].Values[1].Removed) {
		t.Fatalf("a delete was undone without a word: %+v, %s", c, a.get("Patient/bernd"))
	}
}

func TestImportRevertsNothing(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	batch := func(body string) api.ImportBatch {
		return api.ImportBatch{Resources: []json.RawMessage{json.RawMessage(body)}}
	}
	imp := func(d *device, body string) api.ImportResult {
		t.Helper()
		res, err := d.Import(t.Context(), "importer", batch(body))
		must(t, err)
		return res
	}
	imp(a, bernd)
	sync(t, a, b)
	a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = "1961-01-01" })
	if res := imp(a, bernd); res.Unchanged != 1 {
		t.Fatalf("last week's file: %+v", res)
	}
	sync(t, a, b)
	if res := imp(b, bernd); res.Unchanged != 1 {
		t.Fatalf("last week's file at the other site: %+v", res)
	}
	// A newer file that changes something else merges; one that changes the same is a conflict.
	if res := imp(b, strings.Replace(bernd, `"active":true`, `"active":false`, 1)); res.Changed != 1 || res.Conflicts != 0 {
		t.Fatalf("a newer file: %+v", res)
	}
	if got := b.get("Patient/bernd"); !strings.Contains(got, "1961-01-01") || !strings.Contains(got, `"active":false`) {
		t.Fatalf("got %s", got)
	}
	newer := strings.Replace(strings.Replace(bernd, `"active":true`, `"active":false`, 1), "1960-01-01", "1959-01-01", 1)
	if res := imp(b, newer); res.Conflicts != 1 {
		t.Fatalf("a file that contradicts an edit: %+v", res)
	}
	sync(t, a, b)
	alike(t, a, b)
	if c := a.conflicts(); len(c) != 1 || c[0].Path != "birthDate" {
		t.Fatalf("conflicts %+v", c)
	}
	_, err := a.Delete(t.Context(), "user", parseRef(t, "Patient/bernd"))
	must(t, err)
	if res := imp(a, newer); res.Unchanged != 1 {
		t.Fatalf("a deleted resource came back by an old file: %+v", res)
	}
}

func TestCrashLosesNothingAcknowledged(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(bernd, false)
	a.put(weight, false)
	before := a.export()
	a.crash()
	if a.export() != before {
		t.Fatal("an acknowledged edit is missing after a crash")
	}
	sync(t, a, b)
	b.crash()
	if b.export() != before || len(b.conflicts()) != 0 {
		t.Fatal("an acknowledged chunk is missing after a crash")
	}
	a.edit("Patient/bernd", func(o map[string]any) { o["active"] = false })
	sync(t, a, b)
	alike(t, a, b)
}
