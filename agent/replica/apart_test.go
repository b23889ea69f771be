package replica_test

import (
	"testing"

	"chartmesh/storage"
)

// loseOn damages a chunk wherever some devices keep it, and has them notice.
func loseOn(t *testing.T, key []byte, of *device, devices ...*device) {
	t.Helper()
	lost := of.chunkAt(key)
	for _, d := range devices {
		for _, k := range d.chunkKeys() {
			if d.chunkAt(k) == lost && !d.twin.Corrupt(k) {
				t.Fatal("there is no such chunk")
			}
		}
		_, err := d.Scrub(t.Context(), 0)
		must(t, err)
	}
}

// giveUp ends the repairs of devices that have met all others, as the agent does.
func giveUp(t *testing.T, devices ...*device) {
	t.Helper()
	settleAll(t, devices...)
	for _, d := range devices {
		_, err := d.EndRepair(t.Context())
		must(t, err)
		_, err = d.SaveLost(t.Context())
		must(t, err)
		settleAll(t, devices...)
	}
}

// TestLostChunkSetsNobodyApart loses each chunk of a practice with a forked log on all of its devices. What is kept behind it
// stands in the main history on one, beside it on another, and nowhere on a device that is added later: all must apply the
// same, also when they make their documents anew, and say how much they keep. A copy of the lost chunk that turns up then
// closes the gap everywhere.
func TestLostChunkSetsNobodyApart(t *testing.T) {
	keptSomewhere := false
	for n := 0; ; n++ {
		a, b, c := forked(t)
		late := admit(t, a, "late")
		settleAll(t, a, b, c, late)
		want := b.export()
		keys := b.chunkKeys()
		if n == len(keys) {
			break
		}
		loseOn(t, keys[n], b, a, b, c) // late has a copy, and is away
		giveUp(t, a, b, c)
		newcomer := admit(t, a, "newcomer")
		settleAll(t, a, b, c, newcomer)
		same := func(when string, devices ...*device) {
			t.Helper()
			if sameEverywhere(t, devices...); t.Failed() {
				t.Fatalf("chunk %d, %s", n, when)
			}
			for _, d := range devices {
				if got := d.export(); got != want {
					t.Fatalf("chunk %d, %s: %s shows %s, want %s", n, when, d.name, got, want)
				}
				if r := d.verify(false); !r.Clean || !d.AtEnd() {
					t.Fatalf("chunk %d, %s: %s: %+v", n, when, d.name, r)
				}
			}
		}
		same("given up", a, b, c, newcomer)
		for _, d := range []*device{a, b, c} {
			r := d.verify(false)
			keptSomewhere = keptSomewhere || r.Kept > 0
			d.corrupt(storage.ResourceIn.Number())
			d.verify(true)
			d.crash()
			d.applyAll()
			if again := d.verify(false); again.Kept != r.Kept || again.Wanted != r.Wanted || r.Wanted == 0 {
				t.Fatalf("chunk %d: %s misses %d and keeps %d, before a restart %d and %d", n, d.name, again.Wanted, again.Kept, r.Wanted, r.Kept)
			}
		}
		settleAll(t, a, b, c, newcomer)
		same("made anew", a, b, c, newcomer)
		settleAll(t, a, b, c, newcomer, late)
		for _, d := range []*device{a, b, c, newcomer, late} {
			if r := d.verify(false); r.Wanted > 0 || r.Kept > 0 {
				t.Fatalf("chunk %d came back, and %s misses %d and keeps %d", n, d.name, r.Wanted, r.Kept)
			}
		}
		sameEverywhere(t, a, b, c, newcomer, late)
		if t.Failed() {
			t.Fatalf("chunk %d came back", n)
		}
	}
	if !keptSomewhere {
		t.Error("nothing was kept behind a gap: the test shows nothing")
	}
}

// TestMissingBranchIsRemembered damages a chunk beside the main history that nothing builds on: it is missing after a restart,
// and after another repair has begun, until it comes.
func TestMissingBranchIsRemembered(t *testing.T) {
	a, b, c := forked(t)
	var last []byte
	for _, k := range b.chunkKeys() {
		if k[0] == storage.Branch.Number() {
			last = k // ascending: the end of the other history
		}
	}
	if last == nil || !b.twin.Corrupt(last) {
		t.Fatal("there is no such chunk")
	}
	missing := func(when string, want uint64) {
		t.Helper()
		p, _, _, err := b.Repair()
		must(t, err)
		if own, others := p.Lost(); own+others != want {
			t.Errorf("%s %d chunks are missing, want %d", when, own+others, want)
		}
	}
	b.crash()
	missing("when it is found", 1)
	b.crash()
	missing("after a restart", 1)
	_, err := b.EndRepair(t.Context())
	must(t, err)
	scope, log, counter, _, err := storage.Branch.Parse(last)
	must(t, err)
	for _, k := range b.chunkKeys() {
		if s, l, n, err := storage.Chunk.Parse(k); err == nil && (s != scope || l != log) && n == 1 {
			b.twin.Corrupt(k)
			break
		}
	}
	_, err = b.Scrub(t.Context(), 0)
	must(t, err)
	if p, _, _, err := b.Repair(); err != nil || !p.Done.IsZero() {
		t.Fatalf("no other repair began, %v", err)
	}
	if p, _, _, _ := b.Repair(); len(p.Logs) < 2 {
		t.Errorf("chunk %d is forgotten: %+v", counter, p)
	}
	settleAll(t, a, b, c)
	missing("when it has come", 0)
	b.crash()
	b.applyAll()
	missing("after another restart", 0)
	if sameEverywhere(t, a, b, c); !containsKey(b.chunkKeys(), last) {
		t.Error("it has not come back")
	}
	for _, k := range keysOf(t, b.twin) {
		if k[0] == storage.Gone.Number() {
			t.Error("it is noted as missing still")
		}
	}
}
