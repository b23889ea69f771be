package replica_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
)

// votes is what devices know of the quorum: names are hashed under a key, and one voter votes in every epoch.
type votes struct{ certificate.Keyed }

var honest = voter{ed25519.NewKeyFromSeed(make([]byte, 32))}

func (votes) Voted(_ *trust.State, _ uint64, device trust.DeviceID) certificate.Word {
	switch device {
	case honest.Device():
		return certificate.Yes
	case stranger.Device():
		return certificate.No
	}
	return certificate.Unknown
}

var stranger = voter{ed25519.NewKeyFromSeed(append(make([]byte, 31), 1))}

type voter struct{ key ed25519.PrivateKey }

func (v voter) Device() trust.DeviceID { return trust.DeviceID(v.key.Public().(ed25519.PublicKey)) }
func (v voter) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(v.key, trust.SigningInput(context, msg))
}

// quorum is a State that tests write the log of.
type quorum struct {
	t        *testing.T
	st       *lockquorum.State
	clock    int64
	sessions uint64
	practice trust.EntryID
}

func newQuorum(t *testing.T, a *device) *quorum {
	return &quorum{t: t, st: lockquorum.New(1), practice: a.State().Practice()}
}

func (q *quorum) do(session lockquorum.SessionID, seq uint64, o lockquorum.Operation) lockquorum.Result {
	q.t.Helper()
	q.clock++
	c := &lockquorum.Command{Clock: q.clock, Device: lockquorum.DeviceID{1}, Session: session, Seq: seq, Operation: o}
	if seq > 0 {
		c.Done = seq - 1
	}
	raw, err := c.Marshal()
	must(q.t, err)
	r, _ := q.st.Apply(q.st.Index()+1, c, raw)
	return r
}

// lease is a holder's.
type lease struct {
	q       *quorum
	lock    string
	session lockquorum.SessionID
	seq     uint64
	token   lockquorum.Token
	ctx     context.Context
	end     context.CancelFunc
	known   map[lockquorum.DocumentID]lockquorum.Heads
}

func (l *lease) Lock() string             { return l.lock }
func (l *lease) Token() lockquorum.Token  { return l.token }
func (l *lease) Context() context.Context { return l.ctx }
func (l *lease) Certified(id lockquorum.DocumentID) lockquorum.Heads {
	return l.known[id]
}

func (q *quorum) acquire(lock string) *lease {
	q.t.Helper()
	q.sessions++
	l := &lease{q: q, lock: lock, session: lockquorum.SessionID{byte(q.sessions), byte(q.sessions >> 8)}, known: map[lockquorum.DocumentID]lockquorum.Heads{}}
	l.do(&lockquorum.Open{TTL: lockquorum.MaxTTL})
	r := l.do(&lockquorum.Acquire{Lock: votes{}.Lock(lock), TTL: lockquorum.MaxTTL, Try: true})
	if r.Code != lockquorum.CodeDone {
		q.t.Fatalf("acquire: %v", r.Code)
	}
	l.token = r.Token
	l.ctx, l.end = context.WithCancel(q.t.Context())
	at, _ := q.st.Lease(votes{}.Lock(lock))
	for _, d := range at.Documents {
		l.known[d.ID] = d.Heads
	}
	return l
}

func (l *lease) do(o lockquorum.Operation) lockquorum.Result {
	l.q.t.Helper()
	l.seq++
	return l.q.do(l.session, l.seq, o)
}

// over ends the lease for the quorum; its holder hears nothing.
func (l *lease) over() {
	l.q.t.Helper()
	if r := l.q.do(lockquorum.SessionID{}, 0, &lockquorum.Break{Lock: votes{}.Lock(l.lock), Token: l.token}); r.Code != lockquorum.CodeDone {
		l.q.t.Fatalf("break: %v", r.Code)
	}
}

func (l *lease) release() {
	l.q.t.Helper()
	if r := l.do(&lockquorum.Release{Lock: votes{}.Lock(l.lock), Token: l.token}); r.Code != lockquorum.CodeDone {
		l.q.t.Fatalf("release: %v", r.Code)
	}
	l.end()
}

