package chunk

import (
	"bytes"
	"fmt"
	"unicode/utf8"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Checkpoint is the body of a CHECKPOINT chunk: all changes of a document, as their authors wrote them, in the place of
// the chunks that it covers. Nothing is taken on the word of who packed it: each change is judged as if it had come alone,
// the newest of each actor carries its author's signature, and all older ones are among its ancestors.
type Checkpoint struct {
	Document [32]byte
	Covers   Covers   // in clear, so that who holds no key knows what it stands for
	Logs     []LogKey // whose chunks these are, ascending, each used
	Parts    []Part   // the chunks with changes, dependencies first
	Others   []Spot   // what else is covered and holds nothing: earlier checkpoints of the document and the votes on them
	// Authorship names the newest change of each actor, ascending by log and branch. After Open the signatures have been
	// checked; that the changes are the ones named is for the caller, who reads Automerge, to check.
	Authorship []Word
	// Certificates are, of a protected document, those that are covered, ascending by place: none is ever dropped, since what counts follows from all.
	Certificates []Packed
}

// Packed is what a CERTIFICATE chunk held.
type Packed struct {
	Spot
	Certificate *Certificate
}

// LogKey is what a log's ID is made of.
type LogKey struct {
	Device trust.DeviceID
	Nonce  [16]byte
}

// ID returns the log's ID.
func (k LogKey) ID() LogID { return LogOf(k.Device, k.Nonce) }

// Spot is a place in a log; Log counts in Checkpoint.Logs.
type Spot struct {
	Log     int
	Counter uint64
}

// Part is what a CHANGES chunk held.
type Part struct {
	Spot
	Schema     uint16
	TimeMillis int64
	Author     string
	Origin     Origin
	Replaces   [32]byte // see Changes
	Changes    []Change
}

// Word is an Authorship of one of a checkpoint's logs.
type Word struct {
	Log int
	Authorship
}

// PartOf returns what a checkpoint keeps of a CHANGES chunk in the log of that number.
func PartOf(c *Changes, log int, counter uint64) Part {
	return Part{
		Spot: Spot{log, counter}, Schema: c.Schema, TimeMillis: c.TimeMillis, Author: c.Author, Origin: c.Origin,
		Replaces: c.Replaces, Changes: c.Changes,
	}
}

// Equal reports whether both keep the same, wherever they say that it stood.
func (p Part) Equal(q Part) bool {
	if p.Schema != q.Schema || p.TimeMillis != q.TimeMillis || p.Author != q.Author || p.Origin != q.Origin ||
		p.Replaces != q.Replaces ||
		len(p.Changes) != len(q.Changes) {
		return false
	}
	for i, c := range p.Changes {
		if c.Branch != q.Changes[i].Branch || string(c.Raw) != string(q.Changes[i].Raw) {
			return false
		}
	}
	return true
}

// Kind returns KindCheckpoint.
func (*Checkpoint) Kind() Kind { return KindCheckpoint }

// DocumentID returns the document.
func (c *Checkpoint) DocumentID() [32]byte { return c.Document }

func (c *Checkpoint) clear() []byte {
	var w wire.Writer
	c.Covers.append(&w)
	return w.Bytes()
}

func (s Spot) append(w *wire.Writer) {
	w.Uvarint(uint64(s.Log))
	w.Uvarint(s.Counter)
}

func (c *Checkpoint) append(w *wire.Writer) {
	w.Raw(c.Document[:])
	w.Uvarint(uint64(len(c.Logs)))
	for _, k := range c.Logs {
		w.Raw(k.Device[:])
		w.Raw(k.Nonce[:])
	}
	w.Uvarint(uint64(len(c.Parts)))
	for _, p := range c.Parts {
		p.Spot.append(w)
		w.Uvarint(uint64(p.Schema))
		w.Varint(p.TimeMillis)
		w.String(p.Author)
		appendOrigin(w, p.Origin, p.Replaces)
		w.Uvarint(uint64(len(p.Changes)))
		for _, ch := range p.Changes {
			w.Byte(ch.Branch)
			w.Blob(ch.Raw)
		}
	}
	w.Uvarint(uint64(len(c.Others)))
	for _, s := range c.Others {
		s.append(w)
	}
	w.Uvarint(uint64(len(c.Authorship)))
	for _, a := range c.Authorship {
		w.Uvarint(uint64(a.Log))
		w.Byte(a.Branch)
		w.Uvarint(a.Seq)
		w.Raw(a.Newest[:])
		w.Raw(a.Signature[:])
	}
	if len(c.Certificates) == 0 {
		return
	}
	w.Uvarint(uint64(len(c.Certificates)))
	for _, p := range c.Certificates {
		p.Spot.append(w)
		var body wire.Writer
		p.Certificate.append(&body)
		w.Blob(body.Bytes())
	}
}

// readCertificates reads what only a protected document's checkpoint has.
func readCertificates(r *wire.Reader, spot func() Spot) (list []Packed, err error) {
	if r.Len() == 0 || r.Err() != nil {
		return nil, nil
	}
	n := count(r, MaxParts, minCertificate)
	if n == 0 {
		r.Fail("no certificates")
	}
	for range n {
		p := Packed{Spot: spot()}
		b := r.Blob(maxCertificate)
		if r.Err() != nil {
			return nil, nil
		}
		if p.Certificate, err = parseCertificate(b); err != nil {
			return nil, err
		}
		list = append(list, p)
	}
	return list, nil
}

func parseCheckpoint(b, clear []byte) (*Checkpoint, error) {
	covers, err := parseCovers(clear)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Covers: covers}
	r := wire.NewReader(b)
	r.Fixed(c.Document[:])
	c.Logs = make([]LogKey, count(r, MaxLogs, 48))
	for i := range c.Logs {
		r.Fixed(c.Logs[i].Device[:])
		r.Fixed(c.Logs[i].Nonce[:])
	}
	spot := func() Spot {
		return Spot{int(r.Uvarint(MaxLogs)), r.Uvarint(1<<63 - 1)}
	}
	c.Parts = make([]Part, count(r, MaxParts, 8))
	left := MaxCheckpointChanges
	for i := range c.Parts {
		p := &c.Parts[i]
		p.Spot = spot()
		p.Schema = uint16(r.Uvarint(MaxSchema))
		p.TimeMillis = r.Varint()
		p.Author = r.String(MaxAuthor)
		p.Origin, p.Replaces = readOrigin(r)
		p.Changes = make([]Change, count(r, min(MaxChangeCount, left), 2))
		left -= len(p.Changes)
		for j := range p.Changes {
			p.Changes[j] = Change{Branch: r.Byte(), Raw: r.Blob(MaxChanges)}
		}
		if r.Err() != nil {
			break
		}
	}
	c.Others = make([]Spot, count(r, MaxParts, 2))
	for i := range c.Others {
		c.Others[i] = spot()
	}
	c.Authorship = make([]Word, count(r, MaxParts, 99))
	for i := range c.Authorship {
		a := &c.Authorship[i]
		a.Log = int(r.Uvarint(MaxLogs))
		a.Branch = r.Byte()
		a.Seq = r.Uvarint(1<<63 - 1)
		r.Fixed(a.Newest[:])
		r.Fixed(a.Signature[:])
	}
	if c.Certificates, err = readCertificates(r, spot); err != nil {
		return nil, err
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return c, c.check()
}

// count takes a number of elements that have at least size bytes each, so that what is made for them is bounded by what
// came.
func count(r *wire.Reader, limit, size int) int {
	n := r.Uvarint(uint64(limit))
	if n > uint64(r.Len()/size) {
		r.Fail("cut short")
		return 0
	}
	return int(n)
}

// check holds for what is sealed and for what is opened alike.
func (c *Checkpoint) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: checkpoint: %s", wire.ErrMalformed, what) }
	if err := c.Covers.check(); err != nil {
		return err
	}
	if len(c.Parts) == 0 || len(c.Parts) > MaxParts || len(c.Others) > MaxParts || len(c.Logs) > MaxLogs {
		return fail("number of parts")
	}
	ids := make([]LogID, len(c.Logs))
	for i, k := range c.Logs {
		if i > 0 && c.Logs[i-1].compare(k) >= 0 {
			return fail("logs out of order")
		}
		ids[i] = k.ID()
	}
	used := make([]bool, len(c.Logs))
	covered := uint64(0)
	seen := make(map[Spot]bool, len(c.Parts)+len(c.Others))
	take := func(s Spot) bool {
		if s.Log >= len(ids) || s.Counter == 0 || seen[s] {
			return false
		}
		seen[s], used[s.Log] = true, true
		if c.Covers.Holds(ids[s.Log], s.Counter) {
			covered++
		}
		return true
	}
	type actor struct {
		log    int
		branch byte
	}
	wrote, words := map[actor]bool{}, 0
	changes, size := 0, 0
	for _, p := range c.Parts {
		if !take(p.Spot) {
			return fail("place of a part")
		}
		if len(p.Author) > MaxAuthor || !utf8.ValidString(p.Author) || p.Origin < OriginEdit || p.Origin > OriginDelete {
			return fail("author and origin")
		}
		if changes += len(p.Changes); len(p.Changes) == 0 || len(p.Changes) > MaxChangeCount || changes > MaxCheckpointChanges {
			return fail("number of changes")
		}
		for _, ch := range p.Changes {
			if len(ch.Raw) == 0 {
				return fail("empty change")
			}
			size += len(ch.Raw)
			wrote[actor{p.Log, ch.Branch}] = true
		}
	}
	if size > MaxBody {
		return fail("too large")
	}
	for i, s := range c.Others {
		if i > 0 && !c.Others[i-1].before(s) {
			return fail("places out of order")
		}
		if !take(s) || !c.Covers.Holds(ids[s.Log], s.Counter) {
			return fail("place of an earlier checkpoint")
		}
	}
	if len(c.Certificates) > MaxParts {
		return fail("number of certificates")
	}
	for i, p := range c.Certificates {
		if i > 0 && !c.Certificates[i-1].before(p.Spot) {
			return fail("certificates out of order")
		}
		if !take(p.Spot) || !c.Covers.Holds(ids[p.Log], p.Counter) {
			return fail("place of a certificate")
		}
		if p.Certificate == nil || p.Certificate.Document != c.Document {
			return fail("a certificate of another document")
		}
		if err := p.Certificate.check(); err != nil {
			return err
		}
	}
	if covered != c.Covers.Len() {
		return fail("it covers what it does not hold")
	}
	for i, a := range c.Authorship {
		if i > 0 && !(Spot{c.Authorship[i-1].Log, uint64(c.Authorship[i-1].Branch)}).before(Spot{a.Log, uint64(a.Branch)}) {
			return fail("authorship out of order")
		}
		if a.Log >= len(ids) || a.Seq == 0 || !wrote[actor{a.Log, a.Branch}] {
			return fail("authorship")
		}
		words++
	}
	if words != len(wrote) {
		return fail("authorship does not fit the changes")
	}
	for _, u := range used {
		if !u {
			return fail("a log that is not used")
		}
	}
	return nil
}

