package crdt_test

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"chartmesh/crdt"
)

func paths(shown crdt.Shown) (list []string) {
	for _, c := range shown.Conflicts {
		list = append(list, c.Path)
	}
	return list
}

func wantPaths(t *testing.T, shown crdt.Shown, want ...string) {
	t.Helper()
	if !slices.Equal(paths(shown), want) {
		t.Fatalf("conflicts at %q, want %q: %s", paths(shown), want, describe(shown))
	}
}

// TestConflictInsideOneOfEqualContainers: A and B made the same resource; inside B's there is a conflict that shows what
// A's has. An edit of another field may not make it vanish, and a decision must not set the two containers apart.
func TestConflictInsideOneOfEqualContainers(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		setUp := func(late int) *world {
			w := newWorld(t, real, 3)
			a, b, c := w.sites[0], w.sites[1], w.sites[2]
			a.write(parse("{x:1 y:1}"))
			b.write(parse("{x:1 y:1}"))
			c.from(b)
			b.write(parse("{x:5 y:1}"))
			c.write(parse("{x:3 y:1}"))
			c.write(parse("{x:1 y:1}"))
			for range late { // then A's is the later one
				a.write(parse("{x:1 y:9}"))
				a.write(parse("{x:1 y:1}"))
			}
			w.meet(rand.New(rand.NewPCG(1, 1)))
			wantPaths(t, a.show(), "x")
			return w
		}
		for _, late := range []int{0, 5} {
			w := setUp(late)
			id := w.only().ID
			w.sites[0].write(parse("{x:1 y:2}"))
			if w.only().ID != id {
				t.Fatal("the conflict is another")
			}
			for side := range 2 {
				w := setUp(late)
				conflict := w.only()
				w.sites[0].decide(conflict.ID, crdt.ChooseSide(side))
				if got := w.none(); !got.Value.Map["x"].Equal(conflict.Sides[side].Value) {
					t.Fatalf("decided for %s, shown is %s", text(conflict.Sides[side].Value), describe(got))
				}
			}
		}
	})
}

// TestConflictInsideASide: a conflict inside one side of another is listed, and deciding it leaves the other open.
func TestConflictInsideASide(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		for _, late := range []int{0, 1} { // who edits last is shown
			w := newWorld(t, real, 3)
			a, b, c := w.sites[0], w.sites[1], w.sites[2]
			a.write(parse("{x:1 y:1}"))
			b.write(parse("{x:2 y:2}"))
			c.from(b)
			b.write(parse("{x:3 y:2}"))
			c.write(parse("{x:4 y:2}"))
			for range 3 * late {
				a.write(parse("{x:1 y:0}"))
				a.write(parse("{x:1 y:1}"))
			}
			w.meet(rand.New(rand.NewPCG(1, 1)))
			before := a.show()
			wantPaths(t, before, "", "x")
			a.decide(before.Conflicts[1].ID, crdt.ChooseSide(0))
			w.meet(rand.New(rand.NewPCG(1, 2)))
			after := c.show()
			wantPaths(t, after, "")
			if text(after.Conflicts[0].Sides[0].Value) != "{x:1 y:1}" && text(after.Conflicts[0].Sides[1].Value) != "{x:1 y:1}" {
				t.Fatalf("a side was lost: %s", describe(after))
			}
			b.decide(after.Conflicts[0].ID, crdt.ChooseValue(parse("{x:9}")))
			if got := w.none(); text(got.Value) != "{x:9}" {
				t.Fatal(describe(got))
			}
		}
	})
}

// TestChosenValueLeavesInnerConflict: choosing a value for a field does not decide what is contested inside it and equal.
func TestChosenValueLeavesInnerConflict(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		w := newWorld(t, real, 3)
		a, b, c := w.sites[0], w.sites[1], w.sites[2]
		a.write(parse("{p:{a:1 b:1} q:1}"))
		b.from(a)
		c.from(a)
		a.write(parse("{p:{a:2 b:1} q:1}"))
		b.write(parse("{p:{a:3 b:1} q:1}"))
		c.write(parse("{q:1}"))
		w.meet(rand.New(rand.NewPCG(1, 1)))
		wantPaths(t, a.show(), "p", "p.a")
		inner := a.show().Conflicts[1].ID
		value := a.show().Value.Map["p"]
		a.decide(a.show().Conflicts[0].ID, crdt.ChooseValue(crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{
			"a": value.Map["a"], "b": parse("2"), "c": parse("[x {y:1}]"),
		}}))
		if got := w.only(); got.ID != inner {
			t.Fatal(describe(a.show()))
		}
	})
}

// TestChosenValuesApart: two different values, chosen apart, meet in every field where they differ.
func TestChosenValuesApart(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		w := newWorld(t, real, 2)
		a, b := w.sites[0], w.sites[1]
		a.write(parse("{x:1 y:1}"))
		b.write(parse("{x:2 y:2}"))
		id := w.only().ID
		a.decide(id, crdt.ChooseValue(parse("{x:7 y:2}")))
		b.decide(id, crdt.ChooseValue(parse("{x:2 y:8}")))
		w.meet(rand.New(rand.NewPCG(1, 1)))
		wantPaths(t, a.show(), "x", "y")
	})
}