// commit certifies what a device wrote, and reports whether that went through.
func (l *lease) commit(d *device) bool {
	l.q.t.Helper()
	list, err := d.Proposals(l)
	must(l.q.t, err)
	if len(list) == 0 {
		l.q.t.Fatalf("%s has nothing to commit", d.name)
	}
	for _, p := range list {
		if !l.propose(p) {
			return false
		}
	}
	return true
}

func (l *lease) propose(p replica.Proposal) bool {
	r := l.do(&lockquorum.Commit{Lock: votes{}.Lock(l.lock), Token: l.token, Document: p.Name, Expected: l.known[p.Name], New: p.Heads})
	if r.Code == lockquorum.CodeDone {
		l.known[p.Name] = p.Heads
	}
	return r.Code == lockquorum.CodeDone
}

// signed is what a voter says now of a document.
func (q *quorum) signed(by voter, lock string, name lockquorum.DocumentID) certificate.Signed {
	q.t.Helper()
	s, err := certificate.Sign(by, certificate.Of(q.st, q.practice, votes{}.Lock(lock), name))
	must(q.t, err)
	return s
}

// certify tells a device what is certified of the document of a resource.
func (q *quorum) certify(d *device, lock, ref string) {
	q.t.Helper()
	must(q.t, q.tryCertify(d, lock, ref))
}

func (q *quorum) tryCertify(d *device, lock, ref string) error {
	_, id, err := d.ProtectedDocument(lock, ref)
	must(q.t, err)
	name := votes{}.Document(id)
	return d.Certify(q.t.Context(), lock, name, q.signed(honest, lock, name))
}

// under writes a resource under a lease.
func (d *device) under(l *lease, body string, force bool) {
	d.t.Helper()
	_, err := d.Put(replica.Under(d.t.Context(), l), "user of "+d.name, []byte(body), force)
	must(d.t, err)
}

func list(content string) string {
	return fmt.Sprintf(`{"resourceType":"CodeSystem","id":"c1","title":%q}`, content)
}

// shows returns the title of the code list, and whether it is committed; "" if there is none.
func (d *device) shows() string {
	d.t.Helper()
	r, err := d.Get(d.t.Context(), api.Ref{Type: "CodeSystem", ID: "c1"}, "")
	if code := api.CodeOf(err); code == api.CodeNotFound || code == api.CodeDeleted {
		return ""
	}
	must(d.t, err)
	var title string
	_, err = fmt.Sscanf(string(r.JSON)[indexAfter(string(r.JSON), `"title":"`):], "%1s", &title)
	must(d.t, err)
	if r.Uncommitted {
		title += "?"
	}
	return title
}

func indexAfter(s, what string) int {
	for i := range s {
		if len(s)-i >= len(what) && s[i:i+len(what)] == what {
			return i + len(what)
		}
	}
	return len(s)
}

// rest has all devices hear all, and holds them to agree, to be whole, and to say the same when they are made anew.
func rest(t *testing.T, devices ...*device) {
	t.Helper()
	settleAll(t, devices...)
	for _, d := range devices {
		x, y := devices[0].Hello(d.Device()), d.Hello(devices[0].Device())
		for i := range x.Scopes {
			if x.Scopes[i] != y.Scopes[i] {
				t.Errorf("%s and %s hold or applied different chunks: %+v, %+v", devices[0].name, d.name, x.Scopes[i], y.Scopes[i])
			}
		}
		if r := d.verify(false); !r.Clean {
			t.Errorf("%s: %v", d.name, r.Findings)
		}
	}
}

func (d *device) states() map[string]int {
	d.t.Helper()
	out := map[string]int{}
	for _, h := range d.heldList(true) {
		out[h.State]++
	}
	return out
}

// certifiedHeads returns the most heads that a certificate names which a device holds.
func certifiedHeads(t *testing.T, d *device) (heads [][32]byte) {
	t.Helper()
	must(t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(bytes.Clone(value))
			if err != nil || sealed.Header().Kind != chunk.KindCertificate {
				return err
			}
			body, err := chunk.Open(d.keys, sealed)
			if err == nil && len(body.(*chunk.Certificate).Heads) > len(heads) {
				heads = body.(*chunk.Certificate).Heads
			}
			return err
		})
	}))
	if len(heads) == 0 {
		t.Fatal("nothing is certified")
	}
	return heads
}
