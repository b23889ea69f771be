package replica_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/internal/hostile"
	"chartmesh/storage"
)

func (d *device) heldList(all bool) []api.Held {
	d.t.Helper()
	page, err := d.ListHeld(d.t.Context(), api.HeldQuery{Discarded: all, Limit: api.MaxHeldPage})
	must(d.t, err)
	return page.Chunks
}

// heldTable is what all devices must say alike of what is held.
func (d *device) heldTable() string {
	var b strings.Builder
	for _, h := range d.heldList(true) {
		fmt.Fprintln(&b, h.Chunk, h.State, h.Reason, h.Resources, h.Waiting, h.Releasable)
	}
	return b.String()
}

func (d *device) decide(chunk, verdict string) api.HeldOutcome {
	d.t.Helper()
	out, err := d.DecideHeld(d.t.Context(), "user of "+d.name, chunk, api.HeldDecision{Verdict: verdict, Reason: "because"})
	must(d.t, err)
	return out
}

// ownLog returns what a device wrote in the clinical scope.
func (d *device) ownLog() [][]byte {
	d.t.Helper()
	items, err := d.Chunks(forge(d).Scope, chunk.CurrentLog(d.keys), 0, 1<<30)
	must(d.t, err)
	var chunks [][]byte
	for _, item := range items {
		chunks = append(chunks, item.Bytes)
	}
	return chunks
}

// twice makes two chunks whose changes have one actor and sequence number.
func (f *forger) twice() [][]byte {
	doc := f.Document("section", "eve", "core")
	var out [][]byte
	for _, name := range []string{"one", "two"} {
		out = append(out, f.SealChange(doc, f.Change(doc, hostile.Resource("Patient/eve",
			hostile.Field("resourceType", crdt.String, "Patient"), hostile.Field("id", crdt.String, "eve"), hostile.Field("gender", crdt.String, name))...)))
	}
	return out
}

func (f *forger) malformed() []byte {
	doc := f.Document("section", "eve", "core")
	return f.Seal(&chunk.Changes{
		Document: doc, TimeMillis: 5, Author: "forger", Origin: chunk.OriginEdit, Changes: []chunk.Change{{Raw: []byte("no change at all")}},
		Authorship: []chunk.Authorship{{Seq: 1}},
	})
}

// TestReleaseWins has two people decide apart about a chunk that a policy keeps out: the release stands, until somebody who
// saw both decides anew. Whatever the order in which decisions and chunk reach a device, it says the same.
func TestReleaseWins(t *testing.T) {
	p := practice(t, "surgery", "branch", "late", "forger")
	a, b, f := p[0], p[1], forge(p[3])
	for _, d := range p[1:3] {
		sync(t, a, d)
	}
	chunks := f.twice()
	a.take(f.device, chunks...)
	b.take(f.device, chunks...)
	list := a.heldList(false)
	if len(list) != 1 || list[0].State != "quarantined" || !list[0].Releasable || !slices.Equal(list[0].Resources, []string{"Patient/eve"}) {
		t.Fatalf("held %+v", list)
	}
	x := list[0].Chunk
	if out := a.decide(x, "discard"); out.State != "discarded" || len(a.heldList(false)) != 0 || a.Status().Quarantined != 0 {
		t.Fatalf("discarded: %+v, status %+v", out, a.Status())
	}
	if out := b.decide(x, "release"); out.Verdict != "release" {
		t.Fatalf("released: %+v", out)
	}
	sync(t, a, b)
	if got := a.heldTable(); got != b.heldTable() || strings.Contains(got, "discarded") {
		t.Fatalf("a discard beside a release:\n%s\n%s", got, b.heldTable())
	}
	a.decide(x, "discard")
	sync(t, a, b)
	want := b.heldTable()
	if want != a.heldTable() || !strings.Contains(want, "discarded") || b.Status().Quarantined != 0 {
		t.Fatalf("a discard that replaces both:\n%s", want)
	}
	detail, err := b.ShowHeld(t.Context(), x)
	must(t, err)
	if len(detail.Decisions) != 3 || detail.Decisions[0].Reason != "because" || detail.Content == nil {
		t.Errorf("shown %+v", detail)
	}

	// Chunks of one log come in order; the logs in any.
	logs := [][][]byte{chunks, a.ownLog(), b.ownLog()}
	late := p[2]
	for seed := range uint64(40) {
		d := &device{t: t, keys: late.keys, twin: late.twin.Crash(), name: "late"}
		d.open()
		rng := rand.New(rand.NewPCG(seed, 1))
		for rest := slices.Clone(logs); len(rest) > 0; {
			i := rng.IntN(len(rest))
			must(t, d.Arrive(t.Context(), a.Device(), rest[i][:1]))
			if rest[i] = rest[i][1:]; len(rest[i]) == 0 {
				rest = slices.Delete(rest, i, i+1)
			}
			if rng.IntN(2) == 0 {
				d.applyAll()
			}
		}
		d.applyAll()
		if got := d.heldTable(); got != want {
			t.Fatalf("seed %d:\n%s\nelsewhere:\n%s", seed, got, want)
		}
		if s := d.Status(); s.Quarantined != 0 || s.Parked != 0 || !s.AtEnd {
			t.Fatalf("seed %d: status %+v", seed, s)
		}
		d.crash()
		d.applyAll()
		if got := d.heldTable(); got != want || d.Status().Quarantined != 0 {
			t.Fatalf("seed %d after a restart:\n%s", seed, got)
		}
	}
}

