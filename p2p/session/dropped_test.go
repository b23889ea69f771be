package session_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// books is a replica that notes who dropped the practice.
type books struct {
	*sessiontest.Replica
	dropped []trust.DeviceID
}

func (b *books) Dropped(_ context.Context, from trust.DeviceID) error {
	b.dropped = append(b.dropped, from)
	return nil
}

// TestDropped: a peer that lets the practice go is taken at its word for this practice alone, which its HELLO has named, and with every
// other reason nothing is taken back: also with one that only later versions know.
func TestDropped(t *testing.T) {
	now := time.Unix(1790000000, 0)
	for _, c := range []struct {
		name  string
		greet bool
		says  session.Reason
		want  int
	}{
		{"dropped", true, session.ReasonDropped, 1},
		{"before its HELLO", false, session.ReasonDropped, 0},
		{"closing", true, session.ReasonClosing, 0},
		{"of a later version", true, 200, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			of := func(i int) *sessiontest.Replica {
				return sessiontest.New(device(i), trust.EntryID{1}, trust.ScopeID{1})
			}
			r := &books{Replica: of(0)}
			s := session.New(session.Config{Self: device(0), Peer: device(1), Replica: r, Locate: sessiontest.Locate})
			p := session.New(session.Config{Self: device(1), Peer: device(0), Replica: of(1), Locate: sessiontest.Locate})
			s.Start(now)
			p.Start(now)
			if c.greet {
				f, err := p.Next(t.Context(), now)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Handle(t.Context(), now, f); err != nil {
					t.Fatal(err)
				}
			}
			_, err := s.Handle(t.Context(), now, p.Bye(c.says))
			if e, ok := errors.AsType[*session.ByeError](err); !ok || e.Reason != c.says {
				t.Errorf("it ended by %v", err)
			}
			if len(r.dropped) != c.want || c.want > 0 && r.dropped[0] != device(1) {
				t.Errorf("%d times dropped, by %v", len(r.dropped), r.dropped)
			}
		})
	}
}
