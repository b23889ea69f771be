package replica_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/storage"
)

// busy is a practice of two with about everything that a store can hold: edits of both, conflicts, a resource in two
// documents, a removal.
func busy(t *testing.T) (a, b *device) {
	p := practice(t, "surgery", "branch")
	a, b = p[0], p[1]
	a.put(anna, false)
	for i := range 5 {
		a.put(fmt.Sprintf(`{"resourceType":"Basic","id":"a%d","code":{"text":"x"},"subject":{"reference":"Patient/anna"}}`, i), false)
	}
	sync(t, a, b)
	a.edit("Patient/anna", func(o map[string]any) { o["birthDate"] = "1954-02-03" })
	b.edit("Patient/anna", func(o map[string]any) { o["birthDate"] = "1955-03-02" })
	a.put(`{"resourceType":"Observation","id":"o","status":"final","effectiveDateTime":"2024-01-01","subject":{"reference":"Patient/anna"}}`, false)
	b.put(`{"resourceType":"Observation","id":"o","status":"final","effectiveDateTime":"2025-01-01","subject":{"reference":"Patient/anna"}}`, false)
	_, err := b.Delete(t.Context(), "user", parseRef(t, "Basic/a1"))
	must(t, err)
	for i := range 3 {
		b.put(fmt.Sprintf(`{"resourceType":"Basic","id":"b%d","code":{"text":"x"}}`, i), false)
	}
	sync(t, a, b)
	must(t, b.FlushAcks(t.Context()))
	if len(b.conflicts()) != 2 || a.export() != b.export() {
		t.Fatal("the practice is not as it shall be")
	}
	return a, b
}

func (d *device) verify(repair bool) api.VerifyReport {
	d.t.Helper()
	r, err := d.Verify(d.t.Context(), api.VerifyOptions{Repair: repair}, func(api.VerifyProgress) {})
	must(d.t, err)
	return r
}

// clinical is the scope in which these tests write.
func clinical(t *testing.T, d *device) [16]byte {
	id, ok := d.State().ScopeNamed("clinical")
	if !ok {
		t.Fatal("there is no clinical scope")
	}
	return id
}

// keysOf lists every key of a store, with its kind.
func keysOf(t *testing.T, s storage.Store) (keys [][]byte) {
	must(t, s.View(func(v storage.Reader) error {
		return v.Keys(nil, nil, func(key []byte) error {
			keys = append(keys, bytes.Clone(key))
			return nil
		})
	}))
	return keys
}

func kindOf(key []byte) string {
	for _, k := range storage.Kinds() {
		if k.Number() == key[0] {
			return k.String()
		}
	}
	return "unknown"
}

