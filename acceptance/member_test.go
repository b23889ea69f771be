package acceptance

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// office is a practice whose devices are made by hand: they have real keys, a real membership log and real sessions, and no documents.
type office struct {
	t       testing.TB
	state   *trust.State
	members []*member // the first is its administrator
}

// newOffice founds a practice of some devices, which has an anchor.
func newOffice(t testing.TB, name string, devices int, anchors ...*running) *office {
	t.Helper()
	first := newKeys(t)
	e, _, err := first.Found(keyring.FoundOptions{Practice: name, Site: "site of " + name, Device: "device 0 of " + name, Now: time.Now()})
	must(t, err)
	o := &office{t: t}
	var rejected []trust.Rejected
	if o.state, rejected = trust.Replay([]trust.Entry{e}); len(rejected) > 0 {
		t.Fatal(rejected[0].Err)
	}
	must(t, first.Learn(o.state))
	all := []*keyring.Keyring{first}
	for _, a := range anchors {
		o.enter(first.AddAnchor(o.state, a.device(), a.addresses, a.name, time.Now()))
	}
	for i := 1; i < devices; i++ {
		k := newKeys(t)
		o.enter(first.Admit(o.state, keyring.Newcomer{Device: k.Device(), HPKE: k.HPKEPublic(), DeviceName: fmt.Sprintf("device %d of %s", i, name), SiteName: "site of " + name, Now: time.Now()}))
		all = append(all, k)
	}
	for _, k := range all {
		must(t, k.Learn(o.state))
		o.members = append(o.members, newMember(t, k, o.state))
	}
	return o
}

func newKeys(t testing.TB) *keyring.Keyring {
	t.Helper()
	k, err := keyring.Create("", nil)
	must(t, err)
	return k
}

func (o *office) enter(e trust.Entry, err error) {
	o.t.Helper()
	must(o.t, err)
	o.state, err = o.state.With(e)
	must(o.t, err)
}

// token is what the office's administrator gives to whoever runs an anchor.
func (o *office) token(a *running) string {
	return p2p.AnchorToken{Anchor: a.device(), Practice: o.state.Practice(), Device: o.members[0].keys.Device()}.String()
}

// device returns the anchor's key.
func (a *running) device() trust.DeviceID {
	a.t.Helper()
	d, err := p2p.DeviceOf(a.at("p2p").ID)
	must(a.t, err)
	return d
}

// member is one device of an office. It holds what an anchor would, so that it compares with one.
type member struct {
	t     testing.TB
	keys  *keyring.Keyring
	state atomic.Pointer[trust.State]
	logs  *logs.Set
	host  *p2p.Host
	last  chunk.Sealed
	wrote uint64
}

var _ session.Replica = (*member)(nil)

func newMember(t testing.TB, keys *keyring.Keyring, st *trust.State) *member {
	t.Helper()
	m := &member{t: t, keys: keys}
	m.state.Store(st)
	twin := storage.NewTwin()
	var err error
	m.logs, _, err = logs.Open(t.Context(), logs.Config{Store: twin, State: m.state.Load, Logger: slog.New(slog.DiscardHandler)})
	must(t, err)
	return m
}

// connect has the member speak to anchors alone, until the test ends or the host is closed.
func (m *member) connect(at ...p2p.PeerAddr) { m.t.Helper(); m.connectFrom([]string{}, at...) }

// connectFrom is connect for one who listens, from where it is then.
func (m *member) connectFrom(listen []string, at ...p2p.PeerAddr) {
	m.t.Helper()
	var err error
	m.host, err = p2p.Open(p2p.Config{
		Identity: m.keys, Replica: m, Listen: listen, Version: "made", Schema: session.Range{Min: 1, Max: 1<<16 - 1},
		Admit:  func(d trust.DeviceID) bool { return m.state.Load().IsAnchor(d) },
		Blind:  func(trust.DeviceID) bool { return true },
		Relays: func() []p2p.PeerAddr { return at },
	})
	must(m.t, err)
	m.host.SetPeers(at)
	ended := make(chan error, 1)
	host := m.host
	go func() { ended <- host.Run(context.WithoutCancel(m.t.Context())) }()
	m.t.Cleanup(func() {
		if err := errors.Join(host.Close(), <-ended); err != nil {
			m.t.Error(err)
		}
	})
}

