package session

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Kinds of frames. The first byte of a frame.
const (
	kindHello   = 1
	kindEntries = 2
	kindVector  = 3
	kindChunks  = 4
	kindAck     = 5
	kindPing    = 6
	kindPong    = 7
	kindBye     = 8

	kindBranches = 64 // of the reserved ones, so that a peer of the first version ignores it

	// Kinds from here to kindReservedLast may be added by later minor versions; a peer that does not know one ignores
	// it. Any other unknown kind is malformed.
	kindReservedFirst = 64
	kindReservedLast  = 127
)

// Flags. Unknown ones are ignored.
const (
	helloFirst = 1 << 0 // nothing was said before in this session: forget what you thought was on the way
	helloAsk   = 1 << 1 // answer with a HELLO
	helloFull  = 1 << 2 // the sender stores nothing until there is room, on its disk
	helloShare = 1 << 3 // or in the practice's share of it; beside helloFull, which older versions know

	chunksBranch = 1 << 0 // of a branch: the sender's vector and the receiver's differ below these
	chunksDigest = 1 << 1 // the sender's digest follows: these were the last of the scope
	chunksLoose  = 1 << 2 // checkpoints and words out of their turn: they say nothing of how far the sender holds their logs

	vectorWait = 1 << 0 // do not send chunks of this scope until the next VECTOR: another peer does

	digestAtEnd = 1 << 0
)

// magic opens every HELLO; the byte after it is the layout's version.
var magic = [4]byte{'c', 'm', 's', 'y'}

const helloLayout = 1

// ErrUnknownKind says that a frame is of a kind that a later version may have added; it is to be ignored.
var errUnknownKind = errors.New("unknown kind of frame")

// maxHop ends the count of hops. A frame's hop is one more than the highest that its sender has received: a HELLO is the
// first. It only tells how many round trips agreement took; after that frames say 0.
const maxHop = 1 << 16

type hello struct {
	flags      byte
	protocol   Range
	schema     Range
	version    string
	clock      int64 // Unix microseconds
	practice   trust.EntryID
	headsHash  [32]byte
	heads      []trust.EntryID // ascending, distinct
	sent, seen uint64          // numbers of CHUNKS frames: the last sent, the last seen
	scopes     []wireDigest    // ascending, distinct
	extra      []extra         // ascending, distinct
}

// extra is a field of HELLO that later versions brought.
type extra struct {
	number uint64
	value  []byte
}

// Numbers of such fields. Others are of versions later still, and ignored.
const extraCarried = 1

// carried is what the sender carries of the practice's quorum; empty: nothing, or it is of before.
func (h *hello) carried() []byte {
	for _, e := range h.extra {
		if e.number == extraCarried {
			return e.value
		}
	}
	return nil
}

func (h *hello) setCarried(b []byte) {
	if len(b) > 0 {
		h.extra = append(h.extra, extra{extraCarried, b})
	}
}

// full says why the sender stores nothing.
func (h *hello) full() Full {
	switch {
	case h.flags&helloFull == 0:
		return NotFull
	case h.flags&helloShare != 0:
		return UsedUp
	}
	return DiskFull
}

func (h *hello) setFull(f Full) {
	switch f {
	case DiskFull:
		h.flags |= helloFull
	case UsedUp:
		h.flags |= helloFull | helloShare
	}
}

type wireDigest struct {
	scope trust.ScopeID
	digest
}

// digest is Digest with the flags as they came.
type digest struct {
	flags      byte
	vectorHash [32]byte
	applied    [32]byte
}

func (d Digest) wire() digest {
	w := digest{vectorHash: d.VectorHash, applied: d.Applied}
	if d.AtEnd {
		w.flags = digestAtEnd
	}
	return w
}

func (d digest) plain() Digest {
	return Digest{VectorHash: d.vectorHash, Applied: d.applied, AtEnd: d.flags&digestAtEnd != 0}
}

func (d digest) write(w *wire.Writer) {
	w.Byte(d.flags)
	w.Raw(d.vectorHash[:])
	w.Raw(d.applied[:])
}

func (d *digest) read(r *wire.Reader) {
	d.flags = r.Byte()
	r.Fixed(d.vectorHash[:])
	r.Fixed(d.applied[:])
}

