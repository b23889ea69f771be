package trust

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"slices"

	"chartmesh/wire"
)

var (
	// ErrNoKey says that a key that opens or seals is not held (not yet given, or never will be).
	ErrNoKey = errors.New("the key is not held")
	// ErrSealBroken says that a sealed field or body does not open with the key that it names: it was altered.
	ErrSealBroken = errors.New("the seal is broken")
)

// Contexts of signatures. No two formats share one, so that a signature never means two things.
const (
	ContextEntry  = "chartmesh membership entry 1"
	ContextChunk  = "chartmesh chunk 1"
	ContextAuthor = "chartmesh author 1"
	ContextAck    = "chartmesh ack 1"
	ContextJoin   = "chartmesh join 1"
	// ContextCertificate is of what a voter says of a protected document.
	ContextCertificate = "chartmesh quorum certificate 1"
	// ContextPosition is of how far a voter says that its quorum came.
	ContextPosition = "chartmesh quorum position 1"
	// ContextErasure is of the root key's agreement to an erasure, over the ID of its order.
	ContextErasure = "chartmesh erasure 1"
)

// transportPrefixes begin everything that libp2p signs with an identity: the handshakes of Noise and TLS, and signed
// envelopes (domain behind its length) of peer records and relay vouchers. All differ from what SigningInput begins with.
var transportPrefixes = [][]byte{
	[]byte("noise-libp2p-static-key:"),
	[]byte("libp2p-tls-handshake:"),
	[]byte("\x12libp2p-peer-record"),
	[]byte("\x11libp2p-relay-rsvp"),
}

// IsTransport reports whether msg is one of libp2p's own messages, which are signed without a context, as those protocols want it. Nothing
// else may be signed so: a caller could have the key sign what stands under a context.
func IsTransport(msg []byte) bool {
	return slices.ContainsFunc(transportPrefixes, func(p []byte) bool { return bytes.HasPrefix(msg, p) })
}

// Signer signs as one device. A keyring is one.
type Signer interface {
	Device() DeviceID
	Sign(context string, msg []byte) []byte
}

// SigningInput returns the bytes that Ed25519 signs for msg under context. It begins with text that no protocol of
// libp2p signs, since both use the device's key.
func SigningInput(context string, msg []byte) []byte {
	var w wire.Writer
	w.Raw([]byte("chartmesh signature 1\x00"))
	w.String(context)
	w.Raw(msg)
	return w.Bytes()
}

// VerifySignature reports whether sig is device's signature of msg under context.
func VerifySignature(device DeviceID, context string, msg, sig []byte) bool {
	return len(sig) == ed25519.SignatureSize && ed25519.Verify(device[:], SigningInput(context, msg), sig)
}

// hash returns SHA-256 of label and parts. No label begins another, and callers pass parts of fixed length, or one last
// part of any length, so that no two inputs collide.
func hash(label string, parts ...[]byte) [32]byte {
	var w wire.Writer
	w.Raw([]byte(label))
	for _, p := range parts {
		w.Raw(p)
	}
	return sha256.Sum256(w.Bytes())
}

// ScopeIDOf derives the ID of a scope that a practice founds.
func ScopeIDOf(nonce [32]byte, name string) ScopeID {
	h := hash("chartmesh scope 1", nonce[:], []byte(name))
	return ScopeID(h[:16])
}

// ScopeIDOfEntry derives the ID of the scope that a scope entry creates.
func ScopeIDOfEntry(entry EntryID) ScopeID {
	h := hash("chartmesh created scope 1", entry[:])
	return ScopeID(h[:16])
}

// EpochIDOf derives the ID of the epoch that entry begins in scope.
func EpochIDOf(entry EntryID, scope ScopeID) EpochID {
	return hash("chartmesh epoch 1", entry[:], scope[:])
}

// Commit returns the commitment to an epoch's keys that the membership log publishes. A member checks it on opening a
// box, so that no administrator can give two members different keys under one epoch unseen. Both keys are uniformly
// random and 32 bytes long, so that the commitment hides them.
func Commit(scope ScopeID, epochKey, indexKey [32]byte) [32]byte {
	return hash("chartmesh epoch commitment 1", scope[:], epochKey[:], indexKey[:])
}

// BoxInfo returns HPKE's info for a key box: a box opened as anything else does not open.
func BoxInfo(scope ScopeID, commitment [32]byte, recipientHPKE []byte) []byte {
	h := hash("chartmesh key box 1", scope[:], commitment[:], recipientHPKE)
	return h[:]
}
