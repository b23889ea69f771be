package crdt_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/gob"
	"fmt"
	"slices"

	"chartmesh/crdt"
)

// twin is a slow and obvious Automerge: a document is its operations, and everything is worked out from them anew at each
// question. A change's raw form is its gob, so that a twin is a crdt.Engine like the real one.
type twin struct {
	documents map[crdt.DocumentID]*twinDocument
}

type twinDocument struct {
	changes map[crdt.ChangeHash]*twinChange
}

type twinChange struct {
	Actor   crdt.Actor
	Deps    []crdt.ChangeHash
	StartOp uint64
	Ops     []twinOp
}

type twinOp struct {
	Obj    crdt.OpID
	Key    string
	Elem   crdt.OpID // of a list; zero: the head, or a map
	Insert bool
	Delete bool
	Value  crdt.Scalar
	Pred   []crdt.OpID

	id crdt.OpID
}

func newTwin() crdt.Engine { return &twin{documents: map[crdt.DocumentID]*twinDocument{}} }

func (t *twin) Load(ctx context.Context, id crdt.DocumentID, _ []byte, changes [][]byte) (crdt.State, error) {
	t.documents[id] = &twinDocument{changes: map[crdt.ChangeHash]*twinChange{}}
	return t.Apply(ctx, id, changes)
}

func (t *twin) Apply(_ context.Context, id crdt.DocumentID, changes [][]byte) (crdt.State, error) {
	d := t.documents[id]
	for _, raw := range changes {
		c := decodeTwin(raw)
		for _, dep := range c.Deps {
			if d.changes[dep] == nil {
				return crdt.State{}, fmt.Errorf("twin: dependency %v is missing", dep)
			}
		}
		d.changes[sha256.Sum256(raw)] = c
	}
	return crdt.State{Heads: d.heads()}, nil
}

func decodeTwin(raw []byte) *twinChange {
	c := new(twinChange)
	if err := gob.NewDecoder(bytes.NewReader(raw)).Decode(c); err != nil {
		panic(err)
	}
	return c
}

func (d *twinDocument) heads() []crdt.ChangeHash {
	var heads []crdt.ChangeHash
	for h := range d.changes {
		if !slices.ContainsFunc(mapValues(d.changes), func(c *twinChange) bool { return slices.Contains(c.Deps, h) }) {
			heads = append(heads, h)
		}
	}
	slices.SortFunc(heads, func(a, b crdt.ChangeHash) int { return bytes.Compare(a[:], b[:]) })
	return heads
}

func mapValues[K comparable, V any](m map[K]V) (list []V) {
	for _, v := range m {
		list = append(list, v)
	}
	return list
}

// ops returns all operations at or before some heads, in Automerge's order.
func (d *twinDocument) ops(heads []crdt.ChangeHash) []twinOp {
	seen := map[crdt.ChangeHash]bool{}
	var ops []twinOp
	for len(heads) > 0 {
		h := heads[0]
		heads = heads[1:]
		if seen[h] {
			continue
		}
		seen[h] = true
		c := d.changes[h]
		heads = append(slices.Clip(heads), c.Deps...)
		for i, op := range c.Ops {
			op.id = crdt.OpID{Counter: c.StartOp + uint64(i), Actor: c.Actor}
			ops = append(ops, op)
		}
	}
	slices.SortFunc(ops, func(a, b twinOp) int { return a.id.Compare(b.id) })
	return ops
}

// twinState is what a set of operations amounts to.
type twinState struct {
	ops   []twinOp
	wrote map[crdt.OpID]bool // overwritten or deleted
}

func newState(ops []twinOp) *twinState {
	s := &twinState{wrote: map[crdt.OpID]bool{}}
	for _, op := range ops {
		s.add(op)
	}
	return s
}

func (s *twinState) add(op twinOp) {
	s.ops = append(s.ops, op)
	for _, p := range op.Pred {
		s.wrote[p] = true
	}
}

// at returns the visible operations of a map's key or a list's element.
func (s *twinState) at(obj crdt.OpID, key string, elem crdt.OpID) (ops []twinOp) {
	for _, op := range s.ops {
		place := op.Elem
		if op.Insert {
			place = op.id
		}
		if op.Obj == obj && op.Key == key && (key != "" || place == elem) && !op.Delete && !s.wrote[op.id] {
			ops = append(ops, op)
		}
	}
	return ops
}

// elements returns the IDs of a list's elements that have a value, in order.
func (s *twinState) elements(obj crdt.OpID) (ids []crdt.OpID) {
	children := map[crdt.OpID][]crdt.OpID{}
	for _, op := range slices.Backward(s.ops) {
		if op.Obj == obj && op.Insert {
			children[op.Elem] = append(children[op.Elem], op.id)
		}
	}
	var visit func(crdt.OpID)
	visit = func(id crdt.OpID) {
		if id != (crdt.OpID{}) && len(s.at(obj, "", id)) > 0 {
			ids = append(ids, id)
		}
		for _, child := range children[id] {
			visit(child)
		}
	}
	visit(crdt.OpID{})
	return ids
}

