package replica_test

import (
	"bytes"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// TestAssentWithoutOrder: an assent that comes while the order does not read stops nothing, and erases when it does.
func TestAssentWithoutOrder(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := b.order(orderOf("Organization/org")) // of one document, the first of B's log
	sync(t, a, b)
	sync(t, a, c)
	restore := c.without(b.written(1).ID())
	a.agree(e.ID)
	assent := a.written(8)
	if _, err := assent.Assent(); err != nil {
		t.Fatal(err)
	}
	must(t, c.Arrive(t.Context(), a.Device(), [][]byte{assent.Bytes()}))
	c.apply()
	if !strings.Contains(c.export(), "Praxis") {
		t.Error("it is erased although the order does not read")
	}
	restore()
	c.apply()
	if strings.Contains(c.export(), "Praxis") {
		t.Error("it is not erased now that the order reads")
	}
}

// TestErasedWhileDamaged: a chunk that nobody named and that does not read when its document is erased is late when it has come again.
func TestErasedWhileDamaged(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := b.order(orderOf("Patient/p2"))
	sync(t, a, b)
	a.edit("Patient/p2", func(obj map[string]any) { obj["gender"] = "other" })
	sync(t, a, c)
	c.without(a.written(8).ID())
	a.agree(e.ID)
	for range 3 {
		sync(t, a, c)
	}
	if held := c.heldList(false); len(held) != 1 || held[0].Reason != "its document was erased" {
		t.Errorf("C holds %+v back", held)
	}
	if s, _ := sync(t, a, c); !s.Agreed || c.export() != a.export() {
		t.Errorf("they do not agree: %+v", s)
	}
}

// TestErasureDamaged: what is noted of an erasure and does not read is made anew by a repair, and nothing comes back by that.
func TestErasureDamaged(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := b.order(orderOf("Patient/p2"))
	sync(t, a, b)
	a.edit("Patient/p2", func(obj map[string]any) { obj["gender"] = "other" })
	a.agree(e.ID)
	want, held := a.export(), a.heldTable()
	must(t, a.twin.View(func(v storage.Reader) error {
		return v.Keys(storage.Erasure.All(), nil, func(key []byte) error {
			defer a.twin.Corrupt(bytes.Clone(key))
			return nil
		})
	}))
	a.crash()
	if r := a.verify(false); r.Clean {
		t.Error("nothing is found")
	}
	a.verify(true)
	a.apply()
	if r := a.verify(false); !r.Clean {
		t.Errorf("after the repair: %+v", r)
	}
	if list := a.erasures(); len(list) != 1 || list[0].State != "erased" || len(list[0].Late) != 1 {
		t.Errorf("listed as %+v", list)
	}
	if a.export() != want || a.heldTable() != held {
		t.Errorf("it shows %s and holds\n%s", a.export(), a.heldTable())
	}
}

// TestRefusedErasure: two administrators whose programs are bent name a chunk of another document: nothing is deleted, and what is hidden is listed.
func TestRefusedErasure(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.promote(c)
	a.eraseChart()
	sync(t, a, b)
	sync(t, a, c)
	clinical := clinicalOf(t, a.State())
	doc, err := a.keys.DocumentID(clinical, "section", "p2", "core")
	must(t, err)
	tag, err := a.keys.Tag(clinical, doc)
	must(t, err)
	var covers chunk.Covers
	for n := uint64(1); n <= 7; n++ { // all of A's log, which is of several documents
		s := a.written(n)
		if len(covers) == 0 {
			covers = chunk.Covers{{Run: chunk.Run{Log: s.Log(), From: 1}}}
		}
		run := &covers[0]
		run.To, run.Last, run.Tips = n, s.ID(), append(run.Tips, chunk.At(n-1, s.Header().Previous).Tip)
	}
	seal := func(by *device, body chunk.Body) chunk.Sealed {
		s, err := chunk.Seal(by.keys, chunk.Params{Membership: by.State(), Scope: clinical, Log: chunk.CurrentLog(by.keys), Counter: 1}, body)
		must(t, err)
		return s
	}
	order := seal(b, &chunk.Erasure{Document: doc, Covers: covers})
	assent := seal(c, &chunk.Assent{Document: doc, Erasure: order.Place()})
	before, _, _ := a.chunksOf()
	must(t, a.Arrive(t.Context(), b.Device(), [][]byte{order.Bytes(), assent.Bytes()}))
	a.apply()
	a.crash()
	a.apply()
	if after, _, _ := a.chunksOf(); after != before+2 {
		t.Errorf("of %d chunks %d are left", before, after)
	}
	if list := a.erasures(); len(list) != 1 || list[0].State != "refused" {
		t.Errorf("listed as %+v", list)
	}
	held := a.heldList(false)
	if len(held) != 1 || held[0].Reason != "its document was erased" {
		t.Fatalf("A holds %+v back", held)
	}
	if h := a.written(held[0].Counter); h.Header().Tag != tag {
		t.Error("what is held is of another document")
	}
	if strings.Contains(a.export(), "Klein") || !strings.Contains(a.export(), "Zwiebelfisch") {
		t.Errorf("A shows %s", a.export())
	}
}
