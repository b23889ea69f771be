package quorum

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
)

// A voter that has lost something stays out, and a device whose store was filled anew has none, while the two others of three go on. Nobody would notice until the next of them is gone.
// So whoever asks for the status is told.

// asksVoter bounds how long a status waits for the word of one voter.
const asksVoter = 2 * time.Second

// silent says why the voters of reached devices give nothing, in the order of the list; empty: they are well, or not heard.
func (s *Service) silent(ctx context.Context, voters []lockquorum.Voter, leader lockquorum.DeviceID) []string {
	out := make([]string, len(voters))
	ctx, cancel := context.WithTimeout(ctx, asksVoter)
	defer cancel()
	var work sync.WaitGroup
	for i, v := range voters {
		one, ok := s.voterOf(v.Device)
		switch {
		case v.Device == leader, !s.belongs(v.Device):
		case !ok:
			out[i] = noVoter
		case v.Device != s.self && s.reaches(v.Device):
			work.Go(func() { out[i] = s.asked(ctx, one) })
		}
	}
	work.Wait()
	return out
}

// Why a voter gives nothing.
const (
	stayedOut = "it does not have all that it said, and stays out"
	noVoter   = "no voter runs there"
)

// asked asks one voter that does not lead: one that is well names who does.
func (s *Service) asked(ctx context.Context, v client.Voter) string {
	_, _, err := v.Engine.Read(ctx, s.self, voters)
	switch {
	case errors.Is(err, lockquorum.ErrLost):
		return stayedOut
	case errors.Is(err, lockquorum.ErrStopped):
		return noVoter
	}
	return ""
}

// tooFew reports whether no majority of the voters is left once those are left out that give nothing.
func tooFew(voters []api.QuorumVoter) bool {
	out := 0
	for _, v := range voters {
		if v.Out != "" {
			out++
		}
	}
	return len(voters) > 0 && len(voters)-out <= len(voters)/2
}

// replace says how a voter that gives nothing is made one anew, while the others go on.
func replace(voters []api.QuorumVoter) string {
	if !slices.ContainsFunc(voters, func(v api.QuorumVoter) bool { return v.Out != "" }) {
		return ""
	}
	return "a voter gives nothing any more, and the others must all be reached: an administrator's device makes it one anew: `chartmesh quorum remove` it and another one that does not lead, then `chartmesh quorum add` both"
}
