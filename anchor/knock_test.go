package anchor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"chartmesh/anchor/kept"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// takesIn admits a newcomer with a role, and returns it with what it knows.
func (c *customer) takesIn(role trust.Role) *customer {
	c.t.Helper()
	keys, err := keyring.Create("", nil)
	must(c.t, err)
	c.enter(c.keys.Admit(c.state, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Role: role, DeviceName: "d", SiteName: "s", Now: time.Now()}))
	return &customer{t: c.t, keys: keys}
}

func (c *customer) removes(d trust.DeviceID) {
	c.t.Helper()
	c.enter(c.keys.Remove(c.state, d, nil, time.Now()))
}

// parted is a practice at an anchor whose administrators have removed each other: x, that prevails, y, whose word alone the anchor has
// heard, and m, that stays.
type parted struct {
	x, y, m *customer
	p       *practice
}

func newParted(t testing.TB, a *Anchor) parted {
	t.Helper()
	x := newCustomer(t, "Berg")
	y, m := x.takesIn(trust.RoleAdmin), x.takesIn(trust.RoleMember)
	p := x.admitted(a)
	y.state, m.state = x.state, x.state
	x.removes(y.keys.Device())
	y.removes(x.keys.Device())
	y.brings(p)
	return parted{x, y, m, p}
}

// knocks has a device bring entries to the anchor, and checks the answer and what came of it.
func (c *customer) knocks(a *Anchor, list [][]byte, want bool) {
	c.t.Helper()
	before := heads(a)
	got, err := readmission{a}.Readmit(c.t.Context(), c.keys.Device(), list)
	must(c.t, err)
	if got != want {
		c.t.Errorf("the answer is %v", got)
	}
	if after := heads(a); !want && !slices.Equal(before, after) {
		c.t.Error("something was taken")
	}
}

// heads tells what is known of all practices.
func heads(a *Anchor) (list [][32]byte) {
	for _, p := range a.list() {
		if st := p.State(); st != nil {
			list = append(list, st.HeadsHash())
		}
	}
	return list
}

// TestReadmit: who prevails brings its entries to an anchor that has heard the other's alone, and from then on this one is out; a restart
// keeps that.
func TestReadmit(t *testing.T) {
	dir := t.TempDir()
	a := openAnchor(t, dir)
	w := newParted(t, a)
	x, y := w.x.keys.Device(), w.y.keys.Device()
	r := readmission{a}
	if a.admits(x) || !r.Former(x) || r.Former(y) || r.Former(w.m.keys.Device()) || r.Former(trust.DeviceID{1}) {
		t.Fatal("who was removed is not known")
	}
	w.x.knocks(a, entries(w.y.state), false)
	w.x.knocks(a, entries(w.x.state), true)
	w.x.knocks(a, entries(w.x.state), true) // its answer was lost
	for range 2 {
		if !a.admits(x) || a.admits(y) || !a.admits(w.m.keys.Device()) || r.Former(x) || !r.Former(y) {
			t.Fatal("the other one belongs")
		}
		w.y.knocks(a, entries(w.y.state), false)
		must(t, a.Close())
		a = openAnchor(t, dir)
		r = readmission{a}
	}
	p := a.find(w.p.id)
	if p.State().Len() != w.x.state.Len()+1 || a.replicaOf(x) != session.Replica(p) {
		t.Errorf("%d entries are held", p.State().Len())
	}
}

