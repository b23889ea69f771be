package quorum

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestReseed: of three voters two are gone for good. What is left says so and founds the quorum anew, alone; numbers go on in a new series, what had one keeps it, and leases are
// granted. Who comes back with what it had votes no more.
func TestReseed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer, trust.RoleServer, trust.RoleAdmin)
		p.three()
		a, b, c, d := p.named("A"), p.named("B"), p.named("C"), p.named("D")
		a.openCircle()
		n := d.number("Invoice/1")
		_, err := d.service.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing"})
		must(t, err)
		if _, err := a.service.Reseed(t.Context(), nil, nil, true); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("while the quorum goes on: %v", err)
		}
		b.end()
		c.end()
		if status := d.waitState(api.QuorumNone); status.Next == "" || status.Founded != nil {
			t.Errorf("it says %+v", status)
		}
		plan, err := a.service.Reseed(t.Context(), nil, nil, true)
		must(t, err)
		if len(plan.Missing) != 2 || plan.Done || plan.From == nil || plan.Epoch != 1 || plan.Index == 0 || plan.Circles != 1 || plan.Leases != 1 || len(plan.Devices) != 5 {
			t.Errorf("the plan is %+v", plan)
		}
		if _, err := a.service.Reseed(t.Context(), nil, nil, false); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("without two that may have something: %v", err)
		}
		if _, err := a.service.Reseed(t.Context(), nil, p.ids("B", "C", "D"), false); api.CodeOf(err) != api.CodeInvalid {
			t.Errorf("although one is there: %v", err)
		}
		if _, err := d.service.Reseed(t.Context(), nil, p.ids("B", "C"), false); api.CodeOf(err) != api.CodeForbidden {
			t.Errorf("by a member: %v", err)
		}
		if v := a.service.voter.InForce(); v.Epoch != lockquorum.FirstEpoch {
			t.Fatalf("founded was %+v", v)
		}
		done, err := a.service.Reseed(t.Context(), nil, p.ids("B", "C"), false)
		must(t, err)
		if !done.Done || done.NewEpoch>>32 != 1 || done.Status.State != api.QuorumOK || len(done.Status.Voters) != 1 || done.Status.Founded.By.Name != "A" || done.Status.Risk == "" {
			t.Errorf("it was done as %+v, and %+v", done, done.Status)
		}
		if again := d.number("Invoice/1"); again.Number != n.Number || again.Series != n.Series {
			t.Errorf("what had %+v has %+v", n, again)
		}
		if _, err := assign(t, d.service, "Invoice/2"); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("the series of before goes on: %v", err)
		}
		a.openCircle()
		if next := d.number("Invoice/2"); next.Number != 1 || next.Series == n.Series {
			t.Errorf("the next number is %+v", next)
		}
		l, err := d.service.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing"})
		must(t, err)
		if !l.Mine {
			t.Errorf("the lease is %+v", l)
		}

		// They come back, and hear of it.
		for _, m := range []*member{b, c} {
			m.start()
			time.Sleep(5 * time.Second)
			if m.service.voter.Engine() != nil {
				t.Errorf("%s votes on", m.name)
			}
			if status := m.waitState(api.QuorumOK); status.Epoch != done.NewEpoch || len(status.Voters) != 1 {
				t.Errorf("%s says %+v", m.name, status)
			}
			if got := m.number("Invoice/2"); got.Number != 1 {
				t.Errorf("%s is told %+v", m.name, got)
			}
			m.end()
			m.start() // for good
			time.Sleep(5 * time.Second)
			if m.service.voter.Engine() != nil {
				t.Errorf("%s votes again", m.name)
			}
		}
		_, err = a.service.ChangeQuorum(t.Context(), p.ids("B", "C"), nil)
		must(t, err)
		if got := c.number("Invoice/3"); got.Number != 2 {
			t.Errorf("three give %+v", got)
		}
	})
}

