package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"chartmesh/lockquorum"
)

// Lease is the right to commit under a lock. It is renewed until Release, or until it is lost. It is safe for concurrent use.
type Lease struct {
	c     *Client
	s     *session
	lock  lockquorum.LockID
	token lockquorum.Token
	ttl   time.Duration

	ctx      context.Context // ends with the lease
	cancel   context.CancelCauseFunc
	renewing sync.WaitGroup
	released sync.Once
	over     error // of Release

	mu struct {
		sync.Mutex
		deadline  Moment
		certified map[lockquorum.DocumentID]lockquorum.Heads
		open      map[lockquorum.DocumentID]unanswered
	}
	committing chan struct{}      // one at a time
	checks     chan chan struct{} // see Check
}

// unanswered is a commit of which it is not known whether it was carried out.
type unanswered struct {
	request lockquorum.Request
	asked   Moment
}

// Acquire waits until it is this process's turn, and returns the lease; ctx bounds the waiting alone. Errors are ErrNoQuorum, ErrFull,
// lockquorum.ErrForbidden and ctx's.
func (c *Client) Acquire(ctx context.Context, lock lockquorum.LockID, ttl time.Duration) (*Lease, error) {
	return c.acquire(ctx, &lockquorum.Acquire{Lock: lock, TTL: ttl.Milliseconds()})
}

// TryAcquire is Acquire that waits for nobody: it is ErrHeld if somebody holds the lock, or waits for it.
func (c *Client) TryAcquire(ctx context.Context, lock lockquorum.LockID, ttl time.Duration) (*Lease, error) {
	return c.acquire(ctx, &lockquorum.Acquire{Lock: lock, TTL: ttl.Milliseconds(), Try: true})
}

// tries is how often a lease that was lost before it was begun is asked for.
const tries = 5

func (c *Client) acquire(ctx context.Context, o *lockquorum.Acquire) (*Lease, error) {
	for n := 1; ; n++ {
		l, err := c.ask(ctx, o)
		if err == nil || !errors.Is(err, errAgain) || n == tries || ctx.Err() != nil {
			return l, err
		}
	}
}

// errAgain says that a session ended, or a lease was over, before it could be used.
var errAgain = errors.New("the lease was over before it began")

func (c *Client) ask(ctx context.Context, o *lockquorum.Acquire) (*Lease, error) {
	s, err := c.session(ctx)
	if err != nil {
		return nil, err
	}
	a, asked, err := c.turn(ctx, s, o)
	switch {
	case err != nil:
		c.end(s)
		return nil, err
	case a.Code == lockquorum.CodeNoSession, a.Code == lockquorum.CodeReused:
		return nil, errAgain // the session is over, or another's
	case a.Code != lockquorum.CodeDone:
		c.put(s)
		return nil, codeError(a.Code)
	}
	l := &Lease{c: c, s: s, lock: o.Lock, token: a.Token, ttl: time.Duration(o.TTL) * time.Millisecond, committing: make(chan struct{}, 1), checks: make(chan chan struct{})}
	l.mu.open = map[lockquorum.DocumentID]unanswered{}
	l.begin(a, asked)
	if left := l.deadline().Monotonic - c.cfg.Now().Monotonic; left < l.lasts()*2/3 {
		// It waited: how long ago it was granted the lease it does not know.
		again, asked, err := s.do(ctx, &lockquorum.Renew{Lock: l.lock, Token: l.token})
		switch {
		case err != nil:
			c.end(s)
			return nil, err
		case again.Code != lockquorum.CodeDone:
			c.end(s)
			return nil, errAgain
		}
		l.begin(again, asked)
	}
	if !l.valid() { // the machine slept meanwhile
		c.end(s)
		return nil, errAgain
	}
	l.ctx, l.cancel = context.WithCancelCause(c.ctx)
	c.mu.Lock()
	closed := c.mu.closed
	if !closed {
		c.mu.leases[l] = true
		l.renewing.Add(2)
		c.work.Go(func() { defer l.renewing.Done(); l.watch() })
		c.work.Go(func() { defer l.renewing.Done(); l.renew() })
	}
	c.mu.Unlock()
	if closed {
		return nil, context.Canceled
	}
	return l, nil
}

// turn asks for a lease until there is an answer. Asked again in its place, it also keeps the session while it waits.
func (c *Client) turn(ctx context.Context, s *session, o *lockquorum.Acquire) (a lockquorum.Answer, asked Moment, err error) {
	r, asked := s.next(o), c.cfg.Now()
	for {
		part, cancel := ctx, context.CancelFunc(func() {})
		if r.Wait {
			part, cancel = context.WithTimeout(ctx, min(waiting, c.cfg.SessionTTL/4))
		}
		sent := c.cfg.Now()
		a, err = c.do(part, r)
		again := err != nil && part.Err() != nil && ctx.Err() == nil
		cancel()
		switch {
		case again:
		case err == nil && a.Code == lockquorum.CodeQueued: // from now on the answer comes with its turn
			r.Wait = true
		default:
			if err == nil {
				s.answered(r, sent)
			}
			return a, asked, err
		}
	}
}

