package engine

import (
	"bytes"
	"slices"

	"chartmesh/crdt"
)

func compareHashes(a, b crdt.ChangeHash) int { return bytes.Compare(a[:], b[:]) }

// sortedHeads cuts 32-byte hashes apart.
func sortedHeads(b []byte) []crdt.ChangeHash {
	heads := make([]crdt.ChangeHash, len(b)/32)
	for i := range heads {
		copy(heads[i][:], b[32*i:])
	}
	slices.SortFunc(heads, compareHashes)
	return heads
}
