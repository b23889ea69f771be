package trust

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/bits"
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
	ErrNotMember     = errors.New("device is no member there")
	ErrRemoved       = errors.New("device was removed; it can come back only with other keys")
	ErrBoxes         = errors.New("key boxes do not fit scopes and members")
	ErrEpochs        = errors.New("does not follow the scope's newest epochs")
	ErrCheckpoint    = errors.New("agrees to what is no checkpoint")
	ErrRecovery      = errors.New("replaces another recovery code than the one in force")
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
	HPKE       []byte // public key to which its boxes are sealed; an anchor has none
	Role       Role
	Names      []byte  // sealed names of device and site
	Entry      EntryID // the entry that added it
	TimeMillis int64   // when its author says it did
}

// Scope is a scope with its epochs, of which each comes after those that it follows.
type Scope struct {
	ID     ScopeID
	Name   string // of one that the practice founded
	Sealed []byte // name of one that was created later, under its index key
	Epochs []Epoch
	// Newest are the epochs that no other follows, ascending: several after rotations that were made apart, until the next
	// rotation joins them, and none of a scope whose creation does not stand.
	Newest []EpochID

	current EpochID
	readers []DeviceID // ascending
	given   map[DeviceID]bool
	could   map[DeviceID]bool // the same, by entries that may not stand
}

// Epoch is a generation of a scope's key.
type Epoch struct {
	ID         EpochID
	Entry      EntryID // the entry that begins it
	Commitment [32]byte
	Previous   []PreviousEpoch // those that it follows, sealed under its key; none for a scope's first
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
	founding  *Founding
	practice  EntryID
	nodes     map[EntryID]*node
	order     []*node // by generation, then ID: topological, and the same everywhere
	heads     []EntryID
	headsHash [32]byte
	unknown   []Entry

	// What has an effect if it stands.
	//
	// Each list is in an order in which they could have come: ancestors come first.
	about      map[DeviceID][]*node // what makes each device belong, or not, and its role
	names      map[DeviceID][]*node // what names each device; zero: the practice
	by         map[DeviceID][]*node // what each author made
	epochs     map[ScopeID][]*node  // what begins an epoch of each scope; the first begins the scope
	agreements map[EntryID][]*node  // what agrees to each checkpoint
	recoveries []*node
	attackers  int // how many may keep others from standing

	settled bool // others may see it: what it holds is shared with the States that go on from it

	// What follows from all of it.
	out     outs
	tips    []EntryID
	members map[DeviceID]status
	scopes  []Scope
}

type node struct {
	Entry
	parents    []*node
	index      int        // position in order of arrival, a bit in ancestors
	generation int        // longest way from the founding entry
	ancestors  []uint64   // bit set of indexes
	count      int        // how many ancestors it has
	before     outs       // which of the ancestors do not stand, by themselves
	agrees     bool       // it agrees to a checkpoint
	had        Role       // the role of the device that it gives another one
	demotes    bool       // it makes an administrator something else
	admins     []DeviceID // who is to agree, where it begins a checkpoint
	undecided  bool       // has no effect in this version: of an unknown kind, or possible only by such an entry
	clouded    bool       // an ancestor is undecided
}

// attacks reports whether an entry may keep others from standing.
func (n *node) attacks() bool {
	switch n.p.states.(type) {
	case *Removal, *Recovery:
		return true
	case *Promotion:
		return n.demotes
	case *Checkpoint:
		return !n.agrees
	}
	return false
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
	n.count = 0
	for _, w := range n.ancestors {
		n.count += bits.OnesCount64(w)
	}
	n.parents = append(n.parents, p)
	n.generation = max(n.generation, p.generation+1)
	n.clouded = n.clouded || p.undecided || p.clouded
}

// Found begins a State with a founding entry.
func Found(e Entry) (*State, error) {
	if e.p == nil {
		return nil, ErrNoFounding
	}
	f, ok := e.p.states.(*Founding)
	if !ok {
		return nil, ErrNoFounding
	}
	if !e.verify() {
		return nil, &Refusal{e.ID(), ErrBadSignature}
	}
	s := &State{
		founding:   f,
		practice:   e.ID(),
		nodes:      map[EntryID]*node{},
		about:      map[DeviceID][]*node{},
		names:      map[DeviceID][]*node{},
		by:         map[DeviceID][]*node{},
		epochs:     map[ScopeID][]*node{},
		agreements: map[EntryID][]*node{},
	}
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
	t := s.clone()
	t.insert(n)
	t.settle()
	return t, nil
}

// WithAll returns the State that holds some entries too, each judged on top of those before it, and of each the error of With. What
// they amount to is worked out once, so that it costs less than to take them one by one.
func (s *State) WithAll(entries []Entry) (*State, []error) {
	t, errs := s.clone(), make([]error, len(entries))
	for i, e := range entries {
		var n *node
		if n, errs[i] = t.judge(e); errs[i] == nil {
			t.insert(n)
		}
	}
	if t.Len() == s.Len() {
		return s, errs
	}
	t.settle()
	return t, errs
}

// clone returns a State to which entries may be added.
func (s *State) clone() *State {
	t := *s
	t.nodes = maps.Clone(s.nodes)
	t.order = slices.Clone(s.order)
	t.heads = slices.Clone(s.heads)
	t.about = maps.Clone(s.about)
	t.names = maps.Clone(s.names)
	t.by = maps.Clone(s.by)
	t.epochs = maps.Clone(s.epochs)
	t.agreements = maps.Clone(s.agreements)
	t.unknown = slices.Clone(s.unknown)
	return &t
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
		s, first.settled = first, false
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
	n.before = s.before(n)
	if err := s.authority(n); err != nil {
		// Something that this version cannot read may have allowed it. A later version will say.
		if !n.clouded {
			return nil, &Refusal{e.ID(), err}
		}
		n.undecided = true
	}
	switch m := e.p.states.(type) {
	case nil:
		n.undecided = true
	case *Promotion:
		n.demotes = m.Role != RoleAdmin && n.had == RoleAdmin
	case *Checkpoint:
		if n.agrees = m.Of != (EntryID{}); !n.agrees {
			n.admins = n.view(s).administrators()
		}
	}
	return n, nil
}