// TestVerifyFindsEverything damages or removes each stored value in turn. Verify names it; what follows from chunks is
// made anew; a chunk comes again from the other device; and then both show the same.
func TestVerifyFindsEverything(t *testing.T) {
	a, b := busy(t)
	if r := b.verify(false); !r.Clean || r.Found != 0 || r.Chunks < 10 || r.Documents < 6 || r.Resources < 10 || r.Values < 20 {
		t.Fatalf("an undamaged store: %+v", r)
	}
	shown, listed := b.export(), b.conflicts()
	unnoticed := map[string]bool{} // kinds of which nothing says what there must be
	for _, k := range []storage.Kind{storage.Ack.Kind, storage.Said.Kind, storage.Event.Kind, storage.Peer.Kind} {
		unnoticed[k.String()] = true
	}
	kinds := map[string]int{}
	keys := keysOf(t, b.twin)
	for i, key := range keys {
		kind := kindOf(key)
		for _, remove := range []bool{false, true} {
			if remove && (unnoticed[kind] || kind == storage.LogHead.String() || bytes.Equal(key, storage.Meta.Key(3))) {
				continue
			}
			if kinds[kind]++; kinds[kind] > 3 && i%11 != 0 {
				continue // more of the same
			}
			if remove {
				var batch storage.Batch
				batch.Delete(key)
				must(t, b.twin.Commit(t.Context(), &batch))
			} else if !b.twin.Corrupt(key) {
				continue // the repair before made it anew without it
			}
			r := b.verify(false)
			if r.Clean || r.Found == 0 || len(r.Findings) == 0 {
				t.Fatalf("%s (%x), removed %v: verify finds nothing", kind, key[:min(len(key), 12)], remove)
			}
			for _, f := range r.Findings {
				if strings.Contains(f.ID+f.What, "anna") || strings.Contains(f.ID+f.What, "ller") {
					t.Errorf("a finding names a patient: %+v", f)
				}
			}
			if r := b.verify(true); !r.Clean || !r.Repaired {
				t.Fatalf("%s (%x), removed %v: not repaired: %+v", kind, key[:min(len(key), 12)], remove, r)
			}
			sync(t, a, b)
			if r := b.verify(false); !r.Clean {
				t.Fatalf("%s (%x), removed %v: damaged again: %+v", kind, key[:min(len(key), 12)], remove, r)
			}
			if b.export() != shown || a.export() != shown || fmt.Sprint(b.conflicts()) != fmt.Sprint(listed) {
				t.Fatalf("%s (%x), removed %v: shows something else after the repair", kind, key[:min(len(key), 12)], remove)
			}
			if p, have, of, err := b.Repair(); err != nil || have != of {
				t.Fatalf("%s: %d of %d chunks are here again (%+v), %v", kind, have, of, p, err)
			}
		}
	}
	for _, kind := range []storage.Kind{storage.Chunk.Kind, storage.Change.Kind, storage.ResourceIn.Kind, storage.Term.Kind, storage.OfPatient.Kind,
		storage.DocumentsOf.Kind, storage.Conflict.Kind, storage.ConflictOf.Kind, storage.LogHead.Kind, storage.Cursor.Kind, storage.Meta.Kind,
		storage.Member.Kind, storage.Event.Kind, storage.Ack.Kind, storage.Said.Kind} {
		if kinds[kind.String()] == 0 {
			t.Errorf("no %s was damaged", kind)
		}
	}
	// What a resource of two documents is found by stays when one of them is chosen.
	for _, c := range b.conflicts() {
		zero := 0
		_, err := b.Resolve(t.Context(), "user", c.ID, api.Decision{Choose: &zero})
		must(t, err)
	}
	if r := b.verify(false); !r.Clean {
		t.Errorf("after the conflicts are decided: %+v", r)
	}
	shown = b.export()
	// And after a restart all is as it was.
	b.crash()
	if r := b.verify(false); !r.Clean || b.export() != shown {
		t.Errorf("after a restart: %+v", r)
	}
}

// TestOwnLogEndsAtDamage damages a chunk that this device wrote: it goes on under a new log, and gets its own back.
func TestOwnLogEndsAtDamage(t *testing.T) {
	a, b := busy(t)
	before := chunk.CurrentLog(b.keys)
	scope := clinical(t, a)
	n := b.Vector(scope)[before].Counter
	if n < 3 {
		t.Fatalf("the branch wrote %d chunks", n)
	}
	b.twin.Corrupt(storage.Chunk.Key(scope, before, n-1))
	b.crash() // so that the documents are not open, and need their chunks
	// A write that needs the chunk says so, and does no harm.
	for _, ref := range []string{"Basic/b0", "Basic/b1", "Basic/b2"} {
		_, _ = b.Put(t.Context(), "user", []byte(fmt.Sprintf(`{"resourceType":"Basic","id":%q,"code":{"text":"later"}}`, ref[6:])), true)
	}
	after := chunk.CurrentLog(b.keys)
	if after == before {
		t.Fatal("the log goes on behind a damaged chunk")
	}
	if !b.TakenBack() || b.TakenBack() {
		t.Error("the sessions are not told once to begin anew")
	}
	if got := b.Vector(scope)[before].Counter; got != n-2 {
		t.Errorf("the vector claims %d chunks, want %d", got, n-2)
	}
	sync(t, a, b)
	if got, want := b.Vector(scope)[before].Counter, a.Vector(scope)[before].Counter; got < n || got != want {
		t.Errorf("%d of %d own chunks came back", got, want)
	}
	for i := range 3 {
		b.put(fmt.Sprintf(`{"resourceType":"Basic","id":"b%d","code":{"text":"last"}}`, i), true)
	}
	sync(t, a, b)
	if r := b.verify(false); !r.Clean || a.export() != b.export() || strings.Count(a.export(), "last") != 3 {
		t.Errorf("after the repair: %+v", r)
	}
	p, err := b.EndRepair(t.Context())
	must(t, err)
	if own, others := p.Lost(); own+others != 0 || p.Done.IsZero() {
		t.Errorf("%d own and %d other chunks are said to be lost", own, others)
	}
}

