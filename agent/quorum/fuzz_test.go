package quorum

import (
	"bytes"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
)

// FuzzValues reads names that this device keeps (first byte 0) and notes that any member may have sealed (1): what is taken is written the same.
func FuzzValues(f *testing.F) {
	read := func(b []byte) (again []byte, err error) {
		if b[0] == 0 {
			name, err := parseName(b[1:])
			return marshalName(name), err
		}
		n, err := parseNote(b[1:])
		return n.marshal(), err
	}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, marshalName(fuzzing.Canary)...),
		append([]byte{1}, note{}.marshal()...),
		append([]byte{1}, note{user: fuzzing.Canary, time: time.UnixMilli(1790000000000), subject: "Invoice/1", reason: "entered twice"}.marshal()...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] > 1 {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 16, 16<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b[1:]) {
			t.Errorf("%x comes back as %x", b[1:], again)
		}
	})
}
