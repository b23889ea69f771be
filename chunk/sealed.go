package chunk

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"

	"chartmesh/trust"
	"chartmesh/wire"
)

var (
	// ErrUnknownAuthor says that the membership log does not (yet) say that the device, or the scope, belongs: park the
	// chunk until it does.
	ErrUnknownAuthor = errors.New("the author or scope is not known in the membership log")
	// ErrNotAllowed says that the device belongs but may not write in the scope.
	ErrNotAllowed = errors.New("the author may not write in the scope")
	// ErrBadSignature says that the chunk is not what the device signed.
	ErrBadSignature = errors.New("the chunk's signature does not verify")
	// ErrNoKey says that the key that opens the chunk is not held (yet): park it until it is.
	ErrNoKey = trust.ErrNoKey
	// ErrDamaged says that a chunk that its author signed does not open: it was sealed wrongly, or is malformed inside.
	ErrDamaged = errors.New("the chunk does not open")
	// ErrWrongLog says that the sealer's current log is not the one that a position was taken for.
	ErrWrongLog = errors.New("the log is not the sealer's current one")
	// ErrTooLarge says that a body does not fit one chunk.
	ErrTooLarge = errors.New("does not fit one chunk")
)

// Sealer is a device's private side as sealing needs it; *keyring.Keyring is one.
type Sealer interface {
	trust.Signer
	LogNonce() [16]byte
	Tag(scope trust.ScopeID, document [32]byte) ([16]byte, error)
	Salt(body, previous [32]byte) ([16]byte, error)
	SealBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, plain, aad []byte) ([]byte, error)
}

// Opener is the private side as opening needs it; *keyring.Keyring and *keyring.Recovery are.
type Opener interface {
	Tag(scope trust.ScopeID, document [32]byte) ([16]byte, error)
	OpenBody(scope trust.ScopeID, epoch trust.EpochID, secret [16]byte, info, sealed, aad []byte) ([]byte, error)
}

// Params says where in its log, and under which membership, a chunk is sealed.
type Params struct {
	Membership *trust.State // gives epoch and heads
	Scope      trust.ScopeID
	Log        LogID  // of which Counter and Previous speak; must be the sealer's current one
	Counter    uint64 // from 1
	Previous   ID     // zero at 1
	Secret     Secret // zero: none
	Dictionary uint32 // zero: none
	Fence      Fence  // zero: none
	Schema     uint16 // for bodies other than Changes, which say their own
}

// Sealed is a chunk as it is stored and sent. It never changes.
type Sealed struct {
	header Header
	id     ID
	log    LogID
	digest [32]byte // what the signature covers
	raw    []byte
	clear  []byte // the clear part
	body   int    // where the ciphertext begins
	end    int    // and ends
}

// CurrentLog returns the log that s writes.
func CurrentLog(s Sealer) LogID { return LogOf(s.Device(), s.LogNonce()) }

// Seal makes a chunk. Of a *Changes body it fills in the authorship's signatures.
func Seal(s Sealer, p Params, b Body) (Sealed, error) {
	sealed, err := seal(s, p, b)
	if err != nil {
		return Sealed{}, fmt.Errorf("seal %v chunk: %w", b.Kind(), err)
	}
	return sealed, nil
}

func seal(s Sealer, p Params, b Body) (Sealed, error) {
	h := Header{
		Algorithm: Algorithm1, Kind: b.Kind(), Scope: p.Scope, Device: s.Device(), Nonce: s.LogNonce(),
		Counter: p.Counter, Previous: p.Previous, Heads: p.Membership.HeadsHash(),
		Epoch: p.Membership.CurrentEpoch(p.Scope), Secret: p.Secret, Schema: p.Schema,
		Dictionary: p.Dictionary, Fence: p.Fence,
	}
	log := h.Log()
	if log != p.Log {
		return Sealed{}, ErrWrongLog
	}
	if !p.Membership.MayWrite(h.Device, p.Scope) {
		return Sealed{}, ErrNotAllowed
	}
	if c, ok := b.(checker); ok {
		if err := c.check(); err != nil {
			return Sealed{}, err
		}
	}
	if c, ok := b.(*Changes); ok {
		h.Schema = c.Schema
		for i := range c.Authorship {
			a := &c.Authorship[i]
			actor := ActorOf(log, c.Document, a.Branch)
			copy(a.Signature[:], s.Sign(trust.ContextAuthor, Statement(c.Document, actor, a.Seq, a.Newest)))
		}
	}
	document := b.DocumentID()
	tag, err := s.Tag(p.Scope, document)
	if err != nil {
		return Sealed{}, err
	}
	h.Tag = tag
	var plain wire.Writer
	b.append(&plain)
	if h.Salt, err = s.Salt(sha256.Sum256(plain.Bytes()), p.Previous); err != nil {
		return Sealed{}, err
	}
	packed, err := pack(plain.Bytes(), h.Dictionary)
	if err != nil {
		return Sealed{}, err
	}
	var clear wire.Writer
	if c, ok := b.(clearer); ok {
		h.Algorithm = Algorithm2
		clear.Blob(c.clear())
	}
	h.Length = len(clear.Bytes()) + len(packed) + overhead
	if h.Length > MaxChunk-maxHeader {
		return Sealed{}, ErrTooLarge
	}
	var w wire.Writer
	h.append(&w)
	w.Raw(clear.Bytes())
	head := bytes.Clone(w.Bytes())
	cipher, err := s.SealBody(h.Scope, h.Epoch, h.Secret, h.info(), packed, head)
	if err != nil {
		return Sealed{}, err
	}
	raw := make([]byte, 0, len(head)+len(cipher)+ed25519.SignatureSize)
	raw = append(append(raw, head...), cipher...)
	digest := sha256.Sum256(raw)
	raw = append(raw, s.Sign(trust.ContextChunk, digest[:])...)
	return Parse(raw)
}

