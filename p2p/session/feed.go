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
		turns map[fed]turn
	}
}

// fed is what peers take turns to send: a scope, of one replica. An anchor has many, and anybody can found a practice whose scopes have the
// IDs of another's.
type fed struct {
	replica Replica
	scope   trust.ScopeID
}

type turn struct {
	of       *Session
	until    time.Time // unless there is progress
	answered bool      // the peer has said once what it holds
}

// take gives s the turn of a scope, unless another has it, or s had it just now and let it go by: then whoever waits comes
// first. To ask again is no progress, else a peer that only claims to hold something could keep all others waiting.
func (f *Feed) take(id trust.ScopeID, s *Session, now time.Time) bool {
	if f == nil {
		return true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch t, ok := f.mu.turns[fed{s.cfg.Replica, id}]; {
	case !ok:
	case now.Before(t.until):
		return t.of == s
	case t.of == s && now.Before(t.until.Add(feedRest)):
		return false
	}
	if f.mu.turns == nil {
		f.mu.turns = map[fed]turn{}
	}
	f.mu.turns[fed{s.cfg.Replica, id}] = turn{of: s, until: now.Add(feedPatience)}
	return true
}

// report ends the turn of s when nothing is lacked that s could bring, and prolongs it if it brought some of it: chunks, or
// its first word on what it holds.
func (f *Feed) report(id trust.ScopeID, s *Session, now time.Time, behind, brought bool) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch t := f.mu.turns[fed{s.cfg.Replica, id}]; {
	case t.of != s:
	case !behind:
		delete(f.mu.turns, fed{s.cfg.Replica, id})
	case brought || !t.answered:
		f.mu.turns[fed{s.cfg.Replica, id}] = turn{of: s, until: now.Add(feedPatience), answered: true}
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
