package crdt_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/crdt"
	"chartmesh/crdt/engine"
)

// world is a document at several sites, and all changes made to it.
type world struct {
	t     testing.TB
	real  bool // Automerge, and not its twin; then every change passes the validator too
	doc   crdt.DocumentID
	made  []made
	sites []*site
}

type made struct {
	raw  []byte
	hash crdt.ChangeHash
	deps []crdt.ChangeHash
}

type site struct {
	*world
	number int
	engine crdt.Engine
	index  *crdt.Index
	has    map[crdt.ChangeHash]bool
	heads  []crdt.ChangeHash
}

// engines runs a test against Automerge and against its twin.
func engines(t *testing.T, test func(t *testing.T, real bool)) {
	t.Run("twin", func(t *testing.T) { test(t, false) })
	t.Run("automerge", func(t *testing.T) { test(t, true) })
}

func newWorld(t testing.TB, real bool, sites int) *world {
	w := &world{t: t, real: real, doc: crdt.DocumentID{1}}
	for i := range sites {
		s := &site{world: w, number: i, has: map[crdt.ChangeHash]bool{}, index: crdt.NewIndex(w.doc)}
		if real {
			s.engine = engine.NewLocal()
		} else {
			s.engine = newTwin()
		}
		t.Cleanup(func() { _ = s.engine.Close() })
		if _, err := s.engine.Load(context.Background(), w.doc, nil, nil); err != nil {
			t.Fatal(err)
		}
		w.sites = append(w.sites, s)
	}
	return w
}

func (w *world) check(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// edit makes a change, after base or after all that the site has.
func (s *site) edit(branch byte, base []crdt.ChangeHash, instructions []crdt.Instruction) {
	s.t.Helper()
	sound(s.t, instructions)
	if len(instructions) == 0 {
		return
	}
	raw, state, err := s.engine.Edit(context.Background(), s.doc, crdt.Edit{
		Actor: crdt.Actor{byte(s.number + 1), branch, 7}, Base: base, Instructions: instructions,
	})
	s.check(err)
	m := made{raw: slices.Clone(raw)}
	if s.real {
		c, err := crdt.Decode(m.raw)
		s.check(err)
		m.hash, m.deps = c.Hash, c.Deps
	} else {
		m.hash, m.deps = sha256.Sum256(m.raw), decodeTwin(m.raw).Deps
	}
	s.made = append(s.made, m)
	s.judge(m)
	s.has[m.hash], s.heads = true, state.Heads
}

// judge holds a change against the validator.
func (s *site) judge(m made) {
	s.t.Helper()
	if !s.real {
		return
	}
	c, err := crdt.Decode(m.raw)
	s.check(err)
	r, err := s.index.Judge(c)
	s.check(err)
	s.check(s.index.Add(r))
}

// sound checks what holds for every list of instructions.
func sound(t testing.TB, instructions []crdt.Instruction) {
	t.Helper()
	for _, i := range instructions {
		if i.Do == crdt.Set && i.Value.Kind.Container() && i.Key == "" {
			t.Fatalf("a list's element is overwritten by a container: %+v", i)
		}
		if i.Do == crdt.Splice && i.Delete == 0 && i.Value.Str == "" {
			t.Fatalf("a splice does nothing: %+v", i)
		}
	}
}

func (s *site) pull(m made) {
	s.t.Helper()
	if s.has[m.hash] {
		return
	}
	s.judge(m)
	state, err := s.engine.Apply(context.Background(), s.doc, [][]byte{m.raw})
	s.check(err)
	s.has[m.hash], s.heads = true, state.Heads
}

// from brings all that another site has.
func (s *site) from(other *site) {
	s.t.Helper()
	for _, m := range s.made {
		if other.has[m.hash] {
			s.pull(m)
		}
	}
}

// meet brings all sites to the same state, each in an order of its own, and checks that they show the same.
func (w *world) meet(r *rand.Rand) {
	w.t.Helper()
	for _, s := range w.sites {
		for len(s.has) < len(w.made) {
			var ready []made
			for _, m := range w.made {
				if !s.has[m.hash] && !slices.ContainsFunc(m.deps, func(h crdt.ChangeHash) bool { return !s.has[h] }) {
					ready = append(ready, m)
				}
			}
			s.pull(ready[r.IntN(len(ready))])
		}
	}
	first := w.sites[0].all()
	for _, s := range w.sites[1:] {
		if other := s.all(); other != first {
			w.t.Fatalf("sites differ\n%s\n---\n%s", first, other)
		}
	}
}

// all prints everything that a site shows.
func (s *site) all() string {
	s.t.Helper()
	fields, err := s.engine.Read(context.Background(), s.doc, nil, nil)
	s.check(err)
	var b strings.Builder
	for _, f := range fields {
		fmt.Fprintf(&b, "%s: %s\n", f.Key, describe(crdt.Show(f.Key, f.Values)))
	}
	return b.String()
}

func describe(shown crdt.Shown) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s removed=%v", text(shown.Value), shown.Removed)
	for _, c := range shown.Conflicts {
		fmt.Fprintf(&b, "\n  %v %s shown=%d", c.ID, c.Path, c.Shown)
		for _, side := range c.Sides {
			fmt.Fprintf(&b, "\n    %s removed=%v %v", text(side.Value), side.Removed, side.Ops)
		}
	}
	return b.String()
}

const key = "Patient/1"

func (s *site) readAt(key string, heads []crdt.ChangeHash) crdt.Register {
	s.t.Helper()
	fields, err := s.engine.Read(context.Background(), s.doc, []string{key}, heads)
	s.check(err)
	if len(fields) == 0 {
		return nil
	}
	return fields[0].Values
}

