package synthetic

import (
	"bytes"
	"testing"

	"chartmesh/fhir"
)

// sizes counts the resources of each record, and the documents that they are placed in.
func sizes(t *testing.T, records func(func(fhir.Object) bool)) (each []int, documents int) {
	t.Helper()
	places := map[fhir.Placement]bool{}
	for b := range records {
		n := 0
		err := fhir.ReadFile("synthetic", bytes.NewReader(fhir.Canonical(b)), func(it fhir.Item) error {
			if it.Err != nil {
				return it.Err
			}
			n++
			places[fhir.Place(it.Resource)] = true
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		each = append(each, n)
	}
	return each, len(places)
}

func TestPracticeIsUneven(t *testing.T) {
	const n = 1000
	each, documents := sizes(t, Practice(1, n))
	total, large, most := 0, 0, 0
	for i, size := range each {
		total += size
		if size > 100 {
			large++
		}
		if i > 0 {
			most = max(most, size)
		}
	}
	if mean := total / n; mean < 27 || mean > 36 {
		t.Errorf("records have %d resources on average", mean)
	}
	if large < n/200 || large > n/20 {
		t.Errorf("%d of %d records have over 100 resources", large, n)
	}
	if each[0] < Largest || each[0] > Largest+20 || most > Largest/2 {
		t.Errorf("the largest record has %d resources, the next %d", each[0], most)
	}
	t.Logf("%d resources in %d documents, %d records over 100, the next to the largest has %d", total, documents, large, most)
	again, _ := sizes(t, Practice(1, 3))
	for i, size := range again {
		if size != each[i] {
			t.Errorf("record %d has %d resources once and %d again", i, each[i], size)
		}
	}
}

func TestLifelongFillsDocuments(t *testing.T) {
	const n = 20
	each, documents := sizes(t, Lifelong(1, n))
	if documents < 40*n {
		t.Errorf("%d documents of %d patients", documents, n)
	}
	for i, size := range each {
		if size < 100 || size > 400 {
			t.Errorf("record %d has %d resources", i, size)
		}
	}
}
