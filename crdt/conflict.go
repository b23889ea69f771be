package crdt

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"chartmesh/wire"
)

// Conflict is one place where people wrote different things apart from each other, and nobody has decided yet.
type Conflict struct {
	// ID is the same on all devices that hold the same changes, and another after every decision that leaves it open.
	ID ConflictID
	// Path leads to the place, for people: `name[0].given[1]`, with indexes as they are shown. It is empty for the
	// resource itself. Below a side that is not shown it is that side's own path.
	Path string
	// Sides are ordered by their smallest operation.
	Sides []ConflictSide
	// Shown is the side that is shown meanwhile: of those that are not removals the one with the greatest operation.
	Shown int
	// Place is where it is, whatever is shown there and around.
	Place Place
}

// Around reports whether another conflict is within a side of this one, as their paths are shown.
func (c Conflict) Around(other Conflict) bool {
	rest, ok := strings.CutPrefix(other.Path, c.Path)
	return ok && rest != "" && (c.Path == "" || rest[0] == '.' || rest[0] == '[')
}

// Place names a place in a resource by the container that it is in and its key there, or by what inserted it into a list. It stays the same
// with every change, and is comparable.
type Place struct {
	in      OpID // zero: the resource itself
	key     string
	element OpID
}

// ConflictSide is one of the values of a conflict.
type ConflictSide struct {
	Ops     []OpID // what wrote it, ascending; the last is the newest
	Removed bool   // then Value is absent
	Value   Value
}

// ConflictID names an open conflict.
type ConflictID [16]byte

// String returns all 32 hex digits.
func (id ConflictID) String() string { return hex.EncodeToString(id[:]) }

var (
	// ErrNoConflict says that no open conflict has the ID: it was decided, or grew, or never was.
	ErrNoConflict = errors.New("no such open conflict")
	// ErrChoice says that a conflict cannot be decided in the way asked for.
	ErrChoice = errors.New("not a choice for this conflict")
)

// conflict describes the conflict in a cell.
func (n *seen) conflict(root string, at place) Conflict {
	c := Conflict{ID: n.conflictID(root, at), Path: at.path, Place: at.of(n), Shown: n.shown, Sides: make([]ConflictSide, len(n.sides))}
	for i, s := range n.sides {
		c.Sides[i] = ConflictSide{Ops: s.ops, Removed: s.removed, Value: s.value}
	}
	return c
}

// conflictID hashes the place, by the container that it is in, and all operations of all sides. Every decision and every
// edit of a side brings a new operation, so that an ID stands for exactly what was seen.
func (n *seen) conflictID(root string, at place) (id ConflictID) {
	var ops []OpID
	for _, s := range n.sides {
		ops = append(ops, s.ops...)
	}
	slices.SortFunc(ops, OpID.Compare)
	ops = slices.Compact(ops)
	var w wire.Writer
	w.String("chartmesh conflict 1")
	w.String(root)
	w.Uvarint(at.in.Counter)
	w.Raw(at.in.Actor[:])
	w.String(at.key)
	w.Uvarint(uint64(len(ops)))
	for _, op := range ops {
		w.Uvarint(op.Counter)
		w.Raw(op.Actor[:])
	}
	sum := sha256.Sum256(w.Bytes())
	copy(id[:], sum[:])
	return id
}

// place says where a cell stands.
type place struct {
	path  string
	in    OpID   // the container around it; zero for a resource
	key   string // its key there; empty for an element
	field bool   // of a map, and no element
	steps []step // from the resource's own cell
}

// of returns the place of a cell that stands there.
func (at place) of(n *seen) Place {
	p := Place{in: at.in, key: at.key}
	if at.in != (OpID{}) && !at.field && len(n.maps) > 0 {
		p.element = n.maps[0].op // an element has maps alone
	}
	return p
}

// step leads from a cell to one below.
type step struct {
	from    *seen
	box     *box // nil: to a copy of an element
	key     string
	element int
	copied  int
}

