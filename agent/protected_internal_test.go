package agent

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// TestAwaitCommitted: the next holder asks for the certificate of what the one before committed, whenever that arrives.
func TestAwaitCommitted(t *testing.T) {
	for _, later := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), barrierWait)
			defer cancel()
			arrived, certified, changed := !later, false, make(chan struct{})
			changes := func() <-chan struct{} { return changed }
			certify := func() error {
				certified = arrived
				return nil
			}
			over := make(chan error, 1)
			go func() { over <- awaitCommitted(ctx, changes, func() (bool, error) { return certified, nil }, certify) }()
			if later {
				synctest.Wait()
				arrived = true
				close(changed)
			}
			begun := time.Now()
			if err := <-over; err != nil || time.Since(begun) > time.Second {
				t.Errorf("arrived later: %v: %v after %v", later, err, time.Since(begun))
			}
			never := func() (bool, error) { return false, nil }
			if err := awaitCommitted(ctx, changes, never, certify); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("what never comes: %v", err)
			}
		})
	}
}

// TestEndHeardBeforeCommit: what is written when the lease is over is not said to be committed, also where this device hears of the end before it asks a voter: nothing is left to
// commit then.
func TestEndHeardBeforeCommit(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := Init(dir, InitOptions{Practice: "Praxis", Site: "Mitte", Device: "Empfang"})
	must(err)
	a, err := Open(Config{Dir: dir, NoMDNS: true, NoPorts: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	must(err)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	defer func() {
		cancel()
		must(<-over)
		must(a.Close())
	}()
	lease := func() {
		t.Helper()
		var err error
		for begun := time.Now(); time.Since(begun) < time.Minute; { // until its voter leads
			if _, err = a.AcquireLease(ctx, "", api.LeaseRequest{Name: fhir.LockCodeLists}); api.CodeOf(err) != api.CodeUnavailable {
				break
			}
		}
		must(err)
	}
	put := func(ctx context.Context, title string) error {
		_, err := a.records.Put(ctx, "user", json.RawMessage(`{"resourceType":"CodeSystem","id":"c1","title":"`+title+`"}`), true)
		return err
	}
	lease()
	_, err = underLeases(ctx, a, func(ctx context.Context) (struct{}, error) { return struct{}{}, put(ctx, "in time") })
	must(err)
	s, err := a.exclusive()
	must(err)
	_, err = underLeases(ctx, a, func(ctx context.Context) (struct{}, error) {
		must(put(ctx, "too late"))
		list, err := a.records.Uncommitted()
		must(err)
		if len(list) != 1 {
			t.Fatalf("written and not committed is %+v", list)
		}
		_, err = a.BreakLease(ctx, "user", api.BreakRequest{Name: fhir.LockCodeLists, Reason: "it does not answer"})
		must(err)
		return struct{}{}, a.certify(ctx, s, list[0])
	})
	if api.CodeOf(err) != api.CodeLease {
		t.Errorf("what was written too late is answered with %v", err)
	}
	if held, err := a.Held(ctx, api.HeldQuery{Limit: 10}); err != nil || len(held.Chunks) != 1 || held.Chunks[0].State != "quarantined" {
		t.Errorf("kept aside is %+v (%v)", held, err)
	}
	lease()
	_, err = underLeases(ctx, a, func(ctx context.Context) (struct{}, error) { return struct{}{}, put(ctx, "in time again") })
	must(err)
}
