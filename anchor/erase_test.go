package anchor

import (
	"maps"
	"slices"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// orders orders chunks of a document to be erased.
func (w *writer) orders(document byte, covered ...chunk.Sealed) chunk.Sealed {
	w.r.t.Helper()
	return w.seal(&chunk.Erasure{Document: [32]byte{document}, Covers: packed(document, covered...).Covers, Reason: "kept long enough"})
}

// agrees assents to an order; by the recovery code, if it is one.
func (w *writer) agrees(document byte, order chunk.Sealed, code string) chunk.Sealed {
	w.r.t.Helper()
	a := &chunk.Assent{Document: [32]byte{document}, Erasure: order.Place()}
	if code != "" {
		r, err := keyring.OpenWithRecovery(code, w.r.state)
		must(w.r.t, err)
		a.Root.Root, a.Root.Signature = r.SignErasure(order.ID())
	}
	return w.seal(a)
}

// TestErase: what two administrators erase is deleted at once, whoever has it, and nobody brings it back.
func TestErase(t *testing.T) {
	r := newRetained(t, 2)
	r.joins(trust.RoleAdmin)
	r.brings(r.p)
	a, b, c := r.writers[0], r.writers[1], r.writers[2]
	edits := slices.Concat(a.edits(1, 3), b.edits(1, 4))
	other := b.edits(2, 2)
	more := b.edits(1, 2)
	r.takes(slices.Concat(edits, other, more)...)
	// A part of it was packed before, and is deleted for that already.
	pack := b.packs(1, edits...)
	r.takes(pack)
	r.takes(a.says(1, pack, true), c.says(1, pack, true))
	r.keeps("a checkpoint", 7, 2)
	before := r.p.Vector(r.scope())
	all := slices.Concat(edits, more, []chunk.Sealed{pack, a.logs[len(a.logs)-1], c.logs[len(c.logs)-1]})
	order := a.orders(1, all...)
	r.takes(order)
	r.keeps("an order alone", 8, 2)
	r.crash()
	r.takes(c.agrees(1, order, ""))
	r.crash() // between the assent and the deletion
	if more, err := r.p.Settle(t.Context(), time.Now(), DefaultGrace); more || err != nil {
		t.Fatal(more, err)
	}
	if n, _ := stored(t, r.p); n != 4 { // the other document's two, the order and the assent
		t.Fatalf("%d chunks are stored", n)
	}
	for log, at := range before {
		if now := r.p.Vector(r.scope())[log]; now.Counter < at.Counter {
			t.Errorf("log %v stands at %v, not at %v", log, now, at)
		}
	}
	r.complete("after an erasure")

	_, skips := stored(t, r.p)
	r.takes(slices.Concat(edits, []chunk.Sealed{pack})...)
	r.crash()
	r.takes(more...)
	r.keeps("they come again", 4, skips)
	r.complete("at last")

	// What somebody wrote who did not know is kept, until another order names it.
	late := b.edits(1, 1)
	r.takes(late...)
	r.keeps("a late edit", 5, skips)
	again := c.orders(1, late...)
	r.takes(again)
	r.takes(a.agrees(1, again, ""))
	r.keeps("another order", 6, skips+1)
	r.complete("after another order")
}

// TestEraseComesLate: an anchor that has nothing yet takes what was erased as such, also from one that deleted nothing so far.
func TestEraseComesLate(t *testing.T) {
	r := newRetained(t, 1)
	r.joins(trust.RoleAdmin)
	r.brings(r.p)
	a, b := r.writers[0], r.writers[1]
	edits := slices.Concat(a.edits(1, 3), b.edits(1, 3))
	order := b.orders(1, edits...)
	assent := a.agrees(1, order, "")
	r.takes(slices.Concat(edits, []chunk.Sealed{order, assent})...)
	slow := r.passesOn(r.p, r.fresh()) // has not had its turn
	must(t, settles(t.Context(), r.p))
	if n, _ := stored(t, r.p); n != 2 {
		t.Fatalf("%d chunks are stored", n)
	}
	late := r.passesOn(r.p, r.fresh())
	if n, skips := stored(t, late); n != 2 || skips != 2 {
		t.Errorf("a newcomer has %d chunks and %d skips", n, skips)
	}
	if !maps.Equal(late.Vector(r.scope()), slow.Vector(r.scope())) {
		t.Error("they do not claim the same")
	}
	must(t, settles(t.Context(), slow))
	if n, skips := stored(t, slow); n != 2 || skips != 2 {
		t.Errorf("the slow one has %d chunks and %d skips", n, skips)
	}
}

// TestEraseAlone: the only administrator erases with the recovery code.
func TestEraseAlone(t *testing.T) {
	r := newRetained(t, 1)
	a := r.writers[0]
	edits := a.edits(1, 3)
	order := a.orders(1, edits...)
	r.takes(append(edits, order)...)
	r.takes(a.agrees(1, order, ""))
	r.keeps("with nobody's assent but their own", 5, 0)
	r.takes(a.agrees(1, order, r.code))
	r.keeps("with the recovery code", 3, 1)
	r.complete("with the recovery code")
}

// TestBadErasures: nothing is erased by anybody but two administrators, nor by what does not fit.
func TestBadErasures(t *testing.T) {
	for name, say := range map[string]func(r *retained, edits []chunk.Sealed){
		"an administrator alone": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[0].orders(1, edits...)
			r.takes(order, r.writers[0].agrees(1, order, ""))
		},
		"a member orders": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[1].orders(1, edits...)
			r.takes(order, r.writers[0].agrees(1, order, ""), r.writers[2].agrees(1, order, ""))
		},
		"a member assents": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[0].orders(1, edits...)
			r.takes(order, r.writers[1].agrees(1, order, ""))
		},
		"a member has the recovery code": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[1].orders(1, edits...)
			r.takes(order, r.writers[1].agrees(1, order, r.code))
		},
		"a word on checkpoints": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[0].orders(1, edits...)
			r.takes(order, r.writers[2].says(1, order, true))
		},
		"the assent is to another": func(r *retained, edits []chunk.Sealed) {
			order, twin := r.writers[0].orders(1, edits...), r.writers[0].orders(1, edits...)
			r.takes(order, twin, r.writers[2].agrees(1, r.writers[2].orders(1, edits...), ""))
		},
		"the assent is of another document": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[0].orders(1, edits...)
			r.takes(order, r.writers[2].agrees(2, order, ""))
		},
		"the root key signed another": func(r *retained, edits []chunk.Sealed) {
			a := r.writers[0]
			order, twin := a.orders(1, edits...), a.orders(1, edits...)
			code, err := keyring.OpenWithRecovery(r.code, r.state)
			must(r.t, err)
			body := &chunk.Assent{Document: [32]byte{1}, Erasure: order.Place()}
			body.Root.Root, body.Root.Signature = code.SignErasure(twin.ID())
			r.takes(order, twin, a.seal(body))
		},
		"beyond a cut": func(r *retained, edits []chunk.Sealed) {
			order := r.writers[0].orders(1, edits...)
			r.takes(order)
			assent := r.writers[2].agrees(1, order, "")
			r.enter(r.keys.Remove(r.state, r.writers[2].Device(), nil, time.Now()))
			r.brings(r.p)
			r.takes(assent)
		},
		"another document among them": func(r *retained, edits []chunk.Sealed) {
			more := r.writers[1].edits(2, 1)
			r.takes(more...)
			order := r.writers[0].orders(1, append(more, edits...)...)
			r.takes(order, r.writers[2].agrees(1, order, ""))
		},
		"a certificate among them, as a protected document has": func(r *retained, edits []chunk.Sealed) {
			certificate := r.writers[1].seal(&chunk.Certificate{Document: [32]byte{1}, Statement: []byte("s"), Voter: r.writers[1].Device(), Heads: [][32]byte{{1}}})
			r.takes(certificate)
			order := r.writers[0].orders(1, append(edits, certificate)...)
			r.takes(order, r.writers[2].agrees(1, order, ""))
		},
		"an order among them": func(r *retained, edits []chunk.Sealed) {
			first := r.writers[0].orders(1, edits[0])
			order := r.writers[0].orders(1, append(edits, first)...)
			r.takes(first, order, r.writers[2].agrees(1, order, ""))
		},
		"a checkpoint without what it stands for": func(r *retained, edits []chunk.Sealed) {
			pack := r.writers[1].packs(1, edits...)
			order := r.writers[0].orders(1, pack)
			r.takes(pack, order, r.writers[2].agrees(1, order, ""))
		},
		"another history": func(r *retained, edits []chunk.Sealed) {
			body := &chunk.Erasure{Document: [32]byte{1}, Covers: packed(1, edits...).Covers}
			body.Covers[0].Last[0] ^= 1
			order := r.writers[0].seal(body)
			r.takes(order, r.writers[2].agrees(1, order, ""))
		},
		"not all is here": func(r *retained, edits []chunk.Sealed) {
			more := r.writers[1].edits(1, 2)
			order := r.writers[0].orders(1, append(more, edits...)...)
			r.takes(order, r.writers[2].agrees(1, order, ""))
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetained(t, 2)
			r.joins(trust.RoleAdmin)
			r.brings(r.p)
			edits := slices.Concat(r.writers[0].edits(1, 4), r.writers[1].edits(1, 2))
			r.takes(edits...)
			say(r, edits)
			must(t, settles(t.Context(), r.p))
			r.crash()
			must(t, settles(t.Context(), r.p))
			if n := r.p.Deleted(); n != 0 {
				t.Errorf("%d chunks are deleted", n)
			}
		})
	}
}

