package replica_test

import (
	"crypto/ed25519"
	"testing"

	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
)

// another votes too.
var another = voter{ed25519.NewKeyFromSeed(append(make([]byte, 31), 2))}

// roles are votes of which one may be doubted, since it has another role by now.
type roles struct {
	votes
	doubted *bool
}

func (r roles) Voted(st *trust.State, epoch uint64, device trust.DeviceID) certificate.Word {
	switch {
	case device == another.Device():
		return certificate.Yes
	case *r.doubted && device == honest.Device():
		return certificate.Unknown
	}
	return r.votes.Voted(st, epoch, device)
}

// TestVoterOfBefore: what a voter certified that is made a plain member does not count any more, and is named at every device, so that another voter is asked; then it counts as before.
func TestVoterOfBefore(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	doubted := false
	for _, d := range p {
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		r, err := replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e, Quorum: roles{doubted: &doubted}})
		must(t, err)
		d.Replica = r
	}
	settleAll(t, a, b)
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	settleAll(t, a, b)
	uncounted := func(want int) []replica.Proposal {
		t.Helper()
		list, err := b.Uncounted()
		if err != nil || len(list) != want {
			t.Fatalf("uncounted are %+v (%v)", list, err)
		}
		return list
	}
	uncounted(0)
	doubted = true
	admit(t, a, "newcomer") // the membership log grows, and says so
	settleAll(t, a, b)
	if b.shows() != "" {
		t.Fatalf("it shows %q: the test shows nothing", b.shows())
	}
	for _, p := range uncounted(1) {
		must(t, b.Certify(t.Context(), p.Lock, p.Name, q.signed(another, p.Lock, p.Name)))
	}
	settleAll(t, a, b)
	if a.shows() != "A" || b.shows() != "A" {
		t.Errorf("certified anew: %q and %q", a.shows(), b.shows())
	}
	uncounted(0)
}
