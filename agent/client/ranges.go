package client

import (
	"context"

	"chartmesh/agent/api"
)

// Ranges implements api.Agent.
func (c *Client) Ranges(ctx context.Context) (list []api.Range, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/ranges"}, &list)
	return list, err
}

// SetRange implements api.Agent.
func (c *Client) SetRange(ctx context.Context, req api.RangeRequest) (r api.Range, err error) {
	err = c.post(ctx, "/v1/ranges", req, &r)
	return r, err
}

// GrantRange implements api.Agent.
func (c *Client) GrantRange(ctx context.Context, req api.RangeGrant) (r api.Range, err error) {
	err = c.post(ctx, "/v1/ranges/grant", req, &r)
	return r, err
}

// VoidRange implements api.Agent.
func (c *Client) VoidRange(ctx context.Context, user string, req api.RangeVoid) (r api.Range, err error) {
	err = c.postAs(ctx, user, "/v1/ranges/void", req, &r)
	return r, err
}

// NextInRange implements api.Agent.
func (c *Client) NextInRange(ctx context.Context, req api.RangeNext) (n api.RangeNumber, err error) {
	err = c.post(ctx, "/v1/ranges/next", req, &n)
	return n, err
}

// RangeReport implements api.Agent.
func (c *Client) RangeReport(ctx context.Context, name string) (report api.RangeReport, err error) {
	err = c.post(ctx, "/v1/ranges/report", map[string]string{"name": name}, &report)
	return report, err
}
