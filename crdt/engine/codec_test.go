package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"chartmesh/crdt"
	"chartmesh/wire"
)

// appendFields is shim.c's walk in Go.
type fieldWriter struct {
	wire.Writer
	actors map[crdt.Actor]int
}

func encodeFields(fields []crdt.Field) []byte {
	w := &fieldWriter{actors: map[crdt.Actor]int{}}
	for _, f := range fields {
		w.field(f)
	}
	return w.Bytes()
}

func (w *fieldWriter) field(f crdt.Field) {
	w.String(f.Key)
	w.register(f.Values)
}

func (w *fieldWriter) register(r crdt.Register) {
	w.Uvarint(uint64(len(r)))
	for _, a := range r {
		w.Uvarint(a.Op.Counter)
		i, known := w.actors[a.Op.Actor]
		if !known {
			i = len(w.actors)
			w.actors[a.Op.Actor] = i
		}
		w.Uvarint(uint64(i))
		if !known {
			w.Raw(a.Op.Actor[:])
		}
		w.Byte(byte(a.Kind))
		switch a.Kind {
		case crdt.Map:
			w.Uvarint(uint64(len(a.Map)))
			for _, f := range a.Map {
				w.field(f)
			}
		case crdt.List:
			w.Uvarint(uint64(len(a.List)))
			for _, r := range a.List {
				w.register(r)
			}
		default:
			appendScalar(&w.Writer, a.Scalar)
		}
	}
}

// reencodes fails unless b decodes to nothing or to what encodes to b again.
func reencodes(t *testing.T, what string, b []byte, err error, encode func() []byte) {
	t.Helper()
	if err != nil {
		if !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", what, err)
		}
		return
	}
	if again := encode(); !bytes.Equal(again, b) {
		t.Errorf("%s: %x encodes again to %x", what, b, again)
	}
}

func sampleFields() []crdt.Field {
	x, y := crdt.Actor{1}, crdt.Actor{2}
	leaf := func(n uint64, actor crdt.Actor, s crdt.Scalar) crdt.Alternative {
		return crdt.Alternative{Op: crdt.OpID{Counter: n, Actor: actor}, Scalar: s}
	}
	inner := leaf(2, x, crdt.Scalar{Kind: crdt.Map})
	inner.Map = []crdt.Field{
		{Key: "s", Values: crdt.Register{leaf(3, x, crdt.Scalar{Kind: crdt.String, Str: "é"}), leaf(3, y, crdt.Scalar{Kind: crdt.Null})}},
		{Key: "i", Values: crdt.Register{leaf(4, y, crdt.Scalar{Kind: crdt.Int, Int: -1 << 63})}},
		{Key: "t", Values: crdt.Register{leaf(5, x, crdt.Scalar{Kind: crdt.Text, Str: "text"})}},
	}
	list := leaf(6, x, crdt.Scalar{Kind: crdt.List})
	list.List = []crdt.Register{
		{leaf(7, x, crdt.Scalar{Kind: crdt.Bytes, Str: "\xff"})},
		{leaf(1<<40, y, crdt.Scalar{Kind: crdt.Bool, Int: 1})},
	}
	return []crdt.Field{{Key: "P/1", Values: crdt.Register{inner}}, {Key: "P/2", Values: crdt.Register{list}}}
}

