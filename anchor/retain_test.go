package anchor

import (
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestRetention: what a checkpoint covers is deleted when every device that writes has found it good, and not before; whoever comes later gets all of it.
func TestRetention(t *testing.T) {
	r := newRetained(t, 3)
	a, b, c := r.writers[0], r.writers[1], r.writers[2]
	r.joins(trust.RoleReader) // nobody waits for its word
	r.brings(r.p)
	edits := slices.Concat(a.edits(1, 10), b.edits(1, 5), a.edits(1, 5))
	other := b.edits(2, 1)
	r.takes(slices.Concat(edits, other)...)
	first := a.packs(1, edits...)
	r.takes(first)
	r.keeps("nobody has spoken", 22, 0)
	said := b.says(1, first, true)
	r.takes(said)
	r.keeps("one has spoken", 23, 0)
	before := r.p.Vector(r.scope())
	r.crash()
	r.takes(c.says(1, first, true))
	r.crash() // between the word and the deletion
	r.keeps("all have", 4, 2)
	for log, at := range before {
		if now := r.p.Vector(r.scope())[log]; now != at {
			t.Errorf("log %v stands at %v, not at %v", log, now, at)
		}
	}
	if n := r.p.Deleted(); n != 20 {
		t.Errorf("%d chunks are counted as deleted", n)
	}
	r.complete("after the deletion")

	// What was deleted comes again, from a device that was away: it is not stored.
	r.takes(edits...)
	r.keeps("they come again", 4, 2)
	r.crash()
	if n := r.p.Deleted(); n != 20 {
		t.Errorf("%d chunks are counted as deleted after a restart", n)
	}
	r.keeps("after a restart", 4, 2)

	// The next checkpoint covers the first, and the words on it.
	more := a.edits(1, 3)
	next := b.packs(1, slices.Concat(edits, more, []chunk.Sealed{first, said, c.logs[0]})...)
	r.takes(append(more, next)...)
	r.takes(a.says(1, next, true), c.says(1, next, true))
	r.keeps("the next one", 4, 4)
	r.complete("after the next one")
	r.crash()
	r.takes(first, said)
	r.keeps("the first one comes again", 4, 4)
	r.complete("at last")

	// What is noted of a checkpoint goes with it.
	var b1 storage.Batch
	b1.Put(storage.Unsettled.Key(first.ID()), logs.Unsettled{Scope: r.scope(), At: first.Place(), Maker: a.Device()}.Marshal())
	must(t, r.p.store.Commit(t.Context(), &b1))
	must(t, settles(t.Context(), r.p))
	must(t, settles(t.Context(), r.p))
	if n := notes(t, r.p); n != 0 {
		t.Errorf("%d notes of checkpoints are left", n)
	}
}

// TestGrace: what a checkpoint covers is kept for a while.
func TestGrace(t *testing.T) {
	r := newRetained(t, 1)
	a := r.writers[0]
	edits := a.edits(1, 3)
	r.takes(append(edits, a.packs(1, edits...))...)
	now := time.Now()
	for after, want := range map[time.Duration]int{time.Minute: 4, 6 * 24 * time.Hour: 4} {
		if more, err := r.p.Settle(t.Context(), now.Add(after), DefaultGrace); more || err != nil {
			t.Fatal(more, err)
		}
		if n, _ := stored(t, r.p); n != want {
			t.Errorf("%d chunks after %v", n, after)
		}
	}
	_, err := r.p.Settle(t.Context(), now.Add(DefaultGrace+time.Minute), DefaultGrace)
	must(t, err)
	if n, _ := stored(t, r.p); n != 1 {
		t.Errorf("%d chunks after the grace", n)
	}
	if more, err := r.p.Settle(t.Context(), now, 0); more || err != nil {
		t.Fatal(more, err)
	}
}

// TestTurnsRest: a practice that has very much to judge rests in between, and goes on where it was.
func TestTurnsRest(t *testing.T) {
	r := newRetained(t, 1)
	a := openAnchor(t, t.TempDir())
	a.cfg.Grace = 1
	berg := newCustomer(t, "Berg")
	p := berg.admitted(a)
	var b storage.Batch
	for i := range byte(100) {
		b.Put(storage.Unsettled.Key(chunk.ID{i}), logs.Unsettled{Scope: berg.scope(), At: chunk.Place{Counter: 1, ID: chunk.ID{i}}, Maker: r.writers[0].Device()}.Marshal())
	}
	must(t, p.share.Commit(t.Context(), &b))
	must(t, settles(t.Context(), &part{Practice: p.Practice, store: p.share}))
	p.turns = turns{}
	if !a.settle(t.Context()) || !p.turns.rest.IsZero() {
		t.Fatalf("after one turn: %+v", p.turns)
	}
	p.turns.took = longTurns
	if a.settle(t.Context()) || time.Until(p.turns.rest) < longTurns*retainShare/2 {
		t.Errorf("it does not rest: %+v", p.turns)
	}
	if at := p.turns; a.settle(t.Context()) || p.turns != at {
		t.Errorf("it has a turn while it rests: %+v", p.turns)
	}
	p.turns.rest = time.Time{}
	for a.settle(t.Context()) {
		if p.turns.took > longTurns {
			t.Fatal("it never ends")
		}
	}
}

// TestBadWords: no word but those of all devices that write, each by itself, on this very checkpoint, lets anything be deleted.
func TestBadWords(t *testing.T) {
	for name, speak := range map[string]func(r *retained, on, twin chunk.Sealed){
		"nobody": func(*retained, chunk.Sealed, chunk.Sealed) {},
		"one finds it bad": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, false), r.writers[2].says(1, on, true))
		},
		"one says both": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, on, true), r.writers[1].says(1, on, false))
		},
		"one says both, the bad one first": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, false))
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, on, true))
		},
		"one says both at once": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[2].says(1, on, true), r.writers[1].says(1, on, false), r.writers[1].says(1, on, true))
		},
		"one speaks twice": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, true), r.writers[1].says(1, on, true))
		},
		"a word is on another": func(r *retained, on, twin chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, twin, true))
		},
		"a word is bent": func(r *retained, on, _ chunk.Sealed) {
			word := slices.Clone(r.writers[2].says(1, on, true).Bytes())
			word[len(word)-1] ^= 1
			r.takes(r.writers[1].says(1, on, true))
			must(r.t, r.p.Arrive(r.t.Context(), r.keys.Device(), [][]byte{word}))
		},
		"a reader finds it bad": func(r *retained, on, _ chunk.Sealed) {
			was := r.joins(trust.RoleMember)
			r.brings(r.p)
			r.takes(was.says(1, on, false), r.writers[1].says(1, on, true), r.writers[2].says(1, on, true))
			r.enter(r.keys.Remove(r.state, was.Device(), nil, time.Now()))
			r.brings(r.p)
		},
		"a word stands behind a gap": func(r *retained, on, _ chunk.Sealed) {
			r.writers[2].edits(2, 1)
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, on, true))
		},
		"an entry that this version does not know": func(r *retained, on, _ chunk.Sealed) {
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, on, true))
			d := trust.Draft{Kind: 200, Parents: r.state.Heads(), TimeMillis: time.Now().UnixMilli(), Payload: []byte{1}}
			r.enter(d.Sign(r.keys))
			r.brings(r.p)
		},
		"somebody came meanwhile": func(r *retained, on, _ chunk.Sealed) {
			r.joins(trust.RoleMember)
			r.brings(r.p)
			r.takes(r.writers[1].says(1, on, true), r.writers[2].says(1, on, true))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetained(t, 3)
			edits := slices.Concat(r.writers[0].edits(1, 4), r.writers[1].edits(1, 2))
			r.takes(edits...)
			on, twin := r.writers[0].packs(1, edits...), r.writers[0].packs(1, edits...)
			r.takes(on, twin)
			speak(r, on, twin)
			must(t, settles(t.Context(), r.p))
			r.crash()
			must(t, settles(t.Context(), r.p))
			if n := r.p.Deleted(); n != 0 {
				t.Errorf("%d chunks are deleted", n)
			}
		})
	}
}

