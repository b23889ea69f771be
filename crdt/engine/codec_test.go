package engine

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"

	"chartmesh/crdt"
	"chartmesh/internal/fuzzing"
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
	read := func(b []byte) error {
		_, err := parseFields(b)
		return err
	}
	named := sampleFields()
	named[0].Key = "Patient/" + fuzzing.Canary
	fuzzing.Seeds(f, read, encodeFields(named), encodeFields(sampleFields()[1:]), []byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var fields []crdt.Field
		var err error
		// Containers inside one another may each begin a list before the input ends.
		fuzzing.Allocates(t, len(b), 256, maxDepth*16<<10, func() { fields, err = parseFields(b) })
		fuzzing.Quiet(t, err)
		reencodes(t, "fields", b, err, func() []byte { return encodeFields(fields) })
	})
}

func FuzzEdit(f *testing.F) {
	var seeds [][]byte
	for _, e := range sampleEdits() {
		w := &wire.Writer{}
		appendEdit(w, e)
		seeds = append(seeds, w.Bytes())
	}
	fuzzing.Seeds(f, func(b []byte) error {
		r := wire.NewReader(b)
		readEdit(r)
		return r.Close()
	}, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := wire.NewReader(b)
		var e crdt.Edit
		fuzzing.Allocates(t, len(b), 64, 160<<10, func() { r = wire.NewReader(b); e = readEdit(r) })
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
	hashes := w.Bytes()
	w = &wire.Writer{}
	appendChanges(w, [][]byte{{1, 2, 3}, {}, {4}})
	changes := w.Bytes()
	w = &wire.Writer{}
	appendKeys(w, []string{"P/1", ""})
	keys := w.Bytes()
	w = &wire.Writer{}
	appendMoment(w, []crdt.ChangeHash{})
	moment := w.Bytes()
	fuzzing.Seeds(f, func(b []byte) error { _, err := payload(b); return err },
		append([]byte{0}, hashes...), append([]byte{1}, changes...), append([]byte{2}, keys...), []byte{2, 1},
		[]byte{3, byte(reasonStep), 5}, append([]byte{4}, moment...), []byte{4, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 160, 16<<10, func() { again, err = payload(b) })
		fuzzing.Quiet(t, err)
		if errors.Is(err, errFrame) {
			return
		}
		reencodes(t, "payload", b[1:], err, func() []byte { return again })
	})
}

// payload reads what the first byte says, and writes it again.
func payload(b []byte) ([]byte, error) {
	which, b := b[0], b[1:]
	r, w := wire.NewReader(b), &wire.Writer{}
	switch which {
	case 0:
		appendHashes(w, readHashes(r))
	case 1:
		appendChanges(w, readChanges(r))
	case 2:
		appendKeys(w, readKeys(r))
	case 3:
		_, err := outcome(statusFailed, b)
		if failed, ok := errors.AsType[*failure](err); ok {
			return binary.AppendUvarint([]byte{byte(failed.reason)}, failed.at), nil
		}
		return nil, err
	case 4:
		appendMoment(w, readMoment(r))
	default:
		return nil, wire.ErrMalformed
	}
	return w.Bytes(), r.Close()
}

// FuzzPipe reads what a child that is out of its mind writes to the pipe: a hello, and frames with answers.
func FuzzPipe(f *testing.F) {
	frame := func(s status, payload ...byte) []byte {
		w := newAnswer(s, 7)
		w.Raw(payload)
		b, err := seal(w, 0)
		if err != nil {
			f.Fatal(err)
		}
		return b
	}
	read := func(b []byte) (again []byte, err error) {
		r := bytes.NewReader(b)
		if err := readHello(r); err != nil {
			return nil, err
		}
		again = hello()
		var buf []byte
		for {
			if buf, err = readFrame(r, buf, answerHead); err != nil {
				return again, err
			}
			again = append(binary.BigEndian.AppendUint32(again, uint32(len(buf))), buf...)
			if _, err := outcome(status(buf[0]), buf[answerHead:]); errors.Is(err, errFrame) {
				return again, err
			}
		}
	}
	seeds := [][]byte{hello(), append(hello(), frame(statusDone, 1, 2, 3)...),
		append(append(hello(), frame(statusNotLoaded)...), frame(statusFailed, byte(reasonApply), 0)...)}
	fuzzing.Seeds(f, func(b []byte) error {
		again, err := read(b)
		if err == io.EOF && bytes.Equal(again, b) {
			return nil
		}
		return err
	}, seeds...)
	f.Add(append(hello(), 3, 0xff, 0xff, 0xff, 1)) // a frame of 64 MB is promised
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		// The child is of the same binary: the pipe's reader takes a frame's memory at once, up to the cap.
		fuzzing.Allocates(t, len(b), 16, maxFrame+1<<20, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if !bytes.HasPrefix(b, again) {
			t.Errorf("%x was read as %x", b, again)
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
