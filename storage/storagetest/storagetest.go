// Package storagetest holds the contract that every storage.Store keeps.
//
// Nouns: a [Subject] is how an implementation is opened, opened again and, where it can, crashed. [Run] holds it against
// the contract, one subtest each.
//
// What is particular to one implementation (damage, files, locks) is left to its own tests.
package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
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
	var got []string
	err := r.Scan([]byte(prefix), []byte(from), func(k, v []byte) error {
		got = append(got, fmt.Sprintf("%s=%s", k, v))
		return nil
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
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

// limits commits the largest batches that there are, of every shape, and some just over.
func limits(t *testing.T, subject Subject) {
	s := opened(t, subject)
	for _, valueLen := range []int{0, 100, 10_000, 700_000, storage.MaxValue} {
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

// largeValues puts values of lengths around every boundary over each other.
func largeValues(t *testing.T, subject Subject) {
	s := opened(t, subject)
	const half = 512 << 10
	rng := rand.New(rand.NewPCG(1, 1))
	value := make([]byte, storage.MaxValue)
	for i := range value {
		value[i] = byte(rng.Uint32())
	}
	for i, n := range []int{half, half + 1, 2 * half, 3, 3*half - 1, half - 1, 2*half + 1, 0, storage.MaxValue, 5 * half} {
		var b storage.Batch
		b.Put([]byte("large"), value[min(i, n):n])
		b.Put([]byte("beside"), []byte{byte(i)})
		if n == 0 {
			b = *batch("-large")
		}
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatalf("commit %d bytes: %v", n, err)
		}
		if i%3 == 2 {
			s = subject.Reopen(t, s)
		}
		view(t, s, func(r storage.Reader) error {
			got, err := r.Get([]byte("large"))
			if n == 0 {
				if !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("deleted large value: %v, want ErrNotFound", err)
				}
				return nil
			}
			if err != nil || !bytes.Equal(got, value[min(i, n):n]) {
				t.Errorf("value of %d bytes came back with %d bytes, %v", n-i, len(got), err)
			}
			var scanned [][]byte
			err = r.Scan([]byte("l"), nil, func(_, v []byte) error {
				scanned = append(scanned, bytes.Clone(v))
				return nil
			})
			if err != nil || len(scanned) != 1 || !bytes.Equal(scanned[0], value[min(i, n):n]) {
				t.Errorf("scan of a value of %d bytes: %d values, %v", n-i, len(scanned), err)
			}
			return nil
		})
	}
	// Several times in one batch, and a delete of a large one within it.
	var b storage.Batch
	b.Put([]byte("large"), value[:4])
	b.Put([]byte("large"), value[:2*half])
	b.Put([]byte("other"), value[:2*half])
	b.Delete([]byte("other"))
	b.Put([]byte("large"), value[1:half+9])
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	view(t, s, func(r storage.Reader) error {
		if got, err := r.Get([]byte("large")); err != nil || !bytes.Equal(got, value[1:half+9]) {
			t.Errorf("the last of several values did not count: %d bytes, %v", len(got), err)
		}
		if _, err := r.Get([]byte("other")); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("Get after put and delete: %v, want ErrNotFound", err)
		}
		return nil
	})
	closeStore(t, s)
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

func snapshot(t *testing.T, subject Subject) {
	s := opened(t, subject)
	commit(t, s, "a=1", "b=1")
	view(t, s, func(before storage.Reader) error {
		commit(t, s, "a=2", "-b", "c=2")
		view(t, s, func(after storage.Reader) error {
			commit(t, s, "a=3")
			if got, want := content(t, before, "", ""), []string{"a=1", "b=1"}; !slices.Equal(got, want) {
				t.Errorf("the earlier view holds %q, want %q", got, want)
			}
			if got, want := content(t, after, "", ""), []string{"a=2", "c=2"}; !slices.Equal(got, want) {
				t.Errorf("the later view holds %q, want %q", got, want)
			}
			if got, err := before.Get([]byte("c")); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("the earlier view got %q, %v", got, err)
			}
			return nil
		})
		// While scanning, too.
		var got []string
		err := before.Scan(nil, nil, func(k, v []byte) error {
			got = append(got, fmt.Sprintf("%s=%s", k, v))
			commit(t, s, "aa=4", "-b")
			return nil
		})
		if want := []string{"a=1", "b=1"}; err != nil || !slices.Equal(got, want) {
			t.Errorf("scan under commits saw %q, %v, want %q", got, err, want)
		}
		return nil
	})
	wantContent(t, s, "a=3", "aa=4", "c=2")
}

// atomic has readers look while writers move a sum between keys.
func atomic(t *testing.T, subject Subject) {
	s := opened(t, subject)
	const keys = 8
	put := func(round int) *storage.Batch {
		var b storage.Batch
		for k := range keys {
			b.Put(fmt.Appendf(nil, "k%d", k), fmt.Appendf(nil, "%d", round))
		}
		return &b
	}
	if err := s.Commit(t.Context(), put(0)); err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			last := 0
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n > 0 {
						return
					}
				default:
				}
				err := s.View(func(r storage.Reader) error {
					seen := map[string]bool{}
					if err := r.Scan([]byte("k"), nil, func(_, v []byte) error {
						seen[string(v)] = true
						return nil
					}); err != nil {
						return err
					}
					if len(seen) != 1 {
						return fmt.Errorf("a reader saw part of a batch: %v", seen)
					}
					for v := range seen {
						var round int
						if _, err := fmt.Sscan(v, &round); err != nil || round < last {
							return fmt.Errorf("a reader went back from %d to %s", last, v)
						}
						last = round
					}
					return nil
				})
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for round := range 60 {
		if err := s.Commit(t.Context(), put(round+1)); err != nil {
			t.Error(err)
			break
		}
		view(t, s, func(r storage.Reader) error {
			if got, err := r.Get([]byte("k0")); err != nil || string(got) != fmt.Sprint(round+1) {
				t.Errorf("after commit %d a reader sees %q, %v", round+1, got, err)
			}
			return nil
		})
	}
	close(stop)
	readers.Wait()
}

