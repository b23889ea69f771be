package replica

import (
	"context"
	"time"

	"chartmesh/storage"
)

// scrubAtOnce is how many chunks one step of a scrub reads.
const scrubAtOnce = 64

// Scrub reads every chunk that the vectors claim, by its counter, and checks its link to the one before. It knows what must
// be there, so that it also finds what the store has lost without a word. It pauses between steps, since nobody waits for
// it. What does not read is taken back, so that it comes again. It returns how many chunks it has read.
func (r *Replica) Scrub(ctx context.Context, pause time.Duration) (read uint64, err error) {
	tick := time.NewTicker(max(pause, time.Millisecond))
	defer tick.Stop()
	for _, s := range r.State().Scopes() {
		for _, log := range r.Vector(s.ID).Logs() {
			head := tip{}
			for {
				end := r.position(s.ID, log).Counter // it may grow, and go back
				if head.Counter >= end {
					break
				}
				bad, why := chunkRef{}, error(nil)
				if err := r.store.View(func(v storage.Reader) error {
					for range scrubAtOnce {
						if head.Counter >= end {
							return nil
						}
						at := chunkRef{s.ID, log, head.Counter + 1}
						h, err := heldBy(v, at.Scope, at.Log, at.Counter)
						if err == nil && !h.follows(head) {
							err = storage.ErrDamaged
						}
						if err != nil {
							bad, why = at, err
							return nil
						}
						head = h.tip
						read++
					}
					return nil
				}); err != nil {
					return read, err
				}
				if why != nil {
					if unreadableAs(bad, why) == why { //nolint:errorlint // whether it was wrapped is the question
						return read, why
					}
					if err := r.lockedTakeBack(ctx, bad, why); err != nil {
						return read, err
					}
					break // what lies behind is not claimed any more
				}
				select {
				case <-ctx.Done():
					return read, ctx.Err()
				case <-tick.C:
				}
			}
		}
	}
	return read, nil
}

func (r *Replica) lockedTakeBack(ctx context.Context, at chunkRef, why error) error {
	r.write.Lock()
	defer r.write.Unlock()
	return r.takeBack(ctx, at, why)
}
