package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/agent/replica"
	"chartmesh/crdt"
	"chartmesh/lockquorum"
	"chartmesh/trust"
)

// The trip of a protected operation: a lease is granted, what was committed last under its lock arrives, an edit is made under the lease, reaches an
// anchor or a voter, is committed, and the voter's word on that goes into this device's log for the others.

// Periods of protected operations.
const (
	barrierWait = 10 * time.Second // after a grant, for what was committed last
	barrierLook = 200 * time.Millisecond
	pushWait    = 5 * time.Second // before a commit, for whoever is connected to confirm what is committed
	pushLook    = 20 * time.Millisecond
	settleEvery = 15 * time.Second // it is asked what became of what was left uncommitted
)

// members returns the membership log, once the records are open.
func (a *Agent) members() *trust.State {
	if a.records == nil {
		return nil
	}
	return a.records.State()
}

// granted waits until this device holds what was committed last under a lease's lock. If that does not come, writes say so.
func (a *Agent) granted(ctx context.Context, h quorum.Held) {
	s, err := a.exclusive()
	if err != nil {
		return // the agent ends
	}
	ctx, cancel := context.WithTimeout(ctx, barrierWait)
	defer cancel()
	if err := a.barrier(ctx, s, h); err != nil {
		a.log.Warn("a lease is held, and what was committed last under it has not arrived yet", "error", err)
	}
}

// barrier waits until this device holds what was committed last under a lease's lock, and knows what became of what was written here under earlier leases of it: the voters' word
// on that seals them.
func (a *Agent) barrier(ctx context.Context, s *quorum.Service, h quorum.Held) error {
	for _, d := range h.Documents() {
		holds := func() (bool, error) { return a.records.Holds(h.Lock(), d, h.Certified(d)) }
		certify := func() error { return a.certify(ctx, s, replica.Proposal{Lock: h.Lock(), Name: d}) }
		if err := awaitCommitted(ctx, a.records.Changed, holds, certify); err != nil {
			return err
		}
	}
	list, err := a.records.Uncommitted()
	for _, p := range list {
		if p.Lock == h.Lock() && p.Token != h.Token() {
			err = errors.Join(err, a.certify(ctx, s, p))
		}
	}
	return err
}

// awaitCommitted waits until what is certified of a document is here and counts. Who committed it may be gone before its certificate was anywhere,
// so that a voter is asked for that here.
func awaitCommitted(ctx context.Context, changes func() <-chan struct{}, holds func() (bool, error), certify func() error) error {
	for {
		changed := changes()
		if ok, err := holds(); ok || err != nil {
			return err
		}
		why := certify()
		if ok, err := holds(); ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), why)
		case <-changed:
		}
		select { // much may come at a time
		case <-ctx.Done():
		case <-time.After(barrierLook):
		}
	}
}

// ending commits what is left before a lease is given back.
func (a *Agent) ending(ctx context.Context, h quorum.Held) {
	if err := a.commit(ctx, h); err != nil {
		a.log.Warn("something that was written under a lease was not committed; it is kept aside", "error", err)
	}
}

// use is a lease that a write may be made under. Whoever asks for its token makes it.
type use struct {
	quorum.Held
	made  bool
	wrote []replica.Change
}

// Wrote implements replica.Noting.
func (u *use) Wrote(c replica.Change) { u.wrote = append(u.wrote, c) }

// Token implements replica.Lease.
func (u *use) Token() lockquorum.Token {
	u.made = true
	return u.Held.Token()
}

// underLeases writes under whatever leases this device holds, and commits what that came to: only under the leases that it needed, so that a chart
// is written whatever becomes of what another lock guards.
func underLeases[T any](ctx context.Context, a *Agent, write func(context.Context) (T, error)) (T, error) {
	var held []quorum.Held
	if s := a.quorum.Load(); s != nil {
		held = slices.DeleteFunc(s.Held(), quorum.Held.Own)
	}
	return writeUnder(ctx, a, held, write)
}

// checkLease asks whether the lease still holds under which a resource is written, if this device has it.
func (a *Agent) checkLease(ctx context.Context, resource []byte) {
	s := a.quorum.Load()
	if s == nil {
		return
	}
	held := slices.DeleteFunc(s.Held(), quorum.Held.Own)
	if len(held) == 0 {
		return
	}
	lock := replica.LockOfResource(resource)
	for _, h := range held {
		if h.Lock() == lock {
			h.Check(ctx)
		}
	}
}

// writeUnder is underLeases with these.
func writeUnder[T any](ctx context.Context, a *Agent, leases []quorum.Held, write func(context.Context) (T, error)) (T, error) {
	var held []*use
	under := ctx
	for _, h := range leases {
		u := &use{Held: h}
		held, under = append(held, u), replica.Under(under, u)
	}
	v, err := write(under)
	if err != nil {
		return v, explain(err)
	}
	for _, u := range held {
		if !u.made {
			continue
		}
		err := a.commit(ctx, u.Held)
		if err == nil {
			err = a.committed(u.wrote)
		}
		if err != nil {
			return v, &api.Error{Code: api.CodeLease, Err: err, Message: "it is written on this device and not committed: " + err.Error(),
				Hint: "as long as the lease lasts it is tried again when the lease is given back; else it is kept aside: see chartmesh quarantine list"}
		}
	}
	return v, nil
}

