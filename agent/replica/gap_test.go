package replica_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// forked returns a practice of three whose first device was taken back and wrote on: its log has two histories of unequal
// length, of which b holds the first and c the second as the main one.
func forked(t *testing.T) (a, b, c *device) {
	p := practice(t, "surgery", "branch", "home")
	a, b, c = p[0], p[1], p[2]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	a.put(`{"resourceType":"Patient","id":"p2","gender":"male"}`, false)
	settleAll(t, a, b, c)
	was := a.twin.Copy()
	a.edit("Patient/p1", func(m map[string]any) { m["birthDate"] = "1961-04-17" })
	a.edit("Patient/p2", func(m map[string]any) { m["birthDate"] = "1950-01-01" })
	a.edit("Patient/p1", func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": "before"} })
	sync(t, a, b)
	a = a.rollBack(was, a.keys)
	for i := range 2 {
		a.edit("Patient/p1", func(m map[string]any) { m["telecom"] = []any{map[string]any{"value": fmt.Sprint("after ", i)}} })
	}
	sync(t, a, c)
	settleAll(t, a, b, c)
	sameEverywhere(t, a, b, c)
	return a, b, c
}

// chunkKeys lists the keys of a device's chunks, in the main histories of their logs and beside them.
func (d *device) chunkKeys() (keys [][]byte) {
	for _, k := range keysOf(d.t, d.twin) {
		if k[0] == storage.Chunk.Number() || k[0] == storage.Branch.Number() {
			keys = append(keys, k)
		}
	}
	return keys
}

// TestForkedLogDamaged damages each chunk of a log with two histories on each device in turn, alone and together with what
// is shown: it comes back from the others, to the place where it was, and all show and hold the same.
func TestForkedLogDamaged(t *testing.T) {
	a, b, c := forked(t)
	for _, d := range []*device{b, c, a} {
		for _, damage := range []string{"chunk", "chunk and view", "restart"} {
			before := d.chunkKeys()
			for _, key := range before {
				name := fmt.Sprintf("%s, %s, %s %x", d.name, damage, kindOf(key), key[len(key)-40:])
				if !d.twin.Corrupt(key) {
					t.Fatal(name)
				}
				switch damage {
				case "chunk and view":
					d.corrupt(storage.ResourceIn.Number())
					fallthrough
				case "chunk":
					if r := d.verify(true); r.Found == 0 || !r.Repaired {
						t.Fatalf("%s: verify finds %+v", name, r)
					}
				case "restart": // a chunk beside the main history is read when the replica opens, others by a scrub
					d.crash()
					_, err := d.Scrub(t.Context(), 0)
					must(t, err)
				}
				settleAll(t, a, b, c)
				if _, have, of, err := d.Repair(); err != nil || have < of {
					t.Errorf("%s: %d of %d chunks are back, %v", name, have, of, err)
				}
				if r := d.verify(false); !r.Clean {
					t.Errorf("%s: %+v", name, r)
				}
				_, err := d.EndRepair(t.Context())
				must(t, err)
				if sameEverywhere(t, a, b, c); t.Failed() {
					t.Fatal(name)
				}
			}
			// A repair begins a new log where the damaged one was its own; nothing else may have come or gone.
			after := d.chunkKeys()
			for _, k := range before {
				if !containsKey(after, k) {
					t.Errorf("%s, %s: %s %x is not where it was", d.name, damage, kindOf(k), k)
				}
			}
		}
	}
}

func containsKey(keys [][]byte, key []byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, key) })
}

// TestDamagedBranchIsSent finds the damage of a chunk beside the main history when a peer is to get it.
func TestDamagedBranchIsSent(t *testing.T) {
	a, b, c := forked(t)
	var bad []byte
	for _, k := range b.chunkKeys() {
		if k[0] == storage.Branch.Number() && bad == nil {
			bad = k
		}
	}
	scope, log, _, _, err := storage.Branch.Parse(bad)
	must(t, err)
	has, err := c.Locators(scope, log)
	must(t, err)
	if !b.twin.Corrupt(bad) {
		t.Fatal("there is no such chunk")
	}
	b.TakenBack()
	main := slices.DeleteFunc(has, func(p chunk.Position) bool { return p != b.mainEnd(log) })
	if list, err := b.Beyond(scope, log, main, 1<<20); err == nil || !b.TakenBack() {
		t.Errorf("%d chunks are sent, %v", len(list), err)
	}
	settleAll(t, a, b, c)
	sameEverywhere(t, a, b, c)
	if !containsKey(b.chunkKeys(), bad) || !b.verify(false).Clean {
		t.Error("it has not come back")
	}
}

