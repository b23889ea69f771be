package trust

import (
	"bytes"
	"slices"
)

// Practice returns the ID of the founding entry, which names the practice.
func (s *State) Practice() EntryID { return s.practice }

// Founding returns what the founding entry states.
func (s *State) Founding() Founding { return *s.founding }

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

// Void says whether an entry that the State holds does not stand, and why.
func (s *State) Void(id EntryID) (Void, bool) {
	v, ok := s.out[s.nodes[id]]
	return v, ok
}

// Root returns the root key in force, which follows from the recovery code, and the recovery key, a public key of HPKE.
func (s *State) Root() (root DeviceID, recovery []byte) { return s.all().root() }

// WasRoot reports whether a key was the practice's root key once and is no more.
func (s *State) WasRoot(id DeviceID) bool {
	root, _ := s.Root()
	return id != root && (id == s.founding.Root || slices.ContainsFunc(s.recoveries, func(n *node) bool {
		return n.p.states.(*Recovery).Root == id
	}))
}

// Roots returns the practice's root keys, the one in force first, then those that it was.
func (s *State) Roots() []DeviceID {
	root, _ := s.Root()
	list := []DeviceID{root}
	add := func(id DeviceID) {
		if !slices.Contains(list, id) {
			list = append(list, id)
		}
	}
	add(s.founding.Root)
	for _, n := range s.recoveries {
		add(n.p.states.(*Recovery).Root)
	}
	return list
}

// PracticeName returns the practice's sealed name.
func (s *State) PracticeName() []byte { return s.all().names(DeviceID{}, nil) }

// Names returns the sealed names of a device or anchor that belongs or did.
func (s *State) Names(id DeviceID) []byte { return s.members[id].names }

// Members returns the devices that belong, ascending by ID.
func (s *State) Members() []Member {
	return s.list(func(st status) bool { return st.role != 0 && st.role != RoleAnchor })
}

// Anchors returns the anchors, ascending by ID.
func (s *State) Anchors() []Member {
	return s.list(func(st status) bool { return st.role == RoleAnchor })
}

func (s *State) list(is func(status) bool) []Member {
	out := []Member{}
	for id, st := range s.members {
		if is(st) {
			out = append(out, st.member(id))
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return bytes.Compare(a.Device[:], b.Device[:]) })
	return out
}

func (st status) member(id DeviceID) Member {
	return Member{
		Device: id, HPKE: st.add.adds().HPKE, Role: st.role, Names: st.names, Entry: st.add.ID(), TimeMillis: st.add.TimeMillis(),
	}
}

// Member returns a device that belongs.
func (s *State) Member(id DeviceID) (Member, bool) {
	st := s.members[id]
	if st.role == 0 || st.role == RoleAnchor {
		return Member{}, false
	}
	return st.member(id), true
}

// Older reports whether one device was added before another: of two administrators who remove each other it prevails.
func (s *State) Older(a, b DeviceID) bool {
	x, y := s.firstAdd(a), s.firstAdd(b)
	return x != nil && y != nil && compareNodes(x, y) < 0
}

func (s *State) firstAdd(id DeviceID) (first *node) {
	v := s.all()
	for _, n := range s.about[id] {
		if n.adds() != nil && v.sees(n) && (first == nil || compareNodes(n, first) < 0) {
			first = n
		}
	}
	return first
}

// Removed reports whether a device was removed, and how far its logs count.
func (s *State) Removed(id DeviceID) (Cut, bool) {
	st := s.members[id]
	return slices.Clone(st.cut), st.removed
}

// Former reports whether a device belonged, and was removed.
func (s *State) Former(id DeviceID) bool { return s.members[id].former() }

