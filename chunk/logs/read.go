package logs

import (
	"bytes"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A counter of a log is held if its chunk is durable, or a skip and the proof that the skip names: the checkpoint, and the
// good word on it of the device whose log it is, unless that device made it. Each of the two stands in its own place or
// loose (out of its turn). The skip is written in the commit that brings them or after it; they are deleted only in a commit
// that gives the skip a later checkpoint with the word on that.

// ReadChunk returns the chunk of a log at a counter; storage.ErrNotFound if it is not in its place.
func ReadChunk(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Sealed, error) {
	b, err := v.Get(storage.Chunk.Key(scope, log, counter))
	if err != nil {
		return chunk.Sealed{}, err
	}
	sealed, err := chunk.Parse(b)
	if err != nil {
		return chunk.Sealed{}, fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, err)
	}
	return sealed, nil
}

// ReadSkip returns the skip that stands for a counter of a log.
func ReadSkip(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (skip chunk.Skip, found bool, err error) {
	err = v.Scan(storage.Skip.With2(scope, log), storage.Skip.Key(scope, log, counter), func(_, value []byte) error {
		if skip, err = chunk.ParseSkip(value); err != nil {
			return fmt.Errorf("read skip: %w: %w", storage.ErrDamaged, err)
		}
		found = skip.From <= counter
		return storage.ErrStop
	})
	return skip, found, err
}

// maxSuccessors bounds how many checkpoints are followed from one to the next. Deleting one rewrites the skips that name
// it, so that there is one step at most.
const maxSuccessors = 8

// readCheckpoint returns the checkpoint at a place, or the one that stands for it by now.
func readCheckpoint(v storage.Reader, scope trust.ScopeID, at chunk.Place) (chunk.Sealed, error) {
	for range maxSuccessors {
		sealed, err := ReadAt(v, scope, at)
		if !errors.Is(err, storage.ErrNotFound) {
			return sealed, err
		}
		skip, found, err := ReadSkip(v, scope, at.Log, at.Counter)
		if err != nil {
			return chunk.Sealed{}, err
		}
		if !found {
			break
		}
		at = skip.Checkpoint
	}
	return chunk.Sealed{}, storage.ErrNotFound
}

// ReadAt returns the very chunk at a place: in its place, in another history of its log or loose; storage.ErrNotFound if it
// is not here, and an Unreadable that names what does not read if that may be it. What is loose is claimed by no vector: if it
// does not read, it is not here.
func ReadAt(v storage.Reader, scope trust.ScopeID, at chunk.Place) (chunk.Sealed, error) {
	main := storage.Ref{Scope: scope, Log: at.Log, Counter: at.Counter}
	beside := storage.Ref{Scope: scope, Log: at.Log, Counter: at.Counter, ID: at.ID}
	none := storage.ErrNotFound
	for _, place := range []struct {
		key []byte
		ref *storage.Ref
	}{
		{storage.Chunk.Key(scope, at.Log, at.Counter), &main}, {storage.Branch.Key(scope, at.Log, at.Counter, at.ID), &beside},
		{storage.Loose.Key(scope, at.Log, at.Counter, at.ID), nil},
	} {
		b, err := v.Get(place.key)
		if err == nil {
			sealed, bad := chunk.Parse(b)
			if bad == nil && sealed.ID() == at.ID {
				return sealed, nil
			}
			if bad != nil {
				err = fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, bad)
			}
		}
		switch {
		case errors.Is(err, storage.ErrDamaged):
			if place.ref != nil {
				none = &Unreadable{*place.ref, err}
			}
		case storage.IgnoreNotFound(err) != nil:
			return chunk.Sealed{}, err
		}
	}
	return chunk.Sealed{}, none
}

// ReadBranch returns a chunk that stands beside the main history of its log; storage.ErrNotFound if it does not.
func ReadBranch(v storage.Reader, at storage.Ref) (chunk.Sealed, error) {
	b, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter, at.ID))
	if err != nil {
		return chunk.Sealed{}, err
	}
	sealed, err := chunk.Parse(b)
	if err == nil && (sealed.ID() != at.ID || sealed.Log() != at.Log || sealed.Header().Counter != at.Counter) {
		err = errors.New("it stands in another's place")
	}
	if err != nil {
		return chunk.Sealed{}, fmt.Errorf("read branch: %w: %w", storage.ErrDamaged, err)
	}
	return sealed, nil
}

// hasBranch reports whether a chunk stands beside the main history of its log, and reads.
func hasBranch(v storage.Reader, at Ref, id chunk.ID) (bool, error) {
	_, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter, id))
	return err == nil, storage.IgnoreDamaged(storage.IgnoreNotFound(err))
}

// Stored is what stands in a log at a counter: a chunk, or a skip with its checkpoint.
type Stored struct {
	Chunk chunk.Sealed
	Skip  *chunk.Skip // the chunk is the checkpoint that it names
	Loose bool        // it has no place in the log as it is held
}

