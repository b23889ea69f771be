package crdt_test

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"chartmesh/crdt"
)

// script prints instructions: references as %n, containers by kind.
func script(instructions []crdt.Instruction) string {
	var b strings.Builder
	refs := 0
	for _, i := range instructions {
		place := fmt.Sprintf("%%%d.%s", i.Obj, i.Key)
		if i.Key == "" {
			place = fmt.Sprintf("%%%d[%d]", i.Obj, i.Index)
		}
		value := text(crdt.Value{Kind: i.Value.Kind, Str: i.Value.Str, Int: i.Value.Int})
		yields := i.Do == crdt.Enter
		if i.Value.Kind.Container() {
			value, yields = map[crdt.Kind]string{crdt.Map: "map", crdt.List: "list", crdt.Text: "text"}[i.Value.Kind], true
		}
		line := ""
		switch i.Do {
		case crdt.Enter:
			line = "enter " + place
		case crdt.Set:
			line = "set " + place + " " + value
		case crdt.Insert:
			line = "insert " + place + " " + value
		case crdt.Splice:
			line = fmt.Sprintf("splice %s -%d +%q", place, i.Delete, i.Value.Str)
		}
		if yields {
			refs++
			line += fmt.Sprintf(" = %%%d", refs)
		}
		b.WriteString(line + "\n")
	}
	return b.String()
}

