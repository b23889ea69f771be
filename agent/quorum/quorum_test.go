package quorum

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// device is one of a practice, with what its agent would say of its folder.
type device struct {
	keys    *keyring.Keyring
	store   *storage.Twin
	members func() *trust.State
	log     [32]byte
	apart   atomic.Bool // the folder is not the one that it was
	witness *fakeWitness
}

type fakeWitness struct {
	mu   sync.Mutex
	at   local.Reached
	ok   bool
	read func() // called before it is read; nil: nothing is
}

func (w *fakeWitness) Read() (local.Reached, bool, error) {
	if w.read != nil {
		w.read()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.at, w.ok, nil
}

func (w *fakeWitness) Write(r local.Reached) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.at, w.ok = r, true
	return nil
}

// founding founds a practice, with a second device of a role.
func founding(t *testing.T, role trust.Role) (first, second *device) {
	t.Helper()
	a, err := keyring.Create("", nil)
	must(t, err)
	e, _, err := a.Found(keyring.FoundOptions{Practice: "Praxis Berg", Device: "Empfang", Site: "Mitte", Now: time.Now()})
	must(t, err)
	st, err := trust.Found(e)
	must(t, err)
	b, err := keyring.Create("", nil)
	must(t, err)
	e, err = a.Admit(st, keyring.Newcomer{Device: b.Device(), HPKE: b.HPKEPublic(), Role: role, DeviceName: "Labor", SiteName: "Nord", Now: time.Now()})
	must(t, err)
	st, err = st.With(e)
	must(t, err)
	must(t, a.Learn(st))
	must(t, b.Learn(st))
	members := func() *trust.State { return st }
	return &device{keys: a, store: storage.NewTwin(), members: members, log: [32]byte{1}, witness: &fakeWitness{}},
		&device{keys: b, store: storage.NewTwin(), members: members, log: [32]byte{2}, witness: &fakeWitness{}}
}

func (d *device) open(t *testing.T) *Service {
	t.Helper()
	s, err := Open(t.Context(), Config{
		Store: d.store, Keys: d.keys, Members: d.members, Witness: d.witness,
		Name: func(id trust.DeviceID) api.Party {
			name, site := d.keys.Names(d.members(), id)
			return api.Party{Name: name, Site: site}
		},
		Log:  local.Log{Current: func() [32]byte { return d.log }, Continues: func([32]byte) bool { return !d.apart.Load() }, Original: func() bool { return !d.apart.Load() }},
		Logs: func() [][32]byte { return [][32]byte{d.log} }, Replaced: func([32]byte) bool { return false },
	})
	must(t, err)
	return s
}

// opened opens a device once.
func opened(t *testing.T, d *device) *device {
	t.Helper()
	d.open(t)
	return d
}

// votes reports whether a voter is stored at a device.
func (d *device) votes() bool {
	_, _, err := driver.OpenDisk(d.store)
	return !errors.Is(err, storage.ErrNotFound)
}

// run runs a Service until the returned function is called.
func run(t *testing.T, s *Service) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	synctest.Wait()
	return stop
}

func assign(t *testing.T, s *Service, item string) (api.Number, error) {
	t.Helper()
	return s.AssignNumber(t.Context(), api.NumberRequest{Circle: "invoices", Item: item})
}

// TestFoundedOnce: the device that founded the practice founds the quorum, once; no other does, nor a folder that may be a copy.
func TestFoundedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, second := founding(t, trust.RoleAdmin)
		s := first.open(t)
		stop := run(t, s)
		_, err := s.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 100})
		must(t, err)
		n, err := assign(t, s, "Invoice/1")
		must(t, err)
		stop()
		s = first.open(t)
		stop = run(t, s)
		if again, err := assign(t, s, "Invoice/2"); err != nil || again.Number != n.Number+1 || again.Series != n.Series {
			t.Errorf("after a start it gives %+v (%v)", again, err)
		}
		stop()
		if opened(t, second).votes() {
			t.Error("another administrator's device founded a quorum")
		}
		copied, _ := founding(t, trust.RoleAdmin)
		copied.apart.Store(true)
		c := copied.open(t)
		if copied.votes() {
			t.Error("a folder that may be a copy founded a quorum")
		}
		if status, err := c.Quorum(t.Context()); err != nil || status.State != api.QuorumStopped || status.Reason == "" {
			t.Errorf("it says %+v (%v)", status, err)
		}
		copied.apart.Store(false)
		copied.witness.ok = true
		if opened(t, copied).votes() {
			t.Error("a folder from before the founding founded it again")
		}
	})
}

