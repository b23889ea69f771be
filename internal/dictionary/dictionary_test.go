package main

import (
	"bytes"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

// samples1 is the digest of what dictionary 1 was made of.
const samples1 = "cfcc2d0d101ce17d2f8946335ee9c8e560dcaa2d45399fedf703144d47fa74d7"

func dictionary1(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "chunk", "dictionary1.bin"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMakeAgain makes dictionary 1 again. Should it fail after a change of the synthetic patients, of the mapping or of
// the engine, then the samples are others now: dictionary 1 stays as it is, and this test goes.
func TestMakeAgain(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("HEAVY=1 makes the dictionary again")
	}
	groups, err := samples(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got := digest(groups); hex.EncodeToString(got[:]) != samples1 {
		t.Fatalf("the samples are not those of dictionary 1: %x", got)
	}
	if !bytes.Equal(train(groups, least, size), dictionary1(t)) {
		t.Error("the same samples make another dictionary")
	}
}

// TestNobodyIsIn looks for everything that names a person or a thing in the records that the dictionary was made from.
func TestNobodyIsIn(t *testing.T) {
	dict, looked := dictionary1(t), 0
	var look func(v any, key string)
	look = func(v any, key string) {
		switch v := v.(type) {
		case fhir.Object:
			for k, e := range v {
				look(e, k)
			}
		case []any:
			for _, e := range v {
				look(e, key)
			}
		case string:
			named := []string{"id", "family", "given", "name", "alias", "line", "city", "value", "reference", "fullUrl", "subscriberId"}
			if len(v) >= 5 && slices.Contains(named, key) {
				looked++
				if bytes.Contains(dict, []byte(v)) {
					t.Errorf("%s of a synthetic patient is in the dictionary: %q", key, v)
				}
			}
		}
	}
	for seed := range uint64(seeds) {
		for patient := range synthetic.Patients(firstSeed+seed, perSeed) {
			look(patient, "")
		}
	}
	if looked < 1000 {
		t.Errorf("looked for %d strings", looked)
	}
}

func TestTrainLeavesSingleGroupsOut(t *testing.T) {
	var groups [][][]byte
	for i := range 6 {
		own := "Familienname-" + hex.EncodeToString([]byte{byte(i), byte(17 * i), 3, 4, 5})
		groups = append(groups, [][]byte{[]byte("http://loinc.org Observation final " + own), []byte(own + own)})
	}
	got := train(groups, 5, 1000)
	if !bytes.Contains(got, []byte("http://loinc.org Observation final")) {
		t.Error("what all have in common is missing")
	}
	if bytes.Contains(got, []byte("0111030405")) || bytes.Contains(got, []byte("name-0222")) {
		t.Errorf("what one group has is in the dictionary: %q", got)
	}
	if got := train(groups, 5, 20); len(got) > 20 {
		t.Errorf("%d bytes, more than there is room for", len(got))
	}
}

func TestMask(t *testing.T) {
	in := fhir.Object{
		"resourceType": "Observation", "id": "4c1d0e2a-1111-4222-8333-abcdefabcdef", "status": "final",
		"subject": fhir.Object{"reference": "Patient/4c1d0e2a-1111-4222-8333-abcdefabcdef", "display": "Käthe Großkopf"},
		"code":    fhir.Object{"coding": []any{fhir.Object{"system": "http://loinc.org", "code": "8302-2", "display": "Height"}}, "text": "Height"},
		"method":  fhir.Object{"coding": []any{fhir.Object{"system": "http://loinc.org", "code": "~1234"}}, "text": "Käthe"},
		"text":    fhir.Object{"status": "generated", "div": "<p>Käthe <b>Großkopf</b></p>"},
		"note":    []any{fhir.Object{"text": "Käthe Großkopf"}},
	}
	a, again, b := newMask(1).object(in), newMask(1).object(in), newMask(2).object(in)
	if !fhir.Equal(a, again) {
		t.Error("one group, two masks")
	}
	for _, out := range []fhir.Object{a, b} {
		text := fhir.Canonical(out)
		for _, gone := range []string{"Käthe", "Großkopf", "4c1d0e2a", "~", "1234"} {
			if bytes.Contains(text, []byte(gone)) {
				t.Errorf("%q is still there: %s", gone, text)
			}
		}
		for _, stays := range []string{"8302-2", "http://loinc.org", "Height", "final", `"reference":"Patient/`, "generated", "<b>"} {
			if !bytes.Contains(text, []byte(stays)) {
				t.Errorf("%q is gone: %s", stays, text)
			}
		}
		if out["subject"].(fhir.Object)["reference"] != "Patient/"+out.ID() {
			t.Errorf("a reference leads elsewhere: %s", text)
		}
	}
	if a.ID() == b.ID() {
		t.Error("two groups, one mask")
	}
}
