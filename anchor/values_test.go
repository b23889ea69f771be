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
		func(b []byte) ([]byte, error) { r, err := parseRecord(b); return r.marshal(), err },
		func(b []byte) ([]byte, error) {
			seed, err := parseIdentity(b)
			return append(bytes.Clone(identityMagic), seed...), err
		},
	}
	read := func(b []byte) (again []byte, err error) {
		if len(b) == 0 || int(b[0]) >= len(forms) {
			return nil, wire.ErrMalformed
		}
		again, err = forms[b[0]](b[1:])
		return append([]byte{b[0]}, again...), err
	}
	rec := record{Number: 300, By: trust.DeviceID{1}, Admitted: time.UnixMilli(1790000000000)}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, rec.marshal()...), append(append([]byte{1}, identityMagic...), make([]byte, 32)...))
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
