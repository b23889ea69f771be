package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// What agreed orders name is deleted as soon as all of it is here.

// deleteErased deletes what agreed orders name, of those of which all is here, a commit each. It returns how many chunks that were.
func (r *Replica) deleteErased(ctx context.Context) (n int, err error) {
	for _, id := range sortedErasures(r.erasures) {
		e := r.erasures[id]
		if e.state != erasureAgreed {
			continue
		}
		deleted, err := r.deleteOrdered(ctx, e)
		n += deleted
		if errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrTooLarge) || errors.Is(err, storage.ErrNoRoom) {
			// It waits until what it lacks is here again; the others do not wait with it, and nothing else does.
			r.log.Warn("what was erased is not deleted yet", "document", e.document, "error", err)
			continue
		}
		if err != nil {
			return n, fmt.Errorf("delete what was erased: %w", err)
		}
	}
	return n, nil
}

func (r *Replica) deleteOrdered(ctx context.Context, e *erasure) (n int, err error) {
	t := r.begin(ctx)
	next := *e
	next.state, next.keys = erasureDone, nil
	wait, wrong := false, []storage.Ref(nil)
	err = r.store.View(func(v storage.Reader) error {
		order, err := logs.ReadAt(v, e.scope, e.place)
		if err != nil {
			return err
		}
		covers, err := order.Covers()
		if err != nil {
			return err
		}
		if wait = !r.reached(e.scope, e.place.Log, e.place.Counter) ||
			slices.ContainsFunc(covers, func(run chunk.Covered) bool { return !r.reached(e.scope, run.Log, run.To) }); wait {
			return nil
		}
		assent, agreed, err := r.logs.AssentTo(v, order)
		if wait = !agreed; wait || err != nil {
			return err
		}
		deleted, err := logs.DeleteErased(v, &t.batch, order, assent)
		if err == nil {
			err = t.releaseErased(v, e.scope, covers)
		}
		n = deleted.Chunks
		switch {
		case errors.Is(err, logs.ErrCoversWrongly):
			wrong, err = ofTag(v, e.scope, order.Header().Tag, covers)
			next.state = erasureRefused
			return err
		case errors.Is(err, logs.ErrNoWord), errors.Is(err, storage.ErrNotFound), errors.Is(err, logs.ErrOtherHistory), errors.Is(err, logs.ErrNotHeld),
			errors.Is(err, chunk.ErrNewer):
			wait = true
			return nil
		}
		if err != nil {
			return err
		}
		return forgetEvents(v, &t.batch, e.keys, e.before)
	})
	if err != nil || wait {
		return 0, err
	}
	if t.batch.Frees = true; next.state == erasureRefused {
		// What it names of the document is not deleted, and is late as all else of it is.
		r.log.Error("an order to erase names what is of no such document; nothing is deleted for it", "order", e.place.ID, "by", e.by.device)
		t = r.begin(ctx)
		n = 0
		for _, at := range wrong {
			if err := t.release(at); err != nil {
				return 0, err
			}
			t.holdLate(at)
		}
		t.events = append(t.events, Event{Kind: "erasure-refused"})
		r.forget(ctx, e.document)
	}
	t.putErasure(&next)
	if err := t.commit(ctx); err != nil {
		return 0, err
	}
	return n, nil
}

// ofTag lists the chunks with changes of a document among those that are covered.
func ofTag(v storage.Reader, scope trust.ScopeID, tag chunk.Tag, covers chunk.Covers) (list []storage.Ref, err error) {
	for _, run := range covers {
		err := v.Scan(storage.Chunk.With2(scope, run.Log), storage.Chunk.Key(scope, run.Log, run.From), func(_, value []byte) error {
			sealed, err := chunk.Parse(bytes.Clone(value))
			if err != nil {
				return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
			}
			h := sealed.Header()
			if h.Counter > run.To {
				return storage.ErrStop
			}
			if h.Tag == tag && (h.Kind == chunk.KindChanges || h.Kind == chunk.KindCheckpoint) {
				list = append(list, refOf(sealed))
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

// releaseErased takes the chunks off the held ones that are deleted: what waited for a key, of which nobody knew the document.
func (t *transaction) releaseErased(v storage.Reader, scope trust.ScopeID, covers chunk.Covers) error {
	d := document{erased: []chunk.Covers{covers}}
	return v.Keys(storage.Held.All(), nil, func(key []byte) error {
		at, err := storage.Held.Parse(key)
		if err != nil || at.Scope != scope || !d.erases(at) {
			return err
		}
		return t.release(at)
	})
}

// forgetEvents takes the names of resources out of the events up to a cursor, as far as these read. The events stay, so that no cursor means another one.
func forgetEvents(v storage.Reader, b *storage.Batch, keys []string, before uint64) error {
	if len(keys) == 0 {
		return nil
	}
	err := v.Scan(storage.Event.All(), nil, func(key, value []byte) error {
		last, err := storage.Event.Parse(key)
		if err != nil || last > before {
			return err
		}
		list, err := parseEvents(last, value)
		if err != nil {
			return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
		}
		bent := false
		for i, e := range list {
			if _, ok := slices.BinarySearch(keys, e.Resource); ok {
				list[i] = Event{Kind: "erased", Cursor: e.Cursor, Time: e.Time}
				bent = true
			}
		}
		if bent {
			b.Put(bytes.Clone(key), marshalEvents(list))
		}
		return nil
	})
	if err := storage.IgnoreDamaged(err); err != nil { // the chunks do not wait for what a repair drops
		return fmt.Errorf("forget the events of an erased document: %w", err)
	}
	return nil
}