// Read returns what stands in a log at a counter.
func Read(v storage.Reader, at Ref) (s Stored, err error) {
	s.Chunk, err = ReadChunk(v, at.Scope, at.Log, at.Counter)
	if !errors.Is(err, storage.ErrNotFound) {
		return s, err
	}
	skip, found, err := ReadSkip(v, at.Scope, at.Log, at.Counter)
	if err != nil {
		return s, err
	}
	if found {
		s.Skip = &skip
		if s.Chunk, err = readCheckpoint(v, at.Scope, skip.Checkpoint); errors.Is(err, storage.ErrNotFound) {
			err = ErrNotHeld
		}
		return s, err
	}
	// A loose checkpoint that waited for something is looked for at its place, too. A loose word waits for nothing.
	err = LooseCheckpoints(v, at, func(loose chunk.Sealed) error {
		s.Chunk, found = loose, true
		return storage.ErrStop
	})
	if err == nil && !found {
		err = ErrNotHeld
	}
	return s, err
}

// LooseCheckpoints calls do for each checkpoint or order that lies loose at a place.
func LooseCheckpoints(v storage.Reader, at Ref, do func(chunk.Sealed) error) error {
	return v.Scan(storage.Loose.With3(at.Scope, at.Log, at.Counter), nil, func(_, value []byte) error {
		loose, err := chunk.Parse(append([]byte(nil), value...))
		if err != nil || loose.Header().Kind != chunk.KindCheckpoint && !loose.IsErasure() {
			return err
		}
		return do(loose)
	})
}

// BehindGap reports whether something is kept behind the end of a log.
func BehindGap(v storage.Reader, ref Name, head End) (behind bool, err error) {
	err = v.Keys(storage.Chunk.With2(ref.Scope, ref.Log), storage.Chunk.Key(ref.Scope, ref.Log, head.Counter+1), func([]byte) error {
		behind = true
		return storage.ErrStop
	})
	return behind, err
}

// keptUnder takes what is kept behind the end of a log, where a skip is going to stand, out of its places, and returns what
// the skip does not stand for: it goes beside it.
func keptUnder(v storage.Reader, scope trust.ScopeID, run chunk.Covered, head End, batch *storage.Batch) (others []chunk.Sealed, err error) {
	from := storage.Chunk.Key(scope, run.Log, head.Counter+1)
	err = v.Keys(storage.Chunk.With2(scope, run.Log), from, func(key []byte) error {
		_, _, counter, err := storage.Chunk.Parse(key)
		if err != nil {
			return err
		}
		if counter > run.To {
			return storage.ErrStop
		}
		batch.Delete(bytes.Clone(key))
		sealed, err := ReadChunk(v, scope, run.Log, counter)
		if err != nil {
			return storage.IgnoreDamaged(err)
		}
		if tip, ok := run.TipAt(counter); !ok || tip != sealed.Position().Tip {
			others = append(others, sealed)
		}
		return nil
	})
	return others, err
}

// items reads what a log holds from after+1 on up to end, a skip behind its checkpoint and word, within maxBytes.
func (s *Set) items(v storage.Reader, scope trust.ScopeID, log chunk.LogID, after, end uint64, maxBytes int) ([]session.Item, error) {
	var out []session.Item
	size := 0
	add := func(it session.Item) error {
		if len(out) > 0 && size+len(it.Bytes) > maxBytes {
			return storage.ErrStop
		}
		out = append(out, it)
		size += len(it.Bytes)
		after = it.Counter
		return nil
	}
	loose := map[chunk.ID]bool{}
	for after < end {
		full, before := false, after
		err := v.Scan(storage.Chunk.With2(scope, log), storage.Chunk.Key(scope, log, after+1), func(key, value []byte) error {
			_, _, counter, err := storage.Chunk.Parse(key)
			if err != nil {
				return err
			}
			if counter > end || counter != after+1 {
				return storage.ErrStop
			}
			err = add(session.Item{Bytes: append([]byte(nil), value...), Log: log, Counter: counter})
			full = errors.Is(err, storage.ErrStop)
			return err
		})
		if err != nil || full || after >= end {
			return out, err
		}
		skip, found, err := ReadSkip(v, scope, log, after+1)
		if err != nil {
			return nil, err
		}
		if !found || skip.To > end {
			if after == before && len(out) == 0 {
				return nil, ErrNotHeld
			}
			return out, nil
		}
		p, err := ReadProof(v, skip, nil, s.assents(v))
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, ErrNoWord) {
			return nil, ErrNotHeld
		}
		if err != nil {
			return nil, err
		}
		skip.Checkpoint, skip.Word = p.Checkpoint.Place(), p.Word.Place()
		value, _ := skip.AppendBinary(nil)
		if len(out) > 0 && size+len(value) > maxBytes {
			return out, nil
		}
		for _, sealed := range []chunk.Sealed{p.Checkpoint, p.Word} {
			if id := sealed.ID(); id != (chunk.ID{}) && !loose[id] {
				loose[id] = true
				out = append(out, session.Item{Bytes: sealed.Bytes(), Log: sealed.Log(), Counter: sealed.Header().Counter, Loose: true})
			}
		}
		if err := add(session.Item{Bytes: value, Log: log, Counter: skip.To, Skip: true}); errors.Is(err, storage.ErrStop) {
			return out, nil
		}
	}
	return out, nil
}
