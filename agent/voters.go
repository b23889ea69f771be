package agent

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/local"
	"chartmesh/trust"
)

// voters returns who keeps leases and numbers, as this device last heard; with ask it asks for a moment, where the agent runs.
func (a *Agent) voters(ctx context.Context, ask bool) ([]trust.DeviceID, error) {
	if s := a.quorum.Load(); s != nil {
		if ask {
			s.Ask(ctx)
		}
		return s.Voters(), nil
	}
	return local.LastHeard(a.store, a.records.State())
}

// leavesVoters says what is left of who keeps leases and numbers without a device; nil: it is none of them. Of one that was lost or stolen nobody is asked first.
func (a *Agent) leavesVoters(ctx context.Context, st *trust.State, device trust.DeviceID, lost bool) (*api.QuorumLeft, error) {
	now, err := a.voters(ctx, !lost)
	if err != nil || !slices.Contains(now, device) {
		return nil, err
	}
	left := slices.DeleteFunc(slices.Clone(now), func(d trust.DeviceID) bool { return d == device || !lockquorum.MayVote(st, d) })
	out := &api.QuorumLeft{Voters: len(now), Left: []api.Party{}, GoesOn: len(left) > len(now)/2}
	for _, d := range left {
		out.Left = append(out.Left, a.party(d))
	}
	if out.GoesOn {
		out.Next = "put another one in its place: `chartmesh quorum add NAME`"
	} else {
		out.Next = "found the quorum anew: `chartmesh quorum reseed`"
	}
	return out, nil
}

// stillVotes is why a device that keeps leases and numbers is not removed, or given a role that may not, and what is to be done first.
func (a *Agent) stillVotes(device trust.DeviceID, left *api.QuorumLeft) *api.Error {
	e := &api.Error{Code: api.CodeConflict, Message: "it alone keeps leases and numbers: without it nobody gets any"}
	leave := []string{a.argument(device)}
	if left.Voters > 1 {
		e.Message = fmt.Sprintf("it is one of %d voters, which keep leases and numbers: without it %d are left", left.Voters, len(left.Left))
		leave = append(leave, a.besides(left)...)
	}
	e.Hint = "have it vote no more first: `chartmesh quorum remove " + strings.Join(leave, " ") + "`"
	return e
}

// besides returns which voters are to go with one, so that one is left: this device, if it votes, else an anchor.
func (a *Agent) besides(left *api.QuorumLeft) (list []string) {
	self := a.party(a.keys.Device())
	stays := slices.IndexFunc(left.Left, func(p api.Party) bool { return p.PeerID == self.PeerID })
	if stays < 0 {
		stays = max(0, slices.IndexFunc(left.Left, func(p api.Party) bool {
			return slices.ContainsFunc(a.records.State().Anchors(), func(m trust.Member) bool { return a.party(m.Device).PeerID == p.PeerID })
		}))
	}
	for i, p := range left.Left {
		if i != stays {
			list = append(list, argument(p))
		}
	}
	return list
}

func (a *Agent) argument(d trust.DeviceID) string { return argument(a.party(d)) }

// argument names a device on a command line: by its name, if a shell takes it as it is.
func argument(p api.Party) string {
	plain := func(r rune) bool {
		return r == '-' || r == '_' || r == '.' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 0x7f
	}
	if p.Name == "" || strings.HasPrefix(p.Name, "-") || strings.ContainsFunc(p.Name, func(r rune) bool { return !plain(r) }) {
		return p.PeerID
	}
	return p.Name
}
