package logs

import (
	"bytes"
	"context"
	"fmt"
	"maps"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// A log that a damaged chunk was taken out of ends before the gap. What lies behind is kept in its place, not claimed, and
// counted again when the gap is closed; it may be nowhere else. So what arrives at the end of such a log must not be put
// in the place of a chunk that is kept, and goes beside it if it is another one: which history was the main one before the
// damage stays so.

// besideKept reports whether a chunk that follows the end of its log belongs beside it: it stands there already, or another
// one is kept in its place. If it does not and what is kept goes on behind it, the batch is to be committed at once, so that
// what arrives next finds the log's end where that is.
func (s *Set) besideKept(a *arriving, at Ref, sealed chunk.Sealed) (beside bool, err error) {
	ref := Name{at.Scope, at.Log}
	behind, known := a.behind[ref]
	if known && !behind && !s.Forked(at.Scope, at.Log) {
		return false, nil
	}
	err = s.store.View(func(v storage.Reader) error {
		if !known {
			if behind, err = BehindGap(v, ref, s.End(ref.Scope, ref.Log)); err != nil {
				return err
			}
			a.behind[ref] = behind
		}
		if !behind && !s.Forked(at.Scope, at.Log) {
			return nil
		}
		if beside, err = hasBranch(v, at, sealed.ID()); err != nil || beside || !behind {
			return err
		}
		kept, err := ReadChunk(v, at.Scope, at.Log, at.Counter)
		if err == nil && kept.ID() != sealed.ID() {
			beside = true
			return nil
		}
		if err := storage.IgnoreDamaged(storage.IgnoreNotFound(err)); err != nil {
			return err
		}
		next, err := HeldBy(v, at.Scope, at.Log, at.Counter+1)
		a.joins = a.joins || err == nil && next.Follows(End{at.Counter, sealed.ID()})
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("compare with what is kept: %w", err)
	}
	return beside, nil
}

// adoptAll adopts in every log to which something came.
func (s *Set) adoptAll(v storage.Reader, a *arriving, ends map[Name]End) error {
	for ref := range a.logs() {
		end, ok := ends[ref]
		if !ok {
			end = s.End(ref.Scope, ref.Log)
		}
		if behind, err := BehindGap(v, ref, end); err != nil {
			return err
		} else if behind {
			if err := adopt(v, a, ref, end); err != nil {
				return err
			}
		}
	}
	return nil
}

// adopt moves chunks that are kept behind a log's end to those beside it, where the one before each stands by now: another
// history took the place of the one that they belong to.
func adopt(v storage.Reader, a *arriving, ref Name, end End) error {
	beside := func(at Ref, id chunk.ID) (bool, error) {
		if _, ok := a.branches[at][id]; ok {
			return true, nil
		}
		return hasBranch(v, at, id)
	}
	from := storage.Chunk.Key(ref.Scope, ref.Log, end.Counter+1)
	return v.Keys(storage.Chunk.With2(ref.Scope, ref.Log), from, func(key []byte) error {
		if a.batch.Size() > commitBytes { // the rest goes with what arrives next
			return storage.ErrStop
		}
		_, _, counter, err := storage.Chunk.Parse(key)
		if err != nil {
			return err
		}
		sealed, err := ReadChunk(v, ref.Scope, ref.Log, counter)
		if err != nil {
			return storage.IgnoreDamaged(err) // it is missing when its turn comes
		}
		previous := sealed.Header().Previous
		if ok, err := beside(Ref{ref.Scope, ref.Log, counter - 1}, previous); err != nil || !ok {
			return err
		}
		at := Ref{ref.Scope, ref.Log, counter}
		a.batch.Delete(bytes.Clone(key))
		a.putBranch(at, sealed)
		return nil
	})
}

// loadGone reads which damaged chunks have not come again. What builds on one tells of it, too; this tells of the last one of a
// history.
func (s *Set) loadGone(v storage.Reader) error {
	return v.Keys(storage.Gone.All(), nil, func(key []byte) error {
		scope, log, counter, id, err := storage.Gone.Parse(key)
		if err != nil {
			return err
		}
		if _, here := s.Memory.forkLocked(scope, log).nodes[id]; !here {
			s.Memory.forkLocked(scope, log).gone[id] = counter
		}
		return nil
	})
}

// forgetCome removes the notes of damaged chunks that have come again, but not beside the main history.
func (s *Set) forgetCome(ctx context.Context) error {
	var batch storage.Batch
	if err := s.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Gone.All(), nil, func(key []byte) error {
			scope, log, _, id, err := storage.Gone.Parse(key)
			if f, _ := s.Fork(scope, log); err == nil && !f.lacks(id) {
				batch.Delete(bytes.Clone(key))
			}
			return err
		})
	}); err != nil || batch.Len() == 0 {
		return err
	}
	return s.store.Commit(ctx, &batch)
}

// findGone finds out for some logs what is not there of the histories beside the main one, or of what they build on: it was
// damaged, and the main history may have another chunk in its place by now.
func (s *Set) findGone(logs map[Name]bool) error {
	for ref := range logs {
		f, head := s.Fork(ref.Scope, ref.Log)
		if len(f.nodes)+len(f.gone) == 0 {
			continue
		}
		asked := maps.Clone(f.gone)
		for _, n := range f.nodes {
			if _, within := f.nodes[n.parent]; !within && n.counter > 1 {
				asked[n.parent] = n.counter - 1
			}
		}
		gone, here := map[chunk.ID]uint64{}, map[chunk.ID]bool{}
		err := s.store.View(func(v storage.Reader) error {
			main := &History{Reader: v, Scope: ref.Scope, Log: ref.Log}
			for id, counter := range asked {
				if counter > head.Counter {
					continue
				}
				at, err := main.At(counter)
				if err := storage.IgnoreDamaged(storage.IgnoreNotFound(err)); err != nil {
					return err
				}
				switch {
				case err != nil:
				case at == chunk.At(counter, id):
					here[id] = true
				default:
					gone[id] = counter
				}
			}
			return nil
		})
		if err != nil {
			return fmt.Errorf("read what branches build on: %w", err)
		}
		s.Memory.Lock()
		if have := s.Memory.Forks[ref.Scope][ref.Log]; have != nil {
			maps.DeleteFunc(have.gone, func(id chunk.ID, _ uint64) bool { return here[id] })
			maps.Copy(have.gone, gone)
			s.Memory.tidyLocked(ref.Scope, ref.Log)
		}
		s.Memory.recallLocked()
		s.Memory.Unlock()
	}
	return nil
}

// logs returns the logs of which a batch brings something.
func (a *arriving) logs() map[Name]bool {
	logs := map[Name]bool{}
	for scope, heads := range a.heads {
		for log := range heads {
			logs[Name{scope, log}] = true
		}
	}
	for at := range a.branches {
		logs[Name{at.Scope, at.Log}] = true
	}
	return logs
}

// putBranch stores a chunk beside the main history of its log.
func (a *arriving) putBranch(at Ref, sealed chunk.Sealed) {
	id := sealed.ID()
	place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: id}
	a.batch.Put(storage.Branch.Key(at.Scope, at.Log, at.Counter, id), sealed.Bytes())
	a.set.noteTurn(&a.batch, place)
	a.batch.Delete(storage.Gone.Key(at.Scope, at.Log, at.Counter, id))
	if a.branches[at] == nil {
		a.branches[at] = map[chunk.ID]node{}
	}
	a.branches[at][id] = node{at.Counter, sealed.Header().Previous}
	a.turns = append(a.turns, place)
	a.hear(sealed)
}
