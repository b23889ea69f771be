package crdt_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"chartmesh/crdt"
)

// seeds runs a test for several seeds, more if HEAVY is set, or for the one in SEED.
func seeds(t *testing.T, n int, test func(t *testing.T, seed uint64)) {
	first := uint64(0)
	if s := os.Getenv("SEED"); s != "" {
		first, _ = strconv.ParseUint(s, 10, 64)
		n = 1
	} else if os.Getenv("HEAVY") != "" {
		n *= 20
	}
	for seed := first; seed < first+uint64(n); seed++ {
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("again: SEED=%d go test ./crdt -run '%s'", seed, strings.Split(t.Name(), "/")[0])
				}
			})
			test(t, seed)
		})
		if !ok {
			return
		}
	}
}

// trees makes random values. Strings, atoms and texts are unique, unless alike says that they are drawn from a few.
type trees struct {
	*rand.Rand
	site  int
	next  int
	alike bool
	keys  []string
	pool  []crdt.Value // some of what is made is drawn from here
}

var (
	plainKeys = []string{"id", "use", "name", "given", "code", "v", "x"}
	oddKeys   = []string{"", "~", "~v", "~~", "{a", "[a", `"a`, "a", `~"a`, "~~a", "é"}
)

func (r *trees) token() string {
	if r.alike {
		return string(rune('a' + r.IntN(4)))
	}
	r.next++
	return fmt.Sprintf("s%d.%d.", r.site, r.next)
}

func (r *trees) tree(depth int) crdt.Value {
	n := r.IntN(12)
	if len(r.pool) > 0 && r.IntN(3) == 0 {
		return r.pool[r.IntN(len(r.pool))]
	}
	switch {
	case depth > 0 && n < 3:
		v := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{}}
		for range r.IntN(4) {
			v.Map[r.keys[r.IntN(len(r.keys))]] = r.tree(depth - 1)
		}
		return v
	case depth > 0 && n < 6:
		v := crdt.Value{Kind: crdt.List}
		for range 1 + r.IntN(4) {
			v.List = append(v.List, r.tree(depth-1))
		}
		return v
	case n < 7:
		return crdt.Value{Kind: crdt.Text, Str: r.token() + "é" + r.token()}
	case n < 8:
		return crdt.Value{Kind: crdt.Bytes, Str: "j" + r.token()}
	case n < 9 && r.alike:
		return crdt.Value{Kind: crdt.Kind(5 + r.IntN(3)), Int: int64(r.IntN(2))}
	}
	return crdt.Value{Kind: crdt.String, Str: r.token()}
}

func (r *trees) resource() crdt.Value {
	v := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{}}
	for range r.IntN(5) {
		v.Map[r.keys[r.IntN(len(r.keys))]] = r.tree(3)
	}
	return v
}

// change returns v with something else in it. The result shares nothing that is changed with v.
func (r *trees) change(v crdt.Value, depth int) crdt.Value {
	switch {
	case v.Kind == crdt.Map && r.IntN(8) > 0:
		v.Map = maps.Clone(v.Map)
		keys := slices.Sorted(maps.Keys(v.Map))
		if len(keys) == 0 || r.IntN(3) == 0 {
			v.Map[r.keys[r.IntN(len(r.keys))]] = r.tree(depth)
			return v
		}
		k := keys[r.IntN(len(keys))]
		if r.IntN(6) == 0 {
			delete(v.Map, k)
		} else {
			v.Map[k] = r.change(v.Map[k], depth-1)
		}
	case v.Kind == crdt.List && r.IntN(8) > 0:
		v.List = slices.Clone(v.List)
		i := r.IntN(len(v.List) + 1)
		switch n := r.IntN(6); {
		case n < 2 || i == len(v.List):
			v.List = slices.Insert(v.List, i, r.tree(depth-1))
		case n == 2 && len(v.List) > 1:
			v.List = slices.Delete(v.List, i, i+1)
		case n == 3:
			j := r.IntN(len(v.List))
			v.List[i], v.List[j] = v.List[j], v.List[i]
		default:
			v.List[i] = r.change(v.List[i], depth-1)
		}
	case v.Kind == crdt.Text && r.IntN(4) > 0:
		runes := []rune(v.Str)
		i := r.IntN(len(runes) + 1)
		v.Str = string(runes[:i]) + r.token() + string(runes[i:])
	default:
		return r.tree(max(depth, 0))
	}
	return v
}

