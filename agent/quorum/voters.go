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
	var now []lockquorum.DeviceID
	for _, v := range st.Voters() {
		if lockquorum.MayVote(s.cfg.Members(), v.Device) { // one that was removed goes with the next change
			now = append(now, v.Device)
		}
	}
	for _, d := range add {
		if err := s.mayVote(d); err != nil {
			return api.QuorumStatus{}, err
		}
	}
	want := wanted(now, add, remove, s.self, s.cfg.Members().IsAnchor)
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
			Hint: "from one, add two at once: with two, leases and numbers would wait whenever either is away; an anchor alone takes the place of one. " +
				"From three, remove two at once, which do not lead; then they, or others, can be added"}
	case errors.Is(err, remote.ErrMissing), errors.Is(err, lockquorum.ErrOutcomeUnknown):
		return api.QuorumStatus{}, &api.Error{Code: api.CodeUnavailable, Message: "a device that is to vote is not reached, or not ready", Err: err,
			Hint: "the voters of before go on; start its agent, or see chartmesh status for the anchor, and give the command again"}
	case errors.Is(err, lockquorum.ErrForbidden):
		return api.QuorumStatus{}, &api.Error{Code: api.CodeForbidden, Message: "only an administrator's device may do that, and a voter is a server, an administrator's device or an anchor", Err: err}
	case err != nil:
		return api.QuorumStatus{}, s.explain(err)
	}
	if _, err = s.read(ctx, voters); err != nil { // hears who votes now
		return api.QuorumStatus{}, err
	}
	return s.Quorum(ctx)
}

// mayVote is why a device cannot keep leases and numbers.
func (s *Service) mayVote(d lockquorum.DeviceID) error {
	st := s.cfg.Members()
	if lockquorum.MayVote(st, d) {
		return nil
	}
	e := &api.Error{Code: api.CodeForbidden, Message: "leases and numbers are kept by servers, administrators' devices and anchors", Hint: "see chartmesh peer list"}
	if m, ok := st.Member(d); ok && m.Role.MayWrite() {
		e.Message = s.cfg.Name(d).Name + " is a plain member: " + e.Message
		e.Hint = "make it a server first: `chartmesh peer role NAME server`"
	}
	return e
}

// wanted returns who is to vote. An anchor that is added to a voter alone takes its place, and this device that of a voter alone that is removed: two voters
// would be worse than one. Three that are added, with an anchor among them, are all who vote then.
func wanted(now, add, remove []lockquorum.DeviceID, self lockquorum.DeviceID, anchor func(lockquorum.DeviceID) bool) []lockquorum.DeviceID {
	isNew := func(d lockquorum.DeviceID) bool { return !slices.Contains(now, d) }
	fresh := slices.ContainsFunc(add, func(d lockquorum.DeviceID) bool { return anchor(d) && isNew(d) })
	switch {
	case fresh && len(remove) == 0 && (len(add) == 3 || len(add) == 1 && len(now) == 1):
		return add
	case len(add) == 0 && len(now) == 1 && slices.Equal(now, remove) && now[0] != self:
		return []lockquorum.DeviceID{self}
	}
	want := slices.DeleteFunc(slices.Clone(now), func(d lockquorum.DeviceID) bool { return slices.Contains(remove, d) })
	for _, d := range add {
		if !slices.Contains(want, d) {
			want = append(want, d)
		}
	}
	return want
}

// meet keeps up who votes, so that a device knows whom to ask when those that it knew are gone. A voter that knows who leads knows it.
func (s *Service) meet(ctx context.Context) {
	pause, asked := meetFirst, time.Time{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		at, led := s.voter.Status(), s.client.Leader()
		known := led == (lockquorum.DeviceID{}) || slices.Contains(s.Voters(), led)
		if known && (at.Runs && at.Voter.Leader != (lockquorum.DeviceID{}) || time.Since(asked) < meetEvery && !at.Runs) {
			pause = meetLook
			continue
		}
		asking, cancel := context.WithTimeout(ctx, asksAround)
		st, err := s.client.Read(asking, voters)
		cancel()
		if err == nil {
			s.voter.Heard(ctx, st)
			pause, asked = meetLook, time.Now()
		} else {
			pause = min(2*pause, meetLook)
		}
	}
}

const (
	meetFirst = 2 * time.Second
	meetLook  = time.Minute      // looks whether there is anything to ask
	meetEvery = 30 * time.Minute // asks who votes; an anchor's voter is woken by it
)
