package lockquorum

import (
	"errors"
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

// Position is a voter's signed word on how far its quorum has come. Its epoch and chain tell two histories apart; the practice is signed, and not in it.
type Position struct {
	Seen
	Voter     DeviceID
	Signature [64]byte
}

const (
	positionVersion = 1
	maxPlace        = 1<<63 - 1 // of an epoch and an index
)

// ErrBadPosition says that a position is not what the voter signed.
var ErrBadPosition = errors.New("the signature of how far the quorum came does not verify")

// SignPosition signs as a voter of a practice, which is named by its founding entry.
func SignPosition(signer trust.Signer, practice trust.EntryID, s Seen) Position {
	p := Position{Seen: s, Voter: signer.Device()}
	copy(p.Signature[:], signer.Sign(trust.ContextPosition, s.message(practice)))
	return p
}

// Verify checks the signature. Whether the voter is one is left to MayHaveVoted.
func (p Position) Verify(practice trust.EntryID) error {
	if !trust.VerifySignature(p.Voter, trust.ContextPosition, p.message(practice), p.Signature[:]) {
		return fmt.Errorf("position of voter %v: %w", p.Voter, ErrBadPosition)
	}
	return nil
}

// MayHaveVoted reports whether a membership log has a device among those that a quorum may have had vote, whose word on it counts (decision 0067). What it says of
// somebody who was made less than he was, it takes back.
func MayHaveVoted(st *trust.State, d DeviceID) bool {
	m, ok := st.Member(d)
	return d == st.Founding().Device.ID || st.IsAnchor(d) || st.Former(d) || ok && (m.Role == trust.RoleAdmin || m.Role == trust.RoleServer)
}

// message is what is signed: 1 | founding entry (32) | epoch | index | chain (32).
func (s Seen) message(practice trust.EntryID) []byte {
	var w wire.Writer
	w.Byte(positionVersion)
	w.Raw(practice[:])
	s.write(&w)
	return w.Bytes()
}

func (s Seen) write(w *wire.Writer) {
	w.Uvarint(s.Epoch)
	w.Uvarint(s.Index)
	w.Raw(s.Chain[:])
}

func (s *Seen) read(r *wire.Reader) {
	s.Epoch = r.Uvarint(maxPlace)
	s.Index = r.Uvarint(maxPlace)
	r.Fixed(s.Chain[:])
}

// Marshal writes: 1 | epoch | index | chain (32) | voter (32) | signature (64). Of none it is nothing.
func (p Position) Marshal() []byte {
	if p == (Position{}) {
		return nil
	}
	var w wire.Writer
	w.Byte(positionVersion)
	p.write(&w)
	w.Raw(p.Voter[:])
	w.Raw(p.Signature[:])
	return w.Bytes()
}

// ParsePosition reads a position: shape and caps alone. Nothing is none.
func ParsePosition(b []byte) (p Position, err error) {
	if len(b) == 0 {
		return p, nil
	}
	if len(b) > MaxPosition {
		return p, fmt.Errorf("parse position: %w: over %d bytes", wire.ErrMalformed, MaxPosition)
	}
	r := wire.NewReader(b)
	if r.Byte() != positionVersion {
		r.Fail("version")
	}
	if p.read(r); p.Epoch == 0 {
		r.Fail("epoch")
	}
	r.Fixed(p.Voter[:])
	r.Fixed(p.Signature[:])
	if err := r.Close(); err != nil {
		return Position{}, fmt.Errorf("parse position: %w", err)
	}
	return p, nil
}

// SeenOf returns what positions say.
func SeenOf(list []Position) (seen []Seen) {
	for _, p := range list {
		seen = append(seen, p.Seen)
	}
	return seen
}
