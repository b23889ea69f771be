package engine

import (
	"fmt"
	"unicode/utf8"

	"chartmesh/crdt"
	"chartmesh/wire"
)

// The payloads of the pipe. Integers are as in package wire; a blob is a length and bytes.
//
//	hashes        count, 32 bytes each
//	load          saved form (blob), changes: each a blob, to the end
//	apply         changes: each a blob, to the end
//	moment        now (0), or as of heads (1) and hashes: none is the empty document
//	edit          actor (16), milliseconds (varint), moment of its base, count, instructions
//	instruction   verb, reference, key (blob), index, then
//	                enter          counter, actor (16)
//	                set, insert    value: kind, and as in an alternative; nothing for a container
//	                splice         characters to remove, text (blob)
//	edited        change (blob), heads (hashes)
//	read          moment, all keys (1) or chosen ones (0): each a blob, to the end
//	fields        key (blob), register; to the end
//	register      count (1 or more), alternatives ascending by operation
//	alternative   counter, number of the actor and, on its first use, the actor (16), kind, then
//	                map            count, fields
//	                list           count, registers
//	                text, string, bytes   blob
//	                int            varint
//	                bool           0 or 1
//
// Fields are written by shim.c in the engine and by appendFields in tests alone.

func appendHashes(w *wire.Writer, hashes []crdt.ChangeHash) {
	w.Uvarint(uint64(len(hashes)))
	for i := range hashes {
		w.Raw(hashes[i][:])
	}
}

func readHashes(r *wire.Reader) []crdt.ChangeHash {
	n := int(r.Uvarint(maxHeads))
	flat := r.Raw(32 * n)
	if r.Err() != nil {
		return nil
	}
	hashes := make([]crdt.ChangeHash, n)
	for i := range hashes {
		copy(hashes[i][:], flat[32*i:])
	}
	return hashes
}

func appendMoment(w *wire.Writer, heads []crdt.ChangeHash) {
	w.Byte(bit(heads != nil))
	if heads != nil {
		appendHashes(w, heads)
	}
}

// readMoment returns nil for now.
func readMoment(r *wire.Reader) []crdt.ChangeHash {
	if !readBool(r) {
		return nil
	}
	return readHashes(r)
}

func appendChanges(w *wire.Writer, changes [][]byte) {
	for _, c := range changes {
		w.Blob(c)
	}
}

// readChanges takes blobs to the end; they share the input's memory.
func readChanges(r *wire.Reader) [][]byte {
	var changes [][]byte
	for r.Len() > 0 && r.Err() == nil {
		if len(changes) == maxChanges {
			r.Fail("too many changes")
			break
		}
		changes = append(changes, r.Blob(maxFrame))
	}
	return changes
}

func appendEdit(w *wire.Writer, e crdt.Edit) {
	w.Raw(e.Actor[:])
	w.Varint(e.TimeMillis)
	appendMoment(w, e.Base)
	w.Uvarint(uint64(len(e.Instructions)))
	for i := range e.Instructions {
		appendInstruction(w, &e.Instructions[i])
	}
}

// appendInstruction turns a negative number into one that readInstruction refuses.
func appendInstruction(w *wire.Writer, in *crdt.Instruction) {
	w.Byte(byte(in.Do))
	w.Uvarint(uint64(in.Obj))
	w.String(in.Key)
	w.Uvarint(uint64(in.Index))
	switch in.Do {
	case crdt.Enter:
		w.Uvarint(in.Op.Counter)
		w.Raw(in.Op.Actor[:])
	case crdt.Set, crdt.Insert:
		w.Byte(byte(in.Value.Kind))
		if !in.Value.Kind.Container() {
			appendScalar(w, in.Value)
		}
	case crdt.Splice:
		w.Uvarint(uint64(in.Delete))
		w.String(in.Value.Str)
	}
}

func readEdit(r *wire.Reader) crdt.Edit {
	var e crdt.Edit
	r.Fixed(e.Actor[:])
	e.TimeMillis = r.Varint()
	e.Base = readMoment(r)
	n := int(r.Uvarint(maxInstructions))
	e.Instructions = make([]crdt.Instruction, 0, min(n, r.Len()/4))
	for ; n > 0 && r.Err() == nil; n-- {
		e.Instructions = append(e.Instructions, readInstruction(r))
	}
	return e
}

func readInstruction(r *wire.Reader) crdt.Instruction {
	var in crdt.Instruction
	in.Do = crdt.Verb(r.Byte())
	in.Obj = int(r.Uvarint(maxIndex))
	in.Key = r.String(maxKey)
	in.Index = int(r.Uvarint(maxIndex))
	switch in.Do {
	case crdt.Enter:
		in.Op.Counter = r.Uvarint(maxCounter)
		r.Fixed(in.Op.Actor[:])
	case crdt.Set, crdt.Insert:
		kind := crdt.Kind(r.Byte())
		if kind.Container() {
			in.Value.Kind = kind
		} else {
			in.Value = readScalar(r, kind)
		}
	case crdt.Splice:
		in.Delete = int(r.Uvarint(maxIndex))
		in.Value = crdt.Scalar{Kind: crdt.String, Str: r.String(maxFrame)}
	default:
		r.Fail("verb")
	}
	return in
}

