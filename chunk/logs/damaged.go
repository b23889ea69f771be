package logs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"chartmesh/storage"
)

// TakeBack has nothing claimed any more of a chunk that does not read, so that peers send it again, by the ordinary session: a place
// without an ID names what the main history has there. Just before the commit, note adds to it what the caller notes of the damage; end is
// how far the main history was held. It reports whether something was claimed of the chunk.
//
// Within a session a peer does not take back what it was told: sessions must begin anew.
func (s *Set) TakeBack(ctx context.Context, at storage.Ref, why error, note func(b *storage.Batch, end uint64) error) (taken bool, err error) {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	settling := s.settler.at
	settling.Look = storage.Chunk.All()
	noted := func(b *storage.Batch, end uint64) error {
		if s.settler.on { // what comes again may have been deleted for an order that is settled
			b.Put(storage.Meta.Key(metaSettling), settling.Marshal())
		}
		return note(b, end)
	}
	if at.ID != [32]byte{} {
		taken, err = true, s.takeBackBranch(ctx, at, why, noted)
	} else {
		taken, err = s.takeBackMain(ctx, Ref{at.Scope, at.Log, at.Counter}, why, noted)
	}
	if err != nil {
		return false, fmt.Errorf("take back a damaged chunk: %w", err)
	}
	if taken {
		s.settler.at = settling
		s.settler.news.Store(true)
		s.changed()
	}
	return taken, nil
}

// takeBackBranch forgets a chunk beside the main history of its log. What builds on it is kept, and counts again when it is
// there.
func (s *Set) takeBackBranch(ctx context.Context, at storage.Ref, why error, note func(*storage.Batch, uint64) error) error {
	s.log.Error("a chunk of another history of a log is damaged; it is asked for again", "log", at.Log, "counter", at.Counter,
		"error", why)
	var batch storage.Batch
	batch.Delete(storage.Branch.Key(at.Scope, at.Log, at.Counter, at.ID))
	batch.Delete(storage.Parked.Key(ParkedTurn, [32]byte{}, at))
	batch.Put(storage.Gone.Key(at.Scope, at.Log, at.Counter, at.ID), nil)
	if err := note(&batch, s.End(at.Scope, at.Log).Counter); err != nil {
		return err
	}
	if err := s.store.Commit(ctx, &batch); err != nil {
		return err
	}
	s.Memory.Lock()
	defer s.Memory.Unlock()
	if f := s.Memory.Forks[at.Scope][at.Log]; f != nil {
		delete(f.nodes, at.ID)
		f.gone[at.ID], f.reach = at.Counter, nil
	}
	s.Memory.forgetTurnsLocked(func(w storage.Ref) bool { return w == at })
	return nil
}

// takeBackMain ends a log before a chunk: what lies behind it is kept and counted again when it is there.
func (s *Set) takeBackMain(ctx context.Context, at Ref, why error, note func(*storage.Batch, uint64) error) (taken bool, err error) {
	was := s.End(at.Scope, at.Log)
	if was.Counter < at.Counter {
		return false, s.dropKept(ctx, at)
	}
	s.log.Error("a chunk is damaged; it is asked for again", "log", at.Log, "counter", at.Counter, "error", why)
	var batch storage.Batch
	batch.Delete(storage.Chunk.Key(at.Scope, at.Log, at.Counter))
	var head End
	err = s.store.View(func(v storage.Reader) error {
		if err := dropSkip(v, &batch, at); err != nil {
			return err
		}
		for c := at.Counter - 1; c > 0; c-- {
			h, err := HeldBy(v, at.Scope, at.Log, c)
			if err == nil {
				head = h.End
				return nil
			}
			if !IsUnreadable(UnreadableAs(at.Main(), err)) {
				return err
			}
			batch.Delete(storage.Chunk.Key(at.Scope, at.Log, c))
		}
		return nil
	})
	if err != nil {
		return false, err
	}
	if err := note(&batch, was.Counter); err != nil {
		return false, err
	}
	batch.Put(storage.LogHead.Key(at.Scope, at.Log), MarshalEnd(head))
	if err := s.store.Commit(ctx, &batch); err != nil {
		return false, err
	}
	s.Memory.Lock()
	defer s.Memory.Unlock()
	if head.Counter == 0 {
		delete(s.Memory.Ends[at.Scope], at.Log)
		delete(s.Memory.Vectors[at.Scope], at.Log)
	} else {
		s.Memory.AdvanceLocked(at.Scope, at.Log, head)
	}
	return true, nil
}

// dropKept removes a chunk that is kept behind the end of its log and does not read: nothing is claimed of it, and what may rest on it is
// to find that it is not here.
func (s *Set) dropKept(ctx context.Context, at Ref) error {
	key := storage.Chunk.Key(at.Scope, at.Log, at.Counter)
	var batch storage.Batch
	if err := s.store.View(func(v storage.Reader) error {
		_, err := v.Get(key)
		if errors.Is(err, storage.ErrDamaged) {
			batch.Delete(key)
		}
		return storage.IgnoreDamaged(storage.IgnoreNotFound(err))
	}); err != nil || batch.Len() == 0 {
		return err
	}
	return s.store.Commit(ctx, &batch)
}

// dropSkip removes the skip over a counter if it does not read: whoever looks for one there would stop at it.
func dropSkip(v storage.Reader, batch *storage.Batch, at Ref) error {
	return v.Keys(storage.Skip.With2(at.Scope, at.Log), storage.Skip.Key(at.Scope, at.Log, at.Counter), func(key []byte) error {
		_, err := v.Get(key)
		if !errors.Is(err, storage.ErrDamaged) {
			return cmp.Or(err, storage.ErrStop)
		}
		batch.Delete(bytes.Clone(key))
		return storage.ErrStop
	})
}
