package acceptance

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// TestLatency measures 200 edits at one site while connected: from the request sent there to a read answered at the
// other, durable on both.
func TestLatency(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	ids := a.patients(1, 20)
	b := join(t, root, "branch", a)
	b.inSync()
	a.inSync()
	const edits = 200
	arrived := make(chan api.Event, edits)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var seen uint64
	must(t, b.client.Events(ctx, 0, false, func(e api.Event) error { seen = e.Cursor; return nil }))
	go func() {
		_ = b.client.Events(ctx, seen, true, func(e api.Event) error {
			arrived <- e
			return nil
		})
	}()
	var took, written []time.Duration
	for i := range edits {
		ref := api.Ref{Type: "Patient", ID: ids[i%len(ids)]}
		o := a.get(ref.String())
		o["birthDate"] = fmt.Sprintf("19%02d-01-%02d", 30+i%60, 1+i%28)
		body := fhir.Canonical(o)
		began := time.Now()
		w, err := a.put(body, false)
		must(t, err)
		written = append(written, time.Since(began))
		for {
			select {
			case <-arrived:
			case <-time.After(30 * time.Second):
				t.Fatal("an edit did not arrive")
			}
			got, err := b.client.Get(t.Context(), ref, "")
			must(t, err)
			if got.Version == w.Version {
				break
			}
		}
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	slices.Sort(written)
	t.Logf("%d edits: p50 %v, p99 %v, max %v", edits, took[edits/2], took[edits*99/100], took[edits-1])
	t.Logf("of that until the answer to the writer: p50 %v, p99 %v", written[edits/2], written[edits*99/100])
}
