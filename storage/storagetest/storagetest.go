// Package storagetest holds the contract that every storage.Store keeps.
//
// Nouns: a [Subject] is how an implementation is opened, opened again and, where it can, crashed. [Run] holds it against
// the contract, one subtest each.
//
// What is particular to one implementation (damage, files, locks) is left to its own tests.
package storagetest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"

	"chartmesh/storage"
)

// Subject is an implementation under test.
type Subject struct {
	// Open returns a new empty store.
	Open func(t testing.TB) storage.Store
	// Reopen closes a store that Open or Reopen returned and opens the same again.
	Reopen func(t testing.TB, s storage.Store) storage.Store
	// Crash ends a store without closing it and opens what is left; nil where that cannot be done in one process.
	Crash func(t testing.TB, s storage.Store) storage.Store
}

// Run holds the subject against the contract.
func Run(t *testing.T, subject Subject) {
	for _, c := range []struct {
		name string
		run  func(*testing.T, Subject)
	}{
		{"PutGetDelete", putGetDelete},
		{"EmptyBatch", emptyBatch},
		{"LastCounts", lastCounts},
		{"Scan", scan},
		{"ScanEnds", scanEnds},
		{"Keys", keys},
		{"Limits", limits},
		{"LargeValues", largeValues},
		{"Aliasing", aliasing},
		{"Snapshot", snapshot},
		{"Atomic", atomic},
		{"Concurrent", concurrent},
		{"Context", contexts},
		{"Closed", closed},
		{"CloseWaits", closeWaits},
		{"Reopen", reopen},
		{"Copy", copied},
		{"Crash", crash},
		{"Model", model},
	} {
		t.Run(c.name, func(t *testing.T) { c.run(t, subject) })
	}
}

// opened returns a new store that is closed with the test.
func opened(t *testing.T, subject Subject) storage.Store {
	s := subject.Open(t)
	t.Cleanup(func() { closeStore(t, s) })
	return s
}

func closeStore(t testing.TB, s storage.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
}

// commit commits puts of "key=value" and deletes of "-key".
func commit(t testing.TB, s storage.Store, ops ...string) {
	t.Helper()
	if err := s.Commit(t.Context(), batch(ops...)); err != nil {
		t.Fatalf("commit: %v", err)
	}
}

func batch(ops ...string) *storage.Batch {
	var b storage.Batch
	for _, o := range ops {
		if k, v, ok := bytes.Cut([]byte(o), []byte("=")); ok {
			b.Put(k, v)
		} else {
			b.Delete([]byte(o[1:]))
		}
	}
	return &b
}

func view(t testing.TB, s storage.Store, fn func(r storage.Reader) error) {
	t.Helper()
	if err := s.View(fn); err != nil {
		t.Fatalf("view: %v", err)
	}
}

// content returns everything under prefix from from on as "key=value".
func content(t testing.TB, r storage.Reader, prefix, from string) []string {
	t.Helper()
	var got, scanned, keys []string
	err := r.Scan([]byte(prefix), []byte(from), func(k, v []byte) error {
		got, scanned = append(got, fmt.Sprintf("%s=%s", k, v)), append(scanned, string(k))
		return nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	err = r.Keys([]byte(prefix), []byte(from), func(k []byte) error {
		keys = append(keys, string(k))
		return nil
	})
	if err != nil || !slices.Equal(keys, scanned) {
		t.Errorf("Keys(%q, %q) = %q, %v, and Scan gives %q", prefix, from, keys, err, scanned)
	}
	return got
}

func wantContent(t testing.TB, s storage.Store, want ...string) {
	t.Helper()
	view(t, s, func(r storage.Reader) error {
		if got := content(t, r, "", ""); !slices.Equal(got, want) {
			t.Errorf("store holds %q, want %q", got, want)
		}
		return nil
	})
}

func putGetDelete(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "a=1", "b=", "c=3")
	commit(t, s, "-a", "-never", "c=4")
	view(t, s, func(r storage.Reader) error {
		for key, want := range map[string]string{"b": "", "c": "4"} {
			if got, err := r.Get([]byte(key)); err != nil || string(got) != want {
				t.Errorf("Get(%s) = %q, %v, want %q", key, got, err, want)
			}
		}
		for _, key := range []string{"a", "never", "bb", ""} {
			if got, err := r.Get([]byte(key)); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Get(%s) = %q, %v, want ErrNotFound", key, got, err)
			}
		}
		return nil
	})
	commit(t, s, "a=5")
	wantContent(t, s, "a=5", "b=", "c=4")

	sentinel := errors.New("of the caller")
	if err := s.View(func(storage.Reader) error { return sentinel }); !errors.Is(err, sentinel) {
		t.Errorf("View returned %v, want the function's error", err)
	}
}

