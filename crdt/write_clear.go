package crdt

import "slices"

// keep says which parts of a cell clear spares.
type keep struct {
	something bool // something in the cell is live afterwards
	scalars   bool
	maps      []*box
	lists     bool
	texts     bool
	beside    bool // an open conflict stays open: its other sides are spared
}

// clear removes what stands in a cell but what is kept. If something is kept, what is removed already is removed again,
// so that whoever made the cell what it is has removed all else in it (see unanswered).
func (p *program) clear(n *seen, at address, kept keep) {
	// Over an element that is a container nothing may be written.
	if !kept.scalars && len(n.scalars) > 0 && (at.in.kind == Map || len(n.maps) == 0 && n.union == nil) {
		live, removed := scalarStates(n.scalars)
		if kept.clears(n, live, removed, false) {
			p.set(at, Scalar{Kind: Bytes})
		}
	}
	for _, b := range n.maps {
		if slices.Contains(kept.maps, b) {
			continue
		}
		equal := b.live && len(kept.maps) > 0 && kept.maps[0].live && b.value.Equal(kept.maps[0].value)
		if kept.clears(n, b.live, b.removedOps, equal) {
			p.setState(p.enter(&holder{kind: Map, at: at, op: b.op}), liveKey, stateRemoved)
		}
	}
	if !kept.lists && n.union != nil && kept.clears(n, len(n.union.elements) > 0, nil, false) {
		holders := n.union.holders(at)
		for _, e := range n.union.elements {
			p.clearElement(e, holders)
		}
	}
	if len(n.texts) > 0 || len(n.status) > 0 {
		p.clearTexts(n, at, kept)
	}
}

// clears reports whether a part of a cell has to be removed, perhaps again. equal says that it is a copy of what is kept.
func (k keep) clears(n *seen, live bool, removed []OpID, equal bool) bool {
	open := k.beside && n.sides != nil
	switch {
	case live && open:
		return equal
	case live:
		return true
	case !k.something || len(removed) == 0:
		return false
	case open:
		return !slices.ContainsFunc(n.sides, func(s side) bool { return s.removed && slices.Contains(s.ops, removed[0]) })
	}
	return true
}

func scalarStates(list []Alternative) (live bool, removed []OpID) {
	for _, a := range list {
		if removedScalar(a) {
			removed = append(removed, a.Op)
		} else {
			live = true
		}
	}
	return live, removed
}

func (p *program) clearTexts(n *seen, at address, kept keep) {
	if u := n.textUnit(); !kept.texts && kept.clears(n, len(u.sides) > 0, u.removed, false) {
		p.setState(p.enter(at.in), textStatusKey(at.key), stateRemoved)
	}
}

// clearElement removes all copies of an element.
func (p *program) clearElement(e element, lists []*holder) {
	for _, c := range e.copies {
		p.clear(c.seen, address{in: lists[c.list], index: c.index}, keep{})
	}
}

// holders returns the union's containers as instructions address them.
func (u *union) holders(at address) []*holder {
	list := make([]*holder, len(u.lists))
	for i, a := range u.lists {
		list[i] = &holder{kind: List, at: at, op: a.Op}
	}
	return list
}
