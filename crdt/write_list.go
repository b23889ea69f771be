package crdt

import (
	"cmp"
	"slices"
	"sort"
)

func (p *program) writeList(n *seen, at address, want []Value, when how) {
	u := n.union
	if u == nil {
		p.clear(n, at, keep{something: true})
		p.fillList(p.set(at, Scalar{Kind: List}), want)
		return
	}
	written := len(p.instructions)
	p.clear(n, at, keep{something: true, lists: true})
	beside := len(p.instructions) > written
	below := p.below(when)
	lists := u.holders(at)
	pairs := align(u.value().List, want)
	for i, o := range pairs {
		if o >= 0 && !u.elements[o].becomes(want[i]) {
			pairs[i] = -1
		}
	}
	// New elements come behind their neighbour, in the container where that is at home. If the union of several
	// containers would come out in another order then, the first gets a copy of everything.
	tokens := make([]string, len(want))
	for i, v := range want {
		tokens[i] = string(encoded(v))
	}
	whole := len(lists) > 1 && !u.fits(pairs, tokens)
	ours := u.authored(pairs, tokens, whole)
	if beside { // then something live has to be ours, too
		if i := u.unsigned(pairs, tokens); i >= 0 {
			ours[tokens[i]] = true
		}
	}
	home, gap := 0, 0
	stays := make([]bool, len(u.elements))
	for i, v := range want {
		if pairs[i] < 0 {
			p.insert(lists[home], gap, v)
			continue
		}
		stays[pairs[i]] = true
		e := u.elements[pairs[i]]
		when := below
		if ours[tokens[i]] {
			when = again
		}
		for j, c := range e.copies {
			at := address{in: lists[c.list], index: c.index}
			if j > 0 && e.copies[j-1].list == c.list && (when == again || !c.seen.value.Equal(v)) {
				p.clear(c.seen, at, keep{})
				continue
			}
			p.write(c.seen, at, v, when)
		}
		switch first := e.copies[0]; {
		case whole && first.list != 0:
			p.insert(lists[0], gap, v)
		default:
			home, gap = first.list, first.index+1
		}
	}
	for i, e := range u.elements {
		if !stays[i] {
			p.clearElement(e, lists)
		}
	}
}

// authored returns which contents, by token, stand in want several times with a new or edited element among them. All
// their elements are written again, so that none is taken for a copy of another author's.
func (u *union) authored(pairs []int, tokens []string, whole bool) map[string]bool {
	count := make(map[string]int, len(tokens))
	for _, token := range tokens {
		count[token]++
	}
	ours := map[string]bool{}
	for i, o := range pairs {
		if count[tokens[i]] > 1 && (o < 0 || whole && u.elements[o].copies[0].list != 0 ||
			string(encoded(u.elements[o].first().value)) != tokens[i]) {
			ours[tokens[i]] = true
		}
	}
	return ours
}

// becomes reports whether an element can be edited into a value: an item into any, a map into another without a field "".
func (e *element) becomes(want Value) bool {
	return !slices.ContainsFunc(e.copies, func(c elementCopy) bool { return !c.seen.becomes(want) })
}

func (n *seen) becomes(want Value) bool { return len(n.maps) == 1 && (n.maps[0].item || want.direct()) }

// insert inserts a value in front of what was element gap before this change, behind what was inserted there since.
func (p *program) insert(h *holder, gap int, v Value) {
	p.insertAt(p.enter(h), h.now(gap), v)
	h.inserts = slices.Insert(h.inserts, sort.SearchInts(h.inserts, gap+1), gap)
}

// unsigned returns, if no element is inserted or edited, so that nothing live is ours yet, one that may be written again
// because it is not contested; else -1.
func (u *union) unsigned(pairs []int, tokens []string) int {
	free := -1
	for i, o := range pairs {
		if o < 0 || string(encoded(u.elements[o].first().value)) != tokens[i] {
			return -1
		}
		if free < 0 && u.elements[o].first().sides == nil {
			free = i
		}
	}
	return free
}

