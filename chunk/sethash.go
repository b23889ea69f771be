package chunk

import (
	"crypto/sha3"
	"encoding/binary"
	"fmt"

	"chartmesh/wire"
)

// SetHash names a set of 32-byte elements, and can be kept up to date as elements come and go, in any order. The zero
// value is the empty set. Elements must be added once each: it hashes a multiset, modulo 65536 of one element.
//
// It is LtHash: each element is stretched by SHAKE128 to 1,024 numbers of 16 bits, which are added modulo 2^16. To make
// two sets with one hash somebody who chooses elements freely must solve a short-vector problem in a lattice of
// dimension 1,024 (about 200 bits of work by published estimates). Adding 32-byte hashes modulo 2^256 would be smaller,
// but the generalised birthday attack breaks that with some 2^32 work.
type SetHash struct{ sums [setHashLanes]uint16 }

const setHashLanes = 1024

// SetHashSize is the length of AppendBinary's result.
const SetHashSize = 2 * setHashLanes

// Add takes element into the set.
func (s *SetHash) Add(element [32]byte) {
	lanes := stretch(element)
	for i := range s.sums {
		s.sums[i] += binary.LittleEndian.Uint16(lanes[2*i:])
	}
}

// Remove takes element, which must be in it, out of the set.
func (s *SetHash) Remove(element [32]byte) {
	lanes := stretch(element)
	for i := range s.sums {
		s.sums[i] -= binary.LittleEndian.Uint16(lanes[2*i:])
	}
}

// Equal reports whether both name the same set.
func (s *SetHash) Equal(t *SetHash) bool { return s.sums == t.sums }

// Sum returns 32 bytes that name the set.
func (s *SetHash) Sum() [32]byte {
	b, _ := s.AppendBinary(nil)
	return hash("chartmesh set 1", b)
}

// AppendBinary appends the state, SetHashSize bytes, to be kept and continued. It never fails.
func (s *SetHash) AppendBinary(b []byte) ([]byte, error) {
	for _, v := range s.sums {
		b = binary.LittleEndian.AppendUint16(b, v)
	}
	return b, nil
}

// ParseSetHash reads what AppendBinary wrote.
func ParseSetHash(b []byte) (SetHash, error) {
	var s SetHash
	if len(b) != SetHashSize {
		return s, fmt.Errorf("parse set hash: %w: length", wire.ErrMalformed)
	}
	for i := range s.sums {
		s.sums[i] = binary.LittleEndian.Uint16(b[2*i:])
	}
	return s, nil
}

func stretch(element [32]byte) []byte {
	x := sha3.NewSHAKE128()
	_, _ = x.Write([]byte("chartmesh set element 1"))
	_, _ = x.Write(element[:])
	out := make([]byte, SetHashSize)
	_, _ = x.Read(out)
	return out
}
