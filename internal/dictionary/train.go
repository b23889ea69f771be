package main

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

const (
	window   = 8  // bytes that are counted together
	shortest = 12 // string that is worth its place
)

type shingle [window]byte

// train collects strings of which every eight bytes occur in at least least groups, so that what a single group has
// stays out, and puts the ones that save most last, where references to them are shortest.
func train(groups [][][]byte, least, size int) []byte {
	seen := count(groups)
	in := map[string]int{} // strings of common shingles, and in how many samples they are
	for _, group := range groups {
		for _, sample := range group {
			once := map[string]bool{} // what a sample repeats refers to itself
			start := -1
			for i := 0; i <= len(sample); i++ {
				common := i+window <= len(sample) && seen[shingle(sample[i:i+window])] >= least
				if common && start < 0 {
					start = i
				} else if !common && start >= 0 {
					once[string(sample[start:i-1+window])] = true
					start = -1
				}
			}
			for s := range once {
				in[s]++
			}
		}
	}
	type candidate struct {
		text   string
		weight int
	}
	var list []candidate
	for text, n := range in {
		if len(text) >= shortest && n > 1 {
			list = append(list, candidate{text, n * len(text)})
		}
	}
	slices.SortFunc(list, func(a, b candidate) int {
		return cmp.Or(-cmp.Compare(a.weight, b.weight), cmp.Compare(a.text, b.text))
	})
	have := map[shingle]bool{}
	var parts []string
	for _, c := range list {
		for _, text := range fresh(c.text, have) {
			if len(text) > size {
				continue
			}
			for i := 0; i+window <= len(text); i++ {
				have[shingle([]byte(text[i:i+window]))] = true
			}
			parts = append(parts, text)
			size -= len(text)
		}
	}
	slices.Reverse(parts)
	var out bytes.Buffer
	for _, p := range parts {
		out.WriteString(p)
	}
	return out.Bytes()
}

// count says in how many groups every eight bytes are.
func count(groups [][][]byte) map[shingle]int {
	seen, last := map[shingle]int{}, map[shingle]int{}
	for g, group := range groups {
		for _, sample := range group {
			for i := 0; i+window <= len(sample); i++ {
				k := shingle(sample[i : i+window])
				if l, ok := last[k]; !ok || l != g {
					last[k] = g
					seen[k]++
				}
			}
		}
	}
	return seen
}

// fresh returns the parts of text that are not there already: all of it when most is new, else what is new.
func fresh(text string, have map[shingle]bool) []string {
	var parts []string
	start, found := -1, 0
	for i := 0; i <= len(text); i++ {
		isNew := i+window <= len(text) && !have[shingle([]byte(text[i:i+window]))]
		if isNew {
			found++
			if start < 0 {
				start = i
			}
		} else if start >= 0 {
			if part := text[start : i-1+window]; len(part) >= shortest {
				parts = append(parts, part)
			}
			start = -1
		}
	}
	if 4*found >= 3*(len(text)-window+1) {
		return []string{text}
	}
	return parts
}

// digest is a hash of all samples in their order.
func digest(groups [][][]byte) [sha256.Size]byte {
	h := sha256.New()
	number := func(n int) { h.Write(binary.BigEndian.AppendUint64(nil, uint64(n))) }
	for _, group := range groups {
		number(len(group))
		for _, sample := range group {
			number(len(sample))
			h.Write(sample)
		}
	}
	return [sha256.Size]byte(h.Sum(nil))
}
