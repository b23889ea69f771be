package trust

import (
	"iter"
	"maps"
	"math/bits"
	"slices"
)

// Administrators act apart, and one of them may be removed meanwhile. So an entry that its author was allowed to make may
// not stand once more is known:
//
//   - it was made apart from the removal or demotion of its author, or comes beside a sealed checkpoint, or
//   - what made its author an administrator does not stand.
//
// What attacks an entry in this way has to stand itself. Where attacks go round in a circle (two administrators who remove
// each other) the practice's root key prevails, then a sealed checkpoint, then the author who was added earlier.
//
// Everything here follows from the set of entries and from who is an ancestor of whom. The order of arrival has no part in it.

// Why says why an entry does not stand.
type Why string

// Reasons of a Void.
const (
	WhyRemoved     Why = "its author was removed meanwhile"
	WhyDemoted     Why = "its author was no administrator any more"
	WhyReplaced    Why = "the recovery code was replaced meanwhile"
	WhyLate        Why = "it came beside a checkpoint that all administrators have agreed to"
	WhyOutranked   Why = "it contradicts an entry of somebody who was added earlier"
	WhyUnsupported Why = "what made its author an administrator does not stand"
)

// Void says why an entry has no effect.
type Void struct {
	Why Why
	By  EntryID // the entry that it does not stand against; zero for WhyUnsupported
}

type outs map[*node]Void

type label uint8

const (
	open label = iota
	stands
	falls
)

// weighing finds out which of some entries stand: those that follow base. Which of the others do is settled by it.
type weighing struct {
	s         *State
	at        *node
	nodes     []*node // to be weighed, ancestors before descendants
	place     []int   // by index: where an entry has its place in nodes, or -1
	labels    []label // by place
	out       outs
	roots     map[DeviceID]bool // every root key there was
	attackers []attacker
	number    map[*node]int // of an attacker
	against   []bits64      // by place: which attackers are against it
	threats   []int         // by place: how many of them are open
	due       []int         // places to look at, since something was labelled
	isDue     []bool        // by place
}

type attacker struct {
	*node
	agreed  []*node // for a checkpoint that is sealed: who agreed
	victims bits64  // by place
	label
}

// standing returns the entries that do not stand of those at or before at (nil: of all).
func (s *State) standing(at *node) outs {
	if s.attackers == 0 {
		return nil
	}
	base, nodes := s.unsettled(at)
	w := &weighing{s: s, at: at, nodes: nodes, place: make([]int, len(s.nodes)), number: map[*node]int{}}
	for i := range w.place {
		w.place[i] = -1
	}
	for i, n := range nodes {
		w.place[n.index] = i
	}
	if !w.contested() {
		return base.before
	}
	w.labels = make([]label, len(nodes))
	w.out = maps.Clone(base.before)
	if w.out == nil {
		w.out = outs{}
	}
	w.weigh()
	for i, n := range nodes {
		if w.labels[i] == falls {
			w.out[n] = w.reason(n)
		}
	}
	return w.out
}

// unsettled returns the last entry of those at or before at that settles what came before it, and what follows that entry.
//
// It is one of which all others are ancestors or descendants, so that nothing that follows it is apart from what came before. Nor
// seals an agreement that follows it a checkpoint against something before, since all of that it has seen. Only that somebody turns
// out to be a root key, who came before as a device, reaches behind it.
func (s *State) unsettled(at *node) (base *node, nodes []*node) {
	size := len(s.order)
	if at != nil {
		size = at.count
	}
	for _, n := range slices.Backward(s.order) {
		if at != nil && !at.follows(n) {
			continue
		}
		size--
		if n.count == size && !slices.ContainsFunc(nodes, func(m *node) bool { return !m.follows(n) }) && !s.unseats(n, nodes) {
			base = n
			break
		}
		nodes = append(nodes, n)
	}
	slices.Reverse(nodes)
	return base, slices.DeleteFunc(nodes, func(n *node) bool { return n.undecided })
}

// unseats reports whether an entry, or one of those that follow it, makes a root key of what was a device's key before.
func (s *State) unseats(n *node, following []*node) bool {
	return slices.ContainsFunc(s.recoveries, func(r *node) bool {
		return (r == n || r.follows(n) && slices.Contains(following, r)) && slices.ContainsFunc(s.by[r.p.states.(*Recovery).Root], n.follows)
	})
}

