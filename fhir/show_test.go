package fhir

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"chartmesh/crdt"
)

func TestJSONShowsParts(t *testing.T) {
	v, err := ToValue(parse(t, `{"resourceType":"Patient","birthDate":"1970-01-31","_birthDate":{"id":"a"},"deceasedBoolean":true,
		"name":[{"given":["A","B"],"_given":[null,{"id":"x"}]}]}`))
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{
		"birthDate":   `{"_value":{"id":"a"},"value":"1970-01-31"}`,
		"deceased[x]": `{"deceasedBoolean":true}`,
		"name":        `[{"_given":[null,{"id":"x"}],"given":["A","B"]}]`,
	} {
		if got, err := JSON(v.Map[key]); err != nil || string(Canonical(got)) != want {
			t.Errorf("JSON of %s = %s (%v), want %s", key, Canonical(got), err, want)
		}
	}
	given := v.Map["name"].List[0].Map["given"]
	if got, _ := JSON(given); string(Canonical(got)) != `["A",{"_value":{"id":"x"},"value":"B"}]` {
		t.Errorf("JSON of given = %s", Canonical(got))
	}
}

// TestShownPartsComeBack takes every part of a resource, as JSON shows it, back to the value that it came from.
func TestShownPartsComeBack(t *testing.T) {
	for _, s := range seeds(t) {
		o, err := Parse(s)
		if err != nil {
			continue
		}
		if n := partsComeBack(t, o); n < 3 {
			t.Errorf("%d parts of %s", n, Canonical(o))
		}
	}
	partsComeBack(t, parse(t, example))
}

func partsComeBack(t *testing.T, o Object) (parts int) {
	root, err := ToValue(o)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(path string, v crdt.Value)
	walk = func(path string, v crdt.Value) {
		parts++
		shown, err := JSON(v)
		if err != nil {
			t.Fatalf("JSON at %s: %v", path, err)
		}
		back, err := ValueAt(o, path, shown)
		switch {
		case strings.Contains(show(v), `Bytes v`): // a place behind the end of _x is shown as the plain value
		case err != nil:
			t.Errorf("ValueAt(%s, %s): %v", path, Canonical(shown), err)
		case !back.Equal(v):
			t.Errorf("ValueAt(%s, %s) is\n%s\nwant\n%s", path, Canonical(shown), show(back), show(v))
		}
		for i, e := range v.List {
			walk(fmt.Sprintf("%s[%d]", path, i), e)
		}
		for k, e := range v.Map {
			if k != "" {
				walk(strings.TrimPrefix(path+"."+k, "."), e)
			}
		}
	}
	walk("", root)
	return parts
}

func TestValueAtMapsNewParts(t *testing.T) {
	o := parse(t, `{"resourceType":"Observation","contained":[{"resourceType":"Patient"}]}`)
	for _, c := range []struct{ path, shown, want string }{
		{"value[x]", `{"valueString":"a"}`, "Bytes j{\"valueString\":\"a\"}\n"},
		{"note[3]", `{"text":"a"}`, "Map\n  text: Text \"a\"\n"},
		{"note[3].text", `"a"`, "Text \"a\"\n"},
		{"component[0].valueless", `{"a":1}`, "Bytes j{\"a\":1}\n"},
		{"component[0].value[x]", `{"valueQuantity":{"value":1}}`, "Bytes j{\"valueQuantity\":{\"value\":1}}\n"},
		{"contained[0].name", `[{"family":"X"}]`, "List\n  - Map\n    family: String \"X\"\n"},
		{"contained[0].name[0].given[1]", `{"value":"X","_value":{"id":"a"}}`, "Bytes p[\"X\",{\"id\":\"a\"}]\n"},
		{"referenceRange[0].low", `{"value":1,"_value":{"id":"a"}}`, "Bytes j{\"_value\":{\"id\":\"a\"},\"value\":1}\n"},
		{"status", `{"value":"final","_value":{"id":"a"}}`, "Bytes p[\"final\",{\"id\":\"a\"}]\n"},
	} {
		shown, err := ParseValue([]byte(c.shown))
		if err != nil {
			t.Fatal(err)
		}
		if v, err := ValueAt(o, c.path, shown); err != nil || show(v) != c.want {
			t.Errorf("ValueAt(%s, %s) = %s (%v), want %s", c.path, c.shown, show(v), err, c.want)
		}
	}
	for path, shown := range map[string]any{
		"":                     "a",
		"value[x]":             "a",
		"effective[x]":         Object{"valueString": "a"},
		"nothing[x]":           Object{"nothingString": "a"},
		"value[x].valueString": "a",
		"code.text":            "a",
		"status.x":             "a",
		"contained[0]name":     "a",
		"component[a].x":       "a",
		"component[0][1].x":    "a",
	} {
		if v, err := ValueAt(o, path, shown); !errors.Is(err, ErrInvalid) {
			t.Errorf("ValueAt(%s) = %s (%v)", path, show(v), err)
		}
	}
}