// overhead is what XChaCha20-Poly1305 adds.
const overhead = 16

// info is what makes a body's key its own: no two chunks of a log share counter and salt.
func (h Header) info() []byte {
	var w wire.Writer
	log := h.Log()
	w.Raw(h.Scope[:])
	w.Raw(h.Secret[:])
	w.Raw(h.Tag[:])
	w.Raw(log[:])
	w.Uint64(h.Counter)
	w.Raw(h.Salt[:])
	return w.Bytes()
}

// Parse reads a chunk: shape and caps alone. Neither signature nor right to write are checked; see Verify. The chunk
// keeps b.
func Parse(b []byte) (Sealed, error) {
	if len(b) > MaxChunk {
		return Sealed{}, fmt.Errorf("parse chunk: %w: over %d bytes", wire.ErrMalformed, MaxChunk)
	}
	r := wire.NewReader(b)
	h, err := parseHeader(r)
	if err != nil {
		return Sealed{}, fmt.Errorf("parse chunk: %w", err)
	}
	s := Sealed{header: h, log: h.Log(), raw: b, end: len(b) - ed25519.SignatureSize}
	if h.Length < overhead || r.Len() != h.Length+ed25519.SignatureSize {
		return Sealed{}, fmt.Errorf("parse chunk: %w: length", wire.ErrMalformed)
	}
	if h.Algorithm == Algorithm2 {
		if s.clear = r.Blob(MaxClear); r.Err() != nil || r.Len() < overhead+ed25519.SignatureSize {
			return Sealed{}, fmt.Errorf("parse chunk: %w: clear part", wire.ErrMalformed)
		}
	}
	s.body = len(b) - r.Len()
	sum := sha256.New()
	sum.Write(b[:len(b)-ed25519.SignatureSize])
	sum.Sum(s.digest[:0])
	sum.Write(b[len(b)-ed25519.SignatureSize:])
	sum.Sum(s.id[:0])
	return s, nil
}

// ID returns the hash of the whole chunk.
func (s Sealed) ID() ID { return s.id }

// Log returns the log that the chunk stands in.
func (s Sealed) Log() LogID { return s.log }

// Header returns the clear part.
func (s Sealed) Header() Header { return s.header }

// Covers returns what a CHECKPOINT covers, or what an order erases, for which no key is needed.
func (s Sealed) Covers() (Covers, error) {
	switch {
	case s.header.Kind == KindCheckpoint && s.header.Algorithm == Algorithm2:
		return parseCovers(s.clear)
	case s.header.Kind == KindTombstone:
		return parseOrder(s.clear)
	}
	return nil, fmt.Errorf("%v is no checkpoint that this version knows: %w", s, ErrNewer)
}

// Verdict returns which checkpoint a COVER is about and whether it finds it good, for which no key is needed.
func (s Sealed) Verdict() (on Place, good bool, err error) {
	if s.header.Kind != KindCover || s.header.Algorithm != Algorithm2 {
		return Place{}, false, fmt.Errorf("%v is no word that this version knows: %w", s, ErrNewer)
	}
	c, err := parseVerdict(s.clear)
	return c.Checkpoint, c.OK, err
}

// IsErasure reports whether the chunk orders an erasure, in a form that this version knows.
func (s Sealed) IsErasure() bool {
	return s.header.Kind == KindTombstone && isForm(s.clear, formErasure) == nil
}

// Assent returns which order an assent agrees to, and with what: what it says in clear, for which no key is needed. ErrNewer if it is none.
func (s Sealed) Assent() (Assent, error) {
	if s.header.Kind != KindTombstone {
		return Assent{}, fmt.Errorf("%v is no assent: %w", s, ErrNewer)
	}
	return parseAssent(s.clear)
}

// Place returns where the chunk stands.
func (s Sealed) Place() Place { return Place{s.log, s.header.Counter, s.id} }

// LogKey returns what the ID of its log is made of.
func (s Sealed) LogKey() LogKey { return LogKey{s.header.Device, s.header.Nonce} }