// TestApplierGoesOn damages a chunk that has arrived and is not applied: the others are applied, and it comes again.
func TestApplierGoesOn(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	for i := range 10 {
		a.put(fmt.Sprintf(`{"resourceType":"Basic","id":"a%d","code":{"text":"x"}}`, i), false)
	}
	scope := clinical(t, a)
	log := chunk.CurrentLog(a.keys)
	chunks, err := a.Chunks(scope, log, 0, 1<<20)
	must(t, err)
	var arrived [][]byte
	for _, it := range chunks {
		arrived = append(arrived, it.Bytes)
	}
	must(t, b.Arrive(t.Context(), a.Device(), arrived))
	b.twin.Corrupt(storage.Chunk.Key(scope, log, 4))
	for more := true; more; {
		more, err = b.Apply(t.Context())
		must(t, err)
	}
	if got := b.Vector(scope)[log].Counter; got != 3 {
		t.Errorf("the vector claims %d chunks, want 3", got)
	}
	sync(t, a, b)
	if a.export() != b.export() || b.Vector(scope)[log].Counter != 10 {
		t.Error("the damaged chunk did not come again")
	}
	if r := b.verify(false); !r.Clean {
		t.Errorf("after that: %+v", r)
	}
}

// TestScrub damages one chunk and removes another, of two logs: a scrub finds both, and they come again.
func TestScrub(t *testing.T) {
	a, b := busy(t)
	scope := clinical(t, a)
	n, err := b.Scrub(t.Context(), 0)
	must(t, err)
	want := uint64(0)
	for _, s := range b.State().Scopes() {
		for _, p := range b.Vector(s.ID) {
			want += p.Counter
		}
	}
	if n.Chunks != want || want < 10 || n.Damaged > 0 {
		t.Fatalf("%+v of %d chunks", n, want)
	}
	if b.TakenBack() {
		t.Fatal("a scrub of an undamaged store took something back")
	}
	b.twin.Corrupt(storage.Chunk.Key(scope, chunk.CurrentLog(a.keys), 3))
	var batch storage.Batch
	batch.Delete(storage.Chunk.Key(scope, chunk.CurrentLog(b.keys), 2))
	must(t, b.twin.Commit(t.Context(), &batch))
	own := chunk.CurrentLog(b.keys)
	if n, err := b.Scrub(t.Context(), 0); err != nil || !b.TakenBack() || n.Damaged != 2 {
		t.Fatalf("the scrub took nothing back, %v", err)
	}
	v := b.Vector(scope)
	if v[chunk.CurrentLog(a.keys)].Counter != 2 || v[own].Counter != 1 || chunk.CurrentLog(b.keys) == own {
		t.Errorf("the vector claims %v", v)
	}
	sync(t, a, b)
	if r := b.verify(false); !r.Clean || a.export() != b.export() {
		t.Errorf("after that: %+v", r)
	}
}

