package lockquorum

import (
	"bytes"
	"fmt"
	"maps"
	"slices"

	"chartmesh/wire"
)

// snapshotMagic begins a State's snapshot in one, before its version: 2 where a range is defined, else 1, which older voters read too.
var snapshotMagic = []byte{'c', 'm', 'l', 'q'}

// Snapshot writes a State in one: equal States give equal bytes. Voters keep and send it in pieces, see Freeze.
//
// Maps are written as their length and their entries, ascending by key; docs/spec/lockquorum.md has the layout.
func (s *State) Snapshot() []byte {
	var w wire.Writer
	w.Raw(snapshotMagic)
	version := s.version()
	w.Byte(version)
	s.append(&w, version, (*circle).append)
	return w.Bytes()
}

// append writes a State, with circles as is said.
func (s *State) append(w *wire.Writer, version byte, circles func(*circle, *wire.Writer)) {
	w.Uvarint(s.epoch)
	w.Uvarint(s.index)
	w.Uvarint(uint64(s.clock))
	w.Raw(s.chain[:])
	appendVoters(w, s.voters)
	w.Uvarint(uint64(len(s.sessions)))
	for _, id := range sorted(s.sessions) {
		w.Raw(id[:])
		s.sessions[id].append(w)
	}
	w.Uvarint(uint64(len(s.locks)))
	for _, id := range sorted(s.locks) {
		w.Raw(id[:])
		s.locks[id].append(w)
	}
	w.Uvarint(uint64(len(s.circles)))
	for _, id := range sorted(s.circles) {
		w.Raw(id[:])
		circles(s.circles[id], w)
	}
	w.Uvarint(uint64(len(s.ranges)))
	for _, id := range sorted(s.ranges) {
		w.Raw(id[:])
		s.ranges[id].append(w, version)
	}
}

// Restore reads a snapshot in one. What it holds together is checked as far as Apply relies on it; wire.ErrMalformed if it does not.
func Restore(b []byte) (*State, error) {
	r := wire.NewReader(b)
	magic := bytes.Equal(r.Raw(len(snapshotMagic)), snapshotMagic)
	version := r.Byte()
	if !magic || version != 1 && version != 2 {
		r.Fail("magic or version")
	}
	s := readState(r, version, (*State).readCircle)
	if r.Err() == nil && s.version() != version {
		r.Fail("a version that is not needed")
	}
	if err := r.Close(); err != nil {
		return nil, fmt.Errorf("restore quorum: %w", err)
	}
	s.derive()
	return s, nil
}

// readState is append's inverse.
func readState(r *wire.Reader, version byte, circles func(*State, *wire.Reader) *circle) *State {
	s := New(0)
	s.epoch = r.Uvarint(1<<63 - 1)
	s.index = r.Uvarint(1 << 62)
	s.clock = int64(r.Uvarint(MaxClock))
	r.Fixed(s.chain[:])
	s.voters = readVoters(r)
	if readMap(r, MaxSessions, s.sessions, readSession); s.sessions[SessionID{}] != nil {
		r.Fail("a session of zeros")
	}
	readMap(r, MaxLocks, s.locks, s.readLock)
	readMap(r, MaxCircles, s.circles, func(r *wire.Reader) *circle { return circles(s, r) })
	readMap(r, MaxRanges, s.ranges, func(r *wire.Reader) *division { return readDivision(r, version) })
	return s
}

// derive finds what follows from the rest.
func (s *State) derive() {
	for _, ses := range s.sessions {
		count(s.sessionsOf, ses.device, 1)
	}
	for _, l := range s.locks {
		count(s.locksOf, l.by, 1)
	}
	s.findDue()
}

// readMap reads entries that are ascending by key.
func readMap[K id, V any](r *wire.Reader, limit uint64, into map[K]V, read func(*wire.Reader) V) {
	var before K
	for i := range r.Uvarint(limit) {
		key := readID[K](r)
		if i > 0 && compareIDs(before, key) >= 0 {
			r.Fail("keys out of order")
		}
		v := read(r)
		if r.Err() != nil {
			return
		}
		into[key], before = v, key
	}
}

