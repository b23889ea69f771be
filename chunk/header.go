package chunk

import (
	"bytes"
	"errors"
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

var magic = []byte{'c', 'm', 'c', 1}

// Algorithm1 is zstd, PADMÉ, HKDF-SHA256 and XChaCha20-Poly1305. What an algorithm means concerns bodies alone; links,
// IDs and signatures belong to the version.
const Algorithm1 = 1

// Algorithm2 is Algorithm1 with a clear part before the ciphertext, authenticated with it: what who holds no key must know.
const Algorithm2 = 2

const (
	flagSecret     = 1 << 0
	flagDictionary = 1 << 1
	flagFence      = 1 << 2
	flagsKnown     = flagSecret | flagDictionary | flagFence
)

// Fence is the token of a lease under which a chunk was written; it only grows. Zero: none.
type Fence struct{ Epoch, Index uint64 }

// Header is the clear part of a chunk. It is authenticated with the body and signed.
type Header struct {
	Algorithm  uint8
	Kind       Kind
	Scope      trust.ScopeID
	Tag        Tag
	Device     trust.DeviceID
	Nonce      [16]byte // with Device makes the log's ID
	Counter    uint64   // position in the log, from 1
	Previous   ID       // zero at 1
	Heads      [32]byte // hash of the membership heads that the author saw
	Epoch      trust.EpochID
	Secret     Secret // zero: none
	Schema     uint16
	Dictionary uint32 // zero: none
	Fence      Fence  // zero: none
	Salt       [16]byte
	Length     int // of the clear part, if there is one, and the ciphertext
}

// ErrNewer says that a chunk needs a newer version of this program: keep it, pass it on, and try again after an upgrade.
var ErrNewer = errors.New("needs a newer version")

// Log returns the ID of the log that the chunk stands in.
func (h Header) Log() LogID { return LogOf(h.Device, h.Nonce) }

func (h Header) append(w *wire.Writer) {
	var flags byte
	if h.Secret != (Secret{}) {
		flags |= flagSecret
	}
	if h.Dictionary != 0 {
		flags |= flagDictionary
	}
	if h.Fence != (Fence{}) {
		flags |= flagFence
	}
	w.Raw(magic)
	w.Byte(h.Algorithm)
	w.Byte(byte(h.Kind))
	w.Byte(flags)
	w.Raw(h.Scope[:])
	w.Raw(h.Tag[:])
	w.Raw(h.Device[:])
	w.Raw(h.Nonce[:])
	w.Uvarint(h.Counter)
	w.Raw(h.Previous[:])
	w.Raw(h.Heads[:])
	w.Raw(h.Epoch[:])
	if flags&flagSecret != 0 {
		w.Raw(h.Secret[:])
	}
	w.Uvarint(uint64(h.Schema))
	if flags&flagDictionary != 0 {
		w.Uvarint(uint64(h.Dictionary))
	}
	if flags&flagFence != 0 {
		w.Uvarint(h.Fence.Epoch)
		w.Uvarint(h.Fence.Index)
	}
	w.Raw(h.Salt[:])
	w.Uvarint(uint64(h.Length))
}

func parseHeader(r *wire.Reader) (Header, error) {
	var h Header
	if m := r.Raw(len(magic)); m != nil && bytes.Equal(m[:3], magic[:3]) && m[3] > magic[3] {
		return h, fmt.Errorf("chunk version %d: %w", m[3], ErrNewer)
	} else if !bytes.Equal(m, magic) {
		r.Fail("magic")
	}
	if h.Algorithm = r.Byte(); h.Algorithm == 0 {
		r.Fail("algorithm")
	}
	if h.Kind = Kind(r.Byte()); h.Kind == 0 {
		r.Fail("kind")
	}
	flags := r.Byte()
	if flags&^flagsKnown != 0 {
		r.Fail("flags")
	}
	r.Fixed(h.Scope[:])
	r.Fixed(h.Tag[:])
	r.Fixed(h.Device[:])
	r.Fixed(h.Nonce[:])
	h.Counter = r.Uvarint(1<<63 - 1)
	r.Fixed(h.Previous[:])
	if h.Counter == 0 || (h.Counter == 1) != (h.Previous == ID{}) {
		r.Fail("counter and previous chunk")
	}
	r.Fixed(h.Heads[:])
	r.Fixed(h.Epoch[:])
	if flags&flagSecret != 0 {
		r.Fixed(h.Secret[:])
		if h.Secret == (Secret{}) {
			r.Fail("document secret")
		}
	}
	h.Schema = uint16(r.Uvarint(MaxSchema))
	if flags&flagDictionary != 0 {
		if h.Dictionary = uint32(r.Uvarint(1<<32 - 1)); h.Dictionary == 0 {
			r.Fail("dictionary")
		}
	}
	if flags&flagFence != 0 {
		h.Fence.Epoch = r.Uvarint(1<<63 - 1)
		h.Fence.Index = r.Uvarint(1<<63 - 1)
		if h.Fence == (Fence{}) {
			r.Fail("fence")
		}
	}
	r.Fixed(h.Salt[:])
	h.Length = int(r.Uvarint(MaxChunk))
	return h, r.Err()
}