func emptyBatch(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s)
	wantContent(t, s)
}

func lastCounts(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "a=1", "a=2", "b=1", "-b", "-c", "c=1")
	wantContent(t, s, "a=2", "c=1")
	commit(t, s, "-a", "a=3", "c=2", "-c")
	wantContent(t, s, "a=3")
}

func scan(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "c=5", "a=1", "b\xff=4", "b=2", "b\x00=3", "\xff\xff=7", "\xff=6")
	commit(t, s, "ba=x", "-ba")
	all := []string{"a=1", "b=2", "b\x00=3", "b\xff=4", "c=5", "\xff=6", "\xff\xff=7"}
	view(t, s, func(r storage.Reader) error {
		for _, c := range []struct {
			prefix, from string
			want         []string
		}{
			{"", "", all},
			{"", "b", all[1:]},
			{"", "b\x00", all[2:]},
			{"", "b\x01", all[3:]},
			{"", "\xff\xff\xff", nil},
			{"b", "", all[1:4]},
			{"b", "a", all[1:4]},
			{"b", "b", all[1:4]},
			{"b", "b\x00", all[2:4]},
			{"b", "b\x80", all[3:4]},
			{"b", "c", nil},
			{"b\x00", "", all[2:3]},
			{"b\x00\x00", "", nil},
			{"\xff", "", all[5:]},
			{"\xff\xff", "", all[6:]},
			{"z", "", nil},
		} {
			if got := content(t, r, c.prefix, c.from); !slices.Equal(got, c.want) {
				t.Errorf("Scan(%q, %q) = %q, want %q", c.prefix, c.from, got, c.want)
			}
		}
		return nil
	})
}

func scanEnds(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "a=1", "b=2", "c=3")
	view(t, s, func(r storage.Reader) error {
		for _, end := range []error{storage.ErrStop, fmt.Errorf("wrapped: %w", storage.ErrStop), errors.New("other")} {
			n := 0
			err := r.Scan(nil, nil, func(_, _ []byte) error {
				if n++; n == 2 {
					return end
				}
				return nil
			})
			if n != 2 {
				t.Errorf("Scan went on after %v: %d calls", end, n)
			}
			if stopped := errors.Is(end, storage.ErrStop); stopped && err != nil || !stopped && !errors.Is(err, end) {
				t.Errorf("Scan returned %v after %v", err, end)
			}
		}
		// A scan inside a scan, and a get inside it.
		var got []string
		err := r.Scan(nil, nil, func(k, _ []byte) error {
			v, err := r.Get(k)
			if err != nil {
				return err
			}
			got = append(got, fmt.Sprintf("%s %s %q", k, v, content(t, r, string(k), "")))
			return nil
		})
		if err != nil || !slices.Equal(got, []string{`a 1 ["a=1"]`, `b 2 ["b=2"]`, `c 3 ["c=3"]`}) {
			t.Errorf("nested scan = %q, %v", got, err)
		}
		return nil
	})
}

func keys(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "ok=1")
	for _, key := range []string{"", "\x00", "\x01\x00", "\x0f", "!badger!x", "!"} {
		var b storage.Batch
		b.Put([]byte("before"), nil)
		b.Put([]byte(key), []byte("x"))
		if err := s.Commit(t.Context(), &b); !errors.Is(err, storage.ErrKey) {
			t.Errorf("commit of key %q: %v, want ErrKey", key, err)
		}
		view(t, s, func(r storage.Reader) error {
			if _, err := r.Get([]byte(key)); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("Get(%q): %v, want ErrNotFound", key, err)
			}
			if key != "" && len(content(t, r, key, "")) != 0 {
				t.Errorf("Scan(%q) found something", key)
			}
			return nil
		})
	}
	var over storage.Batch
	over.Put([]byte("over"), make([]byte, storage.MaxValue+1))
	if err := s.Commit(t.Context(), &over); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("commit of a value that is too long: %v, want ErrTooLarge", err)
	}
	longest := bytes.Repeat([]byte{0xfe}, storage.MaxKey)
	commit(t, s, string(longest)+"=1")
	wantContent(t, s, "ok=1", string(longest)+"=1")
	var b storage.Batch
	b.Put([]byte("before"), nil)
	b.Delete(append(longest, 0))
	if err := s.Commit(t.Context(), &b); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("commit of a key that is too long: %v, want ErrTooLarge", err)
	}
	wantContent(t, s, "ok=1", string(longest)+"=1")
}

