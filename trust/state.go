package trust

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
)

var (
	// ErrKnown says that the State holds the entry already.
	ErrKnown = errors.New("entry is known")
	// ErrFull says that the State holds MaxEntries.
	ErrFull = errors.New("membership log is full")
	// ErrNoFounding says that no founding entry is there to begin with, or more than one.
	ErrNoFounding = errors.New("exactly one founding entry is needed")

	// The following are reasons of a Refusal.

	ErrOtherPractice = errors.New("founds another practice")
	ErrBadSignature  = errors.New("signature does not verify")
	ErrNotAdmin      = errors.New("author is not an administrator there")
	ErrMemberAlready = errors.New("device is a member already")
	ErrBoxes         = errors.New("key boxes do not fit the scopes")
)

// MissingParent says that an entry waits for one of its parents.
type MissingParent struct{ ID EntryID }

func (m *MissingParent) Error() string { return fmt.Sprintf("parent %v is missing", m.ID) }

// Refusal says why an entry does not hold. Everybody who holds its ancestors refuses it alike.
type Refusal struct {
	Entry  EntryID
	Reason error
}

func (r *Refusal) Error() string {
	return fmt.Sprintf("membership entry %v refused: %v", r.Entry, r.Reason)
}
func (r *Refusal) Unwrap() error { return r.Reason }

// Member is a device that belongs to the practice.
type Member struct {
	Device     DeviceID
	HPKE       []byte // public key to which its boxes are sealed
	Role       Role
	Names      []byte  // sealed names of device and site
	Entry      EntryID // the entry that added it
	TimeMillis int64   // when its author says it did
}

// Scope is a scope with its epochs, oldest first.
type Scope struct {
	ID     ScopeID
	Name   string
	Epochs []Epoch
}

// Epoch is a generation of a scope's key.
type Epoch struct {
	ID         EpochID
	Commitment [32]byte
}

// KeyBox is an epoch's keys sealed to one recipient; a zero Recipient is the recovery key.
type KeyBox struct {
	Scope      ScopeID
	Epoch      EpochID
	Commitment [32]byte
	Recipient  DeviceID
	HPKE       []byte // the recipient's public key
	Sealed     []byte
}

// State is what a set of entries amounts to. It never changes: With returns another one. Slices that its methods return
// are the caller's, the byte strings inside them are not.
type State struct {
	founding  Founding
	practice  EntryID
	nodes     map[EntryID]*node
	order     []*node // by generation, then ID: topological, and the same everywhere
	heads     []EntryID
	headsHash [32]byte
	members   map[DeviceID]*node   // the entry that holds of those that add a device
	adds      map[DeviceID][]*node // all of them
	scopes    []Scope
	unknown   []Entry
}

type node struct {
	Entry
	index      int      // position in order of arrival, a bit in ancestors
	generation int      // longest way from the founding entry
	ancestors  []uint64 // bit set of indexes
	undecided  bool     // has no effect in this version: of an unknown kind, or possible only by such an entry
	clouded    bool     // an ancestor is undecided
}

func (n *node) follows(a *node) bool {
	word := a.index / 64
	return word < len(n.ancestors) && n.ancestors[word]&(1<<(a.index%64)) != 0
}

func (n *node) inherit(p *node) {
	last := p.index / 64
	if need := max(last+1, len(p.ancestors)); need > len(n.ancestors) {
		n.ancestors = append(n.ancestors, make([]uint64, need-len(n.ancestors))...)
	}
	for i, w := range p.ancestors {
		n.ancestors[i] |= w
	}
	n.ancestors[last] |= 1 << (p.index % 64)
	n.generation = max(n.generation, p.generation+1)
	n.clouded = n.clouded || p.undecided || p.clouded
}

func (n *node) device() *Device {
	if n.p.founding != nil {
		return &n.p.founding.Device
	}
	return &n.p.addition.Device
}