func (v Range) write(w *wire.Writer) { w.Uint16(v.Min); w.Uint16(v.Max) }

func (v *Range) read(r *wire.Reader) {
	v.Min, v.Max = r.Uint16(), r.Uint16()
	if v.Min > v.Max {
		r.Fail("version range")
	}
}

func (h *hello) encode() Frame {
	var w wire.Writer
	w.Byte(kindHello)
	w.Raw(magic[:])
	w.Byte(helloLayout)
	w.Byte(h.flags)
	h.protocol.write(&w)
	h.schema.write(&w)
	w.String(h.version)
	w.Uint64(uint64(h.clock))
	w.Raw(h.practice[:])
	w.Raw(h.headsHash[:])
	w.Uvarint(uint64(len(h.heads)))
	for _, id := range h.heads {
		w.Raw(id[:])
	}
	w.Uvarint(h.sent)
	w.Uvarint(h.seen)
	w.Uvarint(uint64(len(h.scopes)))
	for _, d := range h.scopes {
		w.Raw(d.scope[:])
		d.write(&w)
	}
	var later wire.Writer
	for _, e := range h.extra {
		later.Uvarint(e.number)
		later.Blob(e.value)
	}
	w.Blob(later.Bytes())
	return w.Bytes()
}

func (h *hello) decode(r *wire.Reader) {
	var m [4]byte
	if r.Fixed(m[:]); m != magic {
		r.Fail("magic")
	}
	if r.Byte() != helloLayout {
		r.Fail("layout of HELLO")
	}
	h.flags = r.Byte()
	h.protocol.read(r)
	h.schema.read(r)
	h.version = r.String(MaxVersion)
	h.clock = int64(r.Uint64())
	r.Fixed(h.practice[:])
	r.Fixed(h.headsHash[:])
	for i := range int(r.Uvarint(MaxHeads)) {
		if r.Err() != nil {
			return
		}
		var id trust.EntryID
		r.Fixed(id[:])
		if i > 0 && bytes.Compare(h.heads[i-1][:], id[:]) >= 0 {
			r.Fail("order of heads")
		}
		h.heads = append(h.heads, id)
	}
	h.sent, h.seen = r.Uvarint(1<<63), r.Uvarint(1<<63)
	for i := range int(r.Uvarint(MaxScopes)) {
		if r.Err() != nil {
			return
		}
		var d wireDigest
		r.Fixed(d.scope[:])
		d.read(r)
		if i > 0 && bytes.Compare(h.scopes[i-1].scope[:], d.scope[:]) >= 0 {
			r.Fail("order of scopes")
		}
		h.scopes = append(h.scopes, d)
	}
	later := wire.NewReader(r.Blob(MaxExtra))
	for r.Err() == nil && later.Err() == nil && later.Len() > 0 {
		e := extra{number: later.Uvarint(1<<63 - 1), value: later.Blob(MaxExtra)}
		if n := len(h.extra); n > 0 && h.extra[n-1].number >= e.number || e.number == extraCarried && (len(e.value) == 0 || len(e.value) > MaxCarried) {
			later.Fail("field")
		}
		h.extra = append(h.extra, e)
	}
	if later.Err() != nil {
		r.Fail("fields of later versions")
	}
}

type entries struct {
	hop     uint64
	entries [][]byte
}

func (m *entries) encode() Frame {
	var w wire.Writer
	w.Byte(kindEntries)
	w.Uvarint(m.hop)
	w.Uvarint(uint64(len(m.entries)))
	for _, e := range m.entries {
		w.Blob(e)
	}
	return w.Bytes()
}

func (m *entries) decode(r *wire.Reader) {
	m.hop = r.Uvarint(maxHop)
	m.entries = readBlobs(r, MaxEntriesPerFrame, MaxEntry)
}

// readBlobs takes a list of at least one non-empty byte string.
func readBlobs(r *wire.Reader, most, size int) [][]byte {
	n := r.Uvarint(uint64(most))
	if n == 0 || n > uint64(r.Len()) {
		r.Fail("length of a list")
		return nil
	}
	list := make([][]byte, 0, n)
	for range n {
		b := r.Blob(size)
		if len(b) == 0 {
			r.Fail("empty element")
			return nil
		}
		list = append(list, b)
	}
	return list
}

