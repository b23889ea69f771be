package client

import (
	"context"

	"chartmesh/agent/api"
)

// PlanErasure implements api.Agent.
func (c *Client) PlanErasure(ctx context.Context, req api.ErasureRequest) (plan api.ErasurePlan, err error) {
	body, err := encode(req)
	if err != nil {
		return plan, err
	}
	err = c.do(ctx, call{method: "POST", path: "/v1/erasures/plan", kind: kindJSON, body: body}, &plan)
	return plan, err
}

// OrderErasure implements api.Agent.
func (c *Client) OrderErasure(ctx context.Context, user string, req api.ErasureRequest) (e api.Erasure, err error) {
	body, err := encode(req)
	if err != nil {
		return e, err
	}
	err = c.do(ctx, call{method: "POST", path: "/v1/erasures", user: user, kind: kindJSON, body: body}, &e)
	return e, err
}

// AgreeErasure implements api.Agent.
func (c *Client) AgreeErasure(ctx context.Context, user, id string, req api.ErasureAgreement) (e api.Erasure, err error) {
	path, err := idPath("/v1/erasures/", id, "no erasure has this id")
	if err != nil {
		return e, err
	}
	body, err := encode(req)
	if err != nil {
		return e, err
	}
	err = c.do(ctx, call{method: "POST", path: path + "/agreement", user: user, kind: kindJSON, body: body}, &e)
	return e, err
}

// Erasures implements api.Agent.
func (c *Client) Erasures(ctx context.Context) (list []api.Erasure, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/erasures"}, &list)
	return list, err
}
