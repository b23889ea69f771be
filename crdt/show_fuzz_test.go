package crdt_test

import (
	"math/rand/v2"
	"testing"

	"chartmesh/crdt"
)

// FuzzShow reads registers that no writer of ours makes: whatever an engine returns, showing, writing and deciding end
// without a panic, and two readings are the same.
func FuzzShow(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 7))
	for range 200 {
		seed := make([]byte, 40+r.IntN(200))
		for i := range seed {
			seed[i] = byte(r.Uint32())
		}
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s := &source{data: data}
		register := s.register(0)
		shown := crdt.Show(key, register)
		if again := describe(crdt.Show(key, register)); again != describe(shown) {
			t.Fatalf("%s\nand then\n%s", describe(shown), again)
		}
		for _, want := range []string{"{}", "{x:1}", "{x:[1 {y:2}]}", `{x:{y:"text"} y:"t"}`} {
			instructions, err := crdt.Write(key, register, parse(want))
			if err != nil {
				t.Fatal(err)
			}
			sound(t, instructions)
		}
		if _, err := crdt.Remove(key, register); err != nil {
			t.Fatal(err)
		}
		for _, c := range shown.Conflicts {
			if c.Shown < 0 || c.Shown >= len(c.Sides) || c.Sides[c.Shown].Removed {
				t.Fatalf("side %d is shown: %s", c.Shown, describe(shown))
			}
			for i := range c.Sides {
				instructions, err := crdt.Decide(key, register, c.ID, crdt.ChooseSide(i))
				if err == nil && len(instructions) == 0 {
					t.Fatal("decided without a trace")
				}
				sound(t, instructions)
			}
		}
	})
}

// source makes a register of bytes.
type source struct {
	data []byte
	ops  uint64
}

func (s *source) next(n int) int {
	if len(s.data) == 0 {
		return 0
	}
	b := s.data[0]
	s.data = s.data[1:]
	return int(b) % n
}

func (s *source) register(depth int) (r crdt.Register) {
	kinds := []crdt.Kind{crdt.Map, crdt.List, crdt.Text, crdt.String, crdt.Int, crdt.Bytes, crdt.Null, crdt.Bool}
	for range 1 + s.next(3)*s.next(2) {
		s.ops++
		a := crdt.Alternative{Op: crdt.OpID{Counter: s.ops, Actor: crdt.Actor{byte(s.next(3))}}}
		a.Kind = kinds[s.next(len(kinds))]
		if depth == 0 {
			a.Kind = crdt.Map
		} else if depth > 4 && a.Kind.Container() {
			a.Kind = crdt.Int
		}
		switch a.Kind {
		case crdt.Map:
			keys := []string{"~v", "x", "{x", "[x", `"x`, `~"x`, "y", "{y", "[y", `~~"x`, "~", "~~", "~q", ""}
			for _, k := range keys {
				if len(s.data) > 0 && s.next(3) == 0 {
					a.Map = append(a.Map, crdt.Field{Key: k, Values: s.register(depth + 1)})
				}
			}
		case crdt.List:
			for range s.next(4) {
				a.List = append(a.List, s.register(depth+1))
			}
		case crdt.Text, crdt.String, crdt.Bytes:
			a.Str = []string{"", "a", "b", "1@00000000000000000000000000000000"}[s.next(4)]
		case crdt.Int, crdt.Bool:
			a.Int = int64(s.next(2))
		}
		r = append(r, a)
	}
	return r
}
