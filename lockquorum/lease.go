package lockquorum

import (
	"bytes"
	"slices"
)

// session is a client's process.
type session struct {
	device  DeviceID
	ttl     int64
	expiry  int64
	done    uint64              // it has all answers up to there
	results map[uint64]answered // by seq, beyond done
}

// answered is a command of a session that was carried out.
type answered struct {
	to [32]byte // which one it was, see hashOf
	Result
}

// lock protects documents, which nobody but its holder commits.
type lock struct {
	by        DeviceID // who named it first
	last      Token    // of the lease that is held, or was last
	holder    SessionID
	ttl       int64
	expiry    int64
	queue     []waiter
	sealed    How // of the last lease; zero while it is held
	sealedAt  Place
	documents map[DocumentID]*document
	breaks    []Broken // the last ones, the newest last
}

type waiter struct {
	session SessionID
	seq     uint64
	ttl     int64
}

// document is what is certified of a document.
type document struct {
	heads   Heads
	token   Token   // of the lease under which that was
	at      Place   // of the command by which it was
	history []Heads // that were before, the newest last
}

// How says how a lease ended. The numbers are part of the format.
type How uint8

const (
	SealReleased How = 1
	SealExpired  How = 2
	SealBroken   How = 3
	SealReseeded How = 4 // the voters were founded anew
)

func (h How) String() string {
	switch h {
	case SealReleased:
		return "released"
	case SealExpired:
		return "expired"
	case SealBroken:
		return "broken"
	case SealReseeded:
		return "ended with its quorum"
	}
	return "held"
}

// Broken is a break that is remembered.
type Broken struct {
	Token Token
	By    DeviceID
	Clock int64
	Note  []byte // sealed
}

func (l *lock) held() bool { return l.holder != SessionID{} }

// holds returns the lock whose lease a command's session holds under a token; nil if it does not.
func (s *State) holds(c *Command, id LockID, t Token) *lock {
	l := s.locks[id]
	if c.Session == (SessionID{}) || l == nil || l.holder != c.Session || l.last != t {
		return nil
	}
	return l
}

func (o *Open) apply(s *State, c *Command) Result {
	if c.Session == (SessionID{}) {
		return Result{Code: CodeNoSession}
	}
	return Result{Code: CodeDone, Expiry: s.sessions[c.Session].expiry}
}

func (*Keep) apply(s *State, c *Command) Result {
	if c.Session == (SessionID{}) {
		return Result{Code: CodeNoSession}
	}
	return Result{Code: CodeDone, Expiry: s.sessions[c.Session].expiry}
}

func (*End) apply(s *State, c *Command) Result {
	if c.Session == (SessionID{}) {
		return Result{Code: CodeNoSession}
	}
	s.endSession(c.Session, SealReleased)
	return Result{Code: CodeDone}
}

// keep has a session last until then, if it does not last longer already.
func (s *State) keep(ses *session, until int64) {
	ses.expiry = max(ses.expiry, until)
	s.due = min(s.due, ses.expiry)
}

// endSession ends a session and all that it holds and waits for.
func (s *State) endSession(id SessionID, how How) {
	count(s.sessionsOf, s.sessions[id].device, -1)
	delete(s.sessions, id)
	s.events = append(s.events, Event{Happening: Ended, Session: id})
	for _, name := range s.locksOfSession(id) {
		l := s.locks[name]
		l.queue = slices.DeleteFunc(l.queue, func(w waiter) bool { return w.session == id })
		if l.holder == id {
			s.seal(name, l, how)
		}
	}
}

// locksOfSession returns what a session holds and waits for, ascending. Thousands of sessions may end at once, and few of all locks are one's.
func (s *State) locksOfSession(id SessionID) (list []LockID) {
	for name, l := range s.locks {
		if l.holder == id || slices.ContainsFunc(l.queue, func(w waiter) bool { return w.session == id }) {
			list = append(list, name)
		}
	}
	slices.SortFunc(list, compareIDs[LockID])
	return list
}

func (o *Acquire) apply(s *State, c *Command) Result {
	if c.Session == (SessionID{}) {
		return Result{Code: CodeNoSession}
	}
	l := s.locks[o.Lock]
	if l == nil {
		if len(s.locks) >= MaxLocks || s.locksOf[c.Device] >= MaxLocksOfOne {
			return Result{Code: CodeFull}
		}
		l = &lock{by: c.Device, documents: map[DocumentID]*document{}}
		s.locks[o.Lock] = l
		count(s.locksOf, l.by, 1)
	}
	w := waiter{c.Session, c.Seq, o.TTL}
	at := slices.IndexFunc(l.queue, func(w waiter) bool { return w.session == c.Session })
	switch {
	case l.holder == c.Session:
		return Result{Code: CodeHeld, Token: l.last, Expiry: l.expiry}
	case !l.held() && len(l.queue) == 0 && l.last != s.place():
		return s.grant(l, w)
	case o.Try:
		return Result{Code: CodeHeld, Token: l.last, Expiry: l.expiry}
	case at >= 0: // it keeps its place
		s.left(o.Lock, l.queue[at])
		l.queue[at] = w
	case len(l.queue) >= MaxQueue:
		return Result{Code: CodeFull}
	default:
		l.queue = append(l.queue, w)
	}
	s.waiting = s.waiting || !l.held()
	return Result{Code: CodeQueued}
}

// place is that of the command at hand, and the token of a lease that it grants.
func (s *State) place() Place { return Place{s.epoch, s.index} }

func (s *State) grant(l *lock, w waiter) Result {
	l.last, l.holder, l.ttl, l.sealed, l.sealedAt = s.place(), w.session, w.ttl, 0, Place{}
	s.extend(l)
	return Result{Code: CodeDone, Token: l.last, Expiry: l.expiry}
}

