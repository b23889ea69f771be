package replica

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A log that a damaged chunk was taken out of ends before the gap. What lies behind is kept in its place, not claimed, and
// counted again when the gap is closed; it may be nowhere else. So what arrives at the end of such a log must not be put
// in the place of a chunk that is kept, and goes beside it if it is another one: which history was the main one before the
// damage stays so.

// errAwaited says that the chunk of an applied change is not here: it was damaged, and another one may have its place by now.
var errAwaited = fmt.Errorf("%w: a chunk lacks the change that its record names", storage.ErrDamaged)

// behindGap reports whether something is kept behind the end of a log.
func behindGap(v storage.Reader, ref logRef, head tip) (behind bool, err error) {
	err = v.Keys(storage.Chunk.With2(ref.scope, ref.log), storage.Chunk.Key(ref.scope, ref.log, head.Counter+1), func([]byte) error {
		behind = true
		return storage.ErrStop
	})
	return behind, err
}

// besideKept reports whether a chunk that follows the end of its log belongs beside it: it stands there already, or another
// one is kept in its place. If it does not and what is kept goes on behind it, the batch is to be committed at once, so that
// what arrives next finds the log's end where that is.
func (r *Replica) besideKept(a *arriving, at chunkRef, sealed chunk.Sealed) (beside bool, err error) {
	ref := logRef{at.Scope, at.Log}
	behind, known := a.behind[ref]
	if known && !behind && !r.forked(at.Scope, at.Log) {
		return false, nil
	}
	err = r.store.View(func(v storage.Reader) error {
		if !known {
			if behind, err = behindGap(v, ref, r.tip(ref.scope, ref.log)); err != nil {
				return err
			}
			a.behind[ref] = behind
		}
		if !behind && !r.forked(at.Scope, at.Log) {
			return nil
		}
		if beside, err = hasBranch(v, at, sealed.ID()); err != nil || beside || !behind {
			return err
		}
		kept, err := readChunk(v, at.Scope, at.Log, at.Counter)
		if err == nil && kept.ID() != sealed.ID() {
			beside = true
			return nil
		}
		if err := storage.IgnoreDamaged(storage.IgnoreNotFound(err)); err != nil {
			return err
		}
		next, err := heldBy(v, at.Scope, at.Log, at.Counter+1)
		a.joins = a.joins || err == nil && next.follows(tip{at.Counter, sealed.ID()})
		return nil
	})
	if err != nil {
		return false, fmt.Errorf("compare with what is kept: %w", err)
	}
	return beside, nil
}

// hasBranch reports whether a chunk stands beside the main history of its log, and reads.
func hasBranch(v storage.Reader, at chunkRef, id chunk.ID) (bool, error) {
	_, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter, id))
	return err == nil, storage.IgnoreDamaged(storage.IgnoreNotFound(err))
}

