package lockquorum

import (
	"fmt"
	"maps"
	"slices"

	"chartmesh/wire"
)

// Kind says what is read of a State. The numbers are part of the protocol.
type Kind uint8

// What is read. Place, clock and voters always are.
const (
	ReadVoters  Kind = 1 // nothing else
	ReadLock    Kind = 2 // the lock ID
	ReadLocks   Kind = 3 // the locks behind ID
	ReadCircle  Kind = 4 // the circle ID, without its numbers
	ReadCircles Kind = 5 // the circles behind ID, without their numbers
	ReadNumbers Kind = 6 // the circle ID, and its numbers from Series and Number on
	ReadRange   Kind = 7 // the range ID
	ReadRanges  Kind = 8 // the ranges behind ID
)

// Query is what somebody wants to read. A long list comes in parts, see View.Next.
type Query struct {
	Kind   Kind
	ID     [32]byte // zeros: from the first one on
	Series uint64   // by its place among the circle's; 0: the first one
	Number int64
}

// View is what was read: a State of which only some is known. It does not change.
type View struct {
	query   Query
	st      *State
	more    bool
	series  uint64
	numbers []Number
	bytes   []byte
}

// viewPart is after how many bytes a part of a list ends. What there is one of is whole.
const viewPart = 256 << 10

// MaxView is the size of a View in bytes. One that is well formed has less.
const MaxView = 4 << 20

// View writes what a Query asks for, with the replicated clock as it is now. It copies no more than that.
func (s *State) View(q Query, clock int64) []byte {
	part := New(s.epoch)
	part.index, part.clock, part.chain, part.voters = s.index, min(max(s.clock, clock), MaxClock), s.chain, s.voters
	more := false
	switch q.Kind {
	case ReadLock:
		s.lend(part, LockID(q.ID))
	case ReadLocks:
		more = list(s.locks, q.ID, func(id LockID) int { return s.lend(part, id) })
	case ReadCircle, ReadNumbers:
		if c := s.circles[q.ID]; c != nil {
			part.circles[q.ID] = c
		}
	case ReadCircles:
		more = list(s.circles, q.ID, func(id CircleID) int {
			part.circles[id] = s.circles[id]
			return 64 * len(s.circles[id].series)
		})
	case ReadRange:
		if d := s.ranges[q.ID]; d != nil {
			part.ranges[q.ID] = d
		}
	case ReadRanges:
		more = list(s.ranges, q.ID, func(id RangeID) (size int) {
			part.ranges[id] = s.ranges[id]
			for _, p := range s.ranges[id].parts {
				size += 96 + len(p.note)
			}
			return size
		})
	}
	var head, numbers, w wire.Writer
	part.append(&head, headVersion, (*circle).appendHead)
	series, from, count := uint64(0), 0, 0
	if c := part.circles[q.ID]; q.Kind == ReadNumbers && c != nil {
		series, from, count, more = c.numbersFrom(q, &numbers)
	}
	w.Blob(head.Bytes())
	w.Bool(more)
	w.Uvarint(series)
	w.Uvarint(uint64(from))
	w.Uvarint(uint64(count))
	w.Raw(numbers.Bytes())
	return w.Bytes()
}

// lend adds a lock, and the sessions that hold it or wait, without what they were answered. It returns about how many bytes that is.
func (s *State) lend(to *State, id LockID) int {
	l := s.locks[id]
	if l == nil {
		return 0
	}
	to.locks[id] = l
	size := 256
	with := func(id SessionID) {
		ses := *s.sessions[id]
		ses.results = nil
		to.sessions[id] = &ses
		size += 128
	}
	if l.held() {
		with(l.holder)
	}
	for _, w := range l.queue {
		with(w.session)
	}
	for _, d := range l.documents {
		size += 128 + len(Heads{})*len(d.history)
	}
	for _, b := range l.breaks {
		size += 64 + len(b.Note)
	}
	return size
}

// list takes what a map has behind an ID, ascending, until that is enough. It reports whether there is more.
func list[K ~[32]byte, V any](m map[K]V, behind K, take func(K) int) (more bool) {
	size := 0
	for _, id := range sorted(m) {
		switch {
		case behind != K{} && compareIDs(id, behind) <= 0:
		case size >= viewPart:
			return true
		default:
			size += take(id)
		}
	}
	return false
}

// numbersFrom writes numbers of one series, from where a Query says on: of the first one that has some.
func (c *circle) numbersFrom(q Query, w *wire.Writer) (nth uint64, from, count int, more bool) {
	at, first := max(q.Series, 1), q.Number
	for ; at <= uint64(len(c.series)); at, first = at+1, 0 {
		in := &c.series[at-1]
		from = int(min(max(first-in.first, 0), int64(in.count)))
		for i := from; i < in.count && len(w.Bytes()) < viewPart; i++ {
			in.at(i).append(w)
			count++
		}
		if count > 0 {
			more = from+count < in.count || slices.ContainsFunc(c.series[at:], func(in series) bool { return in.count > 0 })
			return at, from, count, more
		}
	}
	return 0, 0, 0, false
}

