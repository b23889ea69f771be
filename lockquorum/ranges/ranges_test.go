package ranges

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/storage"
)

// TestNext: a device asks for its first part, gives its numbers without a quorum, and an item has one number.
func TestNext(t *testing.T) {
	q := newQuorum(t)
	f := q.folder(1)
	if _, err := f.next(""); !errors.Is(err, ErrNone) {
		t.Errorf("without a part: %v", err)
	}
	q.define(100, 20)
	must(t, f.a.Refill(t.Context(), patients))
	must(t, f.a.Refill(t.Context(), patients)) // by two who found none at one time
	if n := len(q.st.Range(patients)); n != 1 {
		t.Errorf("%d parts were taken", n)
	}
	q.away = true
	f.gives(t, "Patient/a", 1)
	f.gives(t, "", 2)
	if g := f.gives(t, "Patient/a", 1); !g.Again || g.Left != 18 || g.Low {
		t.Errorf("asked again: %+v", g)
	}
	f.crash()
	f.gives(t, "Patient/a", 1)
	for n := int64(3); n <= 17; n++ {
		f.gives(t, "", n)
	}
	if g := f.gives(t, "Patient/b", 18); !g.Low || g.Left != 2 {
		t.Errorf("with two of twenty left: %+v", g)
	}
	f.gives(t, "", 19)
	f.gives(t, "", 20)
	if _, err := f.next(""); !errors.Is(err, ErrNone) {
		t.Errorf("after the last: %v", err)
	}
	f.gives(t, "Patient/b", 18)
	list, err := f.a.Numbers(patients)
	if err != nil || len(list) != 20 || list[17].Number != 18 || list[17].Item != "Patient/b" || list[1].Item != "" {
		t.Errorf("it knows %+v (%v)", list, err)
	}
}

// TestTend: where little is left a part more is taken, and what was set aside; not by a device that never gave a number.
func TestTend(t *testing.T) {
	q := newQuorum(t)
	q.define(100, 10)
	f, other := q.folder(1), q.folder(2)
	must(t, f.a.Tend(t.Context()))
	must(t, other.a.Tend(t.Context()))
	if n := len(q.st.Range(patients)); n != 0 {
		t.Fatalf("%d parts were taken that nobody asked for", n)
	}
	must(t, f.a.Refill(t.Context(), patients))
	for n := int64(1); n <= 8; n++ {
		f.gives(t, "", n)
		must(t, f.a.Tend(t.Context()))
	}
	if n := len(q.st.Range(patients)); n != 1 {
		t.Errorf("with two of ten left it has %d parts", n)
	}
	f.gives(t, "", 9)
	for range 3 {
		must(t, f.a.Tend(t.Context()))
	}
	if n := len(q.st.Range(patients)); n != 2 {
		t.Errorf("with one of ten left it has %d parts", n)
	}
	must(t, q.do(lockquorum.DeviceID{99}, &lockquorum.Grant{Range: patients, Owner: other.self, Min: 51, Max: 60, Increment: 2}))
	must(t, other.a.Tend(t.Context()))
	must(t, other.a.Tend(t.Context()))
	other.gives(t, "", 51)
	other.gives(t, "", 53)
	f.gives(t, "", 10)
	f.gives(t, "", 11)
}

