package local

import (
	"bytes"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
)

// FuzzKnown reads who votes, as this device keeps it.
func FuzzKnown(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseKnown(b); return err },
		known{}.marshal(),
		known{lockquorum.Place{Epoch: 1, Index: 300}, []lockquorum.Voter{{ID: 1, Device: lockquorum.DeviceID{1}}, {ID: 9}}}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		var k known
		var err error
		fuzzing.Allocates(t, len(b), 16, 16<<10, func() { k, err = parseKnown(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(k.marshal(), b) {
			t.Errorf("%x comes back as %x", b, k.marshal())
		}
	})
}

// FuzzReached reads what stands outside of a voter's folder.
func FuzzReached(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseReached(b); return err },
		Reached{}.encode(), Reached{Epoch: 1, Voter: 7, Term: 300, Index: 1 << 40}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > maxWitness {
			return // is not read
		}
		var r Reached
		var err error
		fuzzing.Allocates(t, len(b), 64, 16<<10, func() { r, err = parseReached(b) })
		if err == nil && !bytes.Equal(r.encode(), b) {
			t.Errorf("%q comes back as %q", b, r.encode())
		}
	})
}

// FuzzHeld reads until when a voter is held.
func FuzzHeld(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseHeld(b); return err }, marshalHeld(time.UnixMilli(0)), marshalHeld(time.UnixMilli(1<<41)))
	f.Fuzz(func(t *testing.T, b []byte) {
		var until time.Time
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { until, err = parseHeld(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(marshalHeld(until), b) {
			t.Errorf("%x comes back as %x", b, marshalHeld(until))
		}
	})
}
