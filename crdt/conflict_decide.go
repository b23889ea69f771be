package crdt

import (
	"fmt"
	"slices"
)

// Choice says how a conflict is decided.
type Choice struct {
	kind  choiceKind
	side  int
	value Value
}

type choiceKind uint8

const (
	chooseNothing choiceKind = iota // the zero Choice is none
	chooseSide
	chooseValue
	chooseRemoved
)

// ChooseSide takes the value of one of Conflict.Sides, by its index.
func ChooseSide(i int) Choice { return Choice{kind: chooseSide, side: i} }

// ChooseValue takes a value that need not be one of the sides.
func ChooseValue(v Value) Choice { return Choice{kind: chooseValue, value: v} }

// ChooseRemoved takes the removal.
func ChooseRemoved() Choice { return Choice{kind: chooseRemoved} }

// Decide returns the instructions that decide an open conflict. Where the change is known the conflict is gone. Sites
// that decide alike apart from each other agree; if they decide differently that is a conflict again, with another ID.
//
// A value that is chosen is written whole, so that it meets another site's different choice in each field. A resource and
// an element that is a map stay maps; another kind is ErrChoice.
func Decide(key string, r Register, id ConflictID, choice Choice) ([]Instruction, error) {
	root := look(cell{boxes: ofKind(r, Map)})
	n, at, err := root.find(key, id)
	if err != nil {
		return nil, err
	}
	want, err := choice.of(n)
	if err != nil {
		return nil, fmt.Errorf("decide conflict %v: %w", id, err)
	}
	instructions, err := root.settle(key, n, at, want, choice.kind == chooseValue)
	if err != nil {
		return nil, fmt.Errorf("decide conflict %v: %w", id, err)
	}
	return instructions, nil
}

// settle writes a value, absent for a removal, in a cell that stands at a place in the resource. Deep: all of it, also what is equal.
func (n *seen) settle(key string, cell *seen, at place, want Value, deep bool) ([]Instruction, error) {
	if !cell.holds(want, at) {
		return nil, fmt.Errorf("%w: a value of another kind", ErrChoice)
	}
	if err := want.check(1 + len(at.steps)); want.Kind != 0 && err != nil {
		return nil, err
	}
	p := &program{deep: deep}
	p.decide(n, address{in: &holder{kind: Map, root: true}, key: key}, at.steps, want)
	return p.instructions, nil
}

// At returns what is shown at a place of a resource, absent for nothing. It is false if what the place is in is not there.
func At(key string, r Register, at Place) (Value, bool) {
	n, _, ok := look(cell{boxes: ofKind(r, Map)}).locate(at, place{key: key})
	if !ok {
		return Value{}, false
	}
	return n.value, true
}

// Say returns the instructions that write a value, absent for a removal, at a place of a resource as a decision does: also where it
// stands already, so that it meets what others decide, and without settling a conflict around it. ErrNoConflict says that what the
// place is in is not there.
func Say(key string, r Register, to Place, want Value) ([]Instruction, error) {
	root := look(cell{boxes: ofKind(r, Map)})
	n, at, ok := root.locate(to, place{key: key})
	if !ok {
		return nil, fmt.Errorf("say a decision: %w: what it was in is not there", ErrNoConflict)
	}
	instructions, err := root.settle(key, n, at, want, false)
	if err != nil {
		return nil, fmt.Errorf("say a decision: %w", err)
	}
	return instructions, nil
}

// of returns the value that is chosen; absent for the removal.
func (c Choice) of(n *seen) (Value, error) {
	switch c.kind {
	case chooseSide:
		if c.side < 0 || c.side >= len(n.sides) {
			return Value{}, fmt.Errorf("%w: side %d of %d", ErrChoice, c.side, len(n.sides))
		}
		return n.sides[c.side].value, nil
	case chooseValue:
		if c.value.Kind == 0 {
			return Value{}, fmt.Errorf("%w: no value", ErrChoice)
		}
		return c.value, nil
	case chooseRemoved:
		return Value{}, nil
	}
	return Value{}, fmt.Errorf("%w: none made", ErrChoice)
}

// holds reports whether a value can be written to a cell.
func (n *seen) holds(want Value, at place) bool {
	switch {
	case want.Kind == 0:
		return true
	case len(at.steps) == 0:
		return want.Kind == Map
	case at.field:
		return true
	}
	return n.becomes(want)
}

// decide follows the steps to the conflict, marking the maps on the way live, and decides it. Copies on the way, of an
// element in another list container or of a map in another container, are decided alike, if the conflict is in what is
// shown of them. Conflicts on the way stay open as far as an edit inside one of their sides lets them.
func (p *program) decide(n *seen, at address, steps []step, want Value) {
	if len(steps) == 0 {
		p.write(n, at, want, decided)
		return
	}
	s := steps[0]
	if !s.inMap() {
		if want.Kind != 0 { // else nothing in the list would be ours, as what clear writes is
			p.clear(n, at, keep{something: true, lists: true, beside: true})
		}
		if n.union == nil || s.element >= len(n.union.elements) {
			return
		}
		lists := n.union.holders(at)
		copies := n.union.elements[s.element].copies
		for i, c := range copies {
			at := address{in: lists[c.list], index: c.index}
			switch {
			case i != s.copied && !inShown(steps):
			case i > 0 && copies[i-1].list == c.list:
				p.clear(c.seen, at, keep{})
			default:
				p.decide(c.seen, at, steps[1:], want)
			}
		}
		return
	}
	var kept []*box
	if slices.Contains(n.maps, s.box) {
		kept = n.equals(s.box)
	} else {
		kept = n.keepers(n.value) // a copy of the cell that the steps were taken in
	}
	p.clear(n, at, keep{something: true, maps: kept, beside: true})
	if !inShown(steps) {
		kept = slices.DeleteFunc(kept, func(b *box) bool { return b != s.box })
	}
	for _, b := range kept {
		h := p.mark(b, at)
		b.look()
		f := b.field(s.key)
		if f == nil {
			f = new(seen)
		}
		p.decide(f, address{in: h, key: s.key}, steps[1:], want)
	}
}

// inShown reports whether the steps lead through what is shown, and not through other sides of conflicts.
func inShown(steps []step) bool {
	for _, s := range steps {
		if s.inMap() && !(s.from.live && s.box.value.Equal(s.from.value)) {
			return false
		}
	}
	return true
}

func (s step) inMap() bool { return s.box != nil }