// TestCrash: whatever a process was about when it ended, no number is given twice, and an item has the one that it was given.
func TestCrash(t *testing.T) {
	for _, stage := range []storage.Stage{storage.Begin, storage.Applied, storage.Synced} {
		for at := 1; at <= 8; at++ {
			t.Run(fmt.Sprintf("%v of commit %d", stage, at), func(t *testing.T) {
				q := newQuorum(t)
				q.define(100, 3)
				f := q.folder(1)
				commits, crashed := 0, false
				f.store.OnCommit(func(s storage.Stage, _ int) error {
					if s == storage.Begin {
						commits++
					}
					if commits == at && s == stage && !crashed {
						crashed = true
						return errReadOnly
					}
					return nil
				})
				told := map[int64]string{}
				for i := range 6 {
					name := fmt.Sprintf("Patient/%d", i)
					for try := 0; ; try++ {
						g, err := f.next(name)
						if errors.Is(err, ErrNone) {
							err = f.a.Refill(t.Context(), patients)
						} else if err == nil {
							if who := told[g.Number]; who != "" && who != name {
								t.Fatalf("%d is given to %s and to %s", g.Number, who, name)
							}
							told[g.Number] = name
							break
						}
						if err != nil {
							f.crash()
						}
						if try > 5 {
							t.Fatalf("it gives none: %v", err)
						}
					}
				}
				if !crashed && stage != storage.Begin {
					t.Fatalf("there were %d commits", commits)
				}
				if len(told) != 6 || len(q.st.Range(patients)) != 2 {
					t.Errorf("%d numbers of %d parts", len(told), len(q.st.Range(patients)))
				}
			})
		}
	}
}

// TestAskedAgain: a part whose answer was lost is the one that the device has when it asks again, and no second one is taken.
func TestAskedAgain(t *testing.T) {
	for lose := 1; lose <= 2; lose++ {
		q := newQuorum(t)
		q.define(100, 10)
		f := q.folder(1)
		lost := false
		q.lose = func() int {
			if lost {
				return 0
			}
			lost = true
			return lose
		}
		if err := f.a.Refill(t.Context(), patients); !errors.Is(err, errAway) {
			t.Fatalf("it answers %v", err)
		}
		f.crash()
		must(t, f.a.Refill(t.Context(), patients))
		f.gives(t, "", 1)
		if n := len(q.st.Range(patients)); n != 1 {
			t.Errorf("%d parts were taken", n)
		}
	}
}

// TestPutBack: a folder that was put back from a copy gives no number again. What is left of its part is void from the first number on that was not given,
// where the mark says which that is.
func TestPutBack(t *testing.T) {
	for _, marked := range []bool{true, false} {
		for _, shown := range []bool{true, false} {
			if !marked && !shown {
				continue // nobody can tell
			}
			t.Run(fmt.Sprintf("marks %v, shown %v", marked, shown), func(t *testing.T) {
				q := newQuorum(t)
				q.define(100, 20)
				f := q.folder(1)
				must(t, f.a.Refill(t.Context(), patients))
				f.gives(t, "Patient/a", 1)
				f.gives(t, "Patient/b", 2)
				old := f.image()
				f.gives(t, "Patient/c", 3)
				f.gives(t, "Patient/d", 4)
				if !marked {
					clear(f.marks.at)
				}
				f.putBack(old, shown)
				if _, err := f.next("Patient/e"); !errors.Is(err, ErrNone) {
					t.Fatalf("it gives a number again (%v)", err)
				}
				f.gives(t, "Patient/b", 2) // that is still known
				parts, err := f.a.Parts()
				must(t, err)
				must(t, f.a.Tend(t.Context()))
				f.gives(t, "Patient/e", 21)
				p, want := q.st.Range(patients)[0], int64(21)
				if marked && shown {
					want = 5
				}
				if !p.Void || p.From != want {
					t.Errorf("the part is %+v, want it void from %d", p, want)
				}
				if len(parts) != 1 || parts[0].Void != p.Void || parts[0].From != p.From || parts[0].Owner != f.self || parts[0].Log != p.Log || parts[0].Next != 3 || parts[0].Left() != 0 {
					t.Errorf("it says of its parts %+v", parts)
				}
			})
		}
	}
}

// TestClone: a copy of a folder gives numbers of its own, and the folder that it was made of goes on until it hears that its part is void.
func TestClone(t *testing.T) {
	q := newQuorum(t)
	q.define(200, 20)
	f := q.folder(1)
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1)
	c := f.clone(f.image())
	f.gives(t, "", 2)
	if _, err := c.next(""); !errors.Is(err, ErrNone) {
		t.Fatalf("the copy gives a number (%v)", err)
	}
	must(t, c.a.Tend(t.Context()))
	c.gives(t, "", 21)
	f.gives(t, "", 3)
	if p := q.st.Range(patients)[0]; !p.Void || p.From != 21 {
		t.Errorf("the part is %+v, and it is not known which numbers of it were given", p)
	}
	for range 3 { // neither takes what the other has
		must(t, f.a.Tend(t.Context()))
		must(t, c.a.Tend(t.Context()))
	}
	f.gives(t, "", 41)
	c.gives(t, "", 22)
	if n := len(q.st.Range(patients)); n != 3 {
		t.Errorf("there are %d parts", n)
	}
}

