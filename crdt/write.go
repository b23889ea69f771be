package crdt

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"unicode/utf8"
)

// Write returns the smallest instructions that turn what is shown of a resource into want, a Map. An empty register
// makes the resource; none are returned if it is shown as wanted.
//
// What want does not change is not touched: a conflict stays open where want equals what is shown, and is decided where
// it does not. A removed resource, field or element that is wanted again is taken into use again.
func Write(key string, r Register, want Value) ([]Instruction, error) {
	return WriteAll(map[string]Register{key: r}, map[string]Value{key: want})
}

// WriteAll is Write for several resources in one change, ascending by key. An absent Value removes its resource.
func WriteAll(existing map[string]Register, want map[string]Value) ([]Instruction, error) {
	return Restate(existing, want, nil)
}

// Restate is WriteAll, and says of the resources in all everything again, also what is shown as it is wanted. Conflicts stay
// open where that changes nothing.
func Restate(existing map[string]Register, want map[string]Value, all map[string]bool) ([]Instruction, error) {
	p := new(program)
	for _, key := range slices.Sorted(maps.Keys(want)) {
		v := want[key]
		if v.Kind != Map && v.Kind != 0 {
			return nil, fmt.Errorf("write resource: %w: a resource is a map", ErrValue)
		}
		if v.Kind == Map {
			if err := v.check(1); err != nil {
				return nil, fmt.Errorf("write resource: %w", err)
			}
		}
		when := changed
		if p.deep = all[key]; p.deep {
			when = again
		}
		p.write(look(cell{boxes: ofKind(existing[key], Map)}), address{in: &holder{kind: Map, root: true}, key: key}, v, when)
	}
	return p.instructions, nil
}

// Remove returns the instructions that remove a resource; none if it is not there.
func Remove(key string, r Register) ([]Instruction, error) {
	return WriteAll(map[string]Register{key: r}, map[string]Value{key: {}})
}

// program collects the instructions of one change.
type program struct {
	instructions []Instruction
	references   int
	deep         bool // say everything below a decided cell again, too
	whole        bool // say everything below, whatever stands there
}

// holder is a container that instructions can address.
type holder struct {
	kind    Kind
	root    bool // the document's root map; entered, with reference 0
	at      address
	op      OpID
	ref     int   // 0: not entered yet
	inserts []int // list: the elements, as they were counted before, in front of which one was inserted; ascending
}

// address says where a cell is: at a field of a map or at an element of a list, as it was counted before this change.
type address struct {
	in    *holder
	key   string
	index int
}

// stored returns the key of a slot.
func (a address) stored(kind Kind) string {
	if a.in.root {
		return a.key
	}
	return slotKey(kind, a.key)
}

// now returns where the element that was at index stands after the insertions so far.
func (h *holder) now(index int) int { return index + sort.SearchInts(h.inserts, index+1) }

// how says when a cell is written.
type how uint8

const (
	changed how = iota // if something else is shown than is wanted
	again              // also if it is the same, but not if that would decide a conflict
	decided            // in any case
)

// add appends an instruction and returns the reference that it yields, if it yields one.
func (p *program) add(i Instruction) int {
	p.instructions = append(p.instructions, i)
	if i.Do == Enter || i.Value.Kind.Container() && i.Do != Splice {
		p.references++
		return p.references
	}
	return 0
}

// enter makes a container addressable.
func (p *program) enter(h *holder) int {
	if h.root || h.ref != 0 {
		return h.ref
	}
	i := Instruction{Do: Enter, Obj: p.enter(h.at.in), Op: h.op}
	if h.at.in.kind == Map {
		i.Key = h.at.stored(h.kind)
	} else {
		i.Index = h.at.in.now(h.at.index)
	}
	h.ref = p.add(i)
	return h.ref
}

// set writes a scalar, or makes a container, in the slot for it.
func (p *program) set(at address, s Scalar) int {
	i := Instruction{Do: Set, Obj: p.enter(at.in), Value: s}
	if at.in.kind == Map {
		i.Key = at.stored(s.Kind)
	} else {
		i.Index = at.in.now(at.index)
	}
	return p.add(i)
}