func (s Spot) before(t Spot) bool { return s.Log < t.Log || s.Log == t.Log && s.Counter < t.Counter }

func (k LogKey) compare(l LogKey) int {
	if c := bytes.Compare(k.Device[:], l.Device[:]); c != 0 {
		return c
	}
	return bytes.Compare(k.Nonce[:], l.Nonce[:])
}

// verify checks every authorship's signature.
func (c *Checkpoint) verify() error {
	for _, a := range c.Authorship {
		k := c.Logs[a.Log]
		statement := Statement(c.Document, ActorOf(k.ID(), c.Document, a.Branch), a.Seq, a.Newest)
		if !trust.VerifySignature(k.Device, trust.ContextAuthor, statement, a.Signature[:]) {
			return fmt.Errorf("%w: an authorship is not its author's", ErrDamaged)
		}
	}
	return nil
}

// String names the document alone.
func (c *Checkpoint) String() string {
	return fmt.Sprintf("checkpoint of %d chunks of document %x", len(c.Parts), c.Document[:8])
}

// Format prints what String returns, whatever the verb.
func (c *Checkpoint) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(c.String())) }

// Cover is the body of a COVER chunk: a device's word on a checkpoint, having compared it with what it holds. What it says
// is in clear; only the document is sealed.
type Cover struct {
	Document   [32]byte
	Checkpoint Place
	OK         bool // false: it is not what it claims to stand for, and nothing that it covers may be deleted
}

