package fhir

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chartmesh/crdt"

	"pgregory.net/rapid"
)

// show writes a value so that a person can compare it: every scalar with its kind.
func show(v crdt.Value) string {
	var b strings.Builder
	var walk func(v crdt.Value, indent string)
	walk = func(v crdt.Value, indent string) {
		switch v.Kind {
		case crdt.Map:
			b.WriteString("Map\n")
			for _, k := range sortedKeys(v.Map) {
				fmt.Fprintf(&b, "%s%s: ", indent, k)
				walk(v.Map[k], indent+"  ")
			}
		case crdt.List:
			b.WriteString("List\n")
			for _, e := range v.List {
				fmt.Fprintf(&b, "%s- ", indent)
				walk(e, indent+"  ")
			}
		case crdt.Text:
			fmt.Fprintf(&b, "Text %q\n", v.Str)
		case crdt.String:
			fmt.Fprintf(&b, "String %q\n", v.Str)
		case crdt.Bytes:
			fmt.Fprintf(&b, "Bytes %s\n", v.Str)
		case crdt.Int:
			fmt.Fprintf(&b, "Int %d\n", v.Int)
		case crdt.Bool:
			fmt.Fprintf(&b, "Bool %d\n", v.Int)
		case crdt.Null:
			b.WriteString("Null\n")
		default:
			fmt.Fprintf(&b, "kind %d\n", v.Kind)
		}
	}
	walk(v, "  ")
	return b.String()
}

func sortedKeys(m map[string]crdt.Value) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// TestMappingExamples holds the mapping to the examples of the specification, in testdata/mapping: a resource, a line
// of dashes, and its value. CHARTMESH_UPDATE=1 writes the values anew.
func TestMappingExamples(t *testing.T) {
	files, _ := filepath.Glob("testdata/mapping/*.txt")
	if len(files) < 8 {
		t.Fatalf("%d examples", len(files))
	}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		in, want, _ := bytes.Cut(data, []byte("---\n"))
		o := parse(t, string(in))
		v, err := ToValue(o)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if os.Getenv("CHARTMESH_UPDATE") != "" {
			if err := os.WriteFile(name, append(append(in, "---\n"...), show(v)...), 0o666); err != nil {
				t.Fatal(err)
			}
		} else if got := show(v); got != string(want) {
			t.Errorf("%s: value is\n%s\nwant\n%s", name, got, want)
		}
		roundTrip(t, o)
	}
}

func roundTrip(t interface{ Fatalf(string, ...any) }, o Object) {
	v, err := ToValue(o)
	if err != nil {
		t.Fatalf("ToValue(%s): %v", Canonical(o), err)
	}
	back, err := FromValue(v)
	if err != nil {
		t.Fatalf("FromValue of %s: %v\n%s", Canonical(o), err, show(v))
	}
	if !Equal(o, back) {
		t.Fatalf("%s comes back as %s from\n%s", Canonical(o), Canonical(back), show(v))
	}
	if again, err := ToValue(back); err != nil || !again.Equal(v) {
		t.Fatalf("%s maps to another value the second time", Canonical(o))
	}
	if _, err := JSON(v); err != nil {
		t.Fatalf("JSON of %s: %v", Canonical(o), err)
	}
}