// TestStale: a file that was read long ago changes what it changed, and reverts nothing.
func TestStale(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		w := newWorld(t, real, 2)
		a, b := w.sites[0], w.sites[1]
		a.write(parse("{x:1 y:1 z:1}"))
		old := a.heads
		b.from(a)
		b.write(parse("{x:2 y:1 z:1}"))
		a.from(b)
		a.write(parse("{x:2 y:2 z:1}"))
		stale, err := crdt.Write(key, a.readAt(key, old), parse("{x:3 y:1 z:3}"))
		a.check(err)
		a.edit(1, old, stale)
		conflict := w.only()
		shown := b.show()
		if conflict.Path != "x" || text(shown.Value.Map["y"]) != "2" || text(shown.Value.Map["z"]) != "3" {
			t.Fatal(describe(shown))
		}
	})
}

// TestUnionOfLists: lists made at several sites are one, and any list can be written over it.
func TestUnionOfLists(t *testing.T) {
	seeds(t, 40, func(t *testing.T, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 5))
		list := func() crdt.Value {
			v := crdt.Value{Kind: crdt.List}
			for range 1 + r.IntN(5) {
				x := crdt.Value{Kind: crdt.String, Str: string(rune('a' + r.IntN(4)))}
				if r.IntN(3) == 0 {
					x = crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{"use": x, "n": {Kind: crdt.Int, Int: int64(r.IntN(2))}}}
				}
				v.List = append(v.List, x)
			}
			return crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{"l": v}}
		}
		w := newWorld(t, true, 3)
		w.sites[0].write(parse([]string{"{x:1}", "{l:[a]}"}[seed%2]))
		for _, s := range w.sites {
			s.from(w.sites[0])
		}
		for _, s := range w.sites {
			s.write(list())
		}
		w.meet(r)
		for range 6 {
			w.sites[r.IntN(3)].write(list())
			if n := r.IntN(3); n > 0 {
				w.sites[n].write(list())
			}
			w.meet(r)
		}
	})
}

// TestCopiesAreEditedTogether: an element that two sites added alike stays one when it is edited.
func TestCopiesAreEditedTogether(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		w := newWorld(t, real, 2)
		a, b := w.sites[0], w.sites[1]
		a.write(parse("{x:1}"))
		b.from(a)
		a.write(parse("{l:[{use:a n:1 m:1} p] x:1}"))
		b.write(parse("{l:[{use:a n:1 m:1} q] x:1}"))
		w.none()
		a.write(parse("{l:[{use:a n:2 m:1} p q] x:1}"))
		b.write(parse("{l:[{use:a n:1 m:2} p q] x:1}"))
		if got := w.none(); text(got.Value) != "{l:[{m:2 n:2 use:a} p q] x:1}" {
			t.Fatal(describe(got))
		}
		a.write(parse("{l:[r {n:3}]}"))
		b.from(a)
		a.write(parse("{l:[r {n:3} s {n:4}]}"))
		b.write(parse("{l:[r {n:3} s {n:4}]}"))
		w.none()
		a.write(parse("{l:[r {n:3} t {n:5}]}"))
		w.none()
	})
}

// TestContestedIsNoCopy: an element that is equal to another only in what is shown of it is shown, too.
func TestContestedIsNoCopy(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		w := newWorld(t, real, 2)
		a, b := w.sites[0], w.sites[1]
		a.write(parse("{l:[x y z]}"))
		b.from(a)
		a.write(parse("{l:[x a z]}"))
		b.write(parse("{l:[x c z]}"))
		a.write(parse("{l:[c x a z]}"))
		if conflict := w.only(); conflict.Path != "l[2]" || text(a.show().Value) != "{l:[c x c z]}" {
			t.Fatal(describe(a.show()))
		}
	})
}

func TestChoiceErrors(t *testing.T) {
	w := newWorld(t, true, 2)
	a, b := w.sites[0], w.sites[1]
	a.write(parse("{l:[x]}"))
	b.from(a)
	a.write(parse("{l:[y]}"))
	b.write(parse("{l:[z]}"))
	id := w.only().ID
	for name, choice := range map[string]crdt.Choice{
		"none":         {},
		"side":         crdt.ChooseSide(-1),
		"absent value": crdt.ChooseValue(crdt.Value{}),
	} {
		if _, err := crdt.Decide(key, a.read(), id, choice); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := crdt.Decide(key, a.read(), id, crdt.ChooseValue(crdt.Value{Kind: crdt.Bytes})); err == nil {
		t.Error("empty bytes: no error")
	}
	a.decide(id, crdt.ChooseValue(parse(`{t:"other"}`)))
	if got := w.none(); text(got.Value) != `{l:[{t:"other"}]}` {
		t.Fatal(describe(got))
	}

	w = newWorld(t, true, 2)
	a, b = w.sites[0], w.sites[1]
	a.write(parse("{l:[{use:x n:1}]}"))
	b.from(a)
	a.write(parse("{l:[{use:x n:2}]}"))
	b.write(parse("{x:1}"))
	id = w.only().ID
	if _, err := crdt.Decide(key, a.read(), id, crdt.ChooseValue(parse("x"))); !errors.Is(err, crdt.ErrChoice) {
		t.Errorf("a scalar for a map in a list: %v", err)
	}
}
