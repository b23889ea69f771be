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

// SaveLost is for when a repair is over and chunks are lost whose changes are still in documents here: the documents are
// made anew from what is held, since nobody could edit them otherwise, and what they showed of the lost changes is written
// once more, as an edit of this device. It returns how many resources that were.
func (r *Replica) SaveLost(ctx context.Context) (saved int, err error) {
	type shownOnce struct {
		ref  fhirRef
		json []byte
	}
	var shown []shownOnce
	err = r.store.View(func(v storage.Reader) error {
		lost := map[crdt.DocumentID]bool{}
		if err := v.Scan(storage.Change.All(), nil, func(key, value []byte) error {
			doc, _, err := storage.Change.Parse(key)
			if err != nil || lost[doc] {
				return err
			}
			a, err := parseAppliedChange(value)
			if err != nil {
				return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
			}
			lost[doc] = a.Chunk.Counter > r.position(a.Chunk.Scope, a.Chunk.Log).Counter
			return nil
		}); err != nil {
			return err
		}
		for doc, is := range lost {
			if !is {
				continue
			}
			if err := v.Scan(storage.ResourceIn.With(doc), nil, func(key, value []byte) error {
				_, root, err := storage.ResourceIn.Parse(key)
				if err != nil {
					return err
				}
				w, err := parseView(bytes.Clone(value))
				if ref, ok := parseRef(root); err == nil && ok && !w.Removed {
					shown = append(shown, shownOnce{ref, w.JSON})
				}
				return err
			}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("look for what is lost: %w", err)
	}
	if len(shown) == 0 {
		return 0, nil
	}
	if err := r.rebuild(ctx); err != nil {
		return 0, err
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
		if bytes.Equal(now, s.json) {
			continue
		}
		if _, err := r.Put(ctx, repairAuthor, json.RawMessage(s.json), true); err != nil {
			return saved, fmt.Errorf("write a lost resource once more: %w", err)
		}
		saved++
	}
	return saved, nil
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