func TestMappingKeepsOddShapes(t *testing.T) {
	for _, in := range []string{
		`{"resourceType":"Patient","name":"string where a list is due"}`,
		`{"resourceType":"Patient","name":{"family":"X"},"active":{"a":1},"birthDate":["a"],"contact":7}`,
		`{"resourceType":"Patient","name":[null,"a",1,[],{},[[]],{"given":null}]}`,
		`{"resourceType":"Patient","_name":[{"a":1}],"name":[{"family":"X"}]}`,
		`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[null,{"id":"x"}]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[null,null]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[null]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a","b"],"_given":[{"id":"x"}]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a"],"_given":[null,null]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a"],"_given":[null,{"id":"x"},null]}]}`,
		`{"resourceType":"Patient","name":[{"given":[null],"_given":[{"id":"x"}]}]}`,
		`{"resourceType":"Patient","name":[{"given":[null,null],"_given":[null]}]}`,
		`{"resourceType":"Patient","name":[{"_given":[{"id":"x"},null]}]}`,
		`{"resourceType":"Patient","name":[{"_given":[null]}]}`,
		`{"resourceType":"Patient","name":[{"_given":[]}]}`,
		`{"resourceType":"Patient","name":[{"given":[],"_given":[]}]}`,
		`{"resourceType":"Patient","name":[{"given":[],"_given":[{}]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a"],"_given":[]}]}`,
		`{"resourceType":"Patient","name":[{"given":["a"],"_given":{}}]}`,
		`{"resourceType":"Patient","name":[{"given":"a","_given":[{}]}]}`,
		`{"resourceType":"Patient","name":[{"given":[["a"],{"b":1}],"_given":["x",[]]}]}`,
		`{"resourceType":"Patient","birthDate":"1970","_birthDate":{"extension":[]}}`,
		`{"resourceType":"Patient","birthDate":null,"_birthDate":null}`,
		`{"resourceType":"Patient","_birthDate":null}`,
		`{"resourceType":"Patient","_birthDate":{"id":"a"},"__birthDate":1,"___birthDate":2,"_":3,"":4,"__":5}`,
		`{"resourceType":"Patient","_":{"a":1}}`,
		`{"resourceType":"Observation","valueQuantity":{"value":37.50},"_valueString":{"id":"a"},"valueString":"b"}`,
		`{"resourceType":"Observation","value[x]":1,"value[x][x]":2,"_value[x]":3,"[x]":4,"valueString":"a","_[x]":5}`,
		`{"resourceType":"Observation","value":1,"_value":2}`,
		`{"resourceType":"Observation","note":[{"text":""},{"text":"a"},{"text":["a",""]},{"text":"a","_text":{}}]}`,
		`{"resourceType":"Observation","note":[{"text":7,"authorString":null,"_authorString":[1]}]}`,
		`{"resourceType":"Patient","a":9223372036854775807,"b":9223372036854775808,"c":-9223372036854775808,"d":-0,"e":0,"f":1e2}`,
		`{"resourceType":"Patient","contained":[{"resourceType":"Observation","valueInteger":1},{"a":{}},{"resourceType":1},7]}`,
		`{"resourceType":"Patient","contained":{"resourceType":"Observation","valueInteger":1}}`,
		`{"resourceType":"Dragon","fire":{"breath":[{"hot":true}]},"meta":{"tag":[{"code":"a"}]}}`,
		`{"resourceType":"","x":{}}`,
		`{"resourceType":"HumanName","family":"not a resource","period":{}}`,
		`{"resourceType":"Element"}`,
		`{"resourceType":"Patient","_resourceType":{"id":"x"}}`,
		`{"resourceType":"Patient","~v":0,"{a":{},"[a":[],"\"a":"x","~~":1}`,
		`{"resourceType":"Patient","extension":{"url":"x"},"modifierExtension":[[{"url":"x"}]]}`,
	} {
		roundTrip(t, parse(t, in))
	}
}

func TestMappingNeedsAType(t *testing.T) {
	for _, in := range []string{`{}`, `{"resourceType":null}`, `{"resourceType":["Patient"]}`} {
		if _, err := ToValue(parse(t, in)); err == nil {
			t.Errorf("ToValue took %s", in)
		}
	}
}

