package replica

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"chartmesh/crdt"
	"chartmesh/storage"
)

// repairAuthor is who writes what a repair saves.
const repairAuthor = "chartmesh repair"

// shownOnce is what a document showed of a resource.
type shownOnce struct {
	ref  fhirRef
	json []byte
}

// keepShown stores what is shown of documents that lack a chunk, before they are made anew, and returns how many resources
// that are. It is kept until SaveLost has written it, or ForgetSaved.
func (r *Replica) keepShown(ctx context.Context) (int, error) {
	shown, err := r.shownOfLost()
	if err != nil {
		return 0, fmt.Errorf("look for what is lost: %w", err)
	}
	var batch storage.Batch
	for _, s := range shown {
		batch.Put(storage.Saving.Key(s.ref.typ, s.ref.id), s.json)
		if batch.Size() > importCommitBytes {
			if err := r.store.Commit(ctx, &batch); err != nil {
				return 0, fmt.Errorf("keep what is shown of lost chunks: %w", err)
			}
			batch = storage.Batch{}
		}
	}
	if err := r.store.Commit(ctx, &batch); err != nil {
		return 0, fmt.Errorf("keep what is shown of lost chunks: %w", err)
	}
	return len(shown), nil
}

// ForgetSaved is for when a repair is over and every chunk has come back: what was kept is in them.
func (r *Replica) ForgetSaved(ctx context.Context) error {
	var batch storage.Batch
	if err := r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Saving.All(), nil, func(key []byte) error {
			batch.Delete(bytes.Clone(key))
			return nil
		})
	}); err != nil {
		return fmt.Errorf("forget what was kept: %w", err)
	}
	return r.store.Commit(ctx, &batch)
}

// SaveLost is for when a repair is over and chunks are lost whose changes are still in documents here: the documents are
// made anew from what is held, since nobody could edit them otherwise, and what they showed of the lost changes is written
// once more, as an edit of this device. It returns how many resources that were. Cut short, it is to be called again: what
// is to be written is kept until it is.
func (r *Replica) SaveLost(ctx context.Context) (saved int, err error) {
	n, err := r.keepShown(ctx)
	if err != nil {
		return 0, err
	}
	if n > 0 {
		if err := r.rebuild(ctx); err != nil {
			return 0, err
		}
	}
	var shown []shownOnce
	if err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Saving.All(), nil, func(key, value []byte) error {
			typ, id, err := storage.Saving.Parse(key)
			shown = append(shown, shownOnce{fhirRef{typ, id}, bytes.Clone(value)})
			return err
		})
	}); err != nil {
		return 0, fmt.Errorf("read what is to be written once more: %w", err)
	}
	if len(shown) == 0 {
		return 0, nil
	}
	for more := true; more; {
		if more, err = r.Apply(ctx); err != nil {
			return 0, err
		}
	}
	for _, s := range shown {
		now, err := r.shownNow(s.ref)
		if err != nil {
			return saved, err
		}
		if !bytes.Equal(now, s.json) {
			if _, err := r.Put(ctx, repairAuthor, json.RawMessage(s.json), true); err != nil {
				return saved, fmt.Errorf("write a lost resource once more: %w", err)
			}
			saved++
		}
		var done storage.Batch
		done.Delete(storage.Saving.Key(s.ref.typ, s.ref.id))
		if err := r.store.Commit(ctx, &done); err != nil {
			return saved, fmt.Errorf("note that a lost resource is written: %w", err)
		}
	}
	return saved, nil
}

// shownOfLost reads what is shown of documents that lack a chunk, or that do not say what they consist of. What does not
// read is left out.
func (r *Replica) shownOfLost() (shown []shownOnce, err error) {
	readable := func(v storage.Reader, prefix []byte, fn func(key, value []byte) error) error {
		return v.Keys(prefix, nil, func(key []byte) error {
			value, err := v.Get(key)
			if errors.Is(err, storage.ErrDamaged) {
				return fn(key, nil)
			}
			if err != nil {
				return err
			}
			return fn(key, value)
		})
	}
	err = r.store.View(func(v storage.Reader) error {
		from := sources{r: r, v: v}
		isLost := func(a appliedChange) bool {
			beyond := a.Chunk.Counter > r.position(a.Chunk.Scope, a.Chunk.Log).Counter
			if !r.forked(a.Chunk.Scope, a.Chunk.Log) {
				return beyond
			}
			// Where a log has several histories the counter does not tell.
			var err error
			if beyond {
				_, _, err = r.rawBeside(v, a.Chunk, a.Record.Hash)
			} else {
				_, err = from.raw(a.Chunk, a.Record.Hash)
			}
			return errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrNotFound)
		}
		lost := map[crdt.DocumentID]bool{}
		if err := readable(v, storage.Change.All(), func(key, value []byte) error {
			doc, _, err := storage.Change.Parse(key)
			if err != nil || lost[doc] {
				return err
			}
			a, err := parseAppliedChange(value)
			lost[doc] = err != nil || isLost(a)
			return nil
		}); err != nil {
			return err
		}
		for doc, is := range lost {
			if !is {
				continue
			}
			if err := readable(v, storage.ResourceIn.With(doc), func(key, value []byte) error {
				_, root, err := storage.ResourceIn.Parse(key)
				if err != nil {
					return err
				}
				w, err := parseView(value)
				if ref, ok := parseRef(root); err == nil && ok && !w.Removed {
					shown = append(shown, shownOnce{ref, w.JSON})
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	})
	return shown, err
}

// shownNow returns a resource's canonical JSON as reads show it; nil if there is none.
func (r *Replica) shownNow(ref fhirRef) ([]byte, error) {
	var out []byte
	err := r.store.View(func(v storage.Reader) error {
		docs, err := readDocumentsOf(v, ref)
		if err != nil {
			return err
		}
		var views []located
		for _, doc := range docs {
			w, err := readView(v, doc, ref.key())
			if err != nil {
				return err
			}
			if w != nil {
				views = append(views, located{doc, w})
			}
		}
		if len(views) == 0 {
			return nil
		}
		if w := views[shownOf(views)]; !w.Removed {
			out = w.JSON
		}
		return nil
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = nil
	}
	return out, err
}
