package session_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// mesh is a set of replicas with a session pair on each link, over a network that loses, doubles and reorders.
type mesh struct {
	t        *testing.T
	rng      *rand.Rand
	now      time.Time
	nodes    []*sessiontest.Replica
	links    []*link
	scopes   []trust.ScopeID
	cfg      session.Config
	lossy    bool
	vectors  map[*sessiontest.Replica]map[trust.ScopeID]chunk.Vector
	messages int
	feeds    []*session.Feed // of the nodes; nil: none
	full     []atomic.Uint32 // of the nodes; nil: none ever is
	carriers []*carrier      // of the nodes, nil: it carries nothing; nil: none does
}

// link is a pair of sessions.
type link struct {
	ends [2]int
	s    [2]*session.Session
	wire [2][]session.Frame // to end 0, to end 1
	down bool
}

func device(i int) trust.DeviceID { return sha256.Sum256(fmt.Appendf(nil, "device %d", i)) }

func newMesh(t *testing.T, seed uint64, nodes, scopes int) *mesh {
	m := &mesh{t: t, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(1790000000, 0),
		vectors: map[*sessiontest.Replica]map[trust.ScopeID]chunk.Vector{}}
	for i := range scopes {
		m.scopes = append(m.scopes, trust.ScopeID(sha256.New().Sum([]byte{byte(i)})[:16]))
	}
	for i := range nodes {
		r := sessiontest.New(device(i), trust.EntryID{1}, m.scopes...)
		r.Enter([]byte("founding"))
		r.Fail = t.Errorf
		r.OnAck = func(from trust.DeviceID, a session.Ack) {
			for _, n := range m.nodes {
				if n.Device == from && !n.Holds(a.Scope, a.Stored) {
					t.Errorf("an ACK of %s claims what is not durable there", from)
				}
			}
		}
		m.nodes = append(m.nodes, r)
	}
	return m
}

func (m *mesh) connect(a, b int) *link {
	l := &link{ends: [2]int{a, b}}
	m.links = append(m.links, l)
	m.restart(l)
	return l
}

func (m *mesh) restart(l *link) {
	l.wire = [2][]session.Frame{}
	for i := range l.ends {
		cfg := m.cfg
		cfg.Self, cfg.Peer = m.nodes[l.ends[i]].Device, m.nodes[l.ends[1-i]].Device
		cfg.Replica, cfg.Locate, cfg.Version = m.nodes[l.ends[i]], sessiontest.Locate, "0.1.0"
		if m.carriers != nil && m.carriers[l.ends[i]] != nil {
			cfg.Replica = m.carriers[l.ends[i]]
		}
		if m.feeds != nil {
			cfg.Feed = m.feeds[l.ends[i]]
		}
		if m.full != nil {
			full := &m.full[l.ends[i]]
			cfg.Full = func() session.Full { return session.Full(full.Load()) }
		}
		if l.s[i] != nil {
			l.s[i].End()
		}
		l.s[i] = session.New(cfg)
		l.s[i].Start(m.now)
	}
	m.pump()
}

// pump takes out what every session wants to send.
func (m *mesh) pump() {
	for _, l := range m.links {
		for i := range l.s {
			for {
				f, err := l.s[i].Next(context.Background(), m.now)
				if err != nil {
					m.t.Fatalf("next: %v", err)
				}
				if f == nil {
					break
				}
				if !l.down {
					l.wire[1-i] = append(l.wire[1-i], f)
				}
			}
			if window := l.s[i].Status().InFlight; m.cfg.Window > 0 && window > m.cfg.Window {
				m.t.Errorf("%d bytes in flight, window %d", window, m.cfg.Window)
			}
		}
	}
}

// deliver hands one frame to one end of l.
func (m *mesh) deliver(l *link, end int) {
	q := l.wire[end]
	if len(q) == 0 {
		return
	}
	i := 0
	if m.lossy && m.rng.IntN(4) == 0 {
		i = m.rng.IntN(len(q))
	}
	f := q[i]
	switch {
	case m.lossy && m.rng.IntN(10) == 0: // doubled: it stays
	default:
		l.wire[end] = append(append([]session.Frame{}, q[:i]...), q[i+1:]...)
	}
	if m.lossy && m.rng.IntN(8) == 0 {
		return // lost
	}
	m.messages++
	res, err := l.s[end].Handle(context.Background(), m.now, f)
	if err != nil {
		m.t.Fatalf("handle: %v", err)
	}
	for _, o := range m.links {
		for j := range o.s {
			if o == l || o.ends[j] != l.ends[end] {
				continue
			}
			if len(res.Arrived) > 0 {
				o.s[j].Relayed(m.now, res.Arrived)
			}
			if res.Entries {
				o.s[j].LocalEntries(m.now)
			}
		}
	}
	m.check(m.nodes[l.ends[end]])
}

// check asserts that no vector goes back.
func (m *mesh) check(r *sessiontest.Replica) {
	if m.vectors[r] == nil {
		m.vectors[r] = map[trust.ScopeID]chunk.Vector{}
	}
	for _, id := range m.scopes {
		v := r.Vector(id)
		for log, p := range m.vectors[r][id] {
			if v[log].Counter < p.Counter {
				m.t.Errorf("the vector went back from %d to %d", p.Counter, v[log].Counter)
			}
		}
		m.vectors[r][id] = v
	}
}

func (m *mesh) edit(node, scope, size int) {
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(m.rng.Uint32())
	}
	m.nodes[node].Edit(m.scopes[scope], body)
	m.each(node, func(s *session.Session) { s.LocalChunks(m.now) })
}

