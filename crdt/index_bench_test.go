package crdt

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"testing"
)

// bundle is a change that makes n resources of some 25 operations each, as an import does.
func bundle(n int) *Change {
	c := newChange(1, 1, 1, nil)
	kinds := []string{"Observation", "Encounter", "Condition", "MedicationRequest", "Claim"}
	add := func(op Op) OpID {
		c.Ops = append(c.Ops, op)
		return c.ID(len(c.Ops) - 1)
	}
	for i := range n {
		sum := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		kind := kinds[i%len(kinds)]
		r := add(makeAt(OpID{}, kind+"/"+unpackUUID([16]byte(sum[:])), Map))
		add(put(r, "resourceType", text(kind)))
		add(put(r, "status", text("final")))
		for k := range 8 {
			add(put(r, fmt.Sprint(kind, "Field", k), opaque(fmt.Sprintf(`j{"reference":"Patient/%x"}`, sum[k:k+8]))))
		}
		for k := range 3 {
			list := add(makeAt(r, fmt.Sprint("[", kind, "List", k), List))
			elem := add(insert(list, OpID{}, kindOnly(Map)))
			add(put(elem, "code", opaque(`j{"system":"http://loinc.org","code":"8302-2"}`)))
			add(put(elem, "text", text(fmt.Sprintf("finding %x", sum[:6]))))
		}
		meta := add(makeAt(r, "{meta", Map))
		add(put(meta, "profile", text("http://hl7.org/fhir/StructureDefinition/"+kind)))
	}
	return c
}

func TestRecordIsSmall(t *testing.T) {
	c := bundle(300)
	raw := encodeChange(c)
	record := judged(t, NewIndex(DocumentID{}), c)
	saved, err := record.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d operations, %d bytes, record %d bytes", len(c.Ops), len(raw), len(saved))
	if len(saved) > 32<<10 {
		t.Errorf("a record of %d operations takes %d bytes", len(c.Ops), len(saved))
	}
}

func BenchmarkDecode(b *testing.B) {
	raw := encodeChange(bundle(300))
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	ops := 0
	for b.Loop() {
		c, err := Decode(raw)
		if err != nil {
			b.Fatal(err)
		}
		ops += len(c.Ops)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(ops), "ns/operation")
}

func BenchmarkJudge(b *testing.B) {
	raw := encodeChange(bundle(300))
	c, err := Decode(raw)
	if err != nil {
		b.Fatal(err)
	}
	x := NewIndex(DocumentID{})
	b.SetBytes(int64(len(raw)))
	b.ReportAllocs()
	ops := 0
	for b.Loop() {
		if _, err := x.Judge(c); err != nil {
			b.Fatal(err)
		}
		ops += len(c.Ops)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(ops), "ns/operation")
}

// BenchmarkEdit decodes and judges one small edit of a document that holds an import and a long history.
func BenchmarkEdit(b *testing.B) {
	x := NewIndex(DocumentID{})
	first := bundle(300)
	deps := []ChangeHash{added(b, x, first)}
	obj := first.ID(0)
	next := func(i int) *Change {
		return newChange(2, uint64(i+1), uint64(len(first.Ops)+2*i+1), deps,
			put(obj, "status", text(fmt.Sprint(i))), put(obj, liveKey, number(1)))
	}
	for i := range 1000 {
		deps = []ChangeHash{added(b, x, next(i))}
	}
	raw := encodeChange(next(1000))
	b.ReportAllocs()
	for b.Loop() {
		c, err := Decode(raw)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := x.Judge(c); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkHistory adds n changes and asks for ancestors, to show that neither grows with the square.
func benchmarkHistory(b *testing.B, n, writers int, merge bool) {
	records := make([]Record, n)
	x := NewIndex(DocumentID{})
	rng := rand.New(rand.NewPCG(1, 1))
	last := make([]ChangeHash, writers)
	seqs := make([]uint64, writers)
	var end uint64
	for i := range records {
		w := rng.IntN(writers)
		r := Record{Seq: seqs[w] + 1, StartOp: end + 1, Count: 1, Keys: []string{"Patient/1"},
			objects: []object{{}}, foreign: 1, rows: []row{{kind: rowMakeMap}}}
		r.Hash = sha256.Sum256(fmt.Append(nil, i))
		r.Actor[0], r.Actor[1] = byte(w), byte(w>>8)
		if merge {
			r.Deps = x.Heads()
		} else if seqs[w] > 0 {
			r.Deps = []ChangeHash{last[w]}
			if i%10 == 0 {
				r.Deps = x.HeadsOf([]ChangeHash{last[w], last[rng.IntN(writers)]}) // the other may have written nothing
			}
		}
		if err := x.Add(r); err != nil {
			b.Fatal(err)
		}
		records[i], last[w], seqs[w], end = r, r.Hash, r.Seq, r.StartOp
	}
	b.ReportAllocs()
	for b.Loop() {
		y := NewIndex(DocumentID{})
		for i, r := range records {
			if err := y.Add(r); err != nil {
				b.Fatal(err)
			}
			y.IsAncestor(records[i/2].Hash, y.Heads())
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/change")
}

func BenchmarkHistorySequential1000(b *testing.B)   { benchmarkHistory(b, 1_000, 3, true) }
func BenchmarkHistorySequential10000(b *testing.B)  { benchmarkHistory(b, 10_000, 3, true) }
func BenchmarkHistoryConcurrent10000(b *testing.B)  { benchmarkHistory(b, 10_000, 20, false) }
func BenchmarkHistoryManyWriters10000(b *testing.B) { benchmarkHistory(b, 10_000, 5_000, true) }
