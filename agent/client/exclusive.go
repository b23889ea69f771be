package client

import (
	"context"
	"encoding/json"

	"chartmesh/agent/api"
)

// Quorum implements api.Agent.
func (c *Client) Quorum(ctx context.Context) (s api.QuorumStatus, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/quorum"}, &s)
	return s, err
}

// ChangeQuorum implements api.Agent.
func (c *Client) ChangeQuorum(ctx context.Context, req api.QuorumChange) (s api.QuorumStatus, err error) {
	err = c.post(ctx, "/v1/quorum", req, &s)
	return s, err
}

// ReseedQuorum implements api.Agent.
func (c *Client) ReseedQuorum(ctx context.Context, req api.ReseedRequest) (r api.Reseed, err error) {
	err = c.post(ctx, "/v1/quorum/reseed", req, &r)
	return r, err
}

// Leases implements api.Agent.
func (c *Client) Leases(ctx context.Context) (list []api.Lease, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/leases"}, &list)
	return list, err
}

// AcquireLease implements api.Agent.
func (c *Client) AcquireLease(ctx context.Context, user string, req api.LeaseRequest) (l api.Lease, err error) {
	err = c.postAs(ctx, user, "/v1/leases", req, &l)
	return l, err
}

// HoldLease implements api.Agent. The agent gives the lease back when ctx ends, or this process does.
func (c *Client) HoldLease(ctx context.Context, user string, req api.LeaseRequest, held func(api.Lease) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := encode(req)
	if err != nil {
		return err
	}
	return c.stream(ctx, call{method: "POST", path: "/v1/leases/hold", user: user, kind: kindJSON, body: body}, func(kind string, data []byte) (bool, error) {
		if kind == api.EventEnd {
			return true, nil
		}
		var l api.Lease
		if err := json.Unmarshal(data, &l); err != nil {
			return false, &api.Error{Code: api.CodeIncompat, Message: "the agent's answer is not understood", Err: err}
		}
		return false, held(l)
	})
}

// WaitLease implements api.Agent.
func (c *Client) WaitLease(ctx context.Context, name string) (l api.Lease, err error) {
	err = c.post(ctx, "/v1/leases/wait", map[string]string{"name": name}, &l)
	return l, err
}

// ReleaseLease implements api.Agent.
func (c *Client) ReleaseLease(ctx context.Context, name string) error {
	var answer struct{}
	return c.post(ctx, "/v1/leases/release", map[string]string{"name": name}, &answer)
}

// BreakLease implements api.Agent.
func (c *Client) BreakLease(ctx context.Context, user string, req api.BreakRequest) (l api.Lease, err error) {
	err = c.postAs(ctx, user, "/v1/leases/break", req, &l)
	return l, err
}

// Circles implements api.Agent.
func (c *Client) Circles(ctx context.Context) (list []api.Circle, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/circles"}, &list)
	return list, err
}

// OpenCircle implements api.Agent.
func (c *Client) OpenCircle(ctx context.Context, req api.CircleRequest) (circle api.Circle, err error) {
	err = c.post(ctx, "/v1/circles", req, &circle)
	return circle, err
}

// CloseCircle implements api.Agent.
func (c *Client) CloseCircle(ctx context.Context, name string) (circle api.Circle, err error) {
	err = c.post(ctx, "/v1/circles/close", map[string]string{"name": name}, &circle)
	return circle, err
}

// AssignNumber implements api.Agent.
func (c *Client) AssignNumber(ctx context.Context, req api.NumberRequest) (n api.Number, err error) {
	err = c.post(ctx, "/v1/numbers", req, &n)
	return n, err
}

// ResolveNumber implements api.Agent.
func (c *Client) ResolveNumber(ctx context.Context, user string, req api.ResolveRequest) (n api.Number, err error) {
	err = c.postAs(ctx, user, "/v1/numbers/resolve", req, &n)
	return n, err
}

// Numbers implements api.Agent.
func (c *Client) Numbers(ctx context.Context, circle string) (report api.NumberReport, err error) {
	err = c.post(ctx, "/v1/numbers/list", map[string]string{"name": circle}, &report)
	return report, err
}

func (c *Client) postAs(ctx context.Context, user, path string, req, answer any) error {
	body, err := encode(req)
	if err != nil {
		return err
	}
	return c.do(ctx, call{method: "POST", path: path, user: user, kind: kindJSON, body: body}, answer)
}
