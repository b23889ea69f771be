package quorum

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/trust"
)

// changing bounds how long a change of voters may take. What is done of it stays, and it goes on when it is asked for again.
const changing = 90 * time.Second

// admin reports whether a device is an administrator's.
func (s *Service) admin(d trust.DeviceID) bool {
	m, ok := s.cfg.Members().Member(d)
	return ok && m.Role == trust.RoleAdmin
}

// beginVoting has this device vote in a quorum whose leader asks for it: a device that was told to vote by an administrator, or founded the practice.
func (s *Service) beginVoting(ctx context.Context, from lockquorum.DeviceID, b remote.Begin) error {
	votes := slices.ContainsFunc(b.Voters, func(v lockquorum.Voter) bool { return v.Device == from })
	heardOf := slices.ContainsFunc(s.voting(), func(v lockquorum.Voter) bool { return v.Device == from })
	if !votes || !heardOf && !s.admin(from) || !lockquorum.Reads(s.cfg.Members(), from) {
		return lockquorum.ErrForbidden
	}
	s.joining.Lock()
	defer s.joining.Unlock()
	s.mu.Lock()
	has, stopped, rec, running := s.mu.disk != nil, s.mu.stopped, s.voter, s.mu.driver
	s.mu.Unlock()
	switch {
	case !s.mayVote():
		return remote.ErrMissing
	case has && stopped == nil && rec.Epoch == b.Epoch && rec.ID == b.Number:
		if running != nil { // again; it may have been away while all the others changed
			running.Meet(driver.Begin{Epoch: b.Epoch, Voters: b.Voters})
		}
		return nil
	case slices.Contains(b.Voters, lockquorum.Voter{ID: b.Number, Device: s.self}):
		return lockquorum.ErrForbidden // it voted under this number, and does not remember what
	case has && rec.Epoch == b.Epoch && rec.ID >= b.Number:
		return lockquorum.ErrForbidden // a number is never given again
	case has:
		if err := s.leave(ctx); err != nil {
			return err
		}
	}
	next := driver.Record{Practice: s.server.Practice, Epoch: b.Epoch, ID: b.Number, Log: s.cfg.Log.Current()}
	if err := s.learnVoters(ctx, known{lockquorum.Place{Epoch: b.Epoch}, b.Voters}); err != nil {
		return err
	}
	if err := driver.Found(ctx, s.cfg.Store, next, nil); err != nil {
		return err
	}
	if err := s.openVoter(ctx); err != nil {
		return err
	}
	s.log.Info("this device begins to vote on leases and numbers", "number", b.Number)
	select {
	case s.begun <- struct{}{}:
	default:
	}
	return nil
}

// mayVote reports whether the folder is one that a voter may begin in: the one that its log is bound to.
func (s *Service) mayVote() bool { return s.cfg.Log.Continues(s.cfg.Log.Current()) }

