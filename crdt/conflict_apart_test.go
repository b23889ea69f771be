package crdt_test

import (
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/crdt"
)

// apart is what happens to one resource at two sites that do not hear of each other.
type apart struct {
	name string
	base string // known to both; empty: nothing
	a, b string // what each writes; "-" removes the resource; empty does nothing
	want string // shown when they meet; empty: removed
	// path and sides of the conflicts, each side as text prints it, "-" for a removal; nil: none
	conflicts []open
}

type open struct {
	path  string
	sides []string
}

var aparts = []apart{
	{"same field", `{given:Ann}`, `{given:Anna}`, `{given:Anne}`, `{given:Anne}`, []open{{"given", []string{"Anna", "Anne"}}}},
	{"same field alike", `{given:Ann}`, `{given:Anna}`, `{given:Anna}`, `{given:Anna}`, nil},
	{"value and unit of one quantity", `{dose:<1mg>}`, `{dose:<2mg>}`, `{dose:<1g>}`, `{dose:<1g>}`,
		[]open{{"dose", []string{"<2mg>", "<1g>"}}}},
	{"edit against delete", `{given:Ann x:1}`, `{given:Anna x:1}`, `-`, `{given:Anna x:1}`,
		[]open{{"", []string{"{given:Anna x:1}", "-"}}}},
	{"delete against delete", `{given:Ann}`, `-`, `-`, ``, nil},
	{"edit below against delete", `{contact:{phone:{n:1}}}`, `{contact:{phone:{n:2}}}`, `-`, `{contact:{phone:{n:2}}}`,
		[]open{{"", []string{"{contact:{phone:{n:2}}}", "-"}}}},
	{"edit of an element against its removal", `{given:[Ann Bea]}`, `{given:[Ann Bee]}`, `{given:[Ann]}`, `{given:[Ann Bee]}`,
		[]open{{"given[1]", []string{"Bee", "-"}}}},
	{"edit in a map element against its removal", `{name:[{use:a n:1} {use:b n:2}]}`, `{name:[{use:a n:1} {use:b n:3}]}`,
		`{name:[{use:a n:1}]}`, `{name:[{use:a n:1} {use:b n:3}]}`, []open{{"name[1]", []string{"{n:3 use:b}", "-"}}}},
	{"edit in a field against its removal", `{p:{a:1} q:1}`, `{p:{a:2} q:1}`, `{q:1}`, `{p:{a:2} q:1}`,
		[]open{{"p", []string{"{a:2}", "-"}}}},
	{"scalar against its removal", `{p:1 q:1}`, `{p:2 q:1}`, `{q:1}`, `{p:2 q:1}`, []open{{"p", []string{"2", "-"}}}},
	{"created alike", ``, `{given:[Ann] b:{c:1}}`, `{given:[Ann] b:{c:1}}`, `{b:{c:1} given:[Ann]}`, nil},
	{"created otherwise", ``, `{given:[Ann]}`, `{given:[Bea]}`, `{given:[Bea]}`,
		[]open{{"", []string{"{given:[Ann]}", "{given:[Bea]}"}}}},
	{"field created alike", `{x:1}`, `{x:1 p:{a:1}}`, `{x:1 p:{a:1}}`, `{p:{a:1} x:1}`, nil},
	{"field created otherwise", `{x:1}`, `{x:1 p:{a:1}}`, `{x:1 p:{a:2}}`, `{p:{a:2} x:1}`,
		[]open{{"p", []string{"{a:1}", "{a:2}"}}}},
	{"list created at both", `{x:1}`, `{x:1 l:[p q]}`, `{x:1 l:[q r]}`, `{l:[p q r] x:1}`, nil},
	{"independent fields", `{a:1 b:1}`, `{a:2 b:1}`, `{a:1 b:2}`, `{a:2 b:2}`, nil},
	{"independent fields of one element", `{name:[{use:a f:1 g:1}]}`, `{name:[{use:a f:2 g:1}]}`,
		`{name:[{use:a f:1 g:2}]}`, `{name:[{f:2 g:2 use:a}]}`, nil},
	{"independent elements", `{l:[{id:a n:1} {id:b n:1}]}`, `{l:[{id:a n:2} {id:b n:1}]}`, `{l:[{id:a n:1} {id:b n:2}]}`,
		`{l:[{id:a n:2} {id:b n:2}]}`, nil},
	{"additions to one list", `{l:[a]}`, `{l:[a b]}`, `{l:[a c]}`, `{l:[a c b]}`, nil},
	{"equal additions to one list", `{l:[a]}`, `{l:[a b {n:1}]}`, `{l:[a b {n:1}]}`, `{l:[a b {n:1}]}`, nil},
	{"twice the same at one", `{l:[a]}`, `{l:[a a]}`, `{l:[a b]}`, `{l:[a a b]}`, nil},
	{"twice the same at both", `{l:[a]}`, `{l:[a a b b]}`, `{l:[a a b b]}`, `{l:[a a b b]}`, nil},
	{"additions of new fields", `{l:1}`, `{l:1 m:1}`, `{l:1 n:1}`, `{l:1 m:1 n:1}`, nil},
	{"kind against edit", `{p:1}`, `{p:{a:1}}`, `{p:2}`, `{p:{a:1}}`, []open{{"p", []string{"{a:1}", "2"}}}},
	{"kind against removal", `{p:1 q:1}`, `{p:{a:1} q:1}`, `{q:1}`, `{p:{a:1} q:1}`, []open{{"p", []string{"{a:1}", "-"}}}},
	{"kind of a map against removal", `{p:{a:1} q:1}`, `{p:1 q:1}`, `{q:1}`, `{p:1 q:1}`, []open{{"p", []string{"1", "-"}}}},
	{"kind to kind", `{p:1}`, `{p:{a:1}}`, `{p:[a]}`, `{p:[a]}`, []open{{"p", []string{"{a:1}", "[a]"}}}},
	{"text by characters", `{t:"one three"}`, `{t:"one two three"}`, `{t:"one three four"}`, `{t:"one two three four"}`, nil},
	{"text against removal", `{t:"one" x:1}`, `{t:"one two" x:1}`, `{x:1}`, `{t:"one two" x:1}`,
		[]open{{"t", []string{`"one two"`, "-"}}}},
	{"text shortened against removal", `{t:"one two" x:1}`, `{t:"one" x:1}`, `{x:1}`, `{t:"one" x:1}`,
		[]open{{"t", []string{`"one"`, "-"}}}},
	{"text created otherwise", `{x:1}`, `{x:1 t:"a"}`, `{x:1 t:"b"}`, `{t:"b" x:1}`, []open{{"t", []string{`"a"`, `"b"`}}}},
	{"text created alike", `{x:1}`, `{x:1 t:"a"}`, `{x:1 t:"a"}`, `{t:"a" x:1}`, nil},
	{"null against a value", `{x:1}`, `{x:null}`, `{x:2}`, `{x:2}`, []open{{"x", []string{"null", "2"}}}},
	{"only one edits", `{x:1}`, `{x:2}`, ``, `{x:2}`, nil},
	{"removed here, elsewhere only another field", `{p:{a:1} q:1}`, `{q:1}`, `{p:{a:1} q:2}`, `{q:2}`, nil},
}

