package trust

import (
	"bytes"
	"cmp"
	"slices"
)

// view is what a set of entries amounts to: those at or before one of them, or all.
type view struct {
	s   *State
	at  *node // nil: all
	out outs
}

// view is what n's author saw.
func (n *node) view(s *State) view { return view{s, n, n.before} }

// sees reports whether an entry belongs to the view and stands in it.
func (v view) sees(n *node) bool {
	if n.undecided || v.at != nil && !v.at.follows(n) {
		return false
	}
	_, out := v.out[n]
	return !out
}

// status is what a view says of a device.
type status struct {
	add     *node // the entry that holds of those that added it; nil: none did
	role    Role  // zero if it does not belong
	removed bool
	wrote   bool   // it has, or had, a role that may write
	could   bool   // the same, by some entry that may not stand
	ended   bool   // somebody removed it or gave it a role that may not, knowing that it wrote
	names   []byte // found out for a whole State alone
	cut     Cut    // how far its logs count, of removals and of roles that may not write
}

func (v view) status(id DeviceID) (st status) {
	var roles []*node
	for _, n := range v.s.about[id] {
		if (n.adds() != nil || n.p.kind == KindRole) && n.role().MayWrite() {
			st.could = true
		}
		if !v.sees(n) {
			continue
		}
		if n.adds() != nil {
			// Of additions that were made apart, the one with the lesser right holds, and of equal ones the smaller ID.
			if st.add == nil || cmp.Or(cmp.Compare(n.adds().Role.rank(), st.add.adds().Role.rank()),
				compareEntryID(n.ID(), st.add.ID())) < 0 {
				st.add = n
			}
			roles = append(roles, n)
		}
		switch m := n.p.states.(type) {
		case *Removal:
			st.removed, st.ended = true, true
			st.cut = st.cut.union(m.Cut)
		case *Promotion:
			roles = append(roles, n)
		}
	}
	if st.add == nil {
		return status{removed: st.removed, ended: true, cut: st.cut} // what added it may have counted before it fell
	}
	for _, n := range roles {
		st.wrote = st.wrote || n.role().MayWrite()
	}
	for _, n := range newest(roles) {
		if role := n.role(); st.role == 0 || role.rank() < st.role.rank() {
			st.role = role
		}
		if m, ok := n.p.states.(*Promotion); ok && !m.Role.MayWrite() {
			if st.ended = true; !st.removed {
				st.cut = st.cut.union(m.Cut)
			}
		}
	}
	if st.removed {
		st.role = 0
	}
	return st
}

// names returns the sealed names of a device that add added, or the practice's for a zero id.
func (v view) names(id DeviceID, add *node) []byte {
	var last *node // a name that follows another is listed after it
	for _, n := range v.s.names[id] {
		if v.sees(n) && (last == nil || compareNodes(n, last) > 0) {
			last = n
		}
	}
	switch {
	case last != nil && (add != nil || id == (DeviceID{})):
		return last.p.states.(*Renaming).Names
	case id == (DeviceID{}):
		return v.s.founding.Practice
	case add == nil:
		return nil
	}
	return add.adds().Names
}

// newest returns the entries of a list in which ancestors come first that no other of them follows.
func newest(list []*node) (out []*node) {
	for _, n := range slices.Backward(list) { // what follows it came before it, or what follows that
		if !slices.ContainsFunc(out, func(m *node) bool { return m.follows(n) }) {
			out = append(out, n)
		}
	}
	return out
}

// root returns the root key in force and the recovery key that belongs to it.
func (v view) root() (root DeviceID, key []byte) {
	root, key = v.s.founding.Root, v.s.founding.Recovery
	// Of two that were made apart one alone stands.
	for _, n := range newest(slices.DeleteFunc(slices.Clone(v.s.recoveries), func(n *node) bool { return !v.sees(n) })) {
		m := n.p.states.(*Recovery)
		root, key = m.Root, m.Key
	}
	return root, key
}

// mayAuthor reports whether n's author has the right to make entries: the root key or an administrator. Nobody else has, not
// even about himself, so that nobody else can fill the log or name a cut.
func (v view) mayAuthor(n *node) bool {
	if root, _ := v.root(); n.Author() == root {
		return true
	}
	return v.status(n.Author()).role == RoleAdmin
}