func (w *weighing) sees(n *node) bool { return !n.undecided && (w.at == nil || w.at.follows(n)) }

// apart reports whether an entry is to be weighed and neither follows the other.
func (w *weighing) apart(a, b *node) bool {
	return a != b && w.place[a.index] >= 0 && !a.follows(b) && !b.follows(a)
}

// contested finds out which entries attack which, and reports whether any do.
func (w *weighing) contested() (any bool) {
	for _, n := range w.nodes {
		if n.attacks() {
			w.number[n] = len(w.attackers)
			w.attackers = append(w.attackers, attacker{node: n})
		}
	}
	if len(w.attackers) == 0 {
		return false
	}
	w.roots = map[DeviceID]bool{w.s.founding.Root: true}
	for _, r := range w.s.recoveries {
		if w.sees(r) {
			w.roots[r.p.states.(*Recovery).Root] = true
		}
	}
	w.against, w.threats = make([]bits64, len(w.nodes)), make([]int, len(w.nodes))
	for i := range w.attackers {
		by := &w.attackers[i]
		w.attack(by, func(n *node) {
			any = true
			place := w.place[n.index]
			by.victims.set(place, len(w.nodes))
			if w.against[place].set(i, len(w.attackers)) {
				w.threats[place]++
			}
		})
	}
	return any
}

// attack calls hit for every entry that does not stand if by does.
func (w *weighing) attack(by *attacker, hit func(*node)) {
	each := func(nodes []*node) {
		for _, n := range nodes {
			if w.apart(n, by.node) {
				hit(n)
			}
		}
	}
	switch m := by.p.states.(type) {
	case *Removal:
		each(w.s.by[m.Device])
	case *Promotion:
		each(w.s.by[m.Device])
	case *Recovery:
		each(w.s.recoveries)
		if by.p.cosigned(m.Replaced) {
			each(w.s.by[m.Replaced])
		}
	case *Checkpoint:
		if by.agreed = w.agreed(by.node); by.agreed == nil {
			return
		}
		seen := make([]uint64, len(w.s.nodes)/64+1) // what does not come late
		for _, a := range by.agreed {
			seen[a.index/64] |= 1 << (a.index % 64)
			for i, word := range a.ancestors {
				seen[i] |= word
			}
		}
		knows := map[DeviceID]bool{}
		for _, n := range w.nodes {
			author := n.Author()
			if seen[n.index/64]&(1<<(n.index%64)) != 0 || w.roots[author] || !w.apart(n, by.node) {
				continue
			}
			known, ok := knows[author]
			if !ok {
				known = slices.ContainsFunc(w.s.about[author], by.follows)
				knows[author] = known
			}
			if known && w.knowsOther(n, by.agreed) {
				hit(n)
			}
		}
	}
}

// knowsOther reports whether an entry knows of another than its author who agreed to a checkpoint. A checkpoint keeps from standing
// only what does, and whose author it knows: else who was once the only administrator could seal, from there on, a practice
// without all the others. What it does not reach thereby stands on what it does reach, or is of one who was alone.
func (w *weighing) knowsOther(n *node, agreed []*node) bool {
	return slices.ContainsFunc(agreed, func(a *node) bool {
		return a.Author() != n.Author() && slices.ContainsFunc(w.s.about[a.Author()], n.follows)
	})
}

// agreed returns the entries by which every administrator of a checkpoint's ancestors first agreed to it, and nil if one
// has not. What one of them had seen when he agreed does not come late.
func (w *weighing) agreed(c *node) []*node {
	first := map[DeviceID][]*node{}
	for _, n := range w.s.agreements[c.ID()] { // ancestors first
		if id := n.Author(); w.sees(n) && !slices.ContainsFunc(first[id], n.follows) {
			first[id] = append(first[id], n)
		}
	}
	agreed := []*node{c}
	for _, id := range c.admins {
		if id == c.Author() {
			continue
		}
		if len(first[id]) == 0 {
			return nil
		}
		agreed = append(agreed, first[id]...)
	}
	return agreed
}

// why says why what an entry attacks does not stand.
func (a attacker) why() Why {
	switch a.p.states.(type) {
	case *Removal:
		return WhyRemoved
	case *Promotion:
		return WhyDemoted
	case *Recovery:
		return WhyReplaced
	}
	return WhyLate
}

