package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"
)

// encodeChange is the slow and obvious twin of Decode: it writes a change as Automerge would, from whole columns.
func encodeChange(c *Change) []byte {
	actors := []Actor{c.Actor}
	note := func(id OpID) {
		if id != (OpID{}) && !slices.Contains(actors, id.Actor) {
			actors = append(actors, id.Actor)
		}
	}
	for _, op := range c.Ops {
		note(op.Obj)
		note(op.Elem)
		for _, p := range op.Pred {
			note(p)
		}
	}
	slices.SortFunc(actors[1:], func(a, b Actor) int { return bytes.Compare(a[:], b[:]) })
	number := func(a Actor) *uint64 {
		n := uint64(slices.Index(actors, a))
		return &n
	}
	var objActor, objCounter, keyActor, action, meta, predCount, predActor []*uint64
	var keyCounter, predCounter []*int64
	var keyString []*string
	var insert []bool
	var values []byte
	u := func(v uint64) *uint64 { return &v }
	s := func(v uint64) *int64 { n := int64(v); return &n }
	for _, op := range c.Ops {
		if op.Obj == (OpID{}) {
			objActor, objCounter = append(objActor, nil), append(objCounter, nil)
		} else {
			objActor, objCounter = append(objActor, number(op.Obj.Actor)), append(objCounter, u(op.Obj.Counter))
		}
		switch {
		case op.Key != "":
			keyActor, keyCounter, keyString = append(keyActor, nil), append(keyCounter, nil), append(keyString, &op.Key)
		case op.Elem == (OpID{}):
			keyActor, keyCounter, keyString = append(keyActor, nil), append(keyCounter, s(0)), append(keyString, nil)
		default:
			keyActor = append(keyActor, number(op.Elem.Actor))
			keyCounter, keyString = append(keyCounter, s(op.Elem.Counter)), append(keyString, nil)
		}
		insert = append(insert, op.Insert)
		act, m, raw := uint64(nativePut), uint64(valueNull), []byte(nil)
		switch op.Action {
		case ActionMake:
			act = map[Kind]uint64{Map: nativeMakeMap, List: nativeMakeList, Text: nativeMakeText}[op.Value.Kind]
		case ActionDelete:
			act = nativeDelete
		default:
			m, raw = encodeScalar(op.Value)
		}
		action = append(action, &act)
		meta = append(meta, u(uint64(len(raw))<<4|m))
		values = append(values, raw...)
		predCount = append(predCount, u(uint64(len(op.Pred))))
		for _, p := range op.Pred {
			predActor, predCounter = append(predActor, number(p.Actor)), append(predCounter, s(p.Counter))
		}
	}
	uints := func(col []*uint64) []byte { return encodeRuns(col, binary.AppendUvarint) }
	type column struct {
		spec byte
		data []byte
	}
	var head, data []byte
	n := 0
	for _, col := range []column{
		{objActorColumn, uints(objActor)}, {objCounterColumn, uints(objCounter)},
		{keyActorColumn, uints(keyActor)}, {keyCounterColumn, encodeRuns(deltas(keyCounter), appendSigned)},
		{keyStringColumn, encodeRuns(keyString, appendString)},
		{insertColumn, encodeBools(insert)}, {actionColumn, uints(action)}, {valueMetaColumn, uints(meta)},
		{valueColumn, values}, {predCountColumn, uints(predCount)}, {predActorColumn, uints(predActor)},
		{predCtrColumn, encodeRuns(deltas(predCounter), appendSigned)},
	} {
		if len(col.data) > 0 {
			n++
			head = binary.AppendUvarint(append(head, col.spec), uint64(len(col.data)))
			data = append(data, col.data...)
		}
	}
	body := binary.AppendUvarint(nil, uint64(len(c.Deps)))
	for _, d := range c.Deps {
		body = append(body, d[:]...)
	}
	body = appendString(body, string(c.Actor[:]))
	body = binary.AppendUvarint(body, c.Seq)
	body = binary.AppendUvarint(body, c.StartOp)
	body = appendSigned(body, c.TimeSeconds)
	body = appendString(body, c.Message)
	body = binary.AppendUvarint(body, uint64(len(actors)-1))
	for _, a := range actors[1:] {
		body = appendString(body, string(a[:]))
	}
	body = append(binary.AppendUvarint(body, uint64(n)), head...)
	return envelope(append(body, data...))
}

// envelope puts magic, checksum, type and length before a change's body.
func envelope(body []byte) []byte {
	tail := binary.AppendUvarint([]byte{chunkTypeChange}, uint64(len(body)))
	tail = append(tail, body...)
	sum := sha256.Sum256(tail)
	return slices.Concat(magic[:], sum[:4], tail)
}

