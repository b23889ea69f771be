package chunk

import (
	"fmt"
	"unicode/utf8"

	"chartmesh/wire"
)

// Body is what a chunk seals: [*Changes], [*Checkpoint], [*Certificate], [*Cover], [*Decision], [*Keys], [*Erasure], [*Assent], or [*Opaque] for every other kind.
type Body interface {
	// Kind returns the kind that the header names.
	Kind() Kind
	// DocumentID returns the document that the chunk belongs to; its keyed hash is the tag.
	DocumentID() [32]byte

	append(w *wire.Writer)
}

// clearer is a body a part of which stands in clear.
type clearer interface{ clear() []byte }

// checker is a body that can be malformed.
type checker interface{ check() error }

// Origin says how a change came about. The numbers are part of the format.
type Origin uint8

const (
	OriginEdit     Origin = 1
	OriginImport   Origin = 2
	OriginDecision Origin = 3
	OriginDelete   Origin = 4

	originAnew = 0x80 // on the wire: the hash of the change that this one writes anew follows
)

// Changes is the body of a CHANGES chunk: Automerge changes of one document, as one save or one import made them.
type Changes struct {
	Document   [32]byte
	Schema     uint16 // stands in the header
	TimeMillis int64  // when the author saved, for display alone
	Author     string // the user, as the local application names them
	Origin     Origin
	// Replaces names the change whose content this one writes anew, since that one lost its place to another history of
	// its author's log (docs/decisions/0024); zero: none.
	Replaces [32]byte
	Changes  []Change
	// Authorship names, for each branch among Changes and ascending by branch, the newest change. Seal signs it; after
	// Open the signatures have been checked, but that the changes are the ones it names is for the caller to check,
	// since this package does not read Automerge.
	Authorship []Authorship
}

// Change is one raw, uncompressed Automerge change.
type Change struct {
	Branch byte // the actor is ActorOf(log, document, Branch)
	Raw    []byte
}

// Authorship is the author's word on the newest change of one branch. Change hashes commit to their ancestors, so that
// the word holds for all of them, also when they are packed otherwise later.
type Authorship struct {
	Branch    byte
	Seq       uint64
	Newest    [32]byte
	Signature [64]byte // by the device; see Statement
}

// Statement returns the bytes that an authorship's signature covers, under trust.ContextAuthor.
func Statement(document [32]byte, actor Actor, seq uint64, newest [32]byte) []byte {
	var w wire.Writer
	w.Raw(document[:])
	w.Raw(actor[:])
	w.Uint64(seq)
	w.Raw(newest[:])
	return w.Bytes()
}

// Kind returns KindChanges.
func (*Changes) Kind() Kind { return KindChanges }

// DocumentID returns the document.
func (c *Changes) DocumentID() [32]byte { return c.Document }

func (c *Changes) append(w *wire.Writer) {
	w.Raw(c.Document[:])
	w.Varint(c.TimeMillis)
	w.String(c.Author)
	appendOrigin(w, c.Origin, c.Replaces)
	w.Uvarint(uint64(len(c.Changes)))
	for _, ch := range c.Changes {
		w.Byte(ch.Branch)
		w.Blob(ch.Raw)
	}
	w.Uvarint(uint64(len(c.Authorship)))
	for _, a := range c.Authorship {
		w.Byte(a.Branch)
		w.Uvarint(a.Seq)
		w.Raw(a.Newest[:])
		w.Raw(a.Signature[:])
	}
}

func appendOrigin(w *wire.Writer, o Origin, replaces [32]byte) {
	if replaces == ([32]byte{}) {
		w.Byte(byte(o))
		return
	}
	w.Byte(byte(o) | originAnew)
	w.Raw(replaces[:])
}

func readOrigin(r *wire.Reader) (o Origin, replaces [32]byte) {
	if o = Origin(r.Byte()); o&originAnew == 0 {
		return o, replaces
	}
	if r.Fixed(replaces[:]); replaces == ([32]byte{}) {
		r.Fail("replaced change")
	}
	return o &^ originAnew, replaces
}