// adoptAll adopts in every log to which something came.
func (r *Replica) adoptAll(v storage.Reader, a *arriving, ends map[logRef]tip) error {
	for ref := range a.logs() {
		end, ok := ends[ref]
		if !ok {
			end = r.tip(ref.scope, ref.log)
		}
		if behind, err := behindGap(v, ref, end); err != nil {
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
func adopt(v storage.Reader, a *arriving, ref logRef, end tip) error {
	beside := func(at chunkRef, id chunk.ID) (bool, error) {
		if _, ok := a.branches[at][id]; ok {
			return true, nil
		}
		return hasBranch(v, at, id)
	}
	from := storage.Chunk.Key(ref.scope, ref.log, end.Counter+1)
	return v.Keys(storage.Chunk.With2(ref.scope, ref.log), from, func(key []byte) error {
		if a.batch.Size() > importCommitBytes { // the rest goes with what arrives next
			return storage.ErrStop
		}
		_, _, counter, err := storage.Chunk.Parse(key)
		if err != nil {
			return err
		}
		sealed, err := readChunk(v, ref.scope, ref.log, counter)
		if err != nil {
			return storage.IgnoreDamaged(err) // it is missing when its turn comes
		}
		previous := sealed.Header().Previous
		if ok, err := beside(chunkRef{ref.scope, ref.log, counter - 1}, previous); err != nil || !ok {
			return err
		}
		at := chunkRef{ref.scope, ref.log, counter}
		a.batch.Delete(bytes.Clone(key))
		a.putBranch(at, sealed)
		return nil
	})
}

// behindGapLocked reports whether a chunk that stands beside the main history of its log hangs behind a gap. What it says is no
// part of the documents until the gap is closed, as of what is kept behind the main history's end: else they would differ
// between devices that hold the same, by where each of them keeps it.
func (r *Replica) behindGapLocked(at storage.Ref) bool {
	f := r.mu.forks[at.Scope][at.Log]
	if f == nil {
		return false
	}
	_, beside := f.nodes[at.ID]
	return beside && !f.held(r.mu.tips[at.Scope][at.Log])[at.ID]
}

// recallLocked gives the chunks their turn that hung behind a gap which is closed.
func (r *Replica) recallLocked() {
	r.mu.behind = slices.DeleteFunc(r.mu.behind, func(at storage.Ref) bool {
		closed := !r.behindGapLocked(at)
		if closed {
			r.mu.turns = append(r.mu.turns, at)
		}
		return closed
	})
}

// lacks reports whether a chunk was damaged and has not come again.
func (f *fork) lacks(id chunk.ID) bool {
	_, ok := f.gone[id]
	return ok
}

// missing counts the damaged chunks that are known to be missing beside the main history.
func (f *fork) missing() uint64 {
	if f == nil {
		return 0
	}
	return uint64(len(f.gone))
}

// loadGone reads which damaged chunks have not come again. What builds on one tells of it, too; this tells of the last one of a
// history.
func (r *Replica) loadGone(v storage.Reader) error {
	return v.Keys(storage.Gone.All(), nil, func(key []byte) error {
		scope, log, counter, id, err := storage.Gone.Parse(key)
		if err != nil {
			return err
		}
		if _, here := r.forkLocked(scope, log).nodes[id]; !here {
			r.forkLocked(scope, log).gone[id] = counter
		}
		return nil
	})
}

// forgetCome removes the notes of damaged chunks that have come again, but not beside the main history.
func (r *Replica) forgetCome(ctx context.Context) error {
	var batch storage.Batch
	if err := r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Gone.All(), nil, func(key []byte) error {
			scope, log, _, id, err := storage.Gone.Parse(key)
			if f, _ := r.forkOf(scope, log); err == nil && !f.lacks(id) {
				batch.Delete(bytes.Clone(key))
			}
			return err
		})
	}); err != nil || batch.Len() == 0 {
		return err
	}
	return r.store.Commit(ctx, &batch)
}

// findGone finds out for some logs what is not there of the histories beside the main one, or of what they build on: it was
// damaged, and the main history may have another chunk in its place by now.
func (r *Replica) findGone(logs map[logRef]bool) error {
	for ref := range logs {
		f, head := r.forkOf(ref.scope, ref.log)
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
		err := r.store.View(func(v storage.Reader) error {
			main := &history{v: v, scope: ref.scope, log: ref.log}
			for id, counter := range asked {
				if counter > head.Counter {
					continue
				}
				at, err := main.at(counter)
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
		r.mu.Lock()
		if have := r.mu.forks[ref.scope][ref.log]; have != nil {
			maps.DeleteFunc(have.gone, func(id chunk.ID, _ uint64) bool { return here[id] })
			maps.Copy(have.gone, gone)
			if have.reach = nil; len(have.nodes)+len(have.gone) == 0 {
				delete(r.mu.forks[ref.scope], ref.log) // one history again, as it is told elsewhere
			}
		}
		r.recallLocked()
		r.mu.Unlock()
	}
	return nil
}

// keptUnder takes what is kept behind the end of a log, where a skip is going to stand, out of its places, and returns what
// the skip does not stand for: it goes beside it.
func keptUnder(v storage.Reader, scope trust.ScopeID, run chunk.Covered, head tip, batch *storage.Batch) (others []chunk.Sealed, err error) {
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
		sealed, err := readChunk(v, scope, run.Log, counter)
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

// logs returns the logs of which a batch brings something.
func (a *arriving) logs() map[logRef]bool {
	logs := map[logRef]bool{}
	for scope, heads := range a.heads {
		for log := range heads {
			logs[logRef{scope, log}] = true
		}
	}
	for at := range a.branches {
		logs[logRef{at.Scope, at.Log}] = true
	}
	return logs
}

// putBranch stores a chunk beside the main history of its log.
func (a *arriving) putBranch(at chunkRef, sealed chunk.Sealed) {
	id := sealed.ID()
	place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: id}
	a.batch.Put(storage.Branch.Key(at.Scope, at.Log, at.Counter, id), sealed.Bytes())
	a.batch.Put(storage.Parked.Key(missingTurn, [32]byte{}, place), nil)
	a.batch.Delete(storage.Gone.Key(at.Scope, at.Log, at.Counter, id))
	if a.branches[at] == nil {
		a.branches[at] = map[chunk.ID]node{}
	}
	a.branches[at][id] = node{at.Counter, sealed.Header().Previous}
	a.turns = append(a.turns, place)
	if kind := sealed.Header().Kind; kind == chunk.KindCheckpoint || kind == chunk.KindCover {
		a.proofs[id] = sealed
		a.batch.Delete(storage.Loose.Key(at.Scope, at.Log, at.Counter, id))
	}
}
