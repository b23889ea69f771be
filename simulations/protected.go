package simulations

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A protected world is a practice that changes protected documents: devices take leases of a quorum that is a State without voters, lose
// them with and without hearing of it, write, commit, learn what is certified, release late work, crash, and meet each other in pieces of sessions. What is asked of the
// real voters is asked in simulations/quorum; here it is what replicas make of their word.

// ProtectedConfig says what such a world is like.
type ProtectedConfig struct {
	Seed  uint64
	Steps int // zero: 250
	// Liar has a voter sign what is not so, which a member puts into its log.
	Liar bool
}

// ProtectedReport is what it went through.
type ProtectedReport struct {
	Seed                                            uint64
	Writes, Refused, Commits, Stale                 int
	Certificates, Unresolved, Leases, Lost, Back    int
	Reseeds, Released, Crashes, Frames, Checkpoints int
	Accepted, Late, Settled, Lies                   int
	Deleted                                         int // chunks that checkpoints stand for
	Packed                                          int // certificates of which the chunk is deleted
	Beside                                          int // documents with late work of which something is packed
	Agreed                                          int // times that two devices held the same and were compared
}

const (
	protectedSteps   = 250
	protectedDevices = 4 // that write; two more hear of all at the end, one has a log that a liar writes
)

var protectedLocks = []string{"code-lists", "settings"}

type protectedWorld struct {
	ctx      context.Context
	cfg      ProtectedConfig
	rng      *rand.Rand
	now      time.Time
	st       *lockquorum.State
	clock    int64
	sessions uint64
	names    names
	honest   signer
	liar     signer
	sites    []*site
	last     *site // hears of all at the end
	newcomer *site // hears of all when it is packed
	forger   *site // its log is the liar's
	forged   chunk.Params
	scope    trust.ScopeID
	changes  map[crdt.ChangeHash]underLease
	packs    map[string]bool // checkpoints
	plain    map[lockquorum.Heads][]crdt.ChangeHash
	commits  [][2]lockquorum.Heads // what was certified, and on what
	steps    []string
	joined   bool // the newcomer has
	// certificates is how many were put into logs.
	certificates int
	failure      *Failure
	report       ProtectedReport
}

// RunProtected runs one such world to its end, or to the first invariant that does not hold.
func RunProtected(ctx context.Context, cfg ProtectedConfig) (ProtectedReport, *Failure) {
	if cfg.Steps == 0 {
		cfg.Steps = protectedSteps
	}
	w := &protectedWorld{
		ctx: ctx, cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x70726f746563)), now: time.Date(2026, 11, 27, 8, 0, 0, 0, time.UTC),
		st: lockquorum.New(1), honest: newSigner(1), liar: newSigner(2),
		changes: map[crdt.ChangeHash]underLease{}, packs: map[string]bool{}, plain: map[lockquorum.Heads][]crdt.ChangeHash{},
	}
	w.report.Seed = cfg.Seed
	w.names = names{certificate.Keyed{byte(cfg.Seed)}, map[trust.DeviceID]bool{w.honest.Device(): true, w.liar.Device(): true}}
	defer func() {
		for _, s := range append(w.sites, w.last, w.forger, w.newcomer) {
			if s != nil && s.engine != nil {
				_ = s.engine.Close()
			}
		}
	}()
	w.found()
	for range cfg.Steps {
		if w.failure != nil {
			return w.report, w.failure
		}
		w.step()
	}
	w.rest()
	return w.report, w.failure
}

func (w *protectedWorld) fail(invariant, format string, args ...any) {
	if w.failure == nil {
		w.failure = &Failure{Seed: w.cfg.Seed, Invariant: invariant, Detail: fmt.Sprintf(format, args...), Trace: w.steps}
	}
}

func (w *protectedWorld) note(format string, args ...any) {
	w.steps = append(w.steps[max(0, len(w.steps)-traceLength):], fmt.Sprintf(format, args...))
}

// must fails the world on an error that nothing explains.
func (w *protectedWorld) must(what string, err error) {
	if err != nil {
		w.fail("I-sound", "%s: %v", what, err)
	}
}

func (w *protectedWorld) chance(of int) bool { return w.rng.IntN(of) == 0 }

// do has the quorum carry an operation out.
func (w *protectedWorld) do(id lockquorum.SessionID, seq uint64, o lockquorum.Operation) lockquorum.Result {
	w.clock++
	c := &lockquorum.Command{Clock: w.clock, Device: lockquorum.DeviceID{1}, Session: id, Seq: seq, Operation: o}
	if seq > 0 {
		c.Done = seq - 1
	}
	raw, err := c.Marshal()
	w.must("command", err)
	r, _ := w.st.Apply(w.st.Index()+1, c, raw)
	return r
}

