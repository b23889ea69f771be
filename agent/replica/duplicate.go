package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/wire"
)

// Where a resource lives is decided when it is made, so two sites that make the same Type/id apart, with another year or
// patient in it, put it into two documents. Both stand; what reads show is the live one in the document with the smallest
// ID; and if they differ that is a conflict like any other, with a zero document in the place of its own.

// shownOf returns the index of the view that reads show: the first that is not removed, of documents ascending.
func shownOf(views []located) int {
	return max(0, slices.IndexFunc(views, func(l located) bool { return !l.Removed }))
}

// viewsOf returns every view of a resource, by document, as of this transaction.
func (t *transaction) viewsOf(ref fhirRef) ([]located, error) {
	docs, err := t.documentsOf(ref)
	if err != nil {
		return nil, err
	}
	var views []located
	for _, doc := range docs {
		v, err := t.view(doc, ref.key())
		if err != nil {
			return nil, err
		}
		if v != nil {
			views = append(views, located{doc, v})
		}
	}
	if len(views) == 0 {
		return nil, errors.New("a resource lacks its view")
	}
	inOrder(views)
	return views, nil
}

// inOrder has the views of protected documents come first: what was made anew in one is shown, and not what it was made from.
func inOrder(views []located) {
	if len(views) < 2 {
		return
	}
	rank := func(l located) int {
		if _, protected := LockOf(l.Scope, l.doc); protected {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(views, func(a, b located) int { return rank(a) - rank(b) })
}

// live returns the views that a person must choose from: those that are not removed, if they differ.
func live(views []located) []located {
	out := slices.DeleteFunc(slices.Clone(views), func(l located) bool { return l.Removed })
	for _, l := range out {
		if !bytes.Equal(l.JSON, out[0].JSON) {
			return out
		}
	}
	return nil
}

func duplicateID(ref fhirRef, views []located) (id [16]byte) {
	var w wire.Writer
	w.String("chartmesh duplicate 1")
	w.String(ref.key())
	for _, l := range views {
		w.Raw(l.doc[:])
		putHashes(&w, l.Heads)
	}
	sum := sha256.Sum256(w.Bytes())
	copy(id[:], sum[:])
	return id
}

// putDuplicate brings the conflict between a resource's documents up to date.
func (t *transaction) putDuplicate(ref fhirRef) (opened int, err error) {
	views, err := t.viewsOf(ref)
	if err != nil {
		return 0, err
	}
	old, known := t.duplicates[ref]
	if !known && len(views) < 2 {
		return 0, nil
	}
	if !known {
		if old, err = t.storedDuplicate(ref); err != nil {
			return 0, err
		}
	}
	var now *[16]byte
	if apart := live(views); apart != nil {
		id := duplicateID(ref, apart)
		now = &id
	}
	t.duplicates[ref] = now
	if old != nil && now != nil && *old == *now {
		return 0, nil
	}
	if old != nil {
		t.counts.Conflicts--
		t.batch.Delete(storage.Conflict.Key(*old))
		t.batch.Delete(storage.ConflictOf.Key(ref.typ, ref.id, *old))
		t.events = append(t.events, Event{Kind: "conflict-closed", Resource: ref.key(), Conflict: conflictName(*old)})
	}
	if now != nil {
		t.counts.Conflicts++
		t.batch.Put(storage.Conflict.Key(*now), marshalConflictPlace(crdt.DocumentID{}, ref.key()))
		t.batch.Put(storage.ConflictOf.Key(ref.typ, ref.id, *now), nil)
		t.events = append(t.events, Event{Kind: "conflict-opened", Resource: ref.key(), Conflict: conflictName(*now)})
		if old == nil {
			opened++
		}
	}
	return opened, nil
}

func (t *transaction) storedDuplicate(ref fhirRef) (id *[16]byte, err error) {
	err = t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.ConflictOf.With2(ref.typ, ref.id), nil, func(key, _ []byte) error {
			_, _, found, err := storage.ConflictOf.Parse(key)
			id = &found
			return err
		})
	})
	return id, err
}

