package storage

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
)

var errCut = errors.New("cut")

// contentOf returns everything in s; values as hashes would hide what differs, and they are few.
func contentOf(t testing.TB, s Store) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := s.View(func(r Reader) error {
		return r.Scan(nil, nil, func(k, v []byte) error {
			got[string(k)] = string(v)
			return nil
		})
	})
	if err != nil {
		t.Fatalf("scan: %v", err)
	}
	return got
}

func wantSame(t testing.TB, when string, got, want map[string]string) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %d pairs, want %d", when, len(got), len(want))
		for k, v := range want {
			if g, ok := got[k]; !ok || g != v {
				t.Errorf("%s: %q has %d bytes (there: %v), want %d", when, k, len(g), ok, len(v))
			}
		}
		for k := range got {
			if _, ok := want[k]; !ok {
				t.Errorf("%s: %q is there", when, k)
			}
		}
	}
}

// copyFolder copies a store's folder as it is on disk, which is what a process that ends leaves.
func copyFolder(t testing.TB, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

// scribble fills a batch with puts and deletes over a small set of keys, some of the values large, until it has size
// bytes, and does the same to content.
func scribble(rng *rand.Rand, content map[string]string, size int) *Batch {
	var b Batch
	for b.Size() < size {
		key := fmt.Sprintf("k%03d", rng.IntN(500))
		if rng.IntN(4) == 0 {
			b.Delete([]byte(key))
			delete(content, key)
			continue
		}
		n := rng.IntN(12_000)
		if rng.IntN(80) == 0 {
			n = rng.IntN(3 * segmentLen)
		}
		n = min(n, size-b.Size()+10)
		value := bytes.Repeat([]byte{byte(rng.Uint32())}, n)
		b.Put([]byte(key), value)
		content[key] = string(value)
	}
	return &b
}

// testSeed is the same each time, or a new one in the heavy suite, or the one that STORAGE_SEED names.
func testSeed(t testing.TB) uint64 {
	seed := uint64(20261122)
	if heavy() {
		seed = rand.Uint64()
	}
	if s := os.Getenv("STORAGE_SEED"); s != "" {
		if _, err := fmt.Sscan(s, &seed); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("run again with: STORAGE_SEED=%d go test -run '^%s$' ./storage", seed, t.Name())
	return seed
}

func heavy() bool { return os.Getenv("HEAVY") != "" }

// TestTornCommit cuts commits short between their parts, by an error and by the end of the process, and the undoing of
// them too, and finds each whole or absent.
func TestTornCommit(t *testing.T) {
	rounds := 12
	if heavy() {
		rounds = 200
	}
	seed := testSeed(t)
	rng := rand.New(rand.NewPCG(seed, 0))
	dir := filepath.Join(t.TempDir(), "store")
	key := [32]byte{1}
	want := map[string]string{}
	cuts, copies, undone := 0, 0, 0
	for round := range rounds {
		var cutAt, copyAt int
		var image string
		opts := Options{afterPart: func(part int) error {
			if part == copyAt {
				image = copyFolder(t, dir)
			}
			if part == cutAt {
				return errCut
			}
			return nil
		}}
		s, err := Open(dir, key, opts)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		wantSame(t, "opened", contentOf(t, s), want)
		// Some small commits, and a large one that is cut.
		for range rng.IntN(4) {
			if err := s.Commit(t.Context(), scribble(rng, want, 1+rng.IntN(50_000))); err != nil {
				t.Fatal(err)
			}
		}
		next := maps.Clone(want)
		b := scribble(rng, next, 3<<19+rng.IntN(1<<20))
		cutAt, copyAt = 1+rng.IntN(5), 1+rng.IntN(4)
		if round%4 == 3 { // enough to undo that it takes parts, too
			cutAt, copyAt = 4, 4
		}
		err = s.Commit(t.Context(), b)
		switch {
		case err == nil: // fewer parts than that
			want = next
		case !errors.Is(err, ErrTooLarge):
			cuts++
			wantSame(t, "after the cut", contentOf(t, s), want)
			if err := s.Commit(t.Context(), b); !errors.Is(err, ErrFailed) {
				t.Errorf("commit after a failed one: %v, want ErrFailed", err)
			}
		default:
			t.Fatalf("round %d: commit: %v", round, err)
		}
		cutAt, copyAt = 0, 0
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if image != "" && err != nil {
			copies++
			// The process ended there, and ends again while it undoes what it left.
			for cut := 1; cut < 4; cut++ {
				s, err := Open(image, key, Options{afterPart: func(part int) error {
					if part == cut {
						return errCut
					}
					return nil
				}})
				if err != nil {
					undone++
					continue
				}
				wantSame(t, "the copy", contentOf(t, s), want)
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
			}
			s, err := Open(image, key, Options{})
			if err != nil {
				t.Fatal(err)
			}
			wantSame(t, "the copy", contentOf(t, s), want)
			if err := s.Commit(t.Context(), b); err != nil {
				t.Fatal(err)
			}
			wantSame(t, "the copy, committed", contentOf(t, s), next)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Logf("%d commits cut, %d copies opened, %d undoings cut", cuts, copies, undone)
	if cuts == 0 || copies == 0 || undone == 0 {
		t.Error("the test shows nothing")
	}
}