// TestLaterParts: a folder that was put back gives back the parts too that it had after the copy was made, once: the folder of before may go on, and take more.
func TestLaterParts(t *testing.T) {
	q := newQuorum(t)
	q.define(200, 20)
	f := q.folder(1)
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1)
	old := f.image()
	for n := int64(2); n <= 19; n++ {
		f.gives(t, "", n)
	}
	must(t, f.a.Tend(t.Context()))
	f.gives(t, "", 20)
	f.gives(t, "", 21)
	c := f.clone(old)
	must(t, c.a.Tend(t.Context()))
	c.gives(t, "", 41)
	if p := q.st.Range(patients); !p[0].Void || p[0].From != 21 || !p[1].Void || p[1].From != 41 {
		t.Errorf("parts %+v", p)
	}
	must(t, f.a.Tend(t.Context())) // it was not gone
	f.gives(t, "", 61)
	must(t, c.a.Tend(t.Context()))
	if p := q.st.Range(patients); len(p) != 4 || p[3].Void {
		t.Errorf("parts %+v", p)
	}
}

// TestSameFolder: a log that is begun since chunks of the one before were damaged changes nothing: the folder is the same.
func TestSameFolder(t *testing.T) {
	q := newQuorum(t)
	q.define(100, 20)
	f := q.folder(1)
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1)
	f.due = true
	if _, err := f.next(""); !errors.Is(err, ErrNotReady) {
		t.Errorf("while a log is to begin: %v", err)
	}
	if err := f.a.Tend(t.Context()); !errors.Is(err, ErrNotReady) {
		t.Errorf("while a log is to begin: %v", err)
	}
	if _, err := f.a.Parts(); !errors.Is(err, ErrNotReady) {
		t.Errorf("while a log is to begin: %v", err)
	}
	f.due = false
	f.begin(rebuilt)
	f.open()
	must(t, f.a.Tend(t.Context()))
	f.gives(t, "", 2)
	if p := q.st.Range(patients); len(p) != 1 || p[0].Void {
		t.Errorf("parts %+v", p)
	}
}

// TestLostRecord: of a part of which the store has lost how far it was used, nothing is given.
func TestLostRecord(t *testing.T) {
	q := newQuorum(t)
	q.define(100, 20)
	f := q.folder(1)
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1)
	clear(f.marks.at)
	f.store = storage.NewTwin()
	f.open()
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 21)
	must(t, f.a.Tend(t.Context()))
	if p := q.st.Range(patients)[0]; !p.Void || p.From != 21 {
		t.Errorf("the part is %+v", p)
	}
}

// TestTakenBack: of a part that an administrator took back, or that a quorum founded anew does not know, nothing more is given.
func TestTakenBack(t *testing.T) {
	for _, how := range []string{"void", "founded anew", "founded anew, and divided otherwise"} {
		t.Run(how, func(t *testing.T) {
			q := newQuorum(t)
			q.define(100, 20)
			f := q.folder(1)
			must(t, f.a.Refill(t.Context(), patients))
			f.gives(t, "", 1)
			switch how {
			case "void":
				must(t, q.do(lockquorum.DeviceID{99}, &lockquorum.Void{Range: patients, Min: 1, From: 21}))
			default:
				q.st = lockquorum.New(2)
				if how != "founded anew" {
					q.st.Adopt(patients, lockquorum.Part{Min: 1, Max: 5, Increment: 1, Owner: f.self, Log: f.logs[0].id})
				}
				q.define(100, 0)
			}
			must(t, f.a.Tend(t.Context()))
			if how == "void" {
				f.gives(t, "", 21)
			} else if _, err := f.next(""); !errors.Is(err, ErrNone) {
				t.Errorf("it gives a number (%v)", err)
			}
		})
	}
}

