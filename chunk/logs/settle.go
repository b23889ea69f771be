package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Who follows the logs learns of checkpoints and words by opening them. Who holds no key notes what they say in clear, in the commits that bring
// them, and settles them in turns.

// metaSettling is the number of the Settling under storage.Meta.
const metaSettling byte = 128

// Caps of one turn, which holds up what arrives for one commit at a time.
const (
	turnUnsettled = 32      // checkpoints that are judged
	turnLooked    = 1 << 12 // notes or chunks that are read
	turnBytes     = 4 << 20 // of chunks that are read
)

// settler is what a Set that settles keeps at hand.
type settler struct {
	on      bool
	at      Settling // guarded by Set.arrive
	next    []byte   // key of the note at which the next turn begins; guarded by Set.arrive
	deleted atomic.Uint64
	news    atomic.Bool // see News
	lacks   atomic.Bool // a checkpoint that all have agreed on, or an order, covers what is not all here
}

// openSettler reads how far it has come.
func (s *Set) openSettler(v storage.Reader) error {
	s.settler.news.Store(true)
	b, err := v.Get(storage.Meta.Key(metaSettling))
	if err == nil {
		if s.settler.at, err = ParseSettling(b); err != nil {
			err = fmt.Errorf("%w: %w", storage.ErrDamaged, err)
		}
	}
	if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged) { // to look once more costs time alone
		s.settler.at, err = Settling{Look: storage.Chunk.All()}, nil
	}
	s.settler.deleted.Store(s.settler.at.Deleted)
	return err
}

// Deleted returns how many chunks Settle has deleted, since ever.
func (s *Set) Deleted() uint64 { return s.settler.deleted.Load() }

// News reports whether something came, since it was asked last, by which checkpoints may be settled that were not.
func (s *Set) News() bool { return s.settler.news.Swap(false) }

// noteSaid notes the checkpoints and orders among some chunks, and the words on them, which need not have come. Of two words of one device the bad one
// counts. An order is noted as of old: it waits for no grace.
func noteSaid(v storage.Reader, b *storage.Batch, list []chunk.Sealed, now time.Time) error {
	said := map[string]Word{}
	for _, sealed := range list {
		h := sealed.Header()
		if order := sealed.IsErasure(); order || h.Kind == chunk.KindCheckpoint {
			key, noted := storage.Unsettled.Key(sealed.ID()), now.UnixMilli()
			if order {
				noted = 0
			}
			if _, err := v.Get(key); errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged) {
				b.Put(key, Unsettled{Scope: h.Scope, At: sealed.Place(), Maker: h.Device, NotedMillis: noted}.Marshal())
			} else if err != nil {
				return fmt.Errorf("read note of a checkpoint: %w", err)
			}
			continue
		}
		if assent, err := sealed.Assent(); err == nil {
			b.Put(storage.Assent.Key(assent.Erasure.ID, sealed.ID()), MarshalPlace(sealed.Place()))
			continue
		}
		on, good, err := sealed.Verdict()
		if err != nil {
			continue // a later version's: a device that has said nothing else is waited for
		}
		key := storage.Word.Key(on.ID, h.Device)
		before, here := said[string(key)]
		if !here {
			stored, err := v.Get(key)
			if err := storage.IgnoreDamaged(storage.IgnoreNotFound(err)); err != nil {
				return fmt.Errorf("read word on a checkpoint: %w", err)
			}
			here = !errors.Is(err, storage.ErrNotFound)
			if err == nil {
				before, err = ParseWord(stored)
			}
			if err != nil {
				before = Word{} // one that does not read may have been a bad one, and stays
			}
		}
		if !here || before.OK {
			said[string(key)] = Word{OK: good, At: sealed.Place()}
			b.Put(key, said[string(key)].Marshal())
		}
	}
	return nil
}

// Settle deletes what checkpoints cover on which every device that writes has given a good word, once they have been here for a while (grace).
// A call does a turn's work; more says that another is to follow. What is not settled then waits for words, chunks, members or time.
func (s *Set) Settle(ctx context.Context, now time.Time, grace time.Duration) (more bool, err error) {
	if len(s.state().Unknown()) > 0 {
		return false, nil // an entry that this version does not know may give somebody the right to write
	}
	if more, err := s.lookBack(ctx, now); more || err != nil {
		return more, err
	}
	list, more, err := s.unsettled(now, grace)
	if err != nil {
		return false, fmt.Errorf("read notes of checkpoints: %w", err)
	}
	for _, u := range list {
		err := s.settle(ctx, u)
		switch {
		case errors.Is(err, storage.ErrNoRoom):
			return false, nil
		case errors.Is(err, storage.ErrDamaged), errors.Is(err, storage.ErrTooLarge): // the others do not wait with it
			s.log.Warn("what a checkpoint covers is not deleted", "checkpoint", u.At.ID, "error", err)
		case err != nil:
			return false, fmt.Errorf("delete what checkpoint %v covers: %w", u.At.ID, err)
		}
	}
	return more, nil
}

// unsettled lists the checkpoints of a turn.
func (s *Set) unsettled(now time.Time, grace time.Duration) (list []Unsettled, more bool, err error) {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	if s.settler.next == nil {
		s.settler.lacks.Store(false)
	}
	looked, from := 0, s.settler.next
	s.settler.next = nil
	err = s.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Unsettled.All(), from, func(key []byte) error {
			if looked++; looked > turnLooked || len(list) == turnUnsettled {
				s.settler.next, more = bytes.Clone(key), true
				return storage.ErrStop
			}
			value, err := v.Get(key)
			var u Unsettled
			if err == nil {
				u, err = ParseUnsettled(value)
			}
			if errors.Is(err, storage.ErrDamaged) || errors.Is(err, wire.ErrMalformed) {
				s.log.Warn("the note of a checkpoint does not read, and is passed over", "error", err)
				return nil
			}
			if err != nil {
				return err
			}
			if age := now.UnixMilli() - u.NotedMillis; u.NotedMillis == 0 || age < 0 || age >= grace.Milliseconds() {
				list = append(list, u)
			}
			return nil
		})
	})
	return list, more, err
}