func sampleEdits() []crdt.Edit {
	steps := []crdt.Instruction{
		{Do: crdt.Enter, Key: "P/1", Op: crdt.OpID{Counter: 300, Actor: crdt.Actor{9}}},
		{Do: crdt.Set, Obj: 1, Key: "k", Value: crdt.Scalar{Kind: crdt.String, Str: "v"}},
		{Do: crdt.Set, Obj: 1, Key: "[l", Value: crdt.Scalar{Kind: crdt.List}},
		{Do: crdt.Insert, Obj: 2, Index: 0, Value: crdt.Scalar{Kind: crdt.Int, Int: -5}},
		{Do: crdt.Insert, Obj: 2, Index: 1, Value: crdt.Scalar{Kind: crdt.Bool, Int: 1}},
		{Do: crdt.Set, Obj: 2, Index: 1, Value: crdt.Scalar{Kind: crdt.Null}},
		{Do: crdt.Set, Obj: 2, Index: 1, Value: crdt.Scalar{Kind: crdt.Bytes, Str: "\x00\xff"}},
		{Do: crdt.Splice, Obj: 3, Index: 4, Delete: 2, Value: crdt.Scalar{Kind: crdt.String, Str: "é"}},
	}
	return []crdt.Edit{
		{Actor: crdt.Actor{1, 2}, TimeMillis: -7, Base: []crdt.ChangeHash{{1}, {2}}, Instructions: steps},
		{Base: []crdt.ChangeHash{}, Instructions: steps[:1]},
		{Instructions: []crdt.Instruction{}},
	}
}

func TestCodec(t *testing.T) {
	fields := sampleFields()
	if got, err := parseFields(encodeFields(fields)); err != nil || !reflect.DeepEqual(got, fields) {
		t.Errorf("fields: %v %v", got, err)
	}
	for i, e := range sampleEdits() {
		w := &wire.Writer{}
		appendEdit(w, e)
		r := wire.NewReader(w.Bytes())
		if got := readEdit(r); r.Close() != nil || !reflect.DeepEqual(got, e) {
			t.Errorf("edit %d: %v %v", i, got, r.Close())
		}
	}
	for _, in := range []crdt.Instruction{{Do: crdt.Set, Obj: -1}, {Do: crdt.Insert, Index: -1}, {Do: crdt.Splice, Delete: -1}, {Do: 9}} {
		w := &wire.Writer{}
		appendInstruction(w, &in)
		r := wire.NewReader(w.Bytes())
		if readInstruction(r); r.Err() == nil {
			t.Errorf("%v was taken", in)
		}
	}
	for _, keys := range [][]string{nil, {}, {"a", "", "b"}} {
		w := &wire.Writer{}
		appendKeys(w, keys)
		r := wire.NewReader(w.Bytes())
		if got := readKeys(r); r.Close() != nil || !reflect.DeepEqual(got, keys) {
			t.Errorf("keys %q: %q %v", keys, got, r.Close())
		}
	}
}

func TestFieldsInAnotherOrderAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(f []crdt.Field){
		"order":     func(f []crdt.Field) { r := f[0].Values[0].Map[0].Values; r[0], r[1] = r[1], r[0] },
		"twice":     func(f []crdt.Field) { r := f[0].Values[0].Map[0].Values; r[0].Op = r[1].Op },
		"empty":     func(f []crdt.Field) { f[1].Values = nil },
		"bad text":  func(f []crdt.Field) { f[0].Values[0].Map[2].Values[0].Str = "\xff" },
		"bad key":   func(f []crdt.Field) { f[0].Key = "\xff" },
		"no kind":   func(f []crdt.Field) { f[0].Values[0].Kind = 0 },
		"long list": func(f []crdt.Field) { f[1].Values[0].List = append(f[1].Values[0].List, nil) },
	} {
		f := sampleFields()
		spoil(f)
		if got, err := parseFields(encodeFields(f)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v %v", name, got, err)
		}
	}
	deep := crdt.Alternative{Op: crdt.OpID{Counter: 1}, Scalar: crdt.Scalar{Kind: crdt.List}}
	for range maxDepth {
		deep = crdt.Alternative{Op: crdt.OpID{Counter: 1}, Scalar: crdt.Scalar{Kind: crdt.List}, List: []crdt.Register{{deep}}}
	}
	if _, err := parseFields(encodeFields([]crdt.Field{{Key: "k", Values: crdt.Register{deep}}})); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("deep: %v", err)
	}
}

