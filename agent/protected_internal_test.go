package agent

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
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
