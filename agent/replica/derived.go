package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// derivedKinds are the kinds of key that follow from chunks and the membership log, and are made anew by the applier.
func derivedKinds() []storage.Kind {
	return []storage.Kind{
		storage.Cursor.Kind, storage.Parked.Kind, storage.Held.Kind, storage.Document.Kind, storage.Change.Kind, storage.ChangeAt.Kind,
		storage.Snapshot.Kind, storage.Resource.Kind, storage.ResourceIn.Kind, storage.DocumentsOf.Kind, storage.OfPatient.Kind,
		storage.Term.Kind, storage.Conflict.Kind, storage.ConflictOf.Kind, storage.Tail.Kind, storage.Decision.Kind, storage.Decided.Kind,
		storage.Lost.Kind, storage.EpochKey.Kind, storage.Overlay.Kind, storage.Certificate.Kind,
	}
}

// mend repairs what a verification found.
func (r *Replica) mend(ctx context.Context, found *verification, progress func(api.VerifyProgress)) error {
	progress(api.VerifyProgress{Stage: "repairing"})
	if err := r.mendTruths(ctx, found); err != nil {
		return err
	}
	if err := func() error {
		r.write.Lock()
		defer r.write.Unlock()
		for i := len(found.damaged) - 1; i >= 0; i-- { // from the end of each log, so that each is taken back
			if err := r.takeBack(ctx, found.damaged[i], storage.ErrDamaged); err != nil {
				return err
			}
		}
		return nil
	}(); err != nil {
		return err
	}
	if !found.derived {
		return nil
	}
	// What documents still show of chunks that are missing stands nowhere else, should no device have them.
	if err := r.makeAnew(ctx, true); err != nil {
		return err
	}
	for more, done := true, uint64(0); more; {
		var err error
		if more, err = r.Apply(ctx); err != nil {
			return err
		}
		done++
		progress(api.VerifyProgress{Stage: "repairing", Done: done * applyChunks})
	}
	return nil
}

// mendTruths writes anew what memory still knows, and removes what nobody knows any more: values of this device alone that
// do not read. Nobody writes meanwhile: a log's head or a counter that went back behind an edit would be used again after a
// crash, and the edit written over.
func (r *Replica) mendTruths(ctx context.Context, found *verification) error {
	r.write.Lock()
	defer r.write.Unlock()
	return r.logs.Quiet(func() error { return r.mendTruthsQuietly(ctx, found) })
}

func (r *Replica) mendTruthsQuietly(ctx context.Context, found *verification) error {
	var b storage.Batch
	if found.members {
		for _, e := range r.State().Entries() {
			b.Put(storage.Member.Key(e.ID()), e.Bytes())
		}
	}
	if len(found.unread) > 0 {
		r.mu.Lock()
		for scope, byLog := range r.mu.Ends {
			for log, head := range byLog {
				b.Put(storage.LogHead.Key(scope, log), logs.MarshalEnd(head))
			}
		}
		b.Put(storage.Meta.Key(metaEvent), marshalCounter(r.mu.event))
		r.mu.Unlock()
	}
	err := r.store.View(func(v storage.Reader) error {
		for _, k := range found.unread {
			if k == storage.LogHead.Kind.Number() || k == storage.Member.Number() {
				continue
			}
			if err := v.Keys([]byte{k}, nil, func(key []byte) error {
				_, err := v.Get(key)
				if !errors.Is(err, storage.ErrDamaged) {
					return err
				}
				if !bytes.Equal(key, storage.Meta.Key(metaEvent)) { // which was put above
					b.Delete(bytes.Clone(key))
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && b.Len() > 0 {
		err = r.store.Commit(ctx, &b)
	}
	if err != nil {
		return fmt.Errorf("repair what does not read: %w", err)
	}
	return nil
}

// rebuild forgets everything that follows from chunks; the applier makes it anew. Cut short, it is gone on with before anything
// else is written, or by the next Open. This device goes on under a new log, so that who edits a document before all of it
// is there again writes beside what is missing and not in its place. The caller holds Replica.write.
func (r *Replica) rebuild(ctx context.Context) error {
	if r.ownChunks() {
		if err := r.beginLog(ctx, LogRebuilt); err != nil {
			return fmt.Errorf("rebuild: %w", err)
		}
	}
	var b storage.Batch
	b.Put(storage.Meta.Key(metaRebuild), []byte{recordVersion})
	if err := r.store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	r.rebuilding = true
	return r.goOnRebuilding(ctx)
}

// ownChunks reports whether anything stands in the log that this device writes.
func (r *Replica) ownChunks() bool {
	return slices.ContainsFunc(r.State().Scopes(), func(s trust.Scope) bool { return r.logs.End(s.ID, r.logID(s.ID)).Counter > 0 })
}

// goOnRebuilding does what is left of a rebuild. The caller holds Replica.write.
func (r *Replica) goOnRebuilding(ctx context.Context) error {
	if !r.rebuilding {
		return nil
	}
	if err := forgetDerived(ctx, r.store); err != nil {
		return err
	}
	var turns []storage.Ref
	if err := r.store.View(func(v storage.Reader) (err error) {
		turns, err = logs.ReadTurns(v)
		return err
	}); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	for id := range r.docs.byID {
		r.forget(ctx, id)
	}
	clear(r.failing)
	clear(r.packs)
	clear(r.lost)
	clear(r.tails)
	r.mu.Lock()
	r.mu.Turns, r.mu.Behind = turns, nil
	for scope := range r.mu.applied {
		r.mu.applied[scope] = chunk.Vector{}
	}
	r.mu.sets, r.mu.counts, r.mu.woken = map[trust.ScopeID]chunk.SetHash{}, counts{}, nil
	r.mu.Unlock()
	r.rebuilding = false
	r.notify()
	return nil
}

// forgetDerived removes what follows from chunks, and the mark of a rebuild last.
func forgetDerived(ctx context.Context, store storage.Store) error {
	const atOnce = 1 << 20
	for _, k := range derivedKinds() {
		for {
			var b storage.Batch
			err := store.View(func(v storage.Reader) error {
				return v.Keys(k.All(), nil, func(key []byte) error {
					b.Delete(bytes.Clone(key))
					if b.Size() > atOnce {
						return storage.ErrStop
					}
					return nil
				})
			})
			if err != nil {
				return fmt.Errorf("rebuild: %w", err)
			}
			if b.Len() == 0 {
				break
			}
			if err := store.Commit(ctx, &b); err != nil {
				return fmt.Errorf("rebuild: %w", err)
			}
		}
	}
	var b storage.Batch
	// No cursor comes to the chunks of a log's other histories: each waits for its turn.
	if err := store.View(func(v storage.Reader) error {
		return v.Keys(storage.Branch.All(), nil, func(key []byte) error {
			scope, log, counter, id, err := storage.Branch.Parse(key)
			b.Put(storage.Parked.Key(missingTurn, [32]byte{}, storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}), nil)
			return err
		})
	}); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	b.Delete(storage.Meta.Key(metaRebuild))
	b.Delete(storage.Meta.Key(metaApplied))
	b.Delete(storage.Meta.Key(metaCounts))
	if err := store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("rebuild: %w", err)
	}
	return nil
}

// endRebuilding ends, before anything is read, a rebuild that was cut short.
func endRebuilding(store storage.Store) error {
	err := store.View(func(v storage.Reader) error {
		_, err := v.Get(storage.Meta.Key(metaRebuild))
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return forgetDerived(context.Background(), store)
}
