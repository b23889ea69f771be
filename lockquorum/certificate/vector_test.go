package certificate_test

import (
	"encoding/hex"
	"os"
	"strings"
	"testing"

	"chartmesh/lockquorum/certificate"
)

// TestVector holds the example of docs/spec/protected-documents.md.
func TestVector(t *testing.T) {
	spec, err := os.ReadFile("../../docs/spec/protected-documents.md")
	must(t, err)
	list := life(t)
	s := list[5].Statement // where the second lease is held
	signed, err := certificate.Sign(newVoter(1), s)
	must(t, err)
	lockID, doc, h := key.Lock(lock), key.Document(document), heads(certificate.Hash{1}, certificate.Hash{2})
	for name, want := range map[string][]byte{
		"lock": lockID[:], "document": doc[:], "heads": h[:], "statement": signed.Statement, "signature": signed.Signature[:],
	} {
		if !strings.Contains(string(spec), hex.EncodeToString(want)) {
			t.Errorf("the specification has another %s than %x", name, want)
		}
	}
}
