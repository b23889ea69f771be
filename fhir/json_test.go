package fhir

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"chartmesh/internal/fuzzing"
)

func TestParseKeepsWhatItRead(t *testing.T) {
	for in, want := range map[string]string{
		`{}`: `{}`,
		` { "b" : [ 1 , 2.50, -0, 1E+3 ] , "a" : null } `: `{"a":null,"b":[1,2.50,-0,1E+3]}`,
		`{"a":"\u00e9\/\u0041<&>\u2028"}`:                 "{\"a\":\"é/A<&>\u2028\"}",
		`{"a":"\ud83d\ude00"}`:                            `{"a":"😀"}`,
		`{"a":"\b\f\n\r\t\"\\\u0000\u001f\u007f"}`:        `{"a":"\b\f\n\r\t\"\\\u0000\u001f` + "\x7f" + `"}`,
		`{"a":[[],{},[{}]],"":true,"A":false}`:            `{"":true,"A":false,"a":[[],{},[{}]]}`,
		`{"a":12345678901234567890123456789.000}`:         `{"a":12345678901234567890123456789.000}`,
		`{"\u0061b":1,"\n":2}`:                            `{"\n":2,"ab":1}`,
	} {
		o, err := Parse([]byte(in))
		if err != nil {
			t.Errorf("Parse(%s): %v", in, err)
			continue
		}
		if got := string(Canonical(o)); got != want {
			t.Errorf("Parse(%s) in canonical form = %s, want %s", in, got, want)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for name, in := range map[string]string{
		"nothing":             ``,
		"no object":           `[]`,
		"a string":            `"a"`,
		"two values":          `{}{}`,
		"a key twice":         `{"a":1,"a":1}`,
		"an escaped key":      `{"a":1,"\u0061":1}`,
		"half a pair":         `{"a":"\ud83d"}`,
		"half a pair, end":    `{"a":"\ud83d\u0041"}`,
		"second half":         `{"a":"\ude00"}`,
		"halves swapped":      `{"a":"\ude00\ud83d"}`,
		"invalid UTF-8":       "{\"a\":\"\xff\"}",
		"overlong UTF-8":      "{\"a\":\"\xc0\x80\"}",
		"surrogate in UTF-8":  "{\"a\":\"\xed\xa0\x80\"}",
		"control character":   "{\"a\":\"\n\"}",
		"escaped control":     "{\"a\":\"\\\n\"}",
		"bad escape":          `{"a":"\x41"}`,
		"short escape":        `{"a":"\u004"}`,
		"leading zero":        `{"a":01}`,
		"no integer part":     `{"a":.5}`,
		"no fraction":         `{"a":1.}`,
		"no exponent":         `{"a":1e}`,
		"plus":                `{"a":+1}`,
		"only minus":          `{"a":-}`,
		"trailing comma":      `{"a":1,}`,
		"trailing comma list": `{"a":[1,]}`,
		"missing comma":       `{"a":1 "b":2}`,
		"missing colon":       `{"a" 1}`,
		"bare key":            `{a:1}`,
		"unended":             `{"a":[1`,
		"unended string":      `{"a":"b`,
		"unended escape":      `{"a":"b\`,
		"wrong word":          `{"a":nul}`,
		"capital":             `{"a":True}`,
		"NaN":                 `{"a":NaN}`,
		"byte order mark":     "\ufeff{}",
		"no-break space":      "{\u00a0}",
		"form feed":           "{\f}",
		"deep":                `{"a":` + strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth) + `}`,
		"long number":         `{"a":` + strings.Repeat("1", MaxNumber+1) + `}`,
		"large":               `{"a":"` + strings.Repeat("x", MaxResource) + `"}`,
	} {
		if o, err := Parse([]byte(in)); err == nil {
			t.Errorf("%s: Parse took it as %s", name, Canonical(o))
		}
	}
	if _, err := Parse([]byte(`{"a":` + strings.Repeat("[", MaxDepth-1) + strings.Repeat("]", MaxDepth-1) + `}`)); err != nil {
		t.Errorf("at the cap of depth: %v", err)
	}
	if _, err := Parse([]byte(`{"a":` + strings.Repeat("1", MaxNumber) + `}`)); err != nil {
		t.Errorf("at the cap of digits: %v", err)
	}
}

func TestParseErrorsHoldNothingOfTheInput(t *testing.T) {
	for _, in := range []string{`{"canary":"canary"`, `{"canary":1,"canary":2}`, `{"a":canary}`, `{"a":"\canary"}`} {
		if _, err := Parse([]byte(in)); err == nil || strings.Contains(err.Error(), "canary") {
			t.Errorf("Parse(%s): %v", in, err)
		}
	}
}

func TestEqual(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want bool
	}{
		{`{"a":1,"b":2}`, `{"b":2,"a":1}`, true},
		{`{"a":1.0}`, `{"a":1}`, false},
		{`{"a":1}`, `{"a":"1"}`, false},
		{`{"a":[1,2]}`, `{"a":[2,1]}`, false},
		{`{"a":null}`, `{}`, false},
		{`{"a":null}`, `{"b":null}`, false},
		{`{"a":[]}`, `{"a":{}}`, false},
		{`{"a":false}`, `{"a":null}`, false},
		{`{"a":true}`, `{"a":{}}`, false},
		{`{"a":{"b":[{"c":"d"}]}}`, `{"a":{"b":[{"c":"d"}]}}`, true},
	} {
		if got := Equal(parse(t, c.a), parse(t, c.b)); got != c.want {
			t.Errorf("Equal(%s, %s) = %v", c.a, c.b, got)
		}
	}
}

func TestCloneSharesNothing(t *testing.T) {
	a := parse(t, `{"a":{"b":[{"c":1}]}}`)
	b := Clone(a)
	list(object(b, "a"), "b")[0].(Object)["c"] = "changed"
	if want := parse(t, `{"a":{"b":[{"c":1}]}}`); !Equal(a, want) {
		t.Errorf("the original became %s", Canonical(a))
	}
}

// TestParseAgreesWithStdlib holds the parser against encoding/json, slow and obvious.
func TestParseAgreesWithStdlib(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		o := randomObject(t, 4)
		data := Canonical(o)
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var std map[string]any
		if err := d.Decode(&std); err != nil {
			t.Fatalf("encoding/json refuses %s: %v", data, err)
		}
		again, err := Parse(data)
		if err != nil {
			t.Fatalf("Parse(%s): %v", data, err)
		}
		if !Equal(again, fromStdlib(std)) || !Equal(again, o) {
			t.Fatalf("Parse(%s) = %s", data, Canonical(again))
		}
	})
}

func fromStdlib(v any) any {
	switch v := v.(type) {
	case map[string]any:
		o := Object{}
		for k, e := range v {
			o[k] = fromStdlib(e)
		}
		return o
	case []any:
		for i := range v {
			v[i] = fromStdlib(v[i])
		}
		return v
	case json.Number:
		return Number(v)
	}
	return v
}

func FuzzParse(f *testing.F) {
	taken := 0
	for _, s := range seeds(f) {
		if _, err := ParseValue(s); err == nil {
			taken++
		}
		f.Add(s)
	}
	if taken < 5 {
		f.Fatalf("only %d seeds are JSON", taken)
	}
	f.Add([]byte(`{"name":"` + fuzzing.Canary + `","name":"` + fuzzing.Canary + `"}`))
	f.Add([]byte(`{"` + fuzzing.Canary + `":[[[[{"a":"\ud800"}]]]]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		var err error
		// An empty object or array of two bytes becomes a map or a slice.
		fuzzing.Allocates(t, len(data), 256, 64<<10, func() { v, err = ParseValue(data) })
		fuzzing.Quiet(t, err)
		o, err := Parse(data)
		fuzzing.Quiet(t, err)
		if err != nil {
			if _, object := v.(Object); object {
				t.Fatalf("an object is a value and is refused: %v", err)
			}
			return
		}
		if !json.Valid(data) {
			t.Fatalf("Parse took what encoding/json calls invalid: %q", data)
		}
		canonical := Canonical(o)
		again, err := Parse(canonical)
		if err != nil {
			t.Fatalf("Parse refuses its canonical form %q: %v", canonical, err)
		}
		if !Equal(o, again) || !bytes.Equal(Canonical(again), canonical) {
			t.Fatalf("%q is not stable", canonical)
		}
	})
}

func parse(t testing.TB, s string) Object {
	t.Helper()
	o, err := Parse([]byte(s))
	if err != nil {
		t.Fatalf("Parse(%s): %v", s, err)
	}
	return o
}
