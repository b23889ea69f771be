package crdt

import (
	"cmp"
	"slices"
)

// Shown is a resource as it is seen: one value at each place, and the places where there are others.
type Shown struct {
	Exists    bool  // some change made the resource
	Removed   bool  // and all that made or edited it is removed; Value is then absent
	Value     Value // a Map
	Conflicts []Conflict
}

// Show reads a resource off the register at its root key. It is a pure function of the register, so that all devices
// that hold the same changes show the same (docs/spec/document.md has the rules).
//
// Conflicts come in the order of their paths in the value, one that is around others before them.
func Show(key string, r Register) Shown {
	n := look(cell{boxes: ofKind(r, Map)})
	s := Shown{Exists: len(n.boxes) > 0, Value: n.value}
	s.Removed = s.Exists && !n.live
	n.walk(place{key: key}, func(n *seen, at place) bool {
		s.Conflicts = append(s.Conflicts, n.conflict(key, at))
		return true
	})
	return s
}

// seen is a cell as it is shown, with everything below it.
type seen struct {
	cell
	maps  []*box // the containers in boxes
	union *union // the containers in lists as one; nil if there are none
	live  bool   // something is there to be shown
	open  bool   // there is a conflict here or in something live below
	value Value  // what is shown; absent if not live
	made  OpID   // the greatest operation that made what is shown
	sides []side // of the conflict, if there is one
	shown int    // the side that is shown
}

// side is one of the values of a conflict.
type side struct {
	value   Value
	removed bool
	ops     []OpID // ascending
	made    OpID   // the last of ops
}

// box is a map container as it is seen.
type box struct {
	op         OpID
	raw        []Field
	element    bool   // it stands in a list
	item       bool   // and only holds the element
	liveOps    []OpID // what says that it is live, in its "~v"
	removedOps []OpID
	live       bool
	open       bool
	value      Value // of an item, the element's
	made       OpID
	fields     []namedSeen // ascending by key; see look
	lookedAt   bool
}

type namedSeen struct {
	key string
	seen
}

// union is all list containers of a cell, as one list: the live elements of the containers in ascending order of the
// containers' IDs. An element may be a copy of an earlier one (see takes), and is not shown again then.
type union struct {
	lists    []Alternative
	elements []element
}

type element struct {
	copies []elementCopy // the first is where it is at home
}

type elementCopy struct {
	list, index int // index counts removed elements too
	seen        *seen
}

func (e *element) first() *seen { return e.copies[0].seen }

// look sees a cell.
func look(c cell) *seen {
	n := new(seen)
	n.see(c)
	return n
}

func (n *seen) see(c cell) {
	n.cell = c
	if len(c.scalars) == 1 && c.boxes == nil && c.lists == nil && c.texts == nil && c.status == nil {
		if a := c.scalars[0]; !removedScalar(a) {
			n.live, n.value, n.made = true, scalarValue(a), a.Op
		}
		return
	}
	if len(c.boxes) > 0 {
		n.maps = make([]*box, len(c.boxes))
		for i, a := range c.boxes {
			n.maps[i] = newBox(a, c.element)
			n.open = n.open || n.maps[i].open
		}
	}
	if len(c.lists) > 0 {
		n.union = unite(c.lists)
		for _, e := range n.union.elements {
			for _, copied := range e.copies {
				n.open = n.open || copied.seen.open
			}
		}
	}
	switch {
	case len(n.maps) == 1 && len(n.maps[0].removedOps) == 0 && c.scalars == nil && c.lists == nil && c.texts == nil &&
		c.status == nil:
		if b := n.maps[0]; b.live {
			n.live, n.value, n.made = true, b.value, b.made
		}
	case c.scalars == nil && c.boxes == nil && c.texts == nil && c.status == nil:
		if n.union != nil && len(n.union.elements) > 0 {
			n.live, n.value, n.made = true, n.union.value(), n.union.made()
		}
	default:
		n.weigh()
	}
}

func newBox(a Alternative, element bool) *box {
	b := &box{op: a.Op, raw: a.Map, element: element, live: true, made: a.Op}
	if at := slices.IndexFunc(a.Map, func(f Field) bool { return f.Key == liveKey }); at >= 0 {
		b.liveOps, b.removedOps = states(a.Map[at].Values)
		b.live = len(b.liveOps) > 0 || len(b.removedOps) == 0
		if len(a.Map[at].Values) > 0 {
			b.made = greatest(b.liveOps)
			if !b.live {
				b.made = greatest(b.removedOps)
			}
		}
	}
	if b.live {
		b.look()
		b.live = b.value.Kind != 0
	}
	return b
}

