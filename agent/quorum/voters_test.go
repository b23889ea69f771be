package quorum

import (
	"bytes"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/driver"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestWanted: an anchor takes the place of one voter, and this device that of another one alone; else voters come and go as they are named.
func TestWanted(t *testing.T) {
	type list = []lockquorum.DeviceID
	self, b, c, anchor, other := lockquorum.DeviceID{1}, lockquorum.DeviceID{2}, lockquorum.DeviceID{3}, lockquorum.DeviceID{8}, lockquorum.DeviceID{9}
	isAnchor := func(d lockquorum.DeviceID) bool { return d == anchor || d == other }
	for _, x := range []struct {
		name                   string
		now, add, remove, want list
	}{
		{"two devices more", list{self}, list{b, c}, nil, list{self, b, c}},
		{"one device more", list{self}, list{b}, nil, list{self, b}},
		{"the anchor alone", list{self}, list{anchor}, nil, list{anchor}},
		{"the anchor again", list{anchor}, list{anchor}, nil, list{anchor}},
		{"another anchor", list{anchor}, list{other}, nil, list{other}},
		{"the anchor and two devices", list{self}, list{anchor, b, c}, nil, list{anchor, b, c}},
		{"the anchor, a device, and who votes", list{self}, list{anchor, b}, nil, list{self, anchor, b}},
		{"two devices beside the anchor", list{anchor}, list{self, b}, nil, list{anchor, self, b}},
		{"the anchor in the place of two", list{self, b, c}, list{anchor}, list{self, b, c}, list{anchor}},
		{"the anchor as a fourth", list{self, b, c}, list{anchor}, nil, list{self, b, c, anchor}},
		{"the anchor in the place of one of three", list{self, b, c}, list{anchor}, list{c}, list{self, b, anchor}},
		{"other three with the anchor", list{self, b, c}, list{anchor, self, b}, nil, list{anchor, self, b}},
		{"two of three go", list{anchor, b, c}, nil, list{b, c}, list{anchor}},
		{"the anchor that votes alone goes", list{anchor}, nil, list{anchor}, list{self}},
		{"another device that votes alone goes", list{b}, nil, list{b}, list{self}},
		{"this device, which votes alone, goes", list{self}, nil, list{self}, list{}},
	} {
		if got := wanted(x.now, x.add, x.remove, self, isAnchor); !slices.Equal(got, x.want) {
			t.Errorf("%s: %v are to vote, not %v", x.name, got, x.want)
		}
	}
}

// TestPlainMember: a device whose word on the quorum others do not believe is none of its voters, and is told of by name; as a server it is one.
func TestPlainMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleMember)
		a, c := p.named("A"), p.named("C")
		_, err := a.service.ChangeQuorum(t.Context(), p.ids("B", "C"), nil)
		if api.CodeOf(err) != api.CodeForbidden || !strings.HasPrefix(err.Error(), "C is a plain member") {
			t.Errorf("a plain member is to vote: %v", err)
		}
		if err := a.service.voter.Change(t.Context(), a.keys.Device(), []trust.DeviceID{a.keys.Device(), p.named("B").keys.Device(), c.keys.Device()}); !errors.Is(err, lockquorum.ErrForbidden) {
			t.Errorf("and without asking first: %v", err)
		}
		p.role(a, c, trust.RoleServer)
		if _, err := a.service.ChangeQuorum(t.Context(), p.ids("B", "C"), nil); err != nil {
			t.Errorf("as a server: %v", err)
		}
	})
}

// TestVoterMadeMember: a voter that was made a plain member, by a device that did not know that it votes, is named with what to do, and not taken for one that is gone.
func TestVoterMadeMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer)
		p.three()
		a, b := p.named("A"), p.named("B")
		p.role(a, b, trust.RoleMember)
		status := a.waitState(api.QuorumOK)
		if slices.ContainsFunc(status.Voters, func(v api.QuorumVoter) bool { return v.Removed }) || !strings.HasPrefix(status.Next, "B votes and is a plain member") || !strings.Contains(status.Next, "peer role") {
			t.Errorf("with a plain member among the voters it says %+v", status)
		}
		p.role(a, b, trust.RoleServer)
		if status := a.waitState(api.QuorumOK); status.Next != "" {
			t.Errorf("as a server: %+v", status)
		}
	})
}

// TestVotersChangedUnheard: a device that was off while others were made voters gets numbers of them although the only voter that it knew is gone; with none of them
// there it is told at once that there is no quorum, and by nobody who does not vote.
func TestVotersChangedUnheard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer, trust.RoleMember, trust.RoleServer)
		a, d := p.named("A"), p.named("D")
		a.openCircle()
		first := d.number("Invoice/1")
		d.end()
		p.three()
		a.end()
		p.named("B").waitState(api.QuorumOK)
		d.start()
		if n := d.number("Invoice/2"); n.Number != first.Number+1 {
			t.Errorf("it gives %+v after %+v", n, first)
		}
		if n := d.number("Invoice/1"); n.Number != first.Number {
			t.Errorf("it gives %+v where it gave %+v", n, first)
		}
		time.Sleep(2 * meetLook)
		if got, want := sorted(d.service.Voters()), sorted(p.ids("A", "B", "C")); !slices.Equal(got, want) {
			t.Errorf("it knows as voters %v, not %v", got, want)
		}
		e := p.named("E") // reached, and no voter
		p.named("B").end()
		p.named("C").end()
		if st, err := e.service.Quorum(t.Context()); err != nil || st.State == api.QuorumOK {
			t.Errorf("with no voter there the quorum is %+v, %v", st, err)
		}
		began := time.Now()
		if _, err := assign(t, d.service, "Invoice/3"); !errors.Is(err, client.ErrNoQuorum) || time.Since(began) > 5*time.Second {
			t.Errorf("with no voter there: %v after %v", err, time.Since(began))
		}
	})
}

