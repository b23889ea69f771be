package fhir

import "testing"

func TestPlace(t *testing.T) {
	for in, want := range map[string]Placement{
		`{"resourceType":"Patient","id":"p"}`:                                              {Clinical, "p", "core"},
		`{"resourceType":"Patient","id":"p","link":[{"other":{"reference":"Patient/q"}}]}`: {Clinical, "p", "core"},
		`{"resourceType":"Organization","id":"o"}`:                                         {Clinical, "", ""},
		`{"resourceType":"Dragon","id":"o","subject":{"reference":"Patient/p"}}`:           {Clinical, "", ""},

		`{"resourceType":"AllergyIntolerance","patient":{"reference":"Patient/p"},"recorder":{"reference":"Practitioner/d"}}`:       {Clinical, "p", "core"},
		`{"resourceType":"AllergyIntolerance","patient":{"reference":"Patient/p"},"recorder":{"reference":"Patient/p/_history/3"}}`: {Clinical, "p", "core"},
		`{"resourceType":"AllergyIntolerance","patient":{"reference":"Patient/p"},"asserter":{"reference":"Patient/mother"}}`:       {Clinical, "", ""},
		`{"resourceType":"Immunization","patient":{"reference":"Patient/p"},"occurrenceDateTime":"2019"}`:                           {Clinical, "p", "core"},
		`{"resourceType":"Coverage","beneficiary":{"reference":"Patient/p"}}`:                                                       {Clinical, "p", "core"},

		`{"resourceType":"Encounter","subject":{"reference":"Patient/p"},"period":{"start":"2019-12-31T23:30:00-05:00"}}`:                                            {Clinical, "p", "2019"},
		`{"resourceType":"Encounter","subject":{"reference":"Patient/p"},"period":{"end":"2020"}}`:                                                                   {Clinical, "p", "2020"},
		`{"resourceType":"Encounter","subject":{"reference":"Patient/p"}}`:                                                                                           {Clinical, "p", "undated"},
		`{"resourceType":"Encounter","subject":{"reference":"Patient/p"},"period":{"start":"19.5.2019"}}`:                                                            {Clinical, "p", "undated"},
		`{"resourceType":"Observation","subject":{"reference":"Patient/p"},"effectivePeriod":{"start":"2018-01"}}`:                                                   {Clinical, "p", "2018"},
		`{"resourceType":"Observation","subject":{"reference":"Patient/p"},"effectiveInstant":"2018-01-01T00:00:00Z"}`:                                               {Clinical, "p", "2018"},
		`{"resourceType":"Observation","subject":{"reference":"Patient/p"},"effectiveTiming":{"event":["2017-01-01"]}}`:                                              {Clinical, "p", "2017"},
		`{"resourceType":"Observation","subject":{"reference":"Patient/p"},"issued":"2016-01-01T00:00:00Z"}`:                                                         {Clinical, "p", "2016"},
		`{"resourceType":"Observation","subject":{"reference":"Group/p"},"effectiveDateTime":"2016"}`:                                                                {Clinical, "", ""},
		`{"resourceType":"Observation","subject":{"reference":"http://x/Patient/p"},"effectiveDateTime":"2016"}`:                                                     {Clinical, "", ""},
		`{"resourceType":"Observation","subject":{"reference":"#p"},"effectiveDateTime":"2016"}`:                                                                     {Clinical, "", ""},
		`{"resourceType":"Procedure","subject":{"reference":"Patient/p"},"performedDateTime":"2015-05-05"}`:                                                          {Clinical, "p", "2015"},
		`{"resourceType":"Specimen","subject":{"reference":"Patient/p"},"collection":{"collectedDateTime":"2014-05-05"}}`:                                            {Clinical, "p", "2014"},
		`{"resourceType":"Appointment","start":"2021-01-01T00:00:00Z","participant":[{"actor":{"reference":"Practitioner/d"}},{"actor":{"reference":"Patient/p"}}]}`: {Clinical, "p", "2021"},
		`{"resourceType":"Appointment","requestedPeriod":[{"end":"2020"},{"start":"2021"}],"participant":[{"actor":{"reference":"Patient/p"}}]}`:                     {Clinical, "p", "2021"},
		`{"resourceType":"Appointment","participant":[{"actor":{"reference":"Patient/q"}},{"actor":{"reference":"Patient/p"}}]}`:                                     {Clinical, "", ""},

		`{"resourceType":"Claim","patient":{"reference":"Patient/p"},"billablePeriod":{"start":"2019-01-01"},"created":"2020-01-01"}`: {Billing, "p", "money-2019"},
		`{"resourceType":"Claim","patient":{"reference":"Patient/p"},"created":"2020-01-01"}`:                                         {Billing, "p", "money-2020"},
		`{"resourceType":"Claim","patient":{"reference":"Patient/p"}}`:                                                                {Billing, "p", "money-undated"},
		`{"resourceType":"Account","subject":[{"reference":"Patient/p"}]}`:                                                            {Billing, "p", "money-undated"},
		`{"resourceType":"Invoice","subject":{"reference":"Patient/p"},"date":"2022-02-02"}`:                                          {Billing, "p", "money-2022"},
		`{"resourceType":"PaymentReconciliation","created":"2022-02-02"}`:                                                             {Billing, "", ""},
	} {
		if got := Place(parse(t, in)); got != want {
			t.Errorf("Place(%s) = %+v, want %+v", in, got, want)
		}
	}
}