func readExpiry(r *wire.Reader) int64 { return int64(r.Uvarint(MaxClock + MaxTTL)) }

func (ses *session) append(w *wire.Writer) {
	w.Raw(ses.device[:])
	w.Uvarint(uint64(ses.ttl))
	w.Uvarint(uint64(ses.expiry))
	w.Uvarint(ses.done)
	w.Uvarint(uint64(len(ses.results)))
	for _, seq := range slices.Sorted(maps.Keys(ses.results)) {
		had := ses.results[seq]
		w.Uvarint(seq)
		w.Raw(had.to[:])
		had.Result.append(w)
	}
}

func readSession(r *wire.Reader) *session {
	ses := &session{results: map[uint64]answered{}}
	r.Fixed(ses.device[:])
	ses.ttl = readTTL(r)
	ses.expiry = readExpiry(r)
	ses.done = r.Uvarint(1<<63 - 1)
	before := ses.done
	for range r.Uvarint(MaxWindow) {
		seq := r.Uvarint(1<<63 - 1)
		if seq <= before {
			r.Fail("answers out of order")
		}
		var had answered
		r.Fixed(had.to[:])
		if had.Result = readResult(r); r.Err() != nil {
			return nil
		}
		ses.results[seq], before = had, seq
	}
	return ses
}

func (a Result) append(w *wire.Writer) {
	w.Byte(byte(a.Code))
	a.Token.append(w)
	w.Uvarint(uint64(a.Expiry))
	w.Uvarint(a.Series.Epoch)
	w.Uvarint(a.Series.N)
	w.Uvarint(uint64(a.Number))
	w.Raw(a.Heads[:])
}

func readResult(r *wire.Reader) (a Result) {
	if a.Code = Code(r.Byte()); a.Code < CodeDone || a.Code > CodeOverlap {
		r.Fail("answer")
	}
	a.Token = readToken(r)
	a.Expiry = readExpiry(r)
	a.Series = SeriesID{r.Uvarint(1<<63 - 1), r.Uvarint(MaxSeries)}
	a.Number = int64(r.Uvarint(MaxNumber + 1)) // of a part that is void, the first that was not given
	r.Fixed(a.Heads[:])
	return a
}

func (l *lock) append(w *wire.Writer) {
	w.Raw(l.by[:])
	l.last.append(w)
	w.Raw(l.holder[:])
	if l.held() {
		w.Uvarint(uint64(l.ttl))
		w.Uvarint(uint64(l.expiry))
	} else {
		w.Byte(byte(l.sealed))
		l.sealedAt.append(w)
	}
	w.Uvarint(uint64(len(l.queue)))
	for _, q := range l.queue {
		w.Raw(q.session[:])
		w.Uvarint(q.seq)
		w.Uvarint(uint64(q.ttl))
	}
	w.Uvarint(uint64(len(l.documents)))
	for _, id := range sorted(l.documents) {
		w.Raw(id[:])
		l.documents[id].append(w)
	}
	w.Uvarint(uint64(len(l.breaks)))
	for _, b := range l.breaks {
		b.Token.append(w)
		w.Raw(b.By[:])
		w.Uvarint(uint64(b.Clock))
		w.Blob(b.Note)
	}
}