// walk calls fn for every open conflict in a cell and in all that is live below it, until fn returns false.
func (n *seen) walk(at place, fn func(*seen, place) bool) bool {
	if !n.open {
		return true
	}
	if n.sides != nil && !fn(n, at) {
		return false
	}
	below := func(s step) []step { return append(slices.Clip(at.steps), s) }
	for _, b := range n.maps {
		if !b.live || !b.open {
			continue
		}
		for i := range b.fields {
			f := &b.fields[i]
			if !f.open {
				continue
			}
			to := place{path: f.key, in: b.op, key: f.key, field: true}
			to.steps = below(step{from: n, box: b, key: f.key})
			if b.item {
				to.path = at.path
			} else if at.in != (OpID{}) {
				to.path = at.path + "." + f.key
			}
			if !f.walk(to, fn) {
				return false
			}
		}
	}
	if n.union == nil {
		return true
	}
	for i, e := range n.union.elements {
		for j, c := range e.copies {
			if !c.seen.open {
				continue
			}
			to := place{
				path:  at.path + "[" + strconv.Itoa(i) + "]",
				in:    n.union.lists[c.list].Op,
				steps: below(step{from: n, element: i, copied: j}),
			}
			if !c.seen.walk(to, fn) {
				return false
			}
		}
	}
	return true
}

// locate finds a place in a cell and in all that is live below it. A field that holds nothing is found if its map is there.
func (n *seen) locate(want Place, at place) (*seen, place, bool) {
	if at.of(n) == want {
		return n, at, true
	}
	below := func(s step) []step { return append(slices.Clip(at.steps), s) }
	for _, b := range n.maps {
		if !b.live {
			continue
		}
		b.look()
		in := func(key string) place {
			return place{in: b.op, key: key, field: true, steps: below(step{from: n, box: b, key: key})}
		}
		if b.op == want.in && b.field(want.key) == nil {
			return new(seen), in(want.key), true
		}
		for i := range b.fields {
			if f, at, ok := b.fields[i].locate(want, in(b.fields[i].key)); ok {
				return f, at, true
			}
		}
	}
	if n.union == nil {
		return nil, place{}, false
	}
	for i, e := range n.union.elements {
		for j, c := range e.copies {
			to := place{in: n.union.lists[c.list].Op, steps: below(step{from: n, element: i, copied: j})}
			if f, at, ok := c.seen.locate(want, to); ok {
				return f, at, true
			}
		}
	}
	return nil, place{}, false
}

// unit is a part of a cell whose values replace each other: the scalars, one map container, the lists, the texts.
type unit struct {
	sides   []side // live ones
	removed []OpID
}

// weigh sees a cell that holds more than one thing: which of it is shown, and whether there is a conflict.
func (n *seen) weigh() {
	units := n.units()
	live := 0
	for _, u := range units {
		live += len(u.sides)
	}
	removed := side{removed: true, ops: unanswered(units)}
	if live == 0 {
		return
	}
	var sides []side
	for _, u := range units {
		for _, s := range u.sides {
			at := slices.IndexFunc(sides, func(t side) bool { return t.value.Equal(s.value) })
			if at < 0 {
				sides = append(sides, s)
				continue
			}
			sides[at].ops = slices.Concat(sides[at].ops, s.ops)
			sides[at].made = later(sides[at].made, s.made)
		}
	}
	shown := 0
	order(sides)
	for i, s := range sides {
		if s.made.Compare(sides[shown].made) > 0 {
			shown = i
		}
	}
	n.live, n.value, n.made = true, sides[shown].value, sides[shown].made
	if len(removed.ops) > 0 {
		sides = append(sides, removed)
	}
	if len(sides) == 1 {
		return
	}
	order(sides)
	n.sides, n.open = sides, true
	n.shown = slices.IndexFunc(sides, func(s side) bool { return !s.removed && s.value.Equal(n.value) })
}