// committed is an error unless all that a write came to is certified. Nothing may be left to propose for another reason: the end of the lease came to be known here meanwhile, and
// what was written under it is late.
func (a *Agent) committed(wrote []replica.Change) error {
	for _, c := range wrote {
		if ok, err := a.records.Committed(c); err != nil {
			return explain(err)
		} else if !ok {
			return errLate
		}
	}
	return nil
}

var errLate = errors.New("its lease ended before")

// commit has what was written under a lease certified.
func (a *Agent) commit(ctx context.Context, h quorum.Held) error {
	if list, err := a.records.Proposals(h); err != nil || len(list) == 0 {
		return explain(err)
	}
	return explain(h.Commits(ctx, func() error { return a.commitNow(ctx, h) }))
}

func (a *Agent) commitNow(ctx context.Context, h quorum.Held) error {
	s, err := a.exclusive()
	if err != nil {
		return err // the agent ends
	}
	list, err := a.records.Proposals(h)
	if err != nil {
		return err
	}
	open := map[crdt.DocumentID]bool{}
	for _, p := range list {
		a.push(ctx, s, p)
		err := h.Commit(ctx, p.Name, p.Heads)
		if err != nil && !quorum.Uncertain(err) {
			if quorum.Lost(err) { // the voters' word says that it is late; if it does not come now, it is asked for again
				_ = a.certify(ctx, s, p)
			}
			return s.Explain(err)
		}
		open[p.Document] = err != nil
		if err := a.certify(ctx, s, p); err != nil {
			return err
		}
	}
	left, err := a.records.Proposals(h)
	// On top of what was committed others may have written meanwhile, and commit it.
	left = slices.DeleteFunc(left, func(p replica.Proposal) bool { return !open[p.Document] && !slices.Contains(list, p) })
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%d documents have changes that no voter certifies", len(left))
	}
	return err
}

// push waits until an anchor or another voter has confirmed what is to be committed, of those that are connected: who gets the lease next is to find it
// although this device may be gone by then.
func (a *Agent) push(ctx context.Context, s *quorum.Service, p replica.Proposal) {
	host := a.host.Load()
	if host == nil {
		return
	}
	devices := s.Voters()
	for _, m := range a.records.State().Anchors() {
		devices = append(devices, m.Device)
	}
	devices = slices.DeleteFunc(devices, func(d trust.DeviceID) bool { return d == a.keys.Device() || !host.Reaches(d) })
	ctx, cancel := context.WithTimeout(ctx, pushWait)
	defer cancel()
	tick := time.NewTicker(pushLook)
	defer tick.Stop()
	for len(devices) > 0 && !a.records.HeldBy(devices, p.Scope, p.Log, p.Counter) {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// certify takes a voter's word on a document into this device's log.
func (a *Agent) certify(ctx context.Context, s *quorum.Service, p replica.Proposal) error {
	signed, err := s.Certify(ctx, p.Lock, p.Name)
	if err != nil {
		return err
	}
	return explain(a.records.Certify(ctx, p.Lock, p.Name, signed))
}

// settleLeases finds out what became of what was written here under leases that are over, until ctx ends: it may have been committed, or be late.
func (a *Agent) settleLeases(ctx context.Context) {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	var counted [32]byte
	for {
		if err := a.recount(ctx, &counted); err != nil && ctx.Err() == nil {
			a.log.Debug("what a former voter certified is not certified anew yet", "error", err)
		}
		if err := a.settleOnce(ctx); err != nil && ctx.Err() == nil {
			a.log.Debug("it is not known yet what became of what was written under a lease", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (a *Agent) settleOnce(ctx context.Context) error {
	s := a.quorum.Load()
	list, err := a.records.Uncommitted()
	if s == nil || err != nil {
		return err
	}
	held := s.Held()
	var errs []error
	for _, h := range held { // what was committed before may have come since
		asking, cancel := context.WithTimeout(ctx, barrierWait/5)
		errs = append(errs, a.barrier(asking, s, h))
		cancel()
	}
	for _, p := range list {
		if !slices.ContainsFunc(held, func(h quorum.Held) bool { return h.Token() == p.Token && h.Lock() == p.Lock }) {
			errs = append(errs, a.certify(ctx, s, p))
		}
	}
	return errors.Join(errs...)
}

// recount has certified anew what a voter certified whose word does not count any more, since it has another role: once for each membership log, which counted names.
func (a *Agent) recount(ctx context.Context, counted *[32]byte) error {
	s, st := a.quorum.Load(), a.records.State()
	if m, ok := st.Member(a.keys.Device()); s == nil || st.HeadsHash() == *counted || !ok || !m.Role.MayWrite() {
		return nil
	}
	list, err := a.records.Uncounted()
	if err != nil {
		return err
	}
	var errs []error
	for _, p := range list {
		errs = append(errs, a.certify(ctx, s, p))
	}
	if err = errors.Join(errs...); err == nil {
		*counted = st.HeadsHash()
	}
	return err
}
