package replica_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/storage"
)

// sealedOf counts the chunks with changes of a patient's documents that a device's store still has, in any place.
func (d *device) sealedOf(words ...string) (found []string) {
	d.t.Helper()
	must(d.t, d.twin.View(func(v storage.Reader) error {
		for _, k := range []storage.Kind{storage.Chunk.Kind, storage.Branch.Kind, storage.Loose.Kind} {
			if err := v.Scan(k.All(), nil, func(_, value []byte) error {
				s, err := chunk.Parse(bytes.Clone(value))
				if err != nil {
					return err
				}
				body, err := chunk.Open(d.keys, s)
				if err != nil {
					return err
				}
				raw := ""
				switch b := body.(type) {
				case *chunk.Changes:
					for _, c := range b.Changes {
						raw += string(c.Raw)
					}
				case *chunk.Checkpoint:
					for _, p := range b.Parts {
						for _, c := range p.Changes {
							raw += string(c.Raw)
						}
					}
				}
				for _, w := range words {
					if strings.Contains(raw, w) {
						found = append(found, w)
					}
				}
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}))
	slices.Sort(found)
	return found
}

// TestErasedNames: no name of a resource of an erased document is left in what a device stores, but in the event that it is gone.
func TestErasedNames(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.put(`{"resourceType":"Patient","id":"kennung-77","name":[{"family":"Zwiebelfisch"}]}`, false)
	a.put(`{"resourceType":"Observation","id":"messung-88","status":"final","code":{"text":"weight"},"subject":{"reference":"Patient/kennung-77"}}`, false)
	a.edit("Observation/messung-88", func(obj map[string]any) { obj["valueString"] = "81 kg" })
	sync(t, a, b)
	e := a.order(orderOf("Patient/kennung-77"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	for _, x := range d {
		gone := map[string]int{}
		must(t, x.Events(t.Context(), 0, false, func(e api.Event) error {
			if e.Resource != "" {
				gone[e.Kind+" "+e.Resource]++
			}
			return nil
		}))
		if len(gone) != 2 || gone["resource-deleted Patient/kennung-77"] != 1 || gone["resource-deleted Observation/messung-88"] != 1 {
			t.Errorf("%s tells who follows its events %v", x.name, gone)
		}
		var b storage.Batch
		must(t, x.twin.View(func(v storage.Reader) error {
			return v.Keys(storage.Event.All(), nil, func(key []byte) error { b.Delete(bytes.Clone(key)); return nil })
		}))
		must(t, x.twin.Commit(t.Context(), &b))
		if found := x.stores("Zwiebelfisch", "kennung-77", "messung-88", "81 kg"); len(found) != 0 {
			t.Errorf("%s still stores %q", x.name, found)
		}
	}
}

// TestErasedComesAgain: a device that has deleted, and then lost to damage what it knows of that, deletes again what a device brings that has not heard.
func TestErasedComesAgain(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	c.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	sync(t, a, c)
	sync(t, a, b)
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	if found := a.sealedOf("Zwiebelfisch"); len(found) != 0 {
		t.Fatalf("A still has %q", found)
	}
	a.corrupt(storage.Skip.Number())
	a.crash()
	a.verify(true)
	a.take(c, c.ownLog()...)
	a.applyAll()
	sync(t, a, c)
	sync(t, a, c)
	for _, x := range d {
		if found := x.sealedOf("Zwiebelfisch"); len(found) != 0 {
			t.Errorf("%s has %q", x.name, found)
		}
		if list := x.erasures(); len(list) != 1 || list[0].State != "erased" {
			t.Errorf("%s lists %+v", x.name, list)
		}
	}
	if r := a.verify(false); !r.Clean {
		t.Errorf("A: %+v", r)
	}
}

// TestErasedSalvaged: what a salvage brings back that was deleted is deleted again.
func TestErasedSalvaged(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	before := map[string][]byte{}
	must(t, b.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.All(), nil, func(k, value []byte) error {
			before[string(k)] = bytes.Clone(value)
			return nil
		})
	}))
	b.agree(e.ID)
	sync(t, a, b)
	var batch storage.Batch // removed values may come back
	for k, value := range before {
		batch.Put([]byte(k), value)
	}
	must(t, b.twin.Commit(t.Context(), &batch))
	b.refill(func([]byte) bool { return true })
	sync(t, a, b)
	if found := b.sealedOf("Zwiebelfisch", "weight"); len(found) != 0 {
		t.Errorf("B has %q", found)
	}
	if found := b.stores("Zwiebelfisch", "weight"); len(found) != 0 {
		t.Errorf("B stores %q", found)
	}
	if list := b.erasures(); len(list) != 1 || list[0].State != "erased" {
		t.Errorf("B lists %+v", list)
	}
	if s, _ := sync(t, a, b); !s.Agreed || a.export() != b.export() {
		t.Errorf("they do not agree: %+v", s)
	}
	if r := b.verify(false); !r.Clean {
		t.Errorf("B: %+v", r)
	}
}

// TestErasedOwnDamaged: a device whose own chunk is damaged when its document is erased erases it all the same.
func TestErasedOwnDamaged(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	c.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	c.put(`{"resourceType":"Patient","id":"p2","name":[{"family":"Klein"}]}`, false)
	sync(t, a, c)
	sync(t, a, b)
	c.without(c.written(1).ID())
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	for range 3 {
		sync(t, b, c)
	}
	if strings.Contains(c.export(), "Zwiebelfisch") || !strings.Contains(c.export(), "Klein") {
		t.Errorf("C shows %s", c.export())
	}
	if list := c.erasures(); len(list) != 1 || list[0].State != "erased" {
		t.Errorf("C lists %+v", list)
	}
	if s, _ := sync(t, b, c); !s.Agreed || c.export() != a.export() {
		t.Errorf("they do not agree: %+v", s)
	}
}

// TestErasedPatientStays: a patient who was erased is not written anew in a document that was not there before.
func TestErasedPatientStays(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	body := `{"resourceType":"Observation","id":"o25","status":"final","code":{"text":"new year"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2025-03-04"}`
	if _, err := b.Put(t.Context(), "b", []byte(body), false); api.CodeOf(err) != api.CodeDeleted {
		t.Errorf("a record of an erased patient is begun: %v", err)
	}
	res, err := b.Import(t.Context(), "b", api.ImportBatch{Resources: []json.RawMessage{[]byte(body), []byte(`{"resourceType":"Organization","id":"org2","name":"Andere"}`)}})
	must(t, err)
	if len(res.Refused) != 1 || strings.Contains(b.export(), "new year") || !strings.Contains(b.export(), "Andere") {
		t.Errorf("import: %+v", res)
	}
}

// TestImportOfErased: what an import has of an erased record is refused, and the rest of it is imported.
func TestImportOfErased(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	res, err := b.Import(t.Context(), "b", api.ImportBatch{Resources: []json.RawMessage{
		[]byte(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`),
		[]byte(`{"resourceType":"Observation","id":"o25","status":"final","code":{"text":"new year"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2025-03-04"}`),
		[]byte(`{"resourceType":"Organization","id":"org2","name":"Andere"}`)}})
	must(t, err)
	if len(res.Refused) != 2 || res.Created != 1 || strings.Contains(b.export(), "p1") || !strings.Contains(b.export(), "Andere") {
		t.Errorf("%+v, and B shows %s", res, b.export())
	}
}

// TestVerifyWhileErasing: what waits to be deleted is nothing that a repair is needed for.
func TestVerifyWhileErasing(t *testing.T) {
	d := practice(t, "A", "B", "C", "D")
	a, b, c, slow := d[0], d[1], d[2], d[3]
	a.promote(b)
	a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	sync(t, a, slow)
	slow.edit("Patient/p1", func(obj map[string]any) { obj["gender"] = "female" })
	sync(t, a, slow)
	sync(t, a, b)
	e := a.order(orderOf("Patient/p1"))
	log := a.ownLog()
	sync(t, a, b)
	b.agree(e.ID)
	must(t, c.AddEntries(t.Context(), a.Device(), a.EntriesSince(nil)))
	c.take(a, append(log, b.ownLog()...)...) // without what D wrote
	if list := c.erasures(); len(list) != 1 || list[0].State != "agreed" {
		t.Fatalf("C lists %+v", list)
	}
	if r := c.verify(false); !r.Clean {
		t.Errorf("while it waits: %+v", r)
	}
	sync(t, b, c)
	if list := c.erasures(); list[0].State != "erased" || len(c.sealedOf("Zwiebelfisch")) != 0 {
		t.Errorf("C lists %+v", list)
	}
	if r := c.verify(false); !r.Clean {
		t.Errorf("after it: %+v", r)
	}
}

// TestErasedWhileSaved: what a repair kept of a lost chunk, to write it once more, goes with its document, and the repair comes to its end.
func TestErasedWhileSaved(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	c.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	c.put(`{"resourceType":"Patient","id":"p2","name":[{"family":"Klein"}]}`, false)
	sync(t, a, c)
	sync(t, a, b)
	c.without(c.written(1).ID())
	c.without(c.written(2).ID())
	c.corrupt(storage.DocumentsOf.Number())
	c.verify(true)
	if len(c.stores("Zwiebelfisch")) == 0 {
		t.Fatal("the repair keeps nothing")
	}
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	sync(t, a, b)
	sync(t, b, c)
	sync(t, b, c)
	if found := c.stores("Zwiebelfisch"); len(found) != 0 {
		t.Errorf("C stores %q", found)
	}
	_, err := c.EndRepair(t.Context())
	must(t, err)
	_, err = c.SaveLost(t.Context())
	must(t, err)
	if found := c.stores("Zwiebelfisch"); len(found) != 0 || !strings.Contains(c.export(), "Klein") {
		t.Errorf("C stores %q and shows %s", found, c.export())
	}
}

// TestEraseBesideBadCheckpoint: a member's checkpoint that claims to stand for what is not there, or of another document, hinders no erasure: the order leaves it out.
func TestEraseBesideBadCheckpoint(t *testing.T) {
	for name, bend := range map[string]func(*chunk.Checkpoint){
		"another history":      func(c *chunk.Checkpoint) { c.Covers[0].Last[0] ^= 1 },
		"another chunk within": func(c *chunk.Checkpoint) { c.Covers[0].Tips[2][0] ^= 1 },
		"what there is not": func(c *chunk.Checkpoint) {
			run := &c.Covers[0]
			run.To, run.Tips = run.To+1, append(run.Tips, chunk.At(run.To, run.Last).Tip)
			c.Others = append(c.Others, chunk.Spot{Counter: run.To})
		},
		"another document's": func(*chunk.Checkpoint) {},
	} {
		t.Run(name, func(t *testing.T) {
			p := practice(t, "A", "B", "forger")
			a, b := p[0], p[1]
			a.promote(b)
			a.put(compactPatient, false)
			a.editMany(0, 3)
			if name == "another document's" {
				a.put(`{"resourceType":"Patient","id":"p2","name":[{"family":"Klein"}]}`, false)
			}
			for _, x := range p[1:] {
				sync(t, a, x)
			}
			f := forge(p[2])
			doc := f.Document("section", "p1", "core")
			body := checkpointOf(t, a, f.Scope, doc)
			bend(body)
			bad := f.Seal(body)
			for _, d := range []*device{a, b} {
				d.take(f.device, bad)
			}
			e := a.order(orderOf("Patient/p1"))
			sync(t, a, b)
			if e = b.agree(e.ID); e.State != "erased" {
				t.Errorf("%+v", e)
			}
			sync(t, a, b)
			for _, d := range []*device{a, b} {
				held := d.heldList(false)
				if len(held) != 1 || held[0].State != "quarantined" || strings.Contains(d.export(), "Berg") {
					t.Errorf("%s holds %+v and shows %s", d.name, held, d.export())
				}
				if name == "another document's" && !strings.Contains(d.export(), "Klein") {
					t.Errorf("%s lost another's", d.name)
				}
				if n, _, _ := d.chunksOf(); n > 4 {
					t.Errorf("%s stores %d chunks", d.name, n)
				}
			}
			alike(t, a, b)
		})
	}
}

// TestOrderOfTwoPatients: an administrator's bent program gives another patient's order together with one that is talked about: nobody is led to agree to both.
func TestOrderOfTwoPatients(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.promote(c)
	a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	a.put(`{"resourceType":"Observation","id":"o3","status":"final","code":{"text":"pulse"},"subject":{"reference":"Patient/p2"},"effectiveDateTime":"2019-03-04"}`, false)
	sync(t, a, b)
	var list [][]byte
	var first chunk.Sealed
	for n, section := range map[uint64][]string{1: {"section", "p1", "core"}, 2: {"section", "p2", "2019"}} {
		clinical := clinicalOf(t, a.State())
		doc, err := a.keys.DocumentID(clinical, section...)
		must(t, err)
		s := a.written(n)
		covers := chunk.Covers{{Run: chunk.Run{Log: s.Log(), From: n, To: n, Last: s.ID()}, Tips: []chunk.Tip{chunk.At(n-1, s.Header().Previous).Tip}}}
		p := chunk.Params{Membership: c.State(), Scope: clinical, Log: chunk.CurrentLog(c.keys), Counter: uint64(len(list)) + 1, Previous: first.ID()}
		order, err := chunk.Seal(c.keys, p, &chunk.Erasure{Document: doc, Covers: covers, TimeMillis: 7})
		must(t, err)
		first, list = order, append(list, order.Bytes())
	}
	must(t, b.AddEntries(t.Context(), a.Device(), a.EntriesSince(nil)))
	b.take(c, list...)
	given := b.erasures()
	if len(given) != 1 || given[0].Documents != 2 {
		t.Fatalf("B lists %+v", given)
	}
	if _, err := b.AgreeErasure(t.Context(), "b", given[0].ID, nil); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("B agrees: %v", err)
	}
	if !strings.Contains(b.export(), "pulse") {
		t.Error("another patient's record is erased")
	}
}

// TestOverlappingErasures: two orders that were given apart, each over a part of what the other names, take together what either names, in any order.
func TestOverlappingErasures(t *testing.T) {
	for name, meet := range map[string]func(t *testing.T, a, b, c, n *device){
		"the first, then the second": func(t *testing.T, a, b, c, n *device) { sync(t, a, n); sync(t, c, n) },
		"the second, then the first": func(t *testing.T, a, b, c, n *device) { sync(t, c, n); sync(t, a, n) },
		"crashes between":            func(t *testing.T, a, b, c, n *device) { sync(t, c, n); n.crash(); sync(t, b, n); n.crash() },
	} {
		t.Run(name, func(t *testing.T) {
			d := practice(t, "A", "B", "C", "E", "N")
			a, b, c, e, n := d[0], d[1], d[2], d[3], d[4]
			for _, x := range d[1:4] {
				a.promote(x)
			}
			a.eraseChart()
			for _, x := range d[1:] {
				sync(t, a, x)
			}
			// A and B have an edit of A's more, C and E one of C's.
			a.edit("Patient/p1", func(obj map[string]any) { obj["active"] = false })
			sync(t, a, b)
			c.edit("Patient/p1", func(obj map[string]any) { obj["birthDate"] = "1970-01-01" })
			sync(t, c, e)
			n.edit("Patient/p1", func(obj map[string]any) { obj["maritalStatus"] = map[string]any{"text": "kept"} })
			one, two := a.order(orderOf("Patient/p1")), c.order(orderOf("Patient/p1"))
			sync(t, a, b)
			sync(t, c, e)
			b.agree(one.ID)
			e.agree(two.ID)
			sync(t, a, b)
			sync(t, c, e)
			meet(t, a, b, c, n)
			for range 3 {
				for _, x := range d[1:] {
					sync(t, a, x)
				}
			}
			for _, x := range d {
				for _, l := range x.erasures() {
					if l.State != "erased" || len(l.Late) != 1 {
						t.Errorf("%s lists %+v", x.name, l)
					}
				}
				if held := x.heldList(false); len(held) != 1 {
					t.Errorf("%s holds %+v", x.name, held)
				}
				if found := x.sealedOf("Zwiebelfisch", "weight"); len(found) != 0 {
					t.Errorf("%s has %q", x.name, found)
				}
				if r := x.verify(false); !r.Clean {
					t.Errorf("%s: %+v", x.name, r)
				}
			}
			for _, x := range d[1:] {
				alike(t, a, x)
				if s, _ := sync(t, a, x); !s.Agreed {
					t.Errorf("A and %s do not agree: %+v", x.name, s)
				}
			}
		})
	}
}

// TestErasureWithinCut: an order of somebody who was removed, in a log with several histories, counts as soon as what the cut names has come, and not at the next start.
func TestErasureWithinCut(t *testing.T) {
	d := practice(t, "A", "B", "C", "N")
	a, b, c, n := d[0], d[1], d[2], d[3]
	a.promote(b)
	a.promote(c)
	a.put(`{"resourceType":"Patient","id":"p1","name":[{"family":"Zwiebelfisch"}]}`, false)
	for _, x := range d[1:] {
		sync(t, a, x)
	}
	was := b.twin.Copy()
	b.put(`{"resourceType":"Organization","id":"one"}`, false)
	sync(t, b, n)
	b = b.rollBack(was, b.keys)
	e := b.order(orderOf("Patient/p1"))
	b.put(`{"resourceType":"Organization","id":"two"}`, false)
	own := b.ownLog()
	sync(t, a, b)
	sync(t, a, c)
	c.agree(e.ID)
	a.remove(b)
	must(t, n.AddEntries(t.Context(), a.Device(), a.EntriesSince(nil)))
	n.take(b, own[0])
	n.take(c, c.ownLog()...)
	if list := n.erasures(); len(list) != 1 || list[0].State != "ordered" {
		t.Fatalf("N lists %+v", list)
	}
	n.take(b, own[1])
	if list := n.erasures(); list[0].State != "erased" || strings.Contains(n.export(), "Zwiebelfisch") {
		t.Errorf("N lists %+v", list)
	}
}

// TestErasedPatientBegunApart: a record of an erased patient that somebody begins who has not heard, in a document that was not there before, is shown, and the patient's
// order takes it away.
func TestErasedPatientBegunApart(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.promote(b)
	a.eraseChart()
	sync(t, a, b)
	sync(t, a, c)
	e := a.order(orderOf("Patient/p1"))
	sync(t, a, b)
	b.agree(e.ID)
	c.put(`{"resourceType":"Observation","id":"o25","status":"final","code":{"text":"new year"},"subject":{"reference":"Patient/p1"},"effectiveDateTime":"2025-03-04"}`, false)
	sync(t, b, c)
	sync(t, a, b)
	for _, x := range d {
		if !strings.Contains(x.export(), "new year") || len(x.heldList(false)) != 0 {
			t.Errorf("%s shows %s and holds %+v", x.name, x.export(), x.heldList(false))
		}
	}
	again := b.order(orderOf("Patient/p1"))
	if again.Documents != 1 || again.Resources["Observation"] != 1 {
		t.Errorf("%+v", again)
	}
	sync(t, a, b)
	a.agree(again.ID)
	sync(t, a, c)
	if strings.Contains(c.export(), "new year") || len(c.sealedOf("new year")) != 0 {
		t.Errorf("C shows %s", c.export())
	}
}