// Found begins a State with a founding entry.
func Found(e Entry) (*State, error) {
	if e.p == nil || e.p.founding == nil {
		return nil, ErrNoFounding
	}
	if !e.verify() {
		return nil, &Refusal{e.ID(), ErrBadSignature}
	}
	f := *e.p.founding
	s := &State{
		founding: f,
		practice: e.ID(),
		nodes:    map[EntryID]*node{},
		members:  map[DeviceID]*node{},
		adds:     map[DeviceID][]*node{},
	}
	for _, sc := range f.Scopes {
		id := ScopeIDOf(f.Nonce, sc.Name)
		s.scopes = append(s.scopes, Scope{
			ID: id, Name: sc.Name, Epochs: []Epoch{{ID: EpochIDOf(e.ID(), id), Commitment: sc.Commitment}},
		})
	}
	slices.SortFunc(s.scopes, func(a, b Scope) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	s.insert(&node{Entry: e})
	s.settle()
	return s, nil
}

// With returns the State that holds e too. Errors are ErrKnown, *MissingParent, *Refusal or ErrFull.
func (s *State) With(e Entry) (*State, error) {
	n, err := s.judge(e)
	if err != nil {
		return nil, err
	}
	t := *s
	t.nodes = maps.Clone(s.nodes)
	t.order = slices.Clone(s.order)
	t.heads = slices.Clone(s.heads)
	t.members = maps.Clone(s.members)
	t.adds = maps.Clone(s.adds)
	t.unknown = slices.Clone(s.unknown)
	t.insert(n)
	t.settle()
	return &t, nil
}

// Rejected is an entry that Replay left out, and why.
type Rejected struct {
	Entry Entry
	Err   error
}

// Replay returns the State that a set of entries amounts to, whatever their order, and what it left out of it, ascending
// by ID. Without exactly one founding entry there is no State and everything is left out.
func Replay(entries []Entry) (*State, []Rejected) {
	set := make(map[EntryID]Entry, len(entries))
	children := map[EntryID][]EntryID{}
	var founding []Entry
	for _, e := range entries {
		if _, ok := set[e.ID()]; ok {
			continue
		}
		set[e.ID()] = e
		for _, p := range e.p.parents {
			children[p] = append(children[p], e.ID())
		}
		if e.Kind() == KindFound {
			founding = append(founding, e)
		}
	}
	rejected := map[EntryID]error{}
	var s *State
	if len(founding) != 1 {
		for id := range set {
			rejected[id] = ErrNoFounding
		}
	} else if first, err := Found(founding[0]); err != nil {
		for id := range set {
			rejected[id] = ErrNoFounding
		}
		rejected[founding[0].ID()] = err
	} else {
		s = first
		// An entry is judged when its last parent has been taken. Which of two comes first makes no difference, since
		// judgement looks at ancestors alone; only beyond MaxEntries would it.
		ready := slices.Clone(children[s.practice])
		slices.SortFunc(ready, compareEntryID)
		for len(ready) > 0 {
			e := set[ready[0]]
			ready = ready[1:]
			n, err := s.judge(e)
			var missing *MissingParent
			switch {
			case err == nil:
				s.insert(n)
				next := children[e.ID()]
				slices.SortFunc(next, compareEntryID)
				ready = append(ready, next...)
			case errors.As(err, &missing), errors.Is(err, ErrKnown):
				// Comes again when the other parent has been taken, or never.
			default:
				rejected[e.ID()] = err
			}
		}
		s.settle()
		for id, e := range set {
			if rejected[id] != nil {
				continue
			}
			if _, err := s.judge(e); !errors.Is(err, ErrKnown) {
				rejected[id] = err
			}
		}
	}
	var out []Rejected
	for id, err := range rejected {
		out = append(out, Rejected{set[id], err})
	}
	slices.SortFunc(out, func(a, b Rejected) int { return compareEntryID(a.Entry.ID(), b.Entry.ID()) })
	return s, out
}

// judge decides on e by its ancestors alone.
func (s *State) judge(e Entry) (*node, error) {
	if _, ok := s.nodes[e.ID()]; ok {
		return nil, ErrKnown
	}
	if e.Kind() == KindFound {
		return nil, &Refusal{e.ID(), ErrOtherPractice}
	}
	n := &node{Entry: e}
	for _, id := range e.p.parents {
		p, ok := s.nodes[id]
		if !ok {
			return nil, &MissingParent{id}
		}
		n.inherit(p)
	}
	if len(s.nodes) >= MaxEntries {
		return nil, ErrFull
	}
	if !e.verify() {
		return nil, &Refusal{e.ID(), ErrBadSignature}
	}
	if err := s.authority(n); err != nil {
		// Something that this version cannot read may have allowed it. A later version will say.
		if !n.clouded {
			return nil, &Refusal{e.ID(), err}
		}
		n.undecided = true
	}
	if e.p.addition == nil {
		n.undecided = true
	}
	return n, nil
}

// authority checks whether n's ancestors allow it.
func (s *State) authority(n *node) error {
	author := n.Author()
	if by := s.memberAt(author, n); author != s.founding.Root && (by == nil || by.device().Role != RoleAdmin) {
		return ErrNotAdmin
	}
	a := n.p.addition
	if a == nil {
		return nil
	}
	if a.Device.ID == s.founding.Root || s.memberAt(a.Device.ID, n) != nil {
		return ErrMemberAlready
	}
	// A newcomer without the current keys could read nothing, and would find out by charts that stay empty.
	var want []EpochBox
	for _, sc := range s.scopes {
		want = append(want, EpochBox{Scope: sc.ID, Epoch: sc.Epochs[len(sc.Epochs)-1].ID})
	}
	slices.SortFunc(want, compareBoxes)
	if !slices.EqualFunc(want, a.Boxes, func(x, y EpochBox) bool { return compareBoxes(x, y) == 0 }) {
		return ErrBoxes
	}
	return nil
}

// memberAt returns the entry that holds for device among the ancestors of n (nil: all entries).
//
// Of additions that were made apart, the one with the lesser right holds, and of equal ones the smaller ID.
func (s *State) memberAt(device DeviceID, n *node) *node {
	var best *node
	for _, a := range s.adds[device] {
		if n != nil && !n.follows(a) {
			continue
		}
		if best == nil || cmp.Or(
			-cmp.Compare(rank(a.device().Role), rank(best.device().Role)),
			-compareEntryID(a.ID(), best.ID()),
		) > 0 {
			best = a
		}
	}
	return best
}

// rank orders roles by what they may do.
func rank(r Role) int {
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

// insert adds a judged node to a State that nobody else sees yet; settle must follow.
func (s *State) insert(n *node) {
	n.index = len(s.nodes)
	s.nodes[n.ID()] = n
	if n.undecided {
		s.unknown = append(s.unknown, n.Entry)
	} else {
		id := n.device().ID
		s.adds[id] = append(slices.Clip(s.adds[id]), n)
		s.members[id] = s.memberAt(id, nil)
	}
	s.heads = slices.DeleteFunc(s.heads, func(h EntryID) bool {
		_, found := slices.BinarySearchFunc(n.p.parents, h, compareEntryID)
		return found
	})
	s.heads = append(s.heads, n.ID())
	s.order = append(s.order, n)
}

// settle restores the orders that insert leaves open.
func (s *State) settle() {
	slices.SortFunc(s.heads, compareEntryID)
	slices.SortFunc(s.order, func(a, b *node) int {
		return cmp.Or(cmp.Compare(a.generation, b.generation), compareEntryID(a.ID(), b.ID()))
	})
	slices.SortFunc(s.unknown, func(a, b Entry) int { return compareEntryID(a.ID(), b.ID()) })
	s.headsHash = HeadsHashOf(s.heads)
}

// HeadsHashOf returns the hash that names a set of heads, which must stand ascending.
func HeadsHashOf(heads []EntryID) [32]byte {
	parts := make([][]byte, len(heads))
	for i := range heads {
		parts[i] = heads[i][:]
	}
	return hash("chartmesh heads 1", parts...)
}