// before returns which of n's ancestors do not stand. A single parent follows all of the others and settles them.
func (s *State) before(n *node) outs {
	if len(n.parents) == 1 && !s.unseats(n.parents[0], nil) {
		return n.parents[0].before
	}
	return s.standing(n)
}

// insert adds a judged node to a State that nobody else sees yet; settle must follow.
func (s *State) insert(n *node) {
	n.index = len(s.nodes)
	s.nodes[n.ID()] = n
	s.heads = slices.DeleteFunc(s.heads, func(h EntryID) bool {
		_, found := slices.BinarySearchFunc(n.p.parents, h, compareEntryID)
		return found
	})
	s.heads = append(s.heads, n.ID())
	at, _ := slices.BinarySearchFunc(s.order, n, compareNodes)
	s.order = slices.Insert(s.order, at, n)
	if n.undecided {
		s.unknown = append(s.unknown, n.Entry)
		return
	}
	s.by[n.Author()] = s.grow(s.by[n.Author()], n)
	if n.attacks() {
		s.attackers++
	}
	switch m := n.p.states.(type) {
	case *Founding:
		s.speaks(n, m.Device.ID)
		for _, sc := range m.Scopes {
			s.begins(n, ScopeIDOf(m.Nonce, sc.Name))
		}
	case *Addition:
		s.speaks(n, m.Device.ID)
	case *Anchor:
		s.speaks(n, m.ID)
	case *Removal:
		s.speaks(n, m.Device)
	case *Promotion:
		s.speaks(n, m.Device)
	case *Renaming:
		s.names[m.Device] = s.grow(s.names[m.Device], n)
	case *Rotation:
		s.begins(n, m.Scope)
	case *ScopeCreation:
		s.begins(n, ScopeIDOfEntry(n.ID()))
	case *Checkpoint:
		if n.agrees {
			s.agreements[m.Of] = s.grow(s.agreements[m.Of], n)
		}
	case *Recovery:
		s.recoveries = s.grow(s.recoveries, n)
	}
}

func (s *State) speaks(n *node, of DeviceID) { s.about[of] = s.grow(s.about[of], n) }

func (s *State) begins(n *node, scope ScopeID) { s.epochs[scope] = s.grow(s.epochs[scope], n) }

// grow appends to a list that settled States share.
func (s *State) grow(list []*node, n *node) []*node {
	if s.settled {
		list = slices.Clip(list)
	}
	return append(list, n)
}

// settle restores the orders that insert leaves open, and works out what the entries amount to.
func (s *State) settle() {
	slices.SortFunc(s.heads, compareEntryID)
	slices.SortFunc(s.unknown, func(a, b Entry) int { return compareEntryID(a.ID(), b.ID()) })
	s.headsHash = HeadsHashOf(s.heads)
	s.out = s.standing(nil)
	v := s.all()
	s.tips = v.tips()
	s.members = map[DeviceID]status{}
	for id := range s.about {
		st := v.status(id)
		st.names = v.names(id, st.add)
		s.members[id] = st
	}
	s.scopes = v.scopes()
	s.settled = true
}

func (s *State) all() view { return view{s, nil, s.out} }

// tips returns the entries that stand and that no other one that stands follows, as many as an entry may join.
func (v view) tips() []EntryID {
	covered := make([]bool, len(v.s.order))
	var tips []EntryID
	for _, n := range slices.Backward(v.s.order) {
		if !v.sees(n) {
			continue
		}
		if !covered[n.index] && len(tips) < MaxParents {
			tips = append(tips, n.ID())
		}
		for _, p := range n.parents {
			covered[p.index] = true
		}
	}
	slices.SortFunc(tips, compareEntryID)
	return tips
}

func (v view) scopes() (list []Scope) {
	for id, nodes := range v.s.epochs {
		sc := Scope{ID: id, Newest: v.headIDs(id), current: v.current(id), readers: v.readers(id),
			given: map[DeviceID]bool{}, could: map[DeviceID]bool{}}
		for device := range v.s.about {
			sc.given[device] = v.given(device, id)
			sc.could[device] = v.s.given(device, id, func(*node) bool { return true })
		}
		nodes = slices.SortedFunc(slices.Values(nodes), compareNodes)
		for _, n := range nodes {
			e := Epoch{ID: EpochIDOf(n.ID(), id), Entry: n.ID()}
			if begun := n.begins(id); begun != nil {
				sc.Name, e.Commitment = begun.Name, begun.Commitment
				if m, ok := n.p.states.(*ScopeCreation); ok {
					sc.Sealed = m.Name
				}
			} else if m, ok := n.p.states.(*Rotation); ok {
				e.Commitment, e.Previous = m.Commitment, m.Previous
			}
			sc.Epochs = append(sc.Epochs, e)
		}
		list = append(list, sc)
	}
	slices.SortFunc(list, func(a, b Scope) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return list
}

// HeadsHashOf returns the hash that names a set of heads, which must stand ascending.
func HeadsHashOf(heads []EntryID) [32]byte {
	parts := make([][]byte, len(heads))
	for i := range heads {
		parts[i] = heads[i][:]
	}
	return hash("chartmesh heads 1", parts...)
}
