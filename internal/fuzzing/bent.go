package fuzzing

import (
	"bytes"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
)

// heavyInputs is how many bent inputs a target gets with HEAVY=1: over all targets some hundred thousand.
const heavyInputs = 10_000

// Bent adds, with HEAVY=1 or BENT_INPUTS=n, so many inputs made of the good ones by a seeded hand: bits flipped, pieces cut off,
// put in or copied, numbers without end. They are a run that can be repeated and counted, beside what Go's fuzzer finds by
// coverage: a failure names the input, and BENT_SEED makes the same ones again. What a target takes beside the bytes stands in
// with.
func Bent(f *testing.F, seeds [][]byte, with ...any) {
	f.Helper()
	n := number("BENT_INPUTS", 0)
	if n == 0 && os.Getenv("HEAVY") != "" {
		n = heavyInputs
	}
	if n == 0 || len(seeds) == 0 {
		return
	}
	seed := number("BENT_SEED", rand.Uint64())
	f.Logf("%d bent inputs; the same again: BENT_SEED=%d BENT_INPUTS=%d go test -run '^%s$'", n, seed, n, f.Name())
	rng := rand.New(rand.NewPCG(seed, 0))
	for range n {
		f.Add(append([]any{Bend(rng, seeds[rng.IntN(len(seeds))])}, with...)...)
	}
}

func number(name string, otherwise uint64) uint64 {
	if v, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
		return v
	}
	return otherwise
}

// Bend returns a copy of b in which one to four things are wrong.
func Bend(rng *rand.Rand, b []byte) []byte {
	b = bytes.Clone(b)
	special := []byte{0, 1, 2, 0x3f, 0x40, 0x7f, 0x80, 0xff}
	for range 1 + rng.IntN(4) {
		at := rng.IntN(len(b) + 1)
		end := at + rng.IntN(min(len(b)-at, 16)+1)
		switch rng.IntN(8) {
		case 0:
			b = b[:at]
		case 1:
			b = append(b[:at:at], b[end:]...)
		case 2:
			b = append(b[:at:at], append([]byte{special[rng.IntN(len(special))]}, b[at:]...)...)
		case 3:
			b = append(b[:at:at], append(bytes.Clone(b[at:end]), b[at:]...)...)
		case 4: // a number without end
			for i := at; i < end; i++ {
				b[i] |= 0x80
			}
		case 5:
			from := rng.IntN(len(b) + 1)
			copy(b[at:], b[from:min(from+16, len(b))])
		default:
			if at < len(b) {
				if rng.IntN(2) == 0 {
					b[at] = special[rng.IntN(len(special))]
				} else {
					b[at] ^= 1 << rng.IntN(8)
				}
			}
		}
	}
	return b
}
