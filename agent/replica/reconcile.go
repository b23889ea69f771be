package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// repairAuthor is who writes what a repair saves.
const repairAuthor = "chartmesh repair"

// shownOnce is what a document showed of a resource when it lacked a chunk.
type shownOnce struct {
	scope trust.ScopeID // zero in folders of before: the document and what it was are not known
	doc   crdt.DocumentID
	base  []crdt.ChangeHash // the last of the document's changes that did not go with the chunk
	heads []crdt.ChangeHash // the last of those that made the resource what it was shown as
	json  []byte            // empty: removed
	// applied holds all of the document's changes then; it is not stored.
	applied map[crdt.ChangeHash]bool
}

const maxShown = 1 << 10 // of one resource, by documents and repairs

func marshalShown(list []shownOnce) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(len(list)))
	for _, s := range list {
		w.Raw(s.scope[:])
		w.Raw(s.doc[:])
		putHashes(&w, s.base)
		putHashes(&w, s.heads)
		w.Blob(s.json)
	}
	return w.Bytes()
}

func parseShown(b []byte) (list []shownOnce, err error) {
	if bytes.HasPrefix(b, []byte("{")) { // of before it had a version
		return []shownOnce{{json: b}}, nil
	}
	r := open(b)
	for range r.Uvarint(maxShown) {
		var s shownOnce
		r.Fixed(s.scope[:])
		r.Fixed(s.doc[:])
		s.base, s.heads, s.json = getHashes(r), getHashes(r), r.Blob(maxJSON)
		if r.Err() != nil {
			return nil, r.Err()
		}
		list = append(list, s)
	}
	return list, r.Close()
}

// makeAnew stores what is shown of documents that lack a chunk and has all documents made anew, in one turn, so that no
// edit comes in between that builds on what is lost; without always only if there are such. What was stored is kept until
// SaveLost has written it, or ForgetSaved.
func (r *Replica) makeAnew(ctx context.Context, always bool) error {
	r.write.Lock()
	defer r.write.Unlock()
	shown, err := r.shownOfLost()
	if err != nil {
		return fmt.Errorf("look for what is lost: %w", err)
	}
	if len(shown) == 0 && !always {
		return nil
	}
	var batch storage.Batch
	for _, ref := range slices.SortedFunc(maps.Keys(shown), func(a, b fhirRef) int { return cmp.Compare(a.key(), b.key()) }) {
		key, list := storage.Saving.Key(ref.typ, ref.id), shown[ref]
		if err := r.store.View(func(v storage.Reader) error { // what an earlier repair kept is not in the documents any more
			b, err := v.Get(key)
			if err != nil {
				return storage.IgnoreNotFound(err)
			}
			before, err := parseShown(bytes.Clone(b))
			for _, s := range before {
				if !slices.ContainsFunc(list, s.within) {
					list = append(list, s)
				}
			}
			return err
		}); err != nil {
			return fmt.Errorf("keep what is shown of lost chunks: %w", err)
		}
		batch.Put(key, marshalShown(list[:min(len(list), maxShown)]))
		if batch.Size() > importCommitBytes {
			if err := r.store.Commit(ctx, &batch); err != nil {
				return fmt.Errorf("keep what is shown of lost chunks: %w", err)
			}
			batch = storage.Batch{}
		}
	}
	if err := r.store.Commit(ctx, &batch); err != nil {
		return fmt.Errorf("keep what is shown of lost chunks: %w", err)
	}
	return r.rebuild(ctx)
}

// within reports whether a document that showed o consisted of all that made it show s, too.
func (s shownOnce) within(o shownOnce) bool {
	return s.doc == o.doc && !slices.ContainsFunc(s.heads, func(h crdt.ChangeHash) bool { return !o.applied[h] })
}

// ForgetSaved is for when a repair is over and every chunk has come back: what was kept is in them. If another has begun
// meanwhile, what is kept may be that one's.
func (r *Replica) ForgetSaved(ctx context.Context) error {
	r.write.Lock()
	defer r.write.Unlock()
	p, _, _, err := r.Repair()
	if err != nil {
		return err
	}
	if own, others := p.Lost(); !p.Since.IsZero() && p.Done.IsZero() || own+others > 0 {
		return nil
	}
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
// once more, as an edit of this device: one made on what else the documents held then, so that whatever was written since
// meets it as it would have met the lost changes. It returns how many resources that were. Cut short, it is to be called
// again: what is to be written is kept until it is.
func (r *Replica) SaveLost(ctx context.Context) (saved int, err error) {
	if err := r.makeAnew(ctx, false); err != nil {
		return 0, err
	}
	var refs []fhirRef
	if err := r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Saving.All(), nil, func(key []byte) error {
			typ, id, err := storage.Saving.Parse(key)
			refs = append(refs, fhirRef{typ, id})
			return err
		})
	}); err != nil {
		return 0, fmt.Errorf("read what is to be written once more: %w", err)
	}
	if len(refs) == 0 {
		return 0, nil
	}
	for more := true; more; {
		if more, err = r.Apply(ctx); err != nil {
			return 0, err
		}
	}
	for _, ref := range refs {
		wrote := false
		err := r.transact(ctx, func(t *transaction) (err error) {
			wrote, err = t.writeShown(ctx, ref)
			return err
		})
		if err != nil {
			return saved, fmt.Errorf("write a lost resource once more: %w", err)
		}
		if wrote {
			saved++
		}
	}
	return saved, nil
}

