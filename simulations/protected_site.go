package simulations

import (
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// names is what devices know of the quorum.
type names struct {
	certificate.Keyed
	voters map[trust.DeviceID]bool
}

func (n names) Voted(_ *trust.State, _ uint64, device trust.DeviceID) certificate.Word {
	if n.voters[device] {
		return certificate.Yes
	}
	return certificate.No
}

// signer is a voter's key.
type signer struct{ key ed25519.PrivateKey }

func newSigner(n byte) signer {
	return signer{ed25519.NewKeyFromSeed(append(make([]byte, 31), n))}
}

func (v signer) Device() trust.DeviceID { return trust.DeviceID(v.key.Public().(ed25519.PublicKey)) }
func (v signer) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(v.key, trust.SigningInput(context, msg))
}

// site is a device of such a world.
type site struct {
	w       *protectedWorld
	name    string
	twin    *storage.Twin
	keys    *keyring.Keyring
	engine  crdt.Engine
	replica *replica.Replica
	leases  map[string]*simLease
	saved   map[string]string // resources as they were read some time ago
	read    map[chunk.LogID]uint64

	accepted int // changes, at the last look
}

// simLease is a lease as its holder has it.
type simLease struct {
	lock    string
	session lockquorum.SessionID
	seq     uint64
	token   lockquorum.Token
	ctx     context.Context
	end     context.CancelFunc
	known   map[lockquorum.DocumentID]lockquorum.Heads
}

func (l *simLease) Lock() string             { return l.lock }
func (l *simLease) Token() lockquorum.Token  { return l.token }
func (l *simLease) Context() context.Context { return l.ctx }
func (l *simLease) Certified(id lockquorum.DocumentID) lockquorum.Heads {
	return l.known[id]
}

// underLease is a change of a protected document, as its author's log has it.
type underLease struct {
	doc   crdt.DocumentID
	deps  []crdt.ChangeHash
	fence chunk.Fence
	chunk chunk.ID
}

// found makes the practice. All devices know one membership log.
func (w *protectedWorld) found() {
	var all []*site
	var st *trust.State
	var entries []trust.Entry
	for i := range protectedDevices + 3 {
		stream := rand.NewChaCha8([32]byte{byte(w.cfg.Seed), byte(w.cfg.Seed >> 8), byte(w.cfg.Seed >> 16), byte(i), 2})
		s := &site{w: w, name: string(rune('A' + i)), twin: storage.NewTwin(), leases: map[string]*simLease{}, saved: map[string]string{},
			read: map[chunk.LogID]uint64{}}
		var err error
		if s.keys, err = keyring.Create("", stream); err != nil {
			w.must("create keyring", err)
			return
		}
		var e trust.Entry
		if i == 0 {
			e, _, err = s.keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "A", Device: "A", Now: w.now})
		} else {
			e, err = all[0].keys.Admit(st, keyring.Newcomer{Device: s.keys.Device(), HPKE: s.keys.HPKEPublic(), DeviceName: s.name, SiteName: s.name, Now: w.now,
				Role: w.roleOf(i)})
		}
		w.must("belong", err)
		entries = append(entries, e)
		st, _ = trust.Replay(entries)
		if i == 0 {
			w.must("learn", s.keys.Learn(st))
		}
		all = append(all, s)
	}
	for _, s := range all {
		w.must("adopt", replica.Adopt(w.ctx, s.twin, entries))
		s.open()
	}
	w.sites, w.last, w.forger, w.newcomer = all[:protectedDevices], all[protectedDevices], all[protectedDevices+1], all[protectedDevices+2]
	w.scope, _ = st.ScopeNamed("clinical")
	w.forged = chunk.Params{Membership: st, Scope: w.scope, Log: chunk.CurrentLog(w.forger.keys), Counter: 1}
}

// roleOf has those who write nothing be readers, whose word nobody waits for before what is packed is deleted.
func (w *protectedWorld) roleOf(i int) trust.Role {
	if i < protectedDevices || i == protectedDevices+1 && w.cfg.Liar {
		return trust.RoleMember
	}
	return trust.RoleReader
}

