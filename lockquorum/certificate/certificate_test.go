package certificate_test

import (
	"crypto/ed25519"
	"errors"
	"testing"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
	"chartmesh/wire"
)

var (
	practice = trust.EntryID{1}
	document = [32]byte{2}
	key      = certificate.Keyed{3}
)

const lock = "code-lists"

var subject = certificate.Subject{Practice: practice, Lock: lock, Document: document}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// voter signs as a device.
type voter struct{ key ed25519.PrivateKey }

func newVoter(seed byte) voter {
	return voter{ed25519.NewKeyFromSeed(append(make([]byte, 31), seed))}
}

func (v voter) Device() trust.DeviceID { return trust.DeviceID(v.key.Public().(ed25519.PublicKey)) }
func (v voter) Sign(context string, msg []byte) []byte {
	return ed25519.Sign(v.key, trust.SigningInput(context, msg))
}

// quorum is a State whose log is written by hand.
type quorum struct {
	t  testing.TB
	st *lockquorum.State
}

func newQuorum(t testing.TB, epoch uint64) *quorum {
	return &quorum{t: t, st: lockquorum.New(epoch)}
}

// do has a device's session carry an operation out.
func (q *quorum) do(clock int64, session byte, seq uint64, o lockquorum.Operation) lockquorum.Result {
	q.t.Helper()
	c := &lockquorum.Command{Clock: clock, Device: lockquorum.DeviceID{session}, Session: lockquorum.SessionID{session}, Seq: seq, Done: seq - 1, Operation: o}
	raw, err := c.Marshal()
	must(q.t, err)
	r, _ := q.st.Apply(q.st.Index()+1, c, raw)
	return r
}

func (q *quorum) acquire(clock int64, session byte, seq uint64) lockquorum.Token {
	q.t.Helper()
	r := q.do(clock, session, seq, &lockquorum.Acquire{Lock: key.Lock(lock), TTL: 20_000, Try: true})
	if r.Code != lockquorum.CodeDone {
		q.t.Fatalf("acquire: %v", r.Code)
	}
	return r.Token
}

func heads(list ...certificate.Hash) lockquorum.Heads { return key.Heads(document, list) }

func (q *quorum) commit(clock int64, session byte, seq uint64, token lockquorum.Token, expected, next lockquorum.Heads) {
	q.t.Helper()
	r := q.do(clock, session, seq, &lockquorum.Commit{Lock: key.Lock(lock), Token: token, Document: key.Document(document), Expected: expected, New: next})
	if r.Code != lockquorum.CodeDone {
		q.t.Fatalf("commit: %v", r.Code)
	}
}

func (q *quorum) statement() certificate.Statement {
	return certificate.Of(q.st, practice, key.Lock(lock), key.Document(document))
}

// life returns the statements after each command of a document's life: nothing, a lease, a commit, its end, another lease, a commit, a break that goes back.
func life(t testing.TB) (list []certificate.Certified) {
	q := newQuorum(t, 1)
	say := func(plain ...certificate.Hash) {
		list = append(list, certificate.Certified{Statement: q.statement(), Plain: plain})
	}
	say()
	q.do(0, 1, 1, &lockquorum.Open{TTL: 60_000})
	say()
	one := q.acquire(10, 1, 2)
	say()
	q.commit(20, 1, 3, one, lockquorum.Heads{}, heads(certificate.Hash{1}))
	say(certificate.Hash{1})
	q.do(30, 1, 4, &lockquorum.Release{Lock: key.Lock(lock), Token: one})
	say(certificate.Hash{1})
	q.do(40, 2, 1, &lockquorum.Open{TTL: 60_000})
	two := q.acquire(50, 2, 2)
	say(certificate.Hash{1})
	q.commit(60, 2, 3, two, heads(certificate.Hash{1}), heads(certificate.Hash{2}))
	say(certificate.Hash{2})
	q.do(70, 3, 1, &lockquorum.Open{TTL: 60_000})
	if r := q.do(80, 3, 2, &lockquorum.Break{Lock: key.Lock(lock), Token: two,
		Back: []lockquorum.Certified{{Document: key.Document(document), Heads: heads(certificate.Hash{1})}}}); r.Code != lockquorum.CodeDone {
		t.Fatalf("break: %v", r.Code)
	}
	say(certificate.Hash{1})
	return list
}