func parseChanges(b []byte) (*Changes, error) {
	c := &Changes{}
	r := wire.NewReader(b)
	r.Fixed(c.Document[:])
	c.TimeMillis = r.Varint()
	c.Author = r.String(MaxAuthor)
	c.Origin, c.Replaces = readOrigin(r)
	n := r.Uvarint(MaxChangeCount)
	if n > uint64(r.Len()) {
		r.Fail("cut short")
		n = 0
	}
	c.Changes = make([]Change, n)
	for i := range c.Changes {
		c.Changes[i] = Change{Branch: r.Byte(), Raw: r.Blob(MaxChanges)}
	}
	c.Authorship = make([]Authorship, r.Uvarint(256))
	for i := range c.Authorship {
		a := &c.Authorship[i]
		a.Branch = r.Byte()
		a.Seq = r.Uvarint(1<<63 - 1)
		r.Fixed(a.Newest[:])
		r.Fixed(a.Signature[:])
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return c, c.check()
}

// check holds for what is sealed and for what is opened alike.
func (c *Changes) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: changes: %s", wire.ErrMalformed, what) }
	if len(c.Author) > MaxAuthor || !utf8.ValidString(c.Author) {
		return fail("author")
	}
	if c.Origin < OriginEdit || c.Origin > OriginDelete {
		return fail("origin")
	}
	if len(c.Changes) == 0 || len(c.Changes) > MaxChangeCount {
		return fail("number of changes")
	}
	var branches, words [256]bool
	size := 0
	for _, ch := range c.Changes {
		if len(ch.Raw) == 0 {
			return fail("empty change")
		}
		size += len(ch.Raw)
		branches[ch.Branch] = true
	}
	if size > MaxChanges {
		return fail("too large")
	}
	for i, a := range c.Authorship {
		if i > 0 && c.Authorship[i-1].Branch >= a.Branch {
			return fail("authorship out of order")
		}
		if a.Seq == 0 {
			return fail("sequence number")
		}
		words[a.Branch] = true
	}
	if branches != words {
		return fail("authorship does not fit the branches")
	}
	return nil
}

// Opaque is a body that this version only carries.
type Opaque struct {
	Type     Kind
	Document [32]byte // zero: the whole scope
	Content  []byte
}

// Kind returns Type.
func (o *Opaque) Kind() Kind { return o.Type }

// DocumentID returns the document.
func (o *Opaque) DocumentID() [32]byte { return o.Document }

func (o *Opaque) append(w *wire.Writer) {
	w.Raw(o.Document[:])
	w.Raw(o.Content)
}

// readScoped reads the head of a body that belongs to the whole scope: no document, and the version of what follows. What is malformed
// stays with the reader.
func readScoped(r *wire.Reader, kind Kind, newest uint64) error {
	var document [32]byte
	r.Fixed(document[:])
	version := r.Uvarint(1<<32 - 1)
	switch {
	case r.Err() != nil:
	case document != [32]byte{}:
		r.Fail(kind.String() + ": document")
	case version == 0:
		r.Fail(kind.String() + ": version")
	case version > newest:
		return fmt.Errorf("%v version %d: %w", kind, version, ErrNewer)
	}
	return nil
}

func parseBody(kind Kind, b, clear []byte) (Body, error) {
	switch kind {
	case KindChanges:
		return parseChanges(b)
	case KindCheckpoint:
		return parseCheckpoint(b, clear)
	case KindCover:
		return parseCover(b, clear)
	case KindCertificate:
		return parseCertificate(b)
	case KindDecision:
		return parseDecision(b)
	case KindKeys:
		return parseKeys(b)
	case KindTombstone:
		return parseTombstone(b, clear)
	}
	r := wire.NewReader(b)
	o := &Opaque{Type: kind}
	r.Fixed(o.Document[:])
	o.Content = r.Rest()
	return o, r.Err()
}