// look sees what is in the container. A removed one is only looked at when it is taken into use again.
func (b *box) look() {
	if b.lookedAt {
		return
	}
	b.lookedAt = true
	list, _ := cells(b.raw)
	if b.element && len(list) > 0 && list[0].key == itemKey {
		list = list[:1] // the only field
		b.item = true
	} else {
		b.value = Value{Kind: Map, Map: make(map[string]Value, len(list))}
	}
	b.fields = make([]namedSeen, len(list))
	for i, c := range list {
		f := &b.fields[i]
		f.key = c.key
		f.see(c.cell)
		b.open = b.open || f.open
		if b.item {
			b.value = f.value
		} else if f.live {
			b.value.Map[c.key] = f.value
		}
	}
}

// field returns what is seen at a field, or nil.
func (b *box) field(key string) *seen {
	if i, ok := slices.BinarySearchFunc(b.fields, key, func(f namedSeen, key string) int {
		return cmp.Compare(f.key, key)
	}); ok {
		return &b.fields[i].seen
	}
	return nil
}

// ops are what made the container live.
func (b *box) ops() []OpID {
	if len(b.liveOps) > 0 {
		return b.liveOps
	}
	return []OpID{b.op}
}

func unite(lists []Alternative) *union {
	u := &union{lists: lists}
	var all []elementCopy
	var author Actor
	several := len(lists) > 1
	for l, a := range lists {
		for i, r := range a.List {
			n := look(elementCell(r))
			if !n.live {
				continue
			}
			if len(all) == 0 {
				author = n.made.Actor
			}
			several = several || n.made.Actor != author
			all = append(all, elementCopy{list: l, index: i, seen: n})
		}
	}
	u.elements = make([]element, 0, len(all))
	known := map[string][]int{} // elements by content
	for _, c := range all {
		var content string
		if several { // else nothing can be a copy
			content = string(encoded(c.seen.value))
			if at := slices.IndexFunc(known[content], func(at int) bool { return u.elements[at].takes(c) }); at >= 0 {
				e := &u.elements[known[content][at]]
				e.copies = append(e.copies, c)
				continue
			}
			known[content] = append(known[content], len(u.elements))
		}
		u.elements = append(u.elements, element{copies: []elementCopy{c}})
	}
	return u
}

// takes reports whether another element of the same content is a copy of e. That of another container is, once. That of
// the same container is if it is by another author, and neither is contested: then the two were added apart from each
// other. Who adds an equal element knowingly makes himself the author of both (see writeList).
func (e *element) takes(c elementCopy) bool {
	for _, d := range e.copies {
		if d.list == c.list && (d.seen.open || c.seen.open || d.seen.made.Actor == c.seen.made.Actor) {
			return false
		}
	}
	return true
}

func (u *union) value() Value {
	v := Value{Kind: List, List: make([]Value, len(u.elements))}
	for i := range u.elements {
		v.List[i] = u.elements[i].first().value
	}
	return v
}

func (u *union) made() (made OpID) {
	for _, e := range u.elements {
		for _, c := range e.copies {
			made = later(made, c.seen.made)
		}
	}
	return made
}

// liveOps appends what made the live values of a cell.
func (n *seen) liveOps(ops []OpID) []OpID {
	for _, a := range n.scalars {
		if !removedScalar(a) {
			ops = append(ops, a.Op)
		}
	}
	for _, b := range n.maps {
		if b.live {
			ops = append(ops, b.ops()...)
		}
	}
	if n.union != nil {
		for _, e := range n.union.elements {
			for _, c := range e.copies {
				ops = c.seen.liveOps(ops)
			}
		}
	}
	return ops // texts stand in no list, and only lists ask
}

func later(a, b OpID) OpID {
	if a.Compare(b) < 0 {
		return b
	}
	return a
}

func greatest(ops []OpID) (last OpID) {
	for _, op := range ops {
		last = later(last, op)
	}
	return last
}

func encoded(v Value) []byte {
	b, _ := v.AppendBinary(nil)
	return b
}