func (s *twinState) register(ops []twinOp) (r crdt.Register) {
	for _, op := range ops {
		a := crdt.Alternative{Op: op.id, Scalar: op.Value}
		switch op.Value.Kind {
		case crdt.Map:
			a.Map = s.fields(op.id)
		case crdt.List:
			for _, e := range s.elements(op.id) {
				a.List = append(a.List, s.register(s.at(op.id, "", e)))
			}
		case crdt.Text:
			for _, e := range s.elements(op.id) {
				a.Str += s.at(op.id, "", e)[0].Value.Str
			}
		}
		r = append(r, a)
	}
	return r
}

func (s *twinState) fields(obj crdt.OpID) (fields []crdt.Field) {
	var keys []string
	for _, op := range s.ops {
		if op.Obj == obj && !slices.Contains(keys, op.Key) {
			keys = append(keys, op.Key)
		}
	}
	slices.Sort(keys)
	for _, key := range keys {
		if r := s.register(s.at(obj, key, crdt.OpID{})); r != nil {
			fields = append(fields, crdt.Field{Key: key, Values: r})
		}
	}
	return fields
}

func (t *twin) Read(_ context.Context, id crdt.DocumentID, keys []string, heads []crdt.ChangeHash) ([]crdt.Field, error) {
	d := t.documents[id]
	if heads == nil {
		heads = d.heads()
	}
	fields := newState(d.ops(heads)).fields(crdt.OpID{})
	if keys != nil {
		fields = slices.DeleteFunc(fields, func(f crdt.Field) bool { return !slices.Contains(keys, f.Key) })
	}
	return fields, nil
}

func (t *twin) Edit(_ context.Context, id crdt.DocumentID, edit crdt.Edit) ([]byte, crdt.State, error) {
	d := t.documents[id]
	c := &twinChange{Actor: edit.Actor, Deps: edit.Base, StartOp: 1}
	if c.Deps == nil {
		c.Deps = d.heads()
	}
	ops := d.ops(c.Deps)
	if len(ops) > 0 {
		c.StartOp = ops[len(ops)-1].id.Counter + 1
	}
	s := newState(ops)
	refs := []crdt.OpID{{}}
	add := func(op twinOp) {
		op.id = crdt.OpID{Counter: c.StartOp + uint64(len(c.Ops)), Actor: c.Actor}
		c.Ops = append(c.Ops, op)
		s.add(op)
		if op.Value.Kind.Container() {
			refs = append(refs, op.id)
		}
	}
	preds := func(ops []twinOp) (ids []crdt.OpID) {
		for _, op := range ops {
			if op.Value.Kind.Container() {
				panic("a container is written over")
			}
			ids = append(ids, op.id)
		}
		return ids
	}
	for _, i := range edit.Instructions {
		obj := refs[i.Obj]
		var elem, before crdt.OpID
		var elements []crdt.OpID
		if i.Key == "" {
			elements = s.elements(obj)
			if i.Index < len(elements) {
				elem = elements[i.Index]
			}
			if i.Index > 0 {
				before = elements[i.Index-1]
			}
		}
		switch i.Do {
		case crdt.Enter:
			if !slices.ContainsFunc(s.at(obj, i.Key, elem), func(op twinOp) bool { return op.id == i.Op }) {
				return nil, crdt.State{}, fmt.Errorf("twin: no container %v at %q", i.Op, i.Key)
			}
			refs = append(refs, i.Op)
		case crdt.Set:
			if i.Key == "" && elem == (crdt.OpID{}) {
				return nil, crdt.State{}, fmt.Errorf("twin: set %d of %d", i.Index, len(elements))
			}
			add(twinOp{Obj: obj, Key: i.Key, Elem: elem, Value: i.Value, Pred: preds(s.at(obj, i.Key, elem))})
		case crdt.Insert:
			add(twinOp{Obj: obj, Elem: before, Insert: true, Value: i.Value})
		case crdt.Splice:
			for _, e := range elements[i.Index : i.Index+i.Delete] {
				add(twinOp{Obj: obj, Elem: e, Delete: true, Pred: preds(s.at(obj, "", e))})
			}
			for _, r := range i.Value.Str {
				add(twinOp{Obj: obj, Elem: before, Insert: true, Value: crdt.Scalar{Kind: crdt.String, Str: string(r)}})
				before = c.ID(len(c.Ops) - 1)
			}
		}
	}
	if len(c.Ops) == 0 {
		return nil, crdt.State{}, fmt.Errorf("twin: no operations")
	}
	var raw bytes.Buffer
	if err := gob.NewEncoder(&raw).Encode(c); err != nil {
		return nil, crdt.State{}, err
	}
	d.changes[sha256.Sum256(raw.Bytes())] = decodeTwin(raw.Bytes())
	return raw.Bytes(), crdt.State{Heads: d.heads()}, nil
}

func (c *twinChange) ID(i int) crdt.OpID {
	return crdt.OpID{Counter: c.StartOp + uint64(i), Actor: c.Actor}
}

func (t *twin) Save(context.Context, crdt.DocumentID) ([]byte, error) { return nil, nil }

func (t *twin) Forget(_ context.Context, id crdt.DocumentID) error {
	delete(t.documents, id)
	return nil
}

func (t *twin) Close() error { return nil }
