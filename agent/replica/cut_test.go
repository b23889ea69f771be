package replica_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/trust"
)

// remove has one device remove another, with what it holds of it, and begin new epochs.
func (d *device) remove(other *device) {
	d.t.Helper()
	cut, err := d.CutOf(other.Device())
	must(d.t, err)
	must(d.t, d.Enter(d.t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := d.keys.Remove(st, other.Device(), cut, time.Now())
		if err != nil {
			return nil, err
		}
		list := []trust.Entry{e}
		if st, err = st.With(e); err != nil {
			return nil, err
		}
		for _, scope := range st.RotationsDue() {
			if e, err = d.keys.Rotate(st, scope, time.Now()); err != nil {
				return nil, err
			}
			if st, err = st.With(e); err != nil {
				return nil, err
			}
			list = append(list, e)
		}
		return list, nil
	}))
	d.applyAll()
}

func (d *device) quarantined() []api.Held {
	d.t.Helper()
	page, err := d.ListHeld(d.t.Context(), api.HeldQuery{State: "quarantined"})
	must(d.t, err)
	return page.Chunks
}

func born(d *device, date string) {
	d.edit("Patient/p1", func(o map[string]any) { o["birthDate"] = date })
}

// stolen founds a practice of three, of which the third has written within its cut, and beyond it what only the second has.
func stolen(t *testing.T) (a, b, c *device) {
	t.Helper()
	d := practice(t, "surgery", "branch", "laptop")
	a, b, c = d[0], d[1], d[2]
	a.put(`{"resourceType":"Patient","id":"p1","birthDate":"1970-01-01"}`, false)
	settleAll(t, a, b, c)
	born(c, "1970-01-02")
	settleAll(t, a, b, c)
	born(c, "1970-01-03")
	sync(t, b, c)
	return a, b, c
}

// agree holds devices to show, hold and have applied the same.
func agree(t *testing.T, devices ...*device) {
	t.Helper()
	for _, d := range devices[1:] {
		if d.export() != devices[0].export() {
			t.Errorf("%s shows %s, and %s %s", d.name, d.export(), devices[0].name, devices[0].export())
		}
		x, y := d.Hello(devices[0].Device()), devices[0].Hello(d.Device())
		for i := range x.Scopes {
			if x.Scopes[i] != y.Scopes[i] {
				t.Errorf("%s and %s are not in sync", d.name, devices[0].name)
			}
		}
		if len(d.quarantined()) != len(devices[0].quarantined()) {
			t.Errorf("%s has quarantined %v, and %s %v", d.name, d.quarantined(), devices[0].name, devices[0].quarantined())
		}
		if !d.AtEnd() {
			t.Errorf("%s has not come to its end", d.name)
		}
	}
}

// What a removed device wrote beyond its cut is taken out again where it was applied, and kept for somebody to decide; a newcomer
// and a device that starts anew see the same.
func TestBeyondTheCut(t *testing.T) {
	a, b, c := stolen(t)
	a.remove(c)
	if got := a.get("Patient/p1"); !strings.Contains(got, "1970-01-02") {
		t.Errorf("within the cut: %s", got)
	}
	settleAll(t, a, b)
	agree(t, a, b)
	if got := b.get("Patient/p1"); !strings.Contains(got, "1970-01-02") || len(b.quarantined()) != 1 {
		t.Errorf("beyond the cut: %s, quarantined %v", got, b.quarantined())
	}
	n := admit(t, a, "newcomer")
	settleAll(t, a, b, n)
	b.crash()
	b.applyAll()
	agree(t, a, b, n)

	// Somebody lets it count after all.
	held := b.quarantined()[0]
	_, err := b.DecideHeld(t.Context(), "user", held.Chunk, api.HeldDecision{Verdict: "release"})
	must(t, err)
	settleAll(t, a, b, n)
	agree(t, a, b, n)
	if got := a.get("Patient/p1"); !strings.Contains(got, "1970-01-03") {
		t.Errorf("released: %s", got)
	}
}

// A device that may not write any more, writes on and is removed for it: what it wrote meanwhile is not made to count by that.
func TestRemovedAfterItMightNotWrite(t *testing.T) {
	a, b, c := stolen(t)
	cut, err := a.CutOf(c.Device())
	must(t, err)
	must(t, a.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := a.keys.SetRole(st, c.Device(), trust.RoleReader, cut, time.Now())
		return []trust.Entry{e}, err
	}))
	settleAll(t, a, b)
	a.remove(c)
	settleAll(t, a, b)
	agree(t, a, b)
	if got := a.get("Patient/p1"); !strings.Contains(got, "1970-01-02") || len(a.quarantined()) != 1 {
		t.Errorf("%s, quarantined %v", got, a.quarantined())
	}
}

// An honest edit on top of one beyond the cut counts, and so does what it was made on.
func TestHonestEditBeyondTheCut(t *testing.T) {
	for _, first := range []bool{true, false} {
		a, b, c := stolen(t)
		b.edit("Patient/p1", func(o map[string]any) { o["gender"] = "female" })
		a.remove(c)
		if first { // what was written beyond comes alone at first
			n := admit(t, a, "newcomer")
			sync(t, a, n)
			sync(t, n, b)
			sync(t, n, a)
		}
		settleAll(t, a, b)
		agree(t, a, b)
		if got := a.get("Patient/p1"); !strings.Contains(got, "1970-01-03") || !strings.Contains(got, "female") {
			t.Errorf("an honest edit, and what it was made on: %s", got)
		}
	}
}