// order sorts sides by their smallest operation. Two texts can have the same ones; then their content decides.
func order(sides []side) {
	for i := range sides {
		slices.SortFunc(sides[i].ops, OpID.Compare)
		sides[i].ops = slices.Compact(sides[i].ops)
	}
	slices.SortFunc(sides, func(a, b side) int {
		if c := slices.CompareFunc(a.ops, b.ops, OpID.Compare); c != 0 {
			return c
		}
		return bytes.Compare(encoded(a.value), encoded(b.value))
	})
}

func (n *seen) units() (units []unit) {
	if len(n.scalars) > 0 {
		var u unit
		for _, a := range n.scalars {
			if removedScalar(a) {
				u.removed = append(u.removed, a.Op)
			} else {
				u.sides = append(u.sides, side{value: scalarValue(a), ops: []OpID{a.Op}, made: a.Op})
			}
		}
		units = append(units, u)
	}
	for _, b := range n.maps {
		u := unit{removed: b.removedOps}
		if b.live {
			u.sides = []side{{value: b.value, ops: slices.Clone(b.ops()), made: b.made}}
		}
		units = append(units, u)
	}
	if n.union != nil && len(n.union.elements) > 0 {
		lists := seen{union: n.union}
		units = append(units, unit{sides: []side{{
			value: n.union.value(), ops: lists.liveOps(nil), made: n.union.made(),
		}}})
	}
	if len(n.texts) > 0 || len(n.status) > 0 {
		units = append(units, n.textUnit())
	}
	return units
}

// textUnit sees the texts of a field, whose characters stay when they are removed. They share one status register, which
// says of one of them or of all that it is live, or that all are removed.
func (n *seen) textUnit() (u unit) {
	var every []OpID
	single := map[string][]OpID{}
	for _, a := range n.status {
		switch {
		case a.Kind == Int && a.Int == stateRemoved:
			u.removed = append(u.removed, a.Op)
		case a.Kind == String && slices.ContainsFunc(n.texts, func(t Alternative) bool { return t.Op.String() == a.Str }):
			single[a.Str] = append(single[a.Str], a.Op)
		default:
			every = append(every, a.Op)
		}
	}
	for _, t := range n.texts {
		// What says live of all, said by who made another of the texts, was meant for that one.
		ops := slices.Clone(single[t.Op.String()])
		for _, op := range every {
			if !slices.ContainsFunc(n.texts, func(o Alternative) bool { return o.Op != t.Op && o.Op.Actor == op.Actor }) {
				ops = append(ops, op)
			}
		}
		if len(ops) == 0 {
			ops = slices.Clone(every)
		}
		if len(n.status) == 0 {
			ops = append(ops, t.Op)
		}
		if t.Str != "" && len(ops) > 0 {
			u.sides = append(u.sides, side{value: Value{Kind: Text, Str: t.Str}, ops: ops, made: greatest(ops)})
		}
	}
	return u
}

// unanswered returns the removals that stand against something live. A removal that one author wrote together with
// something live in another part of the cell is a part of replacing the one by the other, and no side of its own: that is
// how a change of kind, and a decision between containers, are written. Every later edit of a cell writes the removals of
// its other parts again, so that the author of what is live is the author of those removals too.
func unanswered(units []unit) (removed []OpID) {
	for i, u := range units {
		for _, op := range u.removed {
			if !wrote(units[:i], op.Actor) && !wrote(units[i+1:], op.Actor) {
				removed = append(removed, op)
			}
		}
	}
	return removed
}

// wrote reports whether something live in the units is by an actor.
func wrote(units []unit, actor Actor) bool {
	for _, u := range units {
		for _, s := range u.sides {
			if slices.ContainsFunc(s.ops, func(op OpID) bool { return op.Actor == actor }) {
				return true
			}
		}
	}
	return false
}

// find returns the cell of an open conflict and where it stands.
func (n *seen) find(root string, id ConflictID) (found *seen, at place, err error) {
	n.walk(place{key: root}, func(m *seen, where place) bool {
		if m.conflictID(root, where) != id {
			return true
		}
		found, at = m, where
		return false
	})
	if found == nil {
		return nil, place{}, fmt.Errorf("find conflict %v: %w", id, ErrNoConflict)
	}
	return found, at, nil
}
