package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
)

// roundTrip makes a key of k from parts, parses it again, and checks the prefixes that lead to it.
func roundTrip(
	t testing.TB, name string, key []byte, parse func([]byte) ([]any, error), parts []any, prefixes ...[]byte,
) {
	t.Helper()
	got, err := parse(key)
	if err != nil || !reflect.DeepEqual(got, parts) {
		t.Errorf("%s: parsed %v, %v, want %v", name, got, err, parts)
	}
	for _, p := range prefixes {
		if !bytes.HasPrefix(key, p) {
			t.Errorf("%s: %x does not begin with %x", name, key, p)
		}
	}
	if _, err := parse(append(bytes.Clone(key), 0)); !errors.Is(err, ErrKey) {
		t.Errorf("%s: a longer key parsed: %v", name, err)
	}
	for n := range key {
		if _, err := parse(key[:n]); !errors.Is(err, ErrKey) {
			t.Errorf("%s: a key cut to %d bytes parsed: %v", name, n, err)
		}
	}
	other := bytes.Clone(key)
	other[0] ^= 1
	if _, err := parse(other); !errors.Is(err, ErrKey) {
		t.Errorf("%s: another kind's key parsed: %v", name, err)
	}
}

// TestKeys takes one key of each shape there and back.
func TestKeys(t *testing.T) {
	scope := [16]byte{1, 2}
	log := [32]byte{3, 0, 4}
	id := [32]byte{5}
	ref := Ref{Scope: scope, Log: log, Counter: 1 << 40, ID: id}
	hard := "a\x00b\x00\xff\x01\x00"

	roundTrip(t, "meta", Meta.Key(7), func(k []byte) ([]any, error) {
		a, err := Meta.Parse(k)
		return []any{a}, err
	}, []any{byte(7)}, Meta.All())
	roundTrip(t, "chunk", Chunk.Key(scope, log, 9), func(k []byte) ([]any, error) {
		a, b, c, err := Chunk.Parse(k)
		return []any{a, b, c}, err
	}, []any{scope, log, uint64(9)}, Chunk.All(), Chunk.With(scope), Chunk.With2(scope, log), Chunk.Beginning(scope))
	roundTrip(t, "branch", Branch.Key(scope, log, 9, id), func(k []byte) ([]any, error) {
		a, b, c, d, err := Branch.Parse(k)
		return []any{a, b, c, d}, err
	}, []any{scope, log, uint64(9), id}, Branch.With(scope), Branch.With2(scope, log), Branch.With3(scope, log, 9))
	roundTrip(t, "parked", Parked.Key(2, id, ref), func(k []byte) ([]any, error) {
		a, b, c, err := Parked.Parse(k)
		return []any{a, b, c}, err
	}, []any{byte(2), id, ref}, Parked.With(2), Parked.With2(2, id))
	roundTrip(t, "held", Held.Key(ref), func(k []byte) ([]any, error) {
		a, err := Held.Parse(k)
		return []any{a}, err
	}, []any{ref}, Held.All())
	roundTrip(t, "term", Term.Key(hard, "", "id"), func(k []byte) ([]any, error) {
		a, b, c, err := Term.Parse(k)
		return []any{a, b, c}, err
	}, []any{hard, "", "id"}, Term.With(hard), Term.With2(hard, ""), Term.Beginning(""), Term.Beginning("a\x00"),
		Term.Beginning(hard))
	roundTrip(t, "resource in", ResourceIn.Key(id, "Patient/1"), func(k []byte) ([]any, error) {
		a, b, err := ResourceIn.Parse(k)
		return []any{a, b}, err
	}, []any{id, "Patient/1"}, ResourceIn.With(id), ResourceIn.Beginning(id))

	if bytes.HasPrefix(Term.Key("ab", "x", "y"), Term.With("a")) {
		t.Error("a term is found under another that it begins with")
	}
	if !bytes.HasPrefix(Term.Key("ab", "x", "y"), Term.Beginning("a")) {
		t.Error("a term is not found by its beginning")
	}
	named := struct{ id ScopeLike }{ScopeLike{1}}
	_ = Chunk.Key(named.id, log, 1) // distinct types of the callers' are accepted as they are
}

// ScopeLike stands for a caller's own type.
type ScopeLike [16]byte