// concurrent commits from many goroutines at once, each to its own keys.
func concurrent(t *testing.T, subject Subject) {
	s := subject.Open(t)
	const writers, rounds = 16, 12
	value := bytes.Repeat([]byte{'x'}, 60_000) // 16 at once are more than a quarter of a transaction
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for n := range rounds {
				var b storage.Batch
				b.Put(fmt.Appendf(nil, "w%02d/%03d", w, n), fmt.Appendf(nil, "%d", n))
				b.Put(fmt.Appendf(nil, "v%02d/%03d", w, n), value)
				if n > 0 {
					b.Delete(fmt.Appendf(nil, "v%02d/%03d", w, n-1))
				}
				if err := s.Commit(t.Context(), &b); err != nil {
					t.Errorf("writer %d, commit %d: %v", w, n, err)
					return
				}
			}
		})
	}
	all.Wait()
	s = subject.Reopen(t, s)
	defer closeStore(t, s)
	view(t, s, func(r storage.Reader) error {
		for w := range writers {
			if got := content(t, r, fmt.Sprintf("w%02d/", w), ""); len(got) != rounds {
				t.Errorf("writer %d: %d of %d commits are there", w, len(got), rounds)
			}
			if got := content(t, r, fmt.Sprintf("v%02d/", w), ""); len(got) != 1 {
				t.Errorf("writer %d: %d values are left, want 1", w, len(got))
			}
		}
		return nil
	})
}

func contexts(t *testing.T, subject Subject) {
	s := opened(t, subject)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the reason")
	cancel(reason)
	if err := s.Commit(ctx, batch("a=1")); !errors.Is(err, reason) {
		t.Errorf("commit under an ended context: %v, want its cause", err)
	}
	wantContent(t, s)

	// Contexts that end at any moment: what was acknowledged is there, what says that its context ended is not.
	var all sync.WaitGroup
	outcomes := make([]error, 40)
	for i := range outcomes {
		ctx, cancel := context.WithCancel(t.Context())
		all.Go(func() { outcomes[i] = s.Commit(ctx, batch(fmt.Sprintf("k%02d=%d", i, i))) })
		all.Go(cancel)
	}
	all.Wait()
	var want []string
	for i, err := range outcomes {
		switch {
		case err == nil:
			want = append(want, fmt.Sprintf("k%02d=%d", i, i))
		case !errors.Is(err, context.Canceled):
			t.Errorf("commit %d: %v", i, err)
		}
	}
	wantContent(t, s, want...)
}

func closed(t *testing.T, subject Subject) {
	s := subject.Open(t)
	commit(t, s, "a=1")
	closeStore(t, s)
	closeStore(t, s)
	if err := s.Commit(t.Context(), batch("a=2")); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("commit after close: %v, want ErrClosed", err)
	}
	if err := s.Commit(t.Context(), batch()); !errors.Is(err, storage.ErrClosed) {
		t.Errorf("empty commit after close: %v, want ErrClosed", err)
	}
	err := s.View(func(storage.Reader) error {
		t.Error("View called its function after close")
		return nil
	})
	if !errors.Is(err, storage.ErrClosed) {
		t.Errorf("view after close: %v, want ErrClosed", err)
	}
}