// A writer that has not heard of the removal goes on under the old epoch, and nothing of it is lost.
func TestOldEpochIsRead(t *testing.T) {
	a, b, c := stolen(t)
	a.remove(c)
	b.put(`{"resourceType":"Patient","id":"p2","birthDate":"1980-01-01"}`, false)
	a.put(`{"resourceType":"Patient","id":"p3","birthDate":"1990-01-01"}`, false)
	settleAll(t, a, b)
	agree(t, a, b)
	if !strings.Contains(a.export(), "p2") || !strings.Contains(b.export(), "p3") {
		t.Error("an edit under one of two epochs is missing")
	}
	if _, err := c.Put(t.Context(), "thief", []byte(`{"resourceType":"Patient","id":"p4"}`), false); err != nil {
		t.Fatal(err) // it has not heard of anything
	}
	for _, e := range a.EntriesSince(c.State().Heads()) {
		must(t, c.AddEntries(t.Context(), a.Device(), [][]byte{e}))
	}
	if _, err := c.Put(t.Context(), "thief", []byte(`{"resourceType":"Patient","id":"p5"}`), false); err == nil {
		t.Error("a removed device writes, knowing that it was removed")
	}
}

// The thief of a laptop has an older copy of it, and writes another history of its log with counters below the cut: that is kept
// aside, whichever history came to a device first.
func TestOtherHistoryBelowTheCut(t *testing.T) {
	for _, thiefFirst := range []bool{false, true} {
		p := practice(t, "surgery", "branch", "laptop", "home")
		a, b, c, d := p[0], p[1], p[2], p[3]
		a.put(`{"resourceType":"Patient","id":"p1","birthDate":"1970-01-01"}`, false)
		a.put(`{"resourceType":"Patient","id":"p2","birthDate":"1970-01-01"}`, false)
		settleAll(t, a, b, c, d)
		copied := c.twin.Copy()
		for i := range 3 {
			c.edit("Patient/p1", func(o map[string]any) { o["birthDate"] = fmt.Sprintf("1970-01-%02d", i+2) })
		}
		sync(t, a, c)
		thief := c.rollBack(copied, c.keys)
		thief.edit("Patient/p2", func(o map[string]any) { o["birthDate"] = "1999-09-09" })
		if thiefFirst {
			sync(t, d, thief)
		}
		a.remove(c)
		settleAll(t, a, b)
		if !thiefFirst {
			settleAll(t, a, b, d)
			for _, item := range otherHistory(t, thief) {
				must(t, d.Arrive(t.Context(), b.Device(), [][]byte{item}))
			}
			d.applyAll()
		}
		settleAll(t, a, b, d)
		agree(t, a, b, d)
		sameEverywhere(t, a, b, d)
		if got := d.export(); strings.Contains(got, "1999-09-09") || !strings.Contains(got, "1970-01-04") || len(d.quarantined()) != 1 {
			t.Errorf("thief first %v: %s, quarantined %v", thiefFirst, got, d.quarantined())
		}
	}
}

// otherHistory returns the chunks of a device's own log.
func otherHistory(t *testing.T, d *device) (list [][]byte) {
	t.Helper()
	for _, s := range d.State().Scopes() {
		for _, log := range d.OwnLogs() {
			if d.Vector(s.ID)[log.ID].Counter == 0 {
				continue
			}
			items, err := d.Chunks(s.ID, log.ID, 0, 1<<20)
			must(t, err)
			for _, it := range items {
				list = append(list, it.Bytes)
			}
		}
	}
	return list
}

// TestReviewTakesItsTurns removes a device with nothing that counts, whose changes are in more documents than are looked at
// in one turn: until the last one is, the others are not told that everything is followed, also over a restart.
func TestReviewTakesItsTurns(t *testing.T) {
	d := practice(t, "surgery", "laptop")
	a, c := d[0], d[1]
	const documents = 40
	for i := range documents {
		c.put(fmt.Sprintf(`{"resourceType":"Patient","id":"p%d","birthDate":"1970-01-01"}`, i), false)
	}
	settleAll(t, a, c)
	a = a.rollBack(a.twin, a.keys)
	if !a.AtEnd() {
		t.Error("after a restart with nobody removed something is to be looked at")
	}
	must(t, a.Enter(t.Context(), func(st *trust.State) ([]trust.Entry, error) {
		e, err := a.keys.Remove(st, c.Device(), nil, time.Now())
		return []trust.Entry{e}, err
	}))
	turns := 0
	for more := true; more; turns++ {
		switch s := a.Status(); {
		case s.AtEnd && s.Quarantined < documents:
			t.Fatalf("turn %d: at its end with %d of %d changes barred", turns, s.Quarantined, documents)
		case turns == 1:
			a = a.rollBack(a.twin, a.keys)
		}
		var err error
		more, err = a.Apply(t.Context())
		must(t, err)
	}
	if s := a.Status(); !s.AtEnd || s.Quarantined != documents || turns < 4 {
		t.Errorf("after %d turns: %+v", turns, s)
	}
	if a = a.rollBack(a.twin, a.keys); !a.AtEnd() {
		t.Error("what was looked at is looked at again after a restart")
	}
}