// TestWorthlessAssent: what a member's program says of an order does not hinder a log that goes on over what a checkpoint stood for that is erased by now.
func TestWorthlessAssent(t *testing.T) {
	r := newRetained(t, 2)
	r.joins(trust.RoleAdmin)
	r.joins(trust.RoleAdmin)
	r.brings(r.p)
	a, b, c, d := r.writers[0], r.writers[1], r.writers[2], r.writers[3]
	edits := slices.Concat(a.edits(1, 3), b.edits(1, 2))
	r.takes(slices.Concat(edits, a.edits(2, 1))...) // so that the run ends before the word
	pack := b.packs(1, edits...)
	words := []chunk.Sealed{a.says(1, pack, true), c.says(1, pack, true), d.says(1, pack, true)}
	r.takes(append(words, pack)...)
	r.keeps("packed", 5, 2)
	slow := r.passesOn(r.p, r.fresh())
	order := c.orders(1, slices.Concat(edits, words, []chunk.Sealed{pack})...)
	assent := d.agrees(1, order, "")
	r.takes(order, assent)
	for id := assent.ID(); ; { // noted before the one that counts
		worthless := b.agrees(1, order, "")
		r.takes(worthless)
		if other := worthless.ID(); slices.Compare(other[:], id[:]) < 0 {
			break
		}
	}
	must(t, settles(t.Context(), r.p))
	f, scope := r.fresh(), r.scope()
	for _, from := range []struct {
		p *part
		w *writer
	}{{r.p, c}, {r.p, d}, {r.p, b}, {slow, a}} {
		items, err := from.p.Chunks(scope, chunk.CurrentLog(from.w.Keyring), 0, 1<<20)
		must(t, err)
		var list [][]byte
		for _, it := range items {
			list = append(list, it.Bytes)
		}
		must(t, f.Arrive(t.Context(), r.keys.Device(), list))
	}
	if got := f.Vector(scope)[chunk.CurrentLog(a.Keyring)].Counter; got < 4 {
		t.Errorf("the log of who packed nothing is held up to %d", got)
	}
}

