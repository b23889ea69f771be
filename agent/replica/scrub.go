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
						read++
					}
					return nil
				}); err != nil {
					return read, err
				}
				if why != nil {
					if !isUnreadable(unreadableAs(bad, why)) {
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
	n, err := r.scrubBranches(ctx, tick.C)
	return read + n, err
}

// scrubBranches does the same for what stands beside the main histories.
func (r *Replica) scrubBranches(ctx context.Context, tick <-chan time.Time) (read uint64, err error) {
	for _, at := range r.besides() {
		err := r.store.View(func(v storage.Reader) error {
			_, err := readBranch(v, at)
			return err
		})
		if bad := unreadableAs(at, err); isUnreadable(bad) {
			if err := r.lockedTakeBack(ctx, at, err); err != nil {
				return read, err
			}
		} else if err != nil {
			return read, err
		}
		if read++; read%scrubAtOnce > 0 {
			continue
		}
		select {
		case <-ctx.Done():
			return read, ctx.Err()
		case <-tick:
		}
	}
	return read, nil
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