// fits reports whether the union shows what is wanted, by token, if each new element goes behind its neighbour.
func (u *union) fits(pairs []int, tokens []string) bool {
	type item struct{ list, position, value int } // position: twice the index, odd for elements
	var items []item
	home, gap := 0, 0
	for i, o := range pairs {
		if o < 0 {
			items = append(items, item{home, 2 * gap, i})
			continue
		}
		copies := u.elements[o].copies
		for j, c := range copies {
			if j == 0 || copies[j-1].list != c.list {
				items = append(items, item{c.list, 2*c.index + 1, i})
			}
		}
		home, gap = copies[0].list, copies[0].index+1
	}
	slices.SortStableFunc(items, func(a, b item) int {
		return cmp.Or(cmp.Compare(a.list, b.list), cmp.Compare(a.position, b.position))
	})
	type entry struct{ value, last, list int } // last: the list of its last copy; list: of its first
	var shown []entry
	for _, it := range items {
		if at := slices.IndexFunc(shown, func(e entry) bool {
			return tokens[e.value] == tokens[it.value] && e.list < it.list && e.last < it.list
		}); at >= 0 {
			shown[at].last = it.list
			continue
		}
		shown = append(shown, entry{it.value, it.list, it.list})
	}
	return slices.EqualFunc(shown, tokens, func(e entry, token string) bool { return tokens[e.value] == token })
}

const (
	maxAlignCells = 4 << 20 // of the table for the longest common subsequence
	maxPairCells  = 1 << 14 // of the table for pairs by likeness, in one gap
)

// align matches the elements of a list with those wanted: for each of these the index of the old one that becomes it, or
// -1; the indexes ascend. Elements with an id are matched by it, others by equal content, as many as keep their order.
// What is left between two matches is paired as edits where it is alike.
func align(old, want []Value) []int {
	pairs := make([]int, len(want))
	for i := range pairs {
		pairs[i] = -1
	}
	numbers := map[string]int{}
	number := func(list []Value) []int {
		out := make([]int, len(list))
		for i, v := range list {
			token := identity(v)
			n, ok := numbers[token]
			if !ok {
				n = len(numbers)
				numbers[token] = n
			}
			out[i] = n
		}
		return out
	}
	matchCommon(number(old), number(want), 0, 0, pairs)
	from, start := 0, 0
	for i := 0; i <= len(want); i++ {
		to := len(old)
		if i < len(want) {
			if pairs[i] < 0 {
				continue
			}
			to = pairs[i]
		}
		pairAlike(old[from:to], want[start:i], from, pairs[start:i])
		from, start = to+1, i+1
	}
	return pairs
}

// identity is what an element is matched by.
func identity(v Value) string {
	if id, ok := idOf(v); ok {
		return "id " + id
	}
	return "is " + string(encoded(v))
}

func idOf(v Value) (string, bool) {
	id, ok := v.Map["id"]
	return id.Str, ok && v.Kind == Map && id.Kind == String && id.Str != ""
}

// matchCommon finds a longest common subsequence of a and b, which begin at old index i and wanted index j.
func matchCommon(a, b []int, i, j int, pairs []int) {
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		pairs[j] = i
		a, b, i, j = a[1:], b[1:], i+1, j+1
	}
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		pairs[j+len(b)-1] = i + len(a) - 1
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a) == 0 || len(b) == 0 {
		return
	}
	if len(a)*len(b) > maxAlignCells {
		matchUnique(a, b, i, j, pairs)
		return
	}
	// best[x*width+y] is the longest for a[x:] and b[y:].
	width := len(b) + 1
	best := make([]int32, (len(a)+1)*width)
	for x := len(a) - 1; x >= 0; x-- {
		for y := len(b) - 1; y >= 0; y-- {
			if a[x] == b[y] {
				best[x*width+y] = best[(x+1)*width+y+1] + 1
			} else {
				best[x*width+y] = max(best[(x+1)*width+y], best[x*width+y+1])
			}
		}
	}
	for x, y := 0, 0; x < len(a) && y < len(b); {
		switch {
		case a[x] == b[y]:
			pairs[j+y] = i + x
			x, y = x+1, y+1
		case best[(x+1)*width+y] >= best[x*width+y+1]:
			x++
		default:
			y++
		}
	}
}

