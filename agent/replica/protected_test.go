package replica_test

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/fhir"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
)

const lists = fhir.LockCodeLists

func TestProtectedNeedsALease(t *testing.T) {
	a := practice(t, "surgery")[0]
	for body, lock := range map[string]string{
		list("A"): "code-lists",
		`{"resourceType":"Basic","id":"s","code":{"coding":[{"system":"urn:chartmesh:basic","code":"settings"}]}}`:    "settings",
		`{"resourceType":"Basic","id":"r","code":{"coding":[{"system":"urn:chartmesh:basic","code":"billing-run"}]}}`: "billing",
		`{"resourceType":"Invoice","id":"i","status":"issued","date":"2026-01-01"}`:                                   "invoices/2026",
	} {
		_, err := a.Put(t.Context(), "user", []byte(body), false)
		if api.CodeOf(err) != api.CodeLease || !strings.Contains(err.Error(), lock) {
			t.Errorf("%s: %v", body, err)
		}
		res, err := a.Import(t.Context(), "user", api.ImportBatch{Resources: []json.RawMessage{json.RawMessage(body)}})
		if err != nil || len(res.Refused) != 1 || !strings.Contains(res.Refused[0].Reason, lock) {
			t.Errorf("import %s: %+v, %v", body, res, err)
		}
	}
	a.put(`{"resourceType":"Invoice","id":"i","status":"draft","date":"2026-01-01"}`, false)
	q := newQuorum(t, a)
	l := q.acquire("settings")
	if _, err := a.Put(replica.Under(t.Context(), l), "user", []byte(list("A")), false); api.CodeOf(err) != api.CodeLease {
		t.Errorf("under another lock's lease: %v", err)
	}
	l = q.acquire(lists)
	l.end()
	if _, err := a.Put(replica.Under(t.Context(), l), "user", []byte(list("A")), false); api.CodeOf(err) != api.CodeLease {
		t.Errorf("under a lease that is lost: %v", err)
	}
	rest(t, a)
}

// What is written under a lease is shown at its holder, as not committed, and with the others once it is.
func TestCommit(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	settleAll(t, a, b)
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	rest(t, a, b)
	if a.shows() != "A?" || b.shows() != "" || b.states()["parked"] != 1 || len(a.heldList(true)) != 0 {
		t.Errorf("pending: %q and %q, held %v", a.shows(), b.shows(), b.states())
	}
	a.crash()
	a.under(l, list("B"), true)
	if rest(t, a, b); a.shows() != "B?" || b.shows() != "" || b.states()["parked"] != 2 {
		t.Errorf("pending twice: %q and %q, held %v", a.shows(), b.shows(), b.states())
	}
	if !l.commit(a) {
		t.Fatal("the commit is refused")
	}
	q.certify(a, lists, "CodeSystem/c1")
	if a.shows() != "B" {
		t.Errorf("committed, and shown as %q", a.shows())
	}
	rest(t, a, b)
	if b.shows() != "B" || len(b.heldList(true)) != 0 {
		t.Errorf("committed: %q, held %v", b.shows(), b.states())
	}
	// The next holder.
	l.release()
	l = q.acquire(lists)
	b.under(l, list("C"), true)
	l.commit(b)
	q.certify(b, lists, "CodeSystem/c1")
	n := admit(t, a, "newcomer")
	rest(t, a, b, n)
	if a.shows() != "C" || n.shows() != "C" {
		t.Errorf("the next holder's: %q and %q", a.shows(), n.shows())
	}
	for _, d := range []*device{a, b, n} {
		d.crash()
		if d.applyAll(); d.shows() != "C" || len(d.heldList(true)) != 0 {
			t.Errorf("%s after a restart: %q, %v", d.name, d.shows(), d.states())
		}
	}
}