// TestKeyOrder holds the order of keys against the order of their parts.
func TestKeyOrder(t *testing.T) {
	rng := rand.New(rand.NewPCG(testSeed(t), 0))
	word := func() string {
		b := make([]byte, rng.IntN(4))
		for i := range b {
			b[i] = []byte{0, 1, 'a', 0xfe, 0xff}[rng.IntN(5)]
		}
		return string(b)
	}
	type parts struct {
		a string
		b string
		n uint64
	}
	kind := Kind3[string, string, uint64]{Kind{0x70, "test", nil}}
	for range 20_000 {
		x, y := parts{word(), word(), rng.Uint64N(3) * 255}, parts{word(), word(), rng.Uint64N(3) * 255}
		want := strings.Compare(x.a, y.a)
		if want == 0 {
			want = strings.Compare(x.b, y.b)
		}
		if want == 0 {
			want = int(x.n) - int(y.n)
		}
		if got := bytes.Compare(kind.Key(x.a, x.b, x.n), kind.Key(y.a, y.b, y.n)); got != sign(want) {
			t.Fatalf("order of %v and %v is %d, want %d", x, y, got, sign(want))
		}
		key := kind.Key(x.a, x.b, x.n)
		if has, want := bytes.HasPrefix(key, kind.Beginning(y.a)), strings.HasPrefix(x.a, y.a); has != want {
			t.Fatalf("%q found by the beginning %q: %v", x.a, y.a, has)
		}
		if has, want := bytes.HasPrefix(key, kind.With2(y.a, y.b)), x.a == y.a && x.b == y.b; has != want {
			t.Fatalf("%v found with %v: %v", x, y, has)
		}
	}
}

func sign(n int) int {
	switch {
	case n < 0:
		return -1
	case n > 0:
		return 1
	}
	return 0
}

// FuzzKey parses arbitrary bytes as keys of every shape of part; what parses is made again byte by byte.
func FuzzKey(f *testing.F) {
	ref := Ref{Counter: 3}
	reads := readers()
	seeds := [][]byte{
		Meta.Key(1), Member.Key([32]byte{1}), Chunk.Key([16]byte{1}, [32]byte{2}, 3), Held.Key(ref),
		Branch.Key([16]byte{1}, [32]byte{2}, 3, [32]byte{4}), Parked.Key(1, [32]byte{2}, ref),
		Term.Key("mü\x00ller "+fuzzing.Canary, "Patient", "p1"), Resource.Key("Patient", "p1"), Event.Key(7),
		ConflictOf.Key("Patient", "", [16]byte{1}), DocumentsOf.Key("", "\x00", [32]byte{3}), keySegment.Key([32]byte{1}, 9),
	}
	fuzzing.Seeds(f, func(b []byte) error {
		for _, read := range reads {
			if _, err := read(b); err == nil {
				return nil
			}
		}
		return ErrKey
	}, seeds...)
	f.Add([]byte{0x44, 0, 2})
	f.Add([]byte{0x44, 'a', 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range reads {
			var again []byte
			var err error
			fuzzing.Allocates(t, len(b), 16, 4<<10, func() { again, err = read(b) })
			fuzzing.Quiet(t, err)
			if err == nil && !bytes.Equal(again, b) {
				t.Errorf("%x parsed and came back as %x", b, again)
			}
			if err != nil && !errors.Is(err, ErrKey) {
				t.Errorf("%x: %v", b, err)
			}
		}
	})
}

// readers parse a key as one of each shape of parts, and make it again.
func readers() []func([]byte) ([]byte, error) {
	return []func([]byte) ([]byte, error){
		reader1(Meta), reader1(Member), reader1(Held), reader1(Event), reader1(Conflict), reader2(keySegment), reader2(LogHead),
		reader2(Change), reader2(Resource), reader2(ResourceIn), reader3(Chunk), reader3(Ack), reader3(Parked), reader3(Term),
		reader3(ConflictOf), reader3(DocumentsOf), reader4(Branch),
	}
}

func reader1[A part](k Kind1[A]) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) { x, err := k.Parse(b); return k.Key(x), err }
}

func reader2[A, B part](k Kind2[A, B]) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) { x, y, err := k.Parse(b); return k.Key(x, y), err }
}

func reader3[A, B, C part](k Kind3[A, B, C]) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) { x, y, z, err := k.Parse(b); return k.Key(x, y, z), err }
}

func reader4[A, B, C, D part](k Kind4[A, B, C, D]) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) { w, x, y, z, err := k.Parse(b); return k.Key(w, x, y, z), err }
}

// TestLayoutSpec holds the table of the specification against the code.
func TestLayoutSpec(t *testing.T) {
	spec, err := os.ReadFile("../docs/spec/store-layout.md")
	if err != nil {
		t.Fatal(err)
	}
	var inSpec []string
	for line := range strings.Lines(string(spec)) {
		if strings.HasPrefix(line, "| 0x") {
			cells := strings.Split(line, "|")
			inSpec = append(inSpec, fmt.Sprintf("%s %s: %s", strings.TrimSpace(cells[1]), strings.TrimSpace(cells[2]),
				strings.Join(strings.Fields(cells[3]), " ")))
		}
	}
	var inCode []string
	for _, k := range Kinds() {
		inCode = append(inCode, fmt.Sprintf("0x%02x %s: %s", k.Number(), k, strings.Join(k.Parts(), ", ")))
	}
	slices.Sort(inSpec)
	slices.Sort(inCode)
	if !slices.Equal(inSpec, inCode) {
		t.Errorf("the specification has\n  %s\nand the code\n  %s", strings.Join(inSpec, "\n  "), strings.Join(inCode, "\n  "))
	}
}