// TestForgedErasure: a skip that rests on an order that does not count is not taken.
func TestForgedErasure(t *testing.T) {
	r := newRetained(t, 3)
	a, b, c := r.writers[0], r.writers[1], r.writers[2]
	edits := a.edits(1, 3)
	order := b.orders(1, edits...)
	assent := c.agrees(1, order, "")
	skip := chunk.Skip{Scope: r.scope(), Run: packed(1, edits...).Covers[0].Run, Key: edits[0].LogKey(), Checkpoint: order.Place(), Word: assent.Place()}
	value, err := skip.AppendBinary(nil)
	must(t, err)
	must(t, r.p.Arrive(t.Context(), r.keys.Device(), [][]byte{order.Bytes(), assent.Bytes(), value}))
	if _, skips := stored(t, r.p); skips != 0 {
		t.Error("two members have a log go on over what they wanted gone")
	}
	r.enter(r.keys.SetRole(r.state, b.Device(), trust.RoleAdmin, nil, time.Now()))
	r.enter(r.keys.SetRole(r.state, c.Device(), trust.RoleAdmin, nil, time.Now()))
	r.brings(r.p)
	must(t, r.p.Arrive(t.Context(), r.keys.Device(), [][]byte{order.Bytes(), assent.Bytes(), value}))
	if _, skips := stored(t, r.p); skips != 1 {
		t.Error("the skip of two administrators is not taken")
	}
}

