package trust

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
)

// plain weighs entries as docs/spec/membership-log.md describes it: every entry against every other, over and over until nothing
// changes. It is what the quick way of standing.go is held against.
type plain struct {
	s       *State
	sees    func(*node) bool
	nodes   []*node // ancestors before descendants
	labels  map[*node]label
	out     outs
	against map[*node][]plainAttack
	sealed  map[*node][]*node // checkpoints that are sealed, each with those who agreed
}

type plainAttack struct {
	by  *node
	why Why
}

// standing returns the entries that do not stand of those at or before at (nil: of all).
func (s *State) plainStanding(at *node) outs {
	sees := func(n *node) bool { return !n.undecided && (at == nil || at.follows(n)) }
	var attackers []*node
	for _, n := range s.order {
		switch n.p.states.(type) {
		case *Removal, *Promotion, *Recovery, *Checkpoint:
			if sees(n) {
				attackers = append(attackers, n)
			}
		}
	}
	if len(attackers) == 0 {
		return nil
	}
	w := &plain{
		s: s, sees: sees, labels: map[*node]label{}, out: outs{}, against: map[*node][]plainAttack{}, sealed: map[*node][]*node{},
	}
	for _, n := range s.order {
		if sees(n) {
			w.nodes = append(w.nodes, n)
		}
	}
	for _, n := range attackers {
		if c, ok := n.p.states.(*Checkpoint); ok && c.Of == (EntryID{}) {
			if agreed := w.agreed(n); agreed != nil {
				w.sealed[n] = agreed
			}
		}
	}
	contested := false
	for _, n := range w.nodes {
		for _, by := range attackers {
			if why := w.attacks(by, n); why != "" {
				w.against[n] = append(w.against[n], plainAttack{by, why})
				contested = true
			}
		}
	}
	if !contested {
		return nil
	}
	for w.spread() {
		w.breakCircles()
	}
	for n := range w.out {
		w.out[n] = w.reason(n)
	}
	return w.out
}

// reason says why an entry fell. Several reasons may have come true, in one order or another; of these it is always the same.
func (w *plain) reason(n *node) Void {
	var by *plainAttack
	for i, a := range w.against[n] {
		if w.labels[a.by] == stands && (by == nil || compareNodes(a.by, by.by) < 0) {
			by = &w.against[n][i]
		}
	}
	if by != nil {
		return Void{by.why, by.by.ID()}
	}
	if !w.supported(n) {
		return Void{Why: WhyUnsupported}
	}
	var over *node
	for _, m := range w.nodes {
		if w.labels[m] == stands && (over == nil || compareNodes(m, over) < 0) &&
			slices.ContainsFunc(w.against[m], func(a plainAttack) bool { return a.by == n }) {
			over = m
		}
	}
	return Void{WhyOutranked, over.ID()}
}

// attacks says why n does not stand if by does, or nothing.
func (w *plain) attacks(by, n *node) Why {
	if by == n || by.follows(n) || n.follows(by) {
		return ""
	}
	author := n.Author()
	switch m := by.p.states.(type) {
	case *Removal:
		if m.Device == author {
			return WhyRemoved
		}
	case *Promotion:
		if by.demotes && m.Device == author {
			return WhyDemoted
		}
	case *Recovery:
		if _, both := n.p.states.(*Recovery); both || by.p.cosigned(m.Replaced) && m.Replaced == author {
			return WhyReplaced
		}
	case *Checkpoint:
		agreed := w.sealed[by]
		if agreed == nil || w.byRoot(n) || !w.concerns(by, agreed, n) {
			return ""
		}
		if !slices.ContainsFunc(agreed, func(a *node) bool { return a == n || a.follows(n) }) {
			return WhyLate
		}
	}
	return ""
}

// concerns reports whether a checkpoint may keep an entry from standing: it knows of the entry's author, and the entry of another
// than its author who agreed. Else who was once the only administrator could seal, from there on, a practice without all the others.
// What the checkpoint does not reach thereby stands on what it does reach, or is of one who was alone.
func (w *plain) concerns(checkpoint *node, agreed []*node, n *node) bool {
	author := n.Author()
	return slices.ContainsFunc(w.s.about[author], checkpoint.follows) && slices.ContainsFunc(agreed, func(a *node) bool {
		return a.Author() != author && slices.ContainsFunc(w.s.about[a.Author()], n.follows)
	})
}

// agreed returns the entries by which every administrator of a checkpoint's ancestors first agreed to it, and nil if one
// has not. What one of them had seen when he agreed does not come late.
func (w *plain) agreed(c *node) []*node {
	agreed := []*node{c}
	for id := range w.s.about {
		if st := c.view(w.s).status(id); st.role != RoleAdmin || id == c.Author() {
			continue
		}
		var first []*node
		for _, n := range w.s.order {
			if m, ok := n.p.states.(*Checkpoint); ok && n.Author() == id && m.Of == c.ID() && w.sees(n) {
				first = append(first, n)
			}
		}
		first = slices.DeleteFunc(slices.Clone(first), func(n *node) bool { return slices.ContainsFunc(first, n.follows) })
		if len(first) == 0 {
			return nil
		}
		agreed = append(agreed, first...)
	}
	return agreed
}

// spread labels whatever follows from what is labelled, and reports whether anything is left open.
func (w *plain) spread() (left bool) {
	for changed := true; changed; {
		changed, left = false, false
		for _, n := range w.nodes {
			if w.labels[n] != open {
				continue
			}
			if w.label(n); w.labels[n] != open {
				changed = true
			} else {
				left = true
			}
		}
	}
	return left
}