// TestReseedFarthest: the voter that is left had stored what two were told, and not heard that it was agreed on: it counts.
func TestReseedFarthest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer)
		p.three()
		a, b, c := p.named("A"), p.named("B"), p.named("C")
		a.openCircle()
		b.end()
		want := a.number("Invoice/1") // A and C have it
		a.end()
		a.store = storage.NewTwin() // A is wiped, and founds nothing since it did before
		a.start()
		if _, err := a.service.Reseed(t.Context(), nil, nil, false); api.CodeOf(err) != api.CodeUnavailable {
			t.Errorf("without B: %v", err)
		}
		done, err := a.service.Reseed(t.Context(), nil, p.ids("B"), false)
		must(t, err)
		if done.From.Name != "C" || len(done.Status.Voters) != 1 || done.Status.Voters[0].Name != "A" {
			t.Errorf("it was done as %+v, and %+v", done, done.Status)
		}
		if got := c.number("Invoice/1"); got.Number != want.Number || got.Series != want.Series {
			t.Errorf("what had %+v has %+v", want, got)
		}
	})
}

// TestReseedMoved: a folder that was moved says what happened and what to do, and then works alone.
func TestReseedMoved(t *testing.T) {
	for _, how := range []string{"moved", "filled anew"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPractice(t)
				a := p.named("A")
				a.openCircle()
				want := a.number("Invoice/1")
				a.end()
				a.moves()
				if how == "filled anew" {
					a.store = storage.NewTwin()
				}
				a.start()
				if status := a.waitState(api.QuorumStopped); status.Next == "" {
					t.Errorf("it says %+v", status)
				}
				done, err := a.service.Reseed(t.Context(), nil, nil, false)
				must(t, err)
				if done.Status.State != api.QuorumOK || (done.From != nil) != (how == "moved") {
					t.Fatalf("it was done as %+v, and %+v", done, done.Status)
				}
				a.openCircle()
				if next := a.number("Invoice/2"); next.Series == want.Series {
					t.Errorf("the next number is %+v", next)
				}
			})
		})
	}
}

// TestReseedCutShort: wherever it is cut short, nothing was founded, or the rest happens by itself; given again it goes on. Never has an epoch two quorums.
func TestReseedCutShort(t *testing.T) {
	for _, how := range []string{"a voter is not reached", "the entry is not taken", "the entry is taken, and the process ends"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPractice(t, trust.RoleServer, trust.RoleServer, trust.RoleServer, trust.RoleServer)
				p.three()
				a, b, c := p.named("A"), p.named("B"), p.named("C")
				a.openCircle()
				a.number("Invoice/1")
				b.end()
				c.end()
				errCut := errors.New("cut short")
				a.enter = func(trust.Entry) error { return errCut }
				switch how {
				case "a voter is not reached":
					p.named("E").store.OnCommit(func(storage.Stage, int) error { return errCut })
				case "the entry is taken, and the process ends":
					a.enter = func(e trust.Entry) error {
						a.enter = nil
						must(t, p.learn(a, e))
						return errCut
					}
				}
				voters, gone := p.ids("A", "D", "E"), p.ids("B", "C")
				if _, err := a.service.Reseed(t.Context(), voters, gone, false); err == nil {
					t.Fatal("it is not cut short")
				}
				for _, m := range p.devices {
					m.end()
				}
				p.named("E").store.OnCommit(nil)
				a.enter = nil
				for _, name := range []string{"A", "D", "E"} {
					p.named(name).start()
				}
				if how == "the entry is taken, and the process ends" {
					status := a.waitState(api.QuorumOK)
					if len(status.Voters) != 3 || status.Epoch>>32 != 1 {
						t.Errorf("it says %+v", status)
					}
					p.oneEach()
					return
				}
				if v := a.service.voter.InForce(); v.Epoch != lockquorum.FirstEpoch {
					t.Fatalf("founded was %+v", v)
				}
				if status := a.waitState(api.QuorumNone); status.Epoch > 1 {
					t.Errorf("it says %+v", status)
				}
				b.start() // the quorum of before goes on with it, when nobody is held any more
				time.Sleep(remote.Hold)
				if got := b.number("Invoice/2"); got.Number != 2 {
					t.Errorf("then it gives %+v", got)
				}
				b.end()
				done, err := a.service.Reseed(t.Context(), voters, gone, false)
				must(t, err)
				if len(done.Status.Voters) != 3 || done.Status.State != api.QuorumOK {
					t.Errorf("it was done as %+v, and %+v", done, done.Status)
				}
				if got := p.named("D").number("Invoice/2"); got.Number != 2 || got.Series != "1.1" {
					t.Errorf("a number that the quorum of before gave is %+v", got)
				}
				p.oneEach()
			})
		})
	}
}

