package lockquorum

import "slices"

// Lease is what a State says of a lock.
type Lease struct {
	Lock      LockID
	Token     Token    // of the lease that is held, or was last
	Holder    DeviceID // zeros: nobody
	Session   SessionID
	Expiry    int64      // when it ends by the replicated clock, unless it is renewed
	Waiting   []DeviceID // in the order in which they will have it
	How       How        // how the last one ended, where nobody holds it
	SealedAt  Place      // and where
	Documents []Document // ascending by ID
	Breaks    []Broken   // the last ones, the newest last
}

// Document is what is certified of a document: changes that its heads do not have among their ancestors count only if they come under a
// lease that is held.
type Document struct {
	ID    DocumentID
	Heads Heads
	Token Token // of the lease under which they were certified
	At    Place // of the command that certified them: of two certificates of a document the later one counts
	// Previous heads were certified before; zeros: none that is remembered.
	Previous Heads
	// Before lists all that are remembered of those, the newest last: a break may take the document back to them.
	Before []Heads
}

// Lease returns what is said of a lock; false for one that nobody ever asked for.
func (s *State) Lease(id LockID) (Lease, bool) {
	l := s.locks[id]
	if l == nil {
		return Lease{}, false
	}
	out := Lease{Lock: id, Token: l.last, How: l.sealed, SealedAt: l.sealedAt, Breaks: slices.Clone(l.breaks)}
	if l.held() {
		out.Holder, out.Session, out.Expiry = s.sessions[l.holder].device, l.holder, l.expiry
	}
	for _, w := range l.queue {
		out.Waiting = append(out.Waiting, s.sessions[w.session].device)
	}
	for _, id := range sorted(l.documents) {
		d := l.documents[id]
		doc := Document{ID: id, Heads: d.heads, Token: d.token, At: d.at, Before: slices.Clone(d.history)}
		if n := len(d.history); n > 0 {
			doc.Previous = d.history[n-1]
		}
		out.Documents = append(out.Documents, doc)
	}
	return out, true
}

// Leases returns what is said of all locks, ascending by ID.
func (s *State) Leases() (list []Lease) {
	for _, id := range sorted(s.locks) {
		l, _ := s.Lease(id)
		list = append(list, l)
	}
	return list
}

// Series is a series of a circle, with every number that it gave, from First on without a gap.
type Series struct {
	ID          SeriesID
	First, Last int64
	Closed      How // zero: it gives numbers. SealReseeded: it may have given more than is known.
	// How many numbers it gave, and how many of these are used and void.
	Given, Used, Void int
	Numbers           []Number // in a View: none
}

// Number is what is known of a number.
type Number struct {
	Number int64
	Item   ItemID
	State  NumberState
	By     DeviceID // who asked for it
	Clock  int64    // when, by the replicated clock
	Note   []byte   // sealed, of who said what became of it
}

// Circle returns a circle's series with all that they gave, the first one first; false for one that was never opened.
func (s *State) Circle(id CircleID) (list []Series, ok bool) {
	list, ok = s.series(id)
	for i := range list {
		in := &s.circles[id].series[i]
		for n := range in.count {
			list[i].Numbers = append(list[i].Numbers, in.number(n))
		}
	}
	return list, ok
}

// series returns a circle's series without their numbers.
func (s *State) series(id CircleID) (list []Series, ok bool) {
	c := s.circles[id]
	if c == nil {
		return nil, false
	}
	for i, in := range c.series {
		list = append(list, Series{ID: c.id(i), First: in.first, Last: in.last, Closed: in.closed, Given: in.count, Used: in.used, Void: in.void})
	}
	return list, true
}

// Circles returns the circles, ascending.
func (s *State) Circles() []CircleID { return sorted(s.circles) }

// Part is a part of a number space that one log of a device gives numbers from.
type Part struct {
	Min, Max, Increment int64
	Owner               DeviceID
	Log                 [32]byte
	Void                bool  // what was left of it was taken back
	From                int64 // the first number of that
	Note                []byte
}

// Range returns the parts of a number space, ascending.
func (s *State) Range(id RangeID) (list []Part) {
	d := s.ranges[id]
	if d == nil {
		return nil
	}
	for _, p := range d.parts {
		list = append(list, Part{p.min, p.max, p.increment, p.owner, p.log, p.void, p.from, p.note})
	}
	return list
}

// Ranges returns the number spaces that are divided, ascending.
func (s *State) Ranges() []RangeID { return sorted(s.ranges) }
