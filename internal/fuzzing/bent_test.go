package fuzzing

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestBend: inputs differ from what they are made of, come again with the same seed, and leave that alone.
func TestBend(t *testing.T) {
	good := []byte("some bytes of a good input, long enough to be bent")
	was, other, again := bytes.Clone(good), rand.New(rand.NewPCG(1, 0)), rand.New(rand.NewPCG(1, 0))
	differ, lengths := 0, map[int]bool{}
	for range 1000 {
		bent := Bend(other, good)
		if !bytes.Equal(bent, Bend(again, good)) {
			t.Fatal("the same seed makes another input")
		}
		if !bytes.Equal(bent, good) {
			differ++
		}
		lengths[len(bent)] = true
	}
	if !bytes.Equal(good, was) {
		t.Error("the good input was changed")
	}
	if differ < 900 || len(lengths) < 30 {
		t.Errorf("%d of 1000 differ, in %d lengths", differ, len(lengths))
	}
	if got := Bend(other, nil); len(got) > 8 {
		t.Errorf("nothing became %d bytes", len(got))
	}
}