// settle judges a checkpoint, and deletes what it covers in one commit.
func (s *Set) settle(ctx context.Context, u Unsettled) error {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	var b storage.Batch
	at := s.settler.at
	err := s.store.View(func(v storage.Reader) error {
		said, err := Said(v, u.At.ID, u.Maker)
		if err != nil {
			return err
		}
		if _, gone, err := ReadSkip(v, u.Scope, u.At.Log, u.At.Counter); gone || err != nil { // a later one stands for it
			forgetCheckpoint(&b, u.At.ID, said)
			return err
		}
		sealed, err := ReadChunk(v, u.Scope, u.At.Log, u.At.Counter)
		if err != nil || sealed.ID() != u.At.ID { // of another history of its log
			return err
		}
		delete := func() (Deletion, error) { return DeleteCovered(v, &b, sealed, said) }
		if sealed.IsErasure() {
			assent, agreed, err := s.AssentTo(v, sealed)
			if err != nil || !agreed {
				return err
			}
			delete = func() (Deletion, error) { return DeleteErased(v, &b, sealed, assent) }
		} else if agreement := AgreementOn(s.state(), u.Scope, said); agreement == Refused {
			s.log.Warn("a device says that a checkpoint is not what it claims to stand for; nothing is deleted for it", "checkpoint", u.At.ID)
			b.Delete(storage.Unsettled.Key(u.At.ID))
			return nil
		} else if agreement == Awaited {
			return nil
		}
		if held, err := s.holdsCovered(u.Scope, sealed); err != nil || !held {
			return err
		}
		d, err := delete()
		if err != nil {
			return err
		}
		b.Delete(storage.Unsettled.Key(u.At.ID))
		at.Deleted += uint64(d.Chunks)
		b.Put(storage.Meta.Key(metaSettling), at.Marshal())
		return nil
	})
	switch {
	case errors.Is(err, ErrCoversWrongly):
		s.log.Warn("a checkpoint covers what it cannot stand for; nothing is deleted for it", "checkpoint", u.At.ID)
		b = storage.Batch{}
		b.Delete(storage.Unsettled.Key(u.At.ID))
	case errors.Is(err, ErrNoWord), errors.Is(err, storage.ErrNotFound), errors.Is(err, ErrOtherHistory), errors.Is(err, ErrNotHeld), errors.Is(err, chunk.ErrNewer):
		return nil
	case err != nil:
		return err
	}
	b.Frees = true
	if err := s.store.Commit(ctx, &b); err != nil {
		return err
	}
	s.settler.at = at
	s.settler.deleted.Store(at.Deleted)
	return nil
}

// forgetCheckpoint forgets a checkpoint that a later one covers, and the words on it.
func forgetCheckpoint(b *storage.Batch, id chunk.ID, said map[trust.DeviceID]Word) {
	b.Delete(storage.Unsettled.Key(id))
	for device := range said {
		b.Delete(storage.Word.Key(id, device))
	}
}

// holdsCovered reports whether a checkpoint and all that it covers is held, in the order of each log.
func (s *Set) holdsCovered(scope trust.ScopeID, sealed chunk.Sealed) (bool, error) {
	covers, err := sealed.Covers()
	if err != nil || s.End(scope, sealed.Log()).Counter < sealed.Header().Counter {
		return false, err
	}
	for _, run := range covers {
		if s.End(scope, run.Log).Counter < run.To {
			s.settler.lacks.Store(true)
			return false, nil
		}
	}
	return true, nil
}

// lookBack notes checkpoints and words that came before they were noted, by a build that kept everything: a turn's worth.
func (s *Set) lookBack(ctx context.Context, now time.Time) (more bool, err error) {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	if len(s.settler.at.Look) == 0 {
		return false, nil
	}
	var b storage.Batch
	at := s.settler.at
	if err := s.store.View(func(v storage.Reader) error {
		var list []chunk.Sealed
		looked, size := 0, 0
		for _, kind := range []storage.Kind{storage.Chunk.Kind, storage.Branch.Kind} {
			from := at.Look
			if kind.Number() < from[0] {
				continue
			}
			if err := v.Keys(kind.All(), from, func(key []byte) error {
				if looked++; looked > turnLooked || size > turnBytes {
					at.Look, more = bytes.Clone(key), true
					return storage.ErrStop
				}
				value, err := v.Get(key)
				if err != nil {
					return storage.IgnoreDamaged(err) // it is taken back when it is read for a device
				}
				size += len(value)
				sealed, err := chunk.Parse(value)
				if err == nil && vouches(sealed) {
					list = append(list, sealed)
				}
				return nil
			}); err != nil || more {
				return errors.Join(err, noteSaid(v, &b, list, now))
			}
			at.Look = storage.Branch.All()
		}
		at.Look = nil
		return noteSaid(v, &b, list, now)
	}); err != nil {
		return false, fmt.Errorf("look for checkpoints: %w", err)
	}
	b.Put(storage.Meta.Key(metaSettling), at.Marshal())
	if err := s.store.Commit(ctx, &b); errors.Is(err, storage.ErrNoRoom) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("note checkpoints: %w", err)
	}
	s.settler.at = at
	return more, nil
}