// administrators returns the devices that are administrators, ascending.
func (v view) administrators() (list []DeviceID) {
	for id := range v.s.about {
		if v.status(id).role == RoleAdmin {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, compareDeviceID)
	return list
}

// heads returns the entries that begin a scope's newest epochs: one, or several after rotations that were made apart.
func (v view) heads(scope ScopeID) []*node {
	var seen []*node
	for _, n := range v.s.epochs[scope] {
		if v.sees(n) {
			seen = append(seen, n)
		}
	}
	return newest(seen)
}

// headIDs returns the scope's newest epochs, ascending.
func (v view) headIDs(scope ScopeID) (ids []EpochID) {
	for _, n := range v.heads(scope) {
		ids = append(ids, EpochIDOf(n.ID(), scope))
	}
	slices.SortFunc(ids, func(a, b EpochID) int { return bytes.Compare(a[:], b[:]) })
	return ids
}

// current returns the epoch that is written under.
func (v view) current(scope ScopeID) EpochID {
	heads := v.heads(scope)
	if len(heads) == 0 {
		return EpochID{}
	}
	return EpochIDOf(slices.MaxFunc(heads, compareNodes).ID(), scope)
}

// given reports whether a device was given a scope, in whatever role.
func (v view) given(id DeviceID, scope ScopeID) bool { return v.s.given(id, scope, v.sees) }

// given reports whether one of some entries gave a device a scope.
func (s *State) given(id DeviceID, scope ScopeID, by func(*node) bool) bool {
	return slices.ContainsFunc(s.about[id], func(n *node) bool {
		m, ok := n.p.states.(*Addition)
		return ok && by(n) && slices.ContainsFunc(m.Boxes, func(b EpochBox) bool { return b.Scope == scope })
	}) || slices.ContainsFunc(s.epochs[scope][:min(1, len(s.epochs[scope]))], func(n *node) bool {
		_, found := slices.BinarySearchFunc(n.begins(scope).Boxes, id, func(b ScopeBox, id DeviceID) int {
			return compareDeviceID(b.Recipient, id)
		})
		return found && by(n)
	})
}

// readers returns the devices that read a scope, ascending.
func (v view) readers(scope ScopeID) (list []DeviceID) {
	for id := range v.s.about {
		if v.status(id).role.MayRead() && v.given(id, scope) {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, func(a, b DeviceID) int { return bytes.Compare(a[:], b[:]) })
	return list
}

// adds returns the device or anchor that an entry adds.
func (n *node) adds() *Device {
	switch m := n.p.states.(type) {
	case *Founding:
		return &m.Device
	case *Addition:
		return &m.Device
	case *Anchor:
		return &Device{ID: m.ID, Role: RoleAnchor, Names: m.Names}
	}
	return nil
}

// role returns the role that an entry gives.
func (n *node) role() Role {
	if m, ok := n.p.states.(*Promotion); ok {
		return m.Role
	}
	return n.adds().Role
}

// begins returns the scope that an entry creates, with its first epoch; without a name where that is sealed.
func (n *node) begins(scope ScopeID) *NewScope {
	switch m := n.p.states.(type) {
	case *Founding:
		for i := range m.Scopes {
			if ScopeIDOf(m.Nonce, m.Scopes[i].Name) == scope {
				return &m.Scopes[i]
			}
		}
	case *ScopeCreation:
		if ScopeIDOfEntry(n.ID()) == scope {
			return &NewScope{Commitment: m.Commitment, Boxes: m.Boxes}
		}
	}
	return nil
}

// rank orders roles by what they may do.
func (r Role) rank() int {
	switch r {
	case RoleAdmin:
		return 4
	case RoleServer:
		return 3
	case RoleMember:
		return 2
	case RoleReader:
		return 1
	}
	return 0
}

// compareNodes orders entries by the longest way from the founding, then by ID: ancestors come first.
func compareNodes(a, b *node) int {
	return cmp.Or(cmp.Compare(a.generation, b.generation), compareEntryID(a.ID(), b.ID()))
}
