package crdt

import "testing"

func TestOnto(t *testing.T) {
	m := func(kv ...any) Value {
		v := Value{Kind: Map, Map: map[string]Value{}}
		for i := 0; i < len(kv); i += 2 {
			v.Map[kv[i].(string)] = kv[i+1].(Value)
		}
		return v
	}
	s := func(x string) Value { return Value{Kind: String, Str: x} }
	l := func(vs ...Value) Value { return Value{Kind: List, List: vs} }
	for name, x := range map[string]struct{ base, before, after, want Value }{
		"what is left alone stays": {
			m("a", s("73"), "b", s("x")), m("a", s("84"), "b", s("x")), m("a", s("84"), "b", s("y")), m("a", s("73"), "b", s("y")),
		},
		"what does not stand is not brought along": {
			m("b", s("x")), m("a", s("84"), "b", s("x")), m("a", s("84"), "b", s("y")), m("b", s("y")),
		},
		"what is not known stays": {
			m("a", s("1"), "c", s("other")), m("a", s("1")), m("a", s("2")), m("a", s("2"), "c", s("other")),
		},
		"what is removed goes": {
			m("a", s("73"), "b", s("x")), m("a", s("84"), "b", s("x")), m("b", s("x")), m("b", s("x")),
		},
		"what is added comes": {m(), m(), m("a", m("b", s("1"))), m("a", m("b", s("1")))},
		"an edit in what is not there brings all of it": {
			m(), m("a", m("b", s("1"), "c", s("2"))), m("a", m("b", s("1"), "c", s("3"))), m("a", m("b", s("1"), "c", s("3"))),
		},
		"another kind": {m("a", s("1")), m("a", m("b", s("1"))), m("a", m("b", s("2"))), m("a", m("b", s("2")))},
		"elements that are left alone": {
			m("l", l(m("id", s("1"), "x", s("73")), m("id", s("2"), "x", s("old")))),
			m("l", l(m("id", s("1"), "x", s("84")), m("id", s("2"), "x", s("old")))),
			m("l", l(m("id", s("1"), "x", s("84")), m("id", s("2"), "x", s("new")), m("id", s("3")))),
			m("l", l(m("id", s("1"), "x", s("73")), m("id", s("2"), "x", s("new")), m("id", s("3")))),
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Onto(Shown{Value: x.base}, Shown{Value: x.before}, x.after); !got.Equal(x.want) {
				t.Errorf("%+v instead of %+v", got, x.want)
			}
			if got := Onto(Shown{Value: x.before}, Shown{Value: x.before}, x.after); !got.Equal(x.after) {
				t.Errorf("on what its author saw: %+v instead of %+v", got, x.after)
			}
		})
	}

	base, before, after := m("a", m("b", s("1"), "c", s("2"))), m("a", m("b", s("3"), "c", s("4"))), m("a", m("b", s("3"), "c", s("5")))
	for path, want := range map[string]Value{"": after, "a": after, "a.b": m("a", m("b", s("1"), "c", s("5"))), "d": m("a", m("b", s("1"), "c", s("5")))} {
		if got := Onto(Shown{Value: base, Conflicts: []Conflict{{Path: path}}}, Shown{Value: before}, after); !got.Equal(want) {
			t.Errorf("contested at %q: %+v", path, got)
		}
	}

	// Its author settled what is contested around, and left alone what is contested within.
	base = m("gender", s("73"), "status", s("old"), "other", s("theirs"))
	before, after = m("gender", s("84"), "status", s("old")), m("gender", s("84"), "status", s("new"))
	side := func(v Value) ConflictSide { return ConflictSide{Value: v} }
	for name, x := range map[string]struct {
		here, there []ConflictSide // of conflicts where it is written, and for its author
		want        string
	}{
		"there is none":    {nil, nil, "84"},
		"both are here":    {[]ConflictSide{side(s("73")), side(s("84"))}, nil, "73"},
		"another is here":  {[]ConflictSide{side(s("73")), side(s("95"))}, nil, "73"},
		"both are there":   {nil, []ConflictSide{side(s("73")), side(s("84"))}, "73"},
		"another is there": {nil, []ConflictSide{side(s("84")), side(s("95"))}, "73"},
		// The one that would be written over has not been seen by anybody who decided.
		"one side is hidden here and there": {[]ConflictSide{side(s("73")), side(s("95"))}, []ConflictSide{side(s("84")), side(s("95"))}, "73"},
	} {
		at := func(sides []ConflictSide) (list []Conflict) {
			if sides != nil {
				list = append(list, Conflict{Path: "gender", Sides: sides})
			}
			return list
		}
		got := Onto(Shown{Value: base, Conflicts: append([]Conflict{{Path: ""}}, at(x.here)...)}, Shown{Value: before, Conflicts: at(x.there)}, after)
		if want := m("gender", s(x.want), "status", s("new")); !got.Equal(want) {
			t.Errorf("a conflict within of which %s: %+v", name, got)
		}
	}
}
