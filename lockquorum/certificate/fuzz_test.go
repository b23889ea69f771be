package certificate_test

import (
	"bytes"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum/certificate"
)

// FuzzParse: what is read as a statement is written the same.
func FuzzParse(f *testing.F) {
	var seeds [][]byte
	for _, c := range life(f) {
		seeds = append(seeds, c.Marshal())
	}
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := certificate.Parse(b)
		return err
	}, seeds...)
	f.Add([]byte(fuzzing.Canary))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s certificate.Statement
		var err error
		fuzzing.Allocates(t, len(b), 4, 4<<10, func() { s, err = certificate.Parse(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(s.Marshal(), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