// TestMergedLists reads lists whose elements two writers put beside each other.
func TestMergedLists(t *testing.T) {
	s := func(s string) crdt.Value { return crdt.Value{Kind: crdt.String, Str: s} }
	b := func(s string) crdt.Value { return crdt.Value{Kind: crdt.Bytes, Str: s} }
	for _, c := range []struct {
		list []crdt.Value
		want string
	}{
		{[]crdt.Value{s("a"), b(`p["b",{"id":"1"}]`), s("c")}, `{"x":["a","b","c"],"_x":[null,{"id":"1"},null]}`},
		{[]crdt.Value{b(`v"a"`), b(`p["b",{"id":"1"}]`), b(`v"c"`)}, `{"x":["a","b","c"],"_x":[null,{"id":"1"}]}`},
		{[]crdt.Value{b(`e{"id":"1"}`), s("c")}, `{"x":[null,"c"],"_x":[{"id":"1"},null]}`},
		{[]crdt.Value{b(`v"a"`), s("c")}, `{"x":["a","c"]}`},
		{nil, `{"x":[]}`},
	} {
		v := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{"x": {Kind: crdt.List, List: c.list}}}
		o, err := FromValue(v)
		if err != nil || !Equal(o, parse(t, c.want)) {
			t.Errorf("reads %s (%v), want %s", Canonical(o), err, c.want)
		}
	}
}

func TestFromValueRefuses(t *testing.T) {
	field := func(key string, v crdt.Value) crdt.Value {
		return crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{key: v}}
	}
	bytes := func(s string) crdt.Value { return crdt.Value{Kind: crdt.Bytes, Str: s} }
	deep := crdt.Value{Kind: crdt.Map}
	for range MaxDepth + 1 {
		deep = field("a", deep)
	}
	for name, v := range map[string]crdt.Value{
		"absent":           {},
		"a list":           {Kind: crdt.List},
		"absent field":     field("a", crdt.Value{}),
		"empty bytes":      field("a", bytes("")),
		"unknown tag":      field("a", bytes("z1")),
		"no JSON":          field("a", bytes("jcanary")),
		"pair of three":    field("a", bytes("p[1,2,3]")),
		"group of a list":  field("a[x]", bytes("j[]")),
		"group as a pair":  field("a[x]", bytes(`p[{},{}]`)),
		"group as a map":   field("a[x]", crdt.Value{Kind: crdt.Map}),
		"too deep":         deep,
		"element too deep": field("a", crdt.Value{Kind: crdt.List, List: []crdt.Value{deep}}),
		"a key twice":      {Kind: crdt.Map, Map: map[string]crdt.Value{"a": bytes("j1"), "b[x]": bytes(`j{"a":1}`)}},
		"a sibling twice":  {Kind: crdt.Map, Map: map[string]crdt.Value{"a": bytes("e1"), "_a": bytes("j1")}},
	} {
		if o, err := FromValue(v); err == nil {
			t.Errorf("%s: read as %s", name, Canonical(o))
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%s: the error holds content: %v", name, err)
		}
	}
}

// randomKeys are drawn so that elements, choices, siblings and keys that look like the mapping's own meet in one object.
var randomKeys = []string{
	"id", "name", "_name", "given", "_given", "family", "_family", "valueString", "_valueString", "valueQuantity", "value",
	"value[x]", "value[x][x]", "_value[x]", "[x]", "note", "text", "_text", "contained", "extension", "_extension", "meta",
	"component", "birthDate", "_birthDate", "", "_", "__x", "_x", "x", "~v", "{a", "[a", "identifier", "contact", "entry", "resource",
}

func randomObject(t *rapid.T, depth int) Object {
	o := Object{}
	for range rapid.IntRange(0, 6).Draw(t, "size") {
		key := rapid.OneOf(rapid.SampledFrom(randomKeys), rapid.SampledFrom(randomKeys), rapid.String()).Draw(t, "key")
		o[strings.ToValidUTF8(key, "?")] = randomValue(t, depth-1)
	}
	if rapid.Bool().Draw(t, "typed") {
		o["resourceType"] = rapid.SampledFrom([]string{"Patient", "Observation", "Bundle", "Dragon"}).Draw(t, "type")
	}
	return o
}