// TestReadmitHostile: what is malformed, too much, or of another practice is not taken, by whomever it is brought, and nothing is said of
// other practices.
func TestReadmitHostile(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	w := newParted(t, a)
	tal := newCustomer(t, "Tal")
	employee := tal.takesIn(trust.RoleAdmin)
	q := tal.admitted(a)
	employee.state = tal.state
	tal.removes(employee.keys.Device())
	tal.brings(q)
	stranger := newCustomer(t, "Elsewhere")
	stranger.enter(stranger.keys.Admit(stranger.state, keyring.Newcomer{Device: w.x.keys.Device(), HPKE: w.x.keys.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	own := entries(w.x.state)

	for what, list := range map[string][][]byte{
		"nothing": nil, "another practice's": entries(tal.state), "one that is not held": entries(stranger.state),
		"behind another's founding entry": append(entries(tal.state)[:1:1], own...), "without the beginning": own[1:],
	} {
		t.Log(what)
		w.x.knocks(a, list, false)
	}
	employee.knocks(a, own, false)                                          // which would readmit another
	employee.knocks(a, append(entries(tal.state)[:1:1], own[1:]...), false) // its practice, another's entries
	stranger.knocks(a, own, false)
	before := heads(a)
	for _, bad := range [][][]byte{{nil}, {[]byte("cmm\x01")}, append(slices.Clone(own), own[1][:100])} {
		if got, err := (readmission{a}).Readmit(t.Context(), w.x.keys.Device(), bad); got || err == nil {
			t.Errorf("%v, %v", got, err)
		}
	}
	many := slices.Clone(own)
	for range 1024 { // and its removal
		e, err := w.x.keys.Rename(w.x.state, w.m.keys.Device(), "of X", "", time.Now())
		must(t, err)
		many = append(many, e.Bytes())
	}
	if got, err := (readmission{a}).Readmit(t.Context(), w.x.keys.Device(), many); got || err == nil {
		t.Errorf("1025 entries: %v, %v", got, err)
	}
	if !slices.Equal(before, heads(a)) || a.admits(w.x.keys.Device()) {
		t.Error("something was taken")
	}
	w.x.knocks(a, own, true)
	if q.State().HeadsHash() != tal.state.HeadsHash() {
		t.Error("the other practice is another")
	}
}

// TestReadmitNotAnAnchor: with entries by which this is no anchor of the practice nobody is let in, and none is taken.
func TestReadmitNotAnAnchor(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	w := newParted(t, a)
	w.x.removes(a.Device())
	w.x.knocks(a, entries(w.x.state), false)

	// The other has removed the anchor too.
	b := openAnchor(t, t.TempDir())
	w = newParted(t, b)
	w.y.removes(b.Device())
	w.y.brings(w.p)
	w.x.knocks(b, entries(w.x.state), true)
	if !b.admits(w.x.keys.Device()) || !b.admits(w.m.keys.Device()) {
		t.Error("those who belong are not let in")
	}
}

// TestReadmitDropped: a practice that is dropped hears nobody, also while that goes on.
func TestReadmitDropped(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	w := newParted(t, a)
	other := newParted(t, a)
	r, x := readmission{a}, w.x.keys.Device()
	whole := a.store
	a.store = &follows{whole, func() { // the record is gone, and the share has not ended
		a.store = whole
		if r.Former(x) {
			t.Error("a device of a practice that is being dropped may knock")
		}
		w.x.knocks(a, entries(w.x.state), false)
	}}
	must(t, a.Drop(t.Context(), w.p.id, false))
	if r.Former(x) || !r.Former(other.x.keys.Device()) {
		t.Error("who may knock is another than those whose practice is held")
	}
	w.x.knocks(a, entries(w.x.state), false)
	a.index(w.p) // by entries that were on their way
	if a.mu.former[x] != nil {
		t.Error("what is dropped is still looked up")
	}
	if got, err := w.p.Readmit(t.Context(), x, entries(w.x.state)); got || err == nil {
		t.Errorf("what was on its way is stored: %v, %v", got, err)
	}
	other.x.knocks(a, entries(other.x.state), true)
}

// TestReadmitNamedByAnother: a device that another practice names among its own, and that its own has removed, is heard as the one that it was.
func TestReadmitNamedByAnother(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	w := newParted(t, a)
	x := w.x.keys.Device()
	thief := newCustomer(t, "Thief")
	thief.enter(thief.keys.Admit(thief.state, keyring.Newcomer{Device: x, HPKE: w.x.keys.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
	p := thief.admitted(a)
	if !a.admits(x) || !(readmission{a}).Former(x) || a.replicaOf(x) != session.Replica(p) {
		t.Fatal("it is not of both")
	}
	w.x.knocks(a, entries(thief.state), true) // by which it is let in, as it was
	if a.replicaOf(x) != session.Replica(p) {
		t.Error("another practice's log makes it one of its former one")
	}
	w.x.knocks(a, entries(w.x.state), true)
	if !slices.Contains([]session.Replica{a.replicaOf(x), a.replicaOf(x)}, session.Replica(w.p)) || (readmission{a}).Former(x) {
		t.Error("it is not taken for its own practice's")
	}
	if p.State().HeadsHash() != thief.state.HeadsHash() {
		t.Error("the other practice is another")
	}
}

// TestReadmitWhileSettling: a device is readmitted while checkpoints are judged.
func TestReadmitWhileSettling(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	w := newParted(t, a)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			_, _ = w.p.Settle(ctx, time.Now(), 0)
		}
	}()
	w.x.knocks(a, entries(w.x.state), true)
	cancel()
	<-ended
	if _, err := w.p.Settle(t.Context(), time.Now(), 0); err != nil || !a.admits(w.x.keys.Device()) {
		t.Errorf("afterwards: %v", err)
	}
}

// site is a device of a customer on the network, that follows the membership log alone.
type site struct {
	*customer
	host    *p2p.Host
	replica *kept.Practice
}

// SignAck has a device's keys be those of who holds a practice.
func (s *site) SignAck(message []byte) []byte { return s.keys.Sign(trust.ContextAck, message) }
func (s *site) Device() trust.DeviceID        { return s.keys.Device() }
func (s *site) at(a *Anchor) (p p2p.PeerStatus) {
	for _, p := range s.host.Peers() {
		if p.Device == a.Device() {
			return p
		}
	}
	return p
}

// online puts a device on the network, which calls the anchor, until the test ends.
func (c *customer) online(a *Anchor) *site {
	c.t.Helper()
	s := &site{customer: c}
	s.replica = kept.New(kept.Config{ID: c.id(), By: c.keys.Device(), Self: s, Store: storage.NewTwin()})
	c.brings(s.replica)
	var err error
	s.host, err = p2p.Open(p2p.Config{
		Identity: c.keys, Replica: s.replica, Listen: []string{}, Schema: session.Range{Min: 1, Max: 1<<16 - 1},
		Admit: func(d trust.DeviceID) bool { return s.replica.State().IsAnchor(d) }, Blind: func(trust.DeviceID) bool { return true },
	})
	must(c.t, err)
	s.host.SetPeers([]p2p.PeerAddr{{Device: a.Device(), Addrs: a.Addresses()}})
	runs(c.t, s.host.Run, s.host.Close)
	return s
}

// runs has something run until the test ends.
func runs(t testing.TB, run func(context.Context) error, closes func() error) {
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, closes()); err != nil {
			t.Error(err)
		}
	})
}

func (s *site) knows(st *trust.State) bool { return s.replica.State().HeadsHash() == st.HeadsHash() }

// TestKnockAtAnchor: over the network, a device that is not let in knocks at the anchor, is let in within seconds, those that stay hear of it
// by their sessions, and who does not belong any more is cut off, knocks, and is told.
func TestKnockAtAnchor(t *testing.T) {
	for _, named := range []bool{false, true} { // by another practice as its own
		t.Run(fmt.Sprint("named by another: ", named), func(t *testing.T) {
			a := openAnchor(t, t.TempDir())
			w := newParted(t, a)
			if named {
				thief := newCustomer(t, "Thief")
				thief.enter(thief.keys.Admit(thief.state, keyring.Newcomer{Device: w.x.keys.Device(), HPKE: w.x.keys.HPKEPublic(), DeviceName: "d", SiteName: "s", Now: time.Now()}))
				thief.admitted(a)
			}
			runs(t, a.Run, func() error { return nil })
			y, m := w.y.online(a), w.m.online(a)
			eventually(t, "those that the anchor lets in agree with it", func() bool {
				return y.at(a).Connected && m.at(a).Connected && m.knows(w.p.State()) && y.knows(w.p.State())
			})
			x := w.x.online(a)
			start := time.Now()
			eventually(t, "it is let in", func() bool { return x.at(a).Connected && x.at(a).Session.Agreed && x.knows(w.p.State()) })
			if took := time.Since(start); took > 10*time.Second {
				t.Errorf("that took %v", took)
			}
			if st := x.replica.State(); st.Len() != w.x.state.Len()+1 || !st.Former(w.y.keys.Device()) {
				t.Errorf("%d entries are known", st.Len())
			}
			eventually(t, "who stays hears of it", func() bool { return m.at(a).Connected && m.at(a).Session.Agreed && m.knows(w.p.State()) })
			eventually(t, "who does not belong is told", func() bool {
				return !y.at(a).Connected && y.at(a).Reason == "it does not let this device in: as far as it knows, this one was removed"
			})
			if !y.knows(w.y.state) || a.admits(w.y.keys.Device()) {
				t.Error("who was removed hears more than a no")
			}
		})
	}
}
