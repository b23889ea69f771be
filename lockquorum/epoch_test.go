package lockquorum_test

import (
	"slices"
	"testing"

	"chartmesh/lockquorum"
	"chartmesh/trust"
)

// Of two reseeds made apart each has an epoch of its own; each is later than what it follows, and what follows either is later than both.
func TestEpochOf(t *testing.T) {
	a, ok := lockquorum.EpochOf(trust.EntryID{1}, 1)
	b, _ := lockquorum.EpochOf(trust.EntryID{2}, 1)
	if !ok || a == b || a <= 1 || b <= 1 {
		t.Fatalf("epochs %d and %d after 1", a, b)
	}
	again, _ := lockquorum.EpochOf(trust.EntryID{1}, 1)
	next, _ := lockquorum.EpochOf(trust.EntryID{3}, min(a, b))
	if again != a || next <= max(a, b) {
		t.Errorf("%d is again %d; after the earlier one comes %d", a, again, next)
	}
	if e, ok := lockquorum.EpochOf(trust.EntryID{1}, lockquorum.MaxEpoch); ok {
		t.Errorf("after the last epoch comes %d", e)
	}
	if a != 7604554822 {
		t.Errorf("the vector is %d", a)
	}
}

// What a device says that it has is not granted again by a quorum that was founded anew without it, and is not given twice where it was already.
func TestAdopt(t *testing.T) {
	q := begin(t)
	id := lockquorum.RangeID{1}
	log := [32]byte{7}
	part := func(from, to int64, owner byte) lockquorum.Part {
		return lockquorum.Part{Min: from, Max: to, Increment: 1, Owner: lockquorum.DeviceID{owner}, Log: log}
	}
	st := q.st
	for range 2 {
		if !st.Adopt(id, part(100, 199, 1)) {
			t.Error("a part that nobody has is not adopted, once or twice")
		}
	}
	if st.Adopt(id, part(150, 249, 2)) {
		t.Error("nobody says that two have one number")
	}
	void := part(100, 199, 1)
	void.Void, void.From = true, 130
	if !st.Adopt(id, void) {
		t.Error("a part that was taken back is another")
	}
	want := []lockquorum.Part{void, part(200, 249, 2)}
	if got := st.Range(id); !slices.EqualFunc(got, want, func(a, b lockquorum.Part) bool {
		return a.Min == b.Min && a.Max == b.Max && a.Owner == b.Owner && a.Void == b.Void && a.From == b.From
	}) {
		t.Errorf("parts %+v, want %+v", got, want)
	}
	if _, err := lockquorum.Restore(st.Snapshot()); err != nil {
		t.Errorf("it does not read: %v", err)
	}
}

// What was set aside for a device and taken by it since is that part, whichever of the two is said first.
func TestAdoptTaken(t *testing.T) {
	id := lockquorum.RangeID{1}
	aside := lockquorum.Part{Min: 100, Max: 199, Increment: 1, Owner: lockquorum.DeviceID{1}}
	taken, other := aside, aside
	taken.Log, other.Log, other.Owner = [32]byte{7}, [32]byte{8}, lockquorum.DeviceID{2}
	for _, order := range [][]lockquorum.Part{{aside, taken}, {taken, aside}} {
		st := begin(t).st
		for _, p := range order {
			if !st.Adopt(id, p) {
				t.Errorf("of %+v it is known otherwise", p)
			}
		}
		if st.Adopt(id, other) {
			t.Error("another device has it too")
		}
		if got := st.Range(id); len(got) != 1 || got[0].Log != taken.Log || got[0].Owner != taken.Owner {
			t.Errorf("the parts are %+v", got)
		}
	}
}
