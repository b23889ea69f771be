package trust

import (
	"bytes"
	"fmt"
	"slices"
)

// authority checks what n states against what its author saw.
func (s *State) authority(n *node) error {
	v := n.view(s)
	if !v.mayAuthor(n) {
		return ErrNotAdmin
	}
	switch m := n.p.states.(type) {
	case *Addition:
		return v.checkAddition(m)
	case *Anchor:
		return v.checkNew(m.ID)
	case *Removal:
		return v.checkMember(m.Device)
	case *Promotion:
		switch n.had = v.status(m.Device).role; n.had {
		case RoleAnchor:
			return fmt.Errorf("%w: an anchor stays one", ErrNotMember)
		case 0:
			return ErrNotMember
		}
	case *Renaming:
		if m.Device == (DeviceID{}) {
			return nil
		}
		return v.checkMember(m.Device)
	case *Rotation:
		return v.checkRotation(m)
	case *ScopeCreation:
		return v.checkScope(n, m)
	case *Reseed:
		for _, id := range m.Voters {
			if v.status(id).role == 0 {
				return ErrNotMember
			}
		}
	case *Checkpoint:
		if m.Of == (EntryID{}) {
			return nil
		}
		of := s.nodes[m.Of]
		if of == nil || !n.follows(of) {
			return fmt.Errorf("%w: it is no ancestor", ErrCheckpoint)
		}
		if c, ok := of.p.states.(*Checkpoint); !ok || c.Of != (EntryID{}) {
			return ErrCheckpoint
		}
	case *Recovery:
		return v.checkRecovery(m)
	}
	return nil
}

func (v view) checkMember(id DeviceID) error {
	if v.status(id).role == 0 {
		return ErrNotMember
	}
	return nil
}

// checkNew checks that a key was never used: a removed device comes back under another.
func (v view) checkNew(id DeviceID) error {
	st := v.status(id)
	if root, _ := v.root(); st.role != 0 || id == root || id == v.s.founding.Root {
		return ErrMemberAlready
	}
	if st.removed {
		return ErrRemoved
	}
	return nil
}

// checkAddition holds a newcomer's boxes against the scopes: it has at least one, and of each the newest epochs, which open
// all that came before. Without them it could read nothing, and would find out by charts that stay empty.
func (v view) checkAddition(m *Addition) error {
	if err := v.checkNew(m.Device.ID); err != nil {
		return err
	}
	if len(m.Boxes) == 0 {
		return ErrBoxes
	}
	for boxes := m.Boxes; len(boxes) > 0; {
		scope := boxes[0].Scope
		end := slices.IndexFunc(boxes, func(b EpochBox) bool { return b.Scope != scope })
		if end < 0 {
			end = len(boxes)
		}
		if !slices.EqualFunc(boxes[:end], v.headIDs(scope), func(b EpochBox, id EpochID) bool { return b.Epoch == id }) {
			return ErrBoxes
		}
		boxes = boxes[end:]
	}
	return nil
}

// checkRotation checks that a rotation joins all newest epochs of its scope, and leaves out nobody who reads it. It may join others
// of the scope too, which no epoch opens that is read now.
func (v view) checkRotation(m *Rotation) error {
	joins := func(id EpochID) bool {
		_, ok := slices.BinarySearchFunc(m.Previous, id, func(p PreviousEpoch, id EpochID) int { return bytes.Compare(p.Epoch[:], id[:]) })
		return ok
	}
	heads := v.headIDs(m.Scope)
	if len(heads) == 0 || slices.ContainsFunc(heads, func(id EpochID) bool { return !joins(id) }) {
		return ErrEpochs
	}
	others := len(m.Previous) - len(heads)
	for _, n := range v.s.epochs[m.Scope] {
		if others > 0 && v.at.follows(n) {
			if id := EpochIDOf(n.ID(), m.Scope); joins(id) && !slices.Contains(heads, id) {
				others--
			}
		}
	}
	if others > 0 {
		return ErrEpochs
	}
	if !slices.EqualFunc(m.Boxes[1:], v.readers(m.Scope), func(b ScopeBox, id DeviceID) bool { return b.Recipient == id }) {
		return ErrBoxes
	}
	return nil
}

func (v view) checkScope(n *node, m *ScopeCreation) error {
	var readers []DeviceID
	for _, b := range m.Boxes[1:] {
		if !v.status(b.Recipient).role.MayRead() {
			return ErrBoxes
		}
		readers = append(readers, b.Recipient)
	}
	root, _ := v.root()
	if _, known := slices.BinarySearchFunc(readers, n.Author(), compareDeviceID); !known && n.Author() != root {
		return ErrBoxes // who makes it would not know what is in it
	}
	return nil
}

func (v view) checkRecovery(m *Recovery) error {
	if root, _ := v.root(); m.Replaced != root {
		return ErrRecovery
	}
	return v.checkNew(m.Root)
}

func compareDeviceID(a, b DeviceID) int { return bytes.Compare(a[:], b[:]) }