func (r *trees) changed(v crdt.Value) crdt.Value {
	w := r.change(v, 3)
	for w.Kind != crdt.Map {
		w = r.change(v, 3)
	}
	return w
}

// TestRoundTrip writes trees of any shape over each other, at two sites in turns that know of each other; world.write
// checks that each comes back.
func TestRoundTrip(t *testing.T) {
	seeds(t, 8, func(t *testing.T, seed uint64) {
		for _, alike := range []bool{false, true} {
			for _, keys := range [][]string{plainKeys, oddKeys} {
				r := &trees{Rand: rand.New(rand.NewPCG(seed, 1)), alike: alike, keys: keys}
				w := newWorld(t, true, 2)
				s := w.sites[0]
				turn := func() *site {
					other := s
					s = w.sites[r.IntN(2)]
					s.from(other)
					return s
				}
				for range 10 {
					v := r.resource()
					turn().write(v)
					for range 4 {
						v = r.changed(v)
						turn().write(v)
					}
					if n := len(turn().write(v)); n != 0 {
						t.Fatalf("%d instructions for no change", n)
					}
					if r.IntN(4) == 0 {
						turn().remove()
					}
				}
				if c := turn().show().Conflicts; c != nil {
					t.Fatalf("conflicts, and nobody was apart: %s", describe(s.show()))
				}
			}
		}
	})
}

// tokens finds the unique strings in what is shown and in all sides of all conflicts.
func tokens(shown crdt.Shown) map[string]bool {
	found := map[string]bool{}
	var visit func(crdt.Value)
	visit = func(v crdt.Value) {
		for _, token := range strings.FieldsFunc(v.Str, func(r rune) bool { return r == 'j' || r == 'é' }) {
			if v.Kind != crdt.Text { // characters of texts merge, and so do tokens in them
				found[token] = true
			}
		}
		for _, x := range v.Map {
			visit(x)
		}
		for _, x := range v.List {
			visit(x)
		}
	}
	visit(shown.Value)
	for _, c := range shown.Conflicts {
		for _, s := range c.Sides {
			visit(s.Value)
		}
	}
	return found
}

