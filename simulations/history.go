package simulations

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// lineage is every change that was ever written to a document, those of histories that met too.
type lineage struct {
	doc    crdt.DocumentID
	byHash map[crdt.ChangeHash]*written
	index  *crdt.Index // of as many as one index can hold
}

type written struct {
	change *crdt.Change
	crdt.Record
	entry *entry
}

func newLineage(doc crdt.DocumentID) *lineage {
	return &lineage{doc: doc, byHash: map[crdt.ChangeHash]*written{}, index: crdt.NewIndex(doc)}
}

// add takes down a change, which must be acceptable by what it builds on.
func (h *lineage) add(c *crdt.Change) (crdt.Record, error) {
	rec, err := h.index.Judge(c)
	if err == nil {
		err = h.index.Add(rec)
	}
	if err != nil { // of another history
		x := crdt.NewIndex(h.doc)
		for _, w := range h.closure(c.Deps) {
			if err := x.Add(w.Record); err != nil {
				return rec, err
			}
		}
		if rec, err = x.Judge(c); err != nil {
			return rec, err
		}
	}
	h.byHash[c.Hash] = &written{change: c, Record: rec}
	return rec, nil
}

// closure returns changes with all that they build on, in an order in which nothing comes before that.
func (h *lineage) closure(heads []crdt.ChangeHash) []*written {
	in := map[crdt.ChangeHash]bool{}
	var list []*written
	queue := slices.Clone(heads)
	for len(queue) > 0 {
		hash := queue[0]
		queue = queue[1:]
		if w := h.byHash[hash]; w != nil && !in[hash] {
			in[hash] = true
			list = append(list, w)
			queue = append(queue, w.Deps...)
		}
	}
	slices.SortFunc(list, compareWritten)
	return list
}

func compareWritten(a, b *written) int {
	return cmp.Or(cmp.Compare(a.StartOp, b.StartOp), bytes.Compare(a.Hash[:], b.Hash[:]))
}

// buildsOn reports whether a is an ancestor of b.
func (h *lineage) buildsOn(b, a crdt.ChangeHash) bool {
	return a != b && slices.ContainsFunc(h.closure([]crdt.ChangeHash{b}), func(w *written) bool { return w.Hash == a })
}

// standing is what a document consists of, said in the simplest way: in the order of their beginnings, each change whose
// place is free and that builds on such as stand.
func (h *lineage) standing() []*written {
	var all, stands []*written
	for _, w := range h.byHash {
		if !w.entry.gone {
			all = append(all, w)
		}
	}
	slices.SortFunc(all, compareWritten)
	type slot struct {
		actor crdt.Actor
		seq   uint64
	}
	taken, in := map[slot]bool{}, map[crdt.ChangeHash]bool{}
	for _, w := range all {
		at := slot{w.Actor, w.Seq}
		if taken[at] || slices.ContainsFunc(w.Deps, func(d crdt.ChangeHash) bool { return !in[d] }) {
			continue
		}
		taken[at], in[w.Hash] = true, true
		stands = append(stands, w)
	}
	return stands
}

// has reports whether a chunk is durable on a disk, or a checkpoint that stands for it.
func (k *disk) has(scope trust.ScopeID, log chunk.LogID, counter uint64, id chunk.ID) bool {
	if sealed, ok := k.at(scope, log, chunk.At(counter, id)); ok {
		return sealed.ID() == id
	}
	err := k.view(func(v storage.Reader) error {
		if _, err := v.Get(storage.Chunk.Key(scope, log, counter)); err == nil {
			return storage.ErrNotFound // another one
		}
		return standsFor(v, scope, log, chunk.At(counter, id))
	})
	return err == nil
}

// stands reports whether a disk holds a log up to a position, in whatever history.
func (k *disk) stands(scope trust.ScopeID, log chunk.LogID, p chunk.Position) bool {
	if _, ok := k.at(scope, log, p); ok {
		return true
	}
	return k.view(func(v storage.Reader) error { return standsFor(v, scope, log, p) }) == nil
}

// at finds the chunk at a position of a log, in whatever history.
func (k *disk) at(scope trust.ScopeID, log chunk.LogID, p chunk.Position) (found chunk.Sealed, ok bool) {
	look := func(b []byte) error {
		sealed, err := chunk.Parse(bytes.Clone(b))
		if err == nil && sealed.Position() == p {
			found, ok = sealed, true
			return storage.ErrStop
		}
		return err
	}
	err := k.view(func(v storage.Reader) error {
		b, err := v.Get(storage.Chunk.Key(scope, log, p.Counter))
		if err == nil {
			if err = look(b); errors.Is(err, storage.ErrStop) {
				return nil
			}
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		from := storage.Branch.Key(scope, log, p.Counter, chunk.ID{})
		return v.Scan(storage.Branch.With2(scope, log), from, func(key, value []byte) error {
			_, _, counter, _, err := storage.Branch.Parse(key)
			if err != nil || counter != p.Counter {
				return cmp.Or(err, storage.ErrStop)
			}
			return look(value)
		})
	})
	if err != nil {
		k.w.fail("I-sound", "%s cannot read its chunks: %v", k.name, err)
	}
	return found, ok
}
