package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"chartmesh/anchor"
)

// health serves monitoring systems, which may be anybody: it tells how the anchor is, and figures.
//
//	GET /healthz  200, or 503 and why nothing is stored
//	GET /readyz   200, or 503 while no device is served
//	GET /metrics  Prometheus' text form
type health struct {
	server *http.Server
	addr   net.Addr
	ended  chan error
}

// maxHealthConns is how many may ask at once.
const maxHealthConns = 16

func listenHealth(addr string, a *anchor.Anchor) (*health, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("serve health: %w", err)
	}
	h := &health{addr: l.Addr(), ended: make(chan error, 1), server: &http.Server{
		Handler: http.MaxBytesHandler(healthHandler(a), maxRequest), MaxHeaderBytes: maxRequest,
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 5 * time.Second, WriteTimeout: 20 * time.Second, IdleTimeout: 30 * time.Second,
	}}
	go func() { h.ended <- h.server.Serve(newCapped(l, maxHealthConns)) }()
	return h, nil
}

func (h *health) close() error {
	err := h.server.Close()
	if ended := <-h.ended; err == nil && !errors.Is(ended, http.ErrServerClosed) {
		err = ended
	}
	return err
}

// patient is what health is told of.
type patient interface {
	Healthy() error
	Ready() error
	Metrics(io.Writer) error
}

func healthHandler(a patient) http.Handler {
	mux := http.NewServeMux()
	say := func(check func() error) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/plain; charset=utf-8")
			w.Header().Set("Cache-Control", "no-store")
			text := "ok"
			if err := check(); err != nil {
				text = err.Error()
				w.WriteHeader(http.StatusServiceUnavailable)
			}
			_, _ = fmt.Fprintln(w, text) // the client has gone
		}
	}
	mux.HandleFunc("GET /healthz", say(a.Healthy))
	mux.HandleFunc("GET /readyz", say(a.Ready))
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		var b bytes.Buffer
		if err := a.Metrics(&b); err != nil {
			http.Error(w, "the figures could not be gathered", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		_, _ = w.Write(b.Bytes())
	})
	return mux
}

// capped is a listener with so many connections at once, and no more.
type capped struct {
	net.Listener
	free   chan struct{}
	closed context.Context
	close  context.CancelFunc
}

func newCapped(l net.Listener, most int) *capped {
	c := &capped{Listener: l, free: make(chan struct{}, most)}
	c.closed, c.close = context.WithCancel(context.Background())
	return c
}

func (c *capped) Accept() (net.Conn, error) {
	select {
	case c.free <- struct{}{}:
	case <-c.closed.Done():
		return nil, net.ErrClosed
	}
	conn, err := c.Listener.Accept()
	if err != nil {
		<-c.free
		return nil, err
	}
	return &cappedConn{Conn: conn, gone: sync.OnceFunc(func() { <-c.free })}, nil
}

func (c *capped) Close() error {
	c.close()
	return c.Listener.Close()
}

type cappedConn struct {
	net.Conn
	gone func()
}

func (c *cappedConn) Close() error {
	defer c.gone()
	return c.Conn.Close()
}
