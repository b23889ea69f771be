package client

import (
	"context"
	"net/url"

	"chartmesh/agent/api"
)

// MembershipLog implements api.Agent.
func (c *Client) MembershipLog(ctx context.Context, verify bool) (log api.MembershipLog, err error) {
	q := url.Values{}
	if verify {
		q.Set("verify", "true")
	}
	err = c.do(ctx, call{method: "GET", path: "/v1/membership", query: q}, &log)
	return log, err
}

// Rename implements api.Agent.
func (c *Client) Rename(ctx context.Context, req api.RenameRequest) error {
	var answer api.RenameRequest
	return c.post(ctx, "/v1/membership/names", req, &answer)
}

// AgreeMembership implements api.Agent.
func (c *Client) AgreeMembership(ctx context.Context) (a api.Agreement, err error) {
	err = c.post(ctx, "/v1/membership/checkpoints", struct{}{}, &a)
	return a, err
}

// AddAnchor implements api.Agent.
func (c *Client) AddAnchor(ctx context.Context, req api.AnchorRequest) (a api.AddedAnchor, err error) {
	err = c.post(ctx, "/v1/membership/anchors", req, &a)
	return a, err
}

// Remove implements api.Agent.
func (c *Client) Remove(ctx context.Context, req api.RemovalRequest) (report api.RemovalReport, err error) {
	err = c.post(ctx, "/v1/membership/removals", req, &report)
	return report, err
}

// SetRole implements api.Agent.
func (c *Client) SetRole(ctx context.Context, req api.RoleRequest) error {
	var answer api.RoleRequest
	return c.post(ctx, "/v1/membership/roles", req, &answer)
}

// CheckRecovery implements api.Agent.
func (c *Client) CheckRecovery(ctx context.Context, code string) (report api.RecoveryReport, err error) {
	err = c.post(ctx, "/v1/recovery/check", api.RecoveryRequest{Code: code}, &report)
	return report, err
}

// Promote implements api.Agent.
func (c *Client) Promote(ctx context.Context, code string) error {
	var answer struct{}
	return c.post(ctx, "/v1/recovery/promotion", api.RecoveryRequest{Code: code}, &answer)
}

// ReplaceRecovery implements api.Agent.
func (c *Client) ReplaceRecovery(ctx context.Context, old string) (replaced api.ReplacedRecovery, err error) {
	err = c.post(ctx, "/v1/recovery/replacement", api.RecoveryRequest{Code: old}, &replaced)
	return replaced, err
}

// KeyringStatus implements api.Agent.
func (c *Client) KeyringStatus(ctx context.Context) (status api.KeyringStatus, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/keyring"}, &status)
	return status, err
}

// ProtectKeyring implements api.Agent.
func (c *Client) ProtectKeyring(ctx context.Context, req api.ProtectionRequest) error {
	body, err := encode(req)
	if err != nil {
		return err
	}
	var answer struct{}
	return c.do(ctx, call{method: "PUT", path: "/v1/keyring/protection", kind: kindJSON, body: body}, &answer)
}

func (c *Client) post(ctx context.Context, path string, req, answer any) error {
	body, err := encode(req)
	if err != nil {
		return err
	}
	return c.do(ctx, call{method: "POST", path: path, kind: kindJSON, body: body}, answer)
}