// mainEnd returns where the main history of a log ends.
func (d *device) mainEnd(log chunk.LogID) (end chunk.Position) {
	for _, k := range d.chunkKeys() {
		if k[0] == storage.Chunk.Number() {
			if _, l, n, err := storage.Chunk.Parse(k); err == nil && l == log && n > end.Counter {
				end = chunk.At(n, d.chunkAt(k))
			}
		}
	}
	return end
}

// TestKeptBehindGap damages a chunk below what a device alone holds of its log while another history of it arrives: what is
// kept behind the gap is not written over, and is passed on once the damaged chunk is back.
func TestKeptBehindGap(t *testing.T) {
	p := practice(t, "surgery", "branch", "home", "office")
	a, b, c, o := p[0], p[1], p[2], p[3]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	settleAll(t, a, b, c, o)
	was := a.twin.Copy()
	a.edit("Patient/p1", func(m map[string]any) { m["birthDate"] = "1961-04-17" })
	sync(t, a, o) // who holds the first chunk of the history before, and no more
	for i := range 3 {
		a.edit("Patient/p1", func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": fmt.Sprint("before ", i)} })
	}
	sync(t, a, b) // who alone holds the rest
	a = a.rollBack(was, a.keys)
	for i := range 2 {
		a.edit("Patient/p1", func(m map[string]any) { m["telecom"] = []any{map[string]any{"value": fmt.Sprint("after ", i)}} })
	}
	sync(t, a, c)
	log := a.OwnLogs()[0].ID
	at := b.Vector(clinical(t, b))[log].Counter - 3 // what o holds
	if !b.twin.Corrupt(storage.Chunk.Key(clinical(t, b), log, at)) {
		t.Fatal("there is no such chunk")
	}
	_, err := b.Scrub(t.Context(), 0)
	must(t, err)
	if got := b.Vector(clinical(t, b))[log].Counter; got != at-1 {
		t.Fatalf("the log is claimed up to %d, want %d", got, at-1)
	}
	sync(t, b, c) // the other history comes first
	if got := b.get("Patient/p1"); !strings.Contains(got, "before 2") {
		t.Errorf("what is kept is not shown any more: %s", got)
	}
	b.crash()
	b.applyAll()
	sync(t, b, o)
	settleAll(t, a, b, c, o)
	sameEverywhere(t, a, b, c, o)
	for _, d := range []*device{a, b, c, o} {
		shown := d.get("Patient/p1") + fmt.Sprint(d.conflicts())
		for _, want := range []string{"1961-04-17", "before 2", "after 1"} {
			if !strings.Contains(shown, want) {
				t.Errorf("%s does not show %s: %s", d.name, want, shown)
			}
		}
		if r := d.verify(false); !r.Clean {
			t.Errorf("%s: %+v", d.name, r)
		}
		if st := d.Status(); st.Parked+st.Unapplied > 0 || !st.AtEnd {
			t.Errorf("%s: %+v, held %s", d.name, st, heldBy(d))
		}
	}
}

// TestVerifyForked finds nothing on devices that hold all of a log whose other history is longer than the main one.
func TestVerifyForked(t *testing.T) {
	a, b, c := forked(t)
	longer := 0
	for _, d := range []*device{a, b, c} {
		before := len(d.chunkKeys())
		if n, err := d.SaveLost(t.Context()); err != nil || n > 0 || len(d.chunkKeys()) > before {
			t.Errorf("%s wrote %d resources once more, though nothing is lost: %v", d.name, n, err)
		}
		if r := d.verify(false); !r.Clean {
			t.Errorf("%s: %+v", d.name, r)
		}
		head := d.Vector(clinical(t, d))
		for _, k := range d.chunkKeys() {
			if k[0] == storage.Branch.Number() {
				_, log, counter, _, err := storage.Branch.Parse(k)
				must(t, err)
				if counter == head[log].Counter && !containsKey(d.chunkKeys(), storage.Chunk.Key(clinical(t, d), log, counter)) {
					longer++
				}
			}
		}
	}
	if longer == 0 {
		t.Error("no branch is longer than its main history: the test shows nothing")
	}
}

// TestForkedLogLost damages each chunk of a practice on all of its devices at once, so that it is lost: what was shown is
// written once more, all show it, and nothing is damaged then.
func TestForkedLogLost(t *testing.T) {
	for n := 0; ; n++ {
		a, b, c := forked(t)
		want := b.export()
		keys := b.chunkKeys()
		if n == len(keys) {
			return
		}
		lost := b.chunkAt(keys[n])
		for _, d := range []*device{a, b, c} {
			for _, k := range d.chunkKeys() {
				if d.chunkAt(k) == lost {
					d.twin.Corrupt(k)
				}
			}
			_, err := d.Scrub(t.Context(), 0)
			must(t, err)
		}
		settleAll(t, a, b, c)
		for _, d := range []*device{a, b, c} {
			p, err := d.EndRepair(t.Context())
			must(t, err)
			if own, others := p.Lost(); own+others == 0 {
				t.Errorf("chunk %d: %s does not know that it is lost", n, d.name)
			}
			_, err = d.SaveLost(t.Context())
			must(t, err)
			settleAll(t, a, b, c)
		}
		for _, d := range []*device{a, b, c} {
			if r := d.verify(false); !r.Clean {
				t.Errorf("chunk %d: %s: %+v", n, d.name, r)
			}
			if got := d.export(); got != want {
				t.Errorf("chunk %d: %s shows %s, want %s", n, d.name, got, want)
			}
		}
	}
}

// chunkAt returns the ID of the chunk under a key.
func (d *device) chunkAt(key []byte) (id chunk.ID) {
	must(d.t, d.twin.View(func(v storage.Reader) error {
		b, err := v.Get(key)
		if err == nil {
			var sealed chunk.Sealed
			sealed, err = chunk.Parse(bytes.Clone(b))
			id = sealed.ID()
		}
		return err
	}))
	return id
}

// TestSkipOverGap damages a chunk on one device, and the others have packed and deleted it with all around it: the skip takes its
// place and that of what is kept behind it.
func TestSkipOverGap(t *testing.T) {
	p := practice(t, "surgery", "branch", "home")
	a, b, c := p[0], p[1], p[2]
	a.put(compactPatient, false)
	a.editMany(0, 3)
	settleAll(t, a, b, c)
	a.editMany(3, 90)
	settleAll(t, a, b, c)
	log := a.OwnLogs()[0].ID
	a.compact()
	sync(t, a, c)
	c.compact() // its word, before the others have given theirs
	sync(t, a, c)
	sync(t, a, b)
	b.compact()
	sync(t, a, b)
	a.compact()
	if _, skips, _ := a.chunksOf(); skips == 0 {
		t.Fatal("nothing was deleted")
	}
	if _, skips, _ := c.chunksOf(); skips > 0 {
		t.Fatal("the device to be damaged has deleted, too")
	}
	if !c.twin.Corrupt(storage.Chunk.Key(clinical(t, c), log, 7)) {
		t.Fatal("there is no such chunk")
	}
	_, err := c.Scrub(t.Context(), 0)
	must(t, err)
	settleAll(t, a, b, c)
	sameEverywhere(t, a, b, c)
	if r := c.verify(false); !r.Clean {
		t.Errorf("%+v", r)
	}
	for n := uint64(7); n < 60; n++ {
		if containsKey(c.chunkKeys(), storage.Chunk.Key(clinical(t, c), log, n)) {
			t.Fatalf("chunk %d is kept under a skip", n)
		}
	}
}
