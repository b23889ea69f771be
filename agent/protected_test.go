package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// running is an agent of a practice of its own that runs.
func running(t *testing.T) *agent.Agent {
	t.Helper()
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	_, err := agent.Init(dir, agent.InitOptions{Practice: "Praxis", Site: "Mitte", Device: "Empfang"})
	must(t, err)
	a, err := agent.Open(agent.Config{Dir: dir, NoMDNS: true, NoPorts: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	must(t, err)
	t.Cleanup(func() { must(t, a.Close()) })
	if got, err := a.Import(t.Context(), "user", batchOf(`{"resourceType":"CodeSystem","id":"c0"}`)); err != nil || len(got.Refused) != 1 ||
		got.Refused[0].Lock != fhir.LockCodeLists || !strings.Contains(got.Refused[0].Reason, "no agent is running") {
		t.Errorf("an agent that does not run: %+v (%v)", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	t.Cleanup(func() { cancel(); must(t, <-over) })
	for {
		if _, err = a.Leases(ctx); api.CodeOf(err) != api.CodeUnavailable { // its voter leads
			must(t, err)
			return a
		}
	}
}

func batchOf(resources ...string) (b api.ImportBatch) {
	for _, r := range resources {
		b.Resources = append(b.Resources, json.RawMessage(r))
	}
	return b
}

// TestImportTakesLeases: an import writes what locks guard under leases that it takes, has it committed, and gives them back; several at a time too. Nobody else writes under
// them. Without an agent that runs it says which lock it is that is wanted.
func TestImportTakesLeases(t *testing.T) {
	a := running(t)
	ctx := t.Context()
	got, err := a.Import(ctx, "user", batchOf(
		`{"resourceType":"Patient","id":"p1"}`, `{"resourceType":"ValueSet","id":"v1","name":"one"}`, `{"resourceType":"Observation"}`,
		`{"resourceType":"Basic","id":"s1","code":{"coding":[{"system":"urn:chartmesh:basic","code":"settings"}]}}`,
		`{"resourceType":"Invoice","id":"i1","status":"issued","date":"2026-05-04","subject":{"reference":"Patient/p1"}}`, `{"resourceType":"CodeSystem","id":"c1"}`))
	must(t, err)
	if got.Created != 5 || len(got.Refused) != 1 || got.Refused[0].Index != 2 || got.Refused[0].Lock != "" {
		t.Errorf("it came to %+v", got)
	}
	for _, ref := range []api.Ref{{Type: "ValueSet", ID: "v1"}, {Type: "Basic", ID: "s1"}, {Type: "Invoice", ID: "i1"}, {Type: "CodeSystem", ID: "c1"}} {
		if r, err := a.Get(ctx, ref, ""); err != nil || r.Uncommitted {
			t.Errorf("%v is not certified (%v)", ref, err)
		}
	}
	leases, err := a.Leases(ctx)
	must(t, err)
	if len(leases) != 3 || slices.ContainsFunc(leases, func(l api.Lease) bool { return l.Held }) {
		t.Errorf("the leases are %+v", leases)
	}
	if got, err = a.Import(ctx, "user", batchOf(`{"resourceType":"ValueSet","id":"v1","name":"one"}`)); err != nil || got.Unchanged != 1 {
		t.Errorf("again it came to %+v (%v)", got, err)
	}
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			got, err := a.Import(ctx, "user", batchOf(fmt.Sprintf(`{"resourceType":"CodeSystem","id":"c%d","title":"x"}`, 2+i), fmt.Sprintf(`{"resourceType":"Patient","id":"q%d"}`, i)))
			if err != nil || got.Created != 2 {
				t.Errorf("at a time: %+v (%v)", got, err)
			}
			_, err = a.Put(ctx, "user", json.RawMessage(`{"resourceType":"ValueSet","id":"v1","name":"two"}`), true)
			if api.CodeOf(err) != api.CodeLease {
				t.Errorf("who took no lease writes: %v", err)
			}
		})
	}
	work.Wait()
	if list, err := a.Held(ctx, api.HeldQuery{}); err != nil || len(list.Chunks) > 0 {
		t.Errorf("held back are %+v (%v)", list, err)
	}
}

// TestCommitTogether: of several writes under one lease at a time none takes back what another one had certified.
func TestCommitTogether(t *testing.T) {
	a := running(t)
	ctx := t.Context()
	_, err := a.AcquireLease(ctx, "", api.LeaseRequest{Name: fhir.LockCodeLists, For: time.Hour.Milliseconds()})
	must(t, err)
	var work sync.WaitGroup
	for i := range 4 {
		work.Go(func() {
			for j := range 10 {
				if _, err := a.Put(ctx, "user", json.RawMessage(fmt.Sprintf(`{"resourceType":"CodeSystem","id":"c1","title":"%d.%d"}`, i, j)), true); err != nil {
					t.Errorf("write %d.%d: %v", i, j, err)
				}
			}
		})
	}
	work.Wait()
	if r, err := a.Get(ctx, api.Ref{Type: "CodeSystem", ID: "c1"}, ""); err != nil || r.Uncommitted {
		t.Errorf("what was answered as done is not certified: %s (%v)", r.JSON, err)
	}
}

// TestBrokenLease: under a lease that was broken nothing is written, and the next one goes on from what was committed.
func TestBrokenLease(t *testing.T) {
	a := running(t)
	ctx := t.Context()
	put := func(title string) error {
		_, err := a.Put(ctx, "user", json.RawMessage(fmt.Sprintf(`{"resourceType":"CodeSystem","id":"c1","title":%q}`, title)), true)
		return err
	}
	take := func() {
		_, err := a.AcquireLease(ctx, "", api.LeaseRequest{Name: fhir.LockCodeLists, For: time.Hour.Milliseconds()})
		must(t, err)
	}
	take()
	must(t, put("before"))
	_, err := a.BreakLease(ctx, "user", api.BreakRequest{Name: fhir.LockCodeLists, Reason: "x"})
	must(t, err)
	if err := put("after"); api.CodeOf(err) != api.CodeLease {
		t.Errorf("under a broken lease: %v", err)
	}
	if r, err := a.Get(ctx, api.Ref{Type: "CodeSystem", ID: "c1"}, ""); err != nil || !strings.Contains(string(r.JSON), "before") || r.Uncommitted {
		t.Errorf("it stands as %s (%v)", r.JSON, err)
	}
	if list, err := a.Held(ctx, api.HeldQuery{}); err != nil || len(list.Chunks) > 0 {
		t.Errorf("kept aside are %+v (%v)", list.Chunks, err)
	}
	take()
	must(t, put("next"))
}
