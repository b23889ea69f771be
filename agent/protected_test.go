package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/fhir"
)

// TestCommitTogether: of several writes under one lease at a time none takes back what another one had certified.
func TestCommitTogether(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := filepath.Join(t.TempDir(), "data")
	_, err := agent.Init(dir, agent.InitOptions{Practice: "Praxis", Site: "Mitte", Device: "Empfang"})
	must(t, err)
	a, err := agent.Open(agent.Config{Dir: dir, NoMDNS: true, NoPorts: true, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	go func() { over <- a.Run(ctx) }()
	defer func() { cancel(); <-over; must(t, a.Close()) }()
	for api.CodeOf(err) == api.CodeUnavailable || err == nil { // until its voter leads
		if _, err = a.AcquireLease(ctx, "", api.LeaseRequest{Name: fhir.LockCodeLists, For: time.Hour.Milliseconds()}); err == nil {
			break
		}
	}
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