// TestBadCovers: a checkpoint that covers what it cannot stand for deletes nothing, although all have found it good.
func TestBadCovers(t *testing.T) {
	for name, pack := range map[string]func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint{
		"another document": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			return packed(2, edits...)
		},
		"another's chunk among them": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			more := r.writers[1].edits(2, 1)
			r.takes(more...)
			return packed(1, append(more, edits...)...)
		},
		"a chunk of another kind": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			d := r.writers[1].seal(&chunk.Opaque{Type: chunk.KindBlobManifest, Document: [32]byte{1}})
			r.takes(d)
			return packed(1, append(edits, d)...)
		},
		"another history": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			c := packed(1, edits...)
			c.Covers[0].Last[0] ^= 1
			return c
		},
		"another chunk within": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			c := packed(1, edits...)
			c.Covers[1].Tips[1][0] ^= 1
			return c
		},
		"what is not written yet": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			n := len(r.writers[1].logs)
			c := packed(1, append(edits, r.writers[1].edits(1, 1)...)...)
			r.writers[1].logs = r.writers[1].logs[:n]
			return c
		},
		"a log that is not here": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			return packed(1, append(edits, r.joins(trust.RoleMember).edits(1, 3)...)...)
		},
		"an earlier one, and not what that covers": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			first := r.writers[0].packs(1, edits...)
			more := r.writers[0].edits(1, 1)
			r.takes(first, more[0])
			return packed(1, first, more[0])
		},
		"a word, and not the checkpoint that it is on": func(r *retained, edits []chunk.Sealed) *chunk.Checkpoint {
			first := r.writers[0].packs(1, edits...)
			word := r.writers[1].says(1, first, false)
			r.takes(first, word)
			return packed(1, append(edits, word)...)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetained(t, 2)
			edits := slices.Concat(r.writers[0].edits(1, 4), r.writers[1].edits(1, 2))
			r.takes(edits...)
			on := r.writers[0].seal(pack(r, edits))
			r.takes(on)
			r.takes(r.writers[1].says(1, on, true))
			if len(r.writers) > 2 {
				r.enter(r.keys.Remove(r.state, r.writers[2].Device(), nil, time.Now()))
				r.brings(r.p)
				r.writers = r.writers[:2]
			}
			must(t, settles(t.Context(), r.p))
			r.crash()
			must(t, settles(t.Context(), r.p))
			if n := r.p.Deleted(); n != 0 {
				t.Errorf("%d chunks are deleted", n)
			}
			r.complete(name)
		})
	}
}

