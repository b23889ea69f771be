package anchor

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
)

// damages flips a bit of what is stored of the practice under a key.
func (r *retained) damages(key []byte) {
	r.t.Helper()
	if !r.twin.Corrupt(append(storage.Within.Key(7), key...)) {
		r.t.Fatal("nothing is stored there")
	}
}

// session is what a session with a device brings the anchor that holds what the device lacks, until one of them fails.
func (r *retained) session(with *part) error {
	has := r.p.Vector(r.scope())
	for _, log := range with.Vector(r.scope()).Logs() {
		items, err := with.Chunks(r.scope(), log, has[log].Counter, 1<<20)
		must(r.t, err)
		var list [][]byte
		for _, it := range items {
			if !it.Loose || has[it.Log].Counter < it.Counter {
				list = append(list, it.Bytes)
			}
		}
		if err := r.p.Arrive(r.t.Context(), r.keys.Device(), list); err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedBeginning: a chunk that does not read, at the beginning of a log, keeps nobody from beginning another one.
func TestDamagedBeginning(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	old := a.edits(1, 2)
	r.takes(old...)
	r.crash()
	r.damages(storage.Chunk.Key(r.scope(), old[0].Log(), 1))
	one := b.edits(2, 1)
	r.takes(one...)
	if r.p.Vector(r.scope())[one[0].Log()].Counter != 1 {
		t.Error("what begins another log is not taken")
	}
}

// TestDamagedProof: what a skip rests on and does not read comes again from the devices, whether it is found when somebody asks for what the skip
// stands for, or when somebody brings the skip.
func TestDamagedProof(t *testing.T) {
	for _, asked := range []bool{false, true} {
		for _, ofWord := range []bool{false, true} {
			r := newRetained(t, 3)
			a, b, c := r.writers[0], r.writers[1], r.writers[2]
			edits, others := a.edits(1, 5), c.edits(1, 1)
			r.takes(append(edits, others...)...)
			on := b.packs(1, append(edits, others...)...)
			r.takes(on, a.says(1, on, true), c.says(1, on, true))
			r.keeps("packed", 3, 2)
			device := r.passesOn(r.p, r.fresh())
			if !asked { // it is put back to before the edits, and has the rest
				var back storage.Batch
				back.Delete(storage.Skip.Key(r.scope(), edits[0].Log(), 5))
				back.Delete(storage.Chunk.Key(r.scope(), edits[0].Log(), 6))
				back.Put(storage.LogHead.Key(r.scope(), edits[0].Log()), logs.MarshalEnd(logs.End{}))
				must(t, r.p.store.Commit(t.Context(), &back))
				r.crash()
			}
			at := on
			if ofWord {
				at = c.logs[1]
			}
			r.damages(storage.Chunk.Key(r.scope(), at.Log(), at.Header().Counter))
			if asked {
				if _, err := r.p.Chunks(r.scope(), others[0].Log(), 0, 1<<20); err == nil {
					t.Fatal("what does not read is passed over")
				}
			}
			for n := 0; r.session(device) != nil; n++ {
				if n == 3 {
					t.Fatalf("asked %v, word %v: %v", asked, ofWord, r.session(device))
				}
			}
			must(t, r.session(device)) // the next, as a HELLO finds what is left
			if !asked && ofWord {      // nobody has looked at it
				continue
			}
			r.complete("after the repair")
		}
	}
}

// TestDamagedProofOfTurn: whoever follows a log and comes to a skip whose checkpoint does not read is told that it is the skip's turn that cannot be had.
func TestDamagedProofOfTurn(t *testing.T) {
	r := newRetained(t, 2)
	edits := r.writers[0].edits(1, 5)
	on := r.writers[1].packs(1, edits...)
	r.takes(append(edits, on, r.writers[0].says(1, on, true))...)
	r.keeps("packed", 2, 1)
	r.damages(storage.Chunk.Key(r.scope(), on.Log(), 1))
	turn := logs.Ref{Scope: r.scope(), Log: edits[0].Log(), Counter: 1}.Main()
	_, _, err := r.older().At(turn)
	if bad, ok := errors.AsType[*logs.Unreadable](err); !ok || bad.At != turn {
		t.Errorf("it is told %v", err)
	}
}

// TestDamagedProofBehindGap: what a skip rests on is no hindrance either where it does not read and is kept behind a gap, claimed by nothing.
func TestDamagedProofBehindGap(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	edits := a.edits(1, 5)
	r.takes(append(edits, b.edits(2, 1)...)...)
	on := b.packs(1, edits...)
	r.takes(on, a.says(1, on, true))
	r.keeps("packed", 3, 1)
	device := r.passesOn(r.p, r.fresh())
	r.damages(storage.Chunk.Key(r.scope(), on.Log(), 1))
	r.damages(storage.Chunk.Key(r.scope(), on.Log(), 2))
	if _, err := r.p.Chunks(r.scope(), on.Log(), 0, 1<<20); err == nil {
		t.Fatal("what does not read is passed over")
	}
	for n := 0; ; n++ {
		_, err := r.p.Chunks(r.scope(), edits[0].Log(), 0, 1<<20)
		if err == nil || r.p.Vector(r.scope())[edits[0].Log()].Counter == 0 {
			break // it is claimed no longer
		}
		if n == 3 {
			t.Fatal(err)
		}
	}
	for n := 0; r.session(device) != nil; n++ {
		if n == 3 {
			t.Fatal(r.session(device))
		}
	}
	must(t, r.session(device))
	r.complete("after the repair")
}

// TestScrub: what does not read is found though nobody asks for it, and comes again.
func TestScrub(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	edits := slices.Concat(a.edits(1, 3), b.edits(1, 100))
	r.takes(edits...)
	device := r.passesOn(r.p, r.fresh())
	if found, err := r.p.Scrub(t.Context(), 0); err != nil || found != (logs.Scrubbed{Chunks: 103}) {
		t.Fatalf("%+v (%v)", found, err)
	}
	r.damages(storage.Chunk.Key(r.scope(), edits[1].Log(), 2))
	var gone storage.Batch
	gone.Delete(storage.Chunk.Key(r.scope(), edits[90].Log(), edits[90].Header().Counter))
	must(t, r.p.store.Commit(t.Context(), &gone))
	if found, err := r.p.Scrub(t.Context(), 0); err != nil || found.Damaged != 2 {
		t.Fatalf("%+v (%v)", found, err)
	}
	must(t, r.session(device))
	r.complete("after the repair")
	if found, err := r.p.Scrub(t.Context(), 0); err != nil || found != (logs.Scrubbed{Chunks: 103}) {
		t.Fatalf("%+v (%v)", found, err)
	}
}

// TestScrubAll: an anchor looks through all practices, and past one that does not read.
func TestScrubAll(t *testing.T) {
	a := openAnchor(t, t.TempDir())
	tal, berg := newCustomer(t, "Tal"), newCustomer(t, "Berg")
	tal.admitted(a).broken = errors.New("it does not read")
	p, one := berg.admitted(a), berg.seals("one")
	must(t, p.Arrive(t.Context(), berg.keys.Device(), [][]byte{one.Bytes()}))
	var b storage.Batch
	b.Delete(storage.Chunk.Key(berg.scope(), one.Log(), 1)) // as a disk loses it
	must(t, p.share.Commit(t.Context(), &b))
	a.scrubAll(t.Context(), 0)
	if n := chunksOf(p, berg.scope()); n != 0 {
		t.Errorf("%d chunks are claimed", n)
	}
}

// TestScrubWhileHistoriesSwitch: a log whose main history becomes another one while it is looked through is not taken for damaged.
func TestScrubWhileHistoriesSwitch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRetained(t, 2)
		a, b := r.writers[0], r.writers[1]
		both := a.edits(1, 10)
		copied := &writer{Keyring: a.Keyring, r: r, logs: slices.Clone(a.logs)}
		second := copied.edits(1, 100)
		first := a.edits(1, 100)
		packs := b.packs(1, slices.Concat(both, first[:5])...)
		must(t, a.MintLog())
		a.from = len(a.logs)
		word := a.says(1, packs, true)
		elsewhere := r.fresh()
		must(t, elsewhere.Arrive(t.Context(), a.Device(), bytesOf(slices.Concat(both, first, []chunk.Sealed{packs, word}))))
		must(t, settles(t.Context(), elsewhere))

		r.takes(slices.Concat(both, second, []chunk.Sealed{packs, word})...)
		found := make(chan logs.Scrubbed)
		go func() {
			done, err := r.p.Scrub(t.Context(), time.Hour)
			must(t, err)
			found <- done
		}()
		synctest.Wait() // in the midst of the second history
		items, err := elsewhere.Chunks(r.scope(), both[0].Log(), 0, 1<<20)
		must(t, err)
		for _, it := range items {
			must(t, r.p.Arrive(t.Context(), a.Device(), [][]byte{it.Bytes}))
		}
		if at := r.p.Vector(r.scope())[both[0].Log()]; at.Counter != 110 {
			t.Fatalf("the log stands at %v", at)
		}
		chunks, _ := stored(t, r.p)
		if done := <-found; done.Damaged > 0 {
			t.Errorf("%+v", done)
		}
		if left, _ := stored(t, r.p); left != chunks {
			t.Errorf("%d chunks are stored, and were %d", left, chunks)
		}
	})
}

func bytesOf(list []chunk.Sealed) (out [][]byte) {
	for _, s := range list {
		out = append(out, s.Bytes())
	}
	return out
}