// matchUnique matches, of lists too long for the table, what occurs once in each.
func matchUnique(a, b []int, i, j int, pairs []int) {
	once := func(list []int) map[int]int {
		at := make(map[int]int, len(list))
		for x, n := range list {
			if _, ok := at[n]; ok {
				x = -1
			}
			at[n] = x
		}
		return at
	}
	inA, inB := once(a), once(b)
	// The longest ascending sequence: tails[k] ends the best one of length k+1, before leads to the one in front.
	var tails []int
	before := make([]int, len(b))
	at := func(y int) int { return inA[b[y]] }
	for y, n := range b {
		x, ok := inA[n]
		if !ok || x < 0 || inB[n] < 0 {
			continue
		}
		k := sort.Search(len(tails), func(k int) bool { return at(tails[k]) >= x })
		before[y] = -1
		if k > 0 {
			before[y] = tails[k-1]
		}
		tails = append(tails[:k], append([]int{y}, tails[min(k+1, len(tails)):]...)...)
	}
	if len(tails) == 0 {
		return
	}
	for y := tails[len(tails)-1]; y >= 0; y = before[y] {
		pairs[j+y] = i + at(y)
	}
}

// pairAlike pairs what is left in a gap, in order: a single scalar with a single scalar, containers by likeness. first is
// the index of old[0].
func pairAlike(old, want []Value, first int, pairs []int) {
	if len(old) == 0 || len(want) == 0 || len(old)*len(want) > maxPairCells {
		return
	}
	if len(old) == 1 && len(want) == 1 && scalarAlone(old[0]) && scalarAlone(want[0]) {
		pairs[0] = first
		return
	}
	width := len(want) + 1
	alike := make([]int, len(old)*len(want))
	best := make([]int, (len(old)+1)*width)
	for x := len(old) - 1; x >= 0; x-- {
		for y := len(want) - 1; y >= 0; y-- {
			score := likeness(old[x], want[y])
			alike[x*len(want)+y] = score
			best[x*width+y] = max(best[(x+1)*width+y], best[x*width+y+1])
			if score > 0 {
				best[x*width+y] = max(best[x*width+y], best[(x+1)*width+y+1]+score)
			}
		}
	}
	for x, y := 0, 0; x < len(old) && y < len(want); {
		score := alike[x*len(want)+y]
		switch {
		case score > 0 && best[x*width+y] == best[(x+1)*width+y+1]+score:
			pairs[y] = first + x
			x, y = x+1, y+1
		case best[x*width+y] == best[(x+1)*width+y]:
			x++
		default:
			y++
		}
	}
}

func scalarAlone(v Value) bool { v = v.normal(); return v.Kind != Map && v.Kind != List }

// discriminators are the fields that tell elements of one list apart.
var discriminators = []string{"system", "use", "code", "type", "url"}

// likeness says how much reason there is to take want for an edit of old; 0 is none.
func likeness(old, want Value) int {
	if old.Kind == List && want.Kind == List && len(want.List) > 0 {
		same := 0
		for _, o := range align(old.List, want.List) {
			if o >= 0 {
				same++
			}
		}
		if 2*same >= max(len(old.List), len(want.List)) {
			return same
		}
		return 0
	}
	if old.Kind != Map || want.Kind != Map {
		return 0
	}
	oldID, ok := idOf(old)
	if wantID, also := idOf(want); ok && also && oldID != wantID {
		return 0
	}
	same := 0
	for k, v := range old.Map {
		if w, ok := want.Map[k]; ok && v.Equal(w) {
			same++
		}
	}
	told, differ := 0, false
	for _, k := range discriminators {
		v, ok := old.Map[k]
		w, also := want.Map[k]
		switch {
		case ok && also && v.Equal(w):
			told++
		case ok || also:
			differ = true
		}
	}
	if told > 0 && !differ {
		return 1000 + same
	}
	if same > 0 && 2*same >= max(len(old.Map), len(want.Map)) {
		return same
	}
	return 0
}
