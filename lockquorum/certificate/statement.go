package certificate

import (
	"fmt"
	"slices"

	"chartmesh/lockquorum"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Caps. They are part of the format.
const (
	// MaxStatement is the size of a statement in bytes; one that is well formed takes less.
	MaxStatement = 512
	// MaxHeads is how many heads a document has that is certified.
	MaxHeads = 64

	maxNumber = 1<<63 - 1 // of an epoch and an index
)

const statementVersion = 1

// Statement is what the State of a voter says of one document, as it is at one place of the quorum's log.
type Statement struct {
	Practice trust.EntryID    // its founding entry: a voter may serve several
	Place    lockquorum.Place // of the last command that was applied
	Chain    [32]byte         // of all commands up to there
	Lock     lockquorum.LockID
	Token    lockquorum.Token // of the lease that is held, or was last; zeros: nobody ever held the lock
	How      lockquorum.How   // how that ended; zero: it is held
	EndedAt  lockquorum.Place // and where
	Document lockquorum.DocumentID
	Heads    lockquorum.Heads // that are certified; zeros: none
	Under    lockquorum.Token // of the lease under which they were certified
	At       lockquorum.Place // of the command that certified them
	Previous lockquorum.Heads // that were certified before; zeros: none is known
}

// State is what a quorum agrees on, as far as it is about a lock: a lockquorum.State, or a View.
type State interface {
	Epoch() uint64
	Index() uint64
	Chain() [32]byte
	Lease(lockquorum.LockID) (lockquorum.Lease, bool)
}

// Of returns what a State says of a document that a lock guards. The State may know of neither.
func Of(st State, practice trust.EntryID, lock lockquorum.LockID, document lockquorum.DocumentID) Statement {
	s := Statement{Practice: practice, Place: lockquorum.Place{Epoch: st.Epoch(), Index: st.Index()}, Chain: st.Chain(), Lock: lock, Document: document}
	l, _ := st.Lease(lock)
	s.Token, s.How, s.EndedAt = l.Token, l.How, l.SealedAt
	if i := slices.IndexFunc(l.Documents, func(d lockquorum.Document) bool { return d.ID == document }); i >= 0 {
		d := l.Documents[i]
		s.Heads, s.Under, s.At, s.Previous = d.Heads, d.Token, d.At, d.Previous
	}
	return s
}

// Ended reports whether the lease of Token has ended, or there was none.
func (s *Statement) Ended() bool { return s.How != 0 || s.Token.IsZero() }

// Marshal returns the statement as it is signed.
func (s *Statement) Marshal() []byte {
	var w wire.Writer
	w.Byte(statementVersion)
	w.Raw(s.Practice[:])
	writePlace(&w, s.Place)
	w.Raw(s.Chain[:])
	w.Raw(s.Lock[:])
	writePlace(&w, s.Token)
	w.Byte(byte(s.How))
	writePlace(&w, s.EndedAt)
	w.Raw(s.Document[:])
	w.Raw(s.Heads[:])
	writePlace(&w, s.Under)
	writePlace(&w, s.At)
	w.Raw(s.Previous[:])
	return w.Bytes()
}

func writePlace(w *wire.Writer, p lockquorum.Place) {
	w.Uvarint(p.Epoch)
	w.Uvarint(p.Index)
}

func readPlace(r *wire.Reader) lockquorum.Place {
	return lockquorum.Place{Epoch: r.Uvarint(maxNumber), Index: r.Uvarint(maxNumber)}
}

// Parse reads a statement: shape and caps alone. It is ErrNewer if a later version wrote it.
func Parse(b []byte) (Statement, error) {
	var s Statement
	if len(b) > MaxStatement {
		return s, fmt.Errorf("parse statement: %w: over %d bytes", wire.ErrMalformed, MaxStatement)
	}
	r := wire.NewReader(b)
	switch v := r.Byte(); {
	case r.Err() != nil:
	case v == 0:
		r.Fail("version")
	case v > statementVersion:
		return s, fmt.Errorf("parse statement: version %d: %w", v, ErrNewer)
	}
	r.Fixed(s.Practice[:])
	s.Place = readPlace(r)
	r.Fixed(s.Chain[:])
	r.Fixed(s.Lock[:])
	s.Token = readPlace(r)
	s.How = lockquorum.How(r.Byte())
	s.EndedAt = readPlace(r)
	r.Fixed(s.Document[:])
	r.Fixed(s.Heads[:])
	s.Under, s.At = readPlace(r), readPlace(r)
	r.Fixed(s.Previous[:])
	if err := r.Close(); err != nil {
		return Statement{}, fmt.Errorf("parse statement: %w", err)
	}
	if err := s.check(); err != nil {
		return Statement{}, fmt.Errorf("parse statement: %w", err)
	}
	return s, nil
}

// check holds for what is signed and for what is read alike: no State says otherwise.
func (s *Statement) check() error {
	fail := func(what string) error { return fmt.Errorf("%w: %s", wire.ErrMalformed, what) }
	beyond := func(p lockquorum.Place) bool {
		return p.Compare(s.Place) > 0 || p.Epoch > maxNumber || p.Index > maxNumber
	}
	none := lockquorum.Place{}
	switch {
	case s.How > lockquorum.SealReseeded:
		return fail("how the lease ended")
	case s.Token.IsZero() && s.How != 0, s.How == 0 && s.EndedAt != none, s.How != 0 && s.EndedAt.Compare(s.Token) < 0:
		return fail("where the lease ended")
	case beyond(s.Place), beyond(s.Token), beyond(s.EndedAt), beyond(s.Under), beyond(s.At):
		return fail("a place beyond that of the statement")
	case s.Heads == lockquorum.Heads{} && (s.Under != none || s.At != none || s.Previous != lockquorum.Heads{}):
		return fail("where no heads were certified")
	case s.Heads != lockquorum.Heads{} && (s.Under.IsZero() || s.At.Compare(s.Under) <= 0):
		return fail("where heads were certified")
	}
	return nil
}

// Signed is a statement with its voter's signature.
type Signed struct {
	Statement []byte // see Parse
	Voter     trust.DeviceID
	Signature [64]byte
}

// Sign signs a statement as a voter.
func Sign(signer trust.Signer, s Statement) (Signed, error) {
	if err := s.check(); err != nil {
		return Signed{}, fmt.Errorf("sign statement: %w", err)
	}
	out := Signed{Statement: s.Marshal(), Voter: signer.Device()}
	copy(out.Signature[:], signer.Sign(trust.ContextCertificate, out.Statement))
	return out, nil
}
