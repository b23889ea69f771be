package replica_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// TestCosts measures what may keep others waiting.
func TestCosts(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("HEAVY is not set")
	}
	a := practice(t, "surgery")[0]
	a.put(bernd, false)
	for i := range 1000 {
		a.edit("Patient/bernd", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("%d-01-01", 1000+i) })
	}
	began := time.Now()
	done := make(chan int)
	go func() {
		h, _ := a.History(context.Background(), api.Ref{Type: "Patient", ID: "bernd"})
		done <- len(h)
	}()
	for n, most := 0, time.Duration(0); n == 0; {
		edit := time.Now()
		a.put(fmt.Sprintf(`{"resourceType":"Basic","id":"x","code":{"text":"%d"}}`, edit.UnixNano()), true)
		most = max(most, time.Since(edit))
		select {
		case n = <-done:
			t.Logf("history of %d revisions: %v, while no edit took longer than %v", n, time.Since(began), most)
		default:
		}
	}
	old := history(t, a, "Patient/bernd")[3].Version
	began = time.Now()
	_, err := a.Get(t.Context(), parseRef(t, "Patient/bernd"), old)
	must(t, err)
	t.Logf("one old version: %v", time.Since(began))
	a.crash()
	began = time.Now()
	a.edit("Patient/bernd", func(o map[string]any) { o["active"] = false })
	t.Logf("first edit after a start: %v", time.Since(began))

	for i := range 5 {
		var batch api.ImportBatch
		for j := range 2000 {
			batch.Resources = append(batch.Resources, fmt.Appendf(nil,
				`{"resourceType":"Patient","id":"p%d","name":[{"family":"Schmidt%d","given":["Anna","Maria"]}],"birthDate":"1954-03-02"}`, i*2000+j, j))
		}
		began = time.Now()
		_, err := a.Import(t.Context(), "importer", batch)
		must(t, err)
		t.Logf("import of 2000 patients: %v", time.Since(began))
	}
	for _, text := range []string{"s", "schmidt", "anna schmidt", "schmidt1999"} {
		began = time.Now()
		m, err := a.Find(t.Context(), text, 20)
		must(t, err)
		t.Logf("find %q: %d in %v", text, len(m), time.Since(began))
	}
}