// Bytes returns the chunk as it is stored and sent; the caller may not change them.
func (s Sealed) Bytes() []byte { return s.raw }

// Position returns where its log stands when the chunk is its last.
func (s Sealed) Position() Position { return At(s.header.Counter, s.id) }

// Follows reports whether the chunk comes right after the one at counter with ID previous (zeros: it is the first).
func (s Sealed) Follows(previous ID, counter uint64) bool {
	return s.header.Counter == counter+1 && s.header.Previous == previous
}

// Verify checks author, right and signature: ErrUnknownAuthor, ErrNotAllowed or ErrBadSignature. No key is needed. That
// the chunk follows its predecessor, and whether it comes after the cut of a device that was removed, is for the caller, who
// holds the log, to check.
func (s Sealed) Verify(st *trust.State) error {
	h := &s.header
	// Signature first: what is not the device's own says nothing about the device.
	if !trust.VerifySignature(h.Device, trust.ContextChunk, s.digest[:], s.raw[len(s.raw)-ed25519.SignatureSize:]) {
		return fmt.Errorf("verify chunk %v: %w", s.id, ErrBadSignature)
	}
	right, _ := st.Right(h.Device, h.Scope)
	switch {
	case right == trust.RightNow || right == trust.RightUntil:
		return nil
	case right == trust.RightUnknown || len(st.Unknown()) != 0:
		// An entry that is on the way, or a newer version's, may give the right.
		return fmt.Errorf("verify chunk %v of device %v: %w", s.id, h.Device, ErrUnknownAuthor)
	}
	return fmt.Errorf("verify chunk %v of device %v: %w", s.id, h.Device, ErrNotAllowed)
}

// Open decrypts a chunk that has been verified: ErrNoKey (park it), ErrNewer (park it until an upgrade), or ErrDamaged.
// A body shares no memory with the chunk.
func Open(o Opener, s Sealed) (Body, error) {
	b, err := s.open(o)
	if err != nil {
		return nil, fmt.Errorf("open chunk %v: %w", s.id, err)
	}
	return b, nil
}

func (s Sealed) open(o Opener) (Body, error) {
	h := &s.header
	if h.Algorithm != Algorithm1 && h.Algorithm != Algorithm2 {
		return nil, fmt.Errorf("algorithm %d: %w", h.Algorithm, ErrNewer)
	}
	if _, err := codecOf(h.Dictionary); err != nil {
		return nil, err
	}
	head, cipher := s.raw[:s.body], s.raw[s.body:s.end]
	packed, err := o.OpenBody(h.Scope, h.Epoch, h.Secret, h.info(), cipher, head)
	switch {
	case errors.Is(err, trust.ErrSealBroken):
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return nil, err
	}
	plain, err := unpack(packed, h.Dictionary)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	b, err := parseBody(h.Kind, plain, s.clear)
	if errors.Is(err, ErrNewer) {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	_, clears := b.(clearer)
	if _, opaque := b.(*Opaque); !opaque && clears != (h.Algorithm == Algorithm2) {
		return nil, fmt.Errorf("%w: its algorithm is not for its kind", ErrDamaged)
	}
	tag, err := o.Tag(h.Scope, b.DocumentID())
	if err != nil {
		return nil, err
	}
	if tag != h.Tag {
		return nil, fmt.Errorf("%w: its tag is another document's", ErrDamaged)
	}
	if c, ok := b.(*Checkpoint); ok {
		if err := c.verify(); err != nil {
			return nil, err
		}
	}
	if c, ok := b.(*Changes); ok {
		c.Schema = h.Schema
		for _, a := range c.Authorship {
			actor := ActorOf(s.log, c.Document, a.Branch)
			statement := Statement(c.Document, actor, a.Seq, a.Newest)
			if !trust.VerifySignature(h.Device, trust.ContextAuthor, statement, a.Signature[:]) {
				return nil, fmt.Errorf("%w: an authorship is not its author's", ErrDamaged)
			}
		}
	}
	return b, nil
}

// String names the chunk.
func (s Sealed) String() string { return fmt.Sprintf("chunk %v", s.id) }

// LogValue logs IDs alone.
func (s Sealed) LogValue() slog.Value {
	return slog.GroupValue(slog.String("id", s.id.String()), slog.String("log", s.log.String()),
		slog.Uint64("counter", s.header.Counter))
}

// LogValue logs the document's ID alone: all else may name a patient or a user.
func (c *Changes) LogValue() slog.Value { return slog.StringValue(c.String()) }

// String names the document alone.
func (c *Changes) String() string {
	return fmt.Sprintf("%d changes of document %x", len(c.Changes), c.Document[:8])
}

// Format prints what String returns, whatever the verb.
func (c *Changes) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// Format prints kind and document alone.
func (o *Opaque) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "%v of document %x", o.Type, o.Document[:8])
}
