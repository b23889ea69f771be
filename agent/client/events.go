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
	resp, err := c.open(ctx, call{method: "GET", path: "/v1/events", query: q})
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
			switch kind {
			case api.EventEnd:
				return nil
			case api.EventError:
				var e api.Error
				if err := json.Unmarshal(value, &e); err != nil {
					return &api.Error{Code: api.CodeInternal, Message: "the agent ended the events and gave no reason", Err: err}
				}
				return &e
			}
			var e api.Event
			if err := json.Unmarshal(value, &e); err != nil {
				return &api.Error{Code: api.CodeIncompat, Message: "an event is not understood", Err: err}
			}
			if err := fn(e); err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return api.AsError(context.Cause(ctx))
	}
	return &api.Error{Code: api.CodeUnavailable, Message: "the events were cut short", Err: lines.Err()}
}
