package apitest

import (
	"cmp"
	"context"

	"chartmesh/agent/api"
)

// InviteName is the one that the Agent knows. A newcomer with the fingerprint "F1" waits there.
const InviteName = "able-zebra"

// Invite implements api.Agent.
func (a *Agent) Invite(_ context.Context, req api.InviteRequest) (api.Invite, error) {
	if err := a.failing("Invite"); err != nil {
		return api.Invite{}, err
	}
	role := cmp.Or(req.Role, "member")
	return api.Invite{Name: InviteName, Words: "able zebra one two three", Code: "code-for-" + role, Link: "chartmesh:join/code-for-" + role,
		Role: role, Site: req.Site, Expires: Begun.Add(req.Expires), Addresses: []string{"/ip4/192.0.2.1/tcp/4801"}}, nil
}

func waiting() api.InviteState {
	return api.InviteState{Name: InviteName, Role: "member", Expires: Begun, State: api.InviteWaiting, TriesLeft: 5,
		Newcomer: &api.Newcomer{Name: "Labor", Site: "Nord", Fingerprint: "F1"}}
}

// Invites implements api.Agent.
func (a *Agent) Invites(context.Context) ([]api.InviteState, error) {
	return []api.InviteState{waiting()}, a.failing("Invites")
}

// WaitInvite implements api.Agent.
func (a *Agent) WaitInvite(_ context.Context, name, known string) (api.InviteState, error) {
	if err := a.known(name); err != nil {
		return api.InviteState{}, err
	}
	s := waiting()
	if known == s.State {
		s.State, s.Newcomer, s.Device = api.InviteUsed, nil, &api.MembershipKey{Name: "Labor", Site: "Nord"}
	}
	return s, a.failing("WaitInvite")
}

// ConfirmInvite implements api.Agent.
func (a *Agent) ConfirmInvite(_ context.Context, name string, d api.InviteDecision) error {
	if err := a.known(name); err != nil {
		return err
	}
	if d.Fingerprint != "F1" {
		return &api.Error{Code: api.CodeConflict, Message: "no device with this fingerprint waits to be confirmed"}
	}
	return a.failing("ConfirmInvite")
}

// RevokeInvite implements api.Agent.
func (a *Agent) RevokeInvite(_ context.Context, name string) error {
	if err := a.known(name); err != nil {
		return err
	}
	return a.failing("RevokeInvite")
}

func (a *Agent) known(name string) error {
	if name != InviteName {
		return &api.Error{Code: api.CodeNotFound, Message: "there is no such invitation"}
	}
	return nil
}