// Work after the loss of a lease is put aside everywhere, shown, and written anew under another lease by one operation.
func TestLateWork(t *testing.T) {
	for _, grant := range []bool{true, false} { // who tells of the end: the next grant, or what was certified next
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		settleAll(t, a, b)
		q := newQuorum(t, a)
		l := q.acquire(lists)
		a.under(l, list("A"), false)
		l.commit(a)
		q.certify(a, lists, "CodeSystem/c1")
		rest(t, a, b)
		l.over()
		a.under(l, list("L"), true) // it has not heard of it
		a.under(l, list("M"), true)
		if list, err := a.Proposals(l); err != nil || len(list) != 1 || l.propose(list[0]) {
			t.Fatalf("committed after the lease was broken: %v, %v", list, err)
		}
		rest(t, a, b)
		if a.shows() != "M?" || b.shows() != "A" {
			t.Errorf("before anybody knows: %q and %q", a.shows(), b.shows())
		}
		l = q.acquire(lists)
		if grant {
			q.certify(b, lists, "CodeSystem/c1")
			if rest(t, a, b); a.shows() != "A" || a.states()["quarantined"] != 2 || b.states()["quarantined"] != 2 {
				t.Errorf("after the next grant: %q, %v and %v", a.shows(), a.states(), b.states())
			}
		}
		b.under(l, list("B"), true)
		l.commit(b)
		q.certify(b, lists, "CodeSystem/c1")
		rest(t, a, b)
		held := a.quarantined()
		if a.shows() != "B" || b.shows() != "B" || len(held) != 2 || len(b.quarantined()) != 2 || !held[0].Releasable {
			t.Fatalf("late: %q and %q, %v and %v", a.shows(), b.shows(), held, b.quarantined())
		}
		if a.crash(); a.shows() != "B" {
			t.Errorf("after a restart: %q", a.shows())
		}
		// Its author's name stays.
		release := api.HeldDecision{Verdict: "release"}
		if _, err := a.DecideHeld(t.Context(), "user", held[1].Chunk, release); api.CodeOf(err) != api.CodeLease {
			t.Errorf("released without a lease: %v", err)
		}
		if len(a.quarantined()) != 2 {
			t.Error("a refused release leaves a trace")
		}
		l.release()
		l = q.acquire(lists)
		_, err := a.DecideHeld(replica.Under(t.Context(), l), "user", held[1].Chunk, release)
		must(t, err)
		l.commit(a)
		q.certify(a, lists, "CodeSystem/c1")
		rest(t, a, b)
		if got := a.conflicts(); len(got) != 1 || fmt.Sprint(got) != fmt.Sprint(b.conflicts()) {
			t.Errorf("what was written late meets what was written since: %v", got)
		}
		if a.states()["settled"] != 1 || b.states()["settled"] != 1 || len(b.quarantined()) != 1 {
			t.Errorf("released: %v and %v", a.states(), b.states())
		}
	}
}

// noting is a lease that is told what is written under it.
type noting struct {
	*lease
	wrote []replica.Change
}

func (n *noting) Wrote(c replica.Change) { n.wrote = append(n.wrote, c) }

// TestWrittenAgain: what is written again, and stands here without being committed, has to be committed then: by a lease that covers it, which hears of it.
func TestWrittenAgain(t *testing.T) {
	a := practice(t, "surgery")[0]
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	ref := api.Ref{Type: "CodeSystem", ID: "c1"}
	was, err := a.Get(t.Context(), ref, "")
	must(t, err)
	repeated := []byte(strings.Replace(string(was.JSON), `"A"`, `"B"`, 1)) // on the version before
	first := &noting{lease: l}
	if _, err := a.Put(replica.Under(t.Context(), first), "user", repeated, false); err != nil || len(first.wrote) != 1 {
		t.Fatalf("written was %v (%v)", first.wrote, err)
	}
	now, err := a.Get(t.Context(), ref, "")
	must(t, err)
	if done, err := a.Committed(first.wrote[0]); err != nil || done || !now.Uncommitted {
		t.Fatalf("before the commit: %v (%v), %+v", done, err, now)
	}
	for _, body := range []json.RawMessage{repeated, now.JSON} {
		if w, err := a.Put(t.Context(), "user", body, false); api.CodeOf(err) != api.CodeLease {
			t.Errorf("without a lease %s: %+v, %v", body, w, err)
		}
		again := &noting{lease: l}
		w, err := a.Put(replica.Under(t.Context(), again), "user", body, false)
		if err != nil || w.Outcome != "repeated" && w.Outcome != "unchanged" || !slices.Equal(again.wrote, first.wrote) {
			t.Errorf("%s: %+v, %v; told was %v", body, w, err, again.wrote)
		}
	}
	res, err := a.Import(t.Context(), "user", api.ImportBatch{Resources: []json.RawMessage{now.JSON}})
	if err != nil || len(res.Refused) != 1 {
		t.Errorf("imported again without a lease: %+v, %v", res, err)
	}
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	if done, err := a.Committed(first.wrote[0]); err != nil || !done {
		t.Errorf("committed: %v (%v)", done, err)
	}
	l.release()
	if _, err := a.Put(t.Context(), "user", repeated, false); err != nil {
		t.Errorf("again, since it is committed: %v", err)
	}
	rest(t, a)
}

