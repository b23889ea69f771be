package logs

import (
	"context"
	"time"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// scrubAtOnce is how many chunks one step of a scrub reads.
const scrubAtOnce = 64

// Scrubbed is what a scrub has read, and how many of it were taken back.
type Scrubbed struct{ Chunks, Damaged uint64 }

// Scrub reads every chunk that the vectors claim, by its counter, and checks its link to the one before. It knows what must
// be there, so that it also finds what the store has lost without a word. It pauses between steps, since nobody waits for
// it. What does not read is given to takeBack, so that it comes again.
func (s *Set) Scrub(ctx context.Context, pause time.Duration, takeBack func(ctx context.Context, at storage.Ref, why error) error) (done Scrubbed, err error) {
	tick := time.NewTicker(max(pause, time.Millisecond))
	defer tick.Stop()
	for _, scope := range s.state().Scopes() {
		for _, log := range s.Vector(scope.ID).Logs() {
			head := End{}
			for {
				end := s.Position(scope.ID, log).Counter // it may grow, and go back
				if head.Counter >= end {
					break
				}
				bad, why := storage.Ref{}, error(nil)
				if err := s.store.View(func(v storage.Reader) error {
					if head, why = again(v, scope.ID, log, head); why != nil {
						bad = Ref{Scope: scope.ID, Log: log, Counter: head.Counter}.Main()
						return nil
					}
					for range scrubAtOnce {
						if head.Counter >= end {
							return nil
						}
						at := Ref{Scope: scope.ID, Log: log, Counter: head.Counter + 1}
						h, err := HeldBy(v, at.Scope, at.Log, at.Counter)
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
					if !IsUnreadable(UnreadableAs(bad, why)) {
						return done, why
					}
					if err := takeBack(ctx, bad, why); err != nil {
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
	err = s.scrubBranches(ctx, &done, tick.C, takeBack)
	return done, err
}

// again reads once more where a log stands at the end of the last step: another history may have become the main one meanwhile.
func again(v storage.Reader, scope trust.ScopeID, log chunk.LogID, head End) (End, error) {
	if head.Counter == 0 {
		return head, nil
	}
	h, err := HeldBy(v, scope, log, head.Counter)
	if err != nil {
		return head, err
	}
	return h.End, nil
}

// scrubBranches does the same for what stands beside the main histories.
func (s *Set) scrubBranches(ctx context.Context, done *Scrubbed, tick <-chan time.Time, takeBack func(context.Context, storage.Ref, error) error) error {
	for n, at := range s.besides() {
		err := s.store.View(func(v storage.Reader) error {
			_, err := ReadBranch(v, at)
			return err
		})
		if bad := UnreadableAs(at, err); IsUnreadable(bad) {
			if err := takeBack(ctx, at, err); err != nil {
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
func (s *Set) besides() (all []storage.Ref) {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	for scope, byLog := range s.Memory.Forks {
		for log, f := range byLog {
			for id, counter := range f.All() {
				all = append(all, storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id})
			}
		}
	}
	return all
}
