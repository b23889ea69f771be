package logs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// takeSkip lets a log go on over chunks that were deleted elsewhere, if the checkpoint that stands for them is here, signed
// by a member, and says that it covers them, and the device whose log it is says so too; or if an order that counts names them. One that brings nothing, leaves a
// gap or names what is not here is passed over; the vector tells the peer so.
func (s *Set) takeSkip(ctx context.Context, a *arriving, refused *refusals, from trust.DeviceID, b []byte) error {
	skip, err := chunk.ParseSkip(b)
	if errors.Is(err, chunk.ErrNewer) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("skip from %v: %w", from, err)
	}
	if _, ok := s.state().Scope(skip.Scope); !ok || skip.Log == s.own(skip.Scope) {
		return nil
	}
	head := a.head(skip.Scope, skip.Log)
	if skip.IsInPlace() && skip.To == head.Counter+1 {
		sealed, found, err := s.looseAt(a, skip.Scope, skip.Checkpoint)
		if err != nil || !found {
			return err
		}
		return s.take(ctx, a, sealed)
	}
	if refused.skips == maxRefusedSkips || skip.From > head.Counter+1 && !a.forked(skip.Log) && !s.Forked(skip.Scope, skip.Log) {
		return nil
	}
	var p Proof
	var run chunk.Covered
	err = s.store.View(func(v storage.Reader) error {
		if skip.To <= head.Counter {
			if at, err := mainPosition(v, skip.Scope, skip.Log, skip.To); err != nil || at == skip.Position() {
				return errors.Join(errKnown, err)
			}
		}
		if p, err = ReadProof(v, skip, a.proofs, s.assents(v)); err != nil || !p.Checkpoint.IsErasure() {
			return err
		}
		counts, err := s.MayErase(v, p.Checkpoint, p.Word)
		if err == nil && !counts {
			err = ErrNoWord // or the entry that made one of them an administrator is on the way
		}
		return err
	})
	if err == nil {
		run, err = p.Covers(skip)
	}
	switch {
	case errors.Is(err, errKnown):
		return nil
	case errors.Is(err, storage.ErrNotFound):
		refused.skips++ // to look took as long
		return nil
	case errors.Is(err, ErrNoWord), errors.Is(err, ErrNotCovered):
		refused.skips++
		refused.add(skip.Checkpoint.ID, err)
		return nil
	case err != nil:
		return fmt.Errorf("read checkpoint of a skip: %w", err)
	}
	if head.Counter == 0 {
		if ok, err := s.mayBegin(skip.Scope, skip.Log, skip.Key.Device); err != nil || !ok {
			return err
		}
	}
	skip.Checkpoint, skip.Word = p.Checkpoint.Place(), p.Word.Place()
	if !run.Joins(head.Position()) {
		refused.skips++
		if !slices.Contains(refused.apart, skip) {
			refused.apart = append(refused.apart, skip)
		}
		return nil
	}
	skip.From = head.Counter + 1
	value, _ := skip.AppendBinary(nil)
	a.batch.Put(storage.Skip.Key(skip.Scope, skip.Log, skip.To), value)
	if err := s.store.View(func(v storage.Reader) error {
		others, err := keptUnder(v, skip.Scope, run, head, &a.batch)
		for _, sealed := range others {
			a.putBranch(Ref{skip.Scope, skip.Log, sealed.Header().Counter}, sealed)
		}
		return err
	}); err != nil {
		return fmt.Errorf("look for what is kept under a skip: %w", err)
	}
	a.skips[Name{skip.Scope, skip.Log}] = true
	a.advance(skip.Scope, skip.Log, End{skip.To, skip.Last})
	return nil
}

// errKnown says that a skip brings nothing.
var errKnown = errors.New("known")

// looseAt returns a checkpoint or word that came before its turn.
func (s *Set) looseAt(a *arriving, scope trust.ScopeID, at chunk.Place) (sealed chunk.Sealed, found bool, err error) {
	if sealed, found = a.proofs[at.ID]; found {
		return sealed, true, nil
	}
	err = s.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Loose.Key(scope, at.Log, at.Counter, at.ID))
		if err != nil {
			return storage.IgnoreNotFound(err)
		}
		sealed, err = chunk.Parse(b)
		found = err == nil
		return err
	})
	if err != nil {
		return sealed, false, fmt.Errorf("read what is loose: %w", err)
	}
	return sealed, found, nil
}