// What is released and is late again is not settled any more.
func TestReleasedTooLate(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.over()
	q.certify(a, lists, "CodeSystem/c1")
	l = q.acquire(lists)
	_, err := a.DecideHeld(replica.Under(t.Context(), l), "user", a.quarantined()[0].Chunk, api.HeldDecision{Verdict: "release"})
	must(t, err)
	if a.shows() != "A?" || a.states()["settled"] != 1 {
		t.Errorf("released: %q, %v", a.shows(), a.states())
	}
	l.over()
	q.certify(a, lists, "CodeSystem/c1")
	if rest(t, a, b); a.shows() != "" || a.states()["quarantined"] != 2 || b.states()["quarantined"] != 2 {
		t.Errorf("late again: %q, %v and %v", a.shows(), a.states(), b.states())
	}
}

// The next holder writes on top of what was certified, and on nothing before.
func TestBarrier(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	settleAll(t, a, b)
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	l.release()
	l = q.acquire(lists)
	_, id, err := b.ProtectedDocument(lists, "CodeSystem/c1")
	must(t, err)
	name := votes{}.Document(id)
	write := func() error {
		_, err := b.Put(replica.Under(t.Context(), l), "user", []byte(list("B")), true)
		return err
	}
	hold := func() bool {
		ok, err := b.Holds(lists, name, l.Certified(name))
		must(t, err)
		return ok
	}
	if err := write(); api.CodeOf(err) != api.CodeUnavailable || hold() {
		t.Errorf("without the change: %v", err)
	}
	if named, err := b.Names(lists, name, l.Certified(name)); named || err != nil {
		t.Errorf("what is not here has a name (%v)", err)
	}
	if err := q.tryCertify(b, lists, "CodeSystem/c1"); !errors.Is(err, replica.ErrNotHere) {
		t.Errorf("certified what is not here: %v", err)
	}
	settleAll(t, a, b)
	if err := write(); api.CodeOf(err) != api.CodeUnavailable || hold() {
		t.Errorf("without its certificate: %v", err)
	}
	q.certify(b, lists, "CodeSystem/c1") // the one before died without a word
	if !hold() {
		t.Error("the barrier stays")
	}
	must(t, b.Await(t.Context(), lists, name, l.Certified(name)))
	must(t, write())
	l.commit(b)
	q.certify(b, lists, "CodeSystem/c1")
	if rest(t, a, b); a.shows() != "B" || b.shows() != "B" {
		t.Errorf("%q and %q", a.shows(), b.shows())
	}
}

// An administrator's break takes certified heads back: less is accepted, and the document is as if it had been made anew.
func TestTakenBack(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	_, id, err := a.ProtectedDocument(lists, "CodeSystem/c1")
	must(t, err)
	name := votes{}.Document(id)
	first := l.known[name]
	a.under(l, list("B"), true)
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	if rest(t, a, b); b.shows() != "B" {
		t.Fatalf("%q", b.shows())
	}
	r := q.do(lockquorum.SessionID{}, 0, &lockquorum.Break{Lock: votes{}.Lock(lists), Token: l.token, Back: []lockquorum.Certified{{Document: name, Heads: first}}})
	if r.Code != lockquorum.CodeDone {
		t.Fatalf("break: %v", r.Code)
	}
	q.certify(b, lists, "CodeSystem/c1")
	n := admit(t, a, "newcomer")
	rest(t, a, b, n)
	for _, d := range []*device{a, b, n} {
		if d.shows() != "A" || d.states()["quarantined"] != 1 {
			t.Errorf("%s: %q, %v", d.name, d.shows(), d.states())
		}
	}
}

