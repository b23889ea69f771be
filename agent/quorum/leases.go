package quorum

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
)

// leaseTTL is after how long the lease of a process that is gone is over. It is renewed at a third.
const leaseTTL = 20 * time.Second

// holding is a lease that this process holds.
type holding struct {
	name    string
	lease   *client.Lease
	commits chan struct{}
	end     *time.Timer // gives it back; nil: its holder does
	own     bool        // see Use
}

func (h *holding) held() Held { return Held{h.name, h.lease, h.commits, h.own} }

// hold takes a lease, and notes it. waiting bounds the wait for it.
func (s *Service) hold(ctx, waiting context.Context, req api.LeaseRequest, own bool) (*holding, lockquorum.LockID, error) {
	id, err := s.lock(ctx, req.Name)
	if err != nil {
		return nil, id, s.explain(err)
	}
	if err := s.serves(); err != nil {
		return nil, id, err
	}
	take := s.client.Acquire
	if req.Try {
		take = s.client.TryAcquire
	}
	l, err := take(waiting, id, leaseTTL)
	if err != nil {
		return nil, id, s.explain(err)
	}
	h := &holding{name: req.Name, lease: l, commits: make(chan struct{}, 1), own: own}
	s.mu.Lock()
	s.mu.held[id] = h
	s.mu.Unlock()
	if s.cfg.Granted != nil {
		s.cfg.Granted(ctx, h.held())
	}
	if ctx.Err() != nil { // who asked is gone
		return nil, id, errors.Join(context.Cause(ctx), s.giveBack(id, h))
	}
	return h, id, nil
}

// giveBack releases a lease whose holder has ended. If that fails, the lease ends by itself.
func (s *Service) giveBack(id lockquorum.LockID, h *holding) error {
	ctx, cancel := context.WithTimeout(context.Background(), ending+releasing)
	defer cancel()
	return s.release(ctx, id, h)
}

// release gives a lease back.
func (s *Service) release(ctx context.Context, id lockquorum.LockID, h *holding) error {
	if s.cfg.Ending != nil && h.lease.Err() == nil {
		before, cancel := context.WithTimeout(ctx, ending)
		s.cfg.Ending(before, h.held())
		cancel()
	}
	s.mu.Lock()
	if s.mu.held[id] == h {
		delete(s.mu.held, id)
	}
	if h.end != nil {
		h.end.Stop()
	}
	s.mu.Unlock()
	return h.lease.Release(ctx)
}

// ending bounds how long what comes before giving a lease back may take, releasing how long that itself. If it fails, the lease ends by itself.
const (
	ending    = 10 * time.Second
	releasing = 5 * time.Second
)

// AcquireLease implements api.Exclusive.
func (s *Service) AcquireLease(ctx context.Context, _ string, req api.LeaseRequest) (api.Lease, error) {
	h, id, err := s.hold(ctx, ctx, req, false)
	if err != nil {
		return api.Lease{}, err
	}
	s.mu.Lock()
	h.end = time.AfterFunc(cmp.Or(time.Duration(req.For)*time.Millisecond, api.DefaultLease), func() {
		if err := s.giveBack(id, h); err != nil && !errors.Is(err, client.ErrLeaseLost) {
			s.log.Warn("a lease was not given back, and ends by itself", "error", err)
		}
	})
	s.mu.Unlock()
	return s.mine(id, h), nil
}

// HoldLease implements api.Exclusive.
func (s *Service) HoldLease(ctx context.Context, _ string, req api.LeaseRequest, held func(api.Lease) error) error {
	h, id, err := s.hold(ctx, ctx, req, false)
	if err != nil {
		return err
	}
	defer func() { _ = s.giveBack(id, h) }()
	if err := held(s.mine(id, h)); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-h.lease.Done():
	}
	if errors.Is(h.lease.Err(), client.ErrLeaseLost) {
		return s.explain(h.lease.Err())
	}
	return nil // it was given back by name
}

// useWait bounds how long Use waits for others who hold the lock.
const useWait = 10 * time.Second

// Use takes a lease for what do writes, and gives it back. One at a time does so, and nobody else in this process writes under it. Where the lease is not to be
// had do does not run, and the error is an ErrNotHad.
func (s *Service) Use(ctx context.Context, name string, do func(Held) error) error {
	select {
	case s.using <- struct{}{}:
		defer func() { <-s.using }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	waiting, cancel := context.WithTimeout(ctx, useWait)
	defer cancel()
	h, id, err := s.hold(ctx, waiting, api.LeaseRequest{Name: name}, true)
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return err
	case waiting.Err() != nil:
		return fmt.Errorf("%w: %w", ErrNotHad, s.explain(client.ErrHeld))
	default:
		return fmt.Errorf("%w: %w", ErrNotHad, err)
	}
	defer func() { _ = s.giveBack(id, h) }() // if that fails, the lease ends by itself
	return do(h.held())
}

