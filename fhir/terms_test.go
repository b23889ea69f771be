package fhir

import (
	"slices"
	"strings"
	"testing"
)

func TestTermsFindPeople(t *testing.T) {
	patient := parse(t, `{"resourceType":"Patient","id":"p","birthDate":"1970-01-31","gender":"female",
		"name":[{"family":"Müller-Lüdenscheidt","given":["Zoë","Łucja"]},{"use":"official","family":"Großmann","given":["Ægir"]},{"text":"Dr. J. O'Brien"}],
		"identifier":[{"value":"A 123-456.X"},{"system":"only"}],"address":[{"city":"Köln"}]}`)
	terms := Terms(patient)
	if !slices.IsSorted(terms) || len(slices.Compact(slices.Clone(terms))) != len(terms) {
		t.Errorf("terms are not sorted, each once: %q", terms)
	}
	finds := func(query string) bool {
		words := Query(query)
		for _, w := range words {
			if !slices.ContainsFunc(terms, func(t string) bool { return strings.HasPrefix(t, w) }) {
				return false
			}
		}
		return len(words) > 0
	}
	for _, q := range []string{
		"müller", "MÜLLER", "mu\u0308ller", "mueller", "muller", "Müller-Lüdenscheidt", "luedenscheidt", "Zoë", "zoe", "lucja",
		"Großmann", "grossmann", "GROSSMANN", "aegir", "Ægir", "O'Brien", "o’brien", "1970-01-31", "31.01.1970", "31.1.1970",
		"1970", "1970-01", "A123456X", "a 123456", "A-123-456", "123456", "müller, zoë", "Zo Mül", "müller 1970",
	} {
		if !finds(q) {
			t.Errorf("%q does not find the patient: %q against %q", q, Query(q), terms)
		}
	}
	for _, q := range []string{"", " ,; ", "schmidt", "müller schmidt", "Köln", "female", "1971", "31.02.1970", "23456", "…"} {
		if finds(q) {
			t.Errorf("%q finds the patient", q)
		}
	}
	if got := Terms(parse(t, `{"resourceType":"Patient","name":[{"family":"Mueller"}]}`)); !slices.Equal(got, []string{"mueller", "muller"}) {
		t.Errorf("Mueller has the terms %q", got)
	}
	if got := Terms(parse(t, `{"resourceType":"Organization","name":"Praxis Süd","alias":["PS", 7]}`)); !slices.Equal(got, []string{"praxis", "ps", "sud", "sued"}) {
		t.Errorf("an organisation has the terms %q", got)
	}
	if got := Terms(parse(t, `{"resourceType":"Observation","name":"x","identifier":[{"value":"x"}]}`)); got != nil {
		t.Errorf("an observation has the terms %q", got)
	}
}

func TestTermsAreCapped(t *testing.T) {
	o := parse(t, `{"resourceType":"Organization","name":"`+strings.Repeat("x", 1000)+strings.Repeat(" a b c d", 1000)+`"}`)
	for _, term := range Terms(o) {
		if len(term) > maxTermLength {
			t.Errorf("a term of %d bytes", len(term))
		}
	}
	var names []string
	for i := range 1000 {
		names = append(names, strings.Repeat("x", 1+i%50)+strings.Repeat("y", 1+i/50))
	}
	o["name"] = strings.Join(names, " ")
	if n := len(Terms(o)); n != maxTerms {
		t.Errorf("%d terms", n)
	}
}

func TestSummary(t *testing.T) {
	for in, want := range map[string][3]string{
		`{"resourceType":"Patient","birthDate":"1970","name":[{"family":"A"},{"use":"official","family":"B","given":["C","D"]}],"identifier":[{"value":"1"},{"value":"2"}]}`: {"B, C D", "1970", "1 2"},
		`{"resourceType":"Practitioner","name":[{"text":"Dr. X","family":"Y"}]}`:                                                                                             {"Dr. X", "", ""},
		`{"resourceType":"RelatedPerson","name":[{"given":["G"]}]}`:                                                                                                          {"G", "", ""},
		`{"resourceType":"Person","name":{"family":"F"}}`:                                                                                                                    {"F", "", ""},
		`{"resourceType":"Organization","name":"O"}`:                                                                                                                         {"O", "", ""},
		`{"resourceType":"Patient","name":["odd"],"identifier":"odd","birthDate":7}`:                                                                                         {"", "", ""},
		`{"resourceType":"Observation","name":"O"}`:                                                                                                                          {"", "", ""},
	} {
		name, birth, ids := Summary(parse(t, in))
		if got := [3]string{name, birth, strings.Join(ids, " ")}; got != want {
			t.Errorf("Summary(%s) = %q, want %q", in, got, want)
		}
	}
}
