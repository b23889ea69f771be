// Package client calls the local API of an agent, over the folder's socket or within the process.
//
// Nouns: a [Client] has the methods of [api.Agent], so that a caller need not know on which side of the socket it is.
//
// Guarantees: errors are [*api.Error], with the code and hint that the agent gave. A write is sent once: when the agent
// went away before it answered, the error says that the outcome is unknown, and nothing is tried again. Connections are
// kept open between calls.
//
// Who may call is left to the socket's permissions.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"chartmesh/agent/api"
)

const (
	maxAnswer    = 1 << 30         // bytes of an answer that is read whole
	maxHead      = 64 << 10        // bytes of an answer's headers
	maxEventLine = 1 << 20         // bytes of one line of an event stream
	dialTimeout  = 5 * time.Second // a local socket answers at once, or its agent is stuck
	waitGrace    = 2 * time.Second // for the agent's own word on a deadline before the caller's ends the call
	idleConns    = 32              // kept open for the next calls
)

// Client is an agent at the other end of HTTP. It is safe for concurrent use.
type Client struct {
	http *http.Client
}

var _ api.Agent = (*Client)(nil)

// Dial connects to the agent that serves dir. CodeUnavailable: none does.
func Dial(dir string) (*Client, error) {
	path, err := api.SocketPath(dir)
	if err != nil {
		return nil, err
	}
	dialer := net.Dialer{Timeout: dialTimeout}
	probe, err := dialer.Dial("unix", path)
	if err != nil {
		return nil, &api.Error{Code: api.CodeUnavailable, Message: "no agent runs on " + dir,
			Hint: "start one with: chartmesh agent", Err: err}
	}
	_ = probe.Close() // kept, it would be closed by the agent if the first request comes late
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		},
		MaxIdleConns:           idleConns,
		MaxIdleConnsPerHost:    idleConns,
		MaxResponseHeaderBytes: maxHead,
		DisableCompression:     true,
	}}}, nil
}

// InProcess calls agent through the same handlers without a socket.
func InProcess(agent api.Agent) *Client {
	return &Client{http: &http.Client{Transport: &direct{api.NewHandler(agent, api.Options{})}}}
}

// Close closes idle connections; calls under way go on.
func (c *Client) Close() error {
	c.http.CloseIdleConnections()
	return nil
}

// call is one request.
type call struct {
	method, path string
	query        url.Values
	user         string
	kind         string // of body
	body         []byte
}

// open sends the request and returns a successful answer, whose body the caller closes.
func (c *Client) open(ctx context.Context, call call) (*http.Response, error) {
	target := url.URL{Scheme: "http", Host: api.Host, Path: call.path, RawQuery: call.query.Encode()}
	var body io.Reader
	if call.body != nil {
		body = bytes.NewReader(call.body)
	}
	req, err := http.NewRequestWithContext(ctx, call.method, target.String(), body)
	if err != nil {
		return nil, &api.Error{Code: api.CodeInvalid, Message: "the request cannot be sent", Err: err}
	}
	if call.kind != "" {
		req.Header.Set("Content-Type", call.kind)
	}
	if call.user != "" {
		req.Header.Set(api.HeaderUser, url.PathEscape(call.user))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, transportError(ctx, err, call.method != http.MethodGet)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer closeBody(resp)
	var answer struct {
		Error *api.Error `json:"error"`
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxHead))
	if err != nil || json.Unmarshal(data, &answer) != nil || answer.Error == nil || answer.Error.Code == "" {
		return nil, &api.Error{Code: api.CodeInternal, Message: fmt.Sprintf("the agent answered %d and no reason", resp.StatusCode)}
	}
	return nil, answer.Error
}

// transportError says what it means that no whole answer came.
func transportError(ctx context.Context, err error, write bool) error {
	if ctx.Err() != nil {
		return api.AsError(context.Cause(ctx))
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		return &api.Error{Code: api.CodeUnavailable, Message: "the agent has stopped", Hint: "start it with: chartmesh agent", Err: err}
	}
	if write {
		return &api.Error{Code: api.CodeUnavailable, Message: "the agent went away before it answered; whether it was written is not known",
			Hint: "read the resource before writing it again", Err: err}
	}
	return &api.Error{Code: api.CodeUnavailable, Message: "the agent went away before it answered", Err: err}
}

// closeBody reads what little is left, so that the connection can be used again.
func closeBody(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 4096)
	_ = resp.Body.Close()
}

// do sends the request and reads its JSON answer into out.
func (c *Client) do(ctx context.Context, call call, out any) error {
	resp, err := c.open(ctx, call)
	if err != nil {
		return err
	}
	defer closeBody(resp)
	data, err := readBody(resp)
	if err != nil {
		return transportError(ctx, err, call.method != http.MethodGet)
	}
	if err := json.Unmarshal(data, out); err != nil {
		return &api.Error{Code: api.CodeIncompat, Message: "the agent's answer is not understood",
			Hint: "agent and command may be of different versions", Err: err}
	}
	return nil
}

