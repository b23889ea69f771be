package fhir

import (
	"errors"
	"strings"
	"testing"
	"time"

	"chartmesh/crdt"
	"chartmesh/internal/fuzzing"
)

// valueOf makes a document's value out of JSON: objects and arrays become maps and lists, and a string says by its first
// letter of which kind it is. It can make what no ToValue makes, as another member's document can.
func valueOf(v any) crdt.Value {
	switch v := v.(type) {
	case Object:
		out := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{}}
		for k, e := range v {
			out.Map[k] = valueOf(e)
		}
		return out
	case []any:
		out := crdt.Value{Kind: crdt.List}
		for _, e := range v {
			out.List = append(out.List, valueOf(e))
		}
		return out
	case bool:
		out := crdt.Value{Kind: crdt.Bool}
		if v {
			out.Int = 1
		}
		return out
	case Number:
		return crdt.Value{Kind: crdt.Int, Int: int64(len(v))}
	case string:
		kinds := map[byte]crdt.Kind{'b': crdt.Bytes, 's': crdt.String, 't': crdt.Text, 'x': crdt.Kind(99)}
		if v != "" && kinds[v[0]] != 0 {
			return crdt.Value{Kind: kinds[v[0]], Str: v[1:]}
		}
		return crdt.Value{Kind: crdt.String, Str: v}
	}
	return crdt.Value{Kind: crdt.Null}
}

// FuzzFromValue maps documents that anybody may have written: what maps is a resource that maps there and back.
func FuzzFromValue(f *testing.F) {
	for _, seed := range []string{
		`{"id":"sa","active":true,"birthDate":"s1970-01-01","name":[{"family":"t` + fuzzing.Canary + `"}]}`,
		`{"value[x]":"bj{\"valueQuantity\":{\"value\":1.50}}","code":"bj{\"text\":\"` + fuzzing.Canary + `\"}"}`,
		`{"given":["ba","bp[\"a\",{\"id\":\"1\"}]","be{\"id\":\"2\"}","bv\"b\""],"_x[x]":"sy"}`,
		`{"birthDate":"bp[\"1970\",{\"extension\":[]}]"}`,
	} {
		v, err := ParseValue([]byte(seed))
		if err != nil {
			f.Fatal(err)
		}
		_, _ = FromValue(valueOf(v)) // some are meant to be refused
		f.Add([]byte(seed))
	}
	if v, err := ParseValue([]byte(`{"birthDate":"bp[\"1970\",{\"extension\":[]}]","active":true}`)); err != nil {
		f.Fatal(err)
	} else if o, err := FromValue(valueOf(v)); err != nil || len(o) != 3 {
		f.Fatalf("a seed maps to %v, %v", o, err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		v, err := ParseValue(data)
		if err != nil || len(data) > 1<<16 {
			return
		}
		value := valueOf(v)
		_, err = JSON(value)
		fuzzing.Quiet(t, err)
		var o Object
		fuzzing.Allocates(t, len(data), 1024, 64<<10, func() { o, err = FromValue(value) })
		fuzzing.Quiet(t, err)
		if err != nil {
			if !errors.Is(err, ErrMapping) {
				t.Fatalf("error is %v", err)
			}
			return
		}
		o["resourceType"] = "Observation"
		roundTrip(t, o)
	})
}

// FuzzElements asks a resource, whatever is in it, for everything that the agent looks up in one.
func FuzzElements(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed, "name[0].family", []byte(`"Berg"`))
	}
	f.Add([]byte(`{"resourceType":"Observation","id":"a","valueQuantity":{"value":1},"effectiveDateTime":"2026-13","subject":{"reference":"Patient/../x"}}`),
		"value[x]", []byte(`{"valueString":"`+fuzzing.Canary+`"}`))
	f.Add([]byte(`{"resourceType":"Bundle","id":"a","entry":[{"resource":{"resourceType":"Patient","name":[{}]}}]}`),
		"entry[0].resource.name[0]", []byte(`{"family":{"_value":1,"value":2}}`))
	f.Fuzz(func(t *testing.T, data []byte, path string, shown []byte) {
		o, err := Parse(data)
		if err != nil || len(data) > 1<<16 || len(path) > 1<<12 {
			return
		}
		before := string(Canonical(o))
		_, _, err = Name(o)
		fuzzing.Quiet(t, err)
		Summary(o)
		for _, word := range Terms(o) {
			if word == "" || strings.ContainsAny(word, " \n") {
				t.Errorf("%s is found by %q", before, word)
			}
		}
		if p := Place(o); p.Patient != "" && !ValidID(p.Patient) {
			t.Errorf("%s is placed with patient %q", before, p.Patient)
		}
		Query(path)
		Version(o)
		tagged := SetConflictTag(SetMeta(o, "1", time.UnixMilli(1790000000000)))
		if again := RestoreMeta(tagged, o); !Equal(again, o) {
			t.Errorf("%s comes back as %s", before, Canonical(again))
		}
		StripMeta(o)
		if want, err := ParseValue(shown); err == nil && len(shown) < 1<<16 {
			v, err := ValueAt(o, path, want)
			fuzzing.Quiet(t, err)
			if err == nil {
				if _, err := JSON(v); err != nil {
					t.Errorf("what is written at a path cannot be shown: %v", err)
				}
			}
		}
		if after := string(Canonical(o)); after != before {
			t.Errorf("%s became %s by being looked at", before, after)
		}
	})
}
