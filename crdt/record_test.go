package crdt

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
	"chartmesh/wire"
)

func savedRecords(t testing.TB) (saved [][]byte) {
	x := NewIndex(DocumentID{})
	w := newWorld(rand.New(rand.NewPCG(2, 2)))
	add := func(c *Change) {
		r := judged(t, x, c)
		if err := x.Add(r); err != nil {
			t.Fatal(err)
		}
		b, err := r.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		saved = append(saved, b)
	}
	for range 20 {
		add(w.step(t))
	}
	x = NewIndex(DocumentID{})
	add(baseChange())
	x = NewIndex(DocumentID{})
	add(bundle(3))
	return saved
}

// checkParse: what parses comes out the same again, and answers without panic.
func checkParse(t *testing.T, b []byte) bool {
	r, err := ParseRecord(b)
	if err != nil {
		if !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("ParseRecord: %v", err)
		}
		return false
	}
	if again, _ := r.AppendBinary(nil); !bytes.Equal(again, b) {
		t.Errorf("parsed %x, saved %x", b, again)
	}
	for _, counter := range []uint64{r.StartOp, r.StartOp + r.Count/2, r.Last()} {
		if _, ok := r.Key(counter); !ok {
			t.Errorf("operation %d of %x has no resource", counter, b)
		}
	}
	return true
}

func TestParseRecordOfBentBytes(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	saved := savedRecords(t)
	parsed := 0
	for range 30_000 {
		b := slices.Clone(saved[rng.IntN(len(saved))])
		switch rng.IntN(5) {
		case 0:
			b = b[:rng.IntN(len(b))]
		case 1:
			b = slices.Insert(b, rng.IntN(len(b)+1), byte(rng.Uint32()))
		default:
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
		if checkParse(t, b) {
			parsed++
		}
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if parsed == 0 {
		t.Errorf("seed %d: nothing parsed", seed)
	}
}

func TestParseRecordRefuses(t *testing.T) {
	saved := savedRecords(t)[0]
	for name, b := range map[string][]byte{
		"nothing":         nil,
		"another version": append([]byte{2}, saved[1:]...),
		"bytes behind":    append(slices.Clone(saved), 0),
		"too large":       make([]byte, MaxRecordBytes+1),
	} {
		if _, err := ParseRecord(b); !errors.Is(err, wire.ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestRootKeysAreSavedWhole(t *testing.T) {
	uuid := "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
	keys := []string{
		"Patient/" + uuid, "Patient/" + strings.ToUpper(uuid), "Patient/" + uuid + "0", "Patient/" + uuid[1:],
		"Patient/" + strings.ReplaceAll(uuid, "-", "0"), "Patient/g" + uuid[1:], "Observation/" + uuid, "Observation/1",
		"A/" + strings.Repeat("x", MaxRootKeyBytes-2),
	}
	c := newChange(1, 1, 1, nil)
	for _, key := range keys {
		c.Ops = append(c.Ops, makeAt(OpID{}, key, Map))
	}
	c = decoded(t, c)
	r := judged(t, NewIndex(DocumentID{}), c)
	if !slices.Equal(r.Keys, keys) {
		t.Fatalf("keys %q", r.Keys)
	}
	checkRecord(t, r, c)

	// A UUID that is written out is another form of the same key.
	one := newChange(1, 1, 1, nil, makeAt(OpID{}, keys[0], Map))
	r = judged(t, NewIndex(DocumentID{}), one)
	saved, err := r.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	packed, _ := packUUID(uuid)
	long := bytes.Replace(saved, append([]byte{1}, packed[:]...), append([]byte{2 * uuidLength}, uuid...), 1)
	if _, err := ParseRecord(long); !errors.Is(err, wire.ErrMalformed) || len(long) != len(saved)+20 {
		t.Errorf("parsed %x: %v", long, err)
	}
}

func FuzzParseRecord(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := ParseRecord(b)
		return err
	}, savedRecords(f)...)
	f.Fuzz(func(t *testing.T, b []byte) {
		var err error
		fuzzing.Allocates(t, len(b), 256, 64<<10, func() { _, err = ParseRecord(b) })
		fuzzing.Quiet(t, err)
		checkParse(t, b)
	})
}

// FuzzNames reads what stands for other things in texts: versions, and operations that keys of texts name.
func FuzzNames(f *testing.F) {
	for _, s := range []string{
		Version(nil), Version([]ChangeHash{{1}}), Version([]ChangeHash{{1}, {2}, {3}}), Version([]ChangeHash{{1}, {2}, {3}, {4}}),
	} {
		if _, ok := ParseVersion(s); ok != (s != "") {
			f.Fatalf("version %q: %v", s, ok)
		}
		f.Add(s)
	}
	id := OpID{Counter: 77, Actor: Actor{1, 2, 0xab}}
	if got, ok := parseOpID(id.String()); !ok || got != id {
		f.Fatalf("operation %v is read as %v", id, got)
	}
	f.Add(id.String())
	f.Add("x" + strings.Repeat("0", 33))
	f.Fuzz(func(t *testing.T, s string) {
		var prefixes [][8]byte
		var ok bool
		fuzzing.Allocates(t, len(s), 16, 4<<10, func() { prefixes, ok = ParseVersion(s) })
		switch {
		case ok && s[0] == 'x':
			if len(prefixes) != 0 || len(s) != 1+2*foldedSize {
				t.Errorf("%q names %d changes", s, len(prefixes))
			}
		case ok:
			var heads []ChangeHash
			for i, p := range prefixes { // two hashes may begin alike
				h := ChangeHash{8: byte(i)}
				copy(h[:], p[:])
				heads = append(heads, h)
			}
			if again := Version(heads); again != s {
				t.Errorf("%q names what is called %q", s, again)
			}
		}
		fuzzing.Allocates(t, len(s), 4, 4<<10, func() { id, ok = parseOpID(s) })
		if ok && id.String() != s {
			t.Errorf("%q is read as %v", s, id)
		}
	})
}