type vector struct {
	hop    uint64
	scope  trust.ScopeID
	flags  byte
	seen   uint64
	vector chunk.Vector
}

func (m *vector) encode() Frame {
	var w wire.Writer
	w.Byte(kindVector)
	w.Uvarint(m.hop)
	w.Raw(m.scope[:])
	w.Byte(m.flags)
	w.Uvarint(m.seen)
	writeVector(&w, m.vector)
	return w.Bytes()
}

func (m *vector) decode(r *wire.Reader) {
	m.hop = r.Uvarint(maxHop)
	r.Fixed(m.scope[:])
	m.flags = r.Byte()
	m.seen = r.Uvarint(1 << 63)
	m.vector = readVector(r)
}

// writeVector appends a vector of at most chunk.MaxLogs logs: look takes no more from the replica.
func writeVector(w *wire.Writer, v chunk.Vector) {
	b, err := v.AppendBinary(nil)
	if err != nil {
		panic("session: " + err.Error())
	}
	w.Blob(b)
}

func readVector(r *wire.Reader) chunk.Vector {
	b := r.Blob(MaxFrame)
	if r.Err() != nil {
		return nil
	}
	v, err := chunk.ParseVector(b)
	if err != nil {
		r.Fail("vector")
	}
	return v
}

type chunks struct {
	hop    uint64
	scope  trust.ScopeID
	seq    uint64 // numbers the frames of a session, from 1
	flags  byte
	digest digest // if flags has chunksDigest
	chunks [][]byte
}

func (m *chunks) encode() Frame {
	var w wire.Writer
	w.Byte(kindChunks)
	w.Uvarint(m.hop)
	w.Raw(m.scope[:])
	w.Uvarint(m.seq)
	w.Byte(m.flags)
	if m.flags&chunksDigest != 0 {
		m.digest.write(&w)
	}
	w.Uvarint(uint64(len(m.chunks)))
	size := len(w.Bytes())
	for _, c := range m.chunks {
		size += len(c) + binary.MaxVarintLen32
	}
	f := append(make(Frame, 0, size), w.Bytes()...)
	for _, c := range m.chunks {
		f = append(binary.AppendUvarint(f, uint64(len(c))), c...)
	}
	return f
}

func (m *chunks) decode(r *wire.Reader) {
	m.hop = r.Uvarint(maxHop)
	r.Fixed(m.scope[:])
	if m.seq = r.Uvarint(1 << 63); m.seq == 0 {
		r.Fail("number of a frame")
	}
	m.flags = r.Byte()
	if m.flags&chunksDigest != 0 {
		m.digest.read(r)
	}
	m.chunks = readBlobs(r, MaxChunksPerFrame, MaxChunk)
}

type ack struct {
	hop  uint64
	seen uint64
	// what is signed, with the practice before it
	scope     trust.ScopeID
	time      int64 // Unix milliseconds
	digest    digest
	stored    chunk.Vector
	signature [SignatureSize]byte
}

// ackContext opens the message that an ACK's signature covers; the practice and the ACK's own bytes follow.
const ackContext = "chartmesh ack 1"

func (m *ack) body(w *wire.Writer) {
	w.Raw(m.scope[:])
	w.Uint64(uint64(m.time))
	m.digest.write(w)
	writeVector(w, m.stored)
}

// message is what the signature covers.
func (m *ack) message(practice trust.EntryID) []byte {
	var w wire.Writer
	w.Raw([]byte(ackContext))
	w.Raw(practice[:])
	m.body(&w)
	return w.Bytes()
}

func (m *ack) encode() Frame {
	var w wire.Writer
	w.Byte(kindAck)
	w.Uvarint(m.hop)
	w.Uvarint(m.seen)
	m.body(&w)
	w.Raw(m.signature[:])
	return w.Bytes()
}

func (m *ack) decode(r *wire.Reader) {
	m.hop = r.Uvarint(maxHop)
	m.seen = r.Uvarint(1 << 63)
	r.Fixed(m.scope[:])
	m.time = int64(r.Uint64())
	m.digest.read(r)
	m.stored = readVector(r)
	r.Fixed(m.signature[:])
}

type ping struct{ nonce uint64 }

func (m *ping) encode() Frame {
	var w wire.Writer
	w.Byte(kindPing)
	w.Uint64(m.nonce)
	return w.Bytes()
}

