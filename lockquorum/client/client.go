// Package client takes leases and numbers from a quorum.
//
// Nouns: a Client asks whichever voter leads; a Lease is an exclusive right for a time, and a context that ends with it.
//
// Guarantees: what is asked for again, since no answer came, is carried out once. A Lease ends for its holder before it ends for the quorum, as
// long as clocks run apart by no more than Drift/2: it is counted from when it was first asked for, on a clock that never jumps and by the time of
// day, whichever is over first, since the former stands still while a machine sleeps. Who waited for a lease has renewed it before it is used.
// Who votes may have changed unheard: where nobody answers that is known to vote, others are asked that may. Without a quorum a call ends
// soon, with a *NoQuorumError that says whom it reached.
//
// Left to others: what locks, documents and items mean (they are keyed hashes here); who the voters are and how they are reached; that nothing
// is written by who does not hold the lease.
package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chartmesh/lockquorum"
)

// Config says what a Client is. Self and Voters are needed.
type Config struct {
	Self lockquorum.DeviceID
	// Voters returns who may be asked, as they are known now.
	Voters func() []Voter
	// Voter returns the voter of a device that another one says leads, and that is not among them: who voted changed meanwhile; false: it is not asked.
	// Nil: nobody else is.
	Voter func(lockquorum.DeviceID) (Voter, bool)
	// Others returns who else may vote and is reached: they are asked where none of Voters answers, since who votes may have changed while this device was
	// away. Nil: nobody is.
	Others func() []Voter
	// Await returns when this device holds a document's heads; nil: it never does.
	Await func(context.Context, lockquorum.DocumentID, lockquorum.Heads) error
	// Now reads both clocks; nil: the process's own.
	Now func() Moment
	// SessionTTL is after how long a process that is not heard of loses its place in a queue; 0: DefaultSessionTTL.
	SessionTTL time.Duration
	// Patience is how long a voter is looked for that leads, while some answer that none does; 0: DefaultPatience.
	Patience time.Duration
}

// Voter is one who may be asked.
type Voter struct {
	Device lockquorum.DeviceID
	Engine lockquorum.Engine
}

// Moment is what both clocks of a machine say at one time.
type Moment struct {
	Monotonic time.Duration // runs evenly, and stands still while the machine sleeps
	Wall      time.Time     // the time of day, which jumps
}

func (m Moment) add(d time.Duration) Moment { return Moment{m.Monotonic + d, m.Wall.Add(d)} }

// before reports whether m is before u by both clocks.
func (m Moment) before(u Moment) bool { return m.Monotonic < u.Monotonic && m.Wall.Before(u.Wall) }

const (
	DefaultSessionTTL = time.Minute
	DefaultPatience   = 5 * time.Second // an election takes three at most, where voters see each other

	// Drift is by how much of its time a lease ends earlier for its holder: twice as far as clocks that never jump may run apart.
	Drift = 0.03
	// attempt is how long one voter is waited for at first, and twice as long each time that all were asked: it may have gone, and its connection
	// does not show it yet. Asking another one in the same place is safe.
	attempt   = 500 * time.Millisecond
	maxDouble = 4
	// few is how long a voter is looked for that leads, while no majority can be asked: a connection may just be made.
	few = 1500 * time.Millisecond
	// waiting is how long one is waited for by who waits for its turn.
	waiting = 5 * time.Second
	// retry is after how long all are asked again.
	retry = 60 * time.Millisecond
	// maxIdle is how many sessions are kept for the next leases.
	maxIdle = 8
)

// Errors of leases and numbers, beside lockquorum.ErrForbidden and a context's.
var (
	ErrHeld           = errors.New("somebody else holds the lock")
	ErrLeaseLost      = errors.New("the lease is lost")
	ErrStaleToken     = errors.New("the lease of that token is over")
	ErrOtherHeads     = errors.New("other heads of the document are certified than were expected")
	ErrNoQuorum       = errors.New("no majority of the voters can be reached")
	ErrOutcomeUnknown = lockquorum.ErrOutcomeUnknown
	ErrBarrierPending = errors.New("what is certified has not arrived here yet")
	ErrExhausted      = errors.New("the circle has no number left")
	ErrClosed         = errors.New("the circle is closed")
	ErrUnknown        = errors.New("the quorum does not know it")
	ErrResolved       = errors.New("something else has become of the number")
	ErrExists         = errors.New("it is there already, and is another")
	ErrOverlap        = errors.New("another part has some of these numbers")
	ErrFull           = errors.New("the quorum keeps no more of these")
)