func readBody(resp *http.Response) ([]byte, error) {
	if size := resp.ContentLength; size >= 0 && size < maxAnswer {
		data := make([]byte, size)
		_, err := io.ReadFull(resp.Body, data)
		return data, err
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(data) > maxAnswer {
		err = errors.New("the answer is too large")
	}
	return data, err
}

// encode returns v as JSON without escaping < > &, since v may hold a resource's own bytes.
func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, &api.Error{Code: api.CodeInvalid, Message: "the request is not JSON", Err: err}
	}
	return buf.Bytes(), nil
}

func set(q url.Values, name, value string) {
	if value != "" {
		q.Set(name, value)
	}
}

const (
	kindJSON   = "application/json"
	kindFHIR   = "application/fhir+json"
	kindNDJSON = "application/fhir+ndjson"
)

func resourcePath(ref api.Ref) (string, error) {
	if !ref.Valid() {
		return "", &api.Error{Code: api.CodeInvalid, Message: "a resource is named Type/id", Hint: "for example Patient/1234"}
	}
	return "/v1/resources/" + ref.Type + "/" + ref.ID, nil
}

// conflictPath refuses what would be another path; a conflict's id is of the agent's making and has no such characters.
func conflictPath(id string) (string, error) { return idPath("/v1/conflicts/", id, "no such conflict") }

func idPath(below, id, unknown string) (string, error) {
	if id == "" || id == "." || id == ".." || len(id) > 128 || url.PathEscape(id) != id {
		return "", &api.Error{Code: api.CodeNotFound, Message: unknown}
	}
	return below + id, nil
}

// Status implements api.Agent.
func (c *Client) Status(ctx context.Context, peer string) (status api.Status, err error) {
	q := url.Values{}
	set(q, "peer", peer)
	err = c.do(ctx, call{method: "GET", path: "/v1/status", query: q}, &status)
	return status, err
}

// WaitInSync implements api.Agent. The agent is told of ctx's deadline, so that its error can say what was missing.
func (c *Client) WaitInSync(ctx context.Context, peer string) (status api.Status, err error) {
	q := url.Values{"wait": {"in-sync"}}
	set(q, "peer", peer)
	sent := ctx
	if end, ok := ctx.Deadline(); ok {
		q.Set("timeout", max(time.Until(end), 0).String())
		late, cancel := context.WithDeadline(context.WithoutCancel(ctx), end.Add(waitGrace))
		defer cancel()
		defer context.AfterFunc(ctx, func() {
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				cancel()
			}
		})()
		sent = late
	}
	err = c.do(sent, call{method: "GET", path: "/v1/status", query: q}, &status)
	return status, err
}

