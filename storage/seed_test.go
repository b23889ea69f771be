package storage_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"testing"
)

// testSeed is the same each time, or a new one in the heavy suite, or the one that STORAGE_SEED names.
func testSeed(t testing.TB) uint64 {
	seed := uint64(20261122)
	if os.Getenv("HEAVY") != "" {
		seed = rand.Uint64()
	}
	if s := os.Getenv("STORAGE_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("run again with: STORAGE_SEED=%d go test -run '^%s$' ./storage", seed, t.Name())
	return seed
}
