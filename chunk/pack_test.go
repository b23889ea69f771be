package chunk

import (
	"bytes"
	"cmp"
	"errors"
	"math/bits"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"

	"chartmesh/wire"
)

func TestPadme(t *testing.T) {
	last := 0
	lengths := map[int]bool{}
	for n := 2; n < 1<<16; n++ {
		p := padme(n)
		if p < n || p > n+n/8+1 || p < last || padme(p) != p {
			t.Fatalf("padme(%d) = %d", n, p)
		}
		last = p
		lengths[p] = true
	}
	if len(lengths) > 16*8*2 {
		t.Errorf("%d lengths show up to 64 KiB", len(lengths))
	}
	if padme(0) != 0 || padme(1) != 1 || bits.Len(uint(padme(1<<24))) != 25 {
		t.Error("padme at its ends")
	}
}

func TestPackUnpack(t *testing.T) {
	for _, n := range []int{0, 1, 2, 63, 64, 1000, 4096, 4097, 1 << 20, MaxBody} {
		plain := bytes.Repeat([]byte("Observation/1 "), n/14+1)[:n]
		packed, err := pack(plain, 0)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := unpack(packed, 0); err != nil || !bytes.Equal(got, plain) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
	if _, err := pack(make([]byte, MaxBody+1), 0); !errors.Is(err, ErrTooLarge) {
		t.Errorf("over the cap: %v", err)
	}
}

// craft packs data as a hostile author would.
func craft(method byte, size uint64, data []byte) []byte {
	var w wire.Writer
	w.Byte(method)
	w.Uvarint(size)
	w.Blob(data)
	w.Raw(make([]byte, padme(len(w.Bytes()))-len(w.Bytes())))
	return w.Bytes()
}

func TestUnpackRefuses(t *testing.T) {
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	kilobyte := e.EncodeAll(make([]byte, 1<<10), nil)
	bomb := e.EncodeAll(make([]byte, 512<<20), nil)
	many := bytes.Repeat(kilobyte, 1000)
	notStated := func() []byte { // a frame that does not state its content's size
		var b bytes.Buffer
		w, err := zstd.NewWriter(&b, zstd.WithSingleSegment(false))
		if err != nil {
			t.Fatal(err)
		}
		for range 64 {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}()
	unpadded := craft(0, 3, []byte("abc"))
	dirty := craft(0, 62, make([]byte, 62))
	if len(dirty) != 72 {
		t.Fatal("the example has no padding")
	}
	dirty[len(dirty)-1] = 1
	for name, b := range map[string][]byte{
		"empty":                         {},
		"unknown method":                craft(2, 3, []byte("abc")),
		"stored, other length":          craft(0, 4, []byte("abc")),
		"longer than said":              craft(1, 500, kilobyte),
		"shorter than said":             craft(1, 2000, kilobyte),
		"over the cap":                  craft(1, MaxBody+1, kilobyte),
		"bomb, said small":              craft(1, 1<<20, bomb),
		"bomb, said at the cap":         craft(1, MaxBody, bomb),
		"many frames":                   craft(1, 1<<10, many),
		"frame without a content size":  craft(1, 1<<10, notStated),
		"no frame":                      craft(1, 100, []byte("abc")),
		"compressed larger than plain":  craft(1, 3, kilobyte),
		"padding longer than PADMÉ has": append(unpadded, 0),
		"padding not zero":              dirty,
		"cut":                           craft(1, 1<<10, kilobyte)[:10],
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := unpack(b, 0)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: unpacks", name)
		}
		if used := after.TotalAlloc - before.TotalAlloc; used > MaxBody+8<<20 {
			t.Errorf("%s: allocated %d bytes", name, used)
		}
	}
}

func sampleCheckpoint() *Checkpoint {
	logs := []LogKey{{Device: [32]byte{1}}, {Device: [32]byte{1}, Nonce: [16]byte{2}}}
	return &Checkpoint{
		Document: [32]byte{7}, Logs: logs,
		Covers: runsOf(Run{logs[0].ID(), 3, 4, ID{4}}, Run{logs[0].ID(), 9, 9, ID{9}}, Run{logs[1].ID(), 1, 2, ID{2}}),
		Parts: []Part{
			{Spot: Spot{0, 3}, Schema: 1, TimeMillis: -1, Author: "Ärztin", Origin: OriginImport, Changes: []Change{{0, []byte("one")}}},
			{Spot: Spot{1, 2}, Schema: 2, Origin: OriginEdit, Changes: []Change{{0, []byte("two")}, {3, []byte("three")}}},
			{Spot: Spot{0, 4}, Schema: 1, Origin: OriginDelete, Changes: []Change{{0, []byte("four")}}},
			{Spot: Spot{0, 6}, Schema: 1, Origin: OriginEdit, Changes: []Change{{0, []byte("kept where it is")}}},
		},
		Others: []Spot{{0, 9}, {1, 1}},
		Authorship: []Word{
			{0, Authorship{Branch: 0, Seq: 3, Newest: [32]byte{1}}},
			{1, Authorship{Branch: 0, Seq: 1}}, {1, Authorship{Branch: 3, Seq: 1}},
		},
	}
}

// sampleProtected is a checkpoint of a protected document.
func sampleProtected() *Checkpoint {
	c := sampleCheckpoint()
	c.Others = c.Others[:1]
	for _, n := range []uint64{1, 3} {
		c.Certificates = append(c.Certificates, Packed{Spot{1, n}, &Certificate{Document: c.Document, Statement: []byte("what a voter says"), Voter: [32]byte{8},
			Signature: [64]byte{byte(n)}, Heads: [][32]byte{{1}, {2}}}})
	}
	i := slices.IndexFunc(c.Covers, func(r Covered) bool { return r.Log == c.Logs[1].ID() })
	c.Covers[i].To, c.Covers[i].Tips = 3, append(c.Covers[i].Tips, Tip{2})
	return c
}

// TestProtectedCheckpointRefuses bends what only a protected document's checkpoint has.
func TestProtectedCheckpointRefuses(t *testing.T) {
	for name, bend := range map[string]func(*Checkpoint){
		"nothing is bent":        nil,
		"out of order":           func(c *Checkpoint) { slices.Reverse(c.Certificates) },
		"twice":                  func(c *Checkpoint) { c.Certificates[1] = c.Certificates[0] },
		"where a part is":        func(c *Checkpoint) { c.Certificates[1].Counter = 2 },
		"outside of the runs":    func(c *Checkpoint) { c.Certificates[1].Counter = 7 },
		"of another document":    func(c *Checkpoint) { c.Certificates[1].Certificate.Document[0]++ },
		"without a statement":    func(c *Checkpoint) { c.Certificates[1].Certificate.Statement = nil },
		"its heads out of order": func(c *Checkpoint) { slices.Reverse(c.Certificates[1].Certificate.Heads) },
		"of no log":              func(c *Checkpoint) { c.Certificates[1].Log = 9 },
		"covered, and left out":  func(c *Checkpoint) { c.Certificates = c.Certificates[:1] },
	} {
		c := sampleProtected()
		if bend != nil {
			bend(c)
		}
		var w wire.Writer
		c.append(&w)
		got, err := parseCheckpoint(w.Bytes(), c.clear())
		if bend == nil {
			if err != nil || c.check() != nil || !reflect.DeepEqual(got, c) {
				t.Errorf("%s: %v, %+v", name, err, got)
			}
			continue
		}
		if !errors.Is(err, wire.ErrMalformed) || c.check() == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := sampleCheckpoint()
	var w wire.Writer
	c.append(&w)
	w.Uvarint(0)
	if _, err := parseCheckpoint(w.Bytes(), c.clear()); !errors.Is(err, wire.ErrMalformed) {
		t.Errorf("no certificates, said: %v", err)
	}
}

func runsOf(runs ...Run) (covers Covers) {
	slices.SortFunc(runs, func(a, b Run) int { return cmp.Or(a.Log.Compare(b.Log), cmp.Compare(a.From, b.From)) })
	for _, r := range runs {
		c := Covered{Run: r}
		for n := r.From - 1; n < r.To; n++ {
			c.Tips = append(c.Tips, Tip{byte(n)})
		}
		covers = append(covers, c)
	}
	return covers
}

// TestCheckpointRefuses bends each thing that a checkpoint must be.
func TestCheckpointRefuses(t *testing.T) {
	for name, bend := range map[string]func(*Checkpoint){
		"nothing in it":          func(c *Checkpoint) { c.Parts = nil },
		"logs out of order":      func(c *Checkpoint) { slices.Reverse(c.Logs) },
		"a log that is not used": func(c *Checkpoint) { c.Logs = append(c.Logs, LogKey{Device: [32]byte{9}}) },
		"a part of no log":       func(c *Checkpoint) { c.Parts[0].Log = 2 },
		"a part twice":           func(c *Checkpoint) { c.Parts[2].Counter = 3 },
		"a part at no counter":   func(c *Checkpoint) { c.Parts[0].Counter = 0 },
		"a run without its tips": func(c *Checkpoint) { c.Covers[0].Tips = nil },
		"a tip too many":         func(c *Checkpoint) { c.Covers[0].Tips = append(c.Covers[0].Tips, Tip{1}) },
		"a tip before the first chunk": func(c *Checkpoint) {
			i := slices.IndexFunc(c.Covers, func(c Covered) bool { return c.From == 1 })
			c.Covers[i].Tips[0] = Tip{1}
		},
		"no tip before a later chunk": func(c *Checkpoint) {
			i := slices.IndexFunc(c.Covers, func(c Covered) bool { return c.From == 3 })
			c.Covers[i].Tips[0] = Tip{}
		},
		"a run without its parts": func(c *Checkpoint) {
			c.Covers[0].To++
			c.Covers[0].Tips = append(c.Covers[0].Tips, Tip{9})
		},
		"a run out of order":           func(c *Checkpoint) { slices.Reverse(c.Covers) },
		"a run at no counter":          func(c *Checkpoint) { c.Covers[0].From = 0 },
		"a part without changes":       func(c *Checkpoint) { c.Parts[1].Changes = nil },
		"an empty change":              func(c *Checkpoint) { c.Parts[1].Changes[0].Raw = nil },
		"an author in no encoding":     func(c *Checkpoint) { c.Parts[1].Author = "\xff" },
		"no origin":                    func(c *Checkpoint) { c.Parts[1].Origin = 0 },
		"another place not covered":    func(c *Checkpoint) { c.Others[0].Counter = 8 },
		"other places out of order":    func(c *Checkpoint) { slices.Reverse(c.Others) },
		"an actor without a signature": func(c *Checkpoint) { c.Authorship = c.Authorship[:2] },
		"a signature of nobody":        func(c *Checkpoint) { c.Authorship[2].Branch = 4 },
		"signatures out of order":      func(c *Checkpoint) { slices.Reverse(c.Authorship) },
		"two runs that touch": func(c *Checkpoint) {
			i := slices.IndexFunc(c.Covers, func(c Covered) bool { return c.From == 3 })
			c.Covers = slices.Insert(c.Covers, i+1, Covered{Run{c.Covers[i].Log, 4, 4, ID{}}, []Tip{{3}}})
			c.Covers[i].To, c.Covers[i].Tips = 3, []Tip{{2}}
		},
	} {
		c := sampleCheckpoint()
		bend(c)
		var w wire.Writer
		c.append(&w)
		if _, err := parseCheckpoint(w.Bytes(), c.clear()); !errors.Is(err, wire.ErrMalformed) || c.check() == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRunsFind(t *testing.T) {
	a, b := LogID{1}, LogID{2}
	runs := runsOf(Run{a, 2, 3, ID{30}}, Run{a, 7, 7, ID{}}, Run{b, 1, 9, ID{}})
	for _, c := range []struct {
		log     LogID
		counter uint64
		want    bool
	}{{a, 1, false}, {a, 2, true}, {a, 3, true}, {a, 4, false}, {a, 7, true}, {a, 8, false}, {b, 1, true}, {b, 9, true}, {b, 10, false},
		{LogID{3}, 1, false}, {LogID{}, 7, false}} {
		if runs.Holds(c.log, c.counter) != c.want {
			t.Errorf("log %v, counter %d: not %v", c.log, c.counter, c.want)
		}
	}
	if runs.Len() != 12 {
		t.Errorf("%d chunks", runs.Len())
	}
	run, _ := runs.Find(a, 3)
	for counter, want := range map[uint64]Tip{1: {1}, 2: {2}, 3: {30}} {
		if tip, ok := run.TipAt(counter); !ok || tip != want {
			t.Errorf("the tip at %d is %x, %v", counter, tip, ok)
		}
		if at := (Position{counter, want}); run.Joins(at) != (counter < 3) {
			t.Errorf("a log at %d joins: %v", counter, run.Joins(at))
		}
		if run.Joins(Position{counter, Tip{77}}) {
			t.Errorf("another history joins at %d", counter)
		}
	}
	for _, counter := range []uint64{0, 4} {
		if _, ok := run.TipAt(counter); ok {
			t.Errorf("there is a tip at %d", counter)
		}
	}
}

func TestSetModulusIsPrime(t *testing.T) {
	if setModulus.BitLen() != 8*SetHashSize || !setModulus.ProbablyPrime(4) {
		t.Error("the modulus of the set hash is not a prime of its size")
	}
}
