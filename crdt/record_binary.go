package crdt

import (
	"fmt"
	"math"
	"strings"

	"chartmesh/wire"
)

// The saved form of a Record. It never leaves the device; the store keeps its hash.
//
//	version      1 byte, 1
//	hash         32
//	deps         count, 32 each
//	actor        16
//	seq, start, count
//	actors       count, 16 each; the others that objects name
//	keys         count, each: type (0: as the key before; else length+1, bytes), id (length*2, bytes; or 1 and the 16
//	             bytes of a lowercase UUID)
//	names        count, each: length, bytes
//	objects      count of those not made here, each: 0 for the root; else actor (1: this change's, else 2 + index),
//	             counter, key index
//	rows         until count operations are told, in groups of one object: object (zigzag difference to the group
//	             before), rows less 1, each: value*16 + kind, the value being ref or, of a kind with several operations, their
//	             number less 1
//
// Numbers are minimal unsigned LEB128.
const recordVersion = 1

// AppendBinary appends the saved form.
func (r *Record) AppendBinary(b []byte) ([]byte, error) {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(r.Hash[:])
	w.Uvarint(uint64(len(r.Deps)))
	for i := range r.Deps {
		w.Raw(r.Deps[i][:])
	}
	w.Raw(r.Actor[:])
	w.Uvarint(r.Seq)
	w.Uvarint(r.StartOp)
	w.Uvarint(r.Count)

	numbers := map[Actor]uint64{r.Actor: 0}
	var others []Actor
	for _, o := range r.objects[:r.foreign] {
		if _, ok := numbers[o.id.Actor]; !ok && o.id != (OpID{}) {
			others = append(others, o.id.Actor)
			numbers[o.id.Actor] = uint64(len(others))
		}
	}
	w.Uvarint(uint64(len(others)))
	for _, a := range others {
		w.Raw(a[:])
	}
	w.Uvarint(uint64(len(r.Keys)))
	before := ""
	for _, key := range r.Keys {
		before = writeKey(&w, key, before)
	}
	w.Uvarint(uint64(len(r.names)))
	for _, name := range r.names {
		w.String(name)
	}
	w.Uvarint(uint64(r.foreign))
	for _, o := range r.objects[:r.foreign] {
		if o.id == (OpID{}) {
			w.Uvarint(0)
			continue
		}
		w.Uvarint(numbers[o.id.Actor] + 1)
		w.Uvarint(o.id.Counter)
		w.Uvarint(uint64(o.key))
	}
	last := uint32(0)
	for i := 0; i < len(r.rows); {
		obj, end := r.rows[i].obj, i+1
		for end < len(r.rows) && r.rows[end].obj == obj {
			end++
		}
		w.Varint(int64(obj) - int64(last))
		w.Uvarint(uint64(end - i - 1))
		for ; i < end; i++ {
			row := r.rows[i]
			value := uint64(row.ref)
			if row.kind.several() {
				next := r.Count
				if i+1 < len(r.rows) {
					next = uint64(r.rows[i+1].at)
				}
				value = next - uint64(row.at) - 1
			}
			w.Uvarint(value<<4 | uint64(row.kind))
		}
		last = obj
	}
	return append(b, w.Bytes()...), nil
}

// ParseRecord decodes a saved Record; the same bytes come of it again. Its error wraps wire.ErrMalformed.
func ParseRecord(b []byte) (Record, error) {
	if len(b) > MaxRecordBytes {
		return Record{}, fmt.Errorf("parse record: %w: larger than allowed", wire.ErrMalformed)
	}
	p := recordParser{Reader: wire.NewReader(b)}
	p.head()
	p.tables()
	p.rows()
	p.check()
	if err := p.Close(); err != nil {
		return Record{}, fmt.Errorf("parse record: %w", err)
	}
	return p.r, nil
}

type recordParser struct {
	*wire.Reader
	r      Record
	actors []Actor // own first
	nextOp uint64  // operations told so far
}

func (p *recordParser) head() {
	if p.Byte() != recordVersion {
		p.Fail("version")
	}
	p.Fixed(p.r.Hash[:])
	p.r.Deps = make([]ChangeHash, p.count(MaxChangeDeps, len(ChangeHash{})))
	for i := range p.r.Deps {
		p.Fixed(p.r.Deps[i][:])
	}
	p.Fixed(p.r.Actor[:])
	p.r.Seq = p.Uvarint(MaxSeq)
	p.r.StartOp = p.Uvarint(MaxCounter)
	p.r.Count = p.Uvarint(MaxChangeOps)
	if p.r.Seq == 0 || p.r.StartOp == 0 || p.r.Count == 0 || p.r.StartOp+p.r.Count-1 > MaxCounter {
		p.Fail("numbers")
	}
}

// count takes a number of things that take at least size bytes each.
func (p *recordParser) count(limit uint64, size int) int {
	n := p.Uvarint(limit)
	if n > uint64(p.Len()/size) {
		p.Fail("count")
		return 0
	}
	return int(n)
}

func (p *recordParser) tables() {
	r := &p.r
	p.actors = make([]Actor, 1+p.count(MaxChangeActors, len(Actor{})))
	p.actors[0] = r.Actor
	for i := range p.actors[1:] {
		p.Fixed(p.actors[i+1][:])
	}
	r.Keys = make([]string, p.count(MaxChangeOps, 2))
	before := ""
	for i := range r.Keys {
		r.Keys[i], before = p.key(before)
	}
	r.names = make([]string, p.count(MaxChangeOps, 1))
	for i := range r.names {
		if r.names[i] = p.String(MaxKeyBytes); r.names[i] == "" {
			p.Fail("name")
		}
	}
	r.foreign = p.count(MaxChangeOps, 1)
	r.objects = make([]object, r.foreign)
	for i := range r.objects {
		if a := p.Uvarint(MaxChangeActors + 1); a > 0 {
			r.objects[i] = object{p.opID(a - 1), uint32(p.Uvarint(MaxChangeOps))}
			if int(r.objects[i].key) >= len(r.Keys) {
				p.Fail("key")
			}
		}
	}
}

