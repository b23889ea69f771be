//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

/*
// The library comes with automerge-go, which is linked after cgo's own trial link of this package; so that one must let
// its symbols pass. TestNoUnresolvedSymbols sees to it that the binary has them all.
#cgo linux LDFLAGS: -Wl,--unresolved-symbols=ignore-all
#cgo darwin LDFLAGS: -Wl,-undefined,dynamic_lookup
#cgo CFLAGS: -O2
#cgo noescape engine_apply
#cgo nocallback engine_apply
#cgo noescape engine_has
#cgo nocallback engine_has
#cgo noescape engine_read
#cgo nocallback engine_read
#cgo noescape engine_enter
#cgo nocallback engine_enter
#cgo noescape engine_put
#cgo nocallback engine_put
#cgo noescape engine_splice
#cgo nocallback engine_splice
#include "shim.h"
*/
import "C"

import (
	"crypto/sha256"
	"math"
	"slices"
	"unicode/utf8"
	"unsafe"

	_ "github.com/automerge/automerge-go" // the library

	"chartmesh/crdt"
)

const supported = true

// document is one document in the library. One goroutine at a time; after an error free it.
type document struct{ c C.engine_document }

// buffer holds an answer in the library's memory, outside Go's.
type buffer struct{ c C.engine_buffer }

func newBuffer() *buffer { return &buffer{C.engine_buffer{limit: maxAnswer}} }

// bytes are valid until free.
func (b *buffer) bytes() []byte { return unsafe.Slice((*byte)(b.c.data), int(b.c.len)) }

func (b *buffer) free() { C.engine_buffer_free(&b.c) }

// failed tells an answer that is too long from another reason.
func (b *buffer) failed(otherwise reason) error {
	if b.c.failed {
		return fail(reasonLimit)
	}
	return fail(otherwise)
}

func pointer(b []byte) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(b))) }

func stringPointer(s string) *C.uint8_t { return (*C.uint8_t)(unsafe.Pointer(unsafe.StringData(s))) }

// flat returns the hashes' memory as one.
func flat(hashes []crdt.ChangeHash) *C.uint8_t {
	return (*C.uint8_t)(unsafe.Pointer(unsafe.SliceData(hashes)))
}

// trim gives the memory of freed documents back to the system.
func trim() { C.engine_trim() }

func oneArena() { C.engine_one_arena() }

func loadDocument(saved []byte, changes [][]byte) (*document, error) {
	d := &document{}
	var good C.bool
	if len(saved) == 0 {
		good = C.engine_create(&d.c)
	} else {
		good = C.engine_load(pointer(saved), C.size_t(len(saved)), &d.c)
	}
	if !good {
		return nil, fail(reasonLoad)
	}
	if err := d.apply(changes); err != nil {
		d.free()
		return nil, err
	}
	return d, nil
}

func (d *document) free() { C.engine_free(&d.c) }

// apply adds changes and looks for each afterwards, since the library keeps quiet about what it leaves out: junk, and
// changes whose dependencies it lacks.
func (d *document) apply(changes [][]byte) error {
	if len(changes) == 0 {
		return nil
	}
	total := 0
	for _, c := range changes {
		total += len(c)
	}
	all := make([]byte, 0, total)
	hashes := make([]crdt.ChangeHash, len(changes))
	for i, c := range changes {
		if len(c) <= 8 {
			return fail(reasonApply)
		}
		all = append(all, c...)
		hashes[i] = sha256.Sum256(c[8:])
	}
	if !C.engine_apply(&d.c, pointer(all), C.size_t(len(all))) {
		return fail(reasonApply)
	}
	return d.has(hashes, reasonMissing)
}

func (d *document) has(hashes []crdt.ChangeHash, otherwise reason) error {
	if !C.engine_has(&d.c, flat(hashes), C.size_t(len(hashes))) {
		return fail(otherwise)
	}
	return nil
}

// heads returns the document's heads, ascending.
func (d *document) heads() ([]crdt.ChangeHash, error) {
	b := newBuffer()
	defer b.free()
	if !C.engine_heads(&d.c, &b.c) {
		return nil, b.failed(reasonHeads)
	}
	return sortedHeads(b.bytes()), nil
}

