package replica_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
)

// TestEraseWorlds erases charts while devices that are apart edit them, pack them, crash, and hear of it in any order. At rest every value that was written stands, or is
// held as late on every device alike, or was named by an agreed order; and all show and claim the same.
//
// ERASE_SEED=7 go test ./agent/replica -run '^TestEraseWorlds$' runs one world again, ERASE_SEEDS=200 more of them.
func TestEraseWorlds(t *testing.T) {
	first, last := uint64(1), uint64(8)
	if n, err := strconv.ParseUint(os.Getenv("ERASE_SEED"), 10, 64); err == nil {
		first, last = n, n
	} else if n, err := strconv.ParseUint(os.Getenv("ERASE_SEEDS"), 10, 64); err == nil {
		last = n
	}
	for seed := first; seed <= last; seed++ {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := newEraseWorld(t, seed)
			for range 60 {
				w.step()
			}
			w.rest()
			if t.Failed() {
				t.Logf("ERASE_SEED=%d go test ./agent/replica -run '^TestEraseWorlds$'", seed)
			}
		})
	}
}

type eraseWorld struct {
	t     *testing.T
	rand  *rand.Rand
	all   []*device
	wrote map[string]string   // value to the patient that it was written to
	named map[string][]string // by order, values that it names
	gone  map[string]bool     // values that an agreed order named
}

func newEraseWorld(t *testing.T, seed uint64) *eraseWorld {
	w := &eraseWorld{t: t, rand: rand.New(rand.NewPCG(seed, 0)), wrote: map[string]string{}, named: map[string][]string{}, gone: map[string]bool{}}
	w.all = practice(t, "A", "B", "C", "D")
	w.all[0].promote(w.all[1])
	for p := range 3 {
		w.all[0].put(fmt.Sprintf(`{"resourceType":"Patient","id":"p%d","active":true}`, p), false)
	}
	for _, x := range w.all {
		x.compaction = replica.Compaction{Changes: 3}
		x.crash()
		if x != w.all[0] {
			sync(t, w.all[0], x)
		}
	}
	return w
}

func (w *eraseWorld) step() {
	a, b := w.all[w.rand.IntN(len(w.all))], w.all[w.rand.IntN(len(w.all))]
	patient := fmt.Sprintf("p%d", w.rand.IntN(3))
	switch n := w.rand.IntN(20); {
	case n < 9: // every value has a resource of its own, so that none is overwritten
		value := fmt.Sprintf("value%d", len(w.wrote))
		_, err := a.Put(w.t.Context(), a.name, fmt.Appendf(nil, `{"resourceType":"Observation","id":%q,"status":"final","code":{"text":%q},"subject":{"reference":"Patient/%s"}}`,
			value, value, patient), false)
		switch api.CodeOf(err) {
		case "":
			w.wrote[value] = patient
		case api.CodeDeleted: // refused: it was erased
		default:
			must(w.t, err)
		}
	case n < 15 && a != b:
		sync(w.t, a, b)
	case n < 16:
		a.crash()
	case n < 17:
		a.compact()
	case n < 18:
		w.order(w.all[w.rand.IntN(2)], patient)
	case n < 20:
		admin := w.all[w.rand.IntN(2)]
		for _, e := range admin.erasures() {
			if e.State == "ordered" && e.Ordered.Device != admin.name {
				w.agree(admin, e)
				break
			}
		}
	}
}

// order orders a patient to be erased, if that can be. It names what its author has of the patient.
func (w *eraseWorld) order(admin *device, patient string) {
	e, err := admin.OrderErasure(w.t.Context(), admin.name, orderOf("Patient/"+patient), nil)
	switch api.CodeOf(err) {
	case "":
		has := admin.values()
		for value, of := range w.wrote {
			if of == patient && has[value] {
				w.named[e.ID] = append(w.named[e.ID], value)
			}
		}
	case api.CodeNotFound, api.CodeInvalid:
	default:
		must(w.t, err)
	}
}

// agree has an administrator agree to an order, if they have all that it names.
func (w *eraseWorld) agree(admin *device, e api.Erasure) {
	_, err := admin.AgreeErasure(w.t.Context(), admin.name, e.ID, nil)
	switch api.CodeOf(err) {
	case "":
		for _, value := range w.named[e.ID] {
			w.gone[value] = true
		}
	case api.CodeInvalid:
	default:
		must(w.t, err)
	}
}

// values are the values that are shown, or held back.
func (d *device) values() map[string]bool {
	d.t.Helper()
	has := map[string]bool{}
	for _, v := range append(strings.Split(d.export(), `"`), strings.Split(fmt.Sprint(d.contents()), `"`)...) {
		has[v] = true
	}
	return has
}

// contents lists the values of what is held back.
func (d *device) contents() (values []string) {
	d.t.Helper()
	for _, h := range d.heldList(true) {
		detail, err := d.ShowHeld(d.t.Context(), h.Chunk)
		must(d.t, err)
		if detail.Content == nil {
			continue
		}
		for _, c := range detail.Content.Changes {
			for _, v := range c.Values {
				values = append(values, string(v.Value))
			}
		}
	}
	slices.Sort(values)
	return slices.Compact(values)
}

// rest has everybody meet until nothing is new, and holds what must be.
func (w *eraseWorld) rest() {
	a := w.all[0]
	for range 3 {
		for _, x := range w.all[1:] {
			sync(w.t, a, x)
		}
	}
	n := admit(w.t, a, "N")
	for _, x := range append(w.all[1:], n) {
		sync(w.t, a, x)
		s, _ := sync(w.t, a, x)
		if !s.Agreed {
			w.t.Errorf("A and %s do not agree: %+v", x.name, s)
		}
		if x.export() != a.export() {
			w.t.Errorf("%s shows something else than A", x.name)
		}
		w.keeps(x)
	}
	w.keeps(a)
	for _, e := range a.erasures() {
		if e.State != "erased" && e.State != "ordered" {
			w.t.Errorf("an erasure is %s at rest", e.State)
		}
	}
}

// keeps holds that a device has every value that no agreed order named, and shows none that one did. Also what was named may still be held in a checkpoint that somebody made apart.
func (w *eraseWorld) keeps(x *device) {
	export, has := x.export(), x.values()
	for value, patient := range w.wrote {
		if !has[value] && !w.gone[value] {
			w.t.Errorf("%s lost %s of Patient/%s: nobody named it", x.name, value, patient)
		}
		if w.gone[value] && strings.Contains(export, `"`+value+`"`) {
			w.t.Errorf("%s shows %s of Patient/%s again", x.name, value, patient)
		}
	}
	w.t.Logf("%s: %d values, %d named", x.name, len(w.wrote), len(w.gone))
}
