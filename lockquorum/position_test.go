package lockquorum_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/trust"
)

var positions = []lockquorum.Position{
	{Seen: lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: 300}, Chain: [32]byte{7}}, Voter: lockquorum.DeviceID{1}, Signature: [64]byte{9}},
	{Seen: lockquorum.Seen{Place: lockquorum.Place{Epoch: 1<<63 - 1, Index: 1<<63 - 1}}},
	{},
}

// FuzzParsePosition: what is read as a position is written the same.
func FuzzParsePosition(f *testing.F) {
	var seeds [][]byte
	for _, p := range positions {
		seeds = append(seeds, p.Marshal())
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := lockquorum.ParsePosition(b); return err }, seeds...)
	f.Add([]byte(fuzzing.Canary))
	fuzzing.Bent(f, seeds[:2])
	f.Fuzz(func(t *testing.T, b []byte) {
		var p lockquorum.Position
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { p, err = lockquorum.ParsePosition(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(p.Marshal(), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}

// signer signs as a device.
type signer struct{ key ed25519.PrivateKey }

func (s signer) Device() trust.DeviceID { return trust.DeviceID(s.key.Public().(ed25519.PublicKey)) }
func (s signer) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(s.key, trust.SigningInput(context, msg))
}

// TestPositionVerifies: a position is a voter's word on one place of one practice.
func TestPositionVerifies(t *testing.T) {
	keys, practice := signer{ed25519.NewKeyFromSeed(make([]byte, 32))}, trust.EntryID{1}
	p := lockquorum.SignPosition(keys, practice, positions[0].Seen)
	if err := p.Verify(practice); err != nil {
		t.Fatalf("what a voter signed: %v", err)
	}
	for what, bend := range map[string]func(*lockquorum.Position, *trust.EntryID){
		"another epoch":    func(p *lockquorum.Position, _ *trust.EntryID) { p.Epoch++ },
		"another index":    func(p *lockquorum.Position, _ *trust.EntryID) { p.Index++ },
		"another history":  func(p *lockquorum.Position, _ *trust.EntryID) { p.Chain[5]++ },
		"another voter":    func(p *lockquorum.Position, _ *trust.EntryID) { p.Voter[5]++ },
		"another practice": func(_ *lockquorum.Position, id *trust.EntryID) { id[5]++ },
	} {
		other, id := p, practice
		if bend(&other, &id); !errors.Is(other.Verify(id), lockquorum.ErrBadPosition) {
			t.Errorf("%s is taken for signed", what)
		}
	}
	var other lockquorum.Position
	copy(other.Signature[:], keys.Sign(trust.ContextCertificate, p.Marshal()))
	if other.Seen, other.Voter = p.Seen, p.Voter; !errors.Is(other.Verify(practice), lockquorum.ErrBadPosition) {
		t.Error("a signature of something else is taken")
	}
}

func seen(epoch, index uint64, chain byte) lockquorum.Seen {
	return lockquorum.Seen{Place: lockquorum.Place{Epoch: epoch, Index: index}, Chain: [32]byte{chain}}
}

// TestGoesOn: an answer that lacks what was shown is refused.
func TestGoesOn(t *testing.T) {
	answer := seen(3, 7, 1)
	for _, c := range []struct {
		shown lockquorum.Seen
		want  error
	}{
		{lockquorum.Seen{}, nil}, {seen(2, 900, 5), nil}, {seen(3, 6, 9), nil}, {answer, nil},
		{seen(3, 7, 2), lockquorum.ErrForked}, {seen(3, 8, 1), lockquorum.ErrForked}, {seen(4, 1, 1), lockquorum.ErrOver},
	} {
		if err := answer.GoesOn(seen(1, 1, 1), c.shown); !errors.Is(err, c.want) {
			t.Errorf("after %v: %v, want %v", c.shown, err, c.want)
		}
	}
}

// TestMemory: the latest of each kind is kept; of two histories both are shown.
func TestMemory(t *testing.T) {
	at := func(s lockquorum.Seen) lockquorum.Position { return lockquorum.Position{Seen: s} }
	var m lockquorum.Memory
	if len(m.Shows()) != 0 || m.Carries() != (lockquorum.Position{}) {
		t.Error("who has seen nothing shows something")
	}
	if !m.Told(at(seen(1, 5, 1))) || m.Told(at(seen(1, 4, 2))) || m.Told(at(seen(1, 5, 2))) || !m.Hear(at(seen(1, 5, 1))) {
		t.Error("what is earlier takes the place of what is later")
	}
	if got := m.Shows(); len(got) != 1 {
		t.Errorf("one thing is shown as %v", got)
	}
	if !m.Hear(at(seen(1, 9, 2))) {
		t.Error("what is later is not heard")
	}
	if got := m.Shows(); len(got) != 2 || got[0].Index != 5 || got[1].Index != 9 || m.Carries().Index != 9 {
		t.Errorf("two are shown as %v", got)
	}
	if !m.Told(at(seen(2, 1, 2))) || m.Carries().Epoch != 2 {
		t.Error("a later epoch is not later")
	}
}