func (w *protectedWorld) step() {
	w.now = w.now.Add(time.Second)
	s := w.sites[w.rng.IntN(len(w.sites))]
	lock := protectedLocks[min(w.rng.IntN(4)/3, 1)]
	switch n := w.rng.IntN(100); {
	case n < 12:
		w.acquire(s, lock)
	case n < 38:
		w.write(w.holder(s, lock), lock)
	case n < 54:
		w.commit(w.holder(s, lock), lock)
	case n < 59:
		w.certify(s, w.anyDocument())
	case n < 61:
		w.over(lock)
	case n < 62 && w.chance(3):
		w.reseed()
	case n < 67:
		w.release(w.holder(s, lock), lock)
	case n < 69:
		w.crash(s)
	case n < 72:
		w.compact(s)
	case n < 74 && w.cfg.Liar:
		w.lie()
	case n < 80:
		w.apply(s, 1)
	case n < 90:
		w.pass(s, w.sites[w.rng.IntN(len(w.sites))])
	default:
		w.meet(s, w.sites[w.rng.IntN(len(w.sites))], 1+w.rng.IntN(25))
	}
	w.agree()
	w.kept()
}

// holder returns somebody who has a lease, or had one and has not heard of its end; s if nobody does.
func (w *protectedWorld) holder(s *site, lock string) *site {
	for _, i := range w.rng.Perm(len(w.sites)) {
		if w.sites[i].leases[lock] != nil {
			return w.sites[i]
		}
	}
	return s
}

func (w *protectedWorld) acquire(s *site, lock string) {
	w.sessions++
	id := lockquorum.SessionID{byte(w.sessions), byte(w.sessions >> 8)}
	l := &simLease{lock: lock, session: id, known: map[lockquorum.DocumentID]lockquorum.Heads{}}
	l.seq++
	w.do(id, l.seq, &lockquorum.Open{TTL: lockquorum.MaxTTL})
	l.seq++
	r := w.do(id, l.seq, &lockquorum.Acquire{Lock: w.names.Lock(lock), TTL: lockquorum.MaxTTL, Try: true})
	if r.Code != lockquorum.CodeDone {
		l.seq++
		w.do(id, l.seq, &lockquorum.End{})
		return
	}
	l.token = r.Token
	l.ctx, l.end = context.WithCancel(w.ctx)
	at, _ := w.st.Lease(w.names.Lock(lock))
	for _, d := range at.Documents {
		l.known[d.ID] = d.Heads
	}
	s.leases[lock] = l
	w.report.Leases++
	w.note("%s holds %s under %v", s.name, lock, l.token)
	// What the grant says of the documents, as far as it can be told what it is.
	for i := range 4 {
		w.certify(s, w.ref(lock, i))
	}
}

// refs are the resources of a lock.
type protectedRef struct{ lock, typ, id string }

func (p protectedRef) key() string { return p.typ + "/" + p.id }

func (w *protectedWorld) ref(lock string, n int) protectedRef {
	if lock == "settings" {
		return protectedRef{lock, "Basic", fmt.Sprintf("s%d", n)}
	}
	return protectedRef{lock, "CodeSystem", fmt.Sprintf("c%d", n)}
}

func (w *protectedWorld) anyDocument() protectedRef {
	return w.ref(protectedLocks[w.rng.IntN(2)], w.rng.IntN(4))
}

func (w *protectedWorld) write(s *site, lock string) {
	l := s.leases[lock]
	if l == nil {
		return
	}
	p := w.ref(lock, w.rng.IntN(4))
	obj := map[string]any{"resourceType": p.typ, "id": p.id, "title": fmt.Sprintf("%s %d", s.name, w.report.Writes)}
	force := true
	if old, ok := s.saved[p.key()]; ok && w.chance(4) { // a form that was read long ago
		w.must("read", json.Unmarshal([]byte(old), &obj))
		obj["title"], force = fmt.Sprintf("%s %d", s.name, w.report.Writes), false
	}
	if p.typ == "Basic" {
		obj["code"] = map[string]any{"coding": []any{map[string]any{"system": "urn:chartmesh:basic", "code": "settings"}}}
	}
	body, err := json.Marshal(obj)
	w.must("write", err)
	_, err = s.replica.Put(replica.Under(w.ctx, l), "user "+s.name, body, force)
	switch code := api.CodeOf(err); code {
	case "":
		w.report.Writes++
		w.note("%s writes %s under %v", s.name, p.key(), l.token)
	case api.CodeLease:
		w.report.Refused++
		delete(s.leases, lock)
	case api.CodeUnavailable, api.CodeConflict:
		w.report.Refused++
	default:
		w.fail("I-sound", "%s writes %s: %v", s.name, p.key(), err)
	}
	if w.chance(3) {
		if res, err := s.replica.Get(w.ctx, api.Ref{Type: p.typ, ID: p.id}, ""); err == nil {
			s.saved[p.key()] = string(res.JSON)
		}
	}
	w.readLog(s)
}

