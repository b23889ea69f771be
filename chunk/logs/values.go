package logs

import (
	"chartmesh/chunk"
	"chartmesh/trust"
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

// MarshalPlace encodes where an assent stands.
func MarshalPlace(p chunk.Place) []byte {
	b, _ := p.AppendBinary([]byte{version})
	return b
}

// ParsePlace reads what MarshalPlace wrote.
func ParsePlace(b []byte) (p chunk.Place, err error) {
	r := open(b)
	p = chunk.ReadPlace(r)
	return p, r.Close()
}

// Unsettled is a checkpoint for which nothing was deleted yet.
type Unsettled struct {
	Scope       trust.ScopeID
	At          chunk.Place
	Maker       trust.DeviceID
	NotedMillis int64 // when it came here, by this machine's clock
}

// Marshal encodes the checkpoint.
func (u Unsettled) Marshal() []byte {
	var w wire.Writer
	w.Byte(version)
	w.Raw(u.Scope[:])
	place, _ := u.At.AppendBinary(nil)
	w.Raw(place)
	w.Raw(u.Maker[:])
	w.Varint(u.NotedMillis)
	return w.Bytes()
}

// ParseUnsettled reads what Marshal wrote.
func ParseUnsettled(b []byte) (u Unsettled, err error) {
	r := open(b)
	r.Fixed(u.Scope[:])
	u.At = chunk.ReadPlace(r)
	r.Fixed(u.Maker[:])
	u.NotedMillis = r.Varint()
	return u, r.Close()
}

// Settling is how far a Set has come with what checkpoints cover.
type Settling struct {
	Deleted uint64 // chunks, since ever
	// Look is the key at which looking through what came before checkpoints were noted goes on; empty: it is done.
	Look []byte
}

// maxLook bounds Settling.Look.
const maxLook = 256

// Marshal encodes it.
func (x Settling) Marshal() []byte {
	var w wire.Writer
	w.Byte(version)
	w.Uvarint(x.Deleted)
	w.Blob(x.Look)
	return w.Bytes()
}

// ParseSettling reads what Marshal wrote.
func ParseSettling(b []byte) (x Settling, err error) {
	r := open(b)
	x.Deleted = r.Uvarint(1<<64 - 1)
	x.Look = r.Blob(maxLook)
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
