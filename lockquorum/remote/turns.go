package remote

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/trust"
)

// turns bounds how much each device asks at a time.
type turns struct {
	mu    sync.Mutex
	asked map[lockquorum.DeviceID]int
}

// enter reports whether a device may ask one thing more.
func (t *turns) enter(from lockquorum.DeviceID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked == nil {
		t.asked = map[lockquorum.DeviceID]int{}
	}
	if t.asked[from] >= maxAtOnce {
		return false
	}
	t.asked[from]++
	return true
}

func (t *turns) leave(from lockquorum.DeviceID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.asked[from]--; t.asked[from] == 0 {
		delete(t.asked, from)
	}
}

// errNoServer says that nobody answers for a practice here.
var errNoServer = errors.New("nobody answers here for the practice that it is of")

// serve reads a question, and has it answered for the practice that it names.
func (t *turns) serve(ctx context.Context, st Stream, from lockquorum.DeviceID, of func(context.Context, trust.EntryID) (*Server, func())) error {
	if !t.enter(from) {
		_ = st.Reset()
		return lockquorum.ErrBusy
	}
	defer t.leave(from)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	_ = st.SetDeadline(time.Now().Add(patience))
	b, err := readFrame(st, maxQuestion)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("read question: %w", err)
	}
	q, err := parseQuestion(b)
	if err != nil {
		_ = st.Reset()
		return fmt.Errorf("read question: %w", err)
	}
	s, done := of(ctx, q.practice)
	if s == nil {
		_ = st.Reset()
		return errNoServer
	}
	defer done()
	return s.answering(ctx, cancel, st, from, q)
}

// speaking is on which stream each voter's messages come: one of each, the latest, since a message may be large.
type speaking struct {
	mu sync.Mutex
	on map[lockquorum.DeviceID]Stream
}

// begin ends the stream of before, if it lasts still, and returns what is called when this one is over.
func (s *speaking) begin(from lockquorum.DeviceID, st Stream) (over func()) {
	s.mu.Lock()
	before := s.on[from]
	if s.on == nil {
		s.on = map[lockquorum.DeviceID]Stream{}
	}
	s.on[from] = st
	s.mu.Unlock()
	if before != nil {
		_ = before.Reset()
	}
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.on[from] == st {
			delete(s.on, from)
		}
	}
}
