package api

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// Names of server-sent events that are no Event: they end a stream, so that a stream without one was cut off.
const (
	EventEnd   = "end"   // nothing more is held, and the reader did not ask to follow
	EventError = "error" // data is an Error
)

// events streams text/event-stream: id is the cursor, event the kind, data the Event as JSON. A reader that comes back
// with its last cursor (or Last-Event-ID) misses nothing. A reader that does not take an event within eventTimeout is
// cut off, so that it cannot hold up the agent; it comes back in the same way.
func (h *handler) events(w http.ResponseWriter, r *http.Request) error {
	q, err := query(r, "since", "follow")
	if err != nil {
		return err
	}
	follow, err := boolean(q, "follow")
	if err != nil {
		return err
	}
	var since uint64
	cursor := q.Get("since")
	if last := r.Header.Get("Last-Event-ID"); last != "" {
		cursor = last // a browser reconnects to the old URL with this header
	}
	if cursor != "" {
		if since, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return invalid("a cursor is a number", "")
		}
	}
	ctx, cancel := untilShutdown(r.Context())
	defer cancel()
	s := &stream{w: w, control: http.NewResponseController(w)}
	if follow {
		s.mu.Lock()
		err := s.flushLocked() // the header, so that the reader knows that it is connected
		s.mu.Unlock()
		if err != nil {
			return nil // the reader is gone
		}
		defer s.keepAlive(ctx, cancel)()
	}
	err = h.agent.Events(ctx, since, follow, func(e Event) error { return s.send(e, follow) })
	if context.Cause(ctx) == errShutdown {
		err = &Error{Code: CodeUnavailable, Message: errShutdown.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.mu.failed != nil || r.Context().Err() != nil:
		return nil // the reader is gone
	case err == nil:
		s.writeLocked("", EventEnd, struct{}{})
	case !s.mu.begun:
		return err
	default:
		s.writeLocked("", EventError, AsError(err))
	}
	_ = s.flushLocked()
	return nil
}

// stream writes server-sent events.
type stream struct {
	w       http.ResponseWriter
	control *http.ResponseController

	mu struct {
		sync.Mutex
		begun  bool
		failed error // the first; nothing is written after it
		buf    bytes.Buffer
	}
}

func (s *stream) send(e Event, flush bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writeLocked(strconv.FormatUint(e.Cursor, 10), e.Kind, e)
	if flush || s.mu.buf.Len() > maxEvent {
		return s.flushLocked()
	}
	return s.mu.failed
}

func (s *stream) writeLocked(id, kind string, data any) {
	if id != "" {
		fmt.Fprintf(&s.mu.buf, "id: %s\n", id)
	}
	fmt.Fprintf(&s.mu.buf, "event: %s\ndata: ", kind)
	if err := encode(&s.mu.buf, data); err != nil && s.mu.failed == nil { // ends in a newline
		s.mu.failed = fmt.Errorf("encode an event: %w", err)
	}
	s.mu.buf.WriteByte('\n')
}

// flushLocked writes to the socket under the lock: the lock orders what is written, and the deadline bounds the wait.
func (s *stream) flushLocked() error {
	if s.mu.failed != nil {
		return s.mu.failed
	}
	if !s.mu.begun {
		s.mu.begun = true
		s.w.Header().Set("Content-Type", "text/event-stream")
		s.w.Header().Set("Cache-Control", "no-store")
		s.w.WriteHeader(http.StatusOK)
	}
	// Not every writer has deadlines (a test's recorder, an in-process client); those never block for long.
	_ = s.control.SetWriteDeadline(time.Now().Add(eventTimeout))
	_, err := s.w.Write(s.mu.buf.Bytes())
	if err == nil {
		err = s.control.Flush()
	}
	_ = s.control.SetWriteDeadline(time.Time{})
	s.mu.buf.Reset()
	if err != nil {
		s.mu.failed = fmt.Errorf("write events: %w", err)
	}
	return s.mu.failed
}

// keepAlive sends a comment whenever the interval passes, until the returned function is called. It calls gone when the
// reader takes none.
func (s *stream) keepAlive(ctx context.Context, gone func()) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(eventKeepAlive)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.mu.Lock()
				s.mu.buf.WriteString(":\n\n")
				err := s.flushLocked()
				s.mu.Unlock()
				if err != nil {
					gone()
					return
				}
			}
		}
	}()
	return func() { cancel(); <-done }
}