// A final invoice is made anew in a protected document; its draft goes when that is certified.
func TestFinalInvoice(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(`{"resourceType":"Patient","id":"p1"}`, false)
	draft := a.put(`{"resourceType":"Invoice","id":"i1","status":"draft","date":"2026-01-01","subject":{"reference":"Patient/p1"}}`, false)
	rest(t, a, b)
	final := `{"resourceType":"Invoice","id":"i1","status":"issued","date":"2026-01-01","subject":{"reference":"Patient/p1"},"meta":{"versionId":%q}}`
	const lock = "invoices/2026"
	q := newQuorum(t, a)
	l := q.acquire(lock)
	ctx := replica.Under(t.Context(), l)
	if _, err := a.Put(ctx, "user", fmt.Appendf(nil, final, "0123456789abcdef"), false); api.CodeOf(err) != api.CodeConflict {
		t.Errorf("on another version of the draft: %v", err)
	}
	if _, err := a.Put(t.Context(), "user", fmt.Appendf(nil, final, draft.Version), false); api.CodeOf(err) != api.CodeLease {
		t.Errorf("without a lease: %v", err)
	}
	_, err := a.Put(ctx, "user", fmt.Appendf(nil, final, draft.Version), false)
	must(t, err)
	if rest(t, a, b); !strings.Contains(a.get("Invoice/i1"), "issued") || !strings.Contains(b.get("Invoice/i1"), "draft") {
		t.Errorf("pending: %s and %s", a.get("Invoice/i1"), b.get("Invoice/i1"))
	}
	l.commit(a)
	q.certify(a, lock, "Invoice/i1")
	rest(t, a, b)
	sameEverywhere(t, a, b)
	if got := b.get("Invoice/i1"); !strings.Contains(got, "issued") || len(b.conflicts()) != 0 {
		t.Errorf("final: %s, %v", got, b.conflicts())
	}
	back := strings.Replace(b.get("Invoice/i1"), "issued", "draft", 1)
	if _, err := b.Put(t.Context(), "user", []byte(back), false); api.CodeOf(err) != api.CodeLease {
		t.Errorf("set back to a draft without a lease: %v", err)
	}
}

// Certificates that do not count are held with their reason, and nothing follows from them; contradictory ones neither, whichever came first.
func TestCertificatesThatDoNotCount(t *testing.T) {
	p := practice(t, "surgery", "branch", "liar")
	a, b, c := p[0], p[1], p[2]
	settleAll(t, a, b, c)
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	rest(t, a, b)
	_, id, err := a.ProtectedDocument(lists, "CodeSystem/c1")
	must(t, err)
	name := votes{}.Document(id)
	f := forge(c)
	put := func(by voter, bend func(*certificate.Statement), heads ...[32]byte) string {
		st := certificate.Of(q.st, q.practice, votes{}.Lock(lists), name)
		bend(&st)
		signed, err := certificate.Sign(by, st)
		must(t, err)
		before := len(a.heldList(true))
		a.take(b, f.Seal(&chunk.Certificate{Document: id, Statement: signed.Statement, Voter: signed.Voter, Signature: signed.Signature, Heads: heads}))
		now := a.heldList(true)
		if len(now) == before {
			return ""
		}
		h := slices.MaxFunc(now, func(a, b api.Held) int { return cmp.Compare(a.Counter, b.Counter) })
		return h.State + ": " + h.Reason
	}
	head := certifiedHeads(t, a)[0]
	same := func(*certificate.Statement) {}
	if got := put(honest, same); got != "quarantined: what was signed is not what it says" {
		t.Errorf("without its heads: %q", got)
	}
	if got := put(stranger, same, head); got != "quarantined: who signed it was no voter" {
		t.Errorf("of no voter: %q", got)
	}
	if got := put(voter{ed25519.NewKeyFromSeed(append(make([]byte, 31), 2))}, same, head); !strings.HasPrefix(got, "parked: ") {
		t.Errorf("of who may be one: %q", got)
	}
	if got := put(honest, same, head); got != "" {
		t.Errorf("once more: %q", got)
	}
	if a.shows() != "A" {
		t.Errorf("%q", a.shows())
	}
	got := put(honest, func(s *certificate.Statement) { s.Chain[0]++ }, head)
	if !strings.HasPrefix(got, "quarantined: another voter's word") || a.shows() != "A?" && a.shows() != "" {
		t.Errorf("contradictory: %q, shown %q", got, a.shows())
	}
	settleAll(t, a, b)
	if x, y := a.states(), b.states(); x["quarantined"] != y["quarantined"] {
		t.Errorf("%v and %v", x, y)
	}
	// The next word that nothing contradicts settles it.
	l.do(&lockquorum.Keep{})
	q.certify(a, lists, "CodeSystem/c1")
	if settleAll(t, a, b); a.shows() != "A" {
		t.Errorf("settled: %q", a.shows())
	}
}