// setUp plays a case up to the meeting.
func (c apart) setUp(t *testing.T, real bool) *world {
	w := newWorld(t, real, 3)
	a, b := w.sites[0], w.sites[1]
	if c.base != "" {
		a.write(parse(c.base))
		b.from(a)
	}
	for i, s := range []string{c.a, c.b} {
		switch s {
		case "":
		case "-":
			w.sites[i].remove()
		default:
			w.sites[i].write(parse(s))
		}
	}
	return w
}

func TestApart(t *testing.T) {
	for _, c := range aparts {
		t.Run(c.name, func(t *testing.T) {
			engines(t, func(t *testing.T, real bool) {
				w := c.setUp(t, real)
				w.meet(rand.New(rand.NewPCG(1, 2)))
				shown := w.sites[2].show()
				if got := text(shown.Value); got != text(parseOr(c.want)) || shown.Removed != (c.want == "") {
					t.Errorf("shown is %s, want %s", describe(shown), c.want)
				}
				if len(shown.Conflicts) != len(c.conflicts) {
					t.Fatalf("conflicts: %s", describe(shown))
				}
				for i, conflict := range shown.Conflicts {
					var sides []string
					for _, side := range conflict.Sides {
						if side.Removed {
							sides = append(sides, "-")
						} else {
							sides = append(sides, text(side.Value))
						}
						if !slices.IsSortedFunc(side.Ops, crdt.OpID.Compare) || len(side.Ops) == 0 {
							t.Errorf("operations of a side: %v", side.Ops)
						}
					}
					slices.Sort(sides)
					want := slices.Sorted(slices.Values(c.conflicts[i].sides))
					if conflict.Path != c.conflicts[i].path || !slices.Equal(sides, want) {
						t.Errorf("conflict %s", describe(shown))
					}
				}
			})
		})
	}
}

