package replica_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
)

// cutShort is a store whose disk fills up after some commits.
type cutShort struct {
	storage.Store
	left int
}

func (c *cutShort) Commit(ctx context.Context, b *storage.Batch) error {
	if c.left == 0 {
		return &storage.NoRoom{}
	}
	c.left--
	return c.Store.Commit(ctx, b)
}

// damaged returns a device of a practice of its own with two patients, of which a chunk is damaged, and what it shows.
func damaged(t *testing.T) (*device, string) {
	a := practice(t, "only")[0]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	a.put(`{"resourceType":"Patient","id":"p2","gender":"male"}`, false)
	want := a.export()
	a.corrupt(storage.Chunk.Number())
	return a, want
}

// corrupt damages the first value of a kind.
func (d *device) corrupt(kind byte) {
	d.t.Helper()
	for _, k := range keysOf(d.t, d.twin) {
		if k[0] == kind {
			d.twin.Corrupt(k)
			return
		}
	}
	d.t.Fatal("nothing of this kind")
}

// TestSaveLostCutShort cuts the writing of what is shown of lost chunks short at every commit: nothing of it is lost.
func TestSaveLostCutShort(t *testing.T) {
	for cut := range 100 {
		a, want := damaged(t)
		_, err := a.Scrub(t.Context(), 0)
		must(t, err)
		_, err = a.EndRepair(t.Context())
		must(t, err)
		full := &cutShort{a.twin, 1 << 30}
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		r, err := replica.Open(replica.Config{Store: full, Keyring: a.keys, Engine: e})
		must(t, err)
		full.left = cut
		_, err = r.SaveLost(t.Context())
		done := err == nil
		a.crash()
		a.applyAll()
		_, err = a.SaveLost(t.Context())
		must(t, err)
		if got := a.export(); got != want {
			t.Fatalf("cut at commit %d: %s instead of %s", cut, got, want)
		}
		if done {
			if cut < 5 {
				t.Errorf("it took %d commits", cut)
			}
			return
		}
	}
	t.Fatal("it never came to its end")
}

// TestRepairKeepsWhatIsShown repairs an index and a chunk at once that no other device has: what the documents show of the
// chunk stays.
func TestRepairKeepsWhatIsShown(t *testing.T) {
	a, want := damaged(t)
	a.corrupt(storage.DocumentsOf.Number())
	a.verify(true)
	_, err := a.EndRepair(t.Context())
	must(t, err)
	_, err = a.SaveLost(t.Context())
	must(t, err)
	if got := a.export(); got != want {
		t.Errorf("%s instead of %s", got, want)
	}
	if r := a.verify(false); !r.Clean {
		t.Errorf("%+v", r)
	}
}

// TestBranchThatDoesNotRead damages a chunk of another history of a log before its turn: the chunk that came first at its
// counter stays, and the applier comes to its end.
func TestBranchThatDoesNotRead(t *testing.T) {
	p := practice(t, "surgery", "branch", "home")
	a, b, c := p[0], p[1], p[2]
	a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
	a.put(`{"resourceType":"Patient","id":"p2","gender":"male"}`, false)
	settleAll(t, a, b, c)
	was := a.twin.Copy()
	for i := range 3 {
		a.edit("Patient/p1", func(m map[string]any) { m["maritalStatus"] = map[string]any{"text": fmt.Sprint("before ", i)} })
	}
	sync(t, a, b)
	a = a.rollBack(was, a.keys)
	log := a.OwnLogs()[0].ID
	for i := range 2 {
		a.edit("Patient/p1", func(m map[string]any) { m["telecom"] = []any{map[string]any{"value": fmt.Sprint("after ", i)}} })
	}
	sync(t, a, c) // which holds the history after as the first
	items, err := b.Chunks(clinical(t, b), log, 0, 1<<20)
	must(t, err)
	var raw [][]byte
	for _, it := range items {
		raw = append(raw, it.Bytes)
	}
	must(t, c.Arrive(t.Context(), b.Device(), raw))
	chunks := func() (n int) {
		for _, k := range keysOf(t, c.twin) {
			if k[0] == storage.Chunk.Number() {
				n++
			}
		}
		return n
	}
	before := chunks()
	c.corrupt(storage.Branch.Number())
	c.applyAll()
	if n := chunks(); n != before || !strings.Contains(c.get("Patient/p1"), "after 1") {
		t.Errorf("%d chunks of %d are left, and %s", n, before, c.get("Patient/p1"))
	}
}