// TestMemberRemoved: nobody waits for the word of a device that was removed, and nothing is deleted of its log without it.
func TestMemberRemoved(t *testing.T) {
	for wrote, want := range map[int]int{0: 2, 1: 7} {
		r := newRetained(t, 3)
		a, b, gone := r.writers[0], r.writers[1], r.writers[2]
		edits := slices.Concat(a.edits(1, 4), gone.edits(1, wrote))
		r.takes(edits...)
		on := a.packs(1, edits...)
		r.takes(on, b.says(1, on, true))
		r.keeps("its word is waited for", 6+wrote, 0)
		r.enter(r.keys.Remove(r.state, gone.Device(), nil, time.Now()))
		r.brings(r.p)
		must(t, settles(t.Context(), r.p))
		if n, _ := stored(t, r.p); n != want {
			t.Errorf("%d chunks are stored after it was removed, %d of them its own", n, wrote)
		}
	}
}

// TestSettlesOnNews: without news a practice is not looked at, and a word or another membership is news.
func TestSettlesOnNews(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	edits := a.edits(1, 4)
	on := a.packs(1, edits...)
	r.takes(append(edits, on)...)
	now := time.Now()
	look := func() uint64 {
		for more := true; more; {
			var err error
			more, err = r.p.Settle(t.Context(), now, 0)
			must(t, err)
		}
		return r.p.Deleted()
	}
	look()
	r.twin.Fail(errors.New("looked")) // nothing is read
	if look() != 0 {
		t.Error("deleted without a word")
	}
	r.twin.Fail(nil)
	r.enter(r.keys.Remove(r.state, b.Device(), nil, time.Now()))
	r.brings(r.p)
	if look() != 4 {
		t.Error("another membership is no news")
	}
	// What a checkpoint covers comes after all words on it, which stand in another log of its author.
	more := a.edits(2, 2)
	a.from = len(a.logs)
	must(t, a.MintLog())
	r.takes(a.packs(2, more...))
	if look() != 4 {
		t.Error("deleted before it came")
	}
	r.takes(more...)
	if n := look(); n != 6 {
		t.Errorf("%d are deleted", n)
	}
}