func TestVerify(t *testing.T) {
	v := newVoter(1)
	for _, c := range life(t) {
		signed, err := certificate.Sign(v, c.Statement)
		must(t, err)
		got, err := signed.Verify(key, subject, c.Plain)
		if must(t, err); got != c.Statement {
			t.Errorf("%+v is read as %+v", c.Statement, got)
		}
		for name, of := range map[string]certificate.Subject{
			"practice": {Practice: trust.EntryID{9}, Lock: lock, Document: document},
			"lock":     {Practice: practice, Lock: "settings", Document: document},
			"document": {Practice: practice, Lock: lock, Document: [32]byte{9}},
		} {
			if _, err := signed.Verify(key, of, c.Plain); !errors.Is(err, certificate.ErrOther) {
				t.Errorf("of another %s: %v", name, err)
			}
		}
		if _, err := signed.Verify(key, subject, append(c.Plain, certificate.Hash{9})); !errors.Is(err, certificate.ErrOther) {
			t.Errorf("of other heads: %v", err)
		}
		if _, err := signed.Verify(certificate.Keyed{4}, subject, c.Plain); !errors.Is(err, certificate.ErrOther) {
			t.Errorf("under another key: %v", err)
		}
		other := signed
		other.Voter = newVoter(2).Device()
		if _, err := other.Verify(key, subject, c.Plain); !errors.Is(err, certificate.ErrBadSignature) {
			t.Errorf("of another voter: %v", err)
		}
		other = signed
		other.Signature[0]++
		if _, err := other.Verify(key, subject, c.Plain); !errors.Is(err, certificate.ErrBadSignature) {
			t.Errorf("another signature: %v", err)
		}
	}
}

// TestParseRefuses holds the rules of docs/spec/protected-documents.md on a statement.
func TestParseRefuses(t *testing.T) {
	list := life(t)
	good := list[len(list)-1].Statement
	if _, err := certificate.Parse(good.Marshal()); err != nil {
		t.Fatal(err)
	}
	far := lockquorum.Place{Epoch: 1, Index: 1 << 40}
	for name, bend := range map[string]func(*certificate.Statement){
		"unknown end":                  func(s *certificate.Statement) { s.How = 5 },
		"held, and a place of the end": func(s *certificate.Statement) { s.How = 0 },
		"ended without a token":        func(s *certificate.Statement) { s.Token = lockquorum.Token{} },
		"ended before it began":        func(s *certificate.Statement) { s.EndedAt = lockquorum.Place{Epoch: 1, Index: 1} },
		"token beyond":                 func(s *certificate.Statement) { s.Token, s.EndedAt = far, far },
		"end beyond":                   func(s *certificate.Statement) { s.EndedAt = far },
		"certified beyond":             func(s *certificate.Statement) { s.At = far },
		"certified at its token":       func(s *certificate.Statement) { s.At = s.Under },
		"certified under none":         func(s *certificate.Statement) { s.Under = lockquorum.Token{} },
		"no heads, and where":          func(s *certificate.Statement) { s.Heads = lockquorum.Heads{} },
	} {
		s := good
		bend(&s)
		if _, err := certificate.Sign(newVoter(1), s); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: it would be signed: %v", name, err)
		}
		if _, err := certificate.Parse(s.Marshal()); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	whole := good.Marshal()
	for i := range whole {
		if _, err := certificate.Parse(whole[:i]); err == nil {
			t.Fatalf("the first %d bytes parse", i)
		}
	}
	whole[0] = 2
	if _, err := certificate.Parse(whole); !errors.Is(err, certificate.ErrNewer) {
		t.Errorf("a later version's statement: %v", err)
	}
}