func (w *plain) label(n *node) {
	undecided := false
	for _, a := range w.against[n] {
		switch w.labels[a.by] {
		case stands:
			w.fall(n)
			return
		case open:
			undecided = true
		}
	}
	if slices.ContainsFunc(w.supporters(n), func(m *node) bool { return w.labels[m] == open }) {
		return
	}
	if !w.supported(n) {
		w.fall(n)
	} else if !undecided {
		w.labels[n] = stands
	}
}

// fall labels an entry; its reason is found when everything is labelled.
func (w *plain) fall(n *node) { w.labels[n], w.out[n] = falls, Void{} }

// supporters are the ancestors on which it depends whether n's author had the right to make it.
func (w *plain) supporters(n *node) (list []*node) {
	for _, m := range slices.Concat(w.s.about[n.Author()], w.s.recoveries) {
		if n.follows(m) {
			list = append(list, m)
		}
	}
	return list
}

func (w *plain) supported(n *node) bool {
	if n.p.states == nil {
		return true
	}
	if _, ok := n.p.states.(*Founding); ok {
		return true
	}
	return view{w.s, n, w.out}.mayAuthor(n)
}

// byRoot reports whether an entry is a root key's.
func (w *plain) byRoot(n *node) bool {
	return n.Author() == w.s.founding.Root || slices.ContainsFunc(w.s.recoveries, func(r *node) bool {
		return w.sees(r) && r.p.states.(*Recovery).Root == n.Author()
	})
}

// breakCircles lets the foremost entry of each circle stand, against those that attack it. Only circles that depend on
// nothing else that is open are broken.
func (w *plain) breakCircles() {
	for _, circle := range w.circles() {
		var best *node
		for _, n := range circle {
			if slices.ContainsFunc(w.supporters(n), func(m *node) bool { return w.labels[m] == open }) {
				continue // depends on an earlier one of the circle
			}
			if best == nil || w.before(n, best, circle) {
				best = n
			}
		}
		w.labels[best] = stands
		for _, a := range w.against[best] {
			if w.labels[a.by] == open {
				w.fall(a.by)
			}
		}
	}
}

// before reports whether a prevails over b, both of a circle.
func (w *plain) before(a, b *node, circle []*node) bool {
	root := func(n *node) int {
		if w.byRoot(n) {
			return 0
		}
		return 1
	}
	agreed := func(n *node) (count int) {
		// Administrators whom one side alone knows do not count: who forks the log can add as many as he likes.
		seen := map[DeviceID]bool{}
		for _, k := range w.sealed[n] {
			if id := k.Author(); !seen[id] && w.known(id, circle) {
				seen[id] = true
				count++
			}
		}
		return count
	}
	return cmp.Or(
		cmp.Compare(root(a), root(b)),
		-cmp.Compare(agreed(a), agreed(b)),
		w.seniority(a.Author(), b.Author()),
		cmp.Compare(a.generation, b.generation),
		compareEntryID(a.ID(), b.ID()),
	) < 0
}

// known reports whether every entry of a circle knows of a device.
func (w *plain) known(id DeviceID, circle []*node) bool {
	for _, n := range circle {
		if !slices.ContainsFunc(w.s.about[id], n.follows) {
			return false
		}
	}
	return true
}

// seniority orders two devices by when they were added.
func (w *plain) seniority(a, b DeviceID) int {
	first := func(id DeviceID) (first *node) {
		for _, n := range w.s.about[id] {
			if n.adds() != nil && w.sees(n) && (first == nil || compareNodes(n, first) < 0) {
				first = n
			}
		}
		return first
	}
	x, y := first(a), first(b)
	if x == nil || y == nil || x == y {
		return 0
	}
	return compareNodes(x, y)
}

// circles returns the sets of open entries that depend on each other and on nothing else that is open: the strongly
// connected components without a way out (Tarjan 1972).
func (w *plain) circles() (circles [][]*node) {
	type mark struct {
		index, low int
		stacked    bool
	}
	marks := map[*node]*mark{}
	var stack []*node
	component := map[*node]int{}
	count := 0
	var visit func(n *node) *mark
	visit = func(n *node) *mark {
		m := &mark{len(marks), len(marks), true}
		marks[n] = m
		stack = append(stack, n)
		for _, d := range w.dependsOn(n) {
			switch k := marks[d]; {
			case k == nil:
				m.low = min(m.low, visit(d).low)
			case k.stacked:
				m.low = min(m.low, k.index)
			}
		}
		if m.low == m.index {
			count++
			at := slices.Index(stack, n)
			var circle []*node
			out := false
			for _, k := range stack[at:] {
				marks[k].stacked = false
				component[k] = count
				circle = append(circle, k)
			}
			stack = stack[:at]
			for _, k := range circle {
				out = out || slices.ContainsFunc(w.dependsOn(k), func(d *node) bool { return component[d] != count })
			}
			if !out {
				circles = append(circles, circle)
			}
		}
		return m
	}
	for _, n := range w.nodes {
		if w.labels[n] == open && marks[n] == nil {
			visit(n)
		}
	}
	return circles
}

func (w *plain) dependsOn(n *node) (list []*node) {
	for _, a := range w.against[n] {
		if w.labels[a.by] == open {
			list = append(list, a.by)
		}
	}
	for _, m := range w.supporters(n) {
		if w.labels[m] == open {
			list = append(list, m)
		}
	}
	return list
}

// CheckPlain compares what stands of all entries, and of the ancestors of each, with what plain finds.
func (s *State) CheckPlain() error {
	if want := s.plainStanding(nil); !maps.Equal(s.out, want) {
		return fmt.Errorf("of all, %d entries do not stand, want %d: %v, want %v", len(s.out), len(want), s.out, want)
	}
	for _, n := range s.order {
		if want := s.plainStanding(n); !maps.Equal(n.before, want) {
			return fmt.Errorf("before %v, %v do not stand, want %v", n, n.before, want)
		}
	}
	return nil
}