// reason says why an entry fell. Several reasons may have come true, in one order or another; of these it is always the same.
func (w *weighing) reason(n *node) Void {
	var by *attacker
	for i := range w.against[w.place[n.index]].all() {
		if a := &w.attackers[i]; a.label == stands && (by == nil || compareNodes(a.node, by.node) < 0) {
			by = a
		}
	}
	if by != nil {
		return Void{by.why(), by.ID()}
	}
	if !w.supported(n) {
		return Void{Why: WhyUnsupported}
	}
	var over *node
	for i := range w.attackers[w.number[n]].victims.all() {
		if m := w.nodes[i]; w.labels[i] == stands && (over == nil || compareNodes(m, over) < 0) {
			over = m
		}
	}
	return Void{WhyOutranked, over.ID()}
}

// weigh labels all entries.
func (w *weighing) weigh() {
	w.isDue = make([]bool, len(w.nodes))
	for i := range w.nodes {
		w.look(i)
	}
	for {
		for len(w.due) > 0 {
			i := w.due[len(w.due)-1]
			w.due = w.due[:len(w.due)-1]
			w.isDue[i] = false
			w.look(i)
		}
		circles := w.circles()
		if len(circles) == 0 {
			return
		}
		for _, circle := range circles {
			w.breakCircle(circle)
		}
	}
}

// look labels an entry if that follows from what is labelled.
func (w *weighing) look(i int) {
	if w.labels[i] != open {
		return
	}
	switch n := w.nodes[i]; {
	case w.waits(n):
	case !w.supported(n):
		w.put(i, falls)
	case w.threats[i] == 0:
		w.put(i, stands)
	}
}

// put labels an entry and has those looked at again for which it makes a difference. The reason is found when everything is
// labelled.
func (w *weighing) put(i int, l label) {
	w.labels[i] = l
	n := w.nodes[i]
	if l == falls {
		w.out[n] = Void{}
	}
	again := func(i int) {
		if w.labels[i] == open && !w.isDue[i] {
			w.isDue[i], w.due = true, append(w.due, i)
		}
	}
	if number, ok := w.number[n]; ok {
		a := &w.attackers[number]
		a.label = l
		for v := range a.victims.all() {
			if w.threats[v]--; w.labels[v] == open && l == stands {
				w.put(v, falls)
			} else if w.threats[v] == 0 {
				again(v)
			}
		}
	}
	if _, ok := n.p.states.(*Recovery); ok {
		for i := range w.nodes[w.place[n.index]:] {
			again(w.place[n.index] + i)
		}
	} else if about := n.About().Device; about != (DeviceID{}) {
		for _, m := range w.s.by[about] {
			if place := w.place[m.index]; place >= 0 && m.follows(n) {
				again(place)
			}
		}
	}
}

// supporters are the ancestors on which it depends whether n's author had the right to make it.
func (w *weighing) supporters(n *node) iter.Seq[*node] {
	return func(yield func(*node) bool) {
		for _, list := range [][]*node{w.s.about[n.Author()], w.s.recoveries} {
			for _, m := range list {
				if n.follows(m) && !yield(m) {
					return
				}
			}
		}
	}
}

func (w *weighing) isOpen(n *node) bool {
	return w.place[n.index] >= 0 && w.labels[w.place[n.index]] == open
}

// waits reports whether one of an entry's supporters is open.
func (w *weighing) waits(n *node) bool {
	for m := range w.supporters(n) {
		if w.isOpen(m) {
			return true
		}
	}
	return false
}

// supported reports whether n's author had the right to make it, by what stands. It had by what stood when n was judged.
func (w *weighing) supported(n *node) bool {
	for m := range w.supporters(n) {
		_, then := n.before[m]
		if _, now := w.out[m]; now != then {
			return view{w.s, n, w.out}.mayAuthor(n)
		}
	}
	return true
}

// breakCircle lets the foremost entry of a circle stand, against those that attack it.
func (w *weighing) breakCircle(circle []*node) {
	known := map[DeviceID]bool{}
	var best *node
	var foremost rank
	for _, n := range circle {
		if w.waits(n) {
			continue // depends on an earlier one of the circle
		}
		if r := w.rank(n, circle, known); best == nil || r.before(foremost) {
			best, foremost = n, r
		}
	}
	place := w.place[best.index]
	w.put(place, stands)
	for a := range w.against[place].all() {
		if w.attackers[a].label == open {
			w.put(w.place[w.attackers[a].index], falls)
		}
	}
}

