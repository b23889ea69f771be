package quorum

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum/driver"
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
	apart   bool // the folder is not the one that it was
	witness *fakeWitness
}

type fakeWitness struct {
	at Reached
	ok bool
}

func (w *fakeWitness) Read() (Reached, bool, error) { return w.at, w.ok, nil }
func (w *fakeWitness) Write(r Reached) error        { w.at, w.ok = r, true; return nil }

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
		Log: Log{Current: func() [32]byte { return d.log }, Continues: func([32]byte) bool { return !d.apart }, Original: func() bool { return !d.apart }},
	})
	must(t, err)
	return s
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
		if second.open(t).mu.disk != nil {
			t.Error("another administrator's device founded a quorum")
		}
		copied, _ := founding(t, trust.RoleAdmin)
		copied.apart = true
		if copied.open(t).mu.disk != nil {
			t.Error("a folder that may be a copy founded a quorum")
		}
		copied.apart, copied.witness.ok = false, true
		if copied.open(t).mu.disk != nil {
			t.Error("a folder from before the founding founded it again")
		}
	})
}

// TestNoRoom: without room on the disk the device does without a quorum, and founds it when there is some.
func TestNoRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d, _ := founding(t, trust.RoleAdmin)
		full := true
		d.store.OnCommit(func(at storage.Stage, _ int) error {
			if full && at == storage.Begin {
				return &storage.NoRoom{Free: 1, Least: 2}
			}
			return nil
		})
		s := d.open(t)
		run(t, s)
		if status, err := s.Quorum(t.Context()); err != nil || status.State != api.QuorumNone {
			t.Errorf("it says %+v (%v)", status, err)
		}
		full = false
		time.Sleep(2 * retryVoter)
		if status, err := s.Quorum(t.Context()); err != nil || status.State != api.QuorumOK {
			t.Errorf("with room it says %+v (%v)", status, err)
		}
	})
}

// TestWentBack: a voter whose folder is a copy, or older than it was, does not start; one whose log is found to be another's ends.
func TestWentBack(t *testing.T) {
	for _, how := range []string{"a copy", "an older one", "an older term", "found out later"} {
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
					d.apart = true
				case "an older one":
					d.store = old
				case "an older term":
					d.witness.at.Term++
				}
				s = d.open(t)
				stop = run(t, s)
				if how == "found out later" {
					_, err := assign(t, s, "Invoice/2")
					must(t, err)
					d.apart = true
					time.Sleep(2 * witnessEvery)
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
		_, err = s.BreakLease(t.Context(), "Dr. Berg", api.BreakRequest{Name: "Verg\u00fctung", Reason: "too long"})
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
		_, err := s.BreakLease(t.Context(), "", api.BreakRequest{Name: "billing", Reason: "x"})
		must(t, err)
		if err := <-over; api.CodeOf(err) != api.CodeHeld {
			t.Errorf("who lost it: %v", err)
		}
		over = hold(t.Context())
		must(t, s.ReleaseLease(t.Context(), "billing"))
		must(t, <-over)
	})
}
