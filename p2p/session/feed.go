package session

import (
	"sync"
	"time"

	"chartmesh/trust"
)

// Feed sees to it that a device that lacks much is not sent the same by all of its peers at once. It is shared by the
// sessions of one device: of each scope one peer sends what the device lacks, the others are asked to wait, until that
// one has nothing more, or stalls. The zero Feed is ready for use.
type Feed struct {
	mu struct {
		sync.Mutex
		turns map[trust.ScopeID]turn
	}
}

type turn struct {
	of    *Session
	until time.Time // unless there is progress
}

// take gives s the turn of a scope, unless another has it.
func (f *Feed) take(id trust.ScopeID, s *Session, now time.Time) bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if t, ok := f.mu.turns[id]; ok && t.of != s && now.Before(t.until) {
		return false
	}
	if f.mu.turns == nil {
		f.mu.turns = map[trust.ScopeID]turn{}
	}
	f.mu.turns[id] = turn{s, now.Add(feedPatience)}
	return true
}

// report prolongs the turn of s if it brings what is lacked, and ends it when nothing is lacked that s could bring.
func (f *Feed) report(id trust.ScopeID, s *Session, now time.Time, behind bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.turns[id].of != s {
		return
	}
	if behind {
		f.mu.turns[id] = turn{s, now.Add(feedPatience)}
	} else {
		delete(f.mu.turns, id)
	}
}

// leave ends every turn of s.
func (f *Feed) leave(s *Session) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, t := range f.mu.turns {
		if t.of == s {
			delete(f.mu.turns, id)
		}
	}
}

// End says that the session is over, so that another peer gets its turn in the Feed.
func (s *Session) End() { s.cfg.Feed.leave(s) }