// A holder who committed and died left heads that nobody named: who holds its changes can tell what the voters' hash stands for, also where they
// are several, since a form was read before the last write.
func TestHeadsOfADeadHolder(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	q.certify(a, lists, "CodeSystem/c1")
	for _, field := range []string{"publisher", "copyright", "version", "purpose"} {
		old := a.get("CodeSystem/c1")
		a.under(l, strings.Replace(old, `"title"`, `"description":"`+field+`","title"`, 1), true)
		a.under(l, strings.Replace(old, `"title"`, `"`+field+`":"P","title"`, 1), false)
		if field != "purpose" {
			a.under(l, list(field), true) // what one head was, for the next round
		}
	}
	if !l.commit(a) {
		t.Fatal("the commit is refused")
	}
	rest(t, a, b)
	if b.shows() != "A" || b.states()["parked"] != 11 {
		t.Fatalf("before anybody says what is certified: %q, %v", b.shows(), b.states())
	}
	q.certify(b, lists, "CodeSystem/c1")
	if n := len(certifiedHeads(t, b)); n < 2 {
		t.Errorf("%d heads: nothing was found out", n)
	}
	rest(t, a, b)
	sameEverywhere(t, a, b)
	if got := b.get("CodeSystem/c1"); !strings.Contains(got, `"purpose":"P"`) || len(b.heldList(true)) != 0 {
		t.Errorf("after: %s, %v", got, b.states())
	}
}

// TestDraftEditedMeanwhile: what arrives of a draft after it was made final, and before that is certified, is not removed with it.
func TestDraftEditedMeanwhile(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(`{"resourceType":"Patient","id":"p1"}`, false)
	draft := a.put(`{"resourceType":"Invoice","id":"i1","status":"draft","date":"2026-01-01","subject":{"reference":"Patient/p1"}}`, false)
	rest(t, a, b)
	const lock = "invoices/2026"
	q := newQuorum(t, a)
	l := q.acquire(lock)
	final := `{"resourceType":"Invoice","id":"i1","status":"issued","date":"2026-01-01","subject":{"reference":"Patient/p1"},"meta":{"versionId":%q}}`
	a.under(l, fmt.Sprintf(final, draft.Version), false)
	b.edit("Invoice/i1", func(obj map[string]any) { obj["paymentTerms"] = "of the branch" })
	rest(t, a, b)
	l.commit(a)
	q.certify(a, lock, "Invoice/i1")
	rest(t, a, b)
	for _, d := range []*device{a, b} {
		list := d.conflicts()
		if len(list) != 1 || !slices.ContainsFunc(list[0].Values, func(v api.ConflictValue) bool { return strings.Contains(string(v.Value), "of the branch") }) {
			t.Errorf("%s shows of the branch's edit: %+v", d.name, list)
		}
	}
}