// TestMarks: a number is not told while the mark says less than was told, and cannot be changed.
func TestMarks(t *testing.T) {
	q := newQuorum(t)
	q.define(100, 20)
	f := q.folder(1)
	f.marks.readOnly = true
	must(t, f.a.Refill(t.Context(), patients))
	f.gives(t, "", 1) // there is no mark, and none says less
	f.marks.readOnly = false
	f.gives(t, "", 2)
	f.marks.readOnly = true
	for range 2 {
		if _, err := f.next("Patient/a"); !errors.Is(err, ErrMark) {
			t.Errorf("it tells a number (%v)", err)
		}
	}
	f.marks.readOnly = false
	f.gives(t, "Patient/a", 3)
	f.crash()
	f.gives(t, "", 4)
	if got := f.marks.at[Place{patients, f.logs[0].id, 1}]; got != 5 {
		t.Errorf("the mark says %d", got)
	}
}

// TestFiles: a mark comes back, one of another part is another, and what was altered is none.
func TestFiles(t *testing.T) {
	m := Files{Dir: filepath.Join(t.TempDir(), "state"), Device: lockquorum.DeviceID{1}}
	at, other := Place{patients, [32]byte{1}, 1}, Place{patients, [32]byte{2}, 1}
	if _, ok, err := m.Read(at); ok || err != nil {
		t.Errorf("before: %v, %v", ok, err)
	}
	must(t, m.Remove(at))
	must(t, m.Write(at, 7))
	must(t, m.Write(at, 8))
	must(t, m.Write(other, 3))
	if n, ok, err := m.Read(at); n != 8 || !ok || err != nil {
		t.Errorf("it says %d, %v, %v", n, ok, err)
	}
	must(t, m.Remove(at))
	if n, ok, err := m.Read(at); ok || err != nil {
		t.Errorf("removed, it says %d, %v, %v", n, ok, err)
	}
	if n, ok, err := m.Read(other); n != 3 || !ok || err != nil {
		t.Errorf("the other says %d, %v, %v", n, ok, err)
	}
	if _, err := parseMark(append(encodeMark(3), '\n')); err == nil {
		t.Error("a mark with something behind it is taken")
	}
}

func TestPerDay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		var list []Number
		if got := PerDay(list, now); got != 0 {
			t.Errorf("of none %v", got)
		}
		for i := range 60 { // two a day, the last one now
			list = append(list, Number{At: now.Add(-12 * time.Hour * time.Duration(i))})
		}
		if got := PerDay(list[:1], now); got != 1 {
			t.Errorf("of one today %v", got)
		}
		if got := PerDay(list[:20], now); got < 2 || got > 2.2 {
			t.Errorf("of ten days %v", got)
		}
		if got := PerDay(list, now.Add(10*24*time.Hour)); got < 1.3 || got > 1.4 {
			t.Errorf("of twenty days among thirty %v", got)
		}
	})
}

// TestNothingTwice: whatever folders of three devices go through, no number is given twice, an item has one number within a folder, and what a void part
// says was not given was not.
func TestNothingTwice(t *testing.T) {
	seeds := uint64(100)
	if n, err := strconv.ParseUint(os.Getenv("SIM_SEEDS"), 10, 32); err == nil && os.Getenv("HEAVY") != "" {
		seeds = n
	}
	for seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 75))
		q := newQuorum(t)
		q.define(2000, int64(3+rng.IntN(8)))
		q.lose = func() int {
			if rng.IntN(10) == 0 {
				return 1 + rng.IntN(2)
			}
			return 0
		}
		w := &world{t: t, seed: seed, rng: rng, q: q, given: map[int64]string{}}
		for i := range 3 {
			w.folders = append(w.folders, &kept{folder: q.folder(byte(i + 1)), items: map[string]int64{}})
		}
		for range 400 {
			w.step()
		}
		for _, p := range q.st.Range(patients) {
			for n := p.From; p.Void && n <= p.Max; n++ {
				if who, was := w.given[n]; was {
					t.Fatalf("seed %d: part %+v says that %d was not given, and %s was", seed, p, n, who)
				}
			}
		}
		if len(w.given) < 50 {
			t.Errorf("seed %d: %d numbers were given, %d steps refused", seed, len(w.given), w.refused)
		}
	}
}