// ErrNotHad says that a lease was not to be had.
var ErrNotHad = errors.New("no lease is to be had")

// mine says what is known of a lease that this process holds.
func (s *Service) mine(id lockquorum.LockID, h *holding) api.Lease {
	self, until := s.cfg.Name(s.self), h.lease.Deadline().UTC()
	return api.Lease{Name: h.name, ID: short(id), Token: h.lease.Token().String(), Held: true, Mine: true, Holder: &self, Expires: &until, Waiting: []api.Party{}}
}

func short[T ~[32]byte](id T) string { return hex.EncodeToString(id[:8]) }

// ReleaseLease implements api.Exclusive.
func (s *Service) ReleaseLease(ctx context.Context, name string) error {
	id, err := s.id(kindLock, name)
	if err != nil {
		return s.explain(err)
	}
	s.mu.Lock()
	h := s.mu.held[lockquorum.LockID(id)]
	s.mu.Unlock()
	if h == nil {
		return &api.Error{Code: api.CodeNotFound, Message: "this device holds no lease of that name", Hint: "see chartmesh lease list"}
	}
	return s.explain(s.release(ctx, lockquorum.LockID(id), h))
}

// Leases implements api.Exclusive.
func (s *Service) Leases(ctx context.Context) ([]api.Lease, error) {
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadLocks})
	if err != nil {
		return nil, err
	}
	var unknowns []unknown
	for _, l := range st.Leases() {
		unknowns = append(unknowns, unknown{kind: kindLock, id: l.Lock, by: l.Holder})
	}
	s.learn(ctx, unknowns)
	list := []api.Lease{}
	for _, l := range st.Leases() {
		list = append(list, s.describe(st, l))
	}
	slices.SortStableFunc(list, func(a, b api.Lease) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) })
	return list, nil
}

func (s *Service) describe(st *lockquorum.View, l lockquorum.Lease) api.Lease {
	out := api.Lease{Name: s.nameOf(kindLock, l.Lock), ID: short(l.Lock), Waiting: []api.Party{}}
	if !l.Token.IsZero() {
		out.Token = l.Token.String()
	}
	if l.Holder != (lockquorum.DeviceID{}) {
		who := s.cfg.Name(l.Holder)
		out.Held, out.Holder = true, &who
		until := time.Now().Add(time.Duration(l.Expiry-st.Clock()) * time.Millisecond).UTC().Truncate(time.Millisecond)
		out.Expires = &until
		s.mu.Lock()
		h := s.mu.held[l.Lock]
		s.mu.Unlock()
		out.Mine = h != nil && h.lease.Token() == l.Token
	} else if l.How != 0 {
		out.Ended = l.How.String()
	}
	for _, d := range l.Waiting {
		out.Waiting = append(out.Waiting, s.cfg.Name(d))
	}
	for _, b := range l.Breaks {
		broken := api.LeaseBreak{Token: b.Token.String(), By: s.cfg.Name(b.By)}
		if n, ok := s.open(b.Note, about(kindLock, l.Lock)); ok {
			broken.User, broken.Time, broken.Reason = n.user, &n.time, n.reason
			out.Name = cmp.Or(out.Name, n.subject)
		}
		out.Breaks = append(out.Breaks, broken)
	}
	return out
}

// waitEvery is how often it is looked whether a lock is free.
const waitEvery = 250 * time.Millisecond

// WaitLease implements api.Exclusive.
func (s *Service) WaitLease(ctx context.Context, name string) (api.Lease, error) {
	id, err := s.lock(ctx, name)
	if err != nil {
		return api.Lease{}, s.explain(err)
	}
	for {
		st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadLock, ID: id})
		if err != nil {
			return api.Lease{}, err
		}
		l, ok := st.Lease(id)
		if !ok {
			return api.Lease{Name: name, ID: short(id), Waiting: []api.Party{}}, nil
		}
		if l.Holder == (lockquorum.DeviceID{}) && len(l.Waiting) == 0 {
			return s.describe(st, l), nil
		}
		select {
		case <-ctx.Done():
			return api.Lease{}, context.Cause(ctx)
		case <-time.After(waitEvery):
		}
	}
}

// Back is what documents of a lock are to be taken back to, as the lock was when that was found out.
type Back struct {
	To    []lockquorum.Certified // ascending by document
	token lockquorum.Token
	from  map[lockquorum.DocumentID]lockquorum.Heads
}

