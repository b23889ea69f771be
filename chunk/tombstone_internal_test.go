package chunk

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"reflect"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

func someErasure() *Erasure {
	return &Erasure{
		Document:   [32]byte{1},
		Covers:     Covers{{Run: Run{Log: LogID{2}, From: 3, To: 4, Last: ID{4}}, Tips: []Tip{{2}, {3}}}, {Run: Run{Log: LogID{5}, From: 1, To: 1, Last: ID{1}}, Tips: []Tip{{}}}},
		TimeMillis: 1_800_000_000_000, User: "Dr. Özil", Reason: "kept long enough",
	}
}

func someAssent(root bool) *Assent {
	a := &Assent{Document: [32]byte{1}, Erasure: Place{LogID{2}, 7, ID{9}}, TimeMillis: -5, User: "Dr. Klein"}
	if root {
		a.Root = RootWord{trust.DeviceID{3}, [64]byte{4}}
	}
	return a
}

// parts returns a body as it is sealed, and its clear part.
func parts(b Body) (sealed, clear []byte) {
	var w wire.Writer
	b.append(&w)
	return w.Bytes(), b.(clearer).clear()
}

// TestTombstone: what an order and an assent say comes back, each byte of it counts, and the order says nothing of who and why when it is printed.
func TestTombstone(t *testing.T) {
	for _, want := range []Body{someErasure(), someAssent(false), someAssent(true)} {
		body, clear := parts(want)
		if got, err := parseTombstone(body, clear); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%#v came back as %#v, %v", want, got, err)
		}
		for i := range body {
			if _, err := parseTombstone(body[:i], clear); err == nil {
				t.Errorf("the first %d bytes of %v parse", i, want)
			}
		}
		for i := 1; i < len(clear); i++ {
			if _, err := parseTombstone(body, clear[:i]); !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("the first %d bytes of the clear part of %v: %v", i, want, err)
			}
		}
		if _, err := parseTombstone(append(bytes.Clone(body), 0), clear); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a byte more in %v: %v", want, err)
		}
		if _, err := parseTombstone(body, append(bytes.Clone(clear), 0)); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("a byte more in the clear part of %v: %v", want, err)
		}
		later := bytes.Clone(body)
		later[32] = tombstoneVersion + 1
		if _, err := parseTombstone(later, clear); !errors.Is(err, ErrNewer) {
			t.Errorf("a later version of %v: %v", want, err)
		}
		other := bytes.Clone(clear)
		other[0] = 77
		if _, err := parseTombstone(body, other); !errors.Is(err, ErrNewer) {
			t.Errorf("another form of %v: %v", want, err)
		}
		if _, err := parseTombstone(body, nil); !errors.Is(err, ErrNewer) {
			t.Errorf("%v without a clear part: %v", want, err)
		}
	}
	e := someErasure()
	if got := e.String(); strings.Contains(got, e.User) || strings.Contains(got, e.Reason) {
		t.Error("an order prints who gave it and why")
	}
	for name, bend := range map[string]func(*Erasure){
		"nothing":      func(e *Erasure) { e.Covers = nil },
		"out of order": func(e *Erasure) { e.Covers[0], e.Covers[1] = e.Covers[1], e.Covers[0] },
		"a long user":  func(e *Erasure) { e.User = strings.Repeat("x", MaxAuthor+1) },
		"two lines":    func(e *Erasure) { e.Reason = "a\nb" },
		"a long run": func(e *Erasure) {
			run := &e.Covers[len(e.Covers)-1]
			run.To, run.Tips = run.From+MaxParts, append(run.Tips[:1:1], make([]Tip, MaxParts)...)
		},
	} {
		e := someErasure()
		bend(e)
		body, clear := parts(e)
		if _, err := parseTombstone(body, clear); e.check() == nil || !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v, %v", name, e.check(), err)
		}
	}
}

// TestRootWord: a root key's signature is of one order.
func TestRootWord(t *testing.T) {
	key := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	order := ID{1}
	w := RootWord{trust.DeviceID(key.Public().(ed25519.PublicKey)), [64]byte(ed25519.Sign(key, trust.SigningInput(trust.ContextErasure, order[:])))}
	if !w.Verify(ID{1}) || w.Verify(ID{2}) || (RootWord{}).Verify(ID{1}) {
		t.Error("a root key's word is not of its order alone")
	}
	w.Root[0] ^= 1
	if w.Verify(ID{1}) {
		t.Error("another key signed")
	}
}

func FuzzParseTombstone(f *testing.F) {
	named := someErasure()
	named.Reason = fuzzing.Canary
	for _, b := range []Body{named, someAssent(true), someAssent(false)} {
		body, clear := parts(b)
		f.Add(body, clear)
		f.Add(body[:len(body)-1], clear)
	}
	body, clear := parts(someErasure())
	f.Add(body, append(clear[:1:1], 0xff, 0xff, 1)) // claims runs that do not come
	f.Fuzz(func(t *testing.T, body, clear []byte) {
		var b Body
		var err error
		fuzzing.Allocates(t, len(body)+len(clear), 8, 16<<10, func() { b, err = parseTombstone(body, clear) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if again, clearAgain := parts(b); !bytes.Equal(again, body) || !bytes.Equal(clearAgain, clear) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