// TestReleaseWritesAnew releases the loser of two changes in one place whose author does not come back: what is in it meets the
// other as a conflict, on a device that has the chunks before and on one that gets them after, and nobody need look again.
func TestReleaseWritesAnew(t *testing.T) {
	p := practice(t, "surgery", "branch", "late", "forger")
	a, b, late, f := p[0], p[1], p[2], forge(p[3])
	for _, d := range p[1:3] {
		sync(t, a, d)
	}
	chunks := f.twice()
	a.take(f.device, chunks...)
	b.take(f.device, chunks...)
	x := a.heldList(false)[0].Chunk
	out := a.decide(x, "release")
	if out.State != "settled" || !strings.Contains(out.Reason, "written anew as") {
		t.Fatalf("released: %+v", out)
	}
	_, err := a.DecideHeld(t.Context(), "user", x, api.HeldDecision{Verdict: "release"})
	if e, ok := errors.AsType[*api.Error](err); !ok || !strings.Contains(e.Message, "nothing to release") {
		t.Errorf("released twice: %v", err)
	}
	late.take(a, a.ownLog()...) // before the chunks that it is about
	late.take(f.device, chunks...)
	for _, d := range []*device{b, late} {
		settleAll(t, a, d)
		sameEverywhere(t, a, d)
		if got := d.heldTable(); got != a.heldTable() || !strings.Contains(got, "settled") || d.Status().Quarantined != 0 {
			t.Errorf("held by %s:\n%s\n%s", d.name, got, a.heldTable())
		}
		sides := d.conflicts()[0].Values
		both := string(sides[0].Value) + string(sides[1].Value)
		if !strings.Contains(both, "one") || !strings.Contains(both, "two") {
			t.Errorf("%s lists %s", d.name, both)
		}
	}
}

// TestDecideMalformed discards what no release can help, with what waits for it; what is applied stays.
func TestDecideMalformed(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	a.put(bernd, false)
	a.take(f.device, f.malformed())
	x := a.heldList(false)[0]
	if x.State != "quarantined" || x.Releasable || x.Kind != "changes" || x.Written == nil || x.Since == nil {
		t.Fatalf("held %+v", x)
	}
	var refused *api.Error
	_, err := a.DecideHeld(t.Context(), "user", x.Chunk, api.HeldDecision{Verdict: "release"})
	if !errors.As(err, &refused) || refused.Code != api.CodeInvalid || !strings.Contains(refused.Message, x.Reason) || refused.Hint == "" {
		t.Fatalf("release of what is malformed: %v", err)
	}
	if n := len(a.ownLog()); n != 1 {
		t.Fatalf("a refused decision was written: %d chunks", n)
	}
	detail, err := a.ShowHeld(t.Context(), x.Chunk)
	must(t, err)
	if c := detail.Content; c == nil || c.Author != "forger" || len(c.Changes) != 1 || c.Changes[0].Malformed == "" {
		t.Errorf("content %+v", detail.Content)
	}
	a.decide(x.Chunk, "discard")
	sync(t, a, b)
	if a.heldTable() != b.heldTable() || len(b.heldList(false)) != 0 || b.Status().Quarantined != 0 {
		t.Fatalf("held:\n%s\n%s", a.heldTable(), b.heldTable())
	}
	if s := a.Status(); s.NotElsewhere != 0 || s.Resources != 1 {
		t.Errorf("status %+v", s)
	}
	if out := a.decide(x.Chunk, "discard"); out.State != "discarded" || len(a.ownLog()) != 2 {
		t.Errorf("the same decision again: %+v, %d chunks", out, len(a.ownLog()))
	}
	_, err = a.DecideHeld(t.Context(), "user", "ffffffff", api.HeldDecision{Verdict: "discard"})
	if !errors.As(err, &refused) || refused.Code != api.CodeNotFound {
		t.Errorf("a chunk that there is not: %v", err)
	}
}

