//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"

	"chartmesh/crdt"
)

// A world is some replicas of one document that edit at random and exchange changes at random.
type world struct {
	bench
	rand     *rand.Rand
	replicas []*replica
	changes  map[crdt.ChangeHash]*made
	order    []crdt.ChangeHash
}

type replica struct {
	id    crdt.DocumentID
	actor crdt.Actor
	heads []crdt.ChangeHash
	has   map[crdt.ChangeHash]bool
}

// made is a change and the document as its author saw it right afterwards.
type made struct {
	raw  []byte
	deps []crdt.ChangeHash
	then []crdt.Field
}

func newWorld(b bench, seed uint64, n int) *world {
	w := &world{bench: b, rand: rand.New(rand.NewPCG(seed, 0)), changes: map[crdt.ChangeHash]*made{}}
	for i := range n {
		r := &replica{id: crdt.DocumentID{0xF0, byte(i)}, actor: crdt.Actor{byte(i + 1)}, has: map[crdt.ChangeHash]bool{}}
		b.load(r.id)
		w.replicas = append(w.replicas, r)
	}
	return w
}

func (w *world) fields(id crdt.DocumentID, heads []crdt.ChangeHash) []crdt.Field {
	w.Helper()
	f, err := w.Read(context.Background(), id, nil, heads)
	if err != nil {
		w.Fatalf("read: %v", err)
	}
	return f
}

func (w *world) step() {
	r := w.replicas[w.rand.IntN(len(w.replicas))]
	if w.rand.IntN(3) == 0 {
		w.exchange(w.replicas[w.rand.IntN(len(w.replicas))], r)
		return
	}
	e := crdt.Edit{Actor: r.actor, TimeMillis: int64(len(w.order)) * 1000, Instructions: w.instructions(w.fields(r.id, nil))}
	raw, s, err := w.Edit(context.Background(), r.id, e)
	if err != nil {
		w.Fatalf("edit: %v", err)
	}
	h := hash(raw)
	w.changes[h] = &made{raw, r.heads, w.fields(r.id, nil)}
	w.order = append(w.order, h)
	r.heads = s.Heads
	r.has[h] = true
}

// exchange brings to what from has.
func (w *world) exchange(from, to *replica) {
	var missing [][]byte
	for _, h := range w.order {
		if from.has[h] && !to.has[h] {
			missing = append(missing, w.changes[h].raw)
			to.has[h] = true
		}
	}
	to.heads = w.apply(to.id, missing...)
}

// instructions makes a random way into the document as it is, and something at its end.
func (w *world) instructions(root []crdt.Field) []crdt.Instruction {
	g := &steps{rand: w.rand}
	g.inMap(0, root, 0)
	return g.out
}

type steps struct {
	rand *rand.Rand
	out  []crdt.Instruction
	refs int
}

func (g *steps) add(in crdt.Instruction) { g.out = append(g.out, in) }

func (g *steps) scalar() crdt.Scalar {
	return []crdt.Scalar{text(string(rune('a' + g.rand.IntN(3)))), number(int64(g.rand.IntN(2))), opaque(""), truth(true), a(crdt.Null)}[g.rand.IntN(5)]
}

func (g *steps) inMap(obj int, fields []crdt.Field, depth int) {
	for _, f := range fields {
		a := f.Values[g.rand.IntN(len(f.Values))]
		if a.Kind.Container() && g.rand.IntN(2) == 0 {
			g.add(enter(obj, f.Key, a.Op))
			g.refs++
			g.inside(g.refs, a, depth+1)
			return
		}
	}
	g.fresh(func(v crdt.Scalar) crdt.Instruction {
		prefix := map[crdt.Kind]string{crdt.Map: "{", crdt.List: "[", crdt.Text: "\""}[v.Kind]
		return set(obj, prefix+string(rune('p'+g.rand.IntN(3))), v)
	}, depth)
}

func (g *steps) inside(ref int, a crdt.Alternative, depth int) {
	switch a.Kind {
	case crdt.Map:
		g.inMap(ref, a.Map, depth)
	case crdt.List:
		g.inList(ref, a.List, depth)
	case crdt.Text:
		n := len([]rune(a.Str))
		at := g.rand.IntN(n + 1)
		g.add(splice(ref, at, g.rand.IntN(n-at+1), string([]rune("xyé😀")[g.rand.IntN(4)])))
	}
}

func (g *steps) inList(ref int, list []crdt.Register, depth int) {
	if len(list) > 0 && g.rand.IntN(2) == 0 {
		i := g.rand.IntN(len(list))
		a := list[i][g.rand.IntN(len(list[i]))]
		if a.Kind.Container() {
			g.add(enterAt(ref, i, a.Op))
			g.refs++
			g.inside(g.refs, a, depth+1)
			return
		}
		g.add(put(ref, i, g.scalar()))
		return
	}
	i := g.rand.IntN(len(list) + 1)
	g.fresh(func(v crdt.Scalar) crdt.Instruction { return insert(ref, i, v) }, depth)
}