// TestNoRoom: without room on the disk the device does without a quorum, and founds it when there is some.
func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		var full atomic.Bool
		full.Store(true)
		d.store.OnCommit(func(at storage.Stage, _ int) error {
			if full.Load() && at == storage.Begin {
				return &storage.NoRoom{Free: 1, Least: 2}
			}
			return nil
		})
		s := d.open(t)
		run(t, s)
		if status, err := s.Quorum(t.Context()); err != nil || status.State != api.QuorumNone {
			t.Errorf("it says %+v (%v)", status, err)
		}
		full.Store(false)
		time.Sleep(2 * local.Retry)
		if status, err := s.Quorum(t.Context()); err != nil || status.State != api.QuorumOK {
			t.Errorf("with room it says %+v (%v)", status, err)
		}
	})
}

// TestWentBack: a voter whose folder is a copy, or older than it was, does not start; one whose log is found to be another's ends.
func TestWentBack(t *testing.T) {
	for _, how := range []string{"a copy", "an older one", "an older term", "an earlier voter", "found out later"} {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d, _ := founding(t, trust.RoleAdmin)
				s := d.open(t)
				stop := run(t, s)
				_, err := s.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 100})
				must(t, err)
				old := d.store.Copy()
				_, err = assign(t, s, "Invoice/1")
				must(t, err)
				stop()
				switch how {
				case "a copy":
					d.apart.Store(true)
				case "an older one":
					d.store = old
				case "an earlier voter":
					d.witness.at = local.Reached{Epoch: 1, Voter: 9}
				case "an older term":
					d.witness.at.Term++
				}
				s = d.open(t)
				run(t, s)
				if how == "found out later" {
					_, err := assign(t, s, "Invoice/2")
					must(t, err)
					d.apart.Store(true)
					time.Sleep(2 * local.WitnessEvery)
				}
				_, err = assign(t, s, "Invoice/3")
				if e := (*api.Error)(nil); !errors.As(err, &e) || e.Code != api.CodeUnavailable {
					t.Errorf("it answers %v", err)
				}
				status, err := s.Quorum(t.Context())
				if err != nil || status.State != api.QuorumStopped || status.Reason == "" {
					t.Errorf("it says %+v (%v)", status, err)
				}
			})
		})
	}
}

// TestGoesOn: a folder that goes on under another log, and is no copy, votes on, and also when that log is followed by another.
func TestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		for i := range 3 {
			d.log = [32]byte{byte(10 + i)}
			s := d.open(t)
			stop := run(t, s)
			if status, err := s.Quorum(t.Context()); err != nil || status.State != api.QuorumOK {
				t.Errorf("under log %d it says %+v (%v)", i, status, err)
			}
			stop()
			_, rec, err := driver.OpenDisk(d.store)
			if err != nil || rec.Log != d.log {
				t.Errorf("the voter is bound to %x (%v)", rec.Log[:2], err)
			}
		}
	})
}

// TestNames: a name that looks the same is the same; what breaks and voids say is read by others who know no name.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, other := founding(t, trust.RoleMember)
		s := d.open(t)
		run(t, s)
		composed, err := s.id(kindLock, "Verg\u00fctung")
		must(t, err)
		if split, err := s.id(kindLock, "Vergu\u0308tung"); err != nil || split != composed {
			t.Errorf("two spellings of one name are two locks (%v)", err)
		}
		o := other.open(t)
		if same, err := o.id(kindLock, "Verg\u00fctung"); err != nil || same != composed {
			t.Errorf("another device knows the lock by another name (%v)", err)
		}
		_, err = s.AcquireLease(t.Context(), "Dr. Berg", api.LeaseRequest{Name: "Verg\u00fctung"})
		must(t, err)
		_, err = s.BreakLease(t.Context(), "Dr. Berg", api.BreakRequest{Name: "Verg\u00fctung", Reason: "too long"}, nil)
		must(t, err)
		_, err = s.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 100})
		must(t, err)
		_, err = assign(t, s, "Invoice/1")
		must(t, err)
		_, err = s.ResolveNumber(t.Context(), "Dr. Berg", api.ResolveRequest{Circle: "invoices", Item: "Invoice/1", State: api.NumberVoid, Reason: "entered twice"})
		must(t, err)
		o.client, o.mu.running = s.client, true // what another device reads of the same quorum
		leases, err := o.Leases(t.Context())
		must(t, err)
		if len(leases) != 1 || leases[0].Name != "Verg\u00fctung" || len(leases[0].Breaks) != 1 || leases[0].Breaks[0].Reason != "too long" || leases[0].Breaks[0].By.Name != "Empfang" {
			t.Errorf("it reads %+v", leases)
		}
		report, err := o.Numbers(t.Context(), "invoices")
		must(t, err)
		if len(report.Numbers) != 1 || report.Numbers[0].Item != "Invoice/1" || report.Numbers[0].Reason != "entered twice" || report.Numbers[0].User != "Dr. Berg" {
			t.Errorf("it reads %+v", report.Numbers)
		}
	})
}

