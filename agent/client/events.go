package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net/url"
	"strconv"

	"chartmesh/agent/api"
)

// Events implements api.Agent. When the agent ends while following, the error is CodeUnavailable; the caller goes on with
// the last cursor that it saw.
func (c *Client) Events(ctx context.Context, since uint64, follow bool, fn func(api.Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // frees the connection when fn ends the stream early
	q := url.Values{"since": {strconv.FormatUint(since, 10)}}
	if follow {
		q.Set("follow", "true")
	}
	return c.stream(ctx, call{method: "GET", path: "/v1/events", query: q}, func(kind string, data []byte) (bool, error) {
		if kind == api.EventEnd {
			return true, nil
		}
		var e api.Event
		if err := json.Unmarshal(data, &e); err != nil {
			return false, &api.Error{Code: api.CodeIncompat, Message: "an event is not understood", Err: err}
		}
		return false, fn(e)
	})
}

// Verify implements api.Agent.
func (c *Client) Verify(ctx context.Context, opts api.VerifyOptions, progress func(api.VerifyProgress)) (report api.VerifyReport, err error) {
	body, err := encode(opts)
	if err != nil {
		return report, err
	}
	err = c.stream(ctx, call{method: "POST", path: "/v1/verify", kind: kindJSON, body: body}, func(kind string, data []byte) (bool, error) {
		var p api.VerifyProgress
		into, done := any(&p), kind == "report"
		if done {
			into = &report
		}
		if err := json.Unmarshal(data, into); err != nil {
			return false, &api.Error{Code: api.CodeIncompat, Message: "the agent's answer is not understood", Err: err}
		}
		if !done {
			progress(p)
		}
		return done, nil
	})
	return report, err
}

// stream calls fn with every server-sent event until it says that one was the last.
func (c *Client) stream(ctx context.Context, call call, fn func(kind string, data []byte) (last bool, err error)) error {
	resp, err := c.open(ctx, call)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 4096), maxEventLine)
	var kind string
	for lines.Scan() {
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(": "))
		switch string(field) {
		case "event":
			kind = string(value)
		case "data":
			if kind == api.EventError {
				var e api.Error
				if err := json.Unmarshal(value, &e); err != nil || e.Code == "" {
					return &api.Error{Code: api.CodeInternal, Message: "the agent ended its answer and gave no reason", Err: err}
				}
				return &e
			}
			if last, err := fn(kind, value); err != nil || last {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return api.AsError(context.Cause(ctx))
	}
	return &api.Error{Code: api.CodeUnavailable, Message: "the agent's answer was cut short", Err: lines.Err()}
}
