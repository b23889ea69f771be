package replica_test

import (
	"fmt"
	"strings"
	"testing"

	"chartmesh/agent/replica"
	"chartmesh/storage"
)

// chunksOf counts what is stored of chunks and of skips, and their bytes.
func (d *device) chunksOf() (chunks, skips, bytes int) {
	d.t.Helper()
	must(d.t, d.twin.View(func(v storage.Reader) error {
		if err := v.Scan(storage.Chunk.All(), nil, func(_, value []byte) error {
			chunks++
			bytes += len(value)
			return nil
		}); err != nil {
			return err
		}
		return v.Scan(storage.Skip.All(), nil, func(_, value []byte) error {
			skips++
			bytes += len(value)
			return nil
		})
	}))
	return chunks, skips, bytes
}

func (d *device) compact() replica.Compacted {
	d.t.Helper()
	c, err := d.Compact(d.t.Context(), true)
	must(d.t, err)
	return c
}

// editMany edits a patient's birth date again and again.
func (d *device) editMany(from, n int) {
	for i := range n {
		d.edit("Patient/p1", func(obj map[string]any) {
			obj["birthDate"] = fmt.Sprintf("%04d-01-02", 1900+(from+i)%100)
			obj["telecom"] = []any{map[string]any{"system": "phone", "value": fmt.Sprint(from + i)}}
		})
	}
}

const compactPatient = `{"resourceType":"Patient","id":"p1","active":true,"name":[{"family":"Berg"}]}`

// TestCompaction follows a document from a long tail to a checkpoint, to everybody's word, to the deletion everywhere; what
// is shown, told and sent stays the same.
func TestCompaction(t *testing.T) {
	d := practice(t, "A", "B", "C")
	a, b, c := d[0], d[1], d[2]
	a.put(compactPatient, false)
	sync(t, a, b)
	a.editMany(0, 40)
	sync(t, a, b)
	b.editMany(40, 40)
	sync(t, a, b)
	sync(t, a, c)
	want, before := a.export(), fmt.Sprint(history(t, a, "Patient/p1"))
	chunksBefore, _, bytesBefore := a.chunksOf()

	if got := a.compact(); got.Checkpoints != 1 || got.Deleted != 0 {
		t.Fatalf("A packs: %+v", got)
	}
	sync(t, a, b)
	if got := b.compact(); got.Words != 1 || got.Deleted != 0 || got.Checkpoints != 0 {
		t.Fatalf("B gives its word: %+v", got)
	}
	sync(t, a, b)
	if got := a.compact(); got.Deleted != 0 || got.Waiting != 1 {
		t.Fatalf("A does not wait for C: %+v", got)
	}
	sync(t, a, c)
	if got := c.compact(); got.Words != 1 || got.Deleted != 81 { // it is the last
		t.Fatalf("C gives its word: %+v", got)
	}
	sync(t, a, c)
	sync(t, a, b)
	for _, x := range d {
		if got := x.compact(); x != c && got.Deleted != 81 || got.Waiting != 0 {
			t.Errorf("%s deletes: %+v", x.name, got)
		}
		must(t, x.FlushAcks(t.Context()))
		x.crash()
		chunks, skips, bytes := x.chunksOf()
		t.Logf("%s: %d chunks of %d bytes, then %d and %d skips of %d bytes: %.2f", x.name, chunksBefore, bytesBefore, chunks, skips, bytes,
			float64(bytes)/float64(bytesBefore))
		if chunks != 3 || skips != 2 || bytes*10 > 3*bytesBefore {
			t.Errorf("%s holds %d chunks, %d skips, %d bytes", x.name, chunks, skips, bytes)
		}
		if x.export() != want {
			t.Errorf("%s shows something else", x.name)
		}
		if got := fmt.Sprint(history(t, x, "Patient/p1")); got != before && x == a {
			t.Errorf("%s tells another history:\n%s\n%s", x.name, got, before)
		}
	}

	// A newcomer gets the checkpoint instead of what it stands for, and holds as much as the others.
	n := admit(t, a, "N")
	status, _ := sync(t, a, n)
	if !status.Agreed || n.export() != want {
		t.Errorf("the newcomer does not agree: %+v", status)
	}
	// Editing goes on, everywhere.
	for _, x := range []*device{n, b, a} {
		x.edit("Patient/p1", func(obj map[string]any) {
			obj["gender"] = map[string]string{"N": "male", "B": "other", "A": "female"}[x.name]
		})
		sync(t, a, n)
		sync(t, a, b)
		sync(t, a, c)
	}
	for _, x := range append(d, n) {
		if x.export() != a.export() || len(x.conflicts()) != 0 || !strings.Contains(x.get("Patient/p1"), `"female"`) {
			t.Errorf("%s differs after it", x.name)
		}
	}
	// And the next checkpoint stands for the first one, and for the words on it.
	a.editMany(80, 70)
	four := append(d, n)
	meet := func() {
		for range 2 {
			for _, x := range four[1:] {
				sync(t, a, x)
			}
		}
	}
	meet()
	if got := a.compact(); got.Checkpoints != 1 {
		t.Fatalf("A packs again: %+v", got)
	}
	meet()
	for _, x := range four {
		x.compact()
	}
	meet()
	for _, x := range four {
		if got := x.compact(); got.Waiting != 0 || got.Deleted == 0 {
			t.Errorf("%s deletes again: %+v", x.name, got)
		}
		if chunks, _, _ := x.chunksOf(); chunks != 4+1 { // the checkpoint, three words on it, and the word of N on the first
			t.Errorf("%s holds %d chunks", x.name, chunks)
		}
		x.crash()
		if x.export() != a.export() {
			t.Errorf("%s shows something else", x.name)
		}
	}
	last := admit(t, a, "last")
	sync(t, a, b)
	if status, _ := sync(t, b, last); !status.Agreed || last.export() != a.export() {
		t.Errorf("the last newcomer does not agree: %+v", status)
	}
}