// ParseView reads what View wrote of a State for a Query.
func ParseView(q Query, b []byte) (*View, error) {
	v := &View{query: q, bytes: b}
	r := wire.NewReader(b)
	head := wire.NewReader(r.Blob(MaxView))
	v.st = readState(head, headVersion, (*State).readHead)
	v.more = r.Bool()
	v.series = r.Uvarint(MaxSeries)
	from := r.Uvarint(MaxItems)
	count := r.Uvarint(uint64(r.Len() / minGiven))
	if err := head.Close(); err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	var in *series
	if c := v.st.circles[q.ID]; v.series > 0 && c != nil && v.series <= uint64(len(c.series)) {
		in = &c.series[v.series-1]
	}
	if in == nil && v.series+from+count > 0 || in != nil && (count == 0 || from+count > uint64(in.count)) {
		r.Fail("numbers")
	}
	for i := range count {
		n := readGiven(r)
		if r.Err() != nil {
			break
		}
		v.numbers = append(v.numbers, Number{in.first + int64(from+i), n.item, n.state, n.by, n.clock, n.note})
	}
	if r.Err() == nil && !v.goesOn() {
		r.Fail("a part of a list that is not the next one")
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	return v, nil
}

// goesOn reports whether a part of a list is behind the one before, and brings something if more is to follow: whoever asks for one after another comes to an end.
func (v *View) goesOn() bool {
	switch q := v.query; {
	case q.Kind == ReadLocks:
		return isBehind(v.st.locks, q.ID, v.more)
	case q.Kind == ReadCircles:
		return isBehind(v.st.circles, q.ID, v.more)
	case q.Kind == ReadRanges:
		return isBehind(v.st.ranges, q.ID, v.more)
	case q.Kind == ReadNumbers && len(v.numbers) > 0:
		return v.series > q.Series || v.series == q.Series && v.numbers[0].Number >= q.Number
	}
	return !v.more
}

func isBehind[K ~[32]byte, V any](m map[K]V, behind K, more bool) bool {
	for id := range m {
		if behind != (K{}) && compareIDs(id, behind) <= 0 {
			return false
		}
	}
	return !more || len(m) > 0
}

// Marshal returns what the View was read of.
func (v *View) Marshal() []byte { return v.bytes }

// Epoch is the State's.
func (v *View) Epoch() uint64 { return v.st.epoch }

// Index is the State's.
func (v *View) Index() uint64 { return v.st.index }

// Clock is the leader's, as it answered.
func (v *View) Clock() int64 { return v.st.clock }

// Chain is the State's.
func (v *View) Chain() [32]byte { return v.st.chain }

// Seen returns how far the State had come.
func (v *View) Seen() Seen { return v.st.Seen() }

// Voters returns the State's.
func (v *View) Voters() []Voter { return v.st.Voters() }

// Lease returns what is said of a lock; false if it was not read, or nobody ever asked for it.
func (v *View) Lease(id LockID) (Lease, bool) { return v.st.Lease(id) }

// Leases returns the locks that were read, ascending by ID.
func (v *View) Leases() []Lease { return v.st.Leases() }

// Circle returns the series of a circle that was read, without its numbers.
func (v *View) Circle(id CircleID) ([]Series, bool) { return v.st.series(id) }

// Circles returns the circles that were read, ascending.
func (v *View) Circles() []CircleID { return v.st.Circles() }

// Numbers returns the numbers that were read, which are of one series, and that.
func (v *View) Numbers() (SeriesID, []Number) {
	if v.series == 0 {
		return SeriesID{}, nil
	}
	return v.st.circles[v.query.ID].id(int(v.series - 1)), v.numbers
}

// Range returns the parts of a range that was read, ascending.
func (v *View) Range(id RangeID) []Part { return v.st.Range(id) }

// Ranges returns the ranges that were read, ascending.
func (v *View) Ranges() []RangeID { return v.st.Ranges() }

// Defined returns what a range that was read was defined as.
func (v *View) Defined(id RangeID) (Definition, bool) { return v.st.Defined(id) }

// Free returns how many numbers of a range that was read nobody has.
func (v *View) Free(id RangeID) int64 { return v.st.Free(id) }

// FreePart returns numbers of a range that was read that nobody has, as many as size in one piece or fewer; false if there are none.
func (v *View) FreePart(id RangeID, size int64) (lo, hi int64, ok bool) {
	return v.st.FreePart(id, size)
}

// And returns a View with what another part of the list has too, at the place of the former.
func (v *View) And(part *View) *View {
	all := *v
	st := *v.st
	st.sessions, st.locks, st.circles, st.ranges = maps.Clone(st.sessions), maps.Clone(st.locks), maps.Clone(st.circles), maps.Clone(st.ranges)
	maps.Copy(st.sessions, part.st.sessions)
	maps.Copy(st.locks, part.st.locks)
	maps.Copy(st.circles, part.st.circles)
	maps.Copy(st.ranges, part.st.ranges)
	all.st, all.more, all.bytes = &st, part.more, nil
	return &all
}

// Next asks for what follows of a list; false: that was all.
func (v *View) Next() (Query, bool) {
	q := v.query
	if !v.more || len(v.st.locks) >= MaxLocks || len(v.st.circles) >= MaxCircles || len(v.st.ranges) >= MaxRanges {
		return q, false
	}
	switch q.Kind {
	case ReadLocks:
		q.ID = lastOf(v.st.locks)
	case ReadCircles:
		q.ID = lastOf(v.st.circles)
	case ReadRanges:
		q.ID = lastOf(v.st.ranges)
	case ReadNumbers:
		if len(v.numbers) == 0 {
			return q, false
		}
		q.Series, q.Number = v.series, v.numbers[len(v.numbers)-1].Number+1
		return q, true
	}
	return q, q.ID != v.query.ID
}

func lastOf[K ~[32]byte, V any](m map[K]V) (last [32]byte) {
	for id := range m {
		if compareIDs(id, K(last)) > 0 {
			last = [32]byte(id)
		}
	}
	return last
}
