package crdt

// clock holds for each actor, by its number in an Index, the last seq among a change's ancestors. Clocks share pages,
// so that the clock of each of thousands of changes costs one page or none, however many actors there are.
type clock struct{ pages []*clockPage }

const clockPageSize = 32

type clockPage [clockPageSize]uint32

func (c clock) get(actor int) uint64 {
	page := actor / clockPageSize
	if page >= len(c.pages) || c.pages[page] == nil {
		return 0
	}
	return uint64(c.pages[page][actor%clockPageSize])
}

// with returns a clock in which the actor is at least at seq.
func (c clock) with(actor int, seq uint64) clock {
	if c.get(actor) >= seq {
		return c
	}
	page := actor / clockPageSize
	pages := make([]*clockPage, max(len(c.pages), page+1))
	copy(pages, c.pages)
	p := new(clockPage)
	if pages[page] != nil {
		*p = *pages[page]
	}
	p[actor%clockPageSize] = uint32(seq)
	pages[page] = p
	return clock{pages}
}

// join returns the greater of both, actor by actor.
func (c clock) join(d clock) clock {
	if len(c.pages) < len(d.pages) {
		c, d = d, c
	}
	var pages []*clockPage // a copy of c's as soon as it has to differ
	for i, q := range d.pages {
		p := c.pages[i]
		if p == q || q == nil {
			continue
		}
		both := q
		if p != nil {
			both = joinPages(p, q)
		}
		if both == p {
			continue
		}
		if pages == nil {
			pages = append(pages, c.pages...)
		}
		pages[i] = both
	}
	if pages == nil {
		return c
	}
	return clock{pages}
}

// joinPages returns p or q itself where that is the greater everywhere.
func joinPages(p, q *clockPage) *clockPage {
	pRules, qRules := true, true
	for i := range p {
		pRules = pRules && p[i] >= q[i]
		qRules = qRules && q[i] >= p[i]
	}
	switch {
	case pRules:
		return p
	case qRules:
		return q
	}
	both := new(clockPage)
	for i := range both {
		both[i] = max(p[i], q[i])
	}
	return both
}
