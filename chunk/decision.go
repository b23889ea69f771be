package chunk

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"chartmesh/wire"
)

// Verdict is what a person decided about a chunk that is held back. The numbers are part of the format.
type Verdict uint8

const (
	// VerdictRelease takes a chunk in that a rule about its author or its log keeps out.
	VerdictRelease Verdict = 1
	// VerdictDiscard leaves a chunk aside for good: kept, passed on, and no longer waiting for somebody to decide.
	VerdictDiscard Verdict = 2
)

func (v Verdict) String() string {
	switch v {
	case VerdictRelease:
		return "release"
	case VerdictDiscard:
		return "discard"
	}
	return fmt.Sprintf("verdict %d", uint8(v))
}

// decisionVersion is the version of a DECISION's content.
const decisionVersion = 1

// Decision is the body of a DECISION chunk: what a person decided about another chunk of the same scope. It belongs to
// the scope and not to a document, since what is decided on may not open.
//
// Of all decisions on one chunk those stand that no other replaces. A release among them wins, so that what stands does
// not depend on the order in which they arrive.
type Decision struct {
	Log        LogID // where the chunk stands that is decided on
	Counter    uint64
	Chunk      ID
	Verdict    Verdict
	TimeMillis int64  // by the clock of who decided, for display alone
	User       string // who decided, as the local application names them
	Reason     string // why, in their words
	Replaces   []ID   // DECISION chunks on the same chunk that this one takes the place of, ascending
}

// Kind returns KindDecision.
func (*Decision) Kind() Kind { return KindDecision }

// DocumentID returns zeros: the whole scope.
func (*Decision) DocumentID() [32]byte { return [32]byte{} }

func (d *Decision) append(w *wire.Writer) {
	document := d.DocumentID()
	w.Raw(document[:])
	w.Uvarint(decisionVersion)
	w.Raw(d.Log[:])
	w.Uvarint(d.Counter)
	w.Raw(d.Chunk[:])
	w.Byte(byte(d.Verdict))
	w.Varint(d.TimeMillis)
	w.String(d.User)
	w.String(d.Reason)
	w.Uvarint(uint64(len(d.Replaces)))
	for _, id := range d.Replaces {
		w.Raw(id[:])
	}
}

func parseDecision(b []byte) (*Decision, error) {
	d := &Decision{}
	r := wire.NewReader(b)
	if err := readScoped(r, KindDecision, decisionVersion); err != nil {
		return nil, err
	}
	r.Fixed(d.Log[:])
	d.Counter = r.Uvarint(1<<63 - 1)
	r.Fixed(d.Chunk[:])
	d.Verdict = Verdict(r.Byte())
	d.TimeMillis = r.Varint()
	d.User = r.String(MaxAuthor)
	d.Reason = r.String(MaxReason)
	d.Replaces = make([]ID, r.Uvarint(MaxReplaces))
	for i := range d.Replaces {
		r.Fixed(d.Replaces[i][:])
	}
	if err := r.Close(); err != nil {
		return nil, err
	}
	return d, d.check()
}

// check holds for what is sealed and for what is opened alike.
func (d *Decision) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: decision: %s", wire.ErrMalformed, what) }
	switch {
	case d.Counter == 0 || d.Counter > 1<<63-1:
		return fail("counter")
	case d.Verdict != VerdictRelease && d.Verdict != VerdictDiscard:
		return fail("verdict")
	case len(d.User) > MaxAuthor || !plain(d.User):
		return fail("user")
	case len(d.Reason) > MaxReason || !plain(d.Reason):
		return fail("reason")
	case len(d.Replaces) > MaxReplaces:
		return fail("number of decisions that it replaces")
	}
	for i := 1; i < len(d.Replaces); i++ {
		if bytes.Compare(d.Replaces[i-1][:], d.Replaces[i][:]) >= 0 {
			return fail("decisions that it replaces out of order")
		}
	}
	return nil
}

// plain reports whether s is text without control characters.
func plain(s string) bool { return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) }

// String names the chunk that is decided on alone: who decided and why may name people.
func (d *Decision) String() string { return fmt.Sprintf("%v of chunk %v", d.Verdict, d.Chunk) }

// Format prints what String returns, whatever the verb.
func (d *Decision) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(d.String())) }
