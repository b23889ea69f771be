package certificate

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"chartmesh/lockquorum"
	"chartmesh/trust"
)

var (
	// ErrNewer says that a later version wrote it.
	ErrNewer = errors.New("needs a newer version")
	// ErrOther says that a statement is not of the practice, document, lock or heads that it is said to be of.
	ErrOther = errors.New("the statement is of something else")
	// ErrBadSignature says that the statement is not what the voter signed.
	ErrBadSignature = errors.New("the statement's signature does not verify")
)

// Hasher hashes names as the voters of a practice see them.
type Hasher interface {
	Lock(name string) lockquorum.LockID
	Document(id [32]byte) lockquorum.DocumentID
	// Heads is zeros for none. They are ascending.
	Heads(document [32]byte, heads [][32]byte) lockquorum.Heads
}

// Keyed is a Hasher under a key, for test vectors and simulations. A device has its keyring's names (agent/quorum).
type Keyed [32]byte

func (k Keyed) hash(label string, parts ...[]byte) (out [32]byte) {
	h := hmac.New(sha256.New, k[:])
	h.Write([]byte(label))
	for _, p := range parts {
		h.Write(p)
	}
	h.Sum(out[:0])
	return out
}

// Lock hashes a lock's name.
func (k Keyed) Lock(name string) lockquorum.LockID {
	return k.hash("chartmesh quorum lock 1", []byte(name))
}

// Document hashes a document's ID.
func (k Keyed) Document(id [32]byte) lockquorum.DocumentID {
	return k.hash("chartmesh quorum document 1", id[:])
}

// Heads hashes a document's heads.
func (k Keyed) Heads(document [32]byte, heads [][32]byte) lockquorum.Heads {
	if len(heads) == 0 {
		return lockquorum.Heads{}
	}
	parts := [][]byte{document[:]}
	for i := range heads {
		parts = append(parts, heads[i][:])
	}
	return k.hash("chartmesh quorum heads 1", parts...)
}

// Word is what the membership log says of a device and a quorum. Zero: nothing yet.
type Word byte

const (
	Unknown Word = 0
	Yes     Word = 1
	No      Word = 2
)

// Voters says who votes, by a membership log. From the same log it says the same, and No only for good.
type Voters interface {
	// Voted says whether a device is, or was, a voter of the quorum of an epoch.
	Voted(st *trust.State, epoch uint64, device trust.DeviceID) Word
}

// Subject is what a certificate has to be of.
type Subject struct {
	Practice trust.EntryID
	Lock     string
	Document [32]byte
}

// Verify reads what a voter signed, and checks that it is of a subject, that the heads in plain are those that it certifies, and the signature:
// ErrOther, ErrBadSignature, ErrNewer, or malformed. Whether the voter is one is left to Voters.
func (s *Signed) Verify(h Hasher, of Subject, heads [][32]byte) (Statement, error) {
	st, err := Parse(s.Statement)
	if err != nil {
		return Statement{}, err
	}
	sorted := slices.IsSortedFunc(heads, func(a, b [32]byte) int { return bytes.Compare(a[:], b[:]) })
	if st.Practice != of.Practice || st.Lock != h.Lock(of.Lock) || st.Document != h.Document(of.Document) || !sorted || len(heads) > MaxHeads ||
		st.Heads != h.Heads(of.Document, heads) {
		return Statement{}, ErrOther
	}
	if !trust.VerifySignature(s.Voter, trust.ContextCertificate, s.Statement, s.Signature[:]) {
		return Statement{}, fmt.Errorf("statement of voter %v: %w", s.Voter, ErrBadSignature)
	}
	return st, nil
}
