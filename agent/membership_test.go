package agent

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"chartmesh/trust"
)

// A device that went between replacing the recovery code and making new keys makes them when it runs again; one that is no
// administrator's does not, and who has rotated once has nothing left to do.
func TestKeepEpochs(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := Init(dir, InitOptions{Practice: "Practice", Site: "surgery", Device: "desk"}); err != nil {
		t.Fatal(err)
	}
	a, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.Close() })
	ctx, cancel := context.WithCancel(t.Context())
	if _, due, err := a.epochsTurn(a.records.State()); due || err != nil {
		t.Fatal("something is due in a new practice")
	}
	err = a.records.Enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		e, _, err := a.keys.ReplaceRecovery(st, "", time.Now())
		return []trust.Entry{e}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	if turn, due, _ := a.epochsTurn(a.records.State()); !due || turn != 0 {
		t.Fatalf("turn %d, due %v after the code was replaced", turn, due)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.keepEpochs(ctx, time.Millisecond)
	}()
	for {
		changed := a.records.Changed()
		if _, due, _ := a.epochsTurn(a.records.State()); !due {
			break
		}
		select {
		case <-changed:
		case <-t.Context().Done():
			t.Fatal("nothing was rotated")
		}
	}
	cancel()
	<-ended
	for _, sc := range a.records.State().Scopes() {
		if len(sc.Epochs) != 2 || len(sc.Newest) != 1 || sc.Newest[0] != a.records.State().CurrentEpoch(sc.ID) {
			t.Errorf("scope %s has %d epochs and %d newest ones", sc.Name, len(sc.Epochs), len(sc.Newest))
		}
	}
}
