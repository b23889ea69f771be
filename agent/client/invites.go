package client

import (
	"context"
	"net/url"

	"chartmesh/agent/api"
)

// Invite implements api.Agent.
func (c *Client) Invite(ctx context.Context, req api.InviteRequest) (invite api.Invite, err error) {
	err = c.post(ctx, "/v1/invites", req, &invite)
	return invite, err
}

// Invites implements api.Agent.
func (c *Client) Invites(ctx context.Context) (list []api.InviteState, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/invites"}, &list)
	return list, err
}

// WaitInvite implements api.Agent.
func (c *Client) WaitInvite(ctx context.Context, name, known string) (state api.InviteState, err error) {
	err = c.do(ctx, call{method: "GET", path: invitePath(name), query: url.Values{"known": {known}}}, &state)
	return state, err
}

// ConfirmInvite implements api.Agent.
func (c *Client) ConfirmInvite(ctx context.Context, name string, decision api.InviteDecision) error {
	var answer api.InviteDecision
	return c.post(ctx, invitePath(name)+"/decision", decision, &answer)
}

// RevokeInvite implements api.Agent.
func (c *Client) RevokeInvite(ctx context.Context, name string) error {
	var answer struct{}
	return c.do(ctx, call{method: "DELETE", path: invitePath(name)}, &answer)
}

func invitePath(name string) string { return "/v1/invites/" + url.PathEscape(name) }
