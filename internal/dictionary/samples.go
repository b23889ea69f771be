package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"

	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

// What the samples are drawn from. Every number is part of how dictionary 1 was made.
const (
	firstSeed   = 1001 // far from the seeds of the demonstration and of tests
	seeds       = 4
	perSeed     = 10 // patients of a seed, about half of them from other peoples than the first
	fillings    = 24 // times that all forms are filled in
	leaveOut    = 6  // one in so many elements of a form is left out
	editsAmong  = 4  // one in so many resources is edited afterwards
	formsInFull = 6  // fillings in which no element is left out
)

//go:embed templates.jsonl
var templates []byte

// samples writes all groups.
func samples(ctx context.Context) ([][][]byte, error) {
	var groups [][][]byte
	for seed := range uint64(seeds) {
		for patient := range synthetic.Patients(firstSeed+seed, perSeed) {
			var record []fhir.Object
			err := fhir.ReadFile("patient", bytes.NewReader(fhir.Canonical(patient)), func(it fhir.Item) error {
				record = append(record, it.Resource)
				return it.Err
			})
			if err != nil {
				return nil, err
			}
			group, err := write(ctx, newMask(len(groups)), record)
			if err != nil {
				return nil, err
			}
			groups = append(groups, group)
		}
	}
	for i := range fillings {
		m := newMask(len(groups))
		forms, err := m.fill(i >= formsInFull)
		if err != nil {
			return nil, err
		}
		var group [][]byte
		for _, form := range forms { // a document each, since their first strings are what a dictionary is for
			changes, err := write(ctx, m, []fhir.Object{form})
			if err != nil {
				return nil, err
			}
			group = append(group, changes...)
		}
		groups = append(groups, group)
	}
	return groups, nil
}

// write makes the changes of a record in the way of an import, one for each document, and then edits of single
// resources.
func write(ctx context.Context, m *mask, record []fhir.Object) ([][]byte, error) {
	documents := map[string][]fhir.Object{}
	for _, o := range record {
		p := fhir.Place(o)
		name := p.Scope + "/" + p.Patient + "/" + p.Section
		if p.Patient == "" {
			name = o.Type() + "/" + o.ID()
		}
		documents[name] = append(documents[name], o)
	}
	e := engine.NewLocal()
	defer func() { _ = e.Close() }()
	var changes [][]byte
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		var doc crdt.DocumentID
		m.fillBytes(doc[:])
		if _, err := e.Load(ctx, doc, nil, nil); err != nil {
			return nil, err
		}
		var actor crdt.Actor
		m.fillBytes(actor[:])
		edit := func(resources []fhir.Object) error {
			change, err := m.change(ctx, e, doc, actor, resources)
			changes = append(changes, change)
			return err
		}
		masked := make([]fhir.Object, len(documents[name]))
		for i, o := range documents[name] {
			masked[i] = m.object(o)
		}
		if err := edit(masked); err != nil {
			return nil, fmt.Errorf("write %s: %w", masked[0].Type(), err)
		}
		for _, o := range masked {
			if m.IntN(editsAmong) > 0 {
				continue
			}
			if o = m.edited(o); o == nil {
				continue
			}
			if err := edit([]fhir.Object{o}); err != nil {
				return nil, fmt.Errorf("edit %s: %w", o.Type(), err)
			}
		}
	}
	return changes, nil
}

func (m *mask) change(ctx context.Context, e crdt.Engine, doc crdt.DocumentID, actor crdt.Actor, resources []fhir.Object) ([]byte, error) {
	want := map[string]crdt.Value{}
	for _, o := range resources {
		v, err := fhir.ToValue(o)
		if err != nil {
			return nil, err
		}
		want[o.Type()+"/"+o.ID()] = v
	}
	fields, err := e.Read(ctx, doc, slices.Sorted(maps.Keys(want)), nil)
	if err != nil {
		return nil, err
	}
	have := map[string]crdt.Register{}
	for _, f := range fields {
		have[f.Key] = f.Values
	}
	instructions, err := crdt.WriteAll(have, want)
	if err != nil {
		return nil, err
	}
	change, _, err := e.Edit(ctx, doc, crdt.Edit{
		Actor: actor, TimeMillis: 1_700_000_000_000 + m.Int64N(100_000_000_000), Instructions: instructions,
	})
	return change, err
}

// mask fills in forms and replaces what names somebody or something. The same string in one group is always replaced by
// the same other one, so that references still lead somewhere.
type mask struct {
	*rand.Rand
	source *rand.ChaCha8
	group  int
}

func newMask(group int) *mask {
	source := rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "chartmesh dictionary 1, group %d", group)))
	return &mask{rand.New(source), source, group}
}

func (m *mask) fillBytes(b []byte) { _, _ = m.source.Read(b) } // never fails