// lasts is how long a lease lasts for its holder.
func (l *Lease) lasts() time.Duration { return time.Duration(float64(l.ttl) * (1 - Drift)) }

// begin takes a grant or a renewal that was first asked for at a moment.
func (l *Lease) begin(a lockquorum.Answer, asked Moment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if to := asked.add(l.lasts()); to.Monotonic > l.mu.deadline.Monotonic {
		l.mu.deadline = to
	}
	if l.mu.certified == nil {
		l.mu.certified = map[lockquorum.DocumentID]lockquorum.Heads{}
		for _, d := range a.Documents {
			l.mu.certified[d.ID] = d.Heads
		}
	}
}

func (l *Lease) deadline() Moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.deadline
}

// valid reports whether the lease holds, by both clocks.
func (l *Lease) valid() bool { return l.c.cfg.Now().before(l.deadline()) }

// watch ends the lease at its deadline. It looks often, since a timer stands still while the machine sleeps.
func (l *Lease) watch() {
	tick := time.NewTicker(max(l.ttl/40, 10*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-l.ctx.Done():
			return
		case <-tick.C:
			if !l.valid() {
				l.lose(errors.New("it was not renewed in time"))
				return
			}
		}
	}
}

// renew renews the lease whenever a third of it is over, and when Check asks for it.
func (l *Lease) renew() {
	timer := time.NewTimer(l.ttl / 3)
	defer timer.Stop()
	var open unanswered // the renewal that has no answer yet
	for {
		var checked chan struct{}
		select {
		case <-l.ctx.Done():
			return
		case <-timer.C:
		case checked = <-l.checks:
		}
		next := l.renewOnce(&open)
		if checked != nil {
			close(checked)
		}
		timer.Reset(next)
	}
}

// renewOnce asks for a renewal, again in its place if the one before has no answer yet, and returns when it is time for the next.
func (l *Lease) renewOnce(open *unanswered) time.Duration {
	if open.request.Operation == nil {
		*open = unanswered{l.s.next(&lockquorum.Renew{Lock: l.lock, Token: l.token}), l.c.cfg.Now()}
	}
	a, err := l.c.do(l.ctx, open.request)
	switch {
	case l.ctx.Err() != nil:
		return 0
	case err != nil:
		return max(l.ttl/40, 10*time.Millisecond)
	case a.Code != lockquorum.CodeDone:
		l.lose(fmt.Errorf("%w: the quorum ended it", ErrStaleToken))
		return 0
	}
	asked := open.asked
	l.s.answered(open.request, asked)
	l.begin(a, asked)
	*open = unanswered{}
	l.settleAll()
	return max(0, l.ttl/3-(l.c.cfg.Now().Monotonic-asked.Monotonic))
}

// Check asks whether the lease still holds, by renewing it at once, and returns when that has an answer, or ctx ends. Without it the holder hears of a break at the next
// renewal; what he would commit until then is refused.
func (l *Lease) Check(ctx context.Context) {
	checked := make(chan struct{})
	select {
	case l.checks <- checked:
	case <-l.ctx.Done():
		return
	case <-ctx.Done():
		return
	}
	select {
	case <-checked:
	case <-l.ctx.Done():
	case <-ctx.Done():
	}
}

// lose ends the lease for its holder.
func (l *Lease) lose(why error) {
	l.cancel(fmt.Errorf("%w: %w", ErrLeaseLost, why))
	l.c.mu.Lock()
	delete(l.c.mu.leases, l)
	l.c.mu.Unlock()
	l.c.end(l.s)
}

// Context ends with the lease; its cause is Err.
func (l *Lease) Context() context.Context { return l.ctx }

// Done is closed when the lease is over.
func (l *Lease) Done() <-chan struct{} { return l.ctx.Done() }

// Err says why the lease is over: ErrLeaseLost, context.Canceled after Release; nil: it is not. It looks at the clocks, so that no work goes on in
// a machine that has just woken.
func (l *Lease) Err() error {
	if l.ctx.Err() != nil {
		return context.Cause(l.ctx)
	}
	if !l.valid() {
		return fmt.Errorf("%w: it was not renewed in time", ErrLeaseLost)
	}
	return nil
}

// Token names the lease: of one lock each is greater than all before.
func (l *Lease) Token() lockquorum.Token { return l.token }

