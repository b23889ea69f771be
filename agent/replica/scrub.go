package replica

import (
	"context"
	"time"

	"chartmesh/chunk/logs"
	"chartmesh/storage"
)

// Scrubbed is what a scrub has read, and how many of it were taken back.
type Scrubbed = logs.Scrubbed

// Scrub reads every chunk that the vectors claim, and takes back what does not read, so that it comes again.
func (r *Replica) Scrub(ctx context.Context, pause time.Duration) (Scrubbed, error) {
	return r.logs.Scrub(ctx, pause, r.lockedTakeBack)
}

func (r *Replica) lockedTakeBack(ctx context.Context, at storage.Ref, why error) error {
	r.write.Lock()
	defer r.write.Unlock()
	return r.takeBack(ctx, at, why)
}
