package p2p

import (
	"bytes"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// FuzzIntroduction reads what members and newcomers say to a relay, and what it answers: the first byte says which.
func FuzzIntroduction(f *testing.F) {
	read := func(b []byte) ([]byte, error) {
		if len(b) > 0 && b[0] == 1 {
			a, err := parseIntroduced(b[1:])
			return append([]byte{1}, a.encode()...), err
		}
		if len(b) == 0 {
			b = []byte{0}
		}
		q, err := parseIntroduction(b[1:])
		if err != nil {
			return nil, err
		}
		return append([]byte{b[0]}, q.encode()...), nil
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, introduction{takes: []lan.Locator{1, 1 << 22}}.encode()...),
		append([]byte{0}, introduction{}.encode()...),
		append([]byte{0}, introduction{asks: true, takes: []lan.Locator{77}}.encode()...),
		append([]byte{1}, introduced{trust.DeviceID{1}, trust.DeviceID{2}}.encode()...))
	f.Add(append([]byte{0}, fuzzing.Canary...))
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 32, 4<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b) {
			t.Errorf("%x comes back as %x", b, again)
		}
	})
}