// rank says what an entry has to prevail by over others of a circle.
type rank struct {
	*node
	root   bool
	agreed int   // how many administrators whom all know of have agreed, for a sealed checkpoint
	added  *node // its author's addition
}

// rank finds out an entry's rank; known keeps who is known to the whole circle.
func (w *weighing) rank(n *node, circle []*node, known map[DeviceID]bool) rank {
	r := rank{node: n, root: w.roots[n.Author()]}
	if number, ok := w.number[n]; ok {
		seen := map[DeviceID]bool{}
		for _, a := range w.attackers[number].agreed {
			id := a.Author()
			all, ok := known[id]
			if !ok {
				// Administrators whom one side alone knows do not count: who forks the log can add as many as he likes.
				all = !slices.ContainsFunc(circle, func(n *node) bool { return !slices.ContainsFunc(w.s.about[id], n.follows) })
				known[id] = all
			}
			if !seen[id] && all {
				seen[id] = true
				r.agreed++
			}
		}
	}
	for _, m := range w.s.about[n.Author()] {
		if m.adds() != nil && w.sees(m) && (r.added == nil || compareNodes(m, r.added) < 0) {
			r.added = m
		}
	}
	return r
}

// before reports whether an entry prevails over another.
func (r rank) before(than rank) bool {
	switch {
	case r.root != than.root:
		return r.root
	case r.agreed != than.agreed:
		return r.agreed > than.agreed
	case r.added != nil && than.added != nil && r.added != than.added:
		return compareNodes(r.added, than.added) < 0
	}
	return compareNodes(r.node, than.node) < 0
}

// circles returns the sets of open entries that depend on each other and on nothing else that is open: the strongly
// connected components without a way out (Tarjan 1972). Only these are broken.
func (w *weighing) circles() (circles [][]*node) {
	type mark struct {
		index, low int
		stacked    bool
		component  int
	}
	marks := make([]mark, len(w.nodes))
	var stack []int
	count, components := 0, 0
	var visit func(i int) int
	visit = func(i int) int {
		count++
		marks[i] = mark{index: count, low: count, stacked: true}
		stack = append(stack, i)
		for d := range w.dependsOn(i) {
			if marks[d].index == 0 {
				marks[i].low = min(marks[i].low, visit(d))
			} else if marks[d].stacked {
				marks[i].low = min(marks[i].low, marks[d].index)
			}
		}
		if marks[i].low == marks[i].index {
			components++
			at := slices.Index(stack, i)
			members := stack[at:]
			stack = stack[:at]
			for _, k := range members {
				marks[k].stacked, marks[k].component = false, components
			}
			var circle []*node
			for _, k := range members {
				for d := range w.dependsOn(k) {
					if marks[d].component != components {
						return marks[i].low
					}
				}
				circle = append(circle, w.nodes[k])
			}
			circles = append(circles, circle)
		}
		return marks[i].low
	}
	for i := range w.nodes {
		if w.labels[i] == open && marks[i].index == 0 {
			visit(i)
		}
	}
	return circles
}

// dependsOn returns the places of the open entries on which it depends whether one stands.
func (w *weighing) dependsOn(i int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for a := range w.against[i].all() {
			if w.attackers[a].label == open && !yield(w.place[w.attackers[a].index]) {
				return
			}
		}
		for m := range w.supporters(w.nodes[i]) {
			if w.isOpen(m) && !yield(w.place[m.index]) {
				return
			}
		}
	}
}

// bits64 is a set of small numbers; nil is the empty one.
type bits64 []uint64

// set adds a number below size, and reports whether it is new.
func (b *bits64) set(i, size int) bool {
	if *b == nil {
		*b = make(bits64, (size+63)/64)
	}
	word, bit := &(*b)[i/64], uint64(1)<<(i%64)
	added := *word&bit == 0
	*word |= bit
	return added
}

func (b bits64) all() iter.Seq[int] {
	return func(yield func(int) bool) {
		for at, word := range b {
			for ; word != 0; word &= word - 1 {
				if !yield(at*64 + bits.TrailingZeros64(word)) {
					return
				}
			}
		}
	}
}