// Formers lists the devices that belonged and were removed.
func (s *State) Formers() (list []DeviceID) {
	for id, st := range s.members {
		if st.former() {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, compareDeviceID)
	return list
}

func (st status) former() bool { return st.removed && (st.role == 0 || st.role == RoleAnchor) }

// Agreement is a checkpoint that stands: once nobody is waited for, nothing comes beside it any more.
type Agreement struct {
	Entry   EntryID
	Agreed  []DeviceID // who began it, and the administrators who agreed; ascending
	Waiting []DeviceID // the other administrators of when it was begun; ascending
}

// Agreements returns the checkpoints that stand, each after those before it.
func (s *State) Agreements() (list []Agreement) {
	v := s.all()
	for _, n := range s.order {
		if _, ok := n.p.states.(*Checkpoint); !ok || n.agrees || !v.sees(n) {
			continue
		}
		a := Agreement{Entry: n.ID(), Agreed: []DeviceID{n.Author()}}
		for _, by := range s.agreements[n.ID()] {
			if v.sees(by) && !slices.Contains(a.Agreed, by.Author()) {
				a.Agreed = append(a.Agreed, by.Author())
			}
		}
		for _, id := range n.admins {
			if !slices.Contains(a.Agreed, id) {
				a.Waiting = append(a.Waiting, id)
			}
		}
		slices.SortFunc(a.Agreed, compareDeviceID)
		list = append(list, a)
	}
	return list
}

// Reseeding is a reseed entry of the log.
type Reseeding struct {
	Entry      EntryID
	Author     DeviceID // or the root key
	TimeMillis int64
	Voters     []DeviceID // ascending
	After      []EntryID  // the reseed entries among its ancestors, standing or not
	Stands     bool
}

// Reseedings returns the reseed entries, each after those among its ancestors, also those that do not stand.
func (s *State) Reseedings() (list []Reseeding) {
	v := s.all()
	var before []*node
	for _, n := range s.order {
		m, ok := n.p.states.(*Reseed)
		if !ok {
			continue
		}
		r := Reseeding{Entry: n.ID(), Author: n.Author(), TimeMillis: n.TimeMillis(), Voters: slices.Clone(m.Voters), Stands: v.sees(n)}
		for _, b := range before {
			if n.follows(b) {
				r.After = append(r.After, b.ID())
			}
		}
		before, list = append(before, n), append(list, r)
	}
	return list
}

// Scopes returns the scopes, ascending by ID.
func (s *State) Scopes() []Scope {
	out := slices.Clone(s.scopes)
	for i := range out {
		out[i] = out[i].clone()
	}
	return out
}

func (sc Scope) clone() Scope {
	sc.Epochs, sc.Newest = slices.Clone(sc.Epochs), slices.Clone(sc.Newest)
	return sc
}

func (s *State) scope(id ScopeID) *Scope {
	at, ok := slices.BinarySearchFunc(s.scopes, id, func(sc Scope, id ScopeID) int { return bytes.Compare(sc.ID[:], id[:]) })
	if !ok {
		return nil
	}
	return &s.scopes[at]
}

// Scope returns a scope.
func (s *State) Scope(id ScopeID) (Scope, bool) {
	if sc := s.scope(id); sc != nil {
		return sc.clone(), true
	}
	return Scope{}, false
}

// ScopeNamed returns the ID of a scope that the practice founded.
func (s *State) ScopeNamed(name string) (ScopeID, bool) {
	id := ScopeIDOf(s.founding.Nonce, name)
	return id, s.scope(id) != nil
}

// CurrentEpoch returns the epoch that new chunks of a scope are sealed under; zero for an unknown scope.
func (s *State) CurrentEpoch(scope ScopeID) EpochID {
	if sc := s.scope(scope); sc != nil {
		return sc.current
	}
	return EpochID{}
}

// Right is what the membership log says of a device's chunks in a scope.
type Right uint8

const (
	RightUnknown Right = iota // it says nothing of the device or the scope (yet)
	RightNever                // they do not count, and never did
	RightUntil                // they count up to the device's cut
	RightNow                  // they count
)

// Right returns whether a device's chunks in a scope count, and how far.
func (s *State) Right(device DeviceID, scope ScopeID) (Right, Cut) {
	sc, st := s.scope(scope), s.members[device]
	switch {
	case sc == nil || !slices.ContainsFunc(s.about[device], func(n *node) bool { return n.adds() != nil }):
		return RightUnknown, nil
	case st.ended && (st.wrote || st.add == nil):
		return RightUntil, st.cut
	case st.wrote && sc.given[device]: // also if it may not write any more since it was added apart, with a lesser right
		return RightNow, nil
	case st.could && sc.could[device]:
		// What allowed it does not stand, but may have counted where that was not known, and others may have built on it. So it
		// is taken everywhere, and does not count.
		return RightUntil, nil
	}
	return RightNever, nil
}

// Ended returns the devices whose chunks count up to a cut in some scope.
func (s *State) Ended() (list []DeviceID) {
	for id := range s.members {
		if slices.ContainsFunc(s.scopes, func(sc Scope) bool {
			right, _ := s.Right(id, sc.ID)
			return right == RightUntil
		}) {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, compareDeviceID)
	return list
}

// MayWrite reports whether device's chunks in scope are accepted.
func (s *State) MayWrite(device DeviceID, scope ScopeID) bool {
	sc := s.scope(scope)
	return sc != nil && s.members[device].role.MayWrite() && sc.given[device]
}

// MayRead reports whether device is given scope's keys.
func (s *State) MayRead(device DeviceID, scope ScopeID) bool {
	sc := s.scope(scope)
	return sc != nil && s.members[device].role.MayRead() && sc.given[device]
}

// MayHold reports whether device is given scope's chunks: those who read it, and the anchors, who cannot open them.
func (s *State) MayHold(device DeviceID, scope ScopeID) bool {
	return s.MayRead(device, scope) || s.IsAnchor(device) && s.scope(scope) != nil
}

// IsAnchor reports whether a device is an anchor of the practice.
func (s *State) IsAnchor(id DeviceID) bool { return s.members[id].role == RoleAnchor }

// Addresses returns the multiaddrs at which an anchor is said to be.
func (s *State) Addresses(anchor DeviceID) []string {
	if st := s.members[anchor]; st.role == RoleAnchor {
		if m, ok := st.add.p.states.(*Anchor); ok {
			return slices.Clone(m.Addresses)
		}
	}
	return nil
}

// Readers returns the devices that read a scope, ascending: those to which a rotation seals its epoch, beside the recovery
// key.
func (s *State) Readers(scope ScopeID) []DeviceID {
	if sc := s.scope(scope); sc != nil {
		return slices.Clone(sc.readers)
	}
	return nil
}

// RotationsDue returns the scopes that have several newest epochs, or one that was not given to exactly those who read it: to
// somebody else too, or not to a device that was added meanwhile, or under another key. An administrator's device rotates them.
func (s *State) RotationsDue() (due []ScopeID) {
	v := s.all()
	for _, sc := range s.scopes {
		heads := v.heads(sc.ID)
		if len(heads) > 1 || len(heads) == 1 && s.misgiven(heads[0], sc.ID) {
			due = append(due, sc.ID)
		}
	}
	return due
}

// misgiven reports whether a head's epoch was given to somebody who may not read it any more, or to a recovery key that was
// replaced; or was not given to somebody who reads the scope, since he was added apart from it, or was sealed to a key of his that
// does not hold: he could neither read nor write.
func (s *State) misgiven(head *node, scope ScopeID) bool {
	v := s.all()
	given := map[DeviceID][]byte{}
	for id, nodes := range s.about {
		for _, n := range nodes {
			if m, ok := n.p.states.(*Addition); ok && slices.ContainsFunc(m.Boxes, func(b EpochBox) bool {
				return b.Scope == scope && b.Epoch == EpochIDOf(head.ID(), scope)
			}) && !bytes.Equal(given[id], s.members[id].hpke()) {
				given[id] = m.Device.HPKE
			}
		}
	}
	for _, b := range head.boxes(scope)[1:] {
		given[b.Recipient] = s.keyAt(head, b.Recipient)
	}
	readers := v.readers(scope)
	if len(given) != len(readers) || slices.ContainsFunc(readers, func(id DeviceID) bool {
		return !bytes.Equal(given[id], s.members[id].hpke())
	}) {
		return true
	}
	_, key := v.root()
	_, then := head.view(s).root()
	return !bytes.Equal(key, then)
}

// hpke returns the public key to which a device's boxes are sealed.
func (st status) hpke() []byte {
	if st.add == nil {
		return nil
	}
	return st.add.adds().HPKE
}

// keyAt returns the public key of a device to which the author of an entry sealed: a device that was added twice, apart, under two
// keys had for some people the one that does not hold.
func (s *State) keyAt(n *node, id DeviceID) []byte {
	if d := n.adds(); d != nil && d.ID == id {
		return d.HPKE
	}
	return n.view(s).status(id).hpke()
}

// boxes returns the boxes of the epoch that an entry begins in a scope.
func (n *node) boxes(scope ScopeID) []ScopeBox {
	if m, ok := n.p.states.(*Rotation); ok {
		return m.Boxes
	}
	return n.begins(scope).Boxes
}

// Boxes returns the key boxes for a device; for the zero DeviceID, those for the recovery key in force. Boxes of entries that
// do not stand are among them: chunks were written under their epochs before that was known.
func (s *State) Boxes(recipient DeviceID) []KeyBox {
	if recipient != (DeviceID{}) && s.members[recipient].add == nil {
		return nil
	}
	var out []KeyBox
	for _, sc := range s.scopes {
		for _, n := range s.epochs[sc.ID] {
			boxes := n.boxes(sc.ID)
			at, ok := slices.BinarySearchFunc(boxes, recipient, func(b ScopeBox, id DeviceID) int {
				return compareDeviceID(b.Recipient, id)
			})
			if ok {
				var hpke []byte
				if recipient == (DeviceID{}) {
					_, hpke = n.view(s).root()
				} else {
					hpke = s.keyAt(n, recipient)
				}
				e := EpochIDOf(n.ID(), sc.ID)
				out = append(out, KeyBox{Scope: sc.ID, Epoch: e, Commitment: sc.commitment(e), Recipient: recipient, HPKE: hpke,
					Sealed: boxes[at].Sealed})
			}
		}
	}
	for _, n := range s.about[recipient] {
		m, ok := n.p.states.(*Addition)
		if !ok {
			continue
		}
		for _, b := range m.Boxes {
			if sc := s.scope(b.Scope); sc != nil {
				out = append(out, KeyBox{Scope: b.Scope, Epoch: b.Epoch, Commitment: sc.commitment(b.Epoch), Recipient: recipient,
					HPKE: m.Device.HPKE, Sealed: b.Sealed})
			}
		}
	}
	return out
}

func (sc *Scope) commitment(epoch EpochID) [32]byte {
	for _, e := range sc.Epochs {
		if e.ID == epoch {
			return e.Commitment
		}
	}
	return [32]byte{}
}

// WasAdministrator reports whether a device is an administrator's, or was: some entry that stands made it one.
func (s *State) WasAdministrator(id DeviceID) bool {
	v := s.all()
	return slices.ContainsFunc(s.about[id], func(n *node) bool {
		return (n.adds() != nil || n.p.kind == KindRole) && n.role() == RoleAdmin && v.sees(n)
	})
}
