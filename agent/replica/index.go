package replica

import (
	"bytes"
	"fmt"
	"slices"

	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
)

// putView replaces a resource's view and everything that is found through it. It returns how many conflicts it opened.
func (t *transaction) putView(d *document, key string, old, next *view, local bool) (int, error) {
	ref, ok := parseRef(key)
	if !ok {
		return 0, fmt.Errorf("root key of document %v is not Type/id", d.id)
	}
	t.batch.Put(storage.ResourceIn.Key(d.id, key), next.marshal())
	t.views[viewKey{d.id, key}] = next
	if err := t.place(d, ref); err != nil {
		return 0, err
	}
	switch was, is := old != nil && !old.Removed, !next.Removed; {
	case is && !was:
		t.counts.Resources++
	case was && !is:
		t.counts.Resources--
	}
	if err := t.reindex(d, ref, old, next); err != nil {
		return 0, err
	}
	next.object = nil // it is many times its JSON, and the view stays for the transaction
	opened := t.putConflicts(d, key, old, next)
	apart, err := t.putDuplicate(ref)
	if err != nil {
		return 0, err
	}
	opened += apart
	e := Event{Kind: "resource-changed", Resource: key, Version: crdt.Version(next.Heads), Local: local}
	if next.Removed {
		e.Kind = "resource-deleted"
	}
	t.events = append(t.events, e)
	return opened, nil
}

// place notes that a document holds a resource.
func (t *transaction) place(d *document, ref fhirRef) error {
	docs, err := t.documentsOf(ref)
	if err != nil {
		return err
	}
	i, found := slices.BinarySearchFunc(docs, d.id, func(a, b crdt.DocumentID) int { return bytes.Compare(a[:], b[:]) })
	if found {
		return nil
	}
	docs = slices.Insert(slices.Clone(docs), i, d.id)
	t.where[ref] = docs
	t.batch.Put(storage.DocumentsOf.Key(ref.typ, ref.id, d.id), nil)
	return nil
}

// reindex keeps the search terms and the patient's list in step with what is shown of a resource. The view is in the
// transaction already.
func (t *transaction) reindex(d *document, ref fhirRef, old, next *view) error {
	old, next, err := t.shownViews(d, ref, old, next)
	if err != nil {
		return err
	}
	was, is := found(old), found(next)
	for term := range was.terms {
		if !is.terms[term] {
			t.batch.Delete(storage.Term.Key(term, ref.typ, ref.id))
		}
	}
	for term := range is.terms {
		if !was.terms[term] || was.name != is.name {
			t.batch.Put(storage.Term.Key(term, ref.typ, ref.id), marshalTerm(is.name))
		}
	}
	for p := range was.patients {
		if !is.patients[p] {
			t.batch.Delete(storage.OfPatient.Key(p, ref.typ, ref.id))
		}
	}
	for p := range is.patients {
		if !was.patients[p] {
			t.batch.Put(storage.OfPatient.Key(p, ref.typ, ref.id), nil)
		}
	}
	return nil
}

// shownViews returns what was shown of a resource before one document's view changed, and what is shown now; nil: nothing.
// Mostly there is one document.
func (t *transaction) shownViews(d *document, ref fhirRef, old, next *view) (was, is *view, err error) {
	docs, err := t.documentsOf(ref)
	if err != nil {
		return nil, nil, err
	}
	var others []located
	for _, doc := range docs {
		if doc == d.id {
			continue
		}
		v, err := t.view(doc, ref.key())
		if err != nil {
			return nil, nil, err
		}
		if v != nil {
			others = append(others, located{doc, v})
		}
	}
	with := func(v *view) *view {
		views := slices.Clone(others)
		if v != nil {
			views = append(views, located{d.id, v})
		}
		if len(views) == 0 {
			return nil
		}
		slices.SortFunc(views, func(a, b located) int { return bytes.Compare(a.doc[:], b.doc[:]) })
		inOrder(views)
		return views[shownOf(views)].view
	}
	return with(old), with(next), nil
}

type indexed struct {
	name            string
	terms, patients map[string]bool
}

// found returns what a view is found by.
func found(v *view) indexed {
	x := indexed{terms: map[string]bool{}, patients: map[string]bool{}}
	if v == nil || v.Removed {
		return x
	}
	if len(v.JSON) > fhir.MaxResource {
		return x // merged beyond what one resource may be: shown, and not found by its words
	}
	obj := v.object
	if obj == nil {
		var err error
		if obj, err = fhir.Parse(v.JSON); err != nil {
			return x // nested deeper than one resource may be: likewise
		}
	}
	for _, term := range fhir.Terms(obj) {
		x.terms[term] = true
	}
	x.name, _, _ = fhir.Summary(obj)
	if p := fhir.Place(obj).Patient; p != "" {
		x.patients[p] = true
	}
	return x
}

func (t *transaction) putConflicts(d *document, key string, old, next *view) (opened int) {
	before := map[[16]byte]bool{}
	if old != nil {
		for _, c := range old.Conflicts {
			before[c.ID] = true
		}
	}
	for _, c := range next.Conflicts {
		if before[c.ID] {
			delete(before, c.ID)
			continue
		}
		opened++
		t.counts.Conflicts++
		t.batch.Put(storage.Conflict.Key(c.ID), marshalConflictPlace(d.id, key))
		t.events = append(t.events, Event{Kind: "conflict-opened", Resource: key, Conflict: conflictName(c.ID)})
	}
	for id := range before {
		t.counts.Conflicts--
		t.batch.Delete(storage.Conflict.Key(id))
		t.events = append(t.events, Event{Kind: "conflict-closed", Resource: key, Conflict: conflictName(id)})
	}
	return opened
}