// Kind returns KindCover.
func (*Cover) Kind() Kind { return KindCover }

// DocumentID returns the document.
func (c *Cover) DocumentID() [32]byte { return c.Document }

func (c *Cover) append(w *wire.Writer) { w.Raw(c.Document[:]) }

const (
	verdictOK  = 1
	verdictBad = 2
)

func (c *Cover) clear() []byte {
	var w wire.Writer
	c.Checkpoint.append(&w)
	if c.OK {
		w.Byte(verdictOK)
	} else {
		w.Byte(verdictBad)
	}
	return w.Bytes()
}

func parseCover(b, clear []byte) (*Cover, error) {
	c, err := parseVerdict(clear)
	if err != nil {
		return nil, err
	}
	r := wire.NewReader(b)
	r.Fixed(c.Document[:])
	return &c, r.Close()
}

// parseVerdict reads what a word says in clear.
func parseVerdict(clear []byte) (c Cover, err error) {
	r := wire.NewReader(clear)
	c.Checkpoint.read(r)
	switch r.Byte() {
	case verdictOK:
		c.OK = true
	case verdictBad:
	default:
		r.Fail("verdict")
	}
	if err := r.Close(); err != nil {
		return Cover{}, fmt.Errorf("verdict: %w", err)
	}
	return c, nil
}

// String names the checkpoint alone.
func (c *Cover) String() string {
	return fmt.Sprintf("word on checkpoint %v: %v", c.Checkpoint.ID, c.OK)
}
