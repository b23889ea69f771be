package replica

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
)

// reconsider decides anew which of all changes of a document stand, makes the document that, and says of each chunk why it
// is held; of the chunk at judged the caller does. It returns why that one is refused, if the validator does.
func (t *transaction) reconsider(ctx context.Context, d *document, all []*contender, judged storage.Ref) (refusedAt *held, err error) {
	barred, err := t.barred(d, all)
	if err != nil {
		return nil, err
	}
	stands, others, refused := stand(d.id, all, barred)
	for _, c := range all {
		if c.applied.overlay && others[c.Hash] == lostBase {
			others[c.Hash] = lostPending
		}
	}
	in := make(map[crdt.ChangeHash]bool, len(stands))
	for _, c := range stands {
		in[c.Hash] = true
	}
	// What stood keeps its order; what is new to stand comes after it, each after what it builds on.
	var accepted []*contender
	removed := false
	for _, c := range all {
		switch {
		case c.change != nil:
		case in[c.Hash]:
			accepted = append(accepted, c)
		default:
			removed = true
		}
	}
	added := slices.DeleteFunc(stands, func(c *contender) bool { return c.change == nil })
	places := map[crdt.ChangeHash]storage.Ref{}
	if removed {
		err := t.r.store.View(func(v storage.Reader) error {
			for _, c := range all {
				if c.change != nil || in[c.Hash] {
					continue
				}
				_, sealed, err := t.r.rawAt(v, c.applied.Chunk, c.Hash)
				if err != nil {
					return err
				}
				places[c.Hash] = storage.Ref{Scope: d.scope, Log: sealed.Log(), Counter: sealed.Header().Counter, ID: sealed.ID()}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("find a change that does not stand any more: %w", err)
		}
	}
	standing := slices.Concat(accepted, added)
	switch {
	case d.lock != "" && !removed && len(added) > 0:
		err = t.extend(ctx, d, added)
	case removed || len(added) > 0:
		err = t.accept(ctx, d, standing)
	}
	if err != nil {
		return nil, err
	}
	if d.lock != "" {
		t.settleOverlay(d, standing)
	}
	for _, c := range added {
		before := d.lost[c.Hash]
		t.unlose(d, c.Hash)
		if before != nil {
			if err := t.holdAgain(d, before.place); err != nil {
				return nil, err
			}
		}
		if err := t.wake(missing{missingChange, c.Hash}); err != nil {
			return nil, err
		}
	}
	// In two passes: what is lost waits for what else is.
	for _, c := range all {
		if why, ok := others[c.Hash]; ok {
			place := c.place
			if c.change == nil {
				place = places[c.Hash]
			}
			c.place = place
			if err := t.loseChange(d, c.Hash, &lost{place: place, why: why, device: c.device}); err != nil {
				return nil, err
			}
		} else if _, ok := refused[c.Hash]; ok {
			t.unlose(d, c.Hash)
		}
	}
	speakers, said := d.speakers(), map[storage.Ref]bool{}
	for _, c := range all {
		var h *held
		if l := d.lost[c.Hash]; l != nil {
			if said[l.place] {
				continue
			}
			said[l.place] = true
			h = d.heldOf(speakers[l.place], d.waitsFor(c.Deps))
		} else if why, ok := refused[c.Hash]; ok {
			h = quarantine(why)
			h.Device = c.device
		} else {
			continue
		}
		if c.place == judged {
			if d.lost[c.Hash] == nil {
				refusedAt = h
			}
			continue
		}
		was, err := t.heldAt(c.place)
		if err != nil {
			return nil, err
		}
		// What somebody else wrote instead may have come to stand with this: whether that settles it is told by what was decided.
		if was != nil && was.State == h.State && was.Reason == h.Reason && was.Missing == h.Missing && h.onRelease == (crdt.ChangeHash{}) {
			continue
		}
		if err := t.release(c.place); err != nil {
			return nil, err
		}
		t.hold(c.place, h)
	}
	if err := t.holdCertificates(d, judged); err != nil {
		return nil, err
	}
	if removed {
		return refusedAt, t.lookAgain(d)
	}
	return refusedAt, nil
}

// losesAt reports whether a chunk holds a change that does not stand.
func (d *document) losesAt(place storage.Ref) bool {
	for _, l := range d.lost {
		if l.place == place {
			return true
		}
	}
	return false
}

// lookAgain wakes what the validator refused of a document of which less stands than before: what it builds on may have
// gone, and then that is the reason, as it is on a device that never saw it stand.
func (t *transaction) lookAgain(d *document) error {
	tag, err := t.r.keys.Tag(d.scope, d.id)
	if err != nil {
		return fmt.Errorf("look at refused chunks again: %w", err)
	}
	return t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil || at.Scope != d.scope || d.losesAt(at) {
				return err
			}
			if h, err := parseHeld(value); err != nil || h.State != Quarantined {
				return err
			}
			sealed, err := t.r.logs.Sealed(at)
			if err == nil && sealed.Header().Tag == chunk.Tag(tag) {
				t.woken = append(t.woken, at)
			}
			return storage.IgnoreNotFound(err)
		})
	})
}