func (m *mesh) each(node int, fn func(*session.Session)) {
	for _, l := range m.links {
		for j := range l.s {
			if l.ends[j] == node {
				fn(l.s[j])
			}
		}
	}
}

// settle delivers all frames in order until there are none.
func (m *mesh) settle() {
	m.lossy = false
	for {
		m.pump()
		busy := false
		for _, l := range m.links {
			for end := range l.wire {
				if len(l.wire[end]) > 0 {
					busy = true
					m.deliver(l, end)
				}
			}
		}
		if !busy {
			return
		}
	}
}

// heal settles and lets time pass until everything agrees, or limit has passed.
func (m *mesh) heal(limit time.Duration) {
	end := m.now.Add(limit)
	for {
		m.settle()
		for i, n := range m.nodes {
			for _, id := range m.scopes {
				if n.Apply(id) {
					m.each(i, func(s *session.Session) { s.Applied(m.now, id) })
				}
			}
		}
		m.settle()
		if m.agreed() {
			return
		}
		if m.now.After(end) {
			for _, l := range m.links {
				m.t.Logf("%v: %+v", l.ends, l.s[0].Status())
				m.t.Logf("%v: %+v", l.ends, l.s[1].Status())
			}
			m.t.Fatalf("no agreement after %v", limit)
		}
		next := end.Add(time.Second)
		for _, l := range m.links {
			for _, s := range l.s {
				if d := s.Deadline(); d.After(m.now) && d.Before(next) {
					next = d
				}
			}
		}
		m.now = next
	}
}

func (m *mesh) agreed() bool {
	for _, l := range m.links {
		if !l.s[0].Status().Agreed || !l.s[1].Status().Agreed {
			return false
		}
	}
	return true
}

func (m *mesh) converged() {
	m.t.Helper()
	for _, n := range m.nodes[1:] {
		if n.Entries() != m.nodes[0].Entries() {
			m.t.Errorf("%d membership entries at one, %d at another", m.nodes[0].Entries(), n.Entries())
		}
		for _, id := range m.scopes {
			if n.Vector(id).Hash() != m.nodes[0].Vector(id).Hash() {
				m.t.Errorf("vectors of %s differ", id)
			}
		}
	}
}

// feed gives every node a Feed.
func (m *mesh) feed() {
	for range m.nodes {
		m.feeds = append(m.feeds, new(session.Feed))
	}
}

// seeds returns how many seeds to run, and the first.
func seeds(usual int) (first, n uint64) {
	if s, err := strconv.ParseUint(os.Getenv("SESSION_SEED"), 10, 64); err == nil {
		return s, 1
	}
	if os.Getenv("HEAVY") != "" {
		usual *= 20
	}
	return 1, uint64(usual)
}

func forSeeds(t *testing.T, usual int, run func(t *testing.T, seed uint64)) {
	first, n := seeds(usual)
	for seed := first; seed < first+n; seed++ {
		run(t, seed)
		if t.Failed() {
			t.Fatalf("seed %d failed; run again: SESSION_SEED=%d go test ./p2p/session -run '^%s$'", seed, seed, t.Name())
		}
	}
}

// TestLossyPair runs two devices that edit, apply, enlarge the membership and reconnect over a bad network.
func TestLossyPair(t *testing.T) {
	forSeeds(t, 1000, func(t *testing.T, seed uint64) { chaos(t, seed, 2, [][2]int{{0, 1}}, 120) })
}

// TestGossipMesh runs five devices on a ring with one chord: most pairs hear of each other's edits by relay alone.
func TestGossipMesh(t *testing.T) {
	forSeeds(t, 80, func(t *testing.T, seed uint64) {
		chaos(t, seed, 5, [][2]int{{0, 1}, {1, 2}, {2, 3}, {3, 4}, {4, 0}, {1, 3}}, 400)
	})
}

func chaos(t *testing.T, seed uint64, nodes int, links [][2]int, steps int) {
	m := newMesh(t, seed, nodes, 2)
	m.lossy = true
	m.cfg.Window, m.cfg.FramePayload = 2000, 600
	for _, n := range m.nodes {
		n.Lazy = m.rng.IntN(2) == 0
		n.Drop = func(session.Place) bool { return m.lossy && m.rng.IntN(20) == 0 }
	}
	if m.rng.IntN(2) == 0 {
		m.feed()
	}
	for _, l := range links {
		m.connect(l[0], l[1])
	}
	for range steps {
		switch k := m.rng.IntN(20); {
		case k < 11:
			l := m.links[m.rng.IntN(len(m.links))]
			m.deliver(l, m.rng.IntN(2))
		case k < 14:
			m.edit(m.rng.IntN(nodes), m.rng.IntN(2), m.rng.IntN(300))
		case k < 15:
			i := m.rng.IntN(nodes)
			m.nodes[i].Enter([]byte{byte(m.rng.Uint32()), byte(m.rng.Uint32())})
			m.each(i, func(s *session.Session) { s.LocalEntries(m.now) })
		case k < 17:
			i, id := m.rng.IntN(nodes), m.scopes[m.rng.IntN(2)]
			if m.nodes[i].Apply(id) {
				m.each(i, func(s *session.Session) { s.Applied(m.now, id) })
			}
		case k < 18:
			m.now = m.now.Add(time.Duration(m.rng.IntN(5000)) * time.Millisecond)
		case k < 19:
			l := m.links[m.rng.IntN(len(m.links))]
			l.down = !l.down
		default:
			m.restart(m.links[m.rng.IntN(len(m.links))])
		}
		m.pump()
	}
	for _, l := range m.links {
		l.down = false
	}
	m.heal(10 * time.Minute)
	m.converged()
}