// TestSaveLostMeetsEdits cuts the writing of what is shown of a lost chunk short at every commit and has a user edit the same
// fields then: both what was lost and what the user wrote is shown or listed as a conflict, here and at another device.
func TestSaveLostMeetsEdits(t *testing.T) {
	edits := 0
	for cut := range 100 {
		p := practice(t, "surgery", "branch")
		a, b := p[0], p[1]
		a.put(`{"resourceType":"Patient","id":"p1","gender":"female"}`, false)
		b.put(`{"resourceType":"Patient","id":"p2","gender":"male"}`, false)
		sync(t, a, b)
		a.edit("Patient/p1", func(m map[string]any) { m["birthDate"] = "1961-01-01" })
		a.edit("Patient/p2", func(m map[string]any) { m["birthDate"] = "1952-02-02" })
		scope, log := clinical(t, a), a.OwnLogs()[0].ID
		a.twin.Corrupt(storage.Chunk.Key(scope, log, a.Vector(scope)[log].Counter-1))
		_, err := a.Scrub(t.Context(), 0)
		must(t, err)
		_, err = a.EndRepair(t.Context())
		must(t, err)
		full := &cutShort{a.twin, 1 << 30}
		e := engine.NewLocal()
		t.Cleanup(func() { _ = e.Close() })
		a.Replica, err = replica.Open(replica.Config{Store: full, Keyring: a.keys, Engine: e})
		must(t, err)
		full.left = cut
		_, err = a.SaveLost(t.Context())
		done := err == nil
		full.left = 1 << 30
		was := map[string]string{"p1": "1961-01-01", "p2": "1952-02-02"}
		want := []string{was["p1"], was["p2"], "female", `"male"`}
		for id, date := range map[string]string{"p1": "1971-07-07", "p2": "1982-08-08"} {
			if cut == 0 || done {
				break
			}
			obj := map[string]any{"resourceType": "Patient", "id": id}
			if res, err := a.Get(t.Context(), parseRef(t, "Patient/"+id), ""); err == nil {
				must(t, json.Unmarshal(res.JSON, &obj))
			}
			seen := obj["birthDate"]
			obj["birthDate"] = date
			body, err := json.Marshal(obj)
			must(t, err)
			_, err = a.Put(t.Context(), "user", body, false)
			if errors.Is(err, storage.ErrDamaged) {
				continue // not made anew yet: nobody can edit it
			}
			must(t, err)
			if want = append(want, date); seen == was[id] { // who has seen it may replace it
				want = slices.DeleteFunc(want, func(v string) bool { return v == was[id] })
			}
			edits++
		}
		if cut%2 == 1 {
			a.crash()
		}
		a.applyAll()
		_, err = a.SaveLost(t.Context())
		must(t, err)
		settleAll(t, a, b)
		sameEverywhere(t, a, b)
		shown := b.export()
		for _, c := range b.conflicts() {
			for _, v := range c.Values {
				shown += string(v.Value)
			}
		}
		for _, v := range want {
			if !strings.Contains(shown, v) {
				t.Errorf("cut at commit %d: %s is neither shown nor listed: %s", cut, v, shown)
			}
		}
		if r := a.verify(false); !r.Clean {
			t.Errorf("cut at commit %d: %+v", cut, r)
		}
		if done {
			if cut < 5 || edits < cut {
				t.Errorf("it took %d commits, and %d edits came in between", cut, edits)
			}
			return
		}
	}
	t.Fatal("it never came to its end")
}