// TestTablesFit holds the lists written by hand against R4: a misspelt type or element would never match.
func TestTablesFit(t *testing.T) {
	all := shapes()
	for name := range structures {
		if all[name] == nil {
			t.Errorf("structures names %s", name)
		}
	}
	for name := range billing {
		if !KnownType(name) {
			t.Errorf("billing names %s", name)
		}
	}
	for name, dates := range mainDates {
		s := resourceShape(name)
		if s == unknown() || len(s.patients) == 0 {
			t.Errorf("mainDates names %s, which no patient's compartment holds", name)
		}
		for _, path := range dates {
			if !hasDate(s, path) {
				t.Errorf("%s has no date %s", name, path)
			}
		}
	}
	if !all["Annotation"].element("text").text {
		t.Error("Annotation.text is no text")
	}
	if KnownType("HumanName") || KnownType("Dragon") || !KnownType("Patient") || !KnownType("Bundle") {
		t.Error("KnownType is wrong")
	}
	if e := all["Observation.component"].element("referenceRange"); e.inside != all["Observation.referenceRange"] || e.inside == nil {
		t.Error("a content reference was not followed")
	}
	if g := all["Observation"].group("valueSampledData"); g != "value[x]" {
		t.Errorf("valueSampledData is in group %q", g)
	}
	n := 0
	for path, s := range all {
		if len(s.elements) == 0 && len(s.groups) == 0 && s.base == nil {
			t.Errorf("%s is empty", path)
		}
		n += len(s.elements)
	}
	if len(all) < 600 || n < 4000 {
		t.Errorf("%d structures with %d elements", len(all), n)
	}
	if len(r4) > 150<<10 {
		t.Errorf("the table has %d bytes", len(r4))
	}
}

// hasDate reports whether path leads to an element, or to the stem of a choice, where every step is in the table; what
// is inside an atomic period is its start or end.
func hasDate(s *shape, path string) bool {
	for i := 0; i < len(path); i++ {
		if path[i] != '.' {
			continue
		}
		rest := path[i+1:]
		if e, ok := s.elements[path[:i]]; ok && e.inside != nil {
			return hasDate(e.inside, rest)
		} else if ok {
			return rest == "start" || rest == "end"
		}
		return false
	}
	_, plain := s.elements[path]
	return plain || s.group(path+"DateTime") != "" || s.group(path+"Date") != ""
}
