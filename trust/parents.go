package trust

import (
	"slices"
	"sort"
)

// Parents returns the entries that a new one names as its parents, ascending: those that stand and that no other one that stands
// follows, and some others if its author has to follow them too.
//
// An entry is judged by its ancestors alone. Which of them stand can hang on entries that do not stand themselves, where
// administrators remove each other in a circle: without one of the circle another would have prevailed. So that a new entry is
// judged by what this State says, and not by what it would say without them, such entries are among its parents as well, as far as
// MaxParents allows.
func (s *State) Parents(others ...EntryID) []EntryID {
	var list []*node
	add := func(n *node) {
		if n == nil || slices.ContainsFunc(list, func(m *node) bool { return m == n || m.follows(n) }) {
			return
		}
		list = append(slices.DeleteFunc(list, n.follows), n)
	}
	for _, id := range slices.Concat(s.tips, others) {
		add(s.nodes[id])
	}
	// Only what makes a difference is added, however much there is that makes none: where the first heads up to one suffice and those before
	// it do not, it is that one.
	for more := s.decided(); len(list) < MaxParents && !s.agrees(list); {
		at := sort.Search(len(more), func(i int) bool { return s.agrees(slices.Concat(list, more[:i+1])) })
		if at == len(more) {
			break
		}
		add(more[at])
		more = more[:at]
	}
	ids := make([]EntryID, 0, len(list))
	for _, n := range list[:min(len(list), MaxParents)] {
		ids = append(ids, n.ID())
	}
	slices.SortFunc(ids, compareEntryID)
	return ids
}

// decided returns the entries that no other one follows, but for undecided ones, in the log's order.
func (s *State) decided() (heads []*node) {
	followed := make([]bool, len(s.order))
	for _, n := range slices.Backward(s.order) {
		if !n.undecided && !followed[n.index] {
			heads = append(heads, n)
		}
		for _, p := range n.parents {
			followed[p.index] = followed[p.index] || !n.undecided || followed[n.index]
		}
	}
	slices.Reverse(heads)
	return heads
}

// agrees reports whether an entry with some parents is judged by what the State says: the same of its ancestors stand.
func (s *State) agrees(parents []*node) bool {
	n := &node{}
	for _, p := range parents {
		n.inherit(p)
	}
	n.before = s.before(n)
	return !slices.ContainsFunc(s.order, func(m *node) bool {
		_, then := n.before[m]
		_, now := s.out[m]
		return n.follows(m) && then != now
	})
}