// Metrics implements api.Agent.
func (c *Client) Metrics(ctx context.Context, w io.Writer) error {
	resp, err := c.open(ctx, call{method: "GET", path: "/v1/metrics"})
	if err != nil {
		return err
	}
	defer closeBody(resp)
	data, err := readBody(resp)
	if err != nil {
		return transportError(ctx, err, false)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}

// Diagnose implements api.Agent.
func (c *Client) Diagnose(ctx context.Context) (diagnosis api.Diagnosis, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/diagnosis"}, &diagnosis)
	return diagnosis, err
}

// SetOnline implements api.Agent.
func (c *Client) SetOnline(ctx context.Context, online bool) error {
	body, err := encode(api.Network{Online: &online})
	if err != nil {
		return err
	}
	var answer api.Network
	return c.do(ctx, call{method: "PUT", path: "/v1/network", kind: kindJSON, body: body}, &answer)
}

// Compact implements api.Agent.
func (c *Client) Compact(ctx context.Context) (done api.Compaction, err error) {
	err = c.do(ctx, call{method: "POST", path: "/v1/compaction"}, &done)
	return done, err
}

// Get implements api.Agent.
func (c *Client) Get(ctx context.Context, ref api.Ref, version string) (api.Resource, error) {
	path, err := resourcePath(ref)
	if err != nil {
		return api.Resource{}, err
	}
	q := url.Values{}
	set(q, "version", version)
	resp, err := c.open(ctx, call{method: "GET", path: path, query: q})
	if err != nil {
		return api.Resource{}, err
	}
	defer closeBody(resp)
	data, err := readBody(resp)
	if err != nil {
		return api.Resource{}, transportError(ctx, err, false)
	}
	head := resp.Header
	res := api.Resource{Ref: ref, Version: head.Get(api.HeaderVersion), Deleted: head.Get(api.HeaderDeleted) == "true"}
	if len(data) > 0 {
		res.JSON = data
	}
	newer, newerErr := url.PathUnescape(head.Get(api.HeaderNewer))
	res.Newer, res.Uncommitted = newer, head.Get(api.HeaderUncommitted) == "true"
	updated, timeErr := time.Parse(time.RFC3339Nano, head.Get(api.HeaderUpdated))
	conflicts, countErr := strconv.Atoi(head.Get(api.HeaderConflicts))
	if err := errors.Join(timeErr, countErr, newerErr); err != nil {
		return api.Resource{}, &api.Error{Code: api.CodeIncompat, Message: "the agent's answer is not understood", Err: err}
	}
	res.Updated, res.Conflicts = updated, conflicts
	return res, nil
}

// Put implements api.Agent.
func (c *Client) Put(ctx context.Context, user string, resource json.RawMessage, force bool) (written api.Written, err error) {
	q := url.Values{}
	if force {
		q.Set("force", "true")
	}
	if resource == nil {
		resource = json.RawMessage{}
	}
	err = c.do(ctx, call{method: "PUT", path: "/v1/resources", query: q, user: user, kind: kindFHIR, body: resource}, &written)
	return written, err
}

// Delete implements api.Agent.
func (c *Client) Delete(ctx context.Context, user string, ref api.Ref) (written api.Written, err error) {
	path, err := resourcePath(ref)
	if err != nil {
		return written, err
	}
	err = c.do(ctx, call{method: "DELETE", path: path, user: user}, &written)
	return written, err
}

// History implements api.Agent.
func (c *Client) History(ctx context.Context, ref api.Ref) (revisions []api.Revision, err error) {
	path, err := resourcePath(ref)
	if err != nil {
		return nil, err
	}
	err = c.do(ctx, call{method: "GET", path: path + "/history"}, &revisions)
	return revisions, err
}

// Stored implements api.Agent.
func (c *Client) Stored(ctx context.Context, ref api.Ref) (stored api.StoredResource, err error) {
	path, err := resourcePath(ref)
	if err != nil {
		return stored, err
	}
	err = c.do(ctx, call{method: "GET", path: path + "/stored"}, &stored)
	return stored, err
}

// Find implements api.Agent.
func (c *Client) Find(ctx context.Context, text string, limit int) (matches []api.Match, err error) {
	body, err := encode(api.Search{Text: text, Limit: limit})
	if err != nil {
		return nil, err
	}
	err = c.do(ctx, call{method: "POST", path: "/v1/find", kind: kindJSON, body: body}, &matches)
	return matches, err
}

// Import implements api.Agent.
func (c *Client) Import(ctx context.Context, user string, batch api.ImportBatch) (result api.ImportResult, err error) {
	size := 0
	for _, r := range batch.Resources {
		size += len(r) + 1
	}
	body := bytes.NewBuffer(make([]byte, 0, size))
	for i, r := range batch.Resources {
		// The wire form is one resource a line; one that spans lines is written anew, and an empty one would shift the
		// numbers by which the answer names the others.
		if bytes.ContainsAny(r, "\r\n") {
			if err := json.Compact(body, r); err != nil {
				return result, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("resource %d is not JSON", i)}
			}
		} else if len(bytes.TrimSpace(r)) == 0 {
			return result, &api.Error{Code: api.CodeInvalid, Message: fmt.Sprintf("resource %d is empty", i)}
		} else {
			body.Write(r)
		}
		body.WriteByte('\n')
	}
	err = c.do(ctx, call{method: "POST", path: "/v1/import", user: user, kind: kindNDJSON, body: body.Bytes()}, &result)
	return result, err
}

// Export implements api.Agent.
func (c *Client) Export(ctx context.Context, w io.Writer, opts api.ExportOptions) error {
	q := url.Values{}
	set(q, "patient", opts.Patient)
	set(q, "format", opts.Format)
	if opts.Meta {
		q.Set("meta", "true")
	}
	resp, err := c.open(ctx, call{method: "GET", path: "/v1/export", query: q})
	if err != nil {
		return err
	}
	defer closeBody(resp)
	from := &source{r: resp.Body}
	if _, err := io.Copy(w, from); err != nil {
		if from.err == nil {
			return fmt.Errorf("write the export: %w", err)
		}
		return transportError(ctx, err, false)
	}
	result := resp.Trailer.Get(api.TrailerResult)
	if result == "ok" {
		return nil
	}
	var e api.Error
	if json.Unmarshal([]byte(result), &e) == nil && e.Code != "" {
		return &e
	}
	return &api.Error{Code: api.CodeUnavailable, Message: "the export was cut short"}
}

// source remembers the error of reading, so that it is told apart from one of writing.
type source struct {
	r   io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err = err
	}
	return n, err
}

// Conflicts implements api.Agent.
func (c *Client) Conflicts(ctx context.Context) (conflicts []api.Conflict, err error) {
	err = c.do(ctx, call{method: "GET", path: "/v1/conflicts"}, &conflicts)
	return conflicts, err
}

// Conflict implements api.Agent.
func (c *Client) Conflict(ctx context.Context, id string) (conflict api.Conflict, err error) {
	path, err := conflictPath(id)
	if err != nil {
		return conflict, err
	}
	err = c.do(ctx, call{method: "GET", path: path}, &conflict)
	return conflict, err
}

// Resolve implements api.Agent.
func (c *Client) Resolve(ctx context.Context, user, id string, decision api.Decision) (written api.Written, err error) {
	path, err := conflictPath(id)
	if err != nil {
		return written, err
	}
	body, err := encode(decision)
	if err != nil {
		return written, err
	}
	err = c.do(ctx, call{method: "POST", path: path + "/decision", user: user, kind: kindJSON, body: body}, &written)
	return written, err
}