func (d *document) save() (*buffer, error) {
	b := newBuffer()
	if !C.engine_save(&d.c, &b.c) {
		defer b.free()
		return nil, b.failed(reasonSave)
	}
	return b, nil
}

// read returns fields in codec.go's form. The caller frees the buffer.
//
// At old heads the library finds the moment anew for every value, which takes the longer the more changes came before;
// so a whole document is read from a copy of that moment.
func (d *document) read(keys []string, heads []crdt.ChangeHash) (*buffer, error) {
	if heads == nil {
		return d.walk(keys, nil)
	}
	now, err := d.heads()
	if err != nil {
		return nil, err
	}
	switch heads = ascending(heads); {
	case slices.Equal(heads, now):
		return d.walk(keys, nil)
	case len(heads) == 0:
		return newBuffer(), nil
	case keys == nil:
		then, err := d.at(heads)
		if err != nil {
			return nil, err
		}
		defer then.free()
		return then.walk(nil, nil)
	}
	if err := d.has(heads, reasonNoHistory); err != nil {
		return nil, err
	}
	return d.walk(keys, heads)
}

// ascending returns the hashes in order, each once.
func ascending(hashes []crdt.ChangeHash) []crdt.ChangeHash {
	hashes = slices.Clone(hashes)
	slices.SortFunc(hashes, compareHashes)
	return slices.Compact(hashes)
}

// at returns a copy of the document as of heads.
func (d *document) at(heads []crdt.ChangeHash) (*document, error) {
	then := &document{}
	if len(heads) == 0 {
		if !C.engine_create(&then.c) {
			return nil, fail(reasonBase)
		}
		return then, nil
	}
	if err := d.has(heads, reasonNoHistory); err != nil {
		return nil, err
	}
	if !C.engine_fork(&d.c, flat(heads), C.size_t(len(heads)), &then.c) {
		return nil, fail(reasonBase)
	}
	ends, err := then.heads()
	if err == nil {
		err = then.has(heads, reasonBase)
	}
	for _, h := range ends {
		if err == nil && !slices.Contains(heads, h) {
			err = fail(reasonBase)
		}
	}
	if err != nil {
		then.free()
		return nil, err
	}
	return then, nil
}

// walk reads now, or at heads that the document has.
func (d *document) walk(keys []string, heads []crdt.ChangeHash) (*buffer, error) {
	n := C.size_t(math.MaxUint)
	var text []byte
	var lengths []C.size_t
	if keys != nil {
		n = C.size_t(len(keys))
		lengths = make([]C.size_t, len(keys))
		for i, k := range keys {
			if !utf8.ValidString(k) {
				return nil, fail(reasonRequest)
			}
			text = append(text, k...)
			lengths[i] = C.size_t(len(k))
		}
	}
	b := newBuffer()
	if !C.engine_read(&d.c, pointer(text), unsafe.SliceData(lengths), n,
		flat(heads), C.size_t(len(heads)), maxDepth, &b.c) {
		defer b.free()
		return nil, b.failed(reasonRead)
	}
	return b, nil
}

// edit makes one change. With a base other than the heads it is made on a copy of the document as of the base and then
// applied like any other.
func (d *document) edit(e crdt.Edit) ([]byte, error) {
	if len(e.Instructions) == 0 {
		return nil, fail(reasonEmpty)
	}
	if e.Base == nil {
		return d.change(e)
	}
	now, err := d.heads()
	if err != nil {
		return nil, err
	}
	base := ascending(e.Base)
	if slices.Equal(base, now) {
		return d.change(e)
	}
	fork, err := d.at(base)
	if err != nil {
		return nil, err
	}
	defer fork.free()
	raw, err := fork.change(e)
	if err != nil {
		return nil, err
	}
	return raw, d.apply([][]byte{raw})
}