// fresh writes a scalar or a new container with something in it.
func (g *steps) fresh(write func(crdt.Scalar) crdt.Instruction, depth int) {
	kind := crdt.Kind(1 + g.rand.IntN(8))
	if !kind.Container() || depth > 4 {
		g.add(write(g.scalar()))
		return
	}
	g.add(write(a(kind)))
	g.refs++
	g.inside(g.refs, crdt.Alternative{Scalar: a(kind)}, depth+1)
}

func seeds(t *testing.T, n uint64) []uint64 {
	if os.Getenv("HEAVY") != "" {
		n *= 40
	}
	s := make([]uint64, n)
	for i := range s {
		s[i] = uint64(i)
	}
	return s
}

// Replicas that hold the same changes read the same, however they came; a document read at the heads of any past moment
// is the document of that moment; and an edit at past heads is the very change that its author would have made then.
func TestRandomHistories(t *testing.T) {
	for _, seed := range seeds(t, 15) {
		b := bench{t, NewLocal()}
		w := newWorld(b, seed, 3)
		for range 80 {
			w.step()
		}
		for _, to := range w.replicas {
			for _, from := range w.replicas {
				w.exchange(from, to)
			}
		}
		now := w.fields(w.replicas[0].id, nil)
		for _, r := range w.replicas[1:] {
			if !reflect.DeepEqual(w.fields(r.id, nil), now) || !slices.Equal(r.heads, w.replicas[0].heads) {
				t.Fatalf("seed %d: replicas differ:\n%s\n%s", seed, show(now), show(w.fields(r.id, nil)))
			}
		}
		for _, h := range w.order {
			m := w.changes[h]
			if got := w.fields(w.replicas[0].id, []crdt.ChangeHash{h}); !reflect.DeepEqual(got, m.then) {
				t.Fatalf("seed %d: read at %v:\ngot  %s\nwant %s", seed, h, show(got), show(m.then))
			}
			// Chosen keys take another way to the same, in the order asked for.
			var keys []string
			for _, f := range slices.Backward(now) {
				keys = append(keys, f.Key)
			}
			got, err := w.Read(t.Context(), w.replicas[0].id, keys, []crdt.ChangeHash{h})
			slices.Reverse(got)
			if err != nil || !reflect.DeepEqual(got, m.then) {
				t.Fatalf("seed %d: read keys at %v: %v\ngot  %s\nwant %s", seed, h, err, show(got), show(m.then))
			}
		}
		w.checkBases(seed)
		_ = b.Close()
		if t.Failed() {
			t.Fatalf("seed %d; rerun: go test ./crdt/engine -run TestRandomHistories", seed)
		}
	}
}

// checkBases edits at random old heads, in the whole document and in one that holds their ancestors alone.
func (w *world) checkBases(seed uint64) {
	for range 10 {
		var base []crdt.ChangeHash
		for range 1 + w.rand.IntN(2) {
			base = append(base, w.order[w.rand.IntN(len(w.order))])
		}
		ancestors := map[crdt.ChangeHash]bool{}
		var visit func(crdt.ChangeHash)
		visit = func(h crdt.ChangeHash) {
			if !ancestors[h] {
				ancestors[h] = true
				for _, d := range w.changes[h].deps {
					visit(d)
				}
			}
		}
		for _, h := range base {
			visit(h)
		}
		var only [][]byte
		for _, h := range w.order {
			if ancestors[h] {
				only = append(only, w.changes[h].raw)
			}
		}
		heads := w.load(docA, only...)
		e := crdt.Edit{Actor: crdt.Actor{0xEE}, Base: heads, Instructions: w.instructions(w.fields(docA, nil))}
		whole := w.replicas[0]
		late, _, err := w.Edit(context.Background(), whole.id, e)
		if err != nil {
			w.Fatalf("seed %d: edit at %v: %v", seed, heads, err)
		}
		e.Base = nil
		then, _, err := w.Edit(context.Background(), docA, e)
		if err != nil {
			w.Fatalf("seed %d: %v", seed, err)
		}
		if !bytes.Equal(late, then) {
			w.Errorf("seed %d: the change at %v is not the one made then:\n%x\n%x", seed, heads, late, then)
		}
		h := hash(then)
		m := &made{then, heads, w.fields(docA, nil)}
		if got := w.fields(whole.id, []crdt.ChangeHash{h}); !reflect.DeepEqual(got, m.then) {
			w.Errorf("seed %d: after the edit at %v:\ngot  %s\nwant %s", seed, heads, show(got), show(m.then))
		}
		w.load(whole.id, w.raws()...) // without the late edit, so that its actor may write again
	}
}

func (w *world) raws() [][]byte {
	var all [][]byte
	for _, h := range w.order {
		all = append(all, w.changes[h].raw)
	}
	return all
}