func (p *recordParser) opID(actor uint64) OpID {
	if actor >= uint64(len(p.actors)) {
		p.Fail("actor")
		return OpID{}
	}
	id := OpID{Counter: p.Uvarint(MaxCounter), Actor: p.actors[actor]}
	if id.Counter == 0 {
		p.Fail("counter")
	}
	return id
}

func (p *recordParser) rows() {
	r := &p.r
	last := int64(0)
	for group := 0; p.nextOp < r.Count && p.Err() == nil; group++ {
		step := p.Varint()
		if step > math.MaxInt32 || step < math.MinInt32 || group > 0 && step == 0 {
			p.Fail("object")
			return
		}
		if last += step; last < 0 || last >= int64(len(r.objects)) {
			p.Fail("object")
			return
		}
		n := p.Uvarint(MaxChangeOps)
		for k := uint64(0); k <= n && p.Err() == nil; k++ {
			p.row(uint32(last))
		}
	}
}

// row takes one row and, if it makes a container, puts that in the table.
func (p *recordParser) row(obj uint32) {
	r := &p.r
	token := p.Uvarint(math.MaxUint32)
	w := row{at: uint32(p.nextOp), obj: obj, ref: uint32(token >> 4), kind: rowKind(token & 15)}
	in := r.objects[obj]
	inRoot, limit, ops := in.id == (OpID{}), 1, uint64(1)
	switch w.kind {
	case rowMakeMap, rowMakeList, rowMakeText, rowPut:
		if limit = len(r.names); inRoot {
			limit = len(r.Keys)
		}
	case rowInsertMap:
	case rowInsert, rowRemove:
		limit, ops, w.ref = math.MaxInt32, uint64(w.ref)+1, 0
		if n := len(r.rows); n > 0 && r.rows[n-1].kind == w.kind && r.rows[n-1].obj == obj {
			p.Fail("run")
		}
	default:
		p.Fail("kind")
	}
	if int64(w.ref) >= int64(limit) || ops > r.Count-p.nextOp || inRoot && w.kind != rowMakeMap {
		p.Fail("row")
	}
	if p.Err() != nil {
		return
	}
	if w.kind.makes() != 0 {
		o := object{OpID{Counter: r.StartOp + p.nextOp, Actor: r.Actor}, in.key}
		if inRoot {
			o.key = w.ref
		}
		r.objects = append(r.objects, o)
	}
	r.rows = append(r.rows, w)
	p.nextOp += ops
}

// check refuses tables that AppendBinary would write otherwise.
func (p *recordParser) check() {
	if p.Err() != nil {
		return
	}
	named := map[Actor]bool{p.r.Actor: true}
	next := 1
	for _, o := range p.r.objects[:p.r.foreign] {
		a := o.id.Actor
		if o.id == (OpID{}) || named[a] {
			continue
		}
		if named[a] = true; next >= len(p.actors) || p.actors[next] != a {
			p.Fail("actors")
		}
		next++
	}
	if next != len(p.actors) {
		p.Fail("actors")
	}
}

const uuidLength = 36

// writeKey writes a root key and returns its type, to be given with the next.
func writeKey(w *wire.Writer, key, before string) string {
	kind, id, _ := strings.Cut(key, "/")
	if kind == before {
		w.Uvarint(0)
	} else {
		w.Uvarint(uint64(len(kind)) + 1)
		w.Raw([]byte(kind))
	}
	if packed, ok := packUUID(id); ok {
		w.Uvarint(1)
		w.Raw(packed[:])
	} else {
		w.Uvarint(uint64(len(id)) * 2)
		w.Raw([]byte(id))
	}
	return kind
}

func (p *recordParser) key(before string) (key, kind string) {
	kind = before
	if n := p.Uvarint(MaxRootKeyBytes + 1); n > 0 {
		if kind = string(p.Raw(int(n - 1))); kind == before || kind == "" {
			p.Fail("key")
		}
	} else if before == "" {
		p.Fail("key")
	}
	var id string
	switch n := p.Uvarint(MaxRootKeyBytes * 2); {
	case n == 1:
		var packed [16]byte
		p.Fixed(packed[:])
		id = unpackUUID(packed)
	case n%2 == 1:
		p.Fail("key")
	default:
		id = string(p.Raw(int(n / 2)))
		if _, ok := packUUID(id); ok {
			p.Fail("key")
		}
	}
	if key = kind + "/" + id; p.Err() == nil && !validRootKey(key) {
		p.Fail("key")
	}
	return key, kind
}

// packUUID returns the bytes of a UUID in its usual form, lowercase.
func packUUID(s string) (packed [16]byte, ok bool) {
	if len(s) != uuidLength {
		return packed, false
	}
	at := 0
	for i := range uuidLength {
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if s[i] != '-' {
				return packed, false
			}
			continue
		}
		var nibble byte
		switch b := s[i]; {
		case b >= '0' && b <= '9':
			nibble = b - '0'
		case b >= 'a' && b <= 'f':
			nibble = b - 'a' + 10
		default:
			return packed, false
		}
		packed[at/2] |= nibble << (4 * (1 - at%2))
		at++
	}
	return packed, true
}

func unpackUUID(b [16]byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
