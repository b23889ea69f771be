package storage

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/wire"
)

// FuzzAmount reads what a share notes of what it holds.
func FuzzAmount(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error { _, err := parseAmount(b); return err },
		Amount{Bytes: 300, Chunks: 2, Stored: time.UnixMilli(1790000000000)}.marshal())
	f.Fuzz(func(t *testing.T, b []byte) {
		var a Amount
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { a, err = parseAmount(b) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%x: %v", b, err)
		case err == nil && !bytes.Equal(a.marshal(), b):
			t.Errorf("%x comes back as %x", b, a.marshal())
		}
	})
}
