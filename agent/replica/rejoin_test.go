package replica_test

import (
	"fmt"
	"strings"
	"testing"
)

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
			for range 2 {
				for _, d := range p { // the first packs, and the others find it good
					d.compact()
					settleAll(t, a, b, h)
				}
			}
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