// TestSaveLost loses a chunk that no other device has: what it said is still shown, can be edited, and reaches the other.
func TestSaveLost(t *testing.T) {
	a, b := busy(t)
	scope := clinical(t, a)
	own := chunk.CurrentLog(b.keys)
	b.put(`{"resourceType":"Basic","id":"alone","code":{"text":"only here"}}`, false)
	b.edit("Patient/anna", func(o map[string]any) { o["active"] = true })
	n := b.Vector(scope)[own].Counter
	b.twin.Corrupt(storage.Chunk.Key(scope, own, n-1))
	b.twin.Corrupt(storage.Chunk.Key(scope, own, n))
	b.crash()
	shown := b.export()
	_, err := b.Scrub(t.Context(), 0)
	must(t, err)
	sync(t, a, b)
	p, err := b.EndRepair(t.Context())
	must(t, err)
	if lost, others := p.Lost(); lost != 2 || others != 0 || p.Unsure() != 1 {
		t.Errorf("%d own and %d other chunks are said to be lost, %d unsure: %+v", lost, others, p.Unsure(), p)
	}
	saved, err := b.SaveLost(t.Context())
	must(t, err)
	if saved != 2 {
		t.Errorf("%d resources were written once more, want 2", saved)
	}
	if saved, err := b.SaveLost(t.Context()); err != nil || saved != 0 {
		t.Errorf("a second time %d, %v", saved, err)
	}
	sync(t, a, b)
	if b.export() != shown || a.export() != b.export() {
		t.Error("what was shown is not there any more")
	}
	b.edit("Basic/alone", func(o map[string]any) { o["code"] = map[string]any{"text": "edited"} })
	sync(t, a, b)
	if r := b.verify(false); !r.Clean || a.export() != b.export() {
		t.Errorf("after that: %+v", r)
	}
}

// TestRefill fills a new store from what an old one says, less a chunk of its own that nobody else has and one that the
// other device has.
func TestRefill(t *testing.T) {
	a, b := busy(t)
	scope := clinical(t, a)
	old := chunk.CurrentLog(b.keys)
	b.put(`{"resourceType":"Basic","id":"alone1","code":{"text":"x"}}`, false)
	b.put(`{"resourceType":"Basic","id":"alone2","code":{"text":"x"}}`, false)
	last := b.Vector(scope)[old].Counter
	missing := [][]byte{storage.Chunk.Key(scope, old, 1), storage.Chunk.Key(scope, old, last-1),
		storage.Chunk.Key(scope, chunk.CurrentLog(a.keys), 2)}
	rep := b.refill(func(key []byte) bool {
		return !slices.ContainsFunc(missing, func(k []byte) bool { return bytes.Equal(k, key) })
	})
	if rep.Unsure() != 1 {
		t.Errorf("%d own chunks are said to be nowhere, want 1: %+v", rep.Unsure(), rep)
	}
	if len(keysOf(t, b.twin)) == 0 || chunk.CurrentLog(b.keys) == old {
		t.Error("the new store is no new one")
	}
	sync(t, a, b)
	if got := b.Vector(scope)[old].Counter; got != last-2 {
		t.Errorf("own chunks up to %d are here, want %d: what nobody has is a gap", got, last-2)
	}
	if a.export() != b.export() {
		t.Error("the devices differ")
	}
	b.put(`{"resourceType":"Basic","id":"alone1","code":{"text":"again"}}`, true)
	sync(t, a, b)
	p, err := b.EndRepair(t.Context())
	must(t, err)
	if own, others := p.Lost(); own != 2 || others != 0 {
		t.Errorf("%d own and %d other chunks are said to be lost, want 2 and 0", own, others)
	}
	if r := b.verify(false); !r.Clean || a.export() != b.export() {
		t.Errorf("after the repair: %+v", r)
	}
}
