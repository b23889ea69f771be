package replica_test

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// packEverywhere has the first device pack what it can, the others find it good, and all of them delete what is packed.
func packEverywhere(t *testing.T, devices ...*device) {
	t.Helper()
	for range 2 {
		for _, d := range devices {
			d.compact()
			settleAll(t, devices...)
		}
	}
}

// TestRolledBackOverCompaction takes a machine back to before what the others have packed and deleted since, and lets it
// write before it meets them. What it wrote stands where deleted chunks stood, and is told from them: it reaches everybody,
// and nothing of either history is lost from view.
func TestRolledBackOverCompaction(t *testing.T) {
	patient := func(d *device, n int) {
		d.edit("Patient/p1", func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": fmt.Sprint("afterwards ", n)} })
	}
	stranger := func(d *device, n int) {
		d.put(fmt.Sprintf(`{"resourceType":"Patient","id":"new%d","gender":"female"}`, n), false)
	}
	for name, c := range map[string]struct {
		before int // edits of the patient that is packed, before the image was taken
		apart  int // chunks of others' documents between the image and what is packed
		writes int // after the machine went back
		write  func(d *device, n int)
		shows  string
	}{
		"the same record, within what was packed":              {3, 0, 1, patient, "afterwards"},
		"the same record, several times":                       {3, 0, 7, patient, "afterwards"},
		"the same record, farther than what was packed":        {3, 0, 120, patient, "afterwards"},
		"another record, within what was packed":               {3, 0, 2, stranger, `"new0"`},
		"another record, farther than what was packed":         {3, 0, 120, stranger, `"new0"`},
		"the same record, before what was packed":              {3, 1, 1, patient, "afterwards"},
		"another record, before what was packed":               {3, 3, 2, stranger, `"new0"`},
		"another record, from before to within what is packed": {3, 2, 5, stranger, `"new0"`},
		"another record, from before to far behind":            {3, 2, 120, stranger, `"new0"`},
		"as the very first":                                    {0, 0, 2, stranger, `"new0"`},
		"as the very first, before what was packed":            {0, 2, 3, stranger, `"new0"`},
		"as the very first, from there to far behind":          {0, 2, 120, stranger, `"new0"`},
	} {
		t.Run(name, func(t *testing.T) {
			p := practice(t, "surgery", "branch", "home")
			a, b, h := p[0], p[1], p[2]
			if c.before == 0 {
				b.put(compactPatient, false)
				settleAll(t, a, b, h)
			} else {
				a.put(compactPatient, false)
				a.editMany(0, c.before)
				settleAll(t, a, b, h)
			}
			was := a.twin.Copy()
			for i := range c.apart {
				a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"apart%d","gender":"male"}`, i), false)
			}
			a.editMany(c.before, 90)
			settleAll(t, a, b, h)
			packEverywhere(t, a, b, h)
			if _, skips, _ := b.chunksOf(); skips == 0 {
				t.Fatal("nothing was deleted")
			}
			phone := fmt.Sprint(c.before + 89) // the last edit of the history that went

			a = a.rollBack(was, a.keys)
			for n := range c.writes {
				c.write(a, n)
			}
			settleAll(t, a, b, h)
			settleAll(t, a, b, h)
			fresh := admit(t, a, "fresh")
			settleAll(t, a, b, h, fresh)
			for _, d := range []*device{a, b, h, fresh} {
				d.crash()
				d.applyAll()
				all := d.export() + fmt.Sprint(d.conflicts())
				for _, text := range []string{phone, c.shows} {
					if !strings.Contains(all, text) {
						t.Errorf("%s does not show %s", d.name, text)
					}
				}
				if n := strings.Count(all, `"apart`); n < c.apart {
					t.Errorf("%s shows %d of %d others", d.name, n, c.apart)
				}
			}
			sameEverywhere(t, a, b, h, fresh)
			if n := len(a.OwnLogs()); n != 2 {
				t.Errorf("the machine that went back has %d logs", n)
			}
			// And everybody goes on.
			a.put(bernd, false)
			settleAll(t, a, b, h, fresh)
			sameEverywhere(t, a, b, h, fresh)
		})
	}
}