// TestKept: a lease that a command took ends when its time is over, and nobody has it longer than the agent runs.
func TestKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		stop := run(t, s)
		req := api.LeaseRequest{Name: "billing", For: time.Hour.Milliseconds()}
		_, err := s.AcquireLease(t.Context(), "", req)
		must(t, err)
		time.Sleep(59 * time.Minute)
		if _, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing", Try: true}); api.CodeOf(err) != api.CodeHeld {
			t.Errorf("it is held: %v", err)
		}
		time.Sleep(2 * time.Minute)
		_, err = s.AcquireLease(t.Context(), "", req)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := s.WaitLease(ctx, "billing"); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("it is waited for: %v", err)
		}
		stop()
		s = d.open(t)
		run(t, s)
		_, err = s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing", Try: true})
		must(t, err)
	})
}

// TestHeld: who holds a lease is told when it is lost, and gives it back when he goes.
func TestHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		run(t, s)
		hold := func(ctx context.Context) <-chan error {
			over, held := make(chan error, 1), make(chan struct{})
			go func() {
				over <- s.HoldLease(ctx, "", api.LeaseRequest{Name: "billing"}, func(api.Lease) error { close(held); return nil })
			}()
			<-held
			return over
		}
		ctx, cancel := context.WithCancel(t.Context())
		over := hold(ctx)
		time.Sleep(time.Hour)
		cancel()
		if err := <-over; !errors.Is(err, context.Canceled) {
			t.Errorf("who goes: %v", err)
		}
		over = hold(t.Context())
		_, err := s.BreakLease(t.Context(), "", api.BreakRequest{Name: "billing", Reason: "x"}, nil)
		must(t, err)
		if err := <-over; api.CodeOf(err) != api.CodeHeld {
			t.Errorf("who lost it: %v", err)
		}
		over = hold(t.Context())
		must(t, s.ReleaseLease(t.Context(), "billing"))
		must(t, <-over)
	})
}

// TestBeginVoting: a device begins to vote at the word of who leads the quorum that it knows, or of an administrator, under ever larger numbers, and not in a folder
// that is none of its own.
func TestBeginVoting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first, d := founding(t, trust.RoleServer)
		begin := func(s *Service, from trust.DeviceID, n uint64, voters ...trust.DeviceID) error {
			b := remote.Begin{Epoch: 1, Number: n}
			for i, v := range voters {
				b.Voters = append(b.Voters, lockquorum.Voter{ID: uint64(i + 1), Device: v})
			}
			return s.voter.Begin(t.Context(), from, b)
		}
		s := d.open(t)
		run(t, s)
		stranger := trust.DeviceID{7}
		for _, c := range []struct {
			from   trust.DeviceID
			voters []trust.DeviceID
		}{
			{stranger, []trust.DeviceID{stranger}},
			{d.keys.Device(), []trust.DeviceID{d.keys.Device()}},
			{first.keys.Device(), []trust.DeviceID{stranger}}, // who does not vote itself
		} {
			if err := begin(s, c.from, 9, c.voters...); !errors.Is(err, lockquorum.ErrForbidden) || d.votes() {
				t.Errorf("at the word of %v: %v", c.from, err)
			}
		}
		leader := first.keys.Device()
		d.apart.Store(true)
		if err := begin(s, leader, 9, leader); !errors.Is(err, remote.ErrMissing) || d.votes() {
			t.Errorf("in a folder that is a copy: %v", err)
		}
		d.apart.Store(false)
		if err := begin(s, leader, 2, leader, d.keys.Device()); !errors.Is(err, lockquorum.ErrForbidden) || d.votes() {
			t.Errorf("as a voter that it was and does not remember: %v", err)
		}
		must(t, begin(s, leader, 9, leader))
		must(t, begin(s, leader, 9, leader)) // again
		if err := begin(s, leader, 8, leader); !errors.Is(err, lockquorum.ErrForbidden) {
			t.Errorf("under an earlier number: %v", err)
		}
		synctest.Wait()
		must(t, begin(s, leader, 12, leader))
		time.Sleep(time.Second)
		if _, rec, err := driver.OpenDisk(d.store); err != nil || rec.ID != 12 || s.voter.Engine() == nil {
			t.Errorf("it votes as %+v (%v)", rec, err)
		}
		if status, err := s.Quorum(t.Context()); err != nil || len(status.Voters) != 1 || status.Voters[0].Name != "Empfang" {
			t.Errorf("it knows %+v (%v)", status, err)
		}
	})
}