// accept makes a document consist of exactly the given changes, each after what it builds on: records, applied set, views,
// indexes, conflicts, counts and events, in this transaction. The engine makes the document anew from the changes
// themselves. The caller sees to the chunks of those that are not among them any more.
func (t *transaction) accept(ctx context.Context, d *document, changes []*contender) error {
	old := *d
	*d = *newDocument(old.scope, old.id)
	d.lost, d.counted, d.place, d.erased = old.lost, old.counted, old.place, old.erased
	d.certificates, d.overlay, d.drafts, d.judged, d.judgedAt = old.certificates, old.overlay, old.drafts, old.judged, old.judgedAt
	t.docs[d.id] = d
	set := t.sets[d.scope]
	for _, rec := range old.index.Records() {
		if _, overlaid := d.overlay[rec.Hash]; !overlaid {
			set.Remove(rec.Hash)
		}
	}
	touched := map[string]bool{}
	for i, c := range changes {
		a := c.applied
		a.Record = c.Record
		if err := d.add(a, c.raw); err != nil {
			return fmt.Errorf("make a document anew: %w", err)
		}
		if set.Add(c.Hash); a.overlay {
			set.Remove(c.Hash)
			t.putOverlay(d, c.Hash, a.Fence, c.Keys)
		} else if _, overlaid := d.overlay[c.Hash]; overlaid {
			t.dropOverlay(d, c.Hash)
		}
		was, stood := old.byHash[c.Hash]
		if !stood {
			mark(touched, c.Keys)
		}
		if !stood || was != i {
			t.batch.Put(storage.Change.Key(d.id, uint64(i)), a.marshal())
		}
	}
	for _, rec := range old.index.Records() {
		if !d.index.Has(rec.Hash) {
			mark(touched, rec.Keys)
		}
	}
	for i := len(changes); i < len(old.changes); i++ {
		t.batch.Delete(storage.Change.Key(d.id, uint64(i)))
	}
	t.sets[d.scope] = set
	t.noteTail(d)
	switch {
	case len(old.changes) == 0 && len(changes) > 0:
		t.counts.Documents++
	case len(old.changes) > 0 && len(changes) == 0:
		t.counts.Documents--
	}
	t.batch.Delete(storage.Snapshot.Key(d.id))
	return t.showAnew(ctx, d, touched)
}

func mark(set map[string]bool, keys []string) {
	for _, k := range keys {
		set[k] = true
	}
}

// shownAtOnce is how many resources are read back from the engine in one call.
const shownAtOnce = 256

// showAnew brings the views of some resources up to date with a document that was made anew.
func (t *transaction) showAnew(ctx context.Context, d *document, touched map[string]bool) error {
	var keys []string
	for key := range touched {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for part := range slices.Chunk(keys, shownAtOnce) {
		var fields []crdt.Field
		err := t.r.engineCall(ctx, d, func() (err error) {
			fields, err = t.r.engine.Read(ctx, d.id, part, nil)
			return err
		})
		if err != nil {
			return fmt.Errorf("read back: %w", err)
		}
		there := map[string]crdt.Field{}
		for _, f := range fields {
			there[f.Key] = f
		}
		for _, key := range part {
			old, err := t.view(d.id, key)
			if err != nil {
				return err
			}
			f, ok := there[key]
			if !ok {
				if err := t.dropView(d, key, old); err != nil {
					return err
				}
				continue
			}
			next := t.r.show(d, f, old, nil, t.now)
			next.Imports = d.imports(key)
			if _, err := t.putView(d, key, old, next, false); err != nil {
				return err
			}
		}
	}
	return nil
}

// imports returns the heads among the changes that imported a resource.
func (d *document) imports(key string) []crdt.ChangeHash {
	var list []crdt.ChangeHash
	for _, h := range d.index.Touched(key) {
		if d.changes[d.byHash[h]].origin == chunk.OriginImport {
			list = append(list, h)
		}
	}
	return d.index.HeadsOf(list)
}

// dropView takes a resource that a document does not hold any more off everything that it is found by.
func (t *transaction) dropView(d *document, key string, old *view) error {
	if old == nil {
		return nil
	}
	ref, ok := parseRef(key)
	if !ok {
		return fmt.Errorf("root key of document %v is not Type/id", d.id)
	}
	t.batch.Delete(storage.ResourceIn.Key(d.id, key))
	t.views[viewKey{d.id, key}] = nil
	docs, err := t.documentsOf(ref)
	if err != nil {
		return err
	}
	docs = slices.DeleteFunc(slices.Clone(docs), func(id crdt.DocumentID) bool { return bytes.Equal(id[:], d.id[:]) })
	t.where[ref] = docs
	t.batch.Delete(storage.DocumentsOf.Key(ref.typ, ref.id, d.id))
	if !old.Removed {
		t.counts.Resources--
	}
	if err := t.reindex(d, ref, old, nil); err != nil {
		return err
	}
	t.putConflicts(d, key, old, &view{})
	if len(docs) > 0 {
		if _, err := t.putDuplicate(ref); err != nil {
			return err
		}
	}
	t.events = append(t.events, Event{Kind: "resource-deleted", Resource: key})
	return nil
}