func (m *ping) decode(r *wire.Reader) { m.nonce = r.Uint64() }

type pong struct {
	nonce uint64
	clock int64 // Unix microseconds
}

func (m *pong) encode() Frame {
	var w wire.Writer
	w.Byte(kindPong)
	w.Uint64(m.nonce)
	w.Uint64(uint64(m.clock))
	return w.Bytes()
}

func (m *pong) decode(r *wire.Reader) { m.nonce, m.clock = r.Uint64(), int64(r.Uint64()) }

// Reason says why a session was ended. The numbers are sent.
type Reason uint8

const (
	ReasonClosing       Reason = 1 // the device goes offline or shuts down
	ReasonIncompatible  Reason = 2 // no version in common
	ReasonWrongPractice Reason = 3
	ReasonMalformed     Reason = 4
	ReasonFlood         Reason = 5
	ReasonNotAdmitted   Reason = 6
	ReasonReplaced      Reason = 7  // another stream took over
	ReasonFailed        Reason = 8  // this device cannot store
	ReasonCrowded       Reason = 9  // as many devices of the practice are connected as this one admits
	ReasonDropped       Reason = 10 // the anchor lets the practice go, and deletes what it holds of it
)

func (r Reason) String() string {
	switch r {
	case ReasonClosing:
		return "closing"
	case ReasonIncompatible:
		return "no version in common"
	case ReasonWrongPractice:
		return "another practice"
	case ReasonMalformed:
		return "malformed frame"
	case ReasonFlood:
		return "too many frames"
	case ReasonNotAdmitted:
		return "not a member"
	case ReasonReplaced:
		return "replaced by another stream"
	case ReasonFailed:
		return "cannot store"
	case ReasonCrowded:
		return "as many devices of the practice are connected as it admits"
	case ReasonDropped:
		return "it holds nothing of the practice any more"
	}
	return fmt.Sprintf("reason %d", uint8(r))
}

type bye struct {
	reason   Reason
	protocol Range
	schema   Range
	version  string
}

func (m *bye) encode() Frame {
	var w wire.Writer
	w.Byte(kindBye)
	w.Byte(byte(m.reason))
	m.protocol.write(&w)
	m.schema.write(&w)
	w.String(m.version)
	return w.Bytes()
}

func (m *bye) decode(r *wire.Reader) {
	m.reason = Reason(r.Byte())
	m.protocol.read(r)
	m.schema.read(r)
	m.version = r.String(MaxVersion)
}

type message interface {
	encode() Frame
	decode(*wire.Reader)
}

// decode reads a frame. errUnknownKind means that it is to be ignored; every other error wraps wire.ErrMalformed.
func decode(f Frame) (message, error) {
	if len(f) > MaxFrame {
		return nil, fmt.Errorf("%w: frame over its limit", wire.ErrMalformed)
	}
	r := wire.NewReader(f)
	kind := r.Byte()
	var m message
	switch {
	case r.Err() != nil:
		return nil, r.Err()
	case kind == kindHello:
		m = new(hello)
	case kind == kindEntries:
		m = new(entries)
	case kind == kindVector:
		m = new(vector)
	case kind == kindChunks:
		m = new(chunks)
	case kind == kindAck:
		m = new(ack)
	case kind == kindPing:
		m = new(ping)
	case kind == kindPong:
		m = new(pong)
	case kind == kindBye:
		m = new(bye)
	case kind == kindBranches:
		m = new(branches)
	case kind >= kindReservedFirst && kind <= kindReservedLast:
		return nil, errUnknownKind
	default:
		return nil, fmt.Errorf("%w: kind of frame %d", wire.ErrMalformed, kind)
	}
	m.decode(r)
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("frame of kind %d: %w", kind, err)
	}
	return m, nil
}

// sortedHeads returns at most MaxHeads of the heads, ascending and distinct, and the hash of all of them.
func sortedHeads(heads []trust.EntryID) ([]trust.EntryID, [32]byte) {
	heads = slices.Clone(heads)
	slices.SortFunc(heads, func(a, b trust.EntryID) int { return bytes.Compare(a[:], b[:]) })
	heads = slices.Compact(heads)
	hash := headsHash(heads)
	return heads[:min(len(heads), MaxHeads)], hash
}