// extend has a lease last its TTL from now, and its session not end before: its holder goes by the lease's end.
func (s *State) extend(l *lock) {
	l.expiry = s.clock + l.ttl
	s.due = min(s.due, l.expiry)
	s.keep(s.sessions[l.holder], l.expiry)
}

// next grants a lock that is free to who has waited longest. Of one lock a command grants one lease, so that no token comes twice: the next
// one is granted by the command after it.
func (s *State) next(id LockID, l *lock) {
	if l.held() || len(l.queue) == 0 {
		return
	}
	if l.last == s.place() {
		s.waiting = true
		return
	}
	w := l.queue[0]
	l.queue = slices.Delete(l.queue, 0, 1)
	r := s.grant(l, w)
	results := s.sessions[w.session].results
	if had, ok := results[w.seq]; ok { // else the session said that it needs no answer
		results[w.seq] = answered{had.to, r}
	}
	s.events = append(s.events, Event{Happening: Granted, Lock: id, Token: l.last, Session: w.session, Seq: w.seq})
}

// seal ends a lease: what it certified stays, and nothing more of it will count.
func (s *State) seal(id LockID, l *lock, how How) {
	l.holder, l.sealed, l.sealedAt = SessionID{}, how, s.place()
	s.events = append(s.events, Event{Happening: Sealed, Lock: id, Token: l.last, How: how})
	s.next(id, l)
}

func (o *Renew) apply(s *State, c *Command) Result {
	l := s.holds(c, o.Lock, o.Token)
	if l == nil {
		return Result{Code: CodeStale}
	}
	s.extend(l)
	return Result{Code: CodeDone, Token: l.last, Expiry: l.expiry}
}

func (o *Commit) apply(s *State, c *Command) Result {
	l := s.holds(c, o.Lock, o.Token)
	if l == nil {
		return Result{Code: CodeStale}
	}
	d := l.documents[o.Document]
	if d == nil {
		if len(l.documents) >= MaxDocuments {
			return Result{Code: CodeFull}
		}
		d = &document{}
	}
	if d.heads != o.Expected {
		return Result{Code: CodeMismatch, Token: l.last, Heads: d.heads}
	}
	l.documents[o.Document] = d
	if d.heads != (Heads{}) && d.heads != o.New {
		d.history = last(append(d.history, d.heads), MaxHistory)
	}
	d.heads, d.token, d.at = o.New, l.last, s.place()
	s.events = append(s.events, Event{Happening: Committed, Lock: o.Lock, Token: l.last, Document: o.Document, Heads: o.New})
	return Result{Code: CodeDone, Token: l.last, Expiry: l.expiry}
}

func (o *Release) apply(s *State, c *Command) Result {
	l := s.holds(c, o.Lock, o.Token)
	if l == nil {
		return Result{Code: CodeStale}
	}
	s.seal(o.Lock, l, SealReleased)
	return Result{Code: CodeDone, Token: o.Token}
}

func (o *Cancel) apply(s *State, c *Command) Result {
	l := s.locks[o.Lock]
	if c.Session == (SessionID{}) || l == nil {
		return Result{Code: CodeUnknown}
	}
	if l.holder == c.Session { // it was granted meanwhile
		return Result{Code: CodeHeld, Token: l.last, Expiry: l.expiry}
	}
	at := slices.IndexFunc(l.queue, func(w waiter) bool { return w.session == c.Session })
	if at < 0 {
		return Result{Code: CodeUnknown}
	}
	w := l.queue[at]
	l.queue = slices.Delete(l.queue, at, at+1)
	s.left(o.Lock, w)
	return Result{Code: CodeDone}
}

// left answers an Acquire that waits no more, since its session gave up or asked anew, that it will not be granted.
func (s *State) left(id LockID, w waiter) {
	results := s.sessions[w.session].results
	if had, ok := results[w.seq]; ok {
		results[w.seq] = answered{had.to, Result{Code: CodeUnknown}}
	}
	s.events = append(s.events, Event{Happening: Left, Lock: id, Session: w.session, Seq: w.seq})
}

// count counts what a device has.
func count(of map[DeviceID]int, device DeviceID, n int) {
	if of[device] += n; of[device] == 0 {
		delete(of, device)
	}
}

// apply breaks the lease that is held under the token; or, where the lease of that token has ended and none was granted after it, takes
// documents back.
func (o *Break) apply(s *State, c *Command) Result {
	l := s.locks[o.Lock]
	if l == nil || l.last != o.Token || o.Token.IsZero() || !l.held() && len(o.Back) == 0 {
		return Result{Code: CodeStale}
	}
	for _, to := range o.Back {
		if d := l.documents[to.Document]; d == nil || !slices.Contains(d.history, to.Heads) {
			return Result{Code: CodeMismatch}
		}
	}
	for _, to := range o.Back {
		d := l.documents[to.Document]
		at := slices.Index(d.history, to.Heads)
		d.heads, d.history, d.token, d.at = to.Heads, slices.Clone(d.history[:at]), l.last, s.place()
		s.events = append(s.events, Event{Happening: Committed, Lock: o.Lock, Token: l.last, Document: to.Document, Heads: to.Heads})
	}
	l.breaks = last(append(l.breaks, Broken{Token: o.Token, By: c.Device, Clock: s.clock, Note: bytes.Clone(o.Note)}), MaxBreaks)
	if l.held() {
		s.seal(o.Lock, l, SealBroken)
	}
	return Result{Code: CodeDone, Token: o.Token}
}

// last returns the last n of a list.
func last[T any](list []T, n int) []T { return slices.Clone(list[max(0, len(list)-n):]) }
