package quorum

import (
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestSilent: the others of three go on, and everybody is told that a voter gives nothing any more, because its folder was put back or its store filled anew, and what to do. Made a
// voter anew it is well.
func TestSilent(t *testing.T) {
	for _, c := range []struct{ what, says string }{{"put back", stayedOut}, {"wiped", noVoter}} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPractice(t, trust.RoleServer, trust.RoleServer, trust.RoleMember)
				p.three()
				a, b := p.named("A"), p.named("B")
				a.openCircle()
				first := a.number("Invoice/1")
				out := func(m *member) (string, api.QuorumStatus) {
					status := m.waitState(api.QuorumOK)
					i := slices.IndexFunc(status.Voters, func(v api.QuorumVoter) bool { return v.Name == "B" })
					return status.Voters[i].Out, status
				}
				b.end()
				if c.what == "wiped" {
					b.store = storage.NewTwin()
				} else {
					b.moves()
				}
				b.start()
				time.Sleep(10 * time.Second)
				for _, name := range []string{"A", "C", "D"} { // who leads, who follows, and who does not vote
					if says, status := out(p.named(name)); says != c.says || !strings.Contains(status.Next, "quorum remove") || len(status.Voters) != 3 {
						t.Errorf("%s says of B %q: %+v", name, says, status)
					}
				}
				if c.what == "wiped" {
					if says, _ := out(b); says != c.says {
						t.Errorf("B says of itself %q", says)
					}
				} else if status := b.waitState(api.QuorumStopped); !strings.Contains(status.Next, "copied from a device that still runs") || !strings.Contains(status.Next, "while other voters go on") {
					t.Errorf("B says %+v", status)
				}
				if n := a.number("Invoice/2"); n.Number != first.Number+1 {
					t.Errorf("it gives %+v after %+v", n, first)
				}
				_, err := a.service.ChangeQuorum(t.Context(), nil, p.ids("B", "C"))
				must(t, err)
				_, err = a.service.ChangeQuorum(t.Context(), p.ids("B", "C"), nil)
				must(t, err)
				for _, m := range p.devices {
					if says, status := out(m); says != "" || status.Next != "" {
						t.Errorf("%s says of B %q, made a voter anew: %+v", m.name, says, status)
					}
				}
				if n := b.number("Invoice/3"); n.Number != first.Number+2 {
					t.Errorf("it gives %+v after %+v", n, first)
				}
			})
		})
	}
}

// TestTooFew: where most voters were put back it is said that the quorum is to be founded anew, and not that agents are to be started.
func TestTooFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer)
		p.three()
		a := p.named("A")
		for _, name := range []string{"B", "C"} {
			m := p.named(name)
			m.end()
			m.moves()
			m.start()
		}
		time.Sleep(time.Minute)
		if status := a.waitState(api.QuorumNone); !strings.HasPrefix(status.Next, "too few voters are left that have all") || !strings.Contains(status.Next, "quorum reseed") {
			t.Errorf("it says %+v", status)
		}
	})
}