// TestOlderFolder: what came to a build that kept everything is settled too, after a look at what there is.
func TestOlderFolder(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	old := r.older()
	var list [][]byte
	var all []chunk.Sealed
	for document := range byte(20) {
		edits := slices.Concat(a.edits(document, 3), b.edits(document, 2))
		if document%4 == 0 {
			edits = append(edits, a.edit(document, random(t, 2<<20)))
		}
		on := a.packs(document, edits...)
		all = slices.Concat(all, edits, []chunk.Sealed{on, b.says(document, on, document != 3)})
	}
	for _, s := range all {
		list = append(list, s.Bytes())
	}
	_, err := old.Arrive(t.Context(), a.Device(), list)
	must(t, err)
	r.crash()
	turns := 0
	for more := true; more; turns++ {
		more, err = r.p.Settle(t.Context(), time.Now(), 0)
		must(t, err)
		if turns%2 == 0 {
			r.crash()
			more = true
		}
		if turns > 100 {
			t.Fatal("it does not come to an end")
		}
	}
	if turns < 3 {
		t.Errorf("%d turns", turns)
	}
	r.keeps("all are settled but one", 5+2*20, 2*19)
	r.complete("of an older folder")
}

// TestReturns: an anchor that was away, with all chunks, meets what the devices hold now: it takes nothing back to them, and deletes too.
func TestReturns(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	edits := slices.Concat(a.edits(1, 10), b.edits(1, 10))
	r.takes(edits...)
	away := r.twin.Copy()
	more := a.edits(1, 10)
	first := a.packs(1, slices.Concat(edits, more)...)
	said := b.says(1, first, true)
	r.takes(slices.Concat(more, []chunk.Sealed{first, said})...)
	r.keeps("here", 2, 2)
	again := b.edits(1, 1)
	next := b.packs(1, slices.Concat(edits, more, again, []chunk.Sealed{first, said})...)
	r.takes(again[0], next, a.says(1, next, true))
	r.keeps("here, once more", 2, 2)

	here := r.p
	back := r.open(away)
	if n, _ := stored(t, back); n != 20 {
		t.Fatalf("%d chunks were there when it went", n)
	}
	r.passesOn(back, here)
	r.keeps("after it has told what it has", 2, 2)
	r.passesOn(here, back)
	must(t, settles(t.Context(), back))
	if n, skips := stored(t, back); n != 2 || skips != 2 {
		t.Errorf("%d chunks and %d skips are stored after it has heard", n, skips)
	}
	r.p, r.twin = back, away
	r.crash()
	r.complete("from the one that was away")
}

// TestCrashes: wherever a power cut comes, everything is held afterwards, and settling goes on.
func TestCrashes(t *testing.T) {
	r := newRetained(t, 2)
	a, b := r.writers[0], r.writers[1]
	for document := range byte(3) {
		edits := slices.Concat(a.edits(document, 5), b.edits(document, 2))
		r.takes(edits...)
		on := a.packs(document, edits...)
		r.takes(on, b.says(document, on, true))
		edits = append(edits, a.edits(document, 3)...)
		next := a.packs(document, append(edits, on, b.logs[len(b.logs)-1])...)
		r.takes(append(edits[len(edits)-3:], next)...)
		r.takes(b.says(document, next, true))
	}
	was := r.twin.Copy()
	cut := errors.New("power cut")
	for at := 1; ; at++ {
		for _, stage := range []storage.Stage{storage.Begin, storage.Applied, storage.Synced} {
			r.twin = was.Copy()
			r.p = r.open(r.twin)
			done := true
			r.twin.OnCommit(func(s storage.Stage, n int) error {
				if n >= at && s == stage {
					done = false
					return cut
				}
				return nil
			})
			err := settles(t.Context(), r.p)
			if done {
				return
			}
			if !errors.Is(err, cut) {
				t.Fatalf("commit %d, %v: %v", at, stage, err)
			}
			r.crash()
			r.complete("after a power cut")
			r.keeps("in the end", 6, 6)
			r.complete("in the end")
		}
	}
}

