package client

import (
	"cmp"
	"context"
	"net/url"
	"strconv"

	"chartmesh/agent/api"
)

func heldPath(id string) (string, error) {
	return idPath("/v1/quarantine/", id, "no chunk that is held back has this id")
}

// Held implements api.Agent.
func (c *Client) Held(ctx context.Context, query api.HeldQuery) (page api.HeldPage, err error) {
	q := url.Values{}
	set(q, "state", query.State)
	set(q, "after", query.After)
	if query.Discarded {
		q.Set("discarded", "true")
	}
	if query.Limit != 0 {
		q.Set("limit", strconv.Itoa(query.Limit))
	}
	err = c.do(ctx, call{method: "GET", path: "/v1/quarantine", query: q}, &page)
	return page, err
}

// HeldChunk implements api.Agent.
func (c *Client) HeldChunk(ctx context.Context, id string) (detail api.HeldDetail, err error) {
	path, err := heldPath(id)
	if err != nil {
		return detail, err
	}
	err = c.do(ctx, call{method: "GET", path: path}, &detail)
	return detail, err
}

// DecideHeld implements api.Agent.
func (c *Client) DecideHeld(ctx context.Context, user, id string, decision api.HeldDecision) (outcome api.HeldOutcome, err error) {
	path, err := heldPath(id)
	if err != nil {
		return outcome, err
	}
	body, err := encode(decision)
	if err != nil {
		return outcome, err
	}
	err = c.do(ctx, call{method: "POST", path: path + "/decision", user: user, kind: kindJSON, body: body}, &outcome)
	return outcome, err
}

// RetryHeld implements api.Agent.
func (c *Client) RetryHeld(ctx context.Context, id string) (result api.HeldRetry, err error) {
	path, err := heldPath(cmp.Or(id, api.AllHeld))
	if err != nil {
		return result, err
	}
	err = c.do(ctx, call{method: "POST", path: path + "/retry"}, &result)
	return result, err
}