// readLock reads a lock after the sessions: who holds it or waits has one.
func (s *State) readLock(r *wire.Reader) *lock {
	l := &lock{documents: map[DocumentID]*document{}}
	r.Fixed(l.by[:])
	l.last = readToken(r)
	known := func(id SessionID) {
		if s.sessions[id] == nil {
			r.Fail("a lock of a session that there is not")
		}
	}
	if l.last.Compare(s.place()) > 0 { // the next one would not be larger
		r.Fail("a token of later than now")
	}
	if r.Fixed(l.holder[:]); l.held() {
		known(l.holder)
		l.ttl = readTTL(r)
		if l.expiry = readExpiry(r); l.last.Epoch != s.epoch {
			r.Fail("a lease of an epoch that is over")
		}
		if ses := s.sessions[l.holder]; ses != nil && ses.expiry < l.expiry {
			r.Fail("a lease that outlasts its session")
		}
	} else {
		if l.sealed = How(r.Byte()); l.sealed > SealReseeded || (l.sealed == 0) != l.last.IsZero() {
			r.Fail("how a lease ended")
		}
		l.sealedAt = readToken(r)
	}
	for range r.Uvarint(MaxQueue) {
		var q waiter
		r.Fixed(q.session[:])
		known(q.session)
		q.seq = r.Uvarint(1<<63 - 1)
		if q.ttl = readTTL(r); slices.ContainsFunc(l.queue, func(o waiter) bool { return o.session == q.session }) {
			r.Fail("a session that waits twice")
		}
		if r.Err() != nil {
			return nil
		}
		l.queue = append(l.queue, q)
	}
	s.waiting = s.waiting || !l.held() && len(l.queue) > 0
	readMap(r, MaxDocuments, l.documents, readDocument)
	for range r.Uvarint(MaxBreaks) {
		b := Broken{Token: readToken(r)}
		r.Fixed(b.By[:])
		b.Clock = int64(r.Uvarint(MaxClock))
		if b.Note = bytes.Clone(r.Blob(MaxNote)); r.Err() != nil {
			return nil
		}
		l.breaks = append(l.breaks, b)
	}
	return l
}

func (d *document) append(w *wire.Writer) {
	w.Raw(d.heads[:])
	d.token.append(w)
	d.at.append(w)
	w.Uvarint(uint64(len(d.history)))
	for _, h := range d.history {
		w.Raw(h[:])
	}
}

func readDocument(r *wire.Reader) *document {
	d := &document{}
	r.Fixed(d.heads[:])
	d.token = readToken(r)
	d.at = readToken(r)
	for range r.Uvarint(MaxHistory) {
		var h Heads
		if r.Fixed(h[:]); r.Err() != nil {
			return nil
		}
		d.history = append(d.history, h)
	}
	return d
}

func (c *circle) append(w *wire.Writer) {
	w.Uvarint(uint64(len(c.series)))
	for i := range c.series {
		in := &c.series[i]
		in.append(w)
		w.Uvarint(uint64(in.count))
		for _, p := range in.pages {
			p.append(w)
		}
	}
}

// append writes a series without its numbers.
func (in *series) append(w *wire.Writer) {
	w.Uvarint(in.epoch)
	w.Uvarint(uint64(in.first))
	w.Uvarint(uint64(in.last))
	w.Byte(byte(in.closed))
}

// readCircle reads a circle with its numbers.
func (s *State) readCircle(r *wire.Reader) *circle {
	return s.readSeries(r, func(c *circle, in *series, count int) {
		for range count {
			n := readGiven(r)
			if r.Err() != nil || !c.took(r, n.item, len(c.series), in.count) {
				return
			}
			in.add(n)
		}
	})
}

// readSeries reads a circle's series: all but the last are closed, and that one too if another epoch began it. numbers takes what one gave.
func (s *State) readSeries(r *wire.Reader, numbers func(c *circle, in *series, count int)) *circle {
	c := &circle{items: map[ItemID]place{}}
	left := MaxItems
	for range r.Uvarint(MaxSeries) {
		in := series{epoch: r.Uvarint(s.epoch), first: readNumber(r), last: readNumber(r), closed: How(r.Byte())}
		if in.first > in.last || in.closed != 0 && in.closed != SealReleased && in.closed != SealReseeded {
			r.Fail("a series")
		}
		if n := len(c.series); n > 0 && (c.series[n-1].closed == 0 || c.series[n-1].epoch > in.epoch) || in.closed == 0 && in.epoch != s.epoch {
			r.Fail("a series after one that is open, or of another epoch")
		}
		count := int(r.Uvarint(uint64(min(left, int(in.last-in.first)+1))))
		left -= count
		numbers(c, &in, count)
		if r.Err() != nil {
			return nil
		}
		c.series = append(c.series, in)
	}
	if r.Err() == nil && len(c.series) == 0 {
		r.Fail("a circle without a series")
	}
	return c
}

// took notes that an item has a number: it has one.
func (c *circle) took(r *wire.Reader, item ItemID, series, at int) bool {
	if _, twice := c.items[item]; twice {
		r.Fail("an item with two numbers")
		return false
	}
	c.items[item] = place{series, at}
	return true
}
