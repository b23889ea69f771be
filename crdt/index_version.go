package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// A version names the heads among the changes that touched a resource: each by its first 16 hex digits, ascending,
// joined by dots; more than three by "x" and 32 hex digits of the SHA-256 of their whole hashes, ascending.
const (
	maxVersionHeads = 3
	prefixSize      = 8
	foldedSize      = 16
)

// Version names a set of heads; none has the empty name.
func Version(heads []ChangeHash) string {
	sorted := slices.Clone(heads)
	slices.SortFunc(sorted, func(a, b ChangeHash) int { return bytes.Compare(a[:], b[:]) })
	sorted = slices.Compact(sorted)
	if len(sorted) > maxVersionHeads {
		sum := sha256.New()
		for _, h := range sorted {
			sum.Write(h[:])
		}
		return "x" + hex.EncodeToString(sum.Sum(nil)[:foldedSize])
	}
	parts := make([]string, len(sorted))
	for i, h := range sorted {
		parts[i] = hex.EncodeToString(h[:prefixSize])
	}
	return strings.Join(parts, ".")
}

// ParseVersion returns the beginnings of the hashes that a version names, ascending; none for the folded form, which
// can only be compared. It refuses every form that Version does not write.
func ParseVersion(version string) (prefixes [][8]byte, ok bool) {
	if rest, folded := strings.CutPrefix(version, "x"); folded {
		sum, err := hex.DecodeString(rest)
		return nil, err == nil && len(sum) == foldedSize && hex.EncodeToString(sum) == rest
	}
	parts := strings.Split(version, ".")
	if len(parts) > maxVersionHeads {
		return nil, false
	}
	for i, part := range parts {
		b, err := hex.DecodeString(part)
		if err != nil || len(b) != prefixSize || hex.EncodeToString(b) != part ||
			i > 0 && bytes.Compare(prefixes[i-1][:], b) > 0 {
			return nil, false
		}
		prefixes = append(prefixes, [8]byte(b))
	}
	return prefixes, true
}

// ResolveVersion returns the heads that a version of a resource names, and false if it is not known here: never made,
// not arrived yet, or folded and not the present one.
func (x *Index) ResolveVersion(key, version string) ([]ChangeHash, bool) {
	prefixes, ok := ParseVersion(version)
	k := x.keys[key]
	if !ok || k == nil {
		return nil, false
	}
	if present := hashes(k.heads); Version(present) == version {
		return present, true
	}
	var heads []ChangeHash
	for _, p := range prefixes {
		at := slices.IndexFunc(k.touched, func(n *indexed) bool { return [8]byte(n.Hash[:8]) == p })
		if at < 0 {
			return nil, false
		}
		heads = append(heads, k.touched[at].Hash)
	}
	if len(heads) == 0 || len(x.headsOf(heads)) != len(heads) {
		return nil, false
	}
	return heads, true
}
