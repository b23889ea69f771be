package chunk_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"chartmesh/chunk"
	"chartmesh/internal/fuzzing"
)

func id(n byte) chunk.ID     { return chunk.ID(bytes.Repeat([]byte{n}, 32)) }
func log(n byte) chunk.LogID { return chunk.LogID(bytes.Repeat([]byte{n}, 32)) }

func encode(t testing.TB, v chunk.Vector) []byte {
	t.Helper()
	b, err := v.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestVector(t *testing.T) {
	v := chunk.Vector{log(2): chunk.At(300, id(1)), log(1): chunk.At(1, id(2)), log(9): {}}
	b := encode(t, v)
	got, err := chunk.ParseVector(b)
	if err != nil || !got.Equal(v) || len(got) != 2 || got.Hash() != v.Hash() {
		t.Errorf("parsed %v, %v", got, err)
	}
	if (chunk.Vector{}).Hash() != (chunk.Vector)(nil).Hash() || v.Hash() == (chunk.Vector{}).Hash() {
		t.Error("hash of nothing")
	}
	twenty := chunk.Vector{}
	for i := range byte(20) {
		twenty[log(i)] = chunk.At(10_000, id(i))
	}
	if n := len(encode(t, twenty)); n > 1024 {
		t.Errorf("20 logs are %d bytes", n)
	} else {
		t.Logf("20 logs are %d bytes", n)
	}
	for i := range b {
		if _, err := chunk.ParseVector(b[:i]); err == nil {
			t.Errorf("the first %d bytes parse", i)
		}
	}
	newer := bytes.Clone(b)
	newer[3] = 2
	if _, err := chunk.ParseVector(newer); !errors.Is(err, chunk.ErrNewer) {
		t.Errorf("newer version: %v", err)
	}
	huge := chunk.Vector{}
	for i := range chunk.MaxLogs + 1 {
		huge[chunk.LogID{byte(i), byte(i >> 8)}] = chunk.At(1, id(1))
	}
	if _, err := huge.AppendBinary(nil); err == nil {
		t.Error("more logs than the cap")
	}
}

func TestCompare(t *testing.T) {
	a := chunk.Vector{log(1): chunk.At(5, id(1)), log(2): chunk.At(3, id(2)), log(3): chunk.At(7, id(3)), log(5): {}}
	b := chunk.Vector{log(1): chunk.At(2, id(9)), log(2): chunk.At(4, id(8)), log(3): chunk.At(7, id(4)), log(4): chunk.At(1, id(5))}
	d := a.Compare(b)
	if !slices.Equal(d.Ahead, []chunk.Gap{{Log: log(1), After: 2, To: 5}}) ||
		!slices.Equal(d.Behind, []chunk.Gap{{Log: log(2), After: 3, To: 4}, {Log: log(4), After: 0, To: 1}}) ||
		!slices.Equal(d.Forked, []chunk.LogID{log(3)}) || d.None() {
		t.Errorf("difference %+v", d)
	}
	back := b.Compare(a)
	if !slices.Equal(back.Ahead, d.Behind) || !slices.Equal(back.Behind, d.Ahead) || !slices.Equal(back.Forked, d.Forked) {
		t.Errorf("the other way round %+v", back)
	}
	if !a.Compare(a.Clone()).None() {
		t.Error("differs from itself")
	}
}

func TestMergeInAnyOrder(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	vector := func() chunk.Vector {
		v := chunk.Vector{}
		for range rng.IntN(6) {
			v[log(byte(rng.IntN(5)))] = chunk.At(1+rng.Uint64N(3), id(byte(rng.IntN(3))))
		}
		return v
	}
	for range 500 {
		a, b, c := vector(), vector(), vector()
		if !a.Merge(b).Equal(b.Merge(a)) || !a.Merge(b).Merge(c).Equal(a.Merge(b.Merge(c))) || !a.Merge(a).Equal(a) {
			t.Fatalf("seed %d: merge depends on order", seed)
		}
		if d := a.Merge(b).Compare(a); len(d.Behind) != 0 {
			t.Fatalf("seed %d: merge lost something", seed)
		}
		if (a.Hash() == b.Hash()) != a.Equal(b) {
			t.Fatalf("seed %d: hash and equality differ", seed)
		}
	}
}

func FuzzParseVector(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := chunk.ParseVector(b)
		return err
	}, encode(f, chunk.Vector{log(1): chunk.At(1, id(1)), log(2): chunk.At(1<<40, id(2))}), encode(f, nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v chunk.Vector
		var err error
		fuzzing.Allocates(t, len(b), 8, 16<<10, func() { v, err = chunk.ParseVector(b) })
		if err != nil {
			return
		}
		if !bytes.Equal(encode(t, v), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}

func FuzzParseSetHash(f *testing.F) {
	var seeds [][]byte
	for n := range byte(3) {
		var s chunk.SetHash
		for i := range n {
			s.Add([32]byte{i})
		}
		b, err := s.AppendBinary(nil)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := chunk.ParseSetHash(b)
		return err
	}, seeds...)
	f.Add(bytes.Repeat([]byte{255}, chunk.SetHashSize))
	f.Fuzz(func(t *testing.T, b []byte) {
		var s chunk.SetHash
		var err error
		fuzzing.Allocates(t, len(b), 0, 8<<10, func() { s, err = chunk.ParseSetHash(b) })
		if err != nil {
			return
		}
		if again, _ := s.AppendBinary(nil); !bytes.Equal(again, b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}

// A SetHash is held against the plain set.
func TestSetHash(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	var s chunk.SetHash
	in := map[byte]bool{}
	sums := map[[32]byte]string{}
	for range 300 {
		e := byte(rng.IntN(12))
		if in[e] {
			s.Remove([32]byte{e})
			delete(in, e)
		} else {
			s.Add([32]byte{e})
			in[e] = true
		}
		var key []byte
		for k := range in {
			key = append(key, k)
		}
		slices.Sort(key)
		var fresh chunk.SetHash
		for _, i := range rng.Perm(len(key)) {
			fresh.Add([32]byte{key[i]})
		}
		if !fresh.Equal(s) || fresh.Sum() != s.Sum() {
			t.Fatalf("seed %d: the hash depends on how the set came about", seed)
		}
		if old, ok := sums[s.Sum()]; ok && old != string(key) {
			t.Fatalf("seed %d: two sets with one hash", seed)
		}
		sums[s.Sum()] = string(key)
	}
	var empty chunk.SetHash
	for e := range in {
		s.Remove([32]byte{e})
	}
	if !s.Equal(empty) {
		t.Error("an emptied set is not the empty set")
	}
	empty.Add([32]byte{1})
	b, err := empty.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := chunk.ParseSetHash(b); err != nil || !got.Equal(empty) {
		t.Errorf("parsed: %v", err)
	}
	if _, err := chunk.ParseSetHash(b[1:]); err == nil {
		t.Error("a short state parses")
	}
	if _, err := chunk.ParseSetHash(bytes.Repeat([]byte{255}, chunk.SetHashSize)); err == nil {
		t.Error("a state above the modulus parses")
	}
}