func (w *protectedWorld) commit(s *site, lock string) {
	l := s.leases[lock]
	if l == nil {
		return
	}
	list, err := s.replica.Proposals(l)
	if w.cfg.Liar && api.CodeOf(err) == api.CodeUnavailable {
		return // a lie has taken back what it was granted on
	}
	w.must("proposals", err)
	for _, p := range list {
		l.seq++
		r := w.do(l.session, l.seq, &lockquorum.Commit{Lock: w.names.Lock(lock), Token: l.token, Document: p.Name, Expected: l.known[p.Name], New: p.Heads})
		if r.Code != lockquorum.CodeDone {
			w.report.Stale++
			w.note("%s cannot commit under %v: %v", s.name, l.token, r.Code)
			if w.chance(2) {
				l.end()
				delete(s.leases, lock)
			}
			return
		}
		w.commits = append(w.commits, [2]lockquorum.Heads{l.known[p.Name], p.Heads})
		l.known[p.Name] = p.Heads
		w.report.Commits++
		w.note("%s commits under %v", s.name, l.token)
		if !w.chance(3) { // else it says nothing, as one that dies
			w.certifyNamed(s, lock, p.Name)
		}
	}
	if w.chance(3) {
		l.seq++
		w.do(l.session, l.seq, &lockquorum.Release{Lock: w.names.Lock(lock), Token: l.token})
		l.end()
		delete(s.leases, lock)
	}
}

func (w *protectedWorld) certify(s *site, p protectedRef) {
	_, id, err := s.replica.ProtectedDocument(p.lock, p.key())
	w.must("place", err)
	w.certifyNamed(s, p.lock, w.names.Document(id))
}

// certifyNamed tells a device what is certified of a document; it may not be able to tell what that is.
func (w *protectedWorld) certifyNamed(s *site, lock string, name lockquorum.DocumentID) {
	st := certificate.Of(w.st, s.replica.State().Practice(), w.names.Lock(lock), name)
	signed, err := certificate.Sign(w.honest, st)
	w.must("sign", err)
	switch err := s.replica.Certify(w.ctx, lock, name, signed); {
	case errors.Is(err, replica.ErrNotHere):
		w.report.Unresolved++
	case err != nil:
		w.fail("I-sound", "%s takes a certificate: %v", s.name, err)
	default:
		w.report.Certificates++
		w.note("%s hears that %v holds at %v", s.name, st.Token, st.Place)
	}
	w.readLog(s)
}

// over ends a lease for the quorum, whoever holds it; perhaps what was certified is taken back. Its holder hears of it, or not.
func (w *protectedWorld) over(lock string) {
	at, ok := w.st.Lease(w.names.Lock(lock))
	if !ok || at.Token.IsZero() {
		return
	}
	b := &lockquorum.Break{Lock: w.names.Lock(lock), Token: at.Token}
	if w.chance(4) && w.cfg.Seed%2 == 0 { // in half of the worlds, for kept looks at the others
		for _, d := range at.Documents {
			if d.Previous != (lockquorum.Heads{}) && w.plain[d.Previous] != nil && len(b.Back) == 0 {
				b.Back = append(b.Back, lockquorum.Certified{Document: d.ID, Heads: d.Previous})
			}
		}
	}
	if r := w.do(lockquorum.SessionID{}, 0, b); r.Code != lockquorum.CodeDone {
		return
	}
	w.report.Lost++
	w.report.Back += len(b.Back)
	w.note("the lease %v of %s is broken, %d documents go back", at.Token, lock, len(b.Back))
	for _, s := range w.sites {
		if l := s.leases[lock]; l != nil && w.chance(3) {
			l.end()
		}
	}
}

func (w *protectedWorld) reseed() {
	w.st.Reseed(w.st.Epoch()+1, nil)
	w.report.Reseeds++
	w.note("the voters are founded anew, epoch %d", w.st.Epoch())
}