// forgetShown forgets what is to be written once more of what a document showed, which was erased.
func (t *transaction) forgetShown(doc crdt.DocumentID) error {
	err := t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Saving.All(), nil, func(key, value []byte) error {
			list, err := parseShown(bytes.Clone(value))
			if err != nil {
				return fmt.Errorf("%w: %w", storage.ErrDamaged, err)
			}
			rest := slices.DeleteFunc(slices.Clone(list), func(s shownOnce) bool { return s.doc == doc })
			switch {
			case len(rest) == len(list):
			case len(rest) == 0:
				t.batch.Delete(bytes.Clone(key))
			default:
				t.batch.Put(bytes.Clone(key), marshalShown(rest))
			}
			return nil
		})
	})
	if err := storage.IgnoreDamaged(err); err != nil { // an erasure does not wait for what a repair drops
		return fmt.Errorf("forget what was kept of an erased document: %w", err)
	}
	return nil
}

// writeShown writes once more what was shown of a resource, and forgets that it is to be written.
func (t *transaction) writeShown(ctx context.Context, ref fhirRef) (wrote bool, err error) {
	key := storage.Saving.Key(ref.typ, ref.id)
	var list []shownOnce
	err = t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(key)
		if err == nil {
			list, err = parseShown(bytes.Clone(b))
		}
		return storage.IgnoreNotFound(err)
	})
	if err != nil {
		return false, err
	}
	for _, s := range list {
		changed, err := t.writeOnce(ctx, ref, s)
		if errors.Is(err, errErased) {
			continue
		}
		if err != nil {
			return false, err
		}
		wrote = wrote || changed
	}
	t.batch.Delete(key)
	return wrote, nil
}

func (t *transaction) writeOnce(ctx context.Context, ref fhirRef, s shownOnce) (bool, error) {
	var obj fhir.Object
	var err error
	if len(s.json) > 0 {
		if obj, err = fhir.Parse(s.json); err != nil {
			return false, err
		}
	}
	j := job{scope: s.scope, doc: s.doc}
	if s.scope == (trust.ScopeID{}) {
		if j, _, err = t.locate(obj, ref); err != nil {
			return false, err
		}
	}
	d, err := t.r.document(j.scope, j.doc)
	if err != nil {
		return false, err
	}
	if len(s.heads) > 0 && !slices.ContainsFunc(s.heads, func(h crdt.ChangeHash) bool { return !d.index.Has(h) }) {
		return false, nil // the chunks have come back
	}
	base := slices.DeleteFunc(slices.Clone(s.base), func(h crdt.ChangeHash) bool { return !d.index.Has(h) })
	was, err := t.r.contentAt(ctx, d, ref.key(), append([]crdt.ChangeHash{}, base...))
	if err != nil || bytes.Equal(was, s.json) {
		return false, err
	}
	if !slices.Equal(base, d.index.Heads()) {
		j.base = append([]crdt.ChangeHash{}, base...)
	}
	if obj == nil {
		j.remove = ref.key()
	} else if err := j.setWant(ref.key(), obj); err != nil {
		return false, err
	}
	changed, _, err := t.edit(ctx, j, t.r.by(repairAuthor), chunk.OriginEdit)
	return changed, err
}

