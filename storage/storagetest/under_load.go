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

// What holds while others write, close, crash, or open again.

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