func (s *site) read() crdt.Register { s.t.Helper(); return s.readAt(key, nil) }

func (s *site) show() crdt.Shown { s.t.Helper(); return crdt.Show(key, s.read()) }

// write writes, and checks that exactly that is shown then.
func (s *site) write(want crdt.Value) []crdt.Instruction {
	s.t.Helper()
	before := s.read()
	instructions, err := crdt.Write(key, before, want)
	s.check(err)
	s.edit(0, nil, instructions)
	if got := s.show(); !got.Exists || got.Removed || !got.Value.Equal(want) {
		s.t.Fatalf("wrote %s, shown is %s\nbefore %+v\ninstructions %+v", text(want), describe(got), before, instructions)
	}
	return instructions
}

func (s *site) remove() {
	s.t.Helper()
	instructions, err := crdt.Remove(key, s.read())
	s.check(err)
	s.edit(0, nil, instructions)
	if got := s.show(); !got.Removed || len(got.Conflicts) > 0 {
		s.t.Fatalf("removed, shown is %s", describe(got))
	}
}

// decide decides a conflict, and checks that it is gone and what is shown then.
func (s *site) decide(id crdt.ConflictID, choice crdt.Choice) {
	s.t.Helper()
	before := s.read()
	instructions, err := crdt.Decide(key, before, id, choice)
	s.check(err)
	if len(instructions) == 0 {
		s.t.Fatal("a decision without a trace")
	}
	s.edit(0, nil, instructions)
	for _, c := range s.show().Conflicts {
		if c.ID == id {
			s.t.Fatalf("decided, but open: %s\nbefore %s", describe(s.show()), describe(crdt.Show(key, before)))
		}
	}
}

// only returns the only conflict, which is alike at all sites.
func (w *world) only() crdt.Conflict {
	w.t.Helper()
	w.meet(rand.New(rand.NewPCG(1, 1)))
	shown := w.sites[0].show()
	if len(shown.Conflicts) != 1 {
		w.t.Fatalf("%d conflicts instead of one: %s", len(shown.Conflicts), describe(shown))
	}
	return shown.Conflicts[0]
}

// none checks that the sites meet without a conflict and returns what they show.
func (w *world) none() crdt.Shown {
	w.t.Helper()
	w.meet(rand.New(rand.NewPCG(2, 2)))
	shown := w.sites[0].show()
	if len(shown.Conflicts) != 0 {
		w.t.Fatalf("conflicts: %s", describe(shown))
	}
	return shown
}

// text prints a value briefly: maps as {k:v}, lists as [v], atoms as <v>, texts as "v", removed as nothing.
func text(v crdt.Value) string {
	var parts []string
	switch v.Kind {
	case crdt.Map:
		for k, x := range v.Map {
			parts = append(parts, k+":"+text(x))
		}
		slices.Sort(parts)
		return "{" + strings.Join(parts, " ") + "}"
	case crdt.List:
		for _, x := range v.List {
			parts = append(parts, text(x))
		}
		return "[" + strings.Join(parts, " ") + "]"
	case crdt.Text:
		return fmt.Sprintf("%q", v.Str)
	case crdt.Bytes:
		return "<" + v.Str + ">"
	case crdt.String:
		return v.Str
	case crdt.Int:
		return fmt.Sprintf("#%d", v.Int)
	case crdt.Bool:
		return fmt.Sprint(v.Int == 1)
	case crdt.Null:
		return "null"
	}
	return ""
}

// parse reads what text prints: {a:1 b:[x y] t:"text" q:<atom> n:#5 z:null}.
func parse(s string) crdt.Value {
	v, rest := parseValue(s)
	if rest != "" {
		panic("left over in " + s + ": " + rest)
	}
	return v
}

func parseValue(s string) (crdt.Value, string) {
	switch {
	case s[0] == '{':
		v := crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{}}
		for s = s[1:]; s[0] != '}'; s = strings.TrimPrefix(s, " ") {
			k, rest, _ := strings.Cut(s, ":")
			v.Map[k], s = parseValue(rest)
		}
		return v, s[1:]
	case s[0] == '[':
		v := crdt.Value{Kind: crdt.List}
		for s = s[1:]; s[0] != ']'; s = strings.TrimPrefix(s, " ") {
			var x crdt.Value
			x, s = parseValue(s)
			v.List = append(v.List, x)
		}
		return v, s[1:]
	case s[0] == '"':
		str, rest, _ := strings.Cut(s[1:], `"`)
		return crdt.Value{Kind: crdt.Text, Str: str}, rest
	case s[0] == '<':
		str, rest, _ := strings.Cut(s[1:], ">")
		return crdt.Value{Kind: crdt.Bytes, Str: str}, rest
	}
	end := strings.IndexAny(s, " ]}")
	if end < 0 {
		end = len(s)
	}
	word, rest := s[:end], s[end:]
	switch {
	case word == "null":
		return crdt.Value{Kind: crdt.Null}, rest
	case word == "true" || word == "false":
		return crdt.Value{Kind: crdt.Bool, Int: int64(len(word)&1 ^ 1)}, rest
	case word[0] == '#':
		var n int64
		if _, err := fmt.Sscan(word[1:], &n); err != nil {
			panic(err)
		}
		return crdt.Value{Kind: crdt.Int, Int: n}, rest
	}
	return crdt.Value{Kind: crdt.String, Str: word}, rest
}
