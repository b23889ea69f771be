package logs

import (
	"chartmesh/chunk"
	"chartmesh/wire"
)

// version begins every value that this package stores (docs/spec/store-layout.md, "values").
const version = 1

// Word is what a device said of a checkpoint, and where.
type Word struct {
	OK bool
	At chunk.Place
}

// Marshal encodes the word.
func (x Word) Marshal() []byte {
	var w wire.Writer
	w.Byte(version)
	w.Bool(x.OK)
	place, _ := x.At.AppendBinary(nil)
	w.Raw(place)
	return w.Bytes()
}

// ParseWord reads what Marshal wrote.
func ParseWord(b []byte) (x Word, err error) {
	r := open(b)
	x.OK = r.Bool()
	x.At = chunk.ReadPlace(r)
	return x, r.Close()
}

// MarshalEnd encodes a log head.
func MarshalEnd(p End) []byte {
	var w wire.Writer
	w.Byte(version)
	w.Uvarint(p.Counter)
	w.Raw(p.ID[:])
	return w.Bytes()
}

// ParseEnd reads what MarshalEnd wrote.
func ParseEnd(b []byte) (p End, err error) {
	r := open(b)
	p.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(p.ID[:])
	return p, r.Close()
}

// MarshalPosition encodes a cursor, or what another device acknowledged.
func MarshalPosition(p chunk.Position) []byte {
	var w wire.Writer
	w.Byte(version)
	w.Uvarint(p.Counter)
	w.Raw(p.Tip[:])
	return w.Bytes()
}

// ParsePosition reads what MarshalPosition wrote.
func ParsePosition(b []byte) (p chunk.Position, err error) {
	r := open(b)
	p.Counter = r.Uvarint(1<<64 - 1)
	r.Fixed(p.Tip[:])
	return p, r.Close()
}

func open(b []byte) *wire.Reader {
	r := wire.NewReader(b)
	if r.Byte() != version && r.Err() == nil {
		r.Fail("record version")
	}
	return r
}