// readDuplicate shows the conflict between documents; its located is the view that reads show.
func (r *Replica) readDuplicate(v storage.Reader, id [16]byte, key string) (api.Conflict, located, error) {
	ref, _ := parseRef(key)
	docs, err := readDocumentsOf(v, ref)
	if err != nil {
		return api.Conflict{}, located{}, err
	}
	var views []located
	for _, doc := range docs {
		w, err := readView(v, doc, key)
		if err != nil {
			return api.Conflict{}, located{}, err
		}
		if w != nil && !w.Removed {
			views = append(views, located{doc, w})
		}
	}
	inOrder(views)
	if len(views) < 2 || duplicateID(ref, views) != id {
		return api.Conflict{}, located{}, fmt.Errorf("%w: a conflict that its resource does not have", storage.ErrDamaged)
	}
	c := openConflict{ID: id}
	for _, l := range views {
		c.Sides = append(c.Sides, conflictSide{JSON: l.JSON, Device: l.Last.Device, Author: l.Last.Author, TimeMillis: l.Last.TimeMillis})
	}
	return r.apiConflict(key, c), views[0], nil
}

// resolveDuplicate keeps one document's resource, or another value in its place, and removes the others. The kept one is
// touched too, so that another decision made apart meets this one as a conflict instead of removing what it kept.
func (t *transaction) resolveDuplicate(ctx context.Context, ref fhirRef, by author, d api.Decision) (crdt.DocumentID, error) {
	views, err := t.viewsOf(ref)
	if err != nil {
		return crdt.DocumentID{}, err
	}
	views = live(views)
	keep := 0
	switch {
	case d.Choose != nil && (*d.Choose < 0 || *d.Choose >= len(views)):
		return crdt.DocumentID{}, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("the conflict has the values 0 to %d", len(views)-1)}
	case d.Choose != nil:
		keep = *d.Choose
	}
	for i, l := range views {
		j := job{scope: l.Scope, doc: l.doc}
		if err := t.writable(l.doc, ref.key()); err != nil {
			return crdt.DocumentID{}, err
		}
		switch {
		case i != keep:
			j.remove = ref.key()
		case d.Choose != nil:
			j.touch = ref.key()
		default:
			obj, err := fhir.Parse(d.Value)
			if err != nil {
				return crdt.DocumentID{}, &api.Error{Code: api.CodeInvalid, Message: "the value is not a resource: " + err.Error(), Err: err}
			}
			if typ, id, err := fhir.Name(obj); err != nil || (fhirRef{typ, id}) != ref {
				return crdt.DocumentID{}, &api.Error{Code: api.CodeInvalid, Message: "the value is not this resource"}
			}
			if err := j.setWant(ref.key(), obj); err != nil {
				return crdt.DocumentID{}, err
			}
		}
		if _, _, err := t.edit(ctx, j, by, chunk.OriginDecision); err != nil {
			return crdt.DocumentID{}, err
		}
	}
	return views[keep].doc, nil
}

// touch marks a resource as edited, or as removed again, without changing what it says. Where there is none, its removal stands
// for itself, against what others may write there.
func touch(key string, have crdt.Register, live bool) []crdt.Instruction {
	state := int64(0)
	if live {
		state = 1
	}
	var out []crdt.Instruction
	for _, a := range have {
		if a.Kind != crdt.Map {
			continue
		}
		n := len(out)/2 + 1
		out = append(out, crdt.Instruction{Do: crdt.Enter, Key: key, Op: a.Op},
			crdt.Instruction{Do: crdt.Set, Obj: n, Key: "~v", Value: crdt.Scalar{Kind: crdt.Int, Int: state}})
	}
	if len(out) == 0 && !live {
		out = append(out, crdt.Instruction{Do: crdt.Set, Key: key, Value: crdt.Scalar{Kind: crdt.Map}},
			crdt.Instruction{Do: crdt.Set, Obj: 1, Key: "~v", Value: crdt.Scalar{Kind: crdt.Int, Int: state}})
	}
	return out
}
