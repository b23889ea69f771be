package wire_test

import (
	"bytes"
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/wire"
)

// fields reads what script says of data, and writes it again.
func fields(script, data []byte) (again []byte, err error) {
	r := wire.NewReader(data)
	var w wire.Writer
	for _, op := range script {
		before := r.Len()
		switch op % 9 {
		case 0:
			w.Byte(r.Byte())
		case 1:
			w.Uint16(r.Uint16())
		case 2:
			w.Uint64(r.Uint64())
		case 3:
			w.Uvarint(r.Uvarint(1<<64 - 1))
		case 4:
			w.Varint(r.Varint())
		case 5:
			w.Blob(r.Blob(1 << 40))
		case 6:
			w.String(r.String(1 << 40))
		case 7:
			w.Raw(r.Raw(int(op)))
		case 8:
			dst := make([]byte, op/9)
			r.Fixed(dst)
			w.Raw(dst)
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
		if r.Len() > before {
			return nil, errors.New("the reader grew")
		}
	}
	return w.Bytes(), r.Close()
}

// FuzzReader takes fields off arbitrary bytes, in an order that is arbitrary too: what is read is written as it was.
func FuzzReader(f *testing.F) {
	var w wire.Writer
	w.Byte(1)
	w.Uint16(2)
	w.Uint64(1 << 60)
	w.Uvarint(1 << 40)
	w.Varint(-300)
	w.Blob([]byte(fuzzing.Canary))
	w.String(fuzzing.Canary)
	w.Raw(make([]byte, 16))
	w.Raw([]byte{9})
	script := []byte{0, 1, 2, 3, 4, 5, 6, 16, 17}
	if again, err := fields(script, w.Bytes()); err != nil || !bytes.Equal(again, w.Bytes()) {
		f.Fatalf("the seed is not read: %v", err)
	}
	f.Add(script, w.Bytes())
	f.Add([]byte{5}, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 1})
	f.Add([]byte{3}, []byte{0x80, 0x00})
	f.Fuzz(func(t *testing.T, script, data []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(data)+len(script), 300, 4<<10, func() { again, err = fields(script, data) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%x by %x: %v", data, script, err)
		case err == nil && !bytes.Equal(again, data):
			t.Errorf("%x by %x was written again as %x", data, script, again)
		}
	})
}

// TestReaderRefuses names what a reader must not take: every number has one form, and no length is believed.
func TestReaderRefuses(t *testing.T) {
	for name, read := range map[string]func(*wire.Reader){
		"\x80\x00":                                 func(r *wire.Reader) { r.Uvarint(1 << 20) },
		"\x05":                                     func(r *wire.Reader) { r.Uvarint(4) },
		"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff": func(r *wire.Reader) { r.Uvarint(1<<64 - 1) },
		"\x80\x80\x00":                             func(r *wire.Reader) { r.Varint() },
		"\x03ab":                                   func(r *wire.Reader) { r.Blob(10) },
		"\x02ab":                                   func(r *wire.Reader) { r.Blob(1) },
		"a":                                        func(r *wire.Reader) { r.Raw(-1) },
		"ab":                                       func(r *wire.Reader) { r.Byte() },
		"":                                         func(r *wire.Reader) { r.Uint64() },
	} {
		r := wire.NewReader([]byte(name))
		read(r)
		if err := r.Close(); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%x: %v", name, err)
		}
		if r.Byte() != 0 || r.Uvarint(9) != 0 || r.Varint() != 0 || r.Raw(1) != nil {
			t.Errorf("%x: something is read behind an error", name)
		}
	}
}
