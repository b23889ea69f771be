// Package fuzzing is what the fuzz targets of all packages have in common: seeds that are known to be good, a bound on
// memory, and a canary that no error may repeat.
//
// Guarantees: a target whose seeds are refused fails before it fuzzes, since such seeds reach nothing; what is measured
// counts every byte that was allocated, also those that were freed at once.
//
// Which decoder has which target stands in docs/fuzzing.md; Command fuzzall runs them all.
package fuzzing

import (
	"runtime"
	"strings"
	"testing"
)

// Canary stands for a patient in seeds. No five letters of it in a row occur in the words that errors are made of.
const Canary = "Xanthippe"

// Seeds adds good inputs: each must be taken by read.
func Seeds(f *testing.F, read func([]byte) error, seeds ...[]byte) {
	f.Helper()
	if len(seeds) == 0 {
		f.Fatal("there are no seeds")
	}
	for i, seed := range seeds {
		if err := read(seed); err != nil {
			f.Fatalf("seed %d is refused: %v", i, err)
		}
		f.Add(seed)
	}
}

// Quiet fails if an error repeats part of what it is about. The seeds of the target hold Canary.
func Quiet(t testing.TB, err error) {
	t.Helper()
	if err == nil {
		return
	}
	for text, i := strings.ToLower(err.Error()), 0; i+5 <= len(Canary); i++ {
		if strings.Contains(text, strings.ToLower(Canary[i:i+5])) {
			t.Errorf("an error repeats what it is about: %v", err)
			return
		}
	}
}

// Allocates fails if fn allocates more than perByte for each byte of its input and a fixed number besides. Whatever else
// the process does at the same time counts too, so that what seems too much is measured again.
func Allocates(t testing.TB, input, perByte, fixed int, fn func()) {
	t.Helper()
	limit := uint64(perByte)*uint64(input) + uint64(fixed)
	got := Allocated(fn)
	for range 4 {
		if got <= limit {
			return
		}
		got = min(got, Allocated(fn))
	}
	if got > limit {
		t.Errorf("%d bytes of input made it allocate %d bytes, over %d", input, got, limit)
	}
}

// Allocated returns how many bytes were allocated while fn ran.
func Allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}
