//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"fmt"
	"testing"

	"chartmesh/crdt"
)

// chart makes n resources of about 25 operations each.
func chart(n int) []crdt.Instruction {
	var steps []crdt.Instruction
	refs := 0
	for i := range n {
		steps = append(steps, set(0, fmt.Sprintf("Observation/%08d", i), a(crdt.Map)))
		refs++
		r := refs
		steps = append(steps, set(r, "resourceType", text("Observation")), set(r, "status", text("final")),
			set(r, "code", opaque(`j{"coding":[{"code":"8302-2","display":"Body Height","system":"http://loinc.org"}]}`)),
			set(r, "subject", opaque(`j{"reference":"Patient/cf3c9f5a-2a11-4e41-9ef8-7b1f1d1a9b01"}`)),
			set(r, "effectiveDateTime", text("2025-03-04T10:11:12+01:00")), set(r, "issued", text("2025-03-04T10:11:12.345+01:00")),
			set(r, "{value[x]", a(crdt.Map)))
		refs++
		steps = append(steps, set(refs, "valueQuantity", opaque(`j{"code":"cm","system":"http://unitsofmeasure.org","unit":"cm","value":171.50}`)))
		for _, list := range []string{"[category", "[component", "[note"} {
			steps = append(steps, set(r, list, a(crdt.List)))
			refs++
			l := refs
			for j := range 2 {
				steps = append(steps, insert(l, j, a(crdt.Map)))
				refs++
				steps = append(steps, set(refs, "id", text(fmt.Sprint(i, j))), set(refs, "text", text("something that was noted")))
			}
		}
	}
	return steps
}

type engines struct {
	name string
	make func(b *testing.B) crdt.Engine
}

var both = []engines{
	{"local", func(*testing.B) crdt.Engine { return NewLocal() }},
	{"supervised", func(b *testing.B) crdt.Engine { return supervised(b, Config{}) }},
}

// BenchmarkChart works on a document of 300 resources of some 27 operations.
func BenchmarkChart(b *testing.B) {
	const n = 300
	steps := chart(n)
	writer := bench{b, NewLocal()}
	writer.load(docA)
	raw := writer.edit(docA, one, steps...)
	saved, err := writer.Save(b.Context(), docA)
	if err != nil {
		b.Fatal(err)
	}
	op := crdt.OpID{Counter: 1, Actor: one}
	small := writer.edit(docA, one, enter(0, "Observation/00000000", op), set(1, "status", text("amended")))
	for _, e := range both {
		b.Run(e.name, func(b *testing.B) {
			x := bench{b, e.make(b)}
			b.Logf("%d operations, change %d bytes, saved %d bytes", len(steps), len(raw), len(saved))
			b.Run("edit/all", func(b *testing.B) {
				for b.Loop() {
					x.load(docB)
					x.edit(docB, one, steps...)
				}
			})
			b.Run("apply/all", func(b *testing.B) {
				for b.Loop() {
					x.load(docB)
					x.apply(docB, raw)
				}
			})
			b.Run("load/saved", func(b *testing.B) {
				for b.Loop() {
					if _, err := x.Load(b.Context(), docB, saved, nil); err != nil {
						b.Fatal(err)
					}
				}
			})
			b.Run("load+apply/one", func(b *testing.B) {
				for b.Loop() {
					if _, err := x.Load(b.Context(), docB, saved, [][]byte{small}); err != nil {
						b.Fatal(err)
					}
				}
			})
			if _, err := x.Load(b.Context(), docB, saved, nil); err != nil {
				b.Fatal(err)
			}
			b.Run("save", func(b *testing.B) {
				for b.Loop() {
					if _, err := x.Save(b.Context(), docB); err != nil {
						b.Fatal(err)
					}
				}
			})
			for name, keys := range map[string][]string{"read/all": nil, "read/one": {"Observation/00000150"}} {
				b.Run(name, func(b *testing.B) {
					for b.Loop() {
						if _, err := x.Read(b.Context(), docB, keys, nil); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
			b.Run("read/one/heads", func(b *testing.B) {
				for b.Loop() {
					if _, err := x.Read(b.Context(), docB, []string{"Observation/00000150"}, []crdt.ChangeHash{hash(raw)}); err != nil {
						b.Fatal(err)
					}
				}
			})
			i := int64(0)
			b.Run("edit/one", func(b *testing.B) {
				for b.Loop() {
					i++
					x.edit(docB, two, enter(0, "Observation/00000000", op), set(1, "status", number(i)))
				}
			})
			b.Run("edit/base", func(b *testing.B) {
				for b.Loop() {
					b.StopTimer()
					if _, err := x.Load(b.Context(), docB, saved, [][]byte{small}); err != nil {
						b.Fatal(err)
					}
					b.StartTimer()
					x.editAt(docB, two, []crdt.ChangeHash{hash(raw)}, enter(0, "Observation/00000000", op), set(1, "status", number(1)))
				}
			})
			b.Run("empty", func(b *testing.B) {
				x.load(docA)
				for b.Loop() {
					x.apply(docA)
				}
			})
			_ = x.Close()
		})
	}
}