// TestHolderDies: what was committed by who is gone since counts for the next holder once a voter says so, and can be built on.
func TestHolderDies(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	q := newQuorum(t, a)
	l := q.acquire(lists)
	a.under(l, list("A"), false)
	l.commit(a)
	rest(t, a, b)
	l.over() // without a certificate
	next := q.acquire(lists)
	_, id, err := b.ProtectedDocument(lists, "CodeSystem/c1")
	must(t, err)
	name := votes{}.Document(id)
	holds := func() bool {
		ok, err := b.Holds(lists, name, next.Certified(name))
		must(t, err)
		return ok
	}
	if holds() {
		t.Fatal("nothing says yet that it counts")
	}
	names := func() bool {
		ok, err := b.Names(lists, name, next.Certified(name))
		must(t, err)
		return ok
	}
	if !names() {
		t.Error("it is here, and would be taken back")
	}
	q.certify(b, lists, "CodeSystem/c1")
	if !holds() || b.shows() != "A" {
		t.Errorf("held: %v; it shows %q", holds(), b.shows())
	}
	b.under(next, list("B"), true)
	next.commit(b)
	q.certify(b, lists, "CodeSystem/c1")
	if rest(t, a, b); a.shows() != "B" {
		t.Errorf("the first shows %q", a.shows())
	}
}

const invoice = `{"resourceType":"Invoice","id":"i1","status":%q,"date":"2026-01-01","subject":{"reference":"Patient/p1"}}`

// TestDraftRemovedByAnothersWord: a draft goes when what was made of it is certified, whoever says so first, also after a restart in between.
func TestDraftRemovedByAnothersWord(t *testing.T) {
	for _, late := range []bool{false, true} { // it was late first, and released
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		a.put(fmt.Sprintf(invoice, "draft"), false)
		rest(t, a, b)
		const lock = "invoices/2026"
		q := newQuorum(t, a)
		l := q.acquire(lock)
		a.under(l, fmt.Sprintf(invoice, "issued"), true)
		a.crash()
		if late {
			l.over()
			q.certify(a, lock, "Invoice/i1")
			l = q.acquire(lock)
			_, err := a.DecideHeld(replica.Under(t.Context(), l), "user", a.quarantined()[0].Chunk, api.HeldDecision{Verdict: "release"})
			must(t, err)
		}
		l.commit(a)
		rest(t, a, b)
		q.certify(b, lock, "Invoice/i1")
		rest(t, a, b)
		sameEverywhere(t, a, b)
		for _, d := range []*device{a, b} {
			if got := d.get("Invoice/i1"); !strings.Contains(got, "issued") || len(d.conflicts()) != 0 {
				t.Errorf("%s, late first: %v: %s, %v", d.name, late, got, d.conflicts())
			}
		}
	}
}

// TestDraftEditedByTheClock: whether a draft was edited after it was made final is told by its version, whatever the clock says.
func TestDraftEditedByTheClock(t *testing.T) {
	for _, set := range []time.Duration{0, -time.Hour, time.Hour} { // what the clock does when the edit comes
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		now := time.Now()
		a.at(func() time.Time { return now })
		a.put(fmt.Sprintf(invoice, "draft"), false)
		rest(t, a, b)
		const lock = "invoices/2026"
		q := newQuorum(t, a)
		l := q.acquire(lock)
		a.under(l, fmt.Sprintf(invoice, "issued"), true)
		b.edit("Invoice/i1", func(obj map[string]any) { obj["paymentTerms"] = "of the branch" })
		now = now.Add(set)
		rest(t, a, b)
		l.commit(a)
		q.certify(a, lock, "Invoice/i1")
		rest(t, a, b)
		if list := b.conflicts(); len(list) != 1 || !slices.ContainsFunc(list[0].Values, func(v api.ConflictValue) bool {
			return strings.Contains(string(v.Value), "of the branch")
		}) {
			t.Errorf("the clock goes %v: of the branch's edit is shown: %+v", set, list)
		}
	}
}