// Deadline returns when the lease ends unless it is renewed, by the time of day.
func (l *Lease) Deadline() time.Time { return l.deadline().Wall }

// Certified returns the heads of a document that are certified, as far as this holder knows; zeros: none.
func (l *Lease) Certified(doc lockquorum.DocumentID) lockquorum.Heads {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.certified[doc]
}

// Documents lists those of which heads are certified, as far as this holder knows.
func (l *Lease) Documents() (list []lockquorum.DocumentID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for d := range l.mu.certified {
		list = append(list, d)
	}
	return list
}

// Barrier waits until this device holds what is certified of a document, so that the first change under the lease is on top of it. It is
// ErrBarrierPending when ctx or the lease ends before.
func (l *Lease) Barrier(ctx context.Context, doc lockquorum.DocumentID) error {
	heads := l.Certified(doc)
	if heads == (lockquorum.Heads{}) {
		return l.Err()
	}
	if l.c.cfg.Await == nil {
		return ErrBarrierPending
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	if err := l.c.cfg.Await(ctx, doc, heads); err != nil {
		return errors.Join(ErrBarrierPending, err, l.Err())
	}
	return l.Err()
}

// Commit certifies the heads of a document, on top of those that this holder knows to be certified. Errors are ErrLeaseLost, ErrStaleToken,
// ErrOtherHeads (a copy of this holder committed), ErrNoQuorum and ErrOutcomeUnknown: then what is certified is found out before anything else of the
// document is committed.
func (l *Lease) Commit(ctx context.Context, doc lockquorum.DocumentID, heads lockquorum.Heads) error {
	select {
	case l.committing <- struct{}{}:
		defer func() { <-l.committing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := l.settle(ctx, doc); err != nil {
		return err
	}
	if heads == l.Certified(doc) {
		return l.Err()
	}
	l.mu.Lock()
	l.mu.open[doc] = unanswered{l.s.next(&lockquorum.Commit{Lock: l.lock, Token: l.token, Document: doc, Expected: l.mu.certified[doc], New: heads}), l.c.cfg.Now()}
	l.mu.Unlock()
	return l.settle(ctx, doc)
}

// settle asks for a commit that has no answer yet, again in its place: it is carried out once.
func (l *Lease) settle(ctx context.Context, doc lockquorum.DocumentID) error {
	if err := l.Err(); err != nil {
		return err
	}
	l.mu.Lock()
	at, ok := l.mu.open[doc]
	l.mu.Unlock()
	if !ok {
		return nil
	}
	a, err := l.c.do(ctx, at.request)
	if err != nil {
		return err
	}
	l.s.answered(at.request, at.asked)
	l.mu.Lock()
	delete(l.mu.open, doc)
	if o := at.request.Operation.(*lockquorum.Commit); a.Code == lockquorum.CodeDone {
		l.mu.certified[doc] = o.New
	}
	l.mu.Unlock()
	switch a.Code {
	case lockquorum.CodeDone:
		return nil
	case lockquorum.CodeStale, lockquorum.CodeNoSession, lockquorum.CodeReused:
		l.lose(ErrStaleToken)
		return fmt.Errorf("%w: %w", ErrLeaseLost, ErrStaleToken)
	}
	return codeError(a.Code)
}

// settleAll asks for all commits that have no answer, unless one is under way: a session takes few commands beyond the first that lacks one.
func (l *Lease) settleAll() {
	select {
	case l.committing <- struct{}{}:
		defer func() { <-l.committing }()
	default:
		return
	}
	l.mu.Lock()
	docs := slices.Collect(maps.Keys(l.mu.open))
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(l.ctx, l.ttl/6) // the next renewal is to be in time
	defer cancel()
	for _, doc := range docs {
		if l.settle(ctx, doc) != nil {
			return
		}
	}
}

// Release gives the lease back. It may be called again. It is ErrLeaseLost if it was over; where no quorum hears of it the lease ends by itself, and the
// error says so.
func (l *Lease) Release(ctx context.Context) error {
	l.released.Do(func() {
		lost := l.ctx.Err() != nil
		l.cancel(context.Canceled)
		l.renewing.Wait()
		if lost {
			l.over = context.Cause(l.ctx)
			return
		}
		l.c.mu.Lock()
		delete(l.c.mu.leases, l)
		l.c.mu.Unlock()
		a, _, err := l.s.do(ctx, &lockquorum.Release{Lock: l.lock, Token: l.token})
		switch {
		case err != nil:
			l.c.end(l.s)
			l.over = err
		case a.Code == lockquorum.CodeDone:
			l.c.put(l.s)
		default:
			l.c.end(l.s)
			l.over = codeError(a.Code)
		}
	})
	return l.over
}
