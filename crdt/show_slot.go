package crdt

import (
	"cmp"
	"slices"
	"strings"
)

// A JSON object's field is stored in one of four slots, by its kind, so that a container is never overwritten by a
// value of another kind: scalars under the key itself, containers under the key behind one character. Control keys stand
// in the same map behind a tilde.
const (
	mapSlot   = '{'
	listSlot  = '['
	textSlot  = '"'
	tilde     = '~'
	escape    = "~~" // before a scalar's key that is empty or begins like a slot or a control key
	statusKey = "~"  // before a text's slot: the register that says whether the text was edited or removed
)

// The values of a map's "~v" and of a text's status register.
const (
	stateRemoved = 0
	stateLive    = 1
)

// maxTextName is the length of the longest name of a text, which a status register may hold: an OpID as its String.
const maxTextName = 20 + 1 + 32

// slotKey returns the key under which a value of a kind is stored.
func slotKey(kind Kind, key string) string {
	switch kind {
	case Map:
		return string(mapSlot) + key
	case List:
		return string(listSlot) + key
	case Text:
		return string(textSlot) + key
	}
	if reserved(key) {
		return escape + key
	}
	return key
}

// textStatusKey returns the key of the status register of the texts at a field.
func textStatusKey(key string) string { return statusKey + string(textSlot) + key }

// reserved reports whether a scalar's key needs the escape.
func reserved(key string) bool {
	return key == "" || strings.IndexByte("{[\"~", key[0]) >= 0
}

// cell is all that stands at one field of a map, or at one element of a list: the registers of every slot, taken apart
// by kind. An element has maps alone.
type cell struct {
	element bool
	scalars []Alternative // removed ones too
	boxes   []Alternative // maps
	lists   []Alternative
	texts   []Alternative
	status  Register // of texts
}

// namedCell is the cell of a field.
type namedCell struct {
	key string
	cell
}

// cells groups a map's registers by field, ascending by key, and returns the map's own "~v" register beside them.
// Keys that no version of the mapping writes are skipped; the validator lets none in.
func cells(fields []Field) (list []namedCell, live Register) {
	list = make([]namedCell, 0, len(fields))
	for _, f := range fields {
		if f.Key == "" {
			continue
		}
		c := namedCell{key: f.Key}
		switch f.Key[0] {
		case mapSlot:
			c.key, c.boxes = f.Key[1:], ofKind(f.Values, Map)
		case listSlot:
			c.key, c.lists = f.Key[1:], ofKind(f.Values, List)
		case textSlot:
			c.key, c.texts = f.Key[1:], ofKind(f.Values, Text)
		case tilde:
			switch rest, escaped := strings.CutPrefix(f.Key, escape); {
			case f.Key == liveKey:
				live = f.Values
				continue
			case escaped && reserved(rest):
				c.key, c.scalars = rest, scalarsOf(f.Values)
			case len(f.Key) > 1 && f.Key[1] == textSlot:
				c.key, c.status = f.Key[2:], f.Values
			default:
				continue
			}
		default:
			c.scalars = scalarsOf(f.Values)
		}
		list = append(list, c)
	}
	byKey := func(a, b namedCell) int { return cmp.Compare(a.key, b.key) }
	if !slices.IsSortedFunc(list, byKey) {
		slices.SortFunc(list, byKey)
	}
	out := list[:0]
	for _, c := range list {
		if n := len(out); n > 0 && out[n-1].key == c.key {
			out[n-1].merge(c.cell)
			continue
		}
		out = append(out, c)
	}
	return out, live
}

// merge adds the slots of b, which are others than c's.
func (c *cell) merge(b cell) {
	if b.scalars != nil {
		c.scalars = b.scalars
	}
	if b.boxes != nil {
		c.boxes = b.boxes
	}
	if b.lists != nil {
		c.lists = b.lists
	}
	if b.texts != nil {
		c.texts = b.texts
	}
	if b.status != nil {
		c.status = b.status
	}
}

// An element of a list is a map that is inserted once and never written over: Automerge 0.5 miscounts a list with an
// element that has several values (its issue 311), so that indexes would lead to the wrong one. A map without a field ""
// stands there itself. Any other element is in an item, a map that has that field alone.
const itemKey = ""

// direct reports whether a value stands in a list without an item.
func (v Value) direct() bool {
	_, ok := v.Map[itemKey]
	return v.Kind == Map && !ok
}

// elementCell takes the register of a list's element apart.
func elementCell(r Register) cell {
	return cell{element: true, scalars: scalarsOf(r), boxes: ofKind(r, Map), lists: ofKind(r, List)}
}

func ofKind(r Register, kind Kind) []Alternative {
	if len(r) == 1 && r[0].Kind == kind {
		return r
	}
	var out []Alternative
	for _, a := range r {
		if a.Kind == kind {
			out = append(out, a)
		}
	}
	return out
}

func scalarsOf(r Register) []Alternative {
	if len(r) == 1 && !r[0].Kind.Container() {
		return r
	}
	var out []Alternative
	for _, a := range r {
		if !a.Kind.Container() {
			out = append(out, a)
		}
	}
	return out
}

// removedScalar reports whether an alternative is what a removal writes.
func removedScalar(a Alternative) bool { return a.Kind == Bytes && a.Str == "" }

func scalarValue(a Alternative) Value { return Value{Kind: a.Kind, Str: a.Str, Int: a.Int} }

// states splits a "~v" register into the operations that say live and those that say removed.
func states(r Register) (live, removed []OpID) {
	for _, a := range r {
		if a.Kind == Int && a.Int == stateRemoved {
			removed = append(removed, a.Op)
		} else {
			live = append(live, a.Op)
		}
	}
	return live, removed
}