// change interprets the instructions in one transaction. The actor is set before every one, so that a loaded or forked
// document never writes under the random actor that the library gave it.
func (d *document) change(e crdt.Edit) ([]byte, error) {
	if !C.engine_set_actor(&d.c, pointer(e.Actor[:]), C.size_t(len(e.Actor))) {
		return nil, fail(reasonCommit)
	}
	t := transaction{doc: &d.c, refs: []container{{kind: crdt.Map}}}
	defer t.free()
	for i := range e.Instructions {
		if !t.step(&e.Instructions[i]) {
			return nil, &failure{reason: reasonStep, at: uint64(i)}
		}
	}
	seconds := e.TimeMillis / 1000
	if e.TimeMillis%1000 < 0 {
		seconds--
	}
	b := newBuffer()
	defer b.free()
	if !C.engine_commit(&d.c, C.int64_t(seconds), &b.c) {
		return nil, b.failed(reasonCommit)
	}
	raw := slices.Clone(b.bytes())
	if len(raw) <= 9 || raw[8] != 1 {
		return nil, fail(reasonChange)
	}
	return raw, d.has([]crdt.ChangeHash{sha256.Sum256(raw[8:])}, reasonChange)
}

// A transaction keeps the containers that the instructions may name.
type transaction struct {
	doc  *C.engine_document
	refs []container
}

type container struct {
	obj  C.engine_object
	kind crdt.Kind
}

func (t *transaction) free() {
	for i := range t.refs {
		C.engine_object_free(&t.refs[i].obj)
	}
}

func (t *transaction) step(in *crdt.Instruction) bool {
	if in.Obj < 0 || in.Obj >= len(t.refs) || in.Index < 0 || in.Delete < 0 {
		return false
	}
	at := t.refs[in.Obj]
	isMap := at.kind == crdt.Map
	if isMap && in.Index != 0 || !isMap && in.Key != "" || !utf8.ValidString(in.Key) {
		return false
	}
	switch in.Do {
	case crdt.Enter:
		if at.kind == crdt.Text {
			return false
		}
		var to C.engine_object
		var kind C.uint8_t
		if !C.engine_enter(t.doc, at.obj.obj, C.bool(!isMap), stringPointer(in.Key), C.size_t(len(in.Key)),
			C.size_t(in.Index), C.uint64_t(in.Op.Counter), pointer(in.Op.Actor[:]), &kind, &to) {
			return false
		}
		t.refs = append(t.refs, container{to, crdt.Kind(kind)})
		return true
	case crdt.Set:
		if at.kind == crdt.Text || !isMap && in.Index >= t.size(at) {
			return false
		}
		return t.put(at, in, false)
	case crdt.Insert:
		return at.kind == crdt.List && in.Index <= t.size(at) && t.put(at, in, true)
	case crdt.Splice:
		if at.kind != crdt.Text || !utf8.ValidString(in.Value.Str) || in.Delete == 0 && in.Value.Str == "" {
			return false
		}
		size := t.size(at)
		return in.Index <= size && in.Delete <= size-in.Index &&
			bool(C.engine_splice(t.doc, at.obj.obj, C.size_t(in.Index), C.size_t(in.Delete),
				stringPointer(in.Value.Str), C.size_t(len(in.Value.Str))))
	}
	return false
}

// size is checked by the caller of each position: the library is not asked about one that does not exist.
func (t *transaction) size(at container) int { return int(C.engine_size(t.doc, at.obj.obj)) }

func (t *transaction) put(at container, in *crdt.Instruction, insert bool) bool {
	v := C.engine_value{kind: C.uint8_t(in.Value.Kind), number: C.int64_t(in.Value.Int), len: C.size_t(len(in.Value.Str))}
	switch in.Value.Kind {
	case crdt.String:
		if !utf8.ValidString(in.Value.Str) {
			return false
		}
	case crdt.Bytes, crdt.Int, crdt.Bool, crdt.Null:
	case crdt.Map, crdt.List, crdt.Text:
		if in.Value.Str != "" {
			return false
		}
	default:
		return false
	}
	var made C.engine_object
	if !C.engine_put(t.doc, at.obj.obj, C.bool(at.kind != crdt.Map), stringPointer(in.Key), C.size_t(len(in.Key)),
		C.size_t(in.Index), C.bool(insert), &v, stringPointer(in.Value.Str), &made) {
		return false
	}
	if in.Value.Kind.Container() {
		t.refs = append(t.refs, container{made, in.Value.Kind})
	}
	return true
}
