package logs

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"iter"
	"maps"
	"slices"
	"sort"

	"chartmesh/chunk"
	"chartmesh/wire"
)

// A log that was written twice (a copy that was not noticed, a machine rolled back, a dishonest device) is a tree: each
// chunk names the one before it, and a chunk is only kept when that one is. What came first of each fork is the main history: it stands
// under storage.Chunk and is counted by the log head, all others under storage.Branch. Which is which depends on the order of arrival, so
// nothing that is shown or told may: a tree is told by its leaves.

// Fork is what stands beside the main history of a log. A nil Fork is that of a log with one history.
type Fork struct {
	nodes map[chunk.ID]node
	gone  map[chunk.ID]uint64 // damaged chunks that have not come again, with their counters

	reach   map[chunk.ID]bool // what held found, until something changes; nil: not known
	reachAt End
}

type node struct {
	counter uint64
	parent  chunk.ID
}

func newFork() *Fork { return &Fork{nodes: map[chunk.ID]node{}, gone: map[chunk.ID]uint64{}} }

func (f *Fork) clone() *Fork {
	if f == nil {
		return newFork()
	}
	return &Fork{nodes: maps.Clone(f.nodes), gone: maps.Clone(f.gone)}
}

// Len returns how many chunks stand beside the main history.
func (f *Fork) Len() int {
	if f == nil {
		return 0
	}
	return len(f.nodes)
}

// All yields the chunks beside the main history with their counters, in no order.
func (f *Fork) All() iter.Seq2[chunk.ID, uint64] {
	return func(yield func(chunk.ID, uint64) bool) {
		if f == nil {
			return
		}
		for id, n := range f.nodes {
			if !yield(id, n.counter) {
				return
			}
		}
	}
}

// Leaves returns the tree's ends, ascending by counter and ID. What lies behind a gap is kept and not part of it. The main
// history ends in one of its own, unless its end was taken back and another history goes on from where it stands now.
func (f *Fork) Leaves(head End) []End {
	inner, ends := map[chunk.ID]bool{}, make([]End, 0, len(f.nodes))
	held := f.held(head)
	for id := range held {
		inner[f.nodes[id].parent] = true
	}
	for id := range held {
		if !inner[id] {
			ends = append(ends, End{f.nodes[id].counter, id})
		}
	}
	if !inner[head.ID] {
		ends = append(ends, head)
	}
	slices.SortFunc(ends, compareEnds)
	return ends
}

// held returns the chunks beside the main history of which every one before is held.
func (f *Fork) held(head End) map[chunk.ID]bool {
	if f.reach != nil && f.reachAt == head {
		return f.reach
	}
	held, left := make(map[chunk.ID]bool, len(f.nodes)), make(map[chunk.ID]bool)
	for id := range f.nodes {
		var path []chunk.ID
		at, n := id, f.nodes[id]
		var ok bool
		for {
			if held[at] || left[at] {
				ok = held[at]
				break
			}
			path = append(path, at)
			next, within := f.nodes[n.parent]
			if !within {
				ok = n.counter <= head.Counter+1 && !f.lacks(n.parent)
				break
			}
			at, n = n.parent, next
		}
		for _, p := range path {
			if ok {
				held[p] = true
			} else {
				left[p] = true
			}
		}
	}
	f.reach, f.reachAt = held, head
	return held
}

// split returns how far the main history is known for sure to who holds the given positions, by where the branches that
// are known to them leave it, and the chunks of branches that are not known, ascending.
func (f *Fork) split(has []chunk.Position) (main uint64, rest []End) {
	at := map[chunk.Position]chunk.ID{}
	for id, n := range f.nodes {
		at[chunk.At(n.counter, id)] = id
	}
	known := map[chunk.ID]bool{}
	for _, p := range has {
		for id, ok := at[p]; ok && !known[id]; {
			known[id] = true
			n := f.nodes[id]
			id = n.parent
			if _, ok = f.nodes[id]; !ok {
				main = max(main, n.counter-1)
			}
		}
	}
	for id, n := range f.nodes {
		if !known[id] {
			rest = append(rest, End{n.counter, id})
		}
	}
	slices.SortFunc(rest, compareEnds)
	return main, rest
}