// NoQuorumError is an ErrNoQuorum, and an ErrOutcomeUnknown where somebody may have carried out what was asked for.
type NoQuorumError struct {
	Voters  int                   // that are known
	Reached []lockquorum.DeviceID // that have answered, be it that they do not lead
	Ended   []lockquorum.DeviceID // whose voters have ended for good: lockquorum.ErrLost, lockquorum.ErrOver
	Unknown bool
	Err     error // what the last one said
}

func (e *NoQuorumError) Error() string {
	return fmt.Sprintf("%v: %d of %d answered, and none leads", ErrNoQuorum, len(e.Reached), e.Voters)
}

func (e *NoQuorumError) Is(target error) bool {
	return target == ErrNoQuorum || e.Unknown && target == ErrOutcomeUnknown
}

func (e *NoQuorumError) Unwrap() error { return e.Err }

// Client asks a quorum. It is safe for concurrent use.
type Client struct {
	cfg Config

	mu struct {
		sync.Mutex
		leader lockquorum.DeviceID // who led last
		idle   []*session
		leases map[*Lease]bool
		closed bool
	}
	work   sync.WaitGroup
	ctx    context.Context // of what goes on by itself
	cancel context.CancelFunc
}

// New returns a Client. Its leases are those of this process.
func New(cfg Config) *Client {
	if cfg.SessionTTL == 0 {
		cfg.SessionTTL = DefaultSessionTTL
	}
	if cfg.Patience == 0 {
		cfg.Patience = DefaultPatience
	}
	if cfg.Now == nil {
		begun := time.Now()
		cfg.Now = func() Moment {
			now := time.Now()
			return Moment{now.Sub(begun), now.Round(0)}
		}
	}
	c := &Client{cfg: cfg}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.mu.leases = map[*Lease]bool{}
	return c
}

// Close gives back all leases, as far as that takes no longer than ctx, and ends what goes on by itself.
func (c *Client) Close(ctx context.Context) {
	c.mu.Lock()
	c.mu.closed = true
	var held []*Lease
	for l := range c.mu.leases {
		held = append(held, l)
	}
	idle := c.mu.idle
	c.mu.idle = nil
	c.mu.Unlock()
	var giving sync.WaitGroup
	for _, l := range held {
		giving.Go(func() { _ = l.Release(ctx) })
	}
	for _, s := range idle {
		giving.Go(func() { _, _ = c.do(ctx, s.next(&lockquorum.End{})) })
	}
	giving.Wait()
	c.cancel()
	c.work.Wait()
}

// spawn runs what goes on by itself, unless the Client is closed.
func (c *Client) spawn(fn func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.closed {
		c.work.Go(fn)
	}
}

// voters returns who may be asked: first the one of this device, which knows who leads, then who led last.
func (c *Client) voters() []Voter {
	list := c.cfg.Voters()
	c.mu.Lock()
	leader := c.mu.leader
	c.mu.Unlock()
	list = c.next(list, len(list), leader)
	for _, first := range []lockquorum.DeviceID{leader, c.cfg.Self} {
		for i, v := range list {
			if v.Device == first {
				copy(list[1:i+1], list[:i])
				list[0] = v
			}
		}
	}
	return list
}

// Leader returns who led when somebody was last asked; zeros: nobody was.
func (c *Client) Leader() lockquorum.DeviceID {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.leader
}

func (c *Client) leads(d lockquorum.DeviceID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.mu.leader = d
}

// do asks until there is an answer.
func (c *Client) do(ctx context.Context, r lockquorum.Request) (a lockquorum.Answer, err error) {
	err = c.any(ctx, r.Wait, func(ctx context.Context, e lockquorum.Engine) (err error) {
		a, err = e.Do(ctx, c.cfg.Self, r)
		return err
	})
	return a, err
}