func (p *program) setState(ref int, key string, state int64) {
	p.add(Instruction{Do: Set, Obj: ref, Key: key, Value: Scalar{Kind: Int, Int: state}})
}

// write makes a cell show want, or nothing if want is absent. The maps around it are marked live already.
func (p *program) write(n *seen, at address, want Value, when how) {
	want = want.normal()
	if n.live && n.value.Equal(want) || !n.live && want.Kind == 0 {
		if when == changed || when == again && (n.sides != nil || !n.live) {
			return
		}
	} else if n.sides != nil {
		when = decided
	}
	switch {
	case want.Kind == 0:
		p.clear(n, at, keep{})
		return
	case n.element:
		p.writeMap(n, at, want, when)
		return
	}
	switch want.Kind {
	case Map:
		p.writeMap(n, at, want, when)
	case List:
		p.writeList(n, at, want.List, when)
	case Text:
		p.writeText(n, at, want.Str)
	default:
		p.clear(n, at, keep{something: true, scalars: true})
		p.set(at, Scalar{Kind: want.Kind, Str: want.Str, Int: want.Int})
	}
}

func (p *program) writeMap(n *seen, at address, want Value, when how) {
	kept := n.keepers(want)
	p.clear(n, at, keep{something: true, maps: kept})
	if len(kept) == 0 {
		ref := p.set(at, Scalar{Kind: Map})
		if at.in.root {
			p.setState(ref, liveKey, stateLive)
		}
		p.fill(ref, want)
		return
	}
	if !kept[0].live {
		// What is taken into use again is all said again: somebody else may do the same with other values meanwhile. A
		// conflict inside is settled with it, since who removed the whole settled it already.
		defer func(was bool) { p.whole = was }(p.whole)
		p.whole = true
	}
	below := p.below(changed)
	for _, b := range kept {
		h := p.mark(b, at)
		b.look()
		if b.item {
			inner := below
			if when == again {
				inner = again
			}
			p.write(b.field(itemKey), address{in: h, key: itemKey}, want, inner)
			continue
		}
		for _, key := range b.keysWith(want) {
			f := b.field(key)
			if f == nil {
				f = new(seen)
			}
			p.write(f, address{in: h, key: key}, want.Map[key], below)
		}
	}
}

// below says when the cells below one that is written are.
func (p *program) below(when how) how {
	switch {
	case p.whole:
		return decided
	case p.deep || when != changed:
		return again
	}
	return changed
}

// mark enters a map container and writes that it is live.
func (p *program) mark(b *box, at address) *holder {
	h := &holder{kind: Map, at: at, op: b.op}
	p.setState(p.enter(h), liveKey, stateLive)
	return h
}

