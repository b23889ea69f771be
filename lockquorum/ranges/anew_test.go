package ranges

import (
	"errors"
	"math/rand/v2"
	"testing"

	"chartmesh/lockquorum"
)

// TestFoundAnewWithout: a quorum that is founded anew does not know of parts that a folder gave numbers from, and the folder was put back and does not know of them
// either. The marks do: no number of theirs is given again.
func TestFoundAnewWithout(t *testing.T) {
	for _, aside := range []bool{false, true} {
		q := newQuorum(t)
		q.define(100, 5)
		f := q.folder(1)
		if aside {
			must(t, q.do(lockquorum.DeviceID{99}, &lockquorum.Grant{Range: patients, Owner: f.self, Min: 1, Max: 5, Increment: 1}))
		}
		backup, before := f.image(), q.copy()
		for want := int64(1); want <= 8; want++ {
			if _, err := f.next(""); errors.Is(err, ErrNone) {
				must(t, f.a.Refill(t.Context(), patients))
				f.gives(t, "", want)
			}
		}
		f.putBack(backup, true)
		q.founds(before, f)
		must(t, f.a.Tend(t.Context()))
		_, err := f.next("")
		if errors.Is(err, ErrNone) {
			must(t, f.a.Refill(t.Context(), patients))
		}
		f.gives(t, "", 11)
	}
}

// TestFoundAnewUnbound: a part that was set aside for a device, and of which the quorum does not know any more that the device took it, is not given from its beginning under
// another log.
func TestFoundAnewUnbound(t *testing.T) {
	for _, moved := range []bool{true, false} {
		q := newQuorum(t)
		q.define(100, 0)
		f := q.folder(1)
		f.marks.readOnly = true
		must(t, q.do(lockquorum.DeviceID{99}, &lockquorum.Grant{Range: patients, Owner: f.self, Min: 1, Max: 5, Increment: 1}))
		before := q.copy()
		must(t, f.a.Tend(t.Context()))
		f.gives(t, "", 1)
		f.gives(t, "", 2)
		if moved {
			f.begin(copied)
		}
		q.founds(before, f)
		for range 2 {
			must(t, f.a.Tend(t.Context()))
		}
		if !moved {
			f.gives(t, "", 3)
			continue
		}
		if g, err := f.next(""); !errors.Is(err, ErrNone) {
			t.Errorf("it gives %d (%v)", g.Number, err)
		}
	}
}

// TestRandomFoundAnew: one folder that is moved, put back and cut short at random, and a quorum that is founded anew at random with a State of before: what the folder says of its parts,
// or the marks, keep each number to itself.
func TestRandomFoundAnew(t *testing.T) {
	for seed := range uint64(60) {
		q := newQuorum(t)
		w := &world{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 2)), q: q, given: map[int64]string{}}
		q.define(5000, 5)
		f := &kept{folder: q.folder(1), items: map[string]int64{}}
		w.folders = []*kept{f}
		before := q.copy()
		q.lose = func() int { return max(0, w.rng.IntN(12)-9) }
		for range 300 {
			switch k := w.rng.IntN(60); {
			case k < 30:
				w.give(f)
			case k < 36:
				_ = f.a.Tend(t.Context())
			case k == 36:
				lo := int64(5*w.rng.IntN(60) + 1) // as a device takes them: a part with another beginning has another mark
				_ = q.do(lockquorum.DeviceID{99}, &lockquorum.Grant{Range: patients, Owner: f.self, Min: lo, Max: lo + 4, Increment: 1 + int64(w.rng.IntN(2))})
			case k == 37:
				before = q.copy()
			case k == 38:
				st, err := lockquorum.Restore(before.Snapshot())
				must(t, err)
				q.founds(st, f.folder)
				before = q.copy()
			case k == 39:
				i := f.image()
				f.backup, f.backed = &i, copyOf(f.items)
			case k == 40 && f.backup != nil:
				f.putBack(*f.backup, true)
				f.items, f.backup = copyOf(f.backed), nil // put back once more, it would not know of the log that it began
			case k == 41 && f.backup == nil:
				f.begin(rebuilt)
			case k == 42 && f.backup == nil:
				f.begin(copied)
			case k == 43:
				f.crash()
			}
		}
		if len(w.given) < 30 {
			t.Errorf("seed %d: %d numbers were given, %d steps refused", seed, len(w.given), w.refused)
		}
	}
}

// TestMarksHidden: while it cannot be read whether a part was used before, none is thrown away.
func TestMarksHidden(t *testing.T) {
	q := newQuorum(t)
	q.define(100, 5)
	f := q.folder(1)
	f.marks.hidden = true
	for range 3 {
		if err := f.a.Refill(t.Context(), patients); !errors.Is(err, ErrMark) {
			t.Errorf("asked for more: %v", err)
		}
	}
	f.marks.hidden = false
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1)
	if parts := q.st.Range(patients); len(parts) != 1 {
		t.Errorf("%d parts were taken", len(parts))
	}
}