func randomValue(t *rapid.T, depth int) any {
	n := 8
	if depth <= 0 {
		n = 5
	}
	switch rapid.IntRange(0, n).Draw(t, "kind") {
	case 0:
		return nil
	case 1:
		return rapid.Bool().Draw(t, "bool")
	case 2:
		return strings.ToValidUTF8(rapid.String().Draw(t, "string"), "?")
	case 3:
		return Number(strconv.FormatInt(rapid.Int64().Draw(t, "int"), 10))
	case 4:
		return Number(rapid.StringMatching(`-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,5})?([eE][+-]?[0-9]{1,3})?`).Draw(t, "number"))
	case 5, 6:
		l := []any{}
		if depth > 0 {
			for range rapid.IntRange(0, 4).Draw(t, "length") {
				l = append(l, randomValue(t, depth-1))
			}
		}
		return l
	default:
		return randomObject(t, depth-1)
	}
}

func TestMappingRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := randomObject(t, 6)
		o["resourceType"] = cmp.Or(o.Type(), "Patient")
		roundTrip(t, o)
	})
}

func FuzzMapping(f *testing.F) {
	taken := 0
	for _, s := range seeds(f) {
		if _, err := Parse(s); err == nil {
			taken++
		}
		f.Add(s)
	}
	if taken < 5 {
		f.Fatalf("only %d seeds are resources", taken)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Parse(data)
		if err != nil || len(data) > 1<<16 {
			return
		}
		if _, ok := o["resourceType"].(string); !ok {
			o["resourceType"] = "Observation"
		}
		roundTrip(t, o)
	})
}

// seeds returns the resources under testdata for fuzzing.
func seeds(f testing.TB) [][]byte {
	var out [][]byte
	for _, pattern := range []string{"testdata/mapping/*.txt", "testdata/files/*"} {
		names, _ := filepath.Glob(pattern)
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			data, _, _ = bytes.Cut(data, []byte("---\n"))
			out = append(out, data)
		}
	}
	if len(out) < 8 {
		f.Fatalf("only %d seeds", len(out))
	}
	return out
}

func randomCRDT(t *rapid.T, depth int) crdt.Value {
	kinds := []crdt.Kind{crdt.Bytes, crdt.Bytes, crdt.String, crdt.Int, crdt.Bool, crdt.Null, crdt.Text, 0, 99}
	if depth > 0 {
		kinds = append(kinds, crdt.Map, crdt.List, crdt.Map, crdt.List)
	}
	v := crdt.Value{Kind: rapid.SampledFrom(kinds).Draw(t, "kind")}
	switch v.Kind {
	case crdt.Bytes:
		v.Str = rapid.SampledFrom([]string{"j", "p", "v", "e", "x", ""}).Draw(t, "tag") +
			rapid.SampledFrom([]string{"1", "[1,2]", "[1]", `{"valueString":"a"}`, "{", "null", "[[],[]]", " 1"}).Draw(t, "json")
	case crdt.String, crdt.Text:
		v.Str = rapid.StringN(0, 5, -1).Draw(t, "string")
	case crdt.Int, crdt.Bool:
		v.Int = rapid.Int64().Draw(t, "int")
	case crdt.List:
		for range rapid.IntRange(0, 4).Draw(t, "length") {
			v.List = append(v.List, randomCRDT(t, depth-1))
		}
	case crdt.Map:
		v.Map = map[string]crdt.Value{}
		for range rapid.IntRange(0, 5).Draw(t, "size") {
			v.Map[rapid.SampledFrom(randomKeys).Draw(t, "key")] = randomCRDT(t, depth-1)
		}
	}
	return v
}

// TestFromValueOfAnything reads values that no ToValue made: it refuses them, or what it reads maps like any resource.
func TestFromValueOfAnything(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := randomCRDT(t, 4)
		_, _ = JSON(v)
		o, err := FromValue(v)
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