// TestCheckpointsApart has two devices pack the same document at once: both are harmless.
func TestCheckpointsApart(t *testing.T) {
	d := practice(t, "A", "B")
	a, b := d[0], d[1]
	a.put(compactPatient, false)
	a.editMany(0, 70)
	sync(t, a, b)
	b.editMany(70, 3)
	for _, x := range d {
		if got := x.compact(); got.Checkpoints != 1 {
			t.Fatalf("%s packs: %+v", x.name, got)
		}
	}
	for range 3 {
		sync(t, a, b)
		a.compact()
		sync(t, a, b)
		b.compact()
	}
	if a.export() != b.export() {
		t.Error("they differ")
	}
	a.editMany(80, 70)
	for range 4 {
		sync(t, a, b)
		a.compact()
		sync(t, a, b)
		b.compact()
	}
	n := admit(t, a, "N")
	sync(t, a, b)
	if status, _ := sync(t, b, n); !status.Agreed || n.export() != a.export() || a.export() != b.export() {
		t.Errorf("a newcomer does not agree: %+v", status)
	}
	for _, x := range d {
		if chunks, _, _ := x.chunksOf(); chunks > 12 {
			t.Errorf("%s holds %d chunks", x.name, chunks)
		}
	}
}

// TestContestedIsNotPacked rolls a device back and has it go on in the same document: that is not packed, and the device says so.
func TestContestedIsNotPacked(t *testing.T) {
	p := practice(t, "A", "B", "C")
	a, b, c := p[0], p[1], p[2]
	a.put(compactPatient, false)
	settleAll(t, a, b, c)
	was := a.twin.Copy()
	a.editMany(0, 2)
	sync(t, a, b)
	a = a.rollBack(was, a.keys)
	a.editMany(10, 2)
	sync(t, a, c)
	settleAll(t, a, b, c)
	b.editMany(20, 70)
	settleAll(t, a, b, c)
	for _, d := range []*device{a, b, c} {
		if got := d.compact(); got.Checkpoints != 0 || got.Contested != 1 {
			t.Errorf("%s packs: %+v", d.name, got)
		}
	}
	sameEverywhere(t, a, b, c)
}

// TestUnreadNotes: notes of compaction that do not read keep no device from starting.
func TestUnreadNotes(t *testing.T) {
	d := practice(t, "surgery")[0]
	d.put(`{"resourceType":"Patient","id":"p1"}`, false)
	var b storage.Batch
	b.Put(storage.Tail.Key([32]byte{1}), []byte{1, 2, 3})
	b.Put(storage.Checkpoint.Key([32]byte{1}, [32]byte{2}, 3), []byte{9})
	must(t, d.twin.Commit(t.Context(), &b))
	d.crash()
	if !strings.Contains(d.get("Patient/p1"), "p1") {
		t.Error("the record is gone")
	}
}