func (s *site) open() {
	if s.engine != nil {
		_ = s.engine.Close()
	}
	s.engine = engine.NewLocal()
	r, err := replica.Open(replica.Config{Store: s.twin, Keyring: s.keys, Engine: s.engine, OpenOps: 2000, Quorum: s.w.names,
		Compaction: replica.Compaction{Changes: 5, Idle: time.Second, Grace: time.Millisecond}, Now: func() time.Time { return s.w.now }})
	s.w.must("open", err)
	s.replica = r
}

// meet has two devices exchange so many frames, applying now and then; it reports whether they had nothing more to say.
func (w *protectedWorld) meet(a, b *site, frames int) (done bool) {
	if a == b {
		return true
	}
	x := session.New(session.Config{Self: a.keys.Device(), Peer: b.keys.Device(), Replica: a.replica})
	y := session.New(session.Config{Self: b.keys.Device(), Peer: a.keys.Device(), Replica: b.replica})
	now := w.now
	x.Start(now)
	y.Start(now)
	for frames > 0 && w.failure == nil {
		busy := false
		for _, e := range []struct {
			from, to *session.Session
		}{{x, y}, {y, x}} {
			f, err := e.from.Next(w.ctx, now)
			w.must("frame", err)
			if f == nil {
				continue
			}
			busy = true
			frames--
			w.report.Frames++
			_, err = e.to.Handle(w.ctx, now, f)
			w.must("frame", err)
		}
		for _, s := range []*site{a, b} {
			if w.chance(3) || !busy {
				busy = w.apply(s, 1+w.rng.IntN(3)) || busy
				x.Applied(now, w.scope)
				y.Applied(now, w.scope)
			}
		}
		now = now.Add(time.Millisecond)
		if !busy {
			w.note("%s and %s have said all", a.name, b.name)
			return true
		}
	}
	return false
}

// pass has one device send another what it holds of one log alone, so that a certificate may come before what it certifies.
func (w *protectedWorld) pass(from, to *site) {
	held := from.replica.Vector(w.scope)
	all := held.Logs()
	if from == to || len(all) == 0 {
		return
	}
	log := all[w.rng.IntN(len(all))]
	items, err := from.replica.Chunks(w.scope, log, to.replica.Vector(w.scope)[log].Counter, 1<<20)
	w.must("read log", err)
	var chunks [][]byte
	for _, it := range items {
		chunks = append(chunks, it.Bytes)
	}
	w.must("arrive", to.replica.Arrive(w.ctx, from.keys.Device(), chunks))
	w.apply(to, 50)
	w.note("%s passes %d chunks of one log to %s", from.name, len(chunks), to.name)
}

// readLog notes what a device wrote into its own log.
func (w *protectedWorld) readLog(s *site) {
	for _, own := range s.replica.OwnLogs() {
		w.must("read log", s.twin.View(func(v storage.Reader) error {
			return v.Scan(storage.Chunk.With2(w.scope, own.ID), storage.Chunk.Key(w.scope, own.ID, s.read[own.ID]+1), func(_, value []byte) error {
				sealed, err := chunk.Parse(append([]byte(nil), value...))
				if err != nil {
					return err
				}
				s.read[own.ID] = sealed.Header().Counter
				body, err := chunk.Open(s.keys, sealed)
				if err != nil {
					return err
				}
				w.learn(sealed, body)
				return nil
			})
		}))
	}
}

func (w *protectedWorld) learn(sealed chunk.Sealed, body chunk.Body) {
	switch body := body.(type) {
	case *chunk.Changes:
		for _, ch := range body.Changes {
			c, err := crdt.Decode(ch.Raw)
			w.must("decode", err)
			w.changes[c.Hash] = underLease{body.Document, c.Deps, sealed.Header().Fence, sealed.ID()}
		}
	case *chunk.Checkpoint:
		w.packs[names8(sealed.ID())] = true
		w.packedRightly(body)
	case *chunk.Certificate:
		w.certificates++
		st, err := certificate.Parse(body.Statement)
		w.must("statement", err)
		var heads []crdt.ChangeHash
		for _, h := range body.Heads {
			heads = append(heads, h)
		}
		w.plain[st.Heads] = heads
	}
}

// names8 is how a chunk is called in lists.
func names8(id chunk.ID) string { return strings.ToLower(hex.EncodeToString(id[:8])) }
