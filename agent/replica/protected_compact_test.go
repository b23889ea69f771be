package replica_test

import (
	"bytes"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
)

// longLife has two devices change a code list under many leases, one of which leaves late work. It returns what the quorum's log says.
func longLife(t *testing.T, a, b *device) *quorum {
	t.Helper()
	q := newQuorum(t, a)
	for i := range 70 {
		by := []*device{a, b}[i%2]
		l := q.acquire(lists)
		by.under(l, list(string(rune('A'+i%26))), true)
		if i == 20 {
			l.over() // its holder hears nothing
			q.certify(a, lists, "CodeSystem/c1")
		} else {
			l.commit(by)
			q.certify(by, lists, "CodeSystem/c1")
			l.release()
		}
		settleAll(t, a, b)
	}
	return q
}

// kinds counts the chunks of a device by kind.
func (d *device) kinds() map[chunk.Kind]int {
	d.t.Helper()
	out := map[chunk.Kind]int{}
	must(d.t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(value)
			if err == nil {
				out[sealed.Header().Kind]++
			}
			return err
		})
	}))
	return out
}

func compactAll(t *testing.T, devices ...*device) {
	t.Helper()
	for range 3 {
		for _, d := range devices {
			d.compact()
			settleAll(t, devices...)
		}
	}
}

// TestProtectedCompaction: what is certified and the certificates are packed although there is late work, which stays listed; what is held, shown
// and told is the same before and after, and for who joins later; and it goes on.
func TestProtectedCompaction(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	settleAll(t, a, b)
	q := longLife(t, a, b)
	shown, late := a.shows(), a.quarantined()[0].Chunk
	before := a.kinds()
	_, _, bytesBefore := a.chunksOf()
	compactAll(t, a, b)
	rest(t, a, b)
	for _, d := range p {
		d.crash()
		now := d.kinds()
		_, _, bytesNow := d.chunksOf()
		if t.Logf("%s: %d bytes of chunks, and before %d", d.name, bytesNow, bytesBefore); bytesNow*2 > bytesBefore {
			t.Errorf("%s: %d bytes of chunks, and before %d", d.name, bytesNow, bytesBefore)
		}
		if now[chunk.KindChanges] != 1 || now[chunk.KindCertificate] > 2 || before[chunk.KindCertificate] < 60 {
			t.Errorf("%s holds %v, and before %v", d.name, now, before)
		}
		if held := d.quarantined(); d.shows() != shown || len(held) != 1 || held[0].Chunk != late {
			t.Errorf("%s shows %q and lists %v; before %q and %s", d.name, d.shows(), held, shown, late)
		}
	}
	n := admit(t, a, "newcomer")
	rest(t, a, b, n)
	if held := n.quarantined(); n.shows() != shown || len(held) != 1 || held[0].Chunk != late {
		t.Errorf("the newcomer shows %q and lists %v", n.shows(), held)
	}
	// What was late is written anew by the newcomer, and packed with the next checkpoint, which covers the first.
	l := q.acquire(lists)
	_, err := n.DecideHeld(replica.Under(t.Context(), l), "user", n.quarantined()[0].Chunk, api.HeldDecision{Verdict: "release"})
	must(t, err)
	l.commit(n)
	q.certify(n, lists, "CodeSystem/c1")
	for i := range 66 {
		n.under(l, list(string(rune('A'+i%26))), true)
		l.commit(n)
		q.certify(n, lists, "CodeSystem/c1")
	}
	rest(t, a, b, n)
	compactAll(t, a, b, n)
	late2 := admit(t, a, "later")
	rest(t, a, b, n, late2)
	sameEverywhere(t, a, b, n, late2)
	for _, d := range []*device{a, b, n, late2} {
		if now := d.kinds(); now[chunk.KindChanges] != 1 || now[chunk.KindCheckpoint] != 1 || d.states()["settled"] != 1 || len(d.quarantined()) != 0 {
			t.Errorf("%s holds %v, %v", d.name, now, d.states())
		}
		if r := d.verify(true); !r.Clean {
			t.Errorf("%s: %v", d.name, r.Findings)
		}
	}
}

// TestPackedCertificateCounts: a certificate counts by what contradicts it after its chunk was deleted as before, on all devices, and who joined since.
func TestPackedCertificateCounts(t *testing.T) {
	for _, back := range []bool{false, true} { // a break takes heads back that are packed
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		settleAll(t, a, b)
		q := longLife(t, a, b)
		_, id, err := a.ProtectedDocument(lists, "CodeSystem/c1")
		must(t, err)
		name := votes{}.Document(id)
		at, _ := q.st.Lease(votes{}.Lock(lists))
		body, st := lastCertificate(t, a)
		compactAll(t, a, b)
		if now := a.kinds(); now[chunk.KindCertificate] > 2 {
			t.Fatalf("nothing is packed: %v", now)
		}
		shown, states := a.shows(), a.states()
		if back {
			l := q.acquire(lists)
			r := q.do(lockquorum.SessionID{}, 0, &lockquorum.Break{Lock: votes{}.Lock(lists), Token: l.token,
				Back: []lockquorum.Certified{{Document: name, Heads: at.Documents[0].Previous}}})
			if r.Code != lockquorum.CodeDone {
				t.Fatalf("break: %v", r.Code)
			}
			q.certify(b, lists, "CodeSystem/c1")
		} else { // a voter says otherwise of the last certificate's place
			st.Chain[0]++
			signed, err := certificate.Sign(honest, st)
			must(t, err)
			f := forge(admit(t, a, "liar"))
			a.take(b, f.Seal(&chunk.Certificate{Document: id, Statement: signed.Statement, Voter: signed.Voter, Signature: signed.Signature, Heads: body.Heads}))
		}
		n := admit(t, a, "newcomer")
		settleAll(t, a, b, n)
		if n.shows() != a.shows() || n.shows() == shown || strings.Trim(b.shows(), "?") == a.shows() == !back { // which wrote it, and shows it as not committed
			t.Errorf("back: %v: newcomer shows %q, surgery %q, branch %q; before %q", back, n.shows(), a.shows(), b.shows(), shown)
		}
		if x, y := a.states(), n.states(); !back && x["quarantined"] <= states["quarantined"] {
			t.Errorf("nobody names the lie: %v, %v", x, y)
		}
	}
}

// lastCertificate returns the newest certificate that a device holds.
func lastCertificate(t *testing.T, d *device) (newest *chunk.Certificate, st certificate.Statement) {
	t.Helper()
	must(t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(bytes.Clone(value))
			if err != nil || sealed.Header().Kind != chunk.KindCertificate {
				return err
			}
			body, err := chunk.Open(d.keys, sealed)
			if err != nil {
				return err
			}
			c := body.(*chunk.Certificate)
			if said, err := certificate.Parse(c.Statement); err != nil {
				return err
			} else if newest == nil || said.Place.Compare(st.Place) > 0 {
				newest, st = c, said
			}
			return nil
		})
	}))
	return newest, st
}