// any has ask ask one voter after another until one leads. Errors are those of asking that no other voter would answer otherwise, ctx's, and
// *NoQuorumError.
func (c *Client) any(ctx context.Context, waits bool, ask func(context.Context, lockquorum.Engine) error) error {
	unknown, until := false, c.cfg.Now().Monotonic+c.cfg.Patience
	silent := map[lockquorum.DeviceID]bool{} // has not answered in time: the others are asked first
	for round := 0; ; round++ {
		list := c.voters()
		slices.SortStableFunc(list, func(a, b Voter) int { return cmp.Compare(rank(silent[a.Device]), rank(silent[b.Device])) })
		reached := map[lockquorum.DeviceID]bool{} // of those that are known to vote
		var last error
		var ended []lockquorum.DeviceID
		asked, known := map[lockquorum.DeviceID]bool{}, -1 // known: how many of the list are, once others are asked as well
		for i := 0; ; i++ {
			if i == len(list) && known < 0 && c.cfg.Others != nil && !answered(reached, silent) {
				known = i
				list = append(list, c.cfg.Others()...)
			}
			if i == len(list) {
				break
			}
			v := list[i]
			if asked[v.Device] {
				continue
			}
			asked[v.Device] = true
			one, cancel := ctx, context.CancelFunc(func() {})
			if !waits {
				one, cancel = context.WithTimeout(ctx, attempt<<min(round, maxDouble))
			}
			err := ask(one, v.Engine)
			late := one.Err() != nil && errors.Is(err, context.DeadlineExceeded) // it was not even asked in time: the next one is
			silent[v.Device] = one.Err() != nil && err != nil
			cancel()
			switch not := (*lockquorum.NotLeaderError)(nil); {
			case err == nil:
				c.leads(v.Device)
				return nil
			case known >= 0 && i >= known: // it may not vote, and know who does
				unknown = unknown || errors.Is(err, lockquorum.ErrOutcomeUnknown)
				if errors.As(err, &not) {
					list = c.next(list, i+1, not.Leader)
				}
				err = last // the voters' word is what is told
			case errors.Is(err, lockquorum.ErrOutcomeUnknown):
				unknown, reached[v.Device] = true, true
			case errors.As(err, &not):
				reached[v.Device] = true
				list = c.next(list, i+1, not.Leader)
			case errors.Is(err, lockquorum.ErrBusy):
				reached[v.Device] = true
			case errors.Is(err, lockquorum.ErrLost), errors.Is(err, lockquorum.ErrOver):
				ended = append(ended, v.Device)
			case errors.Is(err, lockquorum.ErrStopped), errors.Is(err, lockquorum.ErrUnreachable):
			case late:
				reached[v.Device] = true
			default:
				if ctx.Err() == nil {
					return err
				}
			}
			last = err
			if ctx.Err() != nil {
				return given(ctx, unknown)
			}
		}
		if known >= 0 {
			list = list[:known]
		}
		end := until
		if 2*len(reached) <= len(list) { // who leads would be among others, and is no nearer
			end -= c.cfg.Patience - min(c.cfg.Patience, few)
		}
		if len(reached) == 0 || c.cfg.Now().Monotonic >= end {
			e := &NoQuorumError{Voters: len(list), Ended: ended, Unknown: unknown, Err: last}
			for d := range reached {
				if !silent[d] {
					e.Reached = append(e.Reached, d)
				}
			}
			return e
		}
		select {
		case <-ctx.Done():
			return given(ctx, unknown)
		case <-time.After(retry):
		}
	}
}

// rank puts who was silent behind the others.
func rank(silent bool) int {
	if silent {
		return 1
	}
	return 0
}

// answered reports whether somebody who was reached was not silent.
func answered(reached, silent map[lockquorum.DeviceID]bool) bool {
	for d := range reached {
		if !silent[d] {
			return true
		}
	}
	return false
}

// next has who is said to lead be asked next, at a place in the list.
func (c *Client) next(list []Voter, at int, leader lockquorum.DeviceID) []Voter {
	j := slices.IndexFunc(list, func(v Voter) bool { return v.Device == leader })
	if j < 0 && leader != (lockquorum.DeviceID{}) && c.cfg.Voter != nil {
		if v, ok := c.cfg.Voter(leader); ok {
			list, j = append(list, v), len(list)
		}
	}
	if j >= at && at < len(list) {
		list[at], list[j] = list[j], list[at]
	}
	return list
}

// given is the error of a call that was given up.
func given(ctx context.Context, unknown bool) error {
	if unknown {
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, context.Cause(ctx))
	}
	return context.Cause(ctx)
}

// Read returns what is asked for of what the quorum agrees on, with all that was answered before: of a list, a part.
func (c *Client) Read(ctx context.Context, q lockquorum.Query) (v *lockquorum.View, err error) {
	err = c.any(ctx, false, func(ctx context.Context, e lockquorum.Engine) (err error) {
		v, _, err = e.Read(ctx, c.cfg.Self, q)
		return err
	})
	return v, err
}

