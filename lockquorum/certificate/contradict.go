package certificate

import (
	"slices"

	"chartmesh/lockquorum"
)

// contradict reports whether two statements of one document cannot both be true. A quorum that is founded anew may know less than that of the
// epoch before.
func contradict(a, b *Statement) bool {
	if a.Place.Compare(b.Place) > 0 {
		a, b = b, a
	}
	none := lockquorum.Place{}
	switch {
	case *a == *b:
		return false
	case a.At != none && a.At == b.At && (a.Heads != b.Heads || a.Under != b.Under):
		return true
	case a.Place.Epoch != b.Place.Epoch:
		return false
	case a.Place == b.Place:
		return true
	case a.At != none && a.At == b.At && a.Previous != b.Previous:
		return true
	case b.Token.Compare(a.Token) < 0, b.At.Compare(a.At) < 0:
		return true
	case a.Token == b.Token && a.How != 0 && (b.How != a.How || b.EndedAt != a.EndedAt):
		return true
	case a.Token == b.Token && a.How == 0 && b.How != 0 && b.EndedAt.Compare(a.Place) <= 0:
		return true
	}
	return false
}

// contradicted returns which statements another one contradicts, in time that grows little faster than their number.
func contradicted(list []Certified) []bool {
	bad := make([]bool, len(list))
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	st := func(i int) *Statement { return &list[order[i]].Statement }
	slices.SortStableFunc(order, func(i, j int) int { return list[i].Place.Compare(list[j].Place) })
	for from := 0; from < len(order); {
		to := from
		for ; to < len(order) && st(to).Place.Epoch == st(from).Place.Epoch; to++ {
		}
		inEpoch(list, order[from:to], bad)
		from = to
	}
	// Whatever epoch it is told in, a command certified one thing.
	byAt := map[lockquorum.Place][]int{}
	for i := range list {
		if list[i].Heads != (lockquorum.Heads{}) {
			byAt[list[i].At] = append(byAt[list[i].At], i)
		}
	}
	for _, group := range byAt {
		first := &list[group[0]]
		if slices.ContainsFunc(group, func(i int) bool { return list[i].Heads != first.Heads || list[i].Under != first.Under }) {
			markAll(bad, group)
		}
	}
	return bad
}

// inEpoch finds the contradictions within one epoch. order names its statements by place.
func inEpoch(list []Certified, order []int, bad []bool) {
	var at, token lockquorum.Place // the greatest so far, of smaller places
	for from := 0; from < len(order); {
		to := from
		for ; to < len(order) && list[order[to]].Place == list[order[from]].Place; to++ {
		}
		same := order[from:to]
		if slices.ContainsFunc(same, func(i int) bool { return list[i].Statement != list[same[0]].Statement }) {
			markAll(bad, same)
		}
		for _, i := range same {
			bad[i] = bad[i] || list[i].Token.Compare(token) < 0 || list[i].At.Compare(at) < 0
		}
		for _, i := range same {
			token, at = later(token, list[i].Token), later(at, list[i].At)
		}
		from = to
	}
	// And backwards, for the other one of each pair.
	none := true
	for to := len(order); to > 0; {
		from := to
		for ; from > 0 && list[order[from-1]].Place == list[order[to-1]].Place; from-- {
		}
		for _, i := range order[from:to] {
			bad[i] = bad[i] || !none && (list[i].Token.Compare(token) > 0 || list[i].At.Compare(at) > 0)
		}
		for _, i := range order[from:to] {
			if none {
				token, at, none = list[i].Token, list[i].At, false
			}
			token, at = earlier(token, list[i].Token), earlier(at, list[i].At)
		}
		to = from
	}
	// Of one certified heads, and of one lease.
	byAt, byToken := map[lockquorum.Place][]int{}, map[lockquorum.Token][]int{}
	for _, i := range order {
		if list[i].Heads != (lockquorum.Heads{}) {
			byAt[list[i].At] = append(byAt[list[i].At], i)
		}
		byToken[list[i].Token] = append(byToken[list[i].Token], i)
	}
	for _, group := range byAt {
		if slices.ContainsFunc(group, func(i int) bool { return list[i].Previous != list[group[0]].Previous }) {
			markAll(bad, group)
		}
	}
	for _, group := range byToken {
		ends(list, group, bad)
	}
}

// ends finds the contradictions in what statements say of the end of one lease.
func ends(list []Certified, group []int, bad []bool) {
	type end struct {
		how lockquorum.How
		at  lockquorum.Place
	}
	said := map[end]bool{}
	var held lockquorum.Place // the last place at which it was held
	for _, i := range group {
		if s := &list[i]; s.How == 0 {
			held = later(held, s.Place)
		} else {
			said[end{s.How, s.EndedAt}] = true
		}
	}
	for _, i := range group {
		switch s := &list[i]; {
		case s.How != 0:
			bad[i] = bad[i] || len(said) > 1 || held != (lockquorum.Place{}) && held.Compare(s.EndedAt) >= 0
		default:
			for e := range said {
				bad[i] = bad[i] || s.Place.Compare(e.at) >= 0
			}
		}
	}
}

func markAll(bad []bool, group []int) {
	for _, i := range group {
		bad[i] = true
	}
}

func later(a, b lockquorum.Place) lockquorum.Place {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

func earlier(a, b lockquorum.Place) lockquorum.Place {
	if a.Compare(b) > 0 {
		return b
	}
	return a
}