// TestNothingHidden lets sites edit random trees, remove and decide, and bring each other's changes in any order. What
// was written stays to be seen, in what is shown or in a conflict, unless a site took it away that had seen it.
func TestNothingHidden(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		n := 40
		if !real {
			n = 6 // the twin is slow
		}
		seeds(t, n, func(t *testing.T, seed uint64) {
			r := rand.New(rand.NewPCG(seed, 2))
			w := newWorld(t, real, 3)
			written, dropped := map[string]bool{}, map[string]bool{}
			var makers []*trees
			keys, pool := plainKeys, []crdt.Value(nil)
			if seed%2 == 1 {
				// Much is created at several sites, alike and otherwise.
				keys = []string{"x", "y"}
				common := &trees{Rand: r, site: 9, keys: keys}
				for range 4 {
					pool = append(pool, common.tree(2))
				}
			}
			for i := range w.sites {
				makers = append(makers, &trees{Rand: r, site: i, keys: keys, pool: pool})
			}
			act := func(i int) {
				s := w.sites[i]
				before := s.show()
				switch n := r.IntN(12); {
				case n == 0 && before.Value.Kind == crdt.Map:
					s.remove()
				case n < 3 && len(before.Conflicts) > 0:
					c := before.Conflicts[r.IntN(len(before.Conflicts))]
					choice := crdt.ChooseSide(r.IntN(len(c.Sides)))
					if n := r.IntN(5); n == 0 {
						choice = crdt.ChooseRemoved()
					} else if v := c.Sides[c.Shown].Value; n == 1 {
						for v = makers[i].change(v, 2); v.Kind != c.Sides[c.Shown].Value.Kind; v = makers[i].change(v, 2) {
						}
						choice = crdt.ChooseValue(v)
					}
					s.decide(c.ID, choice)
				case before.Value.Kind != crdt.Map || n == 3:
					s.write(makers[i].resource())
				default:
					v := makers[i].changed(before.Value)
					s.write(v)
					stay(t, before, s.show(), v)
				}
				seen, now := tokens(before), tokens(s.show())
				maps.Copy(written, now)
				for token := range seen {
					if !now[token] {
						dropped[token] = true
					}
				}
			}
			if seed%4 > 1 {
				base := makers[0].resource()
				for i, s := range w.sites {
					v := base
					if r.IntN(3) == 0 {
						v = makers[i].changed(v)
					}
					s.write(v)
					maps.Copy(written, tokens(s.show()))
				}
				w.meet(r)
			}
			for range 3 {
				for range 4 + r.IntN(8) {
					i := r.IntN(3)
					if r.IntN(3) == 0 {
						w.sites[i].from(w.sites[r.IntN(3)])
					}
					act(i)
				}
				w.meet(r)
				shown := w.sites[0].show()
				visible := tokens(shown)
				for token := range written {
					if strings.HasPrefix(token, "s9.") {
						continue // it may stand in several places, each taken away by a site that still saw another
					}
					if !visible[token] && !dropped[token] {
						t.Fatalf("%s is hidden: %s", token, describe(shown))
					}
				}
				for ids := map[crdt.ConflictID]bool{}; len(shown.Conflicts) > 0; shown.Conflicts = shown.Conflicts[1:] {
					id := shown.Conflicts[0].ID
					if ids[id] {
						t.Fatalf("two conflicts with one ID: %s", describe(w.sites[0].show()))
					}
					ids[id] = true
				}
			}
			// All can be decided.
			s := w.sites[0]
			for n := 0; len(s.show().Conflicts) > 0; n++ {
				if n > 100 {
					t.Fatalf("decisions without end: %s", describe(s.show()))
				}
				for _, c := range s.show().Conflicts {
					saysAlike(t, s.read(), c)
				}
				c := s.show().Conflicts[0]
				s.decide(c.ID, crdt.ChooseSide(r.IntN(len(c.Sides))))
			}
			w.meet(r)
		})
	})
}

// saysAlike checks that a conflict's place leads to it, and that to say one of its sides there is to decide for it.
func saysAlike(t *testing.T, r crdt.Register, c crdt.Conflict) {
	t.Helper()
	shown, ok := crdt.At(key, r, c.Place)
	if !ok || !shown.Equal(c.Sides[c.Shown].Value) {
		t.Fatalf("at the place of the conflict at %q stands %+v, %v", c.Path, shown, ok)
	}
	for i, side := range c.Sides {
		decided, err := crdt.Decide(key, r, c.ID, crdt.ChooseSide(i))
		said, other := crdt.Say(key, r, c.Place, side.Value)
		if !reflect.DeepEqual(decided, said) || (err == nil) != (other == nil) {
			t.Fatalf("side %d of the conflict at %q is decided as %v, %v and said as %v, %v", i, c.Path, decided, err, said, other)
		}
	}
}

// stay checks that a write left the conflicts open that are in fields which it did not change.
func stay(t *testing.T, before, after crdt.Shown, want crdt.Value) {
	t.Helper()
	for _, c := range before.Conflicts {
		if c.Path == "" {
			return // the write decided it, and with it what is inside other sides
		}
	}
	for _, c := range before.Conflicts {
		field := c.Path
		if end := strings.IndexAny(field, ".["); end >= 0 {
			field = field[:end]
		}
		if !before.Value.Map[field].Equal(want.Map[field]) {
			continue
		}
		if !slices.ContainsFunc(after.Conflicts, func(d crdt.Conflict) bool { return d.ID == c.ID }) {
			t.Fatalf("a conflict at %s was closed on the way\nbefore %s\nafter %s", c.Path, describe(before), describe(after))
		}
	}
}