// writes seals the next chunk of the member's log and hands it on. It returns its place.
func (m *member) writes(text string) (trust.ScopeID, chunk.LogID, uint64) {
	m.t.Helper()
	st := m.state.Load()
	scope := m.scope()
	log := chunk.CurrentLog(m.keys)
	params := chunk.Params{Membership: st, Scope: scope, Log: log, Counter: m.wrote + 1, Dictionary: chunk.Dictionary1}
	if m.wrote > 0 {
		params.Previous = m.last.ID()
	}
	s, err := chunk.Seal(m.keys, params, &chunk.Changes{Document: [32]byte{1}, Schema: 1, Author: "user of the office", Origin: chunk.OriginEdit,
		Changes: []chunk.Change{{Raw: []byte(text)}}, Authorship: []chunk.Authorship{{Seq: params.Counter, Newest: [32]byte{1}}}})
	must(m.t, err)
	m.last = s
	m.wrote++
	_, err = m.logs.Arrive(m.t.Context(), m.keys.Device(), [][]byte{s.Bytes()})
	must(m.t, err)
	if m.host != nil {
		m.host.Push(scope)
	}
	return scope, log, m.wrote
}

func (m *member) scope() trust.ScopeID {
	m.t.Helper()
	scope, ok := m.state.Load().ScopeNamed(trust.ScopeClinical)
	if !ok {
		m.t.Fatal("the practice has no clinical records")
	}
	return scope
}

// agrees reports whether the member is connected to an anchor and holds the same.
func (m *member) agrees(a *running) bool {
	d := a.device()
	for _, p := range m.host.Peers() {
		if p.Device == d {
			return p.Connected && p.Session.InSync
		}
	}
	return false
}

// until waits until something is so.
func until(t testing.TB, patience time.Duration, what string, so func() bool) (took time.Duration) {
	t.Helper()
	for began := time.Now(); ; wait(t, 5*time.Millisecond) {
		switch took = time.Since(began); {
		case so():
			return took
		case took > patience:
			t.Fatalf("after %v still not: %s", patience, what)
		}
	}
}

// peerOf returns where an anchor is, over a transport.
func (a *running) peerOf(transport string) p2p.PeerAddr {
	return p2p.PeerAddr{Device: a.device(), Addrs: []string{a.over(transport)}}
}

// Hello describes what the member holds.
func (m *member) Hello(peer trust.DeviceID) session.Local {
	st := m.state.Load()
	l := session.Local{Practice: st.Practice(), Heads: st.Heads()}
	m.logs.Memory.Lock()
	defer m.logs.Memory.Unlock()
	for _, s := range st.Scopes() {
		if st.MayHold(peer, s.ID) && st.MayRead(m.keys.Device(), s.ID) {
			l.Scopes = append(l.Scopes, session.ScopeDigest{Scope: s.ID, Digest: session.Digest{VectorHash: m.logs.Memory.HashLocked(s.ID)}})
		}
	}
	return l
}

// EntriesSince returns the membership log.
func (m *member) EntriesSince(heads []trust.EntryID) (out [][]byte) {
	for _, e := range m.state.Load().Since(heads) {
		out = append(out, e.Bytes())
	}
	return out
}

// AddEntries takes entries.
func (m *member) AddEntries(_ context.Context, from trust.DeviceID, entries [][]byte) error {
	list, err := logs.ParseEntries(from, entries)
	if err != nil {
		return err
	}
	next, _ := m.state.Load().WithAll(list)
	m.state.Store(next)
	return nil
}

// Arrive takes chunks.
func (m *member) Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) error {
	_, err := m.logs.Arrive(ctx, from, chunks)
	return err
}

// What follows is as the logs have it.

func (m *member) Vector(scope trust.ScopeID) chunk.Vector { return m.logs.Vector(scope) }

func (m *member) Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, most int) ([]session.Item, error) {
	return m.logs.Chunks(scope, log, after, most)
}

func (m *member) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, most int) ([]session.Item, error) {
	return m.logs.Beyond(scope, log, has, most)
}

func (m *member) Stood(scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	return m.logs.Stood(scope, log, counter)
}

func (m *member) Forks(scope trust.ScopeID) map[chunk.LogID][32]byte { return m.logs.Forks(scope) }

func (m *member) Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	return m.logs.Locators(scope, log)
}

func (m *member) Acked(context.Context, trust.DeviceID, session.Ack) error { return nil }

func (m *member) SignAck(message []byte) []byte { return m.keys.Sign(trust.ContextAck, message) }

func (m *member) VerifyAck(device trust.DeviceID, message, signature []byte) bool {
	return trust.VerifySignature(device, trust.ContextAck, message, signature)
}
