package chunk

import (
	"bytes"
	"errors"
	"math/bits"
	"runtime"
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

func FuzzUnpack(f *testing.F) {
	var seeds [][]byte
	for _, n := range []int{0, 10, 1000} {
		packed, err := pack(bytes.Repeat([]byte("ab"), n), 0)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, packed)
	}
	seeds = append(seeds, craft(0, 3, []byte("abc")))
	if len(seeds) == 0 {
		f.Fatal("no seeds")
	}
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		plain, err := unpack(b, 0)
		if err != nil {
			return
		}
		if len(plain) > MaxBody {
			t.Fatal("over the cap")
		}
		// The same content has one packed form per method and compressed data.
		r := wire.NewReader(b)
		method, size, data := r.Byte(), r.Uvarint(MaxBody), r.Blob(MaxBody)
		if !bytes.Equal(craft(method, size, data), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}

func FuzzParseChanges(f *testing.F) {
	c := &Changes{
		Document: [32]byte{1}, TimeMillis: -5, Author: "Ärztin", Origin: OriginImport,
		Changes:    []Change{{Branch: 0, Raw: []byte("one")}, {Branch: 2, Raw: []byte("two")}},
		Authorship: []Authorship{{Branch: 0, Seq: 1}, {Branch: 2, Seq: 300, Newest: [32]byte{9}}},
	}
	var w wire.Writer
	c.append(&w)
	if _, err := parseChanges(w.Bytes()); err != nil {
		f.Fatal(err)
	}
	f.Add(w.Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []Kind{KindChanges, KindDecision} {
			body, err := parseBody(kind, b)
			if err != nil {
				continue
			}
			var w wire.Writer
			body.append(&w)
			if !bytes.Equal(w.Bytes(), b) {
				t.Fatal("does not re-encode to the same bytes")
			}
		}
	})
}

func TestSetModulusIsPrime(t *testing.T) {
	if setModulus.BitLen() != 8*SetHashSize || !setModulus.ProbablyPrime(4) {
		t.Error("the modulus of the set hash is not a prime of its size")
	}
}
