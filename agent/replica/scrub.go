package replica

import (
	"context"
	"time"

	"chartmesh/chunk/logs"
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
			head := logs.End{}
			for {
				end := r.logs.Position(s.ID, log).Counter // it may grow, and go back
				if head.Counter >= end {
					break
				}
				bad, why := storage.Ref{}, error(nil)
				if err := r.store.View(func(v storage.Reader) error {
					for range scrubAtOnce {
						if head.Counter >= end {
							return nil
						}
						at := logs.Ref{Scope: s.ID, Log: log, Counter: head.Counter + 1}
						h, err := logs.HeldBy(v, at.Scope, at.Log, at.Counter)
						if err == nil && !h.Follows(head) {
							err = storage.ErrDamaged
						}
						if err != nil {
							bad, why = at.Main(), err
							return nil
						}
						head = h.End
						done.Chunks++
					}
					return nil
				}); err != nil {
					return done, err
				}
				if why != nil {
					if !logs.IsUnreadable(logs.UnreadableAs(bad, why)) {
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
			_, err := logs.ReadBranch(v, at)
			return err
		})
		if bad := logs.UnreadableAs(at, err); logs.IsUnreadable(bad) {
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
	for scope, byLog := range r.mu.Forks {
		for log, f := range byLog {
			for id, counter := range f.All() {
				all = append(all, storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id})
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