// chain makes a change and one that builds on it.
func (f *forger) chain(doc crdt.DocumentID) (first, second []byte) {
	f.t.Helper()
	raws := f.Edits(doc, hostile.Resource("Patient/eve", hostile.Field("resourceType", crdt.String, "Patient"), hostile.Field("id", crdt.String, "eve")),
		hostile.Resource("Observation/o", hostile.Field("resourceType", crdt.String, "Observation"), hostile.Field("id", crdt.String, "o")))
	return raws[0], raws[1]
}

// TestParkedAndWoken holds what builds on a change that has not arrived, lets it be discarded, and applies it all the same
// when what it waits for comes: a decision takes nothing out of a document.
func TestParkedAndWoken(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	doc := f.Document("section", "eve", "core")
	first, second := f.chain(doc)
	dependant := f.SealChange(doc, second)
	a.take(f.device, dependant)
	x := a.heldList(false)[0]
	if x.State != "parked" || x.WaitsFor == nil || x.WaitsFor.Kind != "change" || a.Status().Parked != 1 {
		t.Fatalf("held %+v", x)
	}
	if _, err := a.DecideHeld(t.Context(), "user", x.Chunk, api.HeldDecision{Verdict: "release"}); err == nil {
		t.Fatal("a parked chunk was released")
	}
	a.decide(x.Chunk, "discard")
	if s := a.Status(); s.Parked != 0 || len(a.heldList(false)) != 0 {
		t.Fatalf("status %+v", s)
	}
	a.crash()
	a.applyAll()
	if got := a.heldTable(); !strings.Contains(got, "discarded") || a.Status().Parked != 0 {
		t.Fatalf("after a restart: %s", got)
	}
	a.take(f.device, f.SealChange(doc, first))
	sync(t, a, b)
	alike(t, a, b)
	if s := a.Status(); s.Resources != 2 || s.Parked != 0 || len(a.heldList(true)) != 0 {
		t.Fatalf("status %+v, held %s", s, a.heldTable())
	}
}

// TestDependantsFollow shows what waits for a chunk, and discards it together with that chunk.
func TestDependantsFollow(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	doc := f.Document("section", "eve", "core")
	chunks := f.twice()
	a.take(f.device, chunks...)
	loser := chunks[1]
	if s, err := chunk.Parse(chunks[0]); err != nil || s.ID().String() == a.heldList(false)[0].Chunk {
		loser = chunks[0]
	}
	a.take(f.device, f.SealChange(doc, f.OnTopOf(doc, loser)))
	var kept, waits api.Held
	for _, h := range a.heldList(false) {
		if h.WaitsFor != nil {
			waits = h
		} else {
			kept = h
		}
	}
	if len(kept.Waiting) != 1 || kept.Waiting[0] != waits.Chunk {
		t.Fatalf("held %+v\n%+v", kept, waits)
	}
	detail, err := a.ShowHeld(t.Context(), waits.Chunk)
	must(t, err)
	if detail.WaitsFor == nil || detail.WaitsFor.Chunk != kept.Chunk {
		t.Errorf("it waits for %+v", detail.WaitsFor)
	}
	if out := a.decide(kept.Chunk, "discard"); out.With != 1 {
		t.Fatalf("outcome %+v", out)
	}
	sync(t, a, b)
	if len(b.heldList(false)) != 0 || a.heldTable() != b.heldTable() {
		t.Fatalf("held\n%s\n%s", a.heldTable(), b.heldTable())
	}
	if s := b.Status(); s.Parked+s.Quarantined != 0 || s.Resources != 1 {
		t.Errorf("status %+v", s)
	}
}