// release has somebody release late work under a lease.
func (w *protectedWorld) release(s *site, lock string) {
	page, err := s.replica.ListHeld(w.ctx, api.HeldQuery{State: "quarantined"})
	w.must("list", err)
	l := s.leases[lock]
	if l == nil || len(page.Chunks) == 0 {
		return
	}
	h := page.Chunks[w.rng.IntN(len(page.Chunks))]
	_, err = s.replica.DecideHeld(replica.Under(w.ctx, l), "user "+s.name, h.Chunk, api.HeldDecision{Verdict: "release"})
	switch api.CodeOf(err) {
	case "":
		w.report.Released++
		w.note("%s releases %s", s.name, h.Chunk)
	case api.CodeLease, api.CodeUnavailable, api.CodeInvalid:
	default:
		w.fail("I-sound", "%s releases %s: %v", s.name, h.Chunk, err)
	}
	w.readLog(s)
}

func (w *protectedWorld) crash(s *site) {
	s.twin = s.twin.Crash()
	s.open()
	w.report.Crashes++
	w.note("%s starts again", s.name)
}

func (w *protectedWorld) compact(s *site) {
	c, err := s.replica.Compact(w.ctx, true)
	w.must("compact", err)
	w.report.Checkpoints += c.Checkpoints
	w.report.Deleted += c.Deleted
	w.readLog(s)
}

// agreeForged has the device whose log the liar writes agree to all checkpoints, so that what they cover is deleted.
func (w *protectedWorld) agreeForged() {
	var list []chunk.Sealed
	w.must("read log", w.sites[0].twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(append([]byte(nil), value...))
			if err == nil && sealed.Header().Kind == chunk.KindCheckpoint {
				list = append(list, sealed)
			}
			return err
		})
	}))
	for _, c := range list {
		body, err := chunk.Open(w.sites[0].keys, c)
		w.must("open", err)
		w.forge(&chunk.Cover{Document: body.DocumentID(), Checkpoint: c.Place(), OK: true})
	}
}

// forge puts a chunk into the liar's log.
func (w *protectedWorld) forge(body chunk.Body) {
	sealed, err := chunk.Seal(w.forger.keys, w.forged, body)
	w.must("seal", err)
	w.forged.Counter, w.forged.Previous = w.forged.Counter+1, sealed.ID()
	w.must("arrive", w.sites[0].replica.Arrive(w.ctx, w.forger.keys.Device(), [][]byte{sealed.Bytes()}))
}

// lie has a voter sign another state of things, and a member put it into its log.
func (w *protectedWorld) lie() {
	p := w.anyDocument()
	_, id, err := w.forger.replica.ProtectedDocument(p.lock, p.key())
	w.must("place", err)
	st := certificate.Of(w.st, w.forger.replica.State().Practice(), w.names.Lock(p.lock), w.names.Document(id))
	if st.Heads == (lockquorum.Heads{}) || w.plain[st.Heads] == nil {
		return
	}
	var heads [][32]byte
	for _, h := range w.plain[st.Heads] {
		heads = append(heads, h)
	}
	switch w.rng.IntN(3) {
	case 0:
		st.Chain[0]++
	case 1: // other heads at the same place
		for h, c := range w.changes {
			if c.doc == id && (len(heads) != 1 || h != heads[0]) && lessHash(h, crdt.ChangeHash(heads[0])) {
				heads = [][32]byte{h}
				st.Heads = w.names.Heads(id, heads)
				break
			}
		}
	default:
		if st.How == 0 && !st.Token.IsZero() {
			st.How, st.EndedAt = lockquorum.SealReleased, st.Place
		}
	}
	signed, err := certificate.Sign(w.liar, st)
	if err != nil {
		return // no State says so
	}
	w.forge(&chunk.Certificate{Document: id, Statement: signed.Statement, Voter: signed.Voter, Signature: signed.Signature, Heads: heads})
	w.report.Lies++
	w.note("a voter lies about %s", p.key())
}

func lessHash(a, b crdt.ChangeHash) bool { return hex.EncodeToString(a[:]) < hex.EncodeToString(b[:]) }

func (w *protectedWorld) apply(s *site, times int) (more bool) {
	for range times {
		var err error
		if more, err = s.replica.Apply(w.ctx); err != nil {
			w.fail("I-sound", "%s applies: %v", s.name, err)
			return false
		}
		if !more {
			return false
		}
	}
	return more
}
