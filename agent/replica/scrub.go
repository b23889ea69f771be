package replica

import (
	"context"
	"time"

	"chartmesh/storage"
)

// scrubAtOnce is how many chunks one step of a scrub reads.
const scrubAtOnce = 64

// Scrubbed is what a scrub has read, and how many of it were taken back.
type Scrubbed struct{ Chunks, Damaged uint64 }

// Scrub reads every chunk that the vectors claim, by its counter, and checks its link to the one before. It knows what must
// be there, so that it also finds what the store has lost without a word. It pauses between steps, since nobody waits for
// it. What does not read is taken back, so that it comes again.
func (r *Replica) Scrub(ctx context.Context, pause time.Duration) (done Scrubbed, err error) {
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
				bad, why := storage.Ref{}, error(nil)
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
							bad, why = at.main(), err
							return nil
						}
						head = h.tip
						done.Chunks++
					}
					return nil
				}); err != nil {
					return done, err
				}
				if why != nil {
					if !isUnreadable(unreadableAs(bad, why)) {
						return done, why
					}
					if err := r.lockedTakeBack(ctx, bad, why); err != nil {
						return done, err
					}
					done.Damaged++
					break // what lies behind is not claimed any more
				}
				select {
				case <-ctx.Done():
					return done, ctx.Err()
				case <-tick.C:
				}
			}
		}
	}
	err = r.scrubBranches(ctx, &done, tick.C)
	return done, err
}

// scrubBranches does the same for what stands beside the main histories.
func (r *Replica) scrubBranches(ctx context.Context, done *Scrubbed, tick <-chan time.Time) error {
	for n, at := range r.besides() {
		err := r.store.View(func(v storage.Reader) error {
			_, err := readBranch(v, at)
			return err
		})
		if bad := unreadableAs(at, err); isUnreadable(bad) {
			if err := r.lockedTakeBack(ctx, at, err); err != nil {
				return err
			}
			done.Damaged++
		} else if err != nil {
			return err
		}
		done.Chunks++
		if n%scrubAtOnce < scrubAtOnce-1 {
			continue
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick:
		}
	}
	return nil
}

// besides returns the places of all chunks that stand beside the main histories of their logs.
func (r *Replica) besides() (all []storage.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for scope, logs := range r.mu.forks {
		for log, f := range logs {
			for id, n := range f.nodes {
				all = append(all, storage.Ref{Scope: scope, Log: log, Counter: n.counter, ID: id})
			}
		}
	}
	return all
}

func (r *Replica) lockedTakeBack(ctx context.Context, at storage.Ref, why error) error {
	r.write.Lock()
	defer r.write.Unlock()
	return r.takeBack(ctx, at, why)
}
