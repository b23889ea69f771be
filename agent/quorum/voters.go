package quorum

import (
	"context"
	"errors"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/trust"
)

// ChangeQuorum implements api.Exclusive: it asks who leads.
func (s *Service) ChangeQuorum(ctx context.Context, add, remove []trust.DeviceID) (api.QuorumStatus, error) {
	st, err := s.read(ctx, voters)
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
			err = s.voter.Change(ctx, s.self, want)
		} else {
			err = s.voter.Remote(leader).Change(ctx, want)
		}
		if !errors.Is(err, lockquorum.ErrNotLeader) || try == 5 || ctx.Err() != nil {
			break
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
		if _, err := s.read(ctx, voters); err != nil { // which finds out who leads
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
	if _, err = s.read(ctx, voters); err != nil { // hears who votes now
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
		if s.voter.Engine() != nil {
			pause = meetEvery
			continue
		}
		asking, cancel := context.WithTimeout(ctx, asksAround)
		st, err := s.client.Read(asking, voters)
		cancel()
		if err == nil {
			s.voter.Heard(ctx, st)
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