// limits commits the largest batches that there are, of more shapes in the heavy suite, and some just over.
func limits(t *testing.T, subject Subject) {
	s := opened(t, subject)
	shapes := []int{20_000}
	if os.Getenv("HEAVY") != "" {
		shapes = append(shapes, 0, 100, storage.MaxValue)
	}
	for _, valueLen := range shapes {
		key := func(i int) []byte { return fmt.Appendf(nil, "%d/%07d", valueLen, i) }
		value := bytes.Repeat([]byte{'v'}, valueLen)
		var b storage.Batch
		for i := 0; ; i++ {
			was := b
			if b.Put(key(i), value); b.Size() > storage.MaxBatch {
				if err := s.Commit(t.Context(), &b); !errors.Is(err, storage.ErrTooLarge) {
					t.Fatalf("commit of %d bytes: %v, want ErrTooLarge", b.Size(), err)
				}
				b = was
				break
			}
		}
		view(t, s, func(r storage.Reader) error {
			if got := content(t, r, fmt.Sprintf("%d/", valueLen), ""); len(got) != 0 {
				t.Fatalf("a batch that was refused left %d pairs", len(got))
			}
			return nil
		})
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatalf("commit of %d pairs, %d bytes: %v", b.Len(), b.Size(), err)
		}
		n := 0
		view(t, s, func(r storage.Reader) error {
			return r.Scan(fmt.Appendf(nil, "%d/", valueLen), nil, func(k, v []byte) error {
				if !bytes.Equal(k, key(n)) || !bytes.Equal(v, value) {
					t.Errorf("pair %d came back otherwise", n)
				}
				n++
				return nil
			})
		})
		if n != b.Len() {
			t.Errorf("%d of %d pairs came back", n, b.Len())
		}
	}
}

// aliasing changes every slice that went in or came out.
func aliasing(t *testing.T, subject Subject) {
	s := opened(t, subject)
	key, value := []byte("key"), []byte("value")
	var b storage.Batch
	b.Put(key, value)
	for range 2 { // a batch may be committed again
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	copy(key, "xxx")
	copy(value, "xxxxx")
	view(t, s, func(r storage.Reader) error {
		got, err := r.Get([]byte("key"))
		if err != nil {
			t.Fatal(err)
		}
		copy(got, "yyyyy")
		_ = append(got, "yyyyy"...)
		return nil
	})
	view(t, s, func(r storage.Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) error {
			_, _ = append(k, 'z'), append(v, 'z')
			return nil
		})
	})
	wantContent(t, s, "key=value")
}

// copied: a copy holds what the store held, large values among it, and nothing else.
func copied(t *testing.T, subject Subject) {
	from, to := opened(t, subject), opened(t, subject)
	large := bytes.Repeat([]byte("large"), 1<<20)
	for i := range 4 {
		var b storage.Batch
		b.Put(fmt.Appendf(nil, "large%d", i), large)
		b.Put(fmt.Appendf(nil, "\x10small%d", i), nil)
		if err := from.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	commit(t, from, "a=1", "-a", "\xff=last")
	pairs, err := storage.Copy(t.Context(), to, from)
	if err != nil || pairs != 9 {
		t.Fatalf("%d pairs, %v", pairs, err)
	}
	var n uint64
	view(t, to, func(r storage.Reader) error {
		return r.Scan(nil, nil, func(key, value []byte) error {
			n++
			if bytes.HasPrefix(key, []byte("large")) != bytes.Equal(value, large) {
				t.Errorf("%q is another", key)
			}
			return nil
		})
	})
	if n != pairs {
		t.Errorf("%d pairs in the copy, %d in the store", n, pairs)
	}
}