func TestSmallest(t *testing.T) {
	for _, c := range []struct{ name, from, to, want string }{
		{"create", ``, `{a:x l:[p {q:#1}] m:{k:null} t:"ab"}`, `
			set %0.Patient/1 map = %1
			set %1.~v #1
			set %1.a x
			set %1.[l list = %2
			insert %2[0] map = %3
			set %3.~~ p
			insert %2[1] map = %4
			set %4.q #1
			set %1.{m map = %5
			set %5.k null
			set %1."t text = %6
			splice %6[0] -0 +"ab"
			set %1.~"t #1`},
		{"nothing", `{a:x l:[p]}`, `{a:x l:[p]}`, ``},
		{"scalar", `{a:x b:y}`, `{a:z b:y}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			set %1.a z`},
		{"new field", `{a:x}`, `{a:x b:y}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			set %1.b y`},
		{"remove fields", `{a:x b:{c:1} l:[p q] z:1}`, `{z:1}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			set %1.a <>
			enter %1.{b = %2
			set %2.~v #0
			enter %1.[l = %3
			enter %3[0] = %4
			set %4.~v #0
			enter %3[1] = %5
			set %5.~v #0`},
		{"deep", `{a:{b:{c:x d:y}}}`, `{a:{b:{c:z d:y}}}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.{a = %2
			set %2.~v #1
			enter %2.{b = %3
			set %3.~v #1
			set %3.c z`},
		{"element edited", `{l:[p q r]}`, `{l:[p x r]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			enter %2[1] = %3
			set %3.~v #1
			set %3.~~ x`},
		{"elements inserted and removed", `{l:[p q r]}`, `{l:[a b q r c]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			insert %2[0] map = %3
			set %3.~~ a
			insert %2[1] map = %4
			set %4.~~ b
			insert %2[5] map = %5
			set %5.~~ c
			enter %2[2] = %6
			set %6.~v #0`},
		{"element by id", `{l:[{id:a n:1} {id:b n:1}]}`, `{l:[{id:b n:2}]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			enter %2[1] = %3
			set %3.~v #1
			set %3.n 2
			enter %2[0] = %4
			set %4.~v #0`},
		{"element by likeness", `{l:[{system:phone v:1} {system:mail v:1}]}`, `{l:[{system:mail v:2}]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			enter %2[1] = %3
			set %3.~v #1
			set %3.v 2
			enter %2[0] = %4
			set %4.~v #0`},
		{"elements that are not alike", `{l:[{a:1 b:1}]}`, `{l:[{a:2 c:1}]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			insert %2[0] map = %3
			set %3.a 2
			set %3.c 1
			enter %2[1] = %4
			set %4.~v #0`},
		{"moved", `{l:[a b c]}`, `{l:[c a b]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1.[l = %2
			insert %2[0] map = %3
			set %3.~~ c
			enter %2[3] = %4
			set %4.~v #0`},
		{"text", `{t:"one three"}`, `{t:"one two three"}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			enter %1."t = %2
			splice %2[5] -0 +"wo t"
			set %1.~"t #1`},
		{"kind", `{a:x}`, `{a:[y]}`, `
			enter %0.Patient/1 = %1
			set %1.~v #1
			set %1.a <>
			set %1.[a list = %2
			insert %2[0] map = %3
			set %3.~~ y`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newWorld(t, true, 1).sites[0]
			if c.from != "" {
				s.write(parse(c.from))
			}
			got := script(s.write(parse(c.to)))
			want := strings.ReplaceAll(strings.TrimLeft(c.want, "\n\t"), "\t", "")
			if strings.TrimSuffix(got, "\n") != want {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

// TestUsedAgain: what was removed and is wanted again is taken into use again, with the fields that are wanted now. All of
// them are said again, so that they stand against what somebody else wants there meanwhile.
func TestUsedAgain(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		s := newWorld(t, real, 1).sites[0]
		s.write(parse(`{a:{b:1 c:[x]} t:"one"}`))
		s.remove()
		if got := script(s.write(parse(`{a:{b:1 c:[x]} t:"one"}`))); strings.Count(got, "\n") != 10 {
			t.Errorf("restored by\n%s", got)
		}
		s.write(parse(`{z:1}`))
		s.write(parse(`{a:{b:2} t:"one two"}`))
		s.remove()
		s.write(parse(`{a:[1]}`))
		register := s.read()
		if len(register) != 1 {
			t.Errorf("%d containers", len(register))
		}
	})
}

func TestWriteAll(t *testing.T) {
	s := newWorld(t, true, 1).sites[0]
	want := map[string]crdt.Value{
		"Patient/1": parse("{a:1 l:[x {y:1}]}"), "Patient/2": parse("{b:{c:1}}"), "Patient/3": {},
	}
	all := func(want map[string]crdt.Value) {
		t.Helper()
		have := map[string]crdt.Register{}
		for k := range want {
			have[k] = s.readAt(k, nil)
		}
		instructions, err := crdt.WriteAll(have, want)
		s.check(err)
		s.edit(0, nil, instructions)
		for k, v := range want {
			if got := crdt.Show(k, s.readAt(k, nil)); !got.Value.Equal(v) || got.Removed != (got.Exists && v.Kind == 0) {
				t.Fatalf("%s is %s", k, describe(got))
			}
		}
	}
	all(want)
	want["Patient/1"], want["Patient/2"], want["Patient/4"] = parse("{a:2 l:[{y:2}]}"), crdt.Value{}, parse("{n:null}")
	all(want)
}

func TestWriteRefuses(t *testing.T) {
	deep := parse("x")
	for range crdt.MaxDepth {
		deep = crdt.Value{Kind: crdt.List, List: []crdt.Value{deep}}
	}
	for name, v := range map[string]crdt.Value{
		"no map":          parse("[x]"),
		"empty bytes":     {Kind: crdt.Map, Map: map[string]crdt.Value{"a": {Kind: crdt.Bytes}}},
		"unknown kind":    {Kind: crdt.Map, Map: map[string]crdt.Value{"a": {Kind: 99}}},
		"absent in a map": {Kind: crdt.Map, Map: map[string]crdt.Value{"a": {}}},
		"boolean":         {Kind: crdt.Map, Map: map[string]crdt.Value{"a": {Kind: crdt.Bool, Int: 2}}},
		"not UTF-8":       {Kind: crdt.Map, Map: map[string]crdt.Value{"a": {Kind: crdt.String, Str: "\xff"}}},
		"key":             {Kind: crdt.Map, Map: map[string]crdt.Value{strings.Repeat("k", crdt.MaxKeyBytes): parse("x")}},
		"deep":            {Kind: crdt.Map, Map: map[string]crdt.Value{"a": deep}},
	} {
		if _, err := crdt.Write(key, nil, v); err == nil || strings.Contains(err.Error(), "\xff") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestLongLists writes lists that are too long for the table of the longest common subsequence.
func TestLongLists(t *testing.T) {
	s := newWorld(t, true, 1).sites[0]
	v := crdt.Value{Kind: crdt.List}
	for i := range 3000 {
		v.List = append(v.List, crdt.Value{Kind: crdt.String, Str: fmt.Sprint(i)})
	}
	first := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{"l": v}}
	s.write(first)
	second := crdt.Value{Kind: crdt.List, List: append([]crdt.Value{parse("new")}, v.List[1000:]...)}
	second.List = append(second.List, v.List[:500]...)
	n := len(s.write(crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{"l": second}}))
	if n > 3+2+2*1000+2*500 {
		t.Errorf("%d instructions", n)
	}
}

// TestForeignElements: scalars and lists that another writer put into a list directly are shown, and can be edited.
func TestForeignElements(t *testing.T) {
	s := newWorld(t, false, 1).sites[0]
	kind := func(k crdt.Kind) crdt.Scalar { return crdt.Scalar{Kind: k} }
	word := func(s string) crdt.Scalar { return crdt.Scalar{Kind: crdt.String, Str: s} }
	s.edit(0, nil, []crdt.Instruction{
		{Do: crdt.Set, Key: key, Value: kind(crdt.Map)},
		{Do: crdt.Set, Obj: 1, Key: "[l", Value: kind(crdt.List)},
		{Do: crdt.Insert, Obj: 2, Value: word("p")},
		{Do: crdt.Insert, Obj: 2, Index: 1, Value: word("q")},
		{Do: crdt.Insert, Obj: 2, Index: 2, Value: kind(crdt.List)},
		{Do: crdt.Insert, Obj: 3, Value: word("r")},
	})
	if got := text(s.show().Value); got != "{l:[p q [r]]}" {
		t.Fatal(got)
	}
	for _, v := range []string{"{l:[p z [r]]}", "{l:[z p [r]]}", "{l:[p [r s]]}", "{x:1}", "{l:[p]}"} {
		s.write(parse(v))
	}
}

// TestRestate: what is said again stands against its removal elsewhere; what is only wanted as it is does not.
func TestRestate(t *testing.T) {
	engines(t, func(t *testing.T, real bool) {
		for _, said := range []bool{true, false} {
			w := newWorld(t, real, 3)
			a, b := w.sites[0], w.sites[1]
			a.write(parse(`{l:[x {y:1}] n:1 t:"one"}`))
			b.from(a)
			instructions, err := crdt.Restate(map[string]crdt.Register{key: a.read()}, map[string]crdt.Value{key: a.show().Value},
				map[string]bool{key: said})
			a.check(err)
			a.edit(0, nil, instructions)
			b.write(parse(`{l:[x]}`))
			w.meet(rand.New(rand.NewPCG(1, 2)))
			var paths []string
			for _, c := range w.sites[2].show().Conflicts {
				paths = append(paths, c.Path)
			}
			if got := strings.Join(paths, " "); said && got != "l[1] n t" || !said && got != "" {
				t.Errorf("said again %v: conflicts at %q in %s", said, got, describe(w.sites[2].show()))
			}
		}
	})
}
