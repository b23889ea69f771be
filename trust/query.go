package trust

import (
	"bytes"
	"slices"
)

// Practice returns the ID of the founding entry, which names the practice.
func (s *State) Practice() EntryID { return s.practice }

// Founding returns what the founding entry states.
func (s *State) Founding() Founding { return s.founding }

// Heads returns the entries that are no other's parent, ascending.
func (s *State) Heads() []EntryID { return slices.Clone(s.heads) }

// HeadsHash names the whole State in 32 bytes: two States with equal heads are equal.
func (s *State) HeadsHash() [32]byte { return s.headsHash }

// Len returns the number of entries.
func (s *State) Len() int { return len(s.order) }

// Contains reports whether the State holds an entry.
func (s *State) Contains(id EntryID) bool { return s.nodes[id] != nil }

// Entry returns an entry that the State holds.
func (s *State) Entry(id EntryID) (Entry, bool) {
	n := s.nodes[id]
	if n == nil {
		return Entry{}, false
	}
	return n.Entry, true
}

// Entries returns all entries, parents before children, in an order that is the same everywhere.
func (s *State) Entries() []Entry { return s.Since(nil) }

// Since returns what somebody lacks who holds heads with their ancestors: all other entries, parents before children.
// Heads that the State does not hold are passed over.
func (s *State) Since(heads []EntryID) []Entry {
	var held []*node
	for _, h := range heads {
		if n := s.nodes[h]; n != nil {
			held = append(held, n)
		}
	}
	var out []Entry
	for _, n := range s.order {
		if !slices.ContainsFunc(held, func(h *node) bool { return h == n || h.follows(n) }) {
			out = append(out, n.Entry)
		}
	}
	return out
}

// Unknown returns the entries without effect in this version, ascending by ID: those of kinds that it does not know, and
// those that only such entries could allow. While there are any, this device sees less of the membership than newer
// ones do.
func (s *State) Unknown() []Entry { return slices.Clone(s.unknown) }

// Members returns the devices that belong, ascending by ID.
func (s *State) Members() []Member {
	out := make([]Member, 0, len(s.members))
	for id := range s.members {
		m, _ := s.Member(id)
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Member) int { return bytes.Compare(a.Device[:], b.Device[:]) })
	return out
}

// Member returns a device that belongs.
func (s *State) Member(id DeviceID) (Member, bool) {
	n := s.members[id]
	if n == nil {
		return Member{}, false
	}
	d := n.device()
	return Member{
		Device: d.ID, HPKE: d.HPKE, Role: d.Role, Names: d.Names, Entry: n.ID(), TimeMillis: n.TimeMillis(),
	}, true
}

// Scopes returns the scopes, ascending by ID.
func (s *State) Scopes() []Scope {
	out := slices.Clone(s.scopes)
	for i := range out {
		out[i].Epochs = slices.Clone(out[i].Epochs)
	}
	return out
}

// Scope returns a scope.
func (s *State) Scope(id ScopeID) (Scope, bool) {
	for _, sc := range s.scopes {
		if sc.ID == id {
			sc.Epochs = slices.Clone(sc.Epochs)
			return sc, true
		}
	}
	return Scope{}, false
}

// ScopeNamed returns the ID of a scope that the practice founded.
func (s *State) ScopeNamed(name string) (ScopeID, bool) {
	for _, sc := range s.scopes {
		if sc.Name == name {
			return sc.ID, true
		}
	}
	return ScopeID{}, false
}

// CurrentEpoch returns the epoch that new chunks of a scope are sealed under; zero for an unknown scope.
func (s *State) CurrentEpoch(scope ScopeID) EpochID {
	for _, sc := range s.scopes {
		if sc.ID == scope {
			return sc.Epochs[len(sc.Epochs)-1].ID
		}
	}
	return EpochID{}
}

// MayWrite reports whether device's chunks in scope are accepted.
func (s *State) MayWrite(device DeviceID, scope ScopeID) bool {
	m, ok := s.Member(device)
	return ok && s.CurrentEpoch(scope) != EpochID{} && rank(m.Role) >= rank(RoleMember)
}

// MayRead reports whether device is given scope's keys.
func (s *State) MayRead(device DeviceID, scope ScopeID) bool {
	m, ok := s.Member(device)
	return ok && s.CurrentEpoch(scope) != EpochID{} && rank(m.Role) >= rank(RoleReader)
}

// Boxes returns the key boxes for a device; for the zero DeviceID, those for the recovery key.
func (s *State) Boxes(recipient DeviceID) []KeyBox {
	var out []KeyBox
	if recipient == (DeviceID{}) || recipient == s.founding.Device.ID {
		key := s.founding.Recovery
		if recipient != (DeviceID{}) {
			key = s.founding.Device.HPKE
		}
		for _, sc := range s.founding.Scopes {
			id := ScopeIDOf(s.founding.Nonce, sc.Name)
			for _, b := range sc.Boxes {
				if b.Recipient == recipient {
					out = append(out, KeyBox{
						Scope: id, Epoch: EpochIDOf(s.practice, id), Commitment: sc.Commitment,
						Recipient: recipient, HPKE: key, Sealed: b.Sealed,
					})
				}
			}
		}
	}
	for _, n := range s.adds[recipient] {
		if n.p.addition == nil {
			continue
		}
		for _, b := range n.p.addition.Boxes {
			if c, ok := s.commitment(b.Scope, b.Epoch); ok {
				out = append(out, KeyBox{
					Scope: b.Scope, Epoch: b.Epoch, Commitment: c,
					Recipient: recipient, HPKE: n.p.addition.Device.HPKE, Sealed: b.Sealed,
				})
			}
		}
	}
	return out
}

func (s *State) commitment(scope ScopeID, epoch EpochID) ([32]byte, bool) {
	for _, sc := range s.scopes {
		for _, e := range sc.Epochs {
			if sc.ID == scope && e.ID == epoch {
				return e.Commitment, true
			}
		}
	}
	return [32]byte{}, false
}