// leave ends this device's voter, which has no part in its quorum any more.
func (s *Service) leave(ctx context.Context) error {
	s.mu.Lock()
	d := s.mu.driver
	s.mu.disk, s.mu.stopped = nil, nil
	s.mu.Unlock()
	if d != nil {
		d.Stop()
		select {
		case <-d.Ended():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return driver.Forget(ctx, s.cfg.Store)
}

// changeVoters has devices vote and nobody else, at an administrator's word; this device leads, or says who does.
func (s *Service) changeVoters(ctx context.Context, from lockquorum.DeviceID, devices []lockquorum.DeviceID) error {
	if !s.admin(from) {
		return lockquorum.ErrForbidden
	}
	s.mu.Lock()
	d := s.mu.driver
	s.mu.Unlock()
	if d == nil {
		return lockquorum.ErrStopped
	}
	st := d.Status()
	if !st.Leads {
		return &lockquorum.NotLeaderError{Leader: st.Leader}
	}
	if len(devices) != 1 && len(devices) != 3 {
		return remote.ErrVoters
	}
	var want, fresh []lockquorum.Voter
	for i, device := range devices {
		if slices.Contains(devices[:i], device) || !s.mayBeVoter(device) {
			return lockquorum.ErrForbidden
		}
		at := slices.IndexFunc(st.Voters, func(v lockquorum.Voter) bool { return v.Device == device })
		if at < 0 { // an index of the log is never used twice, nor is a number that is one
			v := lockquorum.Voter{ID: st.Last + 1 + uint64(i), Device: device}
			want, fresh = append(want, v), append(fresh, v)
		} else {
			want = append(want, st.Voters[at])
		}
	}
	ctx, cancel := context.WithTimeout(ctx, changing)
	defer cancel()
	for _, v := range want {
		if v.Device == s.self {
			continue
		}
		err := s.remote(v.Device).Begin(ctx, remote.Begin{Epoch: st.Epoch, Number: v.ID, Voters: st.Voters})
		if err != nil && slices.Contains(fresh, v) {
			return fmt.Errorf("%w: %w", remote.ErrMissing, err)
		}
	}
	err := d.Change(ctx, want)
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w: %w", remote.ErrMissing, err)
	}
	return err
}

// mayBeVoter reports whether a device may be made a voter: one that writes.
func (s *Service) mayBeVoter(d trust.DeviceID) bool {
	m, ok := s.cfg.Members().Member(d)
	return ok && m.Role.MayWrite()
}

// ChangeQuorum implements api.Exclusive: it asks who leads.
func (s *Service) ChangeQuorum(ctx context.Context, add, remove []trust.DeviceID) (api.QuorumStatus, error) {
	st, err := s.read(ctx)
	if err != nil {
		return api.QuorumStatus{}, err
	}
	var want []lockquorum.DeviceID
	for _, v := range st.Voters() {
		if !slices.Contains(remove, v.Device) {
			want = append(want, v.Device)
		}
	}
	for _, d := range add {
		if !slices.Contains(want, d) {
			want = append(want, d)
		}
	}
	for try := 0; ; try++ {
		leader := s.client.Leader()
		if leader == s.self {
			err = s.changeVoters(ctx, s.self, want)
		} else {
			err = s.remote(leader).Change(ctx, want)
		}
		if !errors.Is(err, lockquorum.ErrNotLeader) || try == 5 || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		if _, err := s.read(ctx); err != nil { // which finds out who leads
			return api.QuorumStatus{}, err
		}
	}
	switch {
	case errors.Is(err, remote.ErrVoters), errors.Is(err, driver.ErrVoters):
		return api.QuorumStatus{}, &api.Error{Code: api.CodeInvalid, Message: "a quorum has one voter or three", Err: err,
			Hint: "from one, add two at once: with two, leases and numbers would wait whenever either is away"}
	case errors.Is(err, remote.ErrMissing), errors.Is(err, lockquorum.ErrOutcomeUnknown):
		return api.QuorumStatus{}, &api.Error{Code: api.CodeUnavailable, Message: "a device that is to vote is not reached, or not ready", Err: err,
			Hint: "the voters of before go on; start its agent, and give the command again"}
	case errors.Is(err, lockquorum.ErrForbidden):
		return api.QuorumStatus{}, &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device may do that, and a voter is a device that writes", Err: err}
	case err != nil:
		return api.QuorumStatus{}, s.explain(err)
	}
	if st, err = s.read(ctx); err != nil {
		return api.QuorumStatus{}, err
	}
	return s.Quorum(ctx)
}

// meet keeps up who votes, so that a device knows whom to ask when those that it knew are gone.
func (s *Service) meet(ctx context.Context) {
	pause := meetFirst
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if s.engine() != nil {
			pause = meetEvery
			continue
		}
		asking, cancel := context.WithTimeout(ctx, asksAround)
		st, err := s.client.Read(asking)
		cancel()
		if err == nil {
			s.heard(ctx, st)
			pause = meetEvery
		} else {
			pause = min(2*pause, meetEvery)
		}
	}
}

const (
	meetFirst = 2 * time.Second
	meetEvery = 5 * time.Minute
)