func parseOr(s string) crdt.Value {
	if s == "" {
		return crdt.Value{}
	}
	return parse(s)
}

// TestDecided decides each conflict of the table in every way at one site, alike at two apart, and otherwise at two apart.
func TestDecided(t *testing.T) {
	for _, c := range aparts {
		if len(c.conflicts) == 0 {
			continue
		}
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			engines(t, func(t *testing.T, real bool) {
				for x := range 2 {
					w := c.setUp(t, real)
					conflict := w.only()
					w.sites[0].decide(conflict.ID, crdt.ChooseSide(x))
					w.none()
					decided(t, w, conflict, x)

					w = c.setUp(t, real)
					w.only()
					w.sites[0].decide(conflict.ID, crdt.ChooseSide(x))
					w.sites[1].decide(conflict.ID, crdt.ChooseSide(x))
					w.none()
					decided(t, w, conflict, x)

					w = c.setUp(t, real)
					w.only()
					w.sites[0].decide(conflict.ID, crdt.ChooseSide(x))
					w.sites[1].decide(conflict.ID, crdt.ChooseSide(1-x))
					// A list that one decision removed has conflicts in its elements, too.
					w.meet(rand.New(rand.NewPCG(3, 3)))
					renewed := w.sites[0].show().Conflicts[0]
					if renewed.ID == conflict.ID || renewed.Path != conflict.Path {
						t.Fatal("two decisions made apart, and the conflict is the same")
					}
					for _, side := range conflict.Sides {
						if !slices.ContainsFunc(renewed.Sides, func(s crdt.ConflictSide) bool {
							return s.Removed == side.Removed && s.Value.Equal(side.Value)
						}) {
							t.Fatalf("a decision is hidden: %s", describe(w.sites[0].show()))
						}
					}
				}
				w := c.setUp(t, real)
				conflict := w.only()
				if other := conflict.Sides[1-conflict.Shown]; c.conflicts[0].path != "" {
					// Writing something else than is shown decides, too.
					w.sites[0].write(put(w.sites[0].show().Value, conflict.Path, other))
					if left := w.sites[0].show().Conflicts; len(left) > 0 {
						t.Fatalf("written, but open: %s", describe(w.sites[0].show()))
					}
					w.sites[1].decide(conflict.ID, crdt.ChooseSide(conflict.Shown))
					w.meet(rand.New(rand.NewPCG(4, 4)))
					renewed := w.sites[0].show().Conflicts
					if len(renewed) == 0 || renewed[0].Path != conflict.Path {
						t.Fatalf("two decisions, and no conflict: %s", describe(w.sites[0].show()))
					}
				}
				w = c.setUp(t, real)
				conflict = w.only()
				if _, err := crdt.Decide(key, w.sites[0].read(), conflict.ID, crdt.ChooseSide(2)); !errors.Is(err, crdt.ErrChoice) {
					t.Fatalf("side 2 of 2: %v", err)
				}
				w.sites[0].decide(conflict.ID, crdt.ChooseSide(0))
				if _, err := crdt.Decide(key, w.sites[0].read(), conflict.ID, crdt.ChooseSide(0)); !errors.Is(err, crdt.ErrNoConflict) {
					t.Fatalf("decided twice: %v", err)
				}
			})
		})
	}
}

