package anchor

import (
	"bytes"
	"errors"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

// FuzzValues reads what an anchor keeps beside chunks and entries: the first byte says what.
func FuzzValues(f *testing.F) {
	forms := []func([]byte) ([]byte, error){
		func(b []byte) ([]byte, error) {
			r, err := parseRecord(b)
			again := r.marshal()
			if err == nil && b[0] == 1 {
				again = append([]byte{1}, again[1:len(again)-len(r.Quota)]...) // which has none
			}
			return again, err
		},
		func(b []byte) ([]byte, error) {
			seed, err := parseIdentity(b)
			return append(bytes.Clone(identityMagic), seed...), err
		},
		func(b []byte) ([]byte, error) { done, err := parseDropped(b); return marshalDropped(done), err },
	}
	read := func(b []byte) (again []byte, err error) {
		if len(b) == 0 || int(b[0]) >= len(forms) {
			return nil, wire.ErrMalformed
		}
		again, err = forms[b[0]](b[1:])
		return append([]byte{b[0]}, again...), err
	}
	rec := record{Number: 300, By: trust.DeviceID{1}, Admitted: time.UnixMilli(1790000000000)}
	own := rec
	own.Quota = ownQuota{1, 0, 300, maxLimit + 1}
	old := rec.marshal()
	old = append([]byte{1}, old[1:len(old)-len(rec.Quota)]...)
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, rec.marshal()...), append(append([]byte{1}, identityMagic...), make([]byte, 32)...),
		append([]byte{0}, own.marshal()...), append([]byte{0}, old...), append([]byte{2}, marshalDropped(true)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%x: %v", b, err)
		case err == nil && !bytes.Equal(again, b):
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}