// keysWith returns the keys of the container's fields and of want, ascending.
func (b *box) keysWith(want Value) []string {
	keys := make([]string, 0, len(b.fields)+len(want.Map))
	for i := range b.fields {
		keys = append(keys, b.fields[i].key)
	}
	for key := range want.Map {
		if b.field(key) == nil {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// keepers returns the map containers of a cell that are to hold want; the others give way. One is enough: that which has
// most of it already, and of equals the last that was made live, so that sites that decide alike apart from each other
// write into the same. Containers equal to it give way too, unless there is a conflict inside, which would be gone then.
func (n *seen) keepers(want Value) (kept []*box) {
	rank := func(b *box) int {
		switch {
		case !b.live:
			return 0
		case b.value.Equal(want):
			return 3
		case n.live && b.value.Equal(n.value):
			return 2
		}
		return 1
	}
	var best *box
	bestRank := -1
	for _, b := range n.maps {
		if r := rank(b); r > bestRank || r == bestRank && b.made.Compare(best.made) > 0 {
			best, bestRank = b, r
		}
	}
	if best == nil {
		return nil
	}
	return n.equals(best)
}

// equals returns a map container and those equal to it that have a conflict inside.
func (n *seen) equals(best *box) []*box {
	kept := []*box{best}
	for _, b := range n.maps {
		if b != best && best.live && b.live && b.open && b.value.Equal(best.value) {
			kept = append(kept, b)
		}
	}
	return kept
}

func (p *program) writeText(n *seen, at address, want string) {
	p.clear(n, at, keep{something: true, texts: true})
	if len(n.texts) == 0 {
		p.makeText(p.enter(at.in), at.key, want)
		return
	}
	best := n.texts[0]
	for _, t := range n.texts[1:] {
		if t.Str == want || best.Str != want && (!n.live || n.value.Kind != Text || n.value.Str == t.Str) {
			best = t
		}
	}
	used := len(n.textUnit().sides) == 0 // again: all is said again, as in writeMap
	if used || best.Str != want {
		ref := p.enter(&holder{kind: Text, at: at, op: best.Op})
		if used {
			p.add(Instruction{
				Do: Splice, Obj: ref, Delete: utf8.RuneCountInString(best.Str), Value: Scalar{Kind: String, Str: want},
			})
		} else {
			p.spliceText(ref, best.Str, want)
		}
	}
	if used || best.Str != want || len(n.texts) == 1 {
		p.setState(p.enter(at.in), textStatusKey(at.key), stateLive) // the validator asks for it
	}
	if len(n.texts) > 1 {
		p.setText(p.enter(at.in), at.key, best.Op)
	}
}

// setText writes to the status register that one text is live, and no other.
func (p *program) setText(in int, key string, text OpID) {
	p.add(Instruction{Do: Set, Obj: in, Key: textStatusKey(key), Value: Scalar{Kind: String, Str: text.String()}})
}

// makeText makes a text. Its ID is not known yet, so that the status says live of all.
func (p *program) makeText(in int, key, want string) {
	p.spliceText(p.add(Instruction{Do: Set, Obj: in, Key: slotKey(Text, key), Value: Scalar{Kind: Text}}), "", want)
	p.setState(in, textStatusKey(key), stateLive)
}

// spliceText turns one text into another by replacing what lies between what they have in common at both ends.
func (p *program) spliceText(ref int, from, to string) {
	index := 0
	for from != "" && to != "" {
		a, n := utf8.DecodeRuneInString(from)
		b, m := utf8.DecodeRuneInString(to)
		if a != b || n != m {
			break
		}
		from, to = from[n:], to[m:]
		index++
	}
	for from != "" && to != "" {
		a, n := utf8.DecodeLastRuneInString(from)
		b, m := utf8.DecodeLastRuneInString(to)
		if a != b || n != m {
			break
		}
		from, to = from[:len(from)-n], to[:len(to)-m]
	}
	p.add(Instruction{
		Do: Splice, Obj: ref, Index: index, Delete: utf8.RuneCountInString(from), Value: Scalar{Kind: String, Str: to},
	})
}

// fill writes the fields of a map container that this change made.
func (p *program) fill(ref int, v Value) {
	for _, key := range slices.Sorted(maps.Keys(v.Map)) {
		x := v.Map[key].normal()
		if x.Kind == Text {
			p.makeText(ref, key, x.Str)
			continue
		}
		made := p.add(Instruction{Do: Set, Obj: ref, Key: slotKey(x.Kind, key), Value: x.scalar()})
		switch x.Kind {
		case Map:
			p.fill(made, x)
		case List:
			p.fillList(made, x.List)
		}
	}
}

func (p *program) fillList(ref int, list []Value) {
	for i, x := range list {
		p.insertAt(ref, i, x)
	}
}

func (p *program) insertAt(ref, index int, x Value) {
	made := p.add(Instruction{Do: Insert, Obj: ref, Index: index, Value: Scalar{Kind: Map}})
	if !x.direct() {
		x = Value{Kind: Map, Map: map[string]Value{itemKey: x}}
	}
	p.fill(made, x)
}

// scalar returns what an instruction says of a value; of a container its kind.
func (v Value) scalar() Scalar {
	if v.Kind.Container() {
		return Scalar{Kind: v.Kind}
	}
	return Scalar{Kind: v.Kind, Str: v.Str, Int: v.Int}
}
