package chunk

import (
	"bytes"
	"errors"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/wire"
)

func certificate() *Certificate {
	return &Certificate{
		Document: [32]byte{1}, Statement: []byte{1, 2, 3}, Voter: [32]byte{2}, Signature: [64]byte{3}, Heads: [][32]byte{{4}, {5}},
	}
}

func plainOf(b Body) []byte {
	var w wire.Writer
	b.append(&w)
	return w.Bytes()
}

// TestParseCertificateRefuses holds each rule of docs/spec/protected-documents.md on the body of a CERTIFICATE.
func TestParseCertificateRefuses(t *testing.T) {
	if _, err := parseCertificate(plainOf(certificate())); err != nil {
		t.Fatal(err)
	}
	for name, bend := range map[string]func(*Certificate){
		"no document":        func(c *Certificate) { c.Document = [32]byte{} },
		"no statement":       func(c *Certificate) { c.Statement = nil },
		"long statement":     func(c *Certificate) { c.Statement = make([]byte, MaxStatement+1) },
		"heads out of order": func(c *Certificate) { c.Heads = [][32]byte{{5}, {4}} },
		"a head twice":       func(c *Certificate) { c.Heads = [][32]byte{{5}, {5}} },
		"too many heads":     func(c *Certificate) { c.Heads = make([][32]byte, MaxHeads+1) },
	} {
		c := certificate()
		bend(c)
		if c.check() == nil {
			t.Errorf("%s: it would be sealed", name)
		}
		if _, err := parseCertificate(plainOf(c)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := plainOf(certificate())
	for i := range whole {
		if _, err := parseCertificate(whole[:i]); err == nil {
			t.Fatalf("the first %d bytes parse", i)
		}
	}
	if _, err := parseCertificate(append(bytes.Clone(whole), 0)); err == nil {
		t.Error("a byte more parses")
	}
	for version, want := range map[byte]error{0: wire.ErrMalformed, certificateVersion + 1: ErrNewer} {
		other := bytes.Clone(whole)
		other[32] = version
		if _, err := parseCertificate(other); !errors.Is(err, want) {
			t.Errorf("version %d: %v", version, err)
		}
	}
}

func FuzzParseCertificate(f *testing.F) {
	full, least := certificate(), certificate()
	full.Statement = []byte(fuzzing.Canary)
	least.Heads = nil
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := parseCertificate(b)
		return err
	}, plainOf(full), plainOf(least))
	claims := plainOf(least)
	f.Add(append(claims[:len(claims)-1], MaxHeads)) // and nothing behind
	f.Fuzz(func(t *testing.T, b []byte) {
		var c *Certificate
		var err error
		fuzzing.Allocates(t, len(b), 8, 16<<10, func() { c, err = parseCertificate(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(plainOf(c), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