// shownOfLost reads what is shown of documents that lack a chunk, or that do not say what they consist of. What does not
// read is left out. The caller holds Replica.write.
func (r *Replica) shownOfLost() (shown map[fhirRef][]shownOnce, err error) {
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
	shown = map[fhirRef][]shownOnce{}
	lacking, err := r.lackingLost()
	if err != nil {
		return nil, err
	}
	err = r.store.View(func(v storage.Reader) error {
		from := sources{r: r, v: v}
		var docs []crdt.DocumentID // that lack a chunk, ascending
		if err := readable(v, storage.Change.All(), func(key, value []byte) error {
			doc, _, err := storage.Change.Parse(key)
			if err != nil || len(docs) > 0 && docs[len(docs)-1] == doc {
				return err
			}
			a, err := parseAppliedChange(value)
			if err != nil || from.lacks(a) {
				docs = append(docs, doc)
			}
			return nil
		}); err != nil {
			return err
		}
		for _, doc := range docs {
			delete(lacking, doc)
		}
		for _, doc := range append(docs, slices.Collect(maps.Keys(lacking))...) {
			s := shownOnce{doc: doc, applied: map[crdt.ChangeHash]bool{}}
			there := map[crdt.ChangeHash]bool{} // true: nothing there builds on it
			if err := readable(v, storage.Change.With(doc), func(_, value []byte) error {
				a, err := parseAppliedChange(value)
				if err != nil {
					return nil //nolint:nilerr // what does not read is left out
				}
				if s.applied[a.Record.Hash] = true; from.lacks(a) {
					return nil
				}
				for _, h := range a.Record.Deps {
					if _, ok := there[h]; !ok {
						return nil // it builds on what is lost
					}
				}
				for _, h := range a.Record.Deps {
					there[h] = false
				}
				there[a.Record.Hash] = true
				return nil
			}); err != nil {
				return err
			}
			maps.DeleteFunc(there, func(_ crdt.ChangeHash, last bool) bool { return !last })
			s.base = slices.SortedFunc(maps.Keys(there), func(a, b crdt.ChangeHash) int { return bytes.Compare(a[:], b[:]) })
			if err := readable(v, storage.ResourceIn.With(doc), func(key, value []byte) error {
				_, root, err := storage.ResourceIn.Parse(key)
				if err != nil {
					return err
				}
				w, err := parseView(value)
				if ref, ok := parseRef(root); err == nil && ok {
					s.scope, s.heads, s.json = w.Scope, w.Heads, nil
					if !w.Removed {
						s.json = w.JSON
					}
					shown[ref] = append(shown[ref], s)
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

// lackingLost returns the documents with a change that does not stand and whose chunk is not held any more: they name what a
// device that never held it does not know of, and cannot be decided anew without it.
func (r *Replica) lackingLost() (map[crdt.DocumentID]bool, error) {
	docs := map[crdt.DocumentID]bool{}
	places := map[crdt.DocumentID]map[crdt.ChangeHash]storage.Ref{}
	if err := r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.Lost.All(), nil, func(key []byte) error {
			doc, hash, err := storage.Lost.Parse(key)
			if err != nil {
				return err
			}
			value, err := v.Get(key)
			if err == nil {
				var l *lost
				if l, err = parseLost(value); err == nil {
					if places[doc] == nil {
						places[doc] = map[crdt.ChangeHash]storage.Ref{}
					}
					places[doc][hash] = l.place
				}
			}
			docs[doc] = docs[doc] || err != nil // one that does not read is made anew, too
			return nil
		})
	}); err != nil {
		return nil, fmt.Errorf("read changes that do not stand: %w", err)
	}
	for doc, changes := range places {
		for hash, place := range changes {
			if docs[doc] {
				break
			}
			found, main, err := r.logs.At(place)
			var raw []byte
			if err == nil {
				raw, err = r.rawIn(found.Chunk, hash)
			}
			if err != nil && !logs.IsUnreadable(logs.UnreadableAs(place, err)) {
				return nil, fmt.Errorf("read a change that does not stand: %w", err)
			}
			r.mu.Lock()
			docs[doc] = raw == nil || main && place.Counter > r.mu.Ends[place.Scope][place.Log].Counter || r.mu.BehindGapLocked(place)
			r.mu.Unlock()
		}
	}
	maps.DeleteFunc(docs, func(_ crdt.DocumentID, lacks bool) bool { return !lacks })
	return docs, nil
}

// lacks reports whether the chunk that brought a change is not held: it is not here, or hangs behind a gap. Where a log has
// several histories the counter does not tell.
func (s *sources) lacks(a appliedChange) bool {
	beyond := a.Chunk.Counter > s.r.logs.Position(a.Chunk.Scope, a.Chunk.Log).Counter
	if !s.r.logs.Forked(a.Chunk.Scope, a.Chunk.Log) {
		return beyond
	}
	var sealed chunk.Sealed
	var err error
	if beyond {
		_, sealed, err = s.r.rawBeside(s.v, a.Chunk, a.Record.Hash)
	} else if _, err = s.raw(a.Chunk, a.Record.Hash); err == nil && s.open[a.Record.Hash] == nil {
		_, sealed, err = s.r.rawAt(s.v, a.Chunk, a.Record.Hash)
	}
	if err == nil && sealed.Bytes() != nil {
		s.r.mu.Lock()
		defer s.r.mu.Unlock()
		return s.r.mu.BehindGapLocked(storage.Ref{Scope: a.Chunk.Scope, Log: a.Chunk.Log, Counter: a.Chunk.Counter, ID: sealed.ID()})
	}
	return errors.Is(err, storage.ErrDamaged) || errors.Is(err, storage.ErrNotFound)
}