func FuzzFields(f *testing.F) {
	f.Add(encodeFields(sampleFields()))
	f.Add(encodeFields(sampleFields()[1:]))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		fields, err := parseFields(b)
		reencodes(t, "fields", b, err, func() []byte { return encodeFields(fields) })
	})
}

func FuzzEdit(f *testing.F) {
	for _, e := range sampleEdits() {
		w := &wire.Writer{}
		appendEdit(w, e)
		f.Add(w.Bytes())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := wire.NewReader(b)
		e := readEdit(r)
		reencodes(t, "edit", b, r.Close(), func() []byte {
			w := &wire.Writer{}
			appendEdit(w, e)
			return w.Bytes()
		})
	})
}

// FuzzPayloads takes the first byte as the choice of a decoder.
func FuzzPayloads(f *testing.F) {
	w := &wire.Writer{}
	appendHashes(w, []crdt.ChangeHash{{1}, {2}})
	f.Add(append([]byte{0}, w.Bytes()...))
	w = &wire.Writer{}
	appendChanges(w, [][]byte{{1, 2, 3}, {}, {4}})
	f.Add(append([]byte{1}, w.Bytes()...))
	w = &wire.Writer{}
	appendKeys(w, []string{"P/1", ""})
	f.Add(append([]byte{2}, w.Bytes()...))
	f.Add([]byte{2, 1})
	f.Add([]byte{3, byte(reasonStep), 5})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		which, b := b[0], b[1:]
		r, w := wire.NewReader(b), &wire.Writer{}
		switch which {
		case 0:
			v := readHashes(r)
			reencodes(t, "hashes", b, r.Close(), func() []byte { appendHashes(w, v); return w.Bytes() })
		case 1:
			v := readChanges(r)
			reencodes(t, "changes", b, r.Close(), func() []byte { appendChanges(w, v); return w.Bytes() })
		case 2:
			v := readKeys(r)
			reencodes(t, "keys", b, r.Close(), func() []byte { appendKeys(w, v); return w.Bytes() })
		case 3:
			_, err := outcome(statusFailed, b)
			var failed *failure
			if errors.As(err, &failed) {
				if again := append([]byte{byte(failed.reason)}, binary.AppendUvarint(nil, failed.at)...); !bytes.Equal(again, b) {
					t.Errorf("failure %x encodes again to %x", b, again)
				}
			} else if !errors.Is(err, errFrame) {
				t.Errorf("failure %x: %v", b, err)
			}
		}
	})
}

func TestFrames(t *testing.T) {
	frame := func(n uint32, body ...byte) *bytes.Reader {
		return bytes.NewReader(append(binary.BigEndian.AppendUint32(nil, n), body...))
	}
	if b, err := readFrame(frame(3, 1, 2, 3), nil, 3); err != nil || len(b) != 3 {
		t.Errorf("%v %v", b, err)
	}
	for _, r := range []*bytes.Reader{frame(2, 1, 2, 3), frame(maxFrame+1, 1, 2, 3), frame(1<<32-1, 1)} {
		if _, err := readFrame(r, nil, 3); !errors.Is(err, errFrame) {
			t.Errorf("%v", err)
		}
	}
	if _, err := readFrame(frame(4, 1, 2, 3), nil, 3); err == nil || errors.Is(err, errFrame) {
		t.Errorf("cut: %v", err)
	}
	for _, b := range []string{"CMENGINF\x01", "CMENGINE\x02", "CMENGINE"} {
		if readHello(bytes.NewReader([]byte(b))) == nil {
			t.Errorf("%q was taken", b)
		}
	}
	if _, err := outcome(9, nil); !errors.Is(err, errFrame) {
		t.Errorf("status: %v", err)
	}
	if _, err := seal(newAnswer(statusDone, 1), maxFrame); !errors.Is(err, errFrame) {
		t.Errorf("seal: %v", err)
	}
}