// TestChangeVoters: an administrator's device alone says who votes, and devices alone that write.
func TestChangeVoters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, reader := founding(t, trust.RoleReader)
		s := d.open(t)
		run(t, s)
		self, other := d.keys.Device(), reader.keys.Device()
		for _, c := range []struct {
			from trust.DeviceID
			list []trust.DeviceID
			want error
		}{
			{other, []trust.DeviceID{self}, lockquorum.ErrForbidden},
			{self, []trust.DeviceID{self, other}, remote.ErrVoters},
			{self, nil, remote.ErrVoters},
			{self, []trust.DeviceID{other}, lockquorum.ErrForbidden},
			{self, []trust.DeviceID{self, self, self}, lockquorum.ErrForbidden},
			{self, []trust.DeviceID{self, {7}, {8}}, lockquorum.ErrForbidden},
			{self, []trust.DeviceID{self}, nil},
		} {
			if err := s.voter.Change(t.Context(), c.from, c.list); !errors.Is(err, c.want) {
				t.Errorf("%v at the word of %v: %v", c.list, c.from, err)
			}
		}
	})
}

// TestLostIsNotHeld: a lease that was lost is nobody's to write under, although it was kept for longer.
func TestLostIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		run(t, s)
		_, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing", For: time.Hour.Milliseconds()})
		must(t, err)
		if got := s.Held(); len(got) != 1 {
			t.Fatalf("%d leases are held", len(got))
		}
		_, err = s.BreakLease(t.Context(), "", api.BreakRequest{Name: "billing", Reason: "x"}, nil)
		must(t, err)
		time.Sleep(leaseTTL)
		if got := s.Held(); len(got) != 0 {
			t.Errorf("%d leases are held that were lost", len(got))
		}
	})
}

// TestBrokenElsewhere: a lease that another device broke commits nothing more, although its holder has not heard of that; who asks hears of it at once.
func TestBrokenElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleAdmin)
		a, b := p.named("A").service, p.named("B").service
		p.named("B").waitState(api.QuorumOK)
		broken := func() Held {
			_, err := b.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing", For: time.Hour.Milliseconds()})
			must(t, err)
			h := b.Held()[0]
			_, err = a.BreakLease(t.Context(), "", api.BreakRequest{Name: "billing", Reason: "x"}, nil)
			must(t, err)
			if len(b.Held()) != 1 {
				t.Fatal("it has heard of the break already: the test shows nothing")
			}
			return h
		}
		if err := broken().Commit(t.Context(), lockquorum.DocumentID{1}, lockquorum.Heads{1}); !Lost(err) {
			t.Errorf("a commit under a broken lease: %v", err)
		}
		id, err := a.id(kindLock, "billing")
		must(t, err)
		st, err := a.read(t.Context(), lockquorum.Query{Kind: lockquorum.ReadLock, ID: id})
		must(t, err)
		if l, ok := st.Lease(id); !ok || len(l.Documents) > 0 {
			t.Errorf("committed are %+v", l.Documents)
		}
		h, now := broken(), time.Now()
		h.Check(t.Context())
		if h.Context().Err() == nil || len(b.Held()) > 0 || time.Since(now) > time.Second {
			t.Errorf("after %v its holder has not heard of it", time.Since(now))
		}
		_, err = b.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing"})
		must(t, err)
		now = time.Now()
		p.mu.Lock()
		p.named("A").cut = true
		p.mu.Unlock()
		b.Held()[0].Check(t.Context())
		if len(b.Held()) != 1 || time.Since(now) > checkWait {
			t.Errorf("without a quorum, after %v it holds %d", time.Since(now), len(b.Held()))
		}
	})
}

// TestEndingTakesLong: what is to be done before a lease is given back has the time that waiting for others and a commit take.
func TestEndingTakesLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		ended := make(chan error, 1)
		s.cfg.Ending = func(ctx context.Context, _ Held) {
			select {
			case <-ctx.Done():
			case <-time.After(9 * time.Second):
			}
			ended <- ctx.Err()
		}
		run(t, s)
		_, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing", For: time.Second.Milliseconds()})
		must(t, err)
		must(t, <-ended)
		time.Sleep(time.Second)
		if l, err := s.Leases(t.Context()); err != nil || l[0].Held {
			t.Errorf("it is held still: %+v (%v)", l, err)
		}
	})
}

// TestOneCommits: what is committed under a lease is found out and committed by one at a time.
func TestOneCommits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		s := d.open(t)
		run(t, s)
		_, err := s.AcquireLease(t.Context(), "", api.LeaseRequest{Name: "billing"})
		must(t, err)
		inside, free := false, make(chan struct{})
		for range 2 {
			go func() {
				must(t, s.Held()[0].Commits(t.Context(), func() error {
					if inside {
						t.Error("two commit at a time")
					}
					inside = true
					<-free
					inside = false
					return nil
				}))
			}()
		}
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Held()[0].Commits(ctx, func() error { return nil }); !errors.Is(err, context.Canceled) {
			t.Errorf("who waits no longer: %v", err)
		}
		close(free)
		synctest.Wait()
	})
}