// TestErasedComesAgain: what was erased and comes again, since the skip in its place does not read any more, is deleted again.
func TestErasedComesAgain(t *testing.T) {
	r := newRetained(t, 2)
	r.joins(trust.RoleAdmin)
	r.brings(r.p)
	a, b, c := r.writers[0], r.writers[1], r.writers[2]
	edits := b.edits(1, 3)
	order := a.orders(1, edits...)
	assent := c.agrees(1, order, "")
	r.takes(slices.Concat(edits, []chunk.Sealed{order, assent})...)
	r.keeps("erased", 2, 1)
	for _, crash := range []bool{false, true} {
		must(t, r.p.store.View(func(v storage.Reader) error {
			return v.Keys(storage.Skip.All(), nil, func(key []byte) error {
				defer r.twin.Corrupt(append(storage.Within.Key(7), key...))
				return nil
			})
		}))
		if _, err := r.p.Chunks(r.scope(), edits[0].Log(), 0, 1<<20); err == nil {
			t.Fatal("the skip reads")
		}
		if crash {
			r.crash()
		}
		if n := r.p.Vector(r.scope())[edits[0].Log()].Counter; n != 0 {
			t.Fatalf("%d chunks are still claimed", n)
		}
		r.takes(edits...)
		r.keeps("they come again", 2, 1)
		r.complete("after they came again")
	}
}

// TestForgedEnd: a checkpoint, or an order, that names another last chunk of the same tip deletes nothing: no log would go on after the skip that rests on it.
func TestForgedEnd(t *testing.T) {
	for name, say := range map[string]func(a, b, c *writer, covers chunk.Covers, edits []chunk.Sealed) []chunk.Sealed{
		"a checkpoint": func(a, b, c *writer, covers chunk.Covers, edits []chunk.Sealed) []chunk.Sealed {
			body := packed(1, edits...)
			body.Covers = covers
			pack := b.seal(body)
			return []chunk.Sealed{pack, a.says(1, pack, true), c.says(1, pack, true)}
		},
		"an order": func(a, _, c *writer, covers chunk.Covers, _ []chunk.Sealed) []chunk.Sealed {
			order := a.seal(&chunk.Erasure{Document: [32]byte{1}, Covers: covers})
			return []chunk.Sealed{order, c.agrees(1, order, "")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRetained(t, 2)
			r.joins(trust.RoleAdmin)
			r.brings(r.p)
			a, b, c := r.writers[0], r.writers[1], r.writers[2]
			edits := a.edits(1, 3)
			r.takes(slices.Concat(edits, a.edits(2, 2))...)
			covers := packed(1, edits...).Covers
			covers[0].Last[31] ^= 1
			r.takes(say(a, b, c, covers, edits)...)
			must(t, settles(t.Context(), r.p))
			if n := r.p.Deleted(); n != 0 {
				t.Errorf("%d chunks are deleted", n)
			}
			if forks := r.passesOn(r.p, r.fresh()).Forks(r.scope()); len(forks) != 0 {
				t.Errorf("a newcomer holds logs with several histories: %v", forks)
			}
		})
	}
}

// TestErasedBeside: an order is not carried out while what it names stands beside the main history of its log, which a checkpoint stands for that packs another one.
func TestErasedBeside(t *testing.T) {
	r := newRetained(t, 2)
	r.joins(trust.RoleAdmin)
	r.brings(r.p)
	a, b, c := r.writers[0], r.writers[1], r.writers[2]
	both := a.edits(3, 1)
	copied := &writer{Keyring: a.Keyring, r: r, logs: slices.Clone(a.logs)}
	second, first := a.edits(2, 2), copied.edits(1, 2)
	r.takes(slices.Concat(both, second, first)...)
	must(t, a.MintLog())
	a.from = len(a.logs)
	pack := b.packs(2, second...)
	r.takes(pack, a.says(2, pack, true), c.says(2, pack, true))
	r.keeps("the other history is packed", 4, 1)
	order := a.orders(1, first...)
	r.takes(order, c.agrees(1, order, ""))
	r.keeps("an order of what stands beside", 6, 1)
	if n := notes(t, r.p); n != 1 {
		t.Errorf("%d orders and checkpoints wait", n)
	}
}