// closeWaits closes while a view reads and others commit.
func closeWaits(t *testing.T, subject Subject) {
	s := subject.Open(t)
	commit(t, s, "a=1")
	inside, goOn := make(chan struct{}), make(chan struct{})
	viewed := make(chan error, 1)
	go func() {
		viewed <- s.View(func(r storage.Reader) error {
			close(inside)
			<-goOn
			got, err := r.Get([]byte("a"))
			if err == nil && string(got) != "1" {
				err = fmt.Errorf("got %q", got)
			}
			return err
		})
	}()
	<-inside
	acknowledged := make([]bool, 8)
	var writers sync.WaitGroup
	for w := range acknowledged {
		writers.Go(func() {
			err := s.Commit(context.WithoutCancel(t.Context()), batch(fmt.Sprintf("w%d=1", w)))
			if acknowledged[w] = err == nil; err != nil && !errors.Is(err, storage.ErrClosed) {
				t.Errorf("commit under close: %v", err)
			}
		})
	}
	done := make(chan error, 1)
	go func() { done <- s.Close() }()
	writers.Wait()
	close(goOn)
	if err := <-viewed; err != nil {
		t.Errorf("view under close: %v", err)
	}
	if err := <-done; err != nil {
		t.Errorf("close: %v", err)
	}
	s = subject.Reopen(t, s)
	defer closeStore(t, s)
	view(t, s, func(r storage.Reader) error {
		for w, ok := range acknowledged {
			_, err := r.Get(fmt.Appendf(nil, "w%d", w))
			if there := err == nil; there != ok {
				t.Errorf("commit %d: acknowledged %v, there %v", w, ok, there)
			}
		}
		return nil
	})
}

func reopen(t *testing.T, subject Subject) {
	s := subject.Open(t)
	commit(t, s, "a=1", "b=1")
	commit(t, s, "b=2", "c=2")
	for range 3 {
		s = subject.Reopen(t, s)
		wantContent(t, s, "a=1", "b=2", "c=2")
	}
	commit(t, s, "-a", "-b", "-c") // the last commit is deletes alone
	s = subject.Reopen(t, s)
	wantContent(t, s)
	s = subject.Reopen(t, s)
	commit(t, s, "a=9")
	s = subject.Reopen(t, s)
	wantContent(t, s, "a=9")
	closeStore(t, s)
}

func crash(t *testing.T, subject Subject) {
	if subject.Crash == nil {
		t.Skip("cannot crash within a process")
	}
	s := subject.Open(t)
	var want []string
	for i := range 20 {
		commit(t, s, fmt.Sprintf("k%02d=%d", i, i))
		want = append(want, fmt.Sprintf("k%02d=%d", i, i))
		if i%5 == 4 {
			old := s
			s = subject.Crash(t, s)
			wantContent(t, s, want...)
			if err := old.Commit(t.Context(), batch("x=1")); !errors.Is(err, storage.ErrClosed) {
				t.Errorf("commit after a crash: %v, want ErrClosed", err)
			}
		}
	}
	closeStore(t, s)
}

// model holds random commits, scans and reopenings against a map.
func model(t *testing.T, subject Subject) {
	seed := uint64(20261122)
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	s := subject.Open(t)
	want := map[string]string{}
	key := func() string {
		k := make([]byte, 1+rng.IntN(3))
		for i := range k {
			k[i] = "ab\x00\xff"[rng.IntN(4)]
		}
		return "k" + string(k)
	}
	for round := range 150 {
		var b storage.Batch
		for range rng.IntN(12) {
			k := key()
			if rng.IntN(3) == 0 {
				b.Delete([]byte(k))
				delete(want, k)
				continue
			}
			v := fmt.Sprintf("%d", rng.Uint32())
			b.Put([]byte(k), []byte(v))
			want[k] = v
		}
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if rng.IntN(30) == 0 {
			s = subject.Reopen(t, s)
		}
		prefix, from := key()[:1+rng.IntN(2)], key()
		var expect []string
		for k, v := range want {
			if bytes.HasPrefix([]byte(k), []byte(prefix)) && k >= from {
				expect = append(expect, k+"="+v)
			}
		}
		slices.SortFunc(expect, func(a, b string) int {
			ka, _, _ := bytes.Cut([]byte(a), []byte("="))
			kb, _, _ := bytes.Cut([]byte(b), []byte("="))
			return bytes.Compare(ka, kb)
		})
		view(t, s, func(r storage.Reader) error {
			if got := content(t, r, prefix, from); !slices.Equal(got, expect) {
				t.Fatalf("round %d: Scan(%q, %q) = %q, want %q", round, prefix, from, got, expect)
			}
			return nil
		})
	}
	closeStore(t, s)
}
