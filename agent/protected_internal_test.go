package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
)

// fakeHolder holds what was committed once that has arrived, and its certificate is here.
type fakeHolder struct {
	arrived, certified bool
	changed            chan struct{}
}

func (f *fakeHolder) Changed() <-chan struct{} { return f.changed }
func (f *fakeHolder) Holds(string, lockquorum.DocumentID, lockquorum.Heads) (bool, error) {
	return f.arrived && f.certified, nil
}

// TestAwaitCommitted: the next holder asks for the certificate of what the one before committed, whenever that arrives.
func TestAwaitCommitted(t *testing.T) {
	for _, later := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := &fakeHolder{arrived: !later, changed: make(chan struct{})}
			certify := func(context.Context, lockquorum.DocumentID) error {
				f.certified = f.arrived
				return nil
			}
			over := make(chan error, 1)
			ctx, cancel := context.WithTimeout(t.Context(), barrierWait)
			defer cancel()
			go func() {
				over <- awaitCommitted(ctx, f, "settings", lockquorum.DocumentID{1}, lockquorum.Heads{1}, certify)
			}()
			if later {
				synctest.Wait()
				f.arrived = true
				close(f.changed)
			}
			begun := time.Now()
			if err := <-over; err != nil || time.Since(begun) > time.Second {
				t.Errorf("arrived later: %v: %v after %v", later, err, time.Since(begun))
			}
			never := &fakeHolder{changed: make(chan struct{})}
			if err := awaitCommitted(ctx, never, "settings", lockquorum.DocumentID{1}, lockquorum.Heads{1}, certify); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("what never comes: %v", err)
			}
		})
	}
}
