// Package cpace is CPace, a balanced password-authenticated key exchange: two parties who know the same short password get
// the same key, and neither who listens nor who takes part without the password can test a guess but by another exchange.
//
// It is draft-irtf-cfrg-cpace, initiator and responder, over the group ristretto255 and SHA-512 (CPaceRistretto255), and
// held against the draft's vectors.
//
// Nouns: an [Exchange] is one party's side of one run. Its share goes to the other party; with the other's share it gives a
// [Key], which is the same on both sides if and only if password, channel, session ID, both shares and what each party said
// beside its share are.
//
// Guarantees: a share that is no group element, or the neutral one, is refused. A share tells nothing of the password. No
// secret is printed.
//
// Whether the other party has the same key is left to the caller, who has each prove it to the other, and so is how many
// guesses somebody gets.
package cpace

import (
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/bwesterb/go-ristretto"
)

// ErrShare says that what came is no share: it encodes no group element, or the neutral one, or is not the one encoding of it.
var ErrShare = errors.New("not a share")

// Sizes in bytes.
const (
	ShareSize = 32
	KeySize   = sha512.Size
)

const (
	suite    = "CPaceRistretto255"
	suiteKey = suite + "_ISK"
)

// Share is what a party sends to the other: a group element.
type Share [ShareSize]byte

// Key is what both parties get, ISK in the draft. It is for deriving keys from. It prints as nothing.
type Key [KeySize]byte

// Format prints no key, whatever the verb.
func (Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[key]")) }

// Exchange is one party's side of one run.
type Exchange struct {
	secret ristretto.Scalar
	share  Share
	sid    []byte
}

// Format prints no secret, whatever the verb.
func (*Exchange) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte("[exchange]")) }

// Begin begins a run. The channel says between whom it is, in bytes that both sides make alike; sid is new for each run.
func Begin(password, channel, sid []byte) *Exchange {
	var secret ristretto.Scalar
	for secret.Rand(); secret.IsNonZeroI() == 0; secret.Rand() {
	}
	return begin(password, channel, sid, secret)
}

func begin(password, channel, sid []byte, secret ristretto.Scalar) *Exchange {
	e := &Exchange{secret: secret, sid: append([]byte(nil), sid...)}
	var g, share ristretto.Point
	g.DeriveDalek(generatorString(password, channel, sid)) // the draft's map of SHA-512 to the group
	share.ScalarMult(&g, &e.secret)
	share.BytesInto((*[ShareSize]byte)(&e.share))
	return e
}

// Share returns what goes to the other party.
func (e *Exchange) Share() Share { return e.share }

// Initiated returns the key of the party that began: said is what it said beside its share, heard what the other said beside
// theirs.
func (e *Exchange) Initiated(said []byte, theirs Share, heard []byte) (Key, error) {
	return e.key(theirs, transcript(e.share, said, theirs, heard))
}

// Responded returns the key of the party that answered.
func (e *Exchange) Responded(said []byte, theirs Share, heard []byte) (Key, error) {
	return e.key(theirs, transcript(theirs, heard, e.share, said))
}

func (e *Exchange) key(theirs Share, transcript []byte) (Key, error) {
	var p, neutral ristretto.Point
	if !p.SetBytes((*[ShareSize]byte)(&theirs)) {
		return Key{}, ErrShare
	}
	// The other encodings of an element are the ones that it does not come back as.
	var again Share
	p.BytesInto((*[ShareSize]byte)(&again))
	neutral.SetZero()
	if again != theirs || p.Equals(&neutral) {
		return Key{}, ErrShare
	}
	p.ScalarMult(&p, &e.secret)
	if p.Equals(&neutral) {
		return Key{}, ErrShare
	}
	var b []byte
	b = appendField(b, []byte(suiteKey))
	b = appendField(b, e.sid)
	b = appendField(b, p.Bytes())
	return sha512.Sum512(append(b, transcript...)), nil
}

// generatorString fills the hash's first block, so that how long it takes says nothing of the password.
func generatorString(password, channel, sid []byte) []byte {
	var b []byte
	b = appendField(b, []byte(suite))
	b = appendField(b, password)
	b = appendField(b, make([]byte, max(0, sha512.BlockSize-1-len(b))))
	b = appendField(b, channel)
	return appendField(b, sid)
}

func transcript(first Share, said1 []byte, second Share, said2 []byte) []byte {
	var b []byte
	b = appendField(b, first[:])
	b = appendField(b, said1)
	b = appendField(b, second[:])
	return appendField(b, said2)
}

// appendField appends a field behind its length in LEB128.
func appendField(b, field []byte) []byte {
	return append(binary.AppendUvarint(b, uint64(len(field))), field...)
}
