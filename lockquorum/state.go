package lockquorum

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"slices"
)

// State is what the voters agree on: what the commands amount to that were applied. Apply alone changes it. It is not safe for concurrent
// use.
type State struct {
	epoch    uint64
	index    uint64
	clock    int64
	chain    [32]byte // hash of all commands, see Chain
	sessions map[SessionID]*session
	locks    map[LockID]*lock
	circles  map[CircleID]*circle
	ranges   map[RangeID]*division
	voters   []Voter

	// What follows from the rest.
	due     int64 // when the first lease or session may have ended, by the clock
	waiting bool  // a lock is free and has somebody waiting
	events  []Event
	// How many there are of each device.
	sessionsOf, locksOf map[DeviceID]int
}

// Code says what a command amounted to. The numbers are part of the format.
type Code uint8

const (
	CodeDone      Code = 1  // it is carried out
	CodeQueued    Code = 2  // the session waits for the lock
	CodeHeld      Code = 3  // somebody holds the lock
	CodeStale     Code = 4  // the token is not that of the lease that is held, or of another session
	CodeMismatch  Code = 5  // other heads are certified than the expected ones
	CodeNoSession Code = 6  // there is no such session (any more), or it is another device's
	CodeOld       Code = 7  // the session has said that it has the answer
	CodeFull      Code = 8  // a cap is reached
	CodeUnknown   Code = 9  // there is no such lock, circle, item, range or part
	CodeClosed    Code = 10 // the circle gives no number: it was closed
	CodeExhausted Code = 11 // the circle gives no number: it has none left
	CodeExists    Code = 12 // what is to be begun is there already, and is another
	CodeResolved  Code = 13 // something else became of the number
	CodeOverlap   Code = 14 // another part has some of these numbers
	CodeReused    Code = 15 // another command had this place in the session: its process was copied or put back, and needs another one
)

func (c Code) String() string {
	switch c {
	case CodeDone:
		return "done"
	case CodeQueued:
		return "queued"
	case CodeHeld:
		return "held"
	case CodeStale:
		return "stale token"
	case CodeMismatch:
		return "other heads are certified"
	case CodeNoSession:
		return "no session"
	case CodeOld:
		return "answered before"
	case CodeFull:
		return "full"
	case CodeUnknown:
		return "unknown"
	case CodeClosed:
		return "closed"
	case CodeExhausted:
		return "exhausted"
	case CodeExists:
		return "exists"
	case CodeResolved:
		return "resolved otherwise"
	case CodeOverlap:
		return "overlaps"
	case CodeReused:
		return "place of another command"
	}
	return "unknown code"
}

// Result is the answer to a command.
type Result struct {
	Code   Code
	Token  Token // of the lease that was granted or is held
	Expiry int64 // when that lease ends by the replicated clock, unless it is renewed
	Series SeriesID
	Number int64 // given to the item, in that series of its circle
	Heads  Heads // CodeMismatch: what is certified
}

// Happening says what an Event tells.
type Happening uint8

const (
	Granted   Happening = iota + 1 // somebody who waited has the lease: Lock, Token, Session, Seq
	Committed                      // heads are certified: Lock, Token, Document, Heads
	Sealed                         // a lease has ended: Lock, Token, How
	Ended                          // a session has ended: Session
	Left                           // somebody does not wait any more: Lock, Session, Seq
)

// Event is something that others than the command's author may wait for.
type Event struct {
	Happening
	Lock     LockID
	Token    Token
	Session  SessionID
	Seq      uint64
	Document DocumentID
	Heads    Heads
	How      How
}

// New returns the State of a quorum's first epoch, or of a later one that goes on from nothing.
func New(epoch uint64) *State {
	return &State{epoch: epoch, sessions: map[SessionID]*session{}, locks: map[LockID]*lock{}, circles: map[CircleID]*circle{},
		ranges: map[RangeID]*division{}, due: MaxClock, sessionsOf: map[DeviceID]int{}, locksOf: map[DeviceID]int{}}
}

// Epoch returns the epoch of the quorum, which all tokens begin with.
func (s *State) Epoch() uint64 { return s.epoch }

// Index returns the place of the last command that was applied.
func (s *State) Index() uint64 { return s.index }

// Clock returns the replicated clock, in milliseconds.
func (s *State) Clock() int64 { return s.clock }

// Chain returns the hash of all commands that were applied, each with its index: who has another one at the same (epoch, index) has
// another history.
func (s *State) Chain() [32]byte { return s.chain }

// Voters returns who votes, ascending by number.
func (s *State) Voters() []Voter { return slices.Clone(s.voters) }

