package quorum

import (
	"context"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// practice is some devices that reach each other, unless they are cut off, and each of which has a membership log of its own.
type practice struct {
	t *testing.T

	mu      sync.Mutex
	devices []*member
}

// member is one of them. Its fields below service are guarded by the practice's lock.
type member struct {
	*device
	name    string
	service *Service
	stop    func()
	of      *practice

	state *trust.State
	cut   bool
	enter func(trust.Entry) error // before an entry is taken; nil: nothing
	apart map[string]bool         // it does not exchange the membership log with these
	wiped bool                    // its store was filled anew, and tells of no log that it wrote
}

// pipe is a stream between two devices.
type pipe struct{ net.Conn }

func (p pipe) Reset() error { return p.Close() }

// Open implements local.Network.
func (m *member) Open(ctx context.Context, d trust.DeviceID) (remote.Stream, error) {
	to := m.of.device(d)
	if to == nil || !m.Reaches(d) {
		return nil, lockquorum.ErrUnreachable
	}
	here, there := net.Pipe()
	go to.service.Serve(context.WithoutCancel(ctx), pipe{there}, m.keys.Device())
	return pipe{here}, nil
}

// Doubt implements local.Network.
func (m *member) Doubt(trust.DeviceID) {}

// RoundTrip implements local.Network.
func (m *member) RoundTrip(trust.DeviceID) time.Duration { return time.Millisecond }

// Reaches implements local.Network.
func (m *member) Reaches(d trust.DeviceID) bool {
	to := m.of.device(d)
	m.of.mu.Lock()
	defer m.of.mu.Unlock()
	return to != nil && to.stop != nil && !to.cut && !m.cut
}

func (p *practice) device(d trust.DeviceID) *member {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.devices {
		if m.keys.Device() == d {
			return m
		}
	}
	return nil
}

// learn puts an entry into the membership log of a device, and of all that it exchanges it with.
func (p *practice) learn(by *member, e trust.Entry) error {
	if by.enter != nil {
		if err := by.enter(e); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	st, err := by.state.With(e)
	if err != nil {
		return err
	}
	by.state = st
	p.exchangeLocked()
	return nil
}

// exchange has all that reach each other have the same membership log.
func (p *practice) exchange() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.exchangeLocked()
}

func (p *practice) exchangeLocked() {
	for range p.devices {
		for _, a := range p.devices {
			for _, b := range p.devices {
				if a == b || a.cut || b.cut || a.apart[b.name] || b.apart[a.name] {
					continue
				}
				for _, e := range b.state.Entries() {
					if st, err := a.state.With(e); err == nil {
						a.state = st
					}
				}
			}
		}
	}
}

// gather returns a practice of devices with these roles; the first one is an administrator's, which founded it. All run.
func newPractice(t *testing.T, roles ...trust.Role) *practice {
	t.Helper()
	p := &practice{t: t}
	first, err := keyring.Create("", nil)
	must(t, err)
	e, _, err := first.Found(keyring.FoundOptions{Practice: "Praxis Berg", Device: "A", Site: "Mitte", Now: time.Now()})
	must(t, err)
	st, err := trust.Found(e)
	must(t, err)
	must(t, first.Learn(st))
	keys := []*keyring.Keyring{first}
	for i, role := range roles {
		k, err := keyring.Create("", nil)
		must(t, err)
		e, err := first.Admit(st, keyring.Newcomer{Device: k.Device(), HPKE: k.HPKEPublic(), Role: role, DeviceName: string(rune('B' + i)), SiteName: "Nord", Now: time.Now()})
		must(t, err)
		st, err = st.With(e)
		must(t, err)
		keys = append(keys, k)
	}
	for i, k := range keys {
		must(t, k.Learn(st))
		m := &member{name: string(rune('A' + i)), of: p, state: st, apart: map[string]bool{}}
		m.device = &device{keys: k, store: storage.NewTwin(), log: [32]byte{byte(i + 1)}, witness: &fakeWitness{}}
		m.device.members = func() *trust.State {
			p.mu.Lock()
			defer p.mu.Unlock()
			return m.state
		}
		p.devices = append(p.devices, m)
	}
	for _, m := range p.devices {
		m.start()
	}
	return p
}

func (p *practice) named(name string) *member {
	return p.devices[slices.IndexFunc(p.devices, func(m *member) bool { return m.name == name })]
}

// moves has the folder be one that was moved: it begins another log.
func (m *member) moves() { m.log[1]++ }

// logs lists the logs that it wrote, as far as it knows.
func (m *member) logs() (list [][32]byte) {
	for n := range m.log[1] + 1 {
		if !m.wiped || n == m.log[1] {
			list = append(list, [32]byte{m.log[0], n})
		}
	}
	return list
}

// start starts the device's part, as its agent would.
func (m *member) start() {
	m.of.t.Helper()
	s, err := Open(m.of.t.Context(), Config{
		Store: m.store, Keys: m.keys, Members: m.members, Witness: m.witness, Network: m,
		Enter: func(_ context.Context, e trust.Entry) error { return m.of.learn(m, e) },
		Name:  func(id trust.DeviceID) api.Party { return m.of.party(id) },
		Log:   local.Log{Current: func() [32]byte { return m.log }, Continues: func(since [32]byte) bool { return since == m.log }, Original: func() bool { return m.log[1] == 0 }},
		Logs:  m.logs, Replaced: func([32]byte) bool { return false },
	})
	must(m.of.t, err)
	m.service = s
	stop := run(m.of.t, s)
	m.of.mu.Lock()
	m.stop = stop
	m.of.mu.Unlock()
}

func (p *practice) party(d trust.DeviceID) api.Party {
	if m := p.device(d); m != nil {
		return api.Party{Name: m.name}
	}
	return api.Party{Name: "?"}
}

// end ends it.
func (m *member) end() {
	m.of.mu.Lock()
	stop := m.stop
	m.stop = nil
	m.of.mu.Unlock()
	if stop != nil {
		stop()
	}
}

// ids returns the devices of names.
func (p *practice) ids(names ...string) (list []trust.DeviceID) {
	for _, n := range names {
		list = append(list, p.named(n).keys.Device())
	}
	return list
}

// state waits until a device says that the quorum is in some state.
func (m *member) waitState(want string) api.QuorumStatus {
	m.of.t.Helper()
	var status api.QuorumStatus
	for range 300 {
		var err error
		status, err = m.service.Quorum(m.of.t.Context())
		must(m.of.t, err)
		if status.State == want {
			return status
		}
		time.Sleep(200 * time.Millisecond)
	}
	m.of.t.Fatalf("%s says %+v, and not %s", m.name, status, want)
	return status
}

// three makes a quorum of A, B and C.
func (p *practice) three() {
	p.t.Helper()
	a := p.named("A")
	a.waitState(api.QuorumOK)
	_, err := a.service.ChangeQuorum(p.t.Context(), p.ids("B", "C"), nil)
	must(p.t, err)
	synctest.Wait()
}

func (m *member) number(item string) api.Number {
	m.of.t.Helper()
	n, err := assign(m.of.t, m.service, item)
	must(m.of.t, err)
	return n
}

func (m *member) openCircle() {
	m.of.t.Helper()
	_, err := m.service.OpenCircle(m.of.t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 1000})
	must(m.of.t, err)
}

// role gives a device a role at an administrator's word.
func (p *practice) role(by, to *member, role trust.Role) {
	p.t.Helper()
	e, err := by.keys.SetRole(by.members(), to.keys.Device(), role, nil, time.Now())
	must(p.t, err)
	must(p.t, p.learn(by, e))
}

// remove removes a device from the practice at an administrator's word; nobody reaches it any more.
func (p *practice) remove(by, gone *member) {
	p.t.Helper()
	p.mu.Lock()
	gone.cut = true
	p.mu.Unlock()
	e, err := by.keys.Remove(by.members(), gone.keys.Device(), nil, time.Now())
	must(p.t, err)
	must(p.t, p.learn(by, e))
}
