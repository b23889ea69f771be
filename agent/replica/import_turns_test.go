package replica_test

import (
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"chartmesh/agent/api"
)

// TestEditsDuringAnImport edits what is being imported: the edits need not wait for its end, and neither they nor the
// import's own changes are lost.
func TestEditsDuringAnImport(t *testing.T) {
	a := practice(t, "surgery")[0]
	const n, of = 300, 30 // resources, and in how many documents
	batch := func(status string) (b api.ImportBatch) {
		for i := range n {
			b.Resources = append(b.Resources, fmt.Appendf(nil, `{"resourceType":"Condition","id":"c%d","subject":{"reference":"Patient/p%d"},`+
				`"recordedDate":"2020-01-01","clinicalStatus":{"text":%q},"code":{"text":%q}}`, i, i%of, status, strings.Repeat("long ", 300)))
		}
		return b
	}
	_, err := a.Import(t.Context(), "importer", batch("active"))
	must(t, err)
	var running atomic.Bool
	running.Store(true)
	done := make(chan api.ImportResult)
	go func() {
		res, err := a.Import(t.Context(), "importer", batch("resolved"))
		if err != nil {
			t.Error(err)
		}
		running.Store(false)
		done <- res
	}()
	edited, meanwhile := map[int]bool{}, 0
	for i := n - 1; i >= 0 && (running.Load() || meanwhile == 0); i -= 7 { // the last ones first, before the import comes to them
		a.edit(fmt.Sprintf("Condition/c%d", i), func(o map[string]any) { o["recordedDate"] = "2021-01-01" })
		edited[i] = true
		if running.Load() {
			meanwhile++
		}
	}
	res := <-done
	if meanwhile < 3 {
		t.Errorf("only %d edits were made while the import ran", meanwhile)
	}
	if res.Changed != n || res.Created+res.Unchanged+len(res.Refused)+res.Conflicts != 0 {
		t.Errorf("the import says %+v", res)
	}
	for i := range n {
		got := a.get(fmt.Sprintf("Condition/c%d", i))
		if !strings.Contains(got, `"resolved"`) {
			t.Errorf("c%d lacks what was imported", i)
		}
		if edited[i] != strings.Contains(got, `"2021-01-01"`) {
			t.Errorf("c%d lacks what was edited", i)
		}
	}
	if again, err := a.Import(t.Context(), "importer", batch("resolved")); err != nil || again.Unchanged != n {
		t.Errorf("importing again: %+v, %v", again, err)
	}
	a.crash()
	if s := a.Status(); s.Resources != n || s.Documents != of || s.Conflicts != 0 {
		t.Errorf("after a crash: %+v", s)
	}
}