// TestPartOfPackedHistory has a machine go back, write, and get a part of its former history before the others
// delete that; then it gets the skip.
func TestPartOfPackedHistory(t *testing.T) {
	for name, c := range map[string]struct{ apart, writes, from, n int }{
		"first chunks, fork within the run":   {0, 2, 5, 3},
		"all chunks but the last":             {0, 2, 5, 89},
		"all chunks":                          {0, 2, 5, 90},
		"far written, first chunks":           {0, 120, 5, 3},
		"fork before the run, part":           {2, 5, 5, 4},
		"fork before the run, whole":          {2, 5, 5, 92},
		"fork before the run, not to the run": {2, 5, 5, 1},
	} {
		t.Run(name, func(t *testing.T) {
			p := practice(t, "surgery", "branch", "home")
			a, b, h := p[0], p[1], p[2]
			a.put(compactPatient, false)
			a.editMany(0, 3)
			settleAll(t, a, b, h)
			was := a.twin.Copy()
			for i := range c.apart {
				a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"apart%d","gender":"male"}`, i), false)
			}
			a.editMany(3, 90)
			settleAll(t, a, b, h)
			scope := forge(a).Scope
			log := chunk.CurrentLog(a.keys)
			var part [][]byte
			must(t, b.twin.View(func(v storage.Reader) error {
				for i := range c.n {
					raw, err := v.Get(storage.Chunk.Key(scope, log, uint64(c.from+i)))
					if err != nil {
						return err
					}
					part = append(part, append([]byte(nil), raw...))
				}
				return nil
			}))
			packEverywhere(t, a, b, h)
			a = a.rollBack(was, a.keys)
			for n := range c.writes {
				a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"new%d","gender":"female"}`, n), false)
			}
			must(t, a.Arrive(t.Context(), b.Device(), part)) // a session that was cut, before B deleted them
			a.applyAll()
			if c.n >= 90 { // the skip comes late, or from who was told of less
				items, err := b.Chunks(scope, log, uint64(c.from-1), 1<<20)
				must(t, err)
				for _, it := range items {
					must(t, a.Arrive(t.Context(), b.Device(), [][]byte{it.Bytes}))
				}
				a.applyAll()
			}
			settleAll(t, a, b, h)
			settleAll(t, a, b, h)
			sameEverywhere(t, a, b, h)
			a.crash()
			a.applyAll()
			settleAll(t, a, b, h)
			sameEverywhere(t, a, b, h)
		})
	}
}

// TestLargeOtherHistory gives a skip to a machine that went back and has written more than fits one commit.
func TestLargeOtherHistory(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(compactPatient, false)
	a.editMany(0, 3)
	settleAll(t, a, b)
	was := a.twin.Copy()
	a.editMany(3, 90)
	settleAll(t, a, b)
	packEverywhere(t, a, b)
	a = a.rollBack(was, a.keys)
	for n := range 120 {
		data := make([]byte, 300_000)
		_, _ = rand.Read(data)
		a.put(fmt.Sprintf(`{"resourceType":"Patient","id":"photo%d","photo":[{"data":%q}]}`, n, base64.StdEncoding.EncodeToString(data)), false)
	}
	settleAll(t, a, b)
	settleAll(t, a, b)
	sameEverywhere(t, a, b)
}

// TestBothPacked has a machine go back to when it was the only one, and pack and delete what it writes then; the others have packed
// the history that went. Neither skip can be taken, and what both pack reaches everybody.
func TestBothPacked(t *testing.T) {
	for name, own := range map[string]bool{"the same record": true, "another record": false} {
		t.Run(name, func(t *testing.T) {
			a := practice(t, "surgery")[0]
			a.put(compactPatient, false)
			a.editMany(0, 3)
			was := a.twin.Copy()
			a.editMany(3, 90)
			b := admit(t, a, "branch")
			settleAll(t, a, b)
			packEverywhere(t, a, b)
			if _, skips, _ := b.chunksOf(); skips == 0 {
				t.Fatal("nothing was deleted")
			}
			a = a.rollBack(was, a.keys)
			id := "p1"
			if !own {
				id = "new"
				a.put(`{"resourceType":"Patient","id":"new","gender":"female"}`, false)
			}
			for n := range 80 {
				a.edit("Patient/"+id, func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": fmt.Sprint("afterwards ", n)} })
			}
			if got := a.compact(); got.Deleted == 0 {
				t.Fatalf("alone it packs %+v", got)
			}
			for range 3 {
				settleAll(t, a, b)
			}
			fresh := admit(t, a, "fresh")
			settleAll(t, a, fresh)
			settleAll(t, a, b, fresh)
			a.put(bernd, false)
			a.edit("Patient/"+id, func(m map[string]any) { m["gender"] = "other" })
			settleAll(t, a, b, fresh)
			for _, d := range []*device{a, b, fresh} {
				all := d.export() + fmt.Sprint(d.conflicts())
				for _, text := range []string{"afterwards 79", `"92"`} {
					if !strings.Contains(all, text) {
						t.Errorf("%s does not show %s", d.name, text)
					}
				}
			}
		})
	}
}

// TestManyLostWithOnePack has the packed history lose its place to what a machine wrote that went back: one checkpoint holds many
// changes that do not stand, and every device says the same of it.
func TestManyLostWithOnePack(t *testing.T) {
	for k := range 6 { // which history loses is decided by hashes
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		a.put(compactPatient, false)
		a.editMany(0, 3)
		settleAll(t, a, b)
		was := a.twin.Copy()
		a.editMany(3, 70)
		settleAll(t, a, b)
		packEverywhere(t, a, b)
		a = a.rollBack(was, a.keys)
		a.editMany(500+k, 2)
		settleAll(t, a, b)
		settleAll(t, a, b)
		fresh := admit(t, a, "fresh")
		settleAll(t, a, b, fresh)
		sameEverywhere(t, a, b, fresh)
	}
}