// TestDecisionOfAnotherScope: who may write in one scope decides nothing in another.
func TestDecisionOfAnotherScope(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	bad := f.malformed()
	s, err := chunk.Parse(bad)
	must(t, err)
	clinical := f.Scope
	for _, sc := range f.State().Scopes() {
		if sc.ID != clinical {
			f.Scope, f.Counter, f.Last = sc.ID, 0, chunk.ID{}
		}
	}
	other := f.Seal(&chunk.Decision{Log: s.Log(), Counter: 1, Chunk: s.ID(), Verdict: chunk.VerdictDiscard, User: "forger"})
	a.take(f.device, other, bad)
	if got := a.heldList(false); len(got) != 1 || got[0].State != "quarantined" {
		t.Fatalf("a decision in one scope counts in another: %+v", got)
	}
}

// TestDecisionOnWhatIsApplied changes nothing.
func TestDecisionOnWhatIsApplied(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	a.put(bernd, false)
	sync(t, a, b)
	s, err := chunk.Parse(a.ownLog()[0])
	must(t, err)
	before := b.export()
	on := func(counter uint64, id chunk.ID, v chunk.Verdict) []byte {
		return f.Seal(&chunk.Decision{Log: s.Log(), Counter: counter, Chunk: id, Verdict: v, User: "forger"})
	}
	d := on(1, s.ID(), chunk.VerdictDiscard)
	ds, err := chunk.Parse(d)
	must(t, err)
	last := chunk.ID(bytes.Repeat([]byte{0xff}, len(chunk.ID{})))                                      // after every other
	b.take(f.device, d, on(9, s.ID(), chunk.VerdictDiscard), on(1, chunk.ID{9}, chunk.VerdictRelease), // made-up places
		f.Seal(&chunk.Decision{Log: s.Log(), Counter: 1, Chunk: s.ID(), Verdict: chunk.VerdictRelease, Replaces: []chunk.ID{ds.ID(), last}}))
	if b.export() != before || len(b.heldList(true)) != 0 || !b.AtEnd() {
		t.Fatalf("a decision changed what is applied: held %s", b.heldTable())
	}
	sync(t, a, b)
	alike(t, a, b)
}

// TestHeldPages lists thousands a page at a time, each once.
func TestHeldPages(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	const chunks = 2500
	var bad [][]byte
	for range chunks {
		bad = append(bad, f.Seal(&chunk.Opaque{Type: chunk.KindDecision, Content: []byte{1}}))
	}
	a.take(f.device, bad...)
	if s := a.Status(); s.Quarantined != chunks {
		t.Fatalf("status %+v", s)
	}
	seen := map[uint64]bool{}
	ask := api.HeldQuery{State: "quarantined", Limit: 1000}
	for pages := 1; ; pages++ {
		page, err := a.ListHeld(t.Context(), ask)
		must(t, err)
		if page.Total != chunks || len(page.Chunks) > 1000 {
			t.Fatalf("page of %d, total %d", len(page.Chunks), page.Total)
		}
		for _, h := range page.Chunks {
			if seen[h.Counter] {
				t.Fatalf("chunk %d is listed twice", h.Counter)
			}
			seen[h.Counter] = true
		}
		if ask.After = page.Next; ask.After == "" {
			if pages != 3 || len(seen) != chunks {
				t.Fatalf("%d pages with %d chunks", pages, len(seen))
			}
			break
		}
	}
	if page, err := a.ListHeld(t.Context(), api.HeldQuery{State: "parked"}); err != nil || page.Total != 0 {
		t.Errorf("parked: %+v, %v", page, err)
	}
}

// TestHeldOfEarlierBuild reads what a build without classes and decisions stored.
func TestHeldOfEarlierBuild(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	a.take(f.device, f.malformed())
	must(t, a.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			old := slices.Clone(value[:1+1+1+len("not one uncompressed change")+32+1+32])
			old[0] = 1
			var b storage.Batch
			b.Put(slices.Clone(key), old)
			return a.twin.Commit(t.Context(), &b)
		})
	}))
	a.crash()
	a.applyAll()
	x := a.heldList(false)[0]
	if x.State != "quarantined" || x.Reason != "not one uncompressed change" || x.Device != "forger" {
		t.Fatalf("held %+v", x)
	}
	if out := a.decide(x.Chunk, "discard"); out.State != "discarded" || a.Status().Quarantined != 0 {
		t.Errorf("outcome %+v", out)
	}
}