// decided checks that what was chosen is at the path of the conflict.
func decided(t *testing.T, w *world, conflict crdt.Conflict, side int) {
	t.Helper()
	shown := w.sites[2].show()
	chosen := conflict.Sides[side]
	if conflict.Path == "" {
		if shown.Removed != chosen.Removed || !shown.Value.Equal(chosen.Value) {
			t.Fatalf("decided for %s, shown is %s", text(chosen.Value), describe(shown))
		}
		return
	}
	if got := at(shown.Value, conflict.Path); !chosen.Removed && !got.Equal(chosen.Value) || chosen.Removed && got.Kind != 0 {
		t.Fatalf("decided for %s, shown is %s", text(chosen.Value), describe(shown))
	}
}

// at follows a path for people.
func at(v crdt.Value, path string) crdt.Value {
	for path != "" {
		if strings.HasPrefix(path, "[") {
			number, rest, _ := strings.Cut(path[1:], "]")
			i := int(number[0] - '0')
			if i >= len(v.List) {
				return crdt.Value{}
			}
			v, path = v.List[i], strings.TrimPrefix(rest, ".")
			continue
		}
		end := strings.IndexAny(path, ".[")
		if end < 0 {
			end = len(path)
		}
		v, path = v.Map[path[:end]], strings.TrimPrefix(path[end:], ".")
	}
	return v
}

// put returns v with a side at a path for people; a removed one takes it away.
func put(v crdt.Value, path string, side crdt.ConflictSide) crdt.Value {
	if path == "" {
		return side.Value
	}
	if strings.HasPrefix(path, "[") {
		number, rest, _ := strings.Cut(path[1:], "]")
		i := int(number[0] - '0')
		v.List = slices.Clone(v.List)
		if x := put(v.List[i], strings.TrimPrefix(rest, "."), side); x.Kind == 0 {
			v.List = slices.Delete(v.List, i, i+1)
		} else {
			v.List[i] = x
		}
		return v
	}
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	key := path[:end]
	v.Map = maps.Clone(v.Map)
	if x := put(v.Map[key], strings.TrimPrefix(path[end:], "."), side); x.Kind == 0 {
		delete(v.Map, key)
	} else {
		v.Map[key] = x
	}
	return v
}

// Two sites made a resource alike and a third, which saw both as one, has written on in one of the two maps. Who knows only
// his own then replaces a value: in that map it is replaced; in the other, which was removed as a copy, it is a conflict.
func TestReplacedInACopy(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		listed := 0
		for editor := range 2 {
			w := newWorld(t, real, 3)
			for i := range 2 {
				w.sites[i].write(parse(`{a:1 b:1}`))
				w.sites[2].from(w.sites[i])
			}
			w.sites[2].write(parse(`{a:1 b:2}`))
			w.sites[editor].write(parse(`{a:2 b:1}`))
			w.meet(rand.New(rand.NewPCG(1, 2)))
			shown := w.sites[2].show()
			switch len(shown.Conflicts) {
			case 0:
				if got := text(shown.Value); got != `{a:2 b:2}` {
					t.Errorf("shown is %s", describe(shown))
				}
			case 1:
				listed++
				var sides []string
				for _, side := range shown.Conflicts[0].Sides {
					sides = append(sides, text(side.Value))
				}
				if slices.Sort(sides); !slices.Equal(sides, []string{`{a:1 b:2}`, `{a:2 b:1}`}) {
					t.Errorf("the conflict is %s", describe(shown))
				}
			default:
				t.Errorf("shown is %s", describe(shown))
			}
		}
		if listed != 1 {
			t.Errorf("%d of the two replacements are a conflict, of which one was made in the copy", listed)
		}
	})
}
