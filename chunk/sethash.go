package chunk

import (
	"crypto/sha3"
	"fmt"
	"math/big"

	"chartmesh/wire"
)

// SetHash names a set of 32-byte elements and is kept up to date as elements come and go, in any order. The zero value is
// the empty set, and the bytes are its whole state. It counts how often an element was added: add each once.
//
// It is MuHash with a modulus of 3,072 bits: each element is stretched by SHAKE128 to a number modulo the prime
// 2^3072 - 1103717, and the state is their product, less one, big endian. To make two sets with one hash somebody who
// chooses the elements freely must compute discrete logarithms in that group, about 2^128 work. (Adding SHA-256 hashes
// modulo 2^256 would be smaller, but the generalised birthday attack breaks it with some 2^32 work.) It stands against a
// member that hides a divergence; nothing secret depends on it.
type SetHash [SetHashSize]byte

// SetHashSize is the length of a SetHash.
const SetHashSize = 384

var setModulus = new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 8*SetHashSize), big.NewInt(1103717))

// Add takes element into the set.
func (s *SetHash) Add(element [32]byte) { s.multiply(stretch(element)) }

// Remove takes element, which must be in it, out of the set. It costs some ten times as much as Add.
func (s *SetHash) Remove(element [32]byte) {
	s.multiply(new(big.Int).ModInverse(stretch(element), setModulus))
}

// Equal reports whether both name the same set.
func (s SetHash) Equal(t SetHash) bool { return s == t }

// Sum returns 32 bytes that name the set.
func (s SetHash) Sum() [32]byte { return hash("chartmesh set 1", s[:]) }

// AppendBinary appends the state, SetHashSize bytes. It never fails.
func (s SetHash) AppendBinary(b []byte) ([]byte, error) { return append(b, s[:]...), nil }

// ParseSetHash reads what AppendBinary wrote.
func ParseSetHash(b []byte) (SetHash, error) {
	if len(b) != SetHashSize {
		return SetHash{}, fmt.Errorf("parse set hash: %w: length", wire.ErrMalformed)
	}
	s := SetHash(b)
	if new(big.Int).SetBytes(b).Cmp(new(big.Int).Sub(setModulus, bigOne)) >= 0 {
		return SetHash{}, fmt.Errorf("parse set hash: %w: not below the modulus", wire.ErrMalformed)
	}
	return s, nil
}

func (s *SetHash) multiply(by *big.Int) {
	x := new(big.Int).SetBytes(s[:])
	x.Add(x, bigOne).Mul(x, by).Mod(x, setModulus)
	x.Sub(x, bigOne).FillBytes(s[:])
}

var bigOne = big.NewInt(1)

// stretch maps an element to 1 … modulus-1.
func stretch(element [32]byte) *big.Int {
	x := sha3.NewSHAKE128()
	_, _ = x.Write([]byte("chartmesh set element 1"))
	_, _ = x.Write(element[:])
	out := make([]byte, SetHashSize)
	_, _ = x.Read(out)
	n := new(big.Int).SetBytes(out)
	if n.Mod(n, setModulus).Sign() == 0 {
		n.Set(bigOne) // nobody will ever see this
	}
	return n
}