// TestOverlap: two checkpoints that were made at the same time cover stretches of a log that overlap. All of it stays held, in whichever order they are settled.
func TestOverlap(t *testing.T) {
	for name, laterFirst := range map[string]bool{"first": false, "later": true, "within": false} {
		r := newRetained(t, 2)
		a, b := r.writers[0], r.writers[1]
		edits := a.edits(1, 2)
		first := b.packs(1, edits...)
		r.takes(append(edits, first)...)
		said := a.says(1, first, true) // the third of its log
		more := a.edits(1, 3)
		r.takes(append(more, said)...)
		r.takes(more...)
		r.keeps("the first", 1+1+3, 1)
		// One packs the first checkpoint with the word on it, the other does not, since it had not said anything yet; it knows one edit more.
		one := b.packs(1, slices.Concat(edits, []chunk.Sealed{first, said}, more)...)
		last := a.edits(1, 1)
		part := more
		if name != "within" {
			part = slices.Concat(more, last)
		}
		other := a.packs(1, part...)
		r.takes(one, last[0], other)
		words := []func() chunk.Sealed{func() chunk.Sealed { return a.says(1, one, true) }, func() chunk.Sealed { return b.says(1, other, true) }}
		if laterFirst {
			slices.Reverse(words)
		}
		r.takes(words[0]())
		must(t, settles(t.Context(), r.p))
		r.complete(name + ", after one")
		r.takes(words[1]())
		must(t, settles(t.Context(), r.p))
		r.complete(name + ", after both")
		if n, _ := stored(t, r.p); n != 4 && name != "within" || n != 5 && name == "within" {
			t.Errorf("%s: %d chunks are stored", name, n)
		}
		if n := notes(t, r.p); n != 0 {
			t.Errorf("%s: %d notes of checkpoints are left", name, n)
		}
		r.crash()
		r.complete("after a restart")
	}
}

// TestForked: of a log that was written twice one history is packed. The other stays beside it, and both are told and passed on as before.
func TestForked(t *testing.T) {
	for _, restart := range []bool{false, true} {
		r := newRetained(t, 2)
		a, b, scope := r.writers[0], r.writers[1], r.scope()
		both := a.edits(1, 4)
		copied := &writer{Keyring: a.Keyring, r: r, logs: slices.Clone(a.logs)}
		first, second := a.edits(1, 2), copied.edits(1, 3)
		r.takes(slices.Concat(both, first, second)...)
		hello, forks := r.p.Hello(a.Device()), r.p.Forks(scope)
		if len(forks) != 1 {
			t.Fatalf("%d logs are forked", len(forks))
		}
		on := b.packs(1, slices.Concat(both, first)...)
		must(t, a.MintLog())
		a.from = len(a.logs)
		word := a.says(1, on, true)
		r.takes(on, word)
		r.keeps("the first history is packed", 2, 1)
		if restart {
			r.crash()
		}
		r.takes(slices.Concat(second, first, both)...)
		r.keeps("all comes again", 2, 1)
		if now := r.p.Forks(scope); !maps.Equal(now, forks) {
			t.Errorf("the histories are told as %x, before as %x", now, forks)
		}
		to := r.fresh()
		must(t, to.Arrive(t.Context(), a.Device(), [][]byte{on.Bytes(), word.Bytes()}))
		items, err := r.p.Beyond(scope, both[0].Log(), nil, 1<<20)
		must(t, err)
		for _, it := range items {
			must(t, to.Arrive(t.Context(), a.Device(), [][]byte{it.Bytes}))
		}
		if x, y := to.Hello(a.Device()), r.p.Hello(a.Device()); x.Scopes[0] != y.Scopes[0] || !maps.Equal(to.Forks(scope), forks) || hello.Scopes[0] == y.Scopes[0] {
			t.Errorf("who got both holds %v, not %v", x.Scopes, y.Scopes)
		}
	}
}