// ReadAll is Read of a whole list of locks, circles or ranges, each as it was when its part was read.
func (c *Client) ReadAll(ctx context.Context, q lockquorum.Query) (*lockquorum.View, error) {
	all, err := c.Read(ctx, q)
	for more := err == nil; more; {
		if q, more = all.Next(); !more {
			break
		}
		part, err := c.Read(ctx, q)
		if err != nil {
			return nil, err
		}
		all = all.And(part)
	}
	return all, err
}

// session is the commands of one lease after another. Each has one, since the answer to who waits comes after others', and answers are kept from the
// first one on that has not come.
type session struct {
	c  *Client
	id lockquorum.SessionID

	mu struct {
		sync.Mutex
		seq, done uint64
		answered  map[uint64]bool
		heard     time.Duration // when the last command was sent that was answered, by the clock that never jumps
	}
}

// next makes the request of the next place.
func (s *session) next(o lockquorum.Operation) lockquorum.Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.seq++
	return lockquorum.Request{Session: s.id, Seq: s.mu.seq, Done: s.mu.done, Operation: o}
}

// answered notes that a request has its answer, and when it was asked.
func (s *session) answered(r lockquorum.Request, asked Moment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.answered[r.Seq] = true
	for s.mu.answered[s.mu.done+1] {
		delete(s.mu.answered, s.mu.done+1)
		s.mu.done++
	}
	s.mu.heard = max(s.mu.heard, asked.Monotonic)
}

// do asks within the session. With an answer comes when it was first asked.
func (s *session) do(ctx context.Context, o lockquorum.Operation) (lockquorum.Answer, Moment, error) {
	r, asked := s.next(o), s.c.cfg.Now()
	a, err := s.c.do(ctx, r)
	if err == nil {
		s.answered(r, asked)
	}
	return a, asked, err
}

// session returns one that nobody uses, or opens another. It is the caller's until put or end.
func (c *Client) session(ctx context.Context) (*session, error) {
	now := c.cfg.Now().Monotonic
	c.mu.Lock()
	for n := len(c.mu.idle); n > 0; n = len(c.mu.idle) {
		s := c.mu.idle[n-1]
		c.mu.idle = c.mu.idle[:n-1]
		s.mu.Lock()
		heard := s.mu.heard
		s.mu.Unlock()
		if now-heard < c.cfg.SessionTTL/2 { // else it may be over, and ends by itself
			c.mu.Unlock()
			return s, nil
		}
	}
	c.mu.Unlock()
	s := &session{c: c}
	s.mu.answered = map[uint64]bool{}
	if _, err := rand.Read(s.id[:]); err != nil {
		return nil, fmt.Errorf("begin a session: %w", err)
	}
	a, _, err := s.do(ctx, &lockquorum.Open{TTL: c.cfg.SessionTTL.Milliseconds()})
	switch {
	case err != nil:
		return nil, err // if it was opened, it ends by itself
	case a.Code != lockquorum.CodeDone:
		return nil, codeError(a.Code)
	}
	return s, nil
}

// put gives a session back that holds nothing and waits for nothing. One that lacks an answer ends: it could not have many more.
func (c *Client) put(s *session) {
	s.mu.Lock()
	lacks := s.mu.done != s.mu.seq
	s.mu.Unlock()
	if lacks {
		c.end(s)
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mu.closed && len(c.mu.idle) < maxIdle {
		c.mu.idle = append(c.mu.idle, s)
	}
}

// end ends a session that may hold or wait for something. If no quorum hears of it, it ends by itself.
func (c *Client) end(s *session) {
	c.spawn(func() {
		ctx, cancel := context.WithTimeout(c.ctx, c.cfg.SessionTTL)
		defer cancel()
		_, _, _ = s.do(ctx, &lockquorum.End{})
	})
}

// codeError says what a code means to who asked.
func codeError(code lockquorum.Code) error {
	switch code {
	case lockquorum.CodeDone:
		return nil
	case lockquorum.CodeHeld:
		return ErrHeld
	case lockquorum.CodeStale:
		return ErrStaleToken
	case lockquorum.CodeMismatch:
		return ErrOtherHeads
	case lockquorum.CodeUnknown:
		return ErrUnknown
	case lockquorum.CodeClosed:
		return ErrClosed
	case lockquorum.CodeExhausted:
		return ErrExhausted
	case lockquorum.CodeExists:
		return ErrExists
	case lockquorum.CodeResolved:
		return ErrResolved
	case lockquorum.CodeOverlap:
		return ErrOverlap
	case lockquorum.CodeFull:
		return ErrFull
	}
	return fmt.Errorf("the quorum answers: %v", code)
}