// appendScalar appends what follows the kind.
func appendScalar(w *wire.Writer, v crdt.Scalar) {
	switch v.Kind {
	case crdt.String, crdt.Text, crdt.Bytes:
		w.String(v.Str)
	case crdt.Int:
		w.Varint(v.Int)
	case crdt.Bool:
		w.Byte(bit(v.Int != 0))
	}
}

func readScalar(r *wire.Reader, kind crdt.Kind) crdt.Scalar {
	v := crdt.Scalar{Kind: kind}
	switch kind {
	case crdt.String, crdt.Text, crdt.Bytes:
		v.Str = r.String(maxFrame)
		if kind != crdt.Bytes && !utf8.ValidString(v.Str) {
			r.Fail("string is not UTF-8")
		}
	case crdt.Int:
		v.Int = r.Varint()
	case crdt.Bool:
		if readBool(r) {
			v.Int = 1
		}
	case crdt.Null:
	default:
		r.Fail("kind")
	}
	return v
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func readBool(r *wire.Reader) bool {
	b := r.Byte()
	if b > 1 {
		r.Fail("truth value")
	}
	return b == 1
}

func appendKeys(w *wire.Writer, keys []string) {
	w.Byte(bit(keys == nil))
	for _, k := range keys {
		w.String(k)
	}
}

// readKeys takes blobs to the end; nil means all keys.
func readKeys(r *wire.Reader) []string {
	if all := readBool(r); all || r.Err() != nil {
		return nil
	}
	keys := []string{}
	for r.Len() > 0 && r.Err() == nil {
		if len(keys) == maxKeys {
			r.Fail("too many keys")
			break
		}
		keys = append(keys, r.String(maxKey))
	}
	return keys
}

// A fieldReader decodes fields. Keys repeat from resource to resource, so each is allocated once.
type fieldReader struct {
	*wire.Reader
	actors []crdt.Actor
	known  map[crdt.Actor]bool
	keys   map[string]string
}

// parseFields decodes what shim.c wrote; nothing of the result shares b's memory.
func parseFields(b []byte) ([]crdt.Field, error) {
	r := &fieldReader{Reader: wire.NewReader(b), known: map[crdt.Actor]bool{}, keys: map[string]string{}}
	var fields []crdt.Field
	for r.Len() > 0 && r.Err() == nil {
		fields = append(fields, r.field(maxDepth))
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("decode fields: %w", err)
	}
	return fields, nil
}

func (r *fieldReader) field(depth int) crdt.Field {
	b := r.Blob(maxKey)
	key, ok := r.keys[string(b)]
	if !ok {
		key = string(b)
		r.keys[key] = key
		if !utf8.ValidString(key) {
			r.Fail("key is not UTF-8")
		}
	}
	return crdt.Field{Key: key, Values: r.register(depth)}
}

func (r *fieldReader) register(depth int) crdt.Register {
	n := r.count(3)
	if n == 0 {
		r.Fail("empty register")
		return nil
	}
	reg := make(crdt.Register, 0, min(n, 16))
	for ; n > 0 && r.Err() == nil; n-- {
		a := r.alternative(depth)
		if len(reg) > 0 && reg[len(reg)-1].Op.Compare(a.Op) >= 0 {
			r.Fail("order of operations")
		}
		reg = append(reg, a)
	}
	return reg
}

// count takes a number of things that take at least size bytes each, so that it never claims more than was sent.
func (r *fieldReader) count(size int) int { return int(r.Uvarint(uint64(r.Len() / size))) }

func (r *fieldReader) alternative(depth int) crdt.Alternative {
	var a crdt.Alternative
	a.Op.Counter = r.Uvarint(maxCounter)
	a.Op.Actor = r.actor()
	kind := crdt.Kind(r.Byte())
	if r.Err() != nil {
		return a
	}
	if kind != crdt.Map && kind != crdt.List {
		a.Scalar = readScalar(r.Reader, kind)
		return a
	}
	a.Kind = kind
	if depth == 0 {
		r.Fail("too deep")
		return a
	}
	if kind == crdt.Map {
		n := r.count(5)
		a.Map = make([]crdt.Field, 0, min(n, 64))
		for ; n > 0 && r.Err() == nil; n-- {
			a.Map = append(a.Map, r.field(depth-1))
		}
		return a
	}
	n := r.count(4)
	a.List = make([]crdt.Register, 0, min(n, 64))
	for ; n > 0 && r.Err() == nil; n-- {
		a.List = append(a.List, r.register(depth-1))
	}
	return a
}

func (r *fieldReader) actor() crdt.Actor {
	i := int(r.Uvarint(uint64(len(r.actors))))
	if i < len(r.actors) {
		return r.actors[i]
	}
	var a crdt.Actor
	r.Fixed(a[:])
	if r.known[a] {
		r.Fail("actor named twice")
	}
	r.known[a] = true
	r.actors = append(r.actors, a)
	return a
}
