package ranges

import (
	"bytes"
	"testing"
	"time"

	"chartmesh/internal/fuzzing"
)

// FuzzValues reads what the store has of a range (first byte 0), of a number (1) and of an item (2), and a mark (3): what is taken is written the same.
func FuzzValues(f *testing.F) {
	read := func(b []byte) (again []byte, err error) {
		switch b[0] {
		case 0:
			r, err := parseRecord(b[1:])
			return r.marshal(), err
		case 1:
			g, err := parseGift(b[1:])
			return g.marshal(), err
		case 2:
			n, err := parseNumber(b[1:])
			return marshalNumber(n), err
		}
		n, err := parseMark(b[1:])
		return encodeMark(n), err
	}
	rec := record{asked: true, parts: []part{{min: 0, max: 9, increment: 1, next: 10}, {min: 10, max: 20, increment: 3, next: 13, void: true, from: 21}}}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		append([]byte{0}, record{}.marshal()...), append([]byte{0}, rec.marshal()...),
		append([]byte{1}, gift{at: time.UnixMilli(1790000000000), item: fuzzing.Canary}.marshal()...), append([]byte{1}, gift{}.marshal()...),
		append([]byte{2}, marshalNumber(1<<40)...), append([]byte{3}, encodeMark(4711)...), append([]byte{3}, encodeMark(0)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] > 3 {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 64, 8<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b[1:]) {
			t.Errorf("%x comes back as %x", b[1:], again)
		}
	})
}
