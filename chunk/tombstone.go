package chunk

import (
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

// A document is erased by two TOMBSTONE chunks: an administrator's order, which names the chunks that go, and the assent of somebody else who may say so
// (docs/spec/erasure.md). Neither goes itself.

// Forms of a TOMBSTONE's clear part. The numbers are part of the format.
const (
	formErasure byte = 1
	formAssent  byte = 2
)

// tombstoneVersion is the version of what is sealed in a TOMBSTONE.
const tombstoneVersion = 1

// Erasure is the body of a TOMBSTONE chunk that orders a document to be erased: the chunks that go, as they stand in their logs.
type Erasure struct {
	Document   [32]byte
	Covers     Covers // in clear, so that who holds no key knows what goes; never empty
	TimeMillis int64  // by the clock of who orders it, for display alone
	User       string // who orders it, as the local application names them
	Reason     string // why, in their words; it is kept for ever
}

// Kind returns KindTombstone.
func (*Erasure) Kind() Kind { return KindTombstone }

// DocumentID returns the document.
func (e *Erasure) DocumentID() [32]byte { return e.Document }

func (e *Erasure) clear() []byte {
	var w wire.Writer
	w.Byte(formErasure)
	e.Covers.append(&w)
	return w.Bytes()
}

func (e *Erasure) append(w *wire.Writer) {
	w.Raw(e.Document[:])
	w.Uvarint(tombstoneVersion)
	w.Varint(e.TimeMillis)
	w.String(e.User)
	w.String(e.Reason)
}

func (e *Erasure) check() error {
	switch {
	case len(e.Covers) == 0:
		return fmt.Errorf("%w: tombstone: it erases nothing", wire.ErrMalformed)
	case len(e.User) > MaxAuthor || len(e.Reason) > MaxReason || !plain(e.User) || !plain(e.Reason):
		return fmt.Errorf("%w: tombstone: user or reason", wire.ErrMalformed)
	}
	return e.Covers.check()
}

// String names the document alone.
func (e *Erasure) String() string {
	return fmt.Sprintf("erasure of %d chunks of document %x", e.Covers.Len(), e.Document[:8])
}

// Format prints what String returns, whatever the verb.
func (e *Erasure) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(e.String())) }

// Assent is the body of a TOMBSTONE chunk that agrees to an order: another administrator's, or anybody's with the signature of the practice's root key.
type Assent struct {
	Document   [32]byte
	Erasure    Place // the order; in clear
	Root       RootWord
	TimeMillis int64
	User       string
}

// RootWord is the root key's agreement to an order, in clear; zero: none.
type RootWord struct {
	Root      trust.DeviceID
	Signature [64]byte
}

// Verify reports whether the root key that is named agreed to an order.
func (w RootWord) Verify(order ID) bool {
	return w != (RootWord{}) && trust.VerifySignature(w.Root, trust.ContextErasure, order[:], w.Signature[:])
}

// Kind returns KindTombstone.
func (*Assent) Kind() Kind { return KindTombstone }

// DocumentID returns the document.
func (a *Assent) DocumentID() [32]byte { return a.Document }

func (a *Assent) clear() []byte {
	var w wire.Writer
	w.Byte(formAssent)
	a.Erasure.append(&w)
	w.Bool(a.Root != RootWord{})
	if a.Root != (RootWord{}) {
		w.Raw(a.Root.Root[:])
		w.Raw(a.Root.Signature[:])
	}
	return w.Bytes()
}

func (a *Assent) append(w *wire.Writer) {
	w.Raw(a.Document[:])
	w.Uvarint(tombstoneVersion)
	w.Varint(a.TimeMillis)
	w.String(a.User)
}

func (a *Assent) check() error {
	if len(a.User) > MaxAuthor || !plain(a.User) {
		return fmt.Errorf("%w: tombstone: user", wire.ErrMalformed)
	}
	return nil
}

// String names the order alone.
func (a *Assent) String() string { return fmt.Sprintf("assent to erasure %v", a.Erasure.ID) }

// Format prints what String returns, whatever the verb.
func (a *Assent) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(a.String())) }

// parseOrder reads what an order says in clear, and parseAssent what an assent does. ErrNewer for another form.
func parseOrder(clear []byte) (Covers, error) {
	if err := isForm(clear, formErasure); err != nil {
		return nil, err
	}
	covers, err := parseCovers(clear[1:])
	if err == nil && len(covers) == 0 {
		err = fmt.Errorf("%w: tombstone: it erases nothing", wire.ErrMalformed)
	}
	return covers, err
}

func parseAssent(clear []byte) (a Assent, err error) {
	if err := isForm(clear, formAssent); err != nil {
		return a, err
	}
	r := wire.NewReader(clear[1:])
	a.Erasure.read(r)
	if r.Bool() {
		r.Fixed(a.Root.Root[:])
		r.Fixed(a.Root.Signature[:])
		if a.Root == (RootWord{}) {
			r.Fail("root key")
		}
	}
	if err := r.Close(); err != nil {
		return Assent{}, fmt.Errorf("assent: %w", err)
	}
	return a, nil
}

func isForm(clear []byte, form byte) error {
	if len(clear) == 0 || clear[0] != form {
		return fmt.Errorf("tombstone of another form: %w", ErrNewer)
	}
	return nil
}

func parseTombstone(b, clear []byte) (Body, error) {
	r := wire.NewReader(b)
	var document [32]byte
	r.Fixed(document[:])
	if version := r.Uvarint(1<<32 - 1); r.Err() == nil && version == 0 {
		r.Fail("tombstone: version")
	} else if r.Err() == nil && version > tombstoneVersion {
		return nil, fmt.Errorf("%v version %d: %w", KindTombstone, version, ErrNewer)
	}
	millis, user := r.Varint(), r.String(MaxAuthor)
	if isForm(clear, formAssent) == nil {
		a, err := parseAssent(clear)
		if err == nil {
			err = r.Close()
		}
		if err != nil {
			return nil, err
		}
		a.Document, a.TimeMillis, a.User = document, millis, user
		return &a, a.check()
	}
	covers, err := parseOrder(clear)
	if err != nil {
		return nil, err
	}
	e := &Erasure{Document: document, Covers: covers, TimeMillis: millis, User: user, Reason: r.String(MaxReason)}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return e, e.check()
}
