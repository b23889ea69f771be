package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"chartmesh/anchor"
	"chartmesh/p2p"
)

// The anchor that runs answers the commands of its folder over a socket in it, which is its owner's alone:
//
//	GET  /v1/status  an anchor.Status
//	POST /v1/admit   {"token": …}: an anchor.Practice
//	POST /v1/usage   named, or of nobody: usages
//	POST /v1/quota   named: an anchor.Usage
//	POST /v1/drop    named: dropped
//
// An error is {"error": …, "code": …}.
const socketName = "control.sock"

// errAbsent says that no anchor runs in the folder.
var errAbsent = errors.New("no anchor runs in this folder")

const maxRequest = 4 << 10

// refusals are the errors that travel, by their codes.
var refusals = map[string]error{"token": p2p.ErrToken, "other-anchor": anchor.ErrOtherAnchor, "admitted": anchor.ErrAdmitted,
	"unknown": anchor.ErrUnknown, "ambiguous": anchor.ErrAmbiguous, "quota": anchor.ErrQuota, "votes": anchor.ErrVotes}

type control struct {
	server *http.Server
	ended  chan error
}

// listenControl serves the socket. The store is open, so that no other anchor runs here: a socket that is left is of one that was killed.
func listenControl(dir string, a *anchor.Anchor) (*control, error) {
	name := filepath.Join(dir, socketName)
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("serve commands: %w", err)
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fmt.Errorf("serve commands: %w", err)
	}
	if err := os.Chmod(name, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("serve commands: %w", err), l.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", func(w http.ResponseWriter, r *http.Request) {
		s, err := a.Status()
		answer(w, s, err)
	})
	mux.HandleFunc("POST /v1/admit", func(w http.ResponseWriter, r *http.Request) {
		token, err := readToken(r.Body)
		if err != nil {
			answer(w, nil, err)
			return
		}
		p, err := a.Admit(r.Context(), token)
		answer(w, p, err)
	})
	mux.HandleFunc("POST /v1/usage", ofOne(a, func(_ context.Context, id *anchor.ID, _ named) (any, error) {
		if id == nil {
			return usages{a.Usages()}, nil
		}
		u, err := a.UsageOf(*id)
		return usages{[]anchor.Usage{u}}, err
	}))
	mux.HandleFunc("POST /v1/quota", ofOne(a, func(ctx context.Context, id *anchor.ID, n named) (any, error) {
		if id == nil {
			return nil, anchor.ErrUnknown
		}
		return a.SetQuota(ctx, *id, n.Change)
	}))
	mux.HandleFunc("POST /v1/drop", ofOne(a, func(ctx context.Context, id *anchor.ID, n named) (any, error) {
		if id == nil {
			return nil, anchor.ErrUnknown
		}
		return dropped{id.String()}, a.Drop(ctx, *id, n.AlthoughVoter)
	}))
	c := &control{
		server: &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: time.Minute, MaxHeaderBytes: maxRequest},
		ended:  make(chan error, 1),
	}
	go func() { c.ended <- c.server.Serve(l) }()
	return c, nil
}

// readToken reads the body of a request to admit a practice.
func readToken(r io.Reader) (string, error) {
	var req struct {
		Token string `json:"token"`
	}
	if err := json.NewDecoder(io.LimitReader(r, maxRequest)).Decode(&req); err != nil {
		return "", p2p.ErrToken
	}
	return req.Token, nil
}

// readNamed reads the body of a request about a practice, or about all of them.
func readNamed(r io.Reader) (n named, err error) {
	dec := json.NewDecoder(io.LimitReader(r, maxRequest))
	dec.DisallowUnknownFields() // a limit of a newer version is not passed over
	if err := dec.Decode(&n); err != nil {
		return named{}, errRequest
	}
	return n, nil
}

// errRequest says that a request does not read.
var errRequest = errors.New("the request does not read")

// ofOne answers a request about a practice; id is nil if it names none.
func ofOne(a *anchor.Anchor, do func(ctx context.Context, id *anchor.ID, n named) (any, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		n, err := readNamed(r.Body)
		var id *anchor.ID
		if err == nil && n.Practice != "" {
			var found anchor.ID
			if found, err = a.Find(n.Practice); err == nil {
				id = &found
			}
		}
		var v any
		if err == nil {
			v, err = do(r.Context(), id, n)
		}
		answer(w, v, err)
	}
}

// close lets requests end, and removes the socket.
func (c *control) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := c.server.Shutdown(ctx)
	if ended := <-c.ended; !errors.Is(ended, http.ErrServerClosed) {
		err = errors.Join(err, ended)
	}
	return err
}

func answer(w http.ResponseWriter, v any, err error) {
	w.Header().Set("Content-Type", "application/json")
	if err != nil {
		code := "internal"
		for c, known := range refusals {
			if errors.Is(err, known) {
				code = c
			}
		}
		w.WriteHeader(http.StatusUnprocessableEntity)
		v = map[string]string{"error": err.Error(), "code": code}
	}
	_ = json.NewEncoder(w).Encode(v) // the client has gone
}

func admit(ctx context.Context, dir, token string) (p anchor.Practice, err error) {
	err = post(ctx, dir, "/v1/admit", map[string]string{"token": token}, &p)
	return p, err
}

func post(ctx context.Context, dir, path string, v, into any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return call(ctx, dir, http.MethodPost, path, bytes.NewReader(body), into)
}

func status(ctx context.Context, dir string) (s anchor.Status, err error) {
	err = call(ctx, dir, http.MethodGet, "/v1/status", nil, &s)
	return s, err
}

// call asks the anchor that runs.
func call(ctx context.Context, dir, method, path string, body io.Reader, into any) error {
	client := http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(dir, socketName))
		},
	}}
	req, err := http.NewRequestWithContext(ctx, method, "http://anchor"+path, body)
	if err != nil {
		return err
	}
	resp, err := client.Do(req)
	if _, dial := errors.AsType[*net.OpError](err); dial {
		return fmt.Errorf("%w: %s", errAbsent, dir)
	}
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return readAnswer(resp.StatusCode, resp.Body, into)
}

// maxAnswer is how long the status of very many practices may be.
const maxAnswer = 64 << 20

func readAnswer(status int, r io.Reader, into any) error {
	dec := json.NewDecoder(io.LimitReader(r, maxAnswer))
	if status == http.StatusOK {
		return dec.Decode(into)
	}
	var refusal struct{ Error, Code string }
	if err := dec.Decode(&refusal); err != nil || refusal.Error == "" {
		return fmt.Errorf("the anchor answers with status %d", status)
	}
	if known := refusals[refusal.Code]; known != nil {
		return known
	}
	return errors.New(refusal.Error)
}
