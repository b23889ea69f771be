package simulations

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"chartmesh/fhir"
)

// What users write. Each value that is written is new (a token of the ledger), so that it can be found wherever it went;
// which chart a resource belongs to follows from its name, so that two sites that create it mean the same document.

// anyRef names one of few resources, so that users meet.
func (w *World) anyRef() string {
	switch n := w.rng.IntN(20); {
	case n < 8:
		return fmt.Sprintf("Patient/p%d", w.rng.IntN(3))
	case n < 15:
		return fmt.Sprintf("Observation/o%d", w.rng.IntN(6))
	case n < 17:
		return fmt.Sprintf("Organization/g%d", w.rng.IntN(2))
	}
	return fmt.Sprintf("Claim/c%d", w.rng.IntN(3))
}

// create makes a new resource.
func (w *World) create(ref string) map[string]any {
	typ, id, _ := strings.Cut(ref, "/")
	o := map[string]any{"resourceType": typ, "id": id}
	n := int(id[1] - '0')
	patient := map[string]any{"reference": fmt.Sprintf("Patient/p%d", n%3)}
	tok := w.ledger.token
	switch typ {
	case "Patient":
		o["name"] = []any{map[string]any{"use": "official", "family": tok(), "given": []any{tok()}}}
		o["telecom"] = []any{map[string]any{"system": "phone", "value": tok()}}
	case "Observation":
		o["subject"], o["code"] = patient, map[string]any{"text": tok()}
		o["effectiveDateTime"] = fmt.Sprintf("202%d-05-01", n%2)
		o["valueQuantity"] = map[string]any{"value": json.Number(w.ledger.number()), "unit": tok()}
	case "Organization":
		o["name"], o["alias"] = tok(), []any{tok(), tok()}
	case "Claim":
		o["patient"], o["created"] = patient, "2025-01-01"
		o["total"] = map[string]any{"value": json.Number(w.ledger.number()), "currency": "EUR"}
	}
	return o
}

// change parses a resource and changes one or two things in it.
func (w *World) change(shown string) map[string]any {
	o := decode(shown)
	for range 1 + w.rng.IntN(2) {
		switch o["resourceType"] {
		case "Patient":
			w.changePatient(o)
		case "Observation":
			w.changeObservation(o)
		case "Organization":
			if w.chance(2) {
				o["name"] = w.ledger.token()
			} else {
				w.changeList(o, "alias", func() any { return w.ledger.token() }, nil)
			}
		case "Claim":
			if w.chance(2) {
				o["total"] = map[string]any{"value": json.Number(w.ledger.number()), "currency": "EUR"}
			} else {
				o["status"] = w.ledger.token()
			}
		}
	}
	return o
}

func (w *World) changePatient(o map[string]any) {
	tok := w.ledger.token
	contact := func() any { return map[string]any{"system": "phone", "value": tok()} }
	value := func(e map[string]any) { e["value"] = tok() }
	switch w.rng.IntN(8) {
	case 0:
		o["gender"] = tok()
	case 1:
		o["birthDate"] = tok()
	case 2:
		o["maritalStatus"] = map[string]any{"text": tok()}
	case 3:
		delete(o, "maritalStatus")
	case 4, 5:
		w.changeList(o, "telecom", contact, value)
	default:
		name := func() any { return map[string]any{"family": tok(), "given": []any{tok()}} }
		w.changeList(o, "name", name, func(e map[string]any) {
			if w.chance(2) {
				e["family"] = tok()
			} else {
				w.changeList(e, "given", func() any { return tok() }, nil)
			}
		})
	}
}

func (w *World) changeObservation(o map[string]any) {
	tok := w.ledger.token
	switch w.rng.IntN(6) {
	case 0:
		o["status"] = tok()
	case 1, 2:
		q, ok := o["valueQuantity"].(map[string]any)
		if !ok {
			q = map[string]any{"unit": tok()}
		}
		q["value"] = json.Number(w.ledger.number())
		delete(o, "valueString")
		o["valueQuantity"] = q
	case 3:
		if q, ok := o["valueQuantity"].(map[string]any); ok {
			q["unit"] = tok()
		} else {
			o["valueString"] = tok()
		}
	case 4:
		delete(o, "valueQuantity")
		o["valueString"] = tok()
	default:
		note := func() any { return map[string]any{"text": tok()} }
		w.changeList(o, "note", note, func(e map[string]any) {
			text, _ := e["text"].(string) // its characters merge: whoever replaced some could split a token
			e["text"] = text + " " + tok()
		})
	}
}

// changeList adds an element, edits one (by within, or by putting another in its place) or removes one.
func (w *World) changeList(o map[string]any, key string, element func() any, within func(map[string]any)) {
	list, _ := o[key].([]any)
	n := w.rng.IntN(10)
	switch {
	case len(list) == 0 || n < 3:
		list = append(list, element())
	case n < 4:
		list = append([]any{element()}, list...)
	case n < 8:
		i := w.rng.IntN(len(list))
		if e, ok := list[i].(map[string]any); ok && within != nil {
			within(e)
		} else {
			list[i] = element()
		}
	default:
		i := w.rng.IntN(len(list))
		list = append(append([]any{}, list[:i]...), list[i+1:]...)
	}
	o[key] = list
	if len(list) == 0 {
		delete(o, key)
	}
}

func decode(s string) map[string]any {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	var o map[string]any
	if err := dec.Decode(&o); err != nil {
		panic(err) // it came from the replica or from encode
	}
	return o
}

func encode(o map[string]any) string {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	return string(b)
}

// field returns the JSON of a resource's field that path begins with; empty if it has none.
func field(shown, path string) string {
	if shown == "" {
		return ""
	}
	key := path
	if i := strings.IndexAny(path, ".["); i >= 0 && !strings.HasPrefix(path, "value[x]") {
		key = path[:i]
	}
	var b bytes.Buffer
	o := decode(shown)
	for _, k := range slices.Sorted(maps.Keys(o)) {
		if k == key || key == "value[x]" && strings.HasPrefix(k, "value") || path == "" && k != "meta" {
			fmt.Fprintf(&b, "%s", encode(map[string]any{k: o[k]}))
		}
	}
	return b.String()
}

// wholes returns a resource's quantities and amounts, each canonical.
func wholes(shown string) (list []string) {
	if shown == "" {
		return nil
	}
	o, err := fhir.Parse([]byte(shown))
	if err != nil {
		return nil // a part, of a conflict
	}
	for _, key := range []string{"valueQuantity", "total"} {
		if v, ok := o[key]; ok {
			list = append(list, string(fhir.Canonical(v)))
		}
	}
	return list
}