// Reseed ends what the quorum of before could not end itself, when its voters are founded anew under a higher epoch: sessions and leases,
// and every circle's series, since numbers may have been given that this State does not know. Documents keep their certified heads.
func (s *State) Reseed(epoch uint64, voters []Voter) {
	s.epoch, s.index, s.voters, s.events = epoch, 0, slices.Clone(voters), nil
	s.sessions, s.sessionsOf = map[SessionID]*session{}, map[DeviceID]int{}
	for _, l := range s.locks {
		if l.queue = nil; l.held() {
			l.holder, l.sealed, l.sealedAt = SessionID{}, SealReseeded, s.place()
		}
	}
	for _, c := range s.circles {
		if open := &c.series[len(c.series)-1]; open.closed == 0 {
			open.closed = SealReseeded
		}
	}
	s.waiting = false
	s.findDue()
}

// Apply applies the command that stands at an index of the log, which grows from one to the next, and returns its answer and what else came
// of it. raw is the command as it stands there.
func (s *State) Apply(index uint64, c *Command, raw []byte) (Result, []Event) {
	s.index, s.events = index, nil
	h := sha256.New()
	h.Write([]byte("chartmesh quorum chain 1"))
	h.Write(s.chain[:])
	h.Write(binary.BigEndian.AppendUint64(nil, index))
	h.Write(raw)
	s.chain = [32]byte(h.Sum(nil))
	s.clock = max(s.clock, c.Clock)
	s.expire()
	r := s.answer(c)
	return r, s.events
}

// answer carries a command out unless its session has an answer.
func (s *State) answer(c *Command) Result {
	if c.Session == (SessionID{}) {
		return c.Operation.apply(s, c)
	}
	ses := s.sessions[c.Session]
	if open, ok := c.Operation.(*Open); ses == nil && ok && c.Seq == 1 {
		if len(s.sessions) >= MaxSessions || s.sessionsOf[c.Device] >= MaxSessionsOfOne {
			return Result{Code: CodeFull}
		}
		ses = &session{device: c.Device, ttl: open.TTL, results: map[uint64]answered{}}
		s.sessions[c.Session] = ses
		count(s.sessionsOf, ses.device, 1)
	}
	if ses == nil || ses.device != c.Device {
		return Result{Code: CodeNoSession}
	}
	s.keep(ses, s.clock+ses.ttl)
	if c.Done > ses.done {
		ses.done = c.Done
		maps.DeleteFunc(ses.results, func(seq uint64, _ answered) bool { return seq <= ses.done })
	}
	had, again := ses.results[c.Seq]
	asked := hashOf(c.Operation)
	switch {
	case again && had.to != asked:
		return Result{Code: CodeReused}
	case again:
		return had.Result
	case c.Seq <= ses.done:
		return Result{Code: CodeOld}
	case c.Seq-c.Done > MaxWindow, len(ses.results) >= MaxWindow:
		// Of what comes twice both are answered so, although there is room by then: it goes by what the command itself says that its session has.
		return Result{Code: CodeFull}
	}
	r := c.Operation.apply(s, c)
	if s.sessions[c.Session] == ses { // it may have ended
		ses.results[c.Seq] = answered{asked, r}
	}
	return r
}

// expire ends what has run out by the clock, and grants what could not be granted at the index before.
func (s *State) expire() {
	if s.clock >= s.due {
		for _, id := range sorted(s.sessions) {
			if s.sessions[id].expiry <= s.clock {
				s.endSession(id, SealExpired)
			}
		}
		for _, id := range sorted(s.locks) {
			if l := s.locks[id]; l.held() && l.expiry <= s.clock {
				s.seal(id, l, SealExpired)
			}
		}
		s.findDue()
	}
	if s.waiting {
		s.waiting = false
		for _, id := range sorted(s.locks) {
			s.next(id, s.locks[id])
		}
	}
}

// findDue finds when the next lease or session may end.
func (s *State) findDue() {
	s.due = MaxClock
	for _, ses := range s.sessions {
		s.due = min(s.due, ses.expiry)
	}
	for _, l := range s.locks {
		if l.held() {
			s.due = min(s.due, l.expiry)
		}
	}
}

// NextExpiry returns when the first lease or session may end, by the replicated clock: a leader that hears nothing ticks then. It is
// MaxClock while there is none.
func (s *State) NextExpiry() int64 { return s.due }

func (*Tick) apply(*State, *Command) Result { return Result{Code: CodeDone} }

func (o *Voters) apply(s *State, _ *Command) Result {
	s.voters = slices.Clone(o.List)
	return Result{Code: CodeDone}
}

// sorted returns the keys of a map, ascending.
func sorted[K id, V any](m map[K]V) []K {
	keys := slices.Collect(maps.Keys(m))
	slices.SortFunc(keys, compareIDs[K])
	return keys
}
