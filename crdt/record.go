package crdt

import (
	"sort"
)

// Record is what an Index keeps of an applied change: enough to judge what follows, and to say which resource an
// operation belongs to. Values are not in it. Its fields are read only.
type Record struct {
	Hash    ChangeHash
	Deps    []ChangeHash // strictly ascending
	Actor   Actor
	Seq     uint64
	StartOp uint64
	Count   uint64   // operations
	Keys    []string // root keys ("Type/id") touched, each once, in the order of the first touch

	names   []string // other keys written, each once
	objects []object // containers written to: those of earlier changes, then those made here, in order
	foreign int      // how many of objects are of earlier changes (or the root)
	rows    []row    // ascending by at
}

// object is a container that a record's rows write to; a zero ID is the root.
type object struct {
	id  OpID
	key uint32 // index into Keys of the resource that it is in; unused for the root
}

// row says what one operation, or several of the same kind in a row, did.
type row struct {
	at   uint32 // the first operation, from the change's first
	obj  uint32 // index into objects
	ref  uint32 // what the kind says
	kind rowKind
}

// rowKind's numbers are part of the saved form.
type rowKind uint8

const (
	rowMakeMap   rowKind = 1 // ref: name, or in the root an index into Keys
	rowMakeList  rowKind = 2 // ref: name
	rowMakeText  rowKind = 3 // ref: name
	rowInsertMap rowKind = 4 // a list's new element; no ref
	rowPut       rowKind = 5 // scalar at a map's key; ref: name
	rowInsert    rowKind = 6 // characters of a text; no ref, several in a row
	rowRemove    rowKind = 7 // characters of a text; no ref, several in a row
)

// makes returns the kind of container that a row makes, or 0.
func (k rowKind) makes() Kind {
	switch k {
	case rowMakeMap, rowInsertMap:
		return Map
	case rowMakeList:
		return List
	case rowMakeText:
		return Text
	}
	return 0
}

// inserts reports whether a row makes new elements.
func (k rowKind) inserts() bool { return k == rowInsertMap || k == rowInsert }

// several reports whether operations in a row are kept as one.
func (k rowKind) several() bool { return k == rowInsert || k == rowRemove }

// Last returns the counter of the last operation.
func (r *Record) Last() uint64 { return r.StartOp + r.Count - 1 }

// Has reports whether the operation is the change's.
func (r *Record) Has(op OpID) bool {
	return op.Actor == r.Actor && op.Counter >= r.StartOp && op.Counter-r.StartOp < r.Count
}

// Key returns the root key of the resource that the operation with the counter belongs to.
func (r *Record) Key(counter uint64) (string, bool) {
	if counter < r.StartOp || counter-r.StartOp >= r.Count {
		return "", false
	}
	row := r.row(counter)
	return r.Keys[r.keyOf(row)], true
}

// row returns the row of an operation of the change.
func (r *Record) row(counter uint64) row {
	at := uint32(counter - r.StartOp)
	return r.rows[sort.Search(len(r.rows), func(i int) bool { return r.rows[i].at > at })-1]
}

// keyOf returns the index into Keys of a row's resource.
func (r *Record) keyOf(w row) uint32 {
	if o := r.objects[w.obj]; o.id != (OpID{}) {
		return o.key
	}
	return w.ref
}