func sorted(list []trust.DeviceID) []trust.DeviceID {
	return slices.SortedFunc(slices.Values(list), func(a, b trust.DeviceID) int { return bytes.Compare(a[:], b[:]) })
}

// TestVoterRemoved: a voter of three that was removed from the practice is shown, the two others go on, and another one takes its place; with two of them removed it is
// said that the quorum is to be founded anew.
func TestVoterRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer, trust.RoleServer, trust.RoleServer)
		p.three()
		a, b, d := p.named("A"), p.named("B"), p.named("D")
		a.openCircle()
		first := a.number("Invoice/1")
		p.remove(a, p.named("C"))
		status := a.waitState(api.QuorumOK)
		if i := slices.IndexFunc(status.Voters, func(v api.QuorumVoter) bool { return v.Removed }); i < 0 || status.Voters[i].Name != "C" || !strings.Contains(status.Next, "quorum add") {
			t.Errorf("with a voter removed it says %+v", status)
		}
		status, err := a.service.ChangeQuorum(t.Context(), p.ids("D"), nil)
		must(t, err)
		var names []string
		for _, v := range status.Voters {
			names = append(names, v.Name)
		}
		if slices.Sort(names); !slices.Equal(names, []string{"A", "B", "D"}) || status.Next != "" {
			t.Errorf("in its place: %+v", status)
		}
		if n := d.number("Invoice/2"); n.Number != first.Number+1 {
			t.Errorf("it gives %+v after %+v", n, first)
		}
		p.remove(a, b)
		p.remove(a, d)
		_, err = assign(t, a.service, "Invoice/3")
		if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.CodeUnavailable || !strings.Contains(e.Message, "removed from the practice") {
			t.Errorf("with one left of three: %v", err)
		}
		time.Sleep(time.Minute)
		if status := a.waitState(api.QuorumNone); !strings.HasPrefix(status.Next, "too few voters are left") || !strings.Contains(status.Next, "quorum reseed") {
			t.Errorf("with one left of three it says %+v", status)
		}
	})
}

// TestWitnessAtTheEnd: what a voter that ends has applied last is kept outside of its folder too, also what it was about to apply when it was told to end.
func TestWitnessAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		stop := run(t, s)
		_, err := s.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 100})
		must(t, err)
		_, err = assign(t, s, "Invoice/1") // its name is stored, so that the voter is the next that stores something
		must(t, err)
		synctest.Wait()
		stuck, free := make(chan struct{}), make(chan struct{})
		var once sync.Once
		d.store.OnCommit(func(at storage.Stage, _ int) error {
			if at == storage.Synced {
				once.Do(func() { close(stuck); <-free })
			}
			return nil
		})
		go func() { _, _ = assign(t, s, "Invoice/1") }()
		<-stuck
		ended := make(chan struct{})
		go func() { defer close(ended); stop() }()
		time.Sleep(time.Minute) // all that waits for nothing but the time has ended
		close(free)
		<-ended
		kept, err := driver.ReadKept(d.store)
		must(t, err)
		st, _, err := kept.Latest()
		must(t, err)
		if d.witness.at.Index != st.Index() {
			t.Errorf("the witness says %d, and it has applied %d", d.witness.at.Index, st.Index())
		}
	})
}

// TestBeginsWhileOpened: a device that is asked to vote anew while its voter of before is being started votes under its new number, and not under the one of before, whatever becomes
// of that.
func TestBeginsWhileOpened(t *testing.T) {
	for _, unfit := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := newPractice(t, trust.RoleServer, trust.RoleServer)
			p.three()
			a, b := p.named("A"), p.named("B")
			_, err := a.service.ChangeQuorum(t.Context(), nil, p.ids("B", "C"))
			must(t, err)
			b.end()
			opening, asked := make(chan struct{}), make(chan struct{})
			var once sync.Once
			b.witness.read = func() {
				once.Do(func() {
					close(opening)
					<-asked
					if unfit { // the voter of before is not to run
						b.witness.at.Index += 1000
					}
				})
			}
			b.start()
			<-opening
			over := make(chan error, 1)
			go func() {
				_, err := a.service.ChangeQuorum(t.Context(), p.ids("B", "C"), nil)
				over <- err
			}()
			synctest.Wait() // it has begun
			close(asked)
			must(t, <-over)
			a.waitState(api.QuorumOK)
			if st := b.service.voter.Status(); !st.Runs || len(st.Voter.Voters) != 3 {
				t.Errorf("its voter is %+v", st)
			}
		})
	}
}
