package crdt

import (
	"math/rand/v2"
	"testing"
)

// For the tests with the real engine, which cannot be in this package.
var (
	EncodeChange = encodeChange
	Reseal       = reseal
)

// History returns a random history by the rules or, if not honest, with some changes against them.
func History(t testing.TB, rng *rand.Rand, n int, honest bool) []*Change {
	w := newWorld(rng)
	w.honest = honest
	for range n {
		w.step(t)
	}
	return w.changes
}
