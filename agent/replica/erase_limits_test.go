package replica_test

import (
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
)

// TestErasureThatTheEngineFailsOn: an order that comes to count with an entry, and which the engine fails on here, stops nothing else, and is tried again by the next run.
func TestErasureThatTheEngineFailsOn(t *testing.T) {
	d := practice(t, "A", "B", "N")
	a, b, n := d[0], d[1], d[2]
	a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	a.put(`{"resourceType":"Organization","id":"org","name":"Praxis"}`, false)
	sync(t, a, b)
	sync(t, a, n)
	a.order(orderOf("Patient/p1"))
	own := a.ownLog()
	order, err := chunk.Parse(own[len(own)-1])
	must(t, err)
	f := forge(b)
	doc := f.Document("section", "p1", "core")
	n.take(a, order.Bytes())
	n.take(b, f.Seal(&chunk.Assent{Document: doc, Erasure: order.Place()})) // no administrator's yet
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	n.Replica, err = replica.Open(replica.Config{Store: n.twin, Keyring: n.keys, Engine: failingEngine{e, doc}})
	must(t, err)
	a.promote(b)
	a.put(`{"resourceType":"Organization","id":"two","name":"Andere"}`, false)
	must(t, n.AddEntries(t.Context(), a.Device(), a.EntriesSince(nil)))
	n.take(a, a.ownLog()...)
	if !strings.Contains(n.export(), "Andere") {
		t.Error("it stops what comes after")
	}
	n.crash()
	n.applyAll()
	if list := n.erasures(); len(list) != 1 || list[0].State != "erased" || strings.Contains(n.export(), "Zwiebelfisch") {
		t.Errorf("after a restart N lists %+v and shows %s", list, n.export())
	}
}

// TestEraseInParts: a document of more pieces than one order names is erased by several, one after the other.
func TestEraseInParts(t *testing.T) {
	for name, most := range map[string][2]int{"runs": {2, 100}, "chunks": {100, 2}, "packed, runs": {7, 100}, "packed, chunks": {100, 6}} {
		t.Run(name, func(t *testing.T) {
			d := practice(t, "A", "B")
			a, b := d[0], d[1]
			a.promote(b)
			for _, x := range d {
				x.compaction = replica.Compaction{Changes: 3}
				x.crash()
			}
			a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
			a.put(`{"resourceType":"Organization","id":"org","name":"Praxis"}`, false)
			for n := range 7 {
				a.edit("Patient/p1", func(obj map[string]any) { obj["birthDate"] = "197" + string(rune('0'+n)) + "-01-01" })
				a.edit("Organization/org", func(obj map[string]any) { obj["name"] = "Praxis " + string(rune('0'+n)) })
				if n == 2 && strings.HasPrefix(name, "packed") {
					sync(t, a, b)
					a.compact()
					sync(t, a, b)
					b.compact()
					sync(t, a, b)
					a.compact()
				}
			}
			sync(t, a, b)
			defer replica.OrdersAtMost(most[0], most[1])()
			plan, err := a.PlanErasure(t.Context(), orderOf("Patient/p1"))
			must(t, err)
			if len(plan.Stays) != 1 || len(plan.Against) != 0 {
				t.Errorf("%+v", plan)
			}
			e := a.order(orderOf("Patient/p1"))
			rounds := 0
			for ; rounds < 9; rounds++ {
				sync(t, a, b)
				if got := b.agree(e.ID); got.State != "erased" {
					t.Fatalf("%+v", got)
				}
				sync(t, a, b)
				if e, err = a.OrderErasure(t.Context(), "a", api.ErasureRequest{Again: e.ID}, nil); api.CodeOf(err) == api.CodeNotFound {
					break
				}
				must(t, err)
			}
			if rounds == 0 || rounds == 9 {
				t.Errorf("%d rounds", rounds)
			}
			for _, x := range d {
				if found, held := x.sealedOf("Zwiebelfisch", "197"), x.heldList(true); len(found) != 0 || len(held) != 0 || !strings.Contains(x.export(), "Praxis 6") {
					t.Errorf("%s has %q, holds %+v and shows %s", x.name, found, held, x.export())
				}
			}
			alike(t, a, b)
		})
	}
}

// TestWorthlessOrders: what a member's bent program orders buries no administrator's order in the list, whatever time it claims.
func TestWorthlessOrders(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	sync(t, a, c)
	f := forge(c)
	s := a.written(1)
	covers := chunk.Covers{{Run: chunk.Run{Log: s.Log(), From: 1, To: 1, Last: s.ID()}, Tips: make([]chunk.Tip, 1)}}
	var list [][]byte
	for n := range 60 {
		list = append(list, f.Seal(&chunk.Erasure{Document: f.Document("section", "p1", "core"), Covers: covers, TimeMillis: 4_000_000_000_000 + int64(n)}))
	}
	a.take(c, list...)
	e := b.order(orderOf("Patient/p1"))
	sync(t, a, b)
	got := a.erasures()
	if len(got) != 51 || got[0].ID != e.ID || got[0].State != "ordered" || got[1].State != "worthless" || got[1].Ordered.Device != "C" {
		t.Errorf("%d are listed, first %+v, then %+v", len(got), got[0], got[1])
	}
	a.agree(e.ID)
	if got := a.erasures(); got[0].State != "erased" || len(got) != 51 {
		t.Errorf("%d are listed, first %+v", len(got), got[0])
	}
}

// TestErasedPutBack: a copy of a folder from before an erasure shows the patient until it meets another device, and then no more.
func TestErasedPutBack(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	sync(t, a, c)
	was := b.twin.Copy()
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	back := b.rollBack(was, b.keys)
	back.applyAll()
	if !strings.Contains(back.export(), "Zwiebelfisch") {
		t.Fatal("the copy holds nothing of it")
	}
	sync(t, a, back)
	sync(t, a, back)
	sync(t, back, c)
	for _, x := range []*device{a, back, c} {
		if list := x.erasures(); len(list) != 1 || list[0].State != "erased" {
			t.Errorf("%s lists %+v", x.name, list)
		}
		if found := x.sealedOf("Zwiebelfisch", "weight"); len(found) != 0 || strings.Contains(x.export(), "Zwiebelfisch") {
			t.Errorf("%s has %q and shows %s", x.name, found, x.export())
		}
	}
}