// kept is a folder with what it is expected to know.
type kept struct {
	*folder
	items  map[string]int64
	backup *image
	backed map[string]int64
}

type world struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	q       *quorum
	folders []*kept
	given   map[int64]string
	refused int
	away    int // for how many steps the quorum cannot be reached
}

func (w *world) step() {
	f := w.folders[w.rng.IntN(len(w.folders))]
	w.away--
	w.q.away = w.away > 0
	if w.rng.IntN(3) == 0 { // the disk fails at some stage of the next commit
		stage := storage.Stage(1 + w.rng.IntN(3))
		f.store.OnCommit(func(s storage.Stage, _ int) error {
			if s == stage {
				return errReadOnly
			}
			return nil
		})
		defer f.crash()
	}
	switch k := w.rng.IntN(60); {
	case k < 24:
		w.give(f)
	case k < 28:
		_ = f.a.Tend(w.t.Context())
	case k < 32:
		_ = f.a.Refill(w.t.Context(), patients)
	case k == 32:
		w.away = w.rng.IntN(20)
	case k == 33:
		i := f.image()
		f.backup, f.backed = &i, copyOf(f.items)
	case k == 34 && f.backup != nil:
		shown := w.rng.IntN(3) > 0
		lost := shown && w.rng.IntN(3) == 0 // what says that it went back need not be what says how far it was
		for at := range f.marks.at {
			if lost && f.continues(at.Log) {
				delete(f.marks.at, at)
			}
		}
		f.putBack(*f.backup, shown)
		if f.items = copyOf(f.backed); lost { // nothing would say so if it was put back once more
			f.backup = nil
		}
	case k == 35 && f.backup != nil && len(w.folders) < 6:
		w.folders = append(w.folders, &kept{folder: f.clone(*f.backup), items: copyOf(f.backed)})
	case k == 36:
		f.begin(rebuilt)
	case k == 37:
		lo := int64(w.rng.IntN(2000) + 1)
		_ = w.q.do(lockquorum.DeviceID{99}, &lockquorum.Grant{Range: patients, Owner: f.self, Min: lo, Max: min(2000, lo+int64(w.rng.IntN(5))), Increment: 1 + int64(w.rng.IntN(2))})
	case k == 38:
		if list := w.q.st.Range(patients); len(list) > 0 {
			p := list[w.rng.IntN(len(list))]
			_ = w.q.do(lockquorum.DeviceID{99}, &lockquorum.Void{Range: patients, Min: p.Min, From: p.Max + 1})
		}
	case k == 39:
		f.crash()
	}
}

func (w *world) give(f *kept) {
	name := ""
	if w.rng.IntN(2) == 0 {
		name = fmt.Sprintf("Patient/%d", w.rng.IntN(40))
	}
	g, err := f.next(name)
	if errors.Is(err, ErrNone) && f.a.Refill(w.t.Context(), patients) == nil {
		g, err = f.next(name)
	}
	if err != nil {
		w.refused++
		return
	}
	had, known := f.items[name]
	if name != "" && known && had != g.Number {
		w.t.Fatalf("seed %d: %s has %d and %d", w.seed, name, had, g.Number)
	}
	if name != "" {
		f.items[name] = g.Number
	}
	if who, twice := w.given[g.Number]; twice && !g.Again {
		w.t.Fatalf("seed %d: %d is given twice, to %q and %q", w.seed, g.Number, who, name)
	}
	w.given[g.Number] = fmt.Sprintf("%x %s", f.self[0], name)
}

func copyOf(m map[string]int64) map[string]int64 {
	c := map[string]int64{}
	for k, v := range m {
		c[k] = v
	}
	return c
}