// oneEach checks that voters of one epoch have one history.
func (p *practice) oneEach() {
	p.t.Helper()
	time.Sleep(3 * time.Second)
	seen := map[lockquorum.Place][32]byte{}
	for _, m := range p.devices {
		if st := m.service.voter.Status(); st.Runs {
			at := lockquorum.Place{Epoch: st.Voter.Epoch, Index: st.Voter.Index}
			if chain, ok := seen[at]; ok && chain != st.Voter.Chain {
				p.t.Errorf("at %v there are two histories", at)
			}
			seen[at] = st.Voter.Chain
		}
	}
	if len(seen) == 0 {
		p.t.Error("nobody votes")
	}
}

// TestReseedApart: two administrators who do not hear of each other found the quorum anew. When they meet the later epoch stands, everywhere; the other one's voters end, and both are told.
func TestReseedApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleAdmin, trust.RoleMember)
		a, b, c := p.named("A"), p.named("B"), p.named("C")
		a.openCircle()
		a.number("Invoice/1")
		a.end()
		a.moves() // its voter does not know what it said
		a.start()
		a.waitState(api.QuorumStopped)
		b.apart["A"], b.apart["C"], a.apart["C"] = true, true, true
		first, err := a.service.Reseed(t.Context(), nil, nil, false)
		must(t, err)
		b.cut, c.cut = false, false
		if _, err := b.service.Reseed(t.Context(), nil, nil, false); api.CodeOf(err) != api.CodeConflict {
			t.Errorf("from a log of a quorum that it has not heard of: %v", err)
		}
		a.cut, c.cut = true, true
		second, err := b.service.Reseed(t.Context(), nil, p.ids("A", "C"), false)
		must(t, err)
		if first.NewEpoch == second.NewEpoch {
			t.Fatalf("both have the epoch %d", first.NewEpoch)
		}
		a.cut, c.cut = false, false
		b.apart, a.apart = map[string]bool{}, map[string]bool{}
		p.exchange()
		time.Sleep(5 * time.Second)
		later, other := a, b
		if second.NewEpoch > first.NewEpoch {
			later, other = b, a
		}
		for _, m := range p.devices {
			status := m.waitState(api.QuorumOK)
			if status.Epoch != max(first.NewEpoch, second.NewEpoch) || status.Voters[0].Name != later.name || status.Founded.By.Name != later.name || status.Notice == "" {
				t.Errorf("%s says %+v", m.name, status)
			}
		}
		if other.service.voter.Engine() != nil {
			t.Errorf("%s votes on", other.name)
		}
		p.oneEach()
		later.end()
		if status := c.waitState(api.QuorumNone); status.Next == "" {
			t.Errorf("it says %+v", status)
		}
		third, err := other.service.Reseed(t.Context(), nil, p.ids(later.name), false)
		must(t, err)
		if third.NewEpoch>>32 != 2 || third.Status.Notice != "" {
			t.Errorf("the next one is %+v, and %+v", third, third.Status)
		}
	})
}

// TestReseedFarther: whoever founds a quorum anew is told if somebody saw it come farther than the log that it begins with, and not where nothing is lost.
func TestReseedFarther(t *testing.T) {
	for _, c := range []struct {
		what      string
		back, say bool
	}{
		{"moved", false, false},
		{"put back, as its witness says", true, true},
		{"put back, as another device saw", true, true},
		{"put back, and nobody saw it", true, false},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPractice(t, trust.RoleMember)
				a, b := p.named("A"), p.named("B")
				a.waitState(api.QuorumOK)
				a.openCircle()
				backup := a.store.Copy()
				b.number("Invoice/1")
				a.end()
				if c.back {
					a.store = backup
				}
				if c.what != "put back, as its witness says" {
					a.witness = &fakeWitness{}
				}
				a.moves()
				a.start()
				a.waitState(api.QuorumStopped)
				if c.what == "put back, as another device saw" {
					a.service.Carried(t.Context(), b.keys.Device(), b.service.Carries())
				}
				plan, err := a.service.Reseed(t.Context(), nil, nil, true)
				must(t, err)
				if slices.Contains(plan.Notes, farther) != c.say {
					t.Errorf("it says %q", plan.Notes)
				}
			})
		})
	}
}
