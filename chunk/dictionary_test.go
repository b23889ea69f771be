package chunk

import (
	"crypto/sha256"
	"encoding/hex"
	"testing"
)

// A dictionary must be the same everywhere for ever.
func TestDictionary1(t *testing.T) {
	const want = "f3921b441f934fbeb0cc6cd1c5f9ccd62779ac6bcadd1e62f14077ec201da9ab"
	sum := sha256.Sum256(dictionary1)
	if got := hex.EncodeToString(sum[:]); got != want {
		t.Errorf("dictionary 1 has hash %s, want %s", got, want)
	}
}