// reseal puts the right checksum into bent bytes.
func reseal(raw []byte) []byte {
	if len(raw) > 8 {
		sum := sha256.Sum256(raw[8:])
		copy(raw[4:8], sum[:4])
	}
	return raw
}

func appendSigned(b []byte, v int64) []byte {
	for {
		low := byte(v & 0x7f)
		v >>= 7
		if v == 0 && low&0x40 == 0 || v == -1 && low&0x40 != 0 {
			return append(b, low)
		}
		b = append(b, low|0x80)
	}
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func encodeScalar(s Scalar) (kind uint64, raw []byte) {
	switch s.Kind {
	case Null:
		return valueNull, nil
	case Bool:
		return valueFalse + uint64(s.Int), nil
	case Int:
		return valueInt, appendSigned(nil, s.Int)
	case String:
		return valueString, []byte(s.Str)
	default:
		return valueBytes, []byte(s.Str)
	}
}

func deltas(col []*int64) []*int64 {
	out, last := make([]*int64, len(col)), int64(0)
	for i, v := range col {
		if v != nil {
			d := *v - last
			out[i], last = &d, *v
		}
	}
	return out
}

func encodeRuns[T comparable](col []*T, add func([]byte, T) []byte) (b []byte) {
	same := func(p, q *T) bool { return p == nil && q == nil || p != nil && q != nil && *p == *q }
	if !slices.ContainsFunc(col, func(v *T) bool { return v != nil }) {
		return nil
	}
	for i := 0; i < len(col); {
		n := 1
		for i+n < len(col) && same(col[i], col[i+n]) {
			n++
		}
		if col[i] == nil {
			b = binary.AppendUvarint(appendSigned(b, 0), uint64(n))
		} else if n > 1 {
			b = add(appendSigned(b, int64(n)), *col[i])
		} else {
			for i+n < len(col) && col[i+n] != nil && (i+n+1 == len(col) || !same(col[i+n], col[i+n+1])) {
				n++
			}
			b = appendSigned(b, -int64(n))
			for _, v := range col[i : i+n] {
				b = add(b, *v)
			}
		}
		i += n
	}
	return b
}

func encodeBools(col []bool) (b []byte) {
	value, n := false, uint64(0)
	for _, v := range col {
		if v != value {
			b, value, n = binary.AppendUvarint(b, n), v, 0
		}
		n++
	}
	return binary.AppendUvarint(b, n)
}

// Short forms for writing changes by hand.

func testActor(n byte) (a Actor) {
	for i := range a {
		a[i] = n
	}
	return a
}

func at(counter uint64, actor byte) OpID { return OpID{counter, testActor(actor)} }

func text(s string) Scalar   { return Scalar{Kind: String, Str: s} }
func number(n int64) Scalar  { return Scalar{Kind: Int, Int: n} }
func opaque(s string) Scalar { return Scalar{Kind: Bytes, Str: s} }
func boolean(n int64) Scalar { return Scalar{Kind: Bool, Int: n} }
func kindOnly(k Kind) Scalar { return Scalar{Kind: k} }

func makeAt(obj OpID, key string, k Kind) Op {
	return Op{Obj: obj, Key: key, Action: ActionMake, Value: kindOnly(k)}
}

func put(obj OpID, key string, v Scalar, pred ...OpID) Op {
	return Op{Obj: obj, Key: key, Action: ActionPut, Value: v, Pred: pred}
}

func insert(obj, after OpID, v Scalar) Op {
	op := Op{Obj: obj, Elem: after, Insert: true, Action: ActionPut, Value: v}
	if v.Kind.Container() {
		op.Action = ActionMake
	}
	return op
}

func overwrite(obj, elem OpID, v Scalar, pred ...OpID) Op {
	return Op{Obj: obj, Elem: elem, Action: ActionPut, Value: v, Pred: pred}
}

func remove(obj, elem OpID) Op {
	return Op{Obj: obj, Elem: elem, Action: ActionDelete, Pred: []OpID{elem}}
}

func newChange(actor byte, seq, start uint64, deps []ChangeHash, ops ...Op) *Change {
	slices.SortFunc(deps, func(a, b ChangeHash) int { return bytes.Compare(a[:], b[:]) })
	return &Change{Deps: deps, Actor: testActor(actor), Seq: seq, StartOp: start, TimeSeconds: 1_700_000_000, Ops: ops}
}

// decoded encodes and decodes, so that the change has its hash.
func decoded(t testing.TB, c *Change) *Change {
	t.Helper()
	d, err := Decode(encodeChange(c))
	if err != nil {
		t.Fatalf("Decode: %v", err)
	}
	return d
}