// fits reports whether nothing has come of the lock since that would be taken back unseen.
func (b *Back) fits(l lockquorum.Lease) bool {
	now := map[lockquorum.DocumentID]lockquorum.Heads{}
	for _, d := range l.Documents {
		now[d.ID] = d.Heads
	}
	return l.Token == b.token && !slices.ContainsFunc(b.To, func(c lockquorum.Certified) bool { return now[c.Document] != b.from[c.Document] })
}

// NotHere finds what documents of a lock are to be taken back to: those of which nobody here can tell what is certified. names reports whether heads can be told and are here.
func (s *Service) NotHere(ctx context.Context, name string, names func(lock string, document lockquorum.DocumentID, heads lockquorum.Heads) (bool, error)) (*Back, error) {
	id, err := s.lock(ctx, name)
	if err != nil {
		return nil, s.explain(err)
	}
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadLock, ID: id})
	if err != nil {
		return nil, err
	}
	l, _ := st.Lease(id)
	back := &Back{token: l.Token, from: map[lockquorum.DocumentID]lockquorum.Heads{}}
	never := 0
	for _, d := range l.Documents {
		here, err := names(name, d.ID, d.Heads)
		if err != nil {
			return nil, err
		}
		for i := len(d.Before) - 1; !here; i-- {
			if i < 0 {
				never++
				break
			}
			if here, err = names(name, d.ID, d.Before[i]); err != nil {
				return nil, err
			} else if here {
				back.To, back.from[d.ID] = append(back.To, lockquorum.Certified{Document: d.ID, Heads: d.Before[i]}), d.Heads
			}
		}
	}
	switch {
	case len(back.To) > 0:
		return back, nil
	case never > 0:
		return nil, &api.Error{Code: api.CodeConflict, Message: "nothing that was committed before under that lock, and is remembered, is here: there is nothing to go back to",
			Hint: "bring back the device that wrote it, or give the command at one that has more"}
	}
	return nil, &api.Error{Code: api.CodeConflict, Message: "all that was committed under that lock is here: nothing is to be taken back"}
}

// maxBack is how many documents one command takes back: with its note it is far from too large.
const maxBack = 64

// BreakLease ends a lease, whoever holds it, and takes documents back, also if nobody holds it; nil: none.
func (s *Service) BreakLease(ctx context.Context, user string, req api.BreakRequest, back *Back) (api.Lease, error) {
	id, err := s.lock(ctx, req.Name)
	if err != nil {
		return api.Lease{}, s.explain(err)
	}
	st, err := s.read(ctx, lockquorum.Query{Kind: lockquorum.ReadLock, ID: id})
	if err != nil {
		return api.Lease{}, err
	}
	l, ok := st.Lease(id)
	if !ok || l.Holder == (lockquorum.DeviceID{}) && back == nil {
		return api.Lease{}, &api.Error{Code: api.CodeNotFound, Message: "nobody holds that lock", Hint: "see chartmesh lease list"}
	}
	token := l.Token
	if req.Token != "" && req.Token != token.String() {
		return api.Lease{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("the lease %s is over: %s is held", req.Token, token), Hint: "see chartmesh lease list"}
	}
	parts := [][]lockquorum.Certified{nil}
	if back != nil {
		if !back.fits(l) {
			return api.Lease{}, &api.Error{Code: api.CodeConflict, Message: "the lock was granted, or something was committed under it, while it was found out what to take back; nothing was",
				Hint: "give the command again"}
		}
		parts = slices.Collect(slices.Chunk(back.To, maxBack))
	}
	sealed, err := s.seal(note{user: user, time: time.Now(), subject: req.Name, reason: req.Reason}, about(kindLock, id))
	if err != nil {
		return api.Lease{}, s.explain(err)
	}
	for i, part := range parts { // the first one ends the lease
		if err := s.client.Break(ctx, id, token, part, sealed); errors.Is(err, client.ErrStaleToken) && i > 0 {
			return api.Lease{}, &api.Error{Code: api.CodeConflict, Message: fmt.Sprintf("%d of %d documents are taken back, and the lock was granted meanwhile", i*maxBack, len(back.To)), Err: err,
				Hint: "give the command again"}
		} else if err != nil {
			return api.Lease{}, s.explain(err)
		}
	}
	s.mu.Lock()
	mine := s.mu.held[id]
	s.mu.Unlock()
	if mine != nil { // it need not wait for the next renewal to hear of it
		mine.held().Check(ctx)
	}
	out := s.describe(st, l)
	if back != nil {
		out.TakenBack = len(back.To)
	}
	if out.Held {
		out.Held, out.Ended = false, lockquorum.SealBroken.String()
	}
	return out, nil
}