// fill returns the forms; some elements are left out, so that their neighbours stand beside others too.
func (m *mask) fill(some bool) ([]fhir.Object, error) {
	var forms []fhir.Object
	for line := range bytes.Lines(templates) {
		o, err := fhir.Parse(bytes.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("read forms: %w", err)
		}
		for _, key := range slices.Sorted(maps.Keys(o)) {
			if some && key != "resourceType" && m.IntN(leaveOut) == 0 {
				delete(o, key)
			}
		}
		o["id"] = fmt.Sprintf("%08x-%04x-4%03x-a%03x-%012x", m.Uint32(), m.IntN(1<<16), m.IntN(1<<12), m.IntN(1<<12), m.Int64N(1<<48))
		forms = append(forms, o)
	}
	return forms, nil
}

// edited returns a resource with another status, text or value; nil if it has none of these, or drew what it has.
func (m *mask) edited(was fhir.Object) fhir.Object {
	o := fhir.Clone(was)
	var can []string
	for _, key := range []string{"status", "valueQuantity", "note", "telecom", "period", "description", "conclusion"} {
		if o[key] != nil {
			can = append(can, key)
		}
	}
	if len(can) == 0 {
		return nil
	}
	other := newMask(m.group + 1<<20)
	key := can[m.IntN(len(can))]
	if key == "status" {
		states := []string{"active", "completed", "finished", "final", "amended", "entered-in-error", "cancelled"}
		o[key] = states[m.IntN(len(states))]
	} else {
		o[key] = other.value(o[key], key)
	}
	if fhir.Equal(o, was) {
		return nil
	}
	return o
}

// vocabulary names the elements whose strings belong to FHIR or to a code system and not to anybody's record.
var vocabulary = map[string]bool{
	"resourceType": true, "system": true, "code": true, "display": true, "url": true, "unit": true, "status": true,
	"docStatus": true, "lifecycleStatus": true, "use": true, "gender": true, "language": true, "currency": true,
	"type": true, "intent": true, "priority": true, "category": true, "criticality": true, "severity": true,
	"profile": true, "contentType": true, "mode": true, "outcome": true, "required": true, "when": true,
	"periodUnit": true, "kind": true,
}

// blank begins what is vocabulary by its place, but stands for any word in a form.
const blank = "~"

func (m *mask) object(o fhir.Object) fhir.Object { return m.value(o, "").(fhir.Object) }

func (m *mask) value(v any, key string) any {
	switch v := v.(type) {
	case fhir.Object:
		out := make(fhir.Object, len(v))
		_, refers := v["reference"]
		for _, k := range slices.Sorted(maps.Keys(v)) {
			switch {
			case k == "text" && displayed(v):
				out[k] = m.value(v[k], "display")
			case k == "display" && refers:
				out[k] = m.string(v[k].(string)) // somebody's name
			case k == "div":
				out[k] = m.narrative(v[k].(string))
			default:
				out[k] = m.value(v[k], k)
			}
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = m.value(v[i], key)
		}
		return out
	case fhir.Number:
		return fhir.Number(m.string(string(v)))
	case string:
		if key == "reference" {
			resourceType, id, ok := strings.Cut(v, "/")
			if ok {
				return resourceType + "/" + m.string(id)
			}
		}
		rest, open := strings.CutPrefix(v, blank)
		if vocabulary[key] && !open && !strings.HasPrefix(v, "urn:chartmesh:") {
			return v
		}
		return m.string(rest)
	}
	return v
}

// displayed reports whether a concept's text is the code system's and not somebody's own.
func displayed(concept fhir.Object) bool {
	codings, _ := concept["coding"].([]any)
	return slices.ContainsFunc(codings, func(coding any) bool {
		c, ok := coding.(fhir.Object)
		return ok && c["display"] != nil && c["display"] == concept["text"]
	})
}

// narrative replaces what stands between the tags.
func (m *mask) narrative(s string) string {
	var out strings.Builder
	for s != "" {
		text, rest, _ := strings.Cut(s, "<")
		out.WriteString(m.string(text))
		tag, after, ok := strings.Cut(rest, ">")
		if ok {
			out.WriteString("<" + tag + ">")
		}
		s = after
	}
	return out.String()
}

// string replaces letters by letters and digits by digits.
func (m *mask) string(s string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d/%s", m.group, s))
	draw := rand.New(rand.NewPCG(binary.BigEndian.Uint64(sum[:]), binary.BigEndian.Uint64(sum[8:])))
	letters := "abcdefghijklmnopqrstuvwxyz"
	if len(s) == 36 && strings.Count(s, "-") == 4 {
		letters = "abcdef" // a UUID
	}
	out := []rune(s)
	for i, r := range out {
		switch {
		case r >= '0' && r <= '9':
			out[i] = rune('1' + draw.IntN(9)) // no zero, which a number may not begin with
		case r >= 'A' && r <= 'Z' && len(s) > 1:
			out[i] = rune('A' + draw.IntN(26))
		case r >= 'a' && r <= 'z' || r > 127:
			out[i] = rune(letters[draw.IntN(len(letters))])
		}
	}
	return string(out)
}