// Before returns where a log stood before the chunk beside its main history that ends in p, if there is one.
func (f *Fork) Before(p chunk.Position) (chunk.Position, bool) {
	if f == nil {
		return chunk.Position{}, false
	}
	for id, n := range f.nodes {
		if chunk.At(n.counter, id) == p {
			return chunk.At(p.Counter-1, n.parent), true
		}
	}
	return chunk.Position{}, false
}

// Has reports whether a chunk stands beside the main history.
func (f *Fork) Has(id chunk.ID) bool {
	if f == nil {
		return false
	}
	_, ok := f.nodes[id]
	return ok
}

// lacks reports whether a chunk was damaged and has not come again.
func (f *Fork) lacks(id chunk.ID) bool {
	_, ok := f.gone[id]
	return ok
}

// Missing counts the damaged chunks that are known to be missing beside the main history.
func (f *Fork) Missing() uint64 {
	if f == nil {
		return 0
	}
	return uint64(len(f.gone))
}

// Kept counts the chunks beside the main history, which ends at head, that hang behind a gap.
func (f *Fork) Kept(head End) int {
	if f == nil {
		return 0
	}
	return len(f.nodes) - len(f.held(head))
}

// joining finds where a run leaves the histories that are held.
func (f *Fork) joining(main *History, run chunk.Covered, head End) (sw switching, err error) {
	// What they have in common is a prefix. A run may be long, and its tips those of a liar, who gets fewer chunks read thus.
	end := min(head.Counter, run.To-1) + 1
	common := sort.Search(int(max(end, run.From-1)-(run.From-1)), func(i int) bool {
		var p chunk.Position
		if err == nil {
			p, err = main.At(run.From - 1 + uint64(i))
		}
		return err != nil || !run.Joins(p)
	})
	if err != nil {
		return sw, err
	}
	if common > 0 {
		return switching{fork: run.From - 2 + uint64(common)}, nil
	}
	var at End
	for id, n := range f.nodes {
		if n.counter > at.Counter && run.Joins(chunk.At(n.counter, id)) {
			at = End{n.counter, id}
		}
	}
	for n, ok := f.nodes[at.ID]; ok; n, ok = f.nodes[at.ID] {
		sw.in = append(sw.in, at)
		at = End{n.counter - 1, n.parent}
	}
	if len(sw.in) == 0 || at.Counter > head.Counter {
		return sw, errNoJoin
	}
	slices.Reverse(sw.in)
	sw.fork = at.Counter
	return sw, nil
}

func compareEnds(a, b End) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.ID[:], b.ID[:]))
}

// longest returns the leaf that stands for the log in a vector: the farthest, and of equally far ones the smallest.
func longest(leaves []End) End {
	best := leaves[len(leaves)-1]
	for _, l := range slices.Backward(leaves) {
		if l.Counter == best.Counter {
			best = l
		}
	}
	return best
}

// printOf names a tree: one with a single end, as a log that was never forked, by that.
func printOf(leaves []End) (print [32]byte) {
	if len(leaves) == 1 {
		p := leaves[0].Position()
		copy(print[:], p.Tip[:])
		return print
	}
	var w wire.Writer
	w.String("chartmesh branches 1")
	for _, l := range leaves {
		w.Uvarint(l.Counter)
		w.Raw(l.ID[:])
	}
	return sha256.Sum256(w.Bytes())
}

func comparePositions(a, b chunk.Position) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.Tip[:], b.Tip[:]))
}

// switching is how the main history of a log becomes another.
type switching struct {
	fork uint64 // up to where it stays
	in   []End  // what comes in the place of the rest, ascending, up to where a skip begins
}

// errNoJoin says that no history that is held goes on with a skip.
var errNoJoin = errors.New("no history of the log goes on with a skip")
