package storage_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"chartmesh/storage"
	"chartmesh/storage/storagetest"
)

func openShare(t testing.TB, whole storage.Store) *storage.Share {
	t.Helper()
	s, err := storage.OpenShare(whole, 7)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestShareContract: a share without limits is a store.
func TestShareContract(t *testing.T) {
	wrap := func(t testing.TB, whole storage.Store) storage.Store {
		return closing{openShare(t, whole), whole, func() {}}
	}
	again := func(t testing.TB, s storage.Store) storage.Store {
		return wrap(t, s.(closing).whole.(*storage.Twin).Crash())
	}
	storagetest.Run(t, storagetest.Subject{
		Open: func(t testing.TB) storage.Store { return wrap(t, storage.NewTwin()) },
		Reopen: func(t testing.TB, s storage.Store) storage.Store {
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			return again(t, s)
		},
		Crash: again,
	})
}

func puts(t testing.TB, s storage.Store, key []byte, size int) error {
	t.Helper()
	var b storage.Batch
	b.Put(key, make([]byte, size))
	return s.Commit(t.Context(), &b)
}

func chunkKey(n uint64) []byte { return storage.Chunk.Key([16]byte{1}, [32]byte{2}, n) }

// recount is what a share holds by what is there.
func recount(t testing.TB, whole storage.Store) storage.Amount {
	t.Helper()
	var b storage.Batch
	b.Delete(storage.Taken.Key(7))
	if err := whole.Commit(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return openShare(t, whole).Held()
}

// TestShareCounts: what a share says that it holds is what is there, after any puts, replacements and deletions, and after a crash.
func TestShareCounts(t *testing.T) {
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	twin := storage.NewTwin()
	s := openShare(t, twin)
	keys := [][]byte{chunkKey(1), chunkKey(2), storage.Member.Key([32]byte{1}), storage.Loose.Key([16]byte{1}, [32]byte{2}, 1, [32]byte{3}),
		storage.Skip.Key([16]byte{1}, [32]byte{2}, 9), storage.LogHead.Key([16]byte{1}, [32]byte{2})}
	for i := range 300 {
		var b storage.Batch
		for range r.IntN(4) {
			if key := keys[r.IntN(len(keys))]; r.IntN(3) > 0 || key[0] == keys[5][0] {
				b.Put(key, make([]byte, r.IntN(300<<10)))
			} else {
				b.Delete(key)
			}
		}
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if i%20 > 0 {
			continue
		}
		twin = twin.Crash()
		again := openShare(t, twin)
		if again.Held() != s.Held() {
			t.Fatalf("seed %d: after a crash it holds %+v, and said %+v", seed, again.Held(), s.Held())
		}
		held := again.Held()
		fresh := recount(t, twin)
		if fresh.Bytes != held.Bytes || fresh.Chunks != held.Chunks {
			t.Fatalf("seed %d: it says that it holds %+v, and holds %+v", seed, held, fresh)
		}
		s = openShare(t, twin)
	}
}

// TestShareLimits: a share takes chunks up to its limits, entries a little further, and notes and deletions in any case.
func TestShareLimits(t *testing.T) {
	twin := storage.NewTwin()
	s := openShare(t, twin)
	s.Limit(storage.Limits{Bytes: 10_000, Chunks: 3})
	must := func(err error, what string) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	refused := func(err error, what string) {
		t.Helper()
		if !errors.Is(err, storage.ErrUsedUp) || !errors.Is(err, storage.ErrNoRoom) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(puts(t, s, chunkKey(1), 4000), "a first chunk")
	must(puts(t, s, chunkKey(2), 4000), "a second chunk")
	if s.UsedUp() {
		t.Error("it is used up before anything was refused")
	}
	refused(puts(t, s, chunkKey(3), 4000), "a chunk beyond the bytes")
	if !s.UsedUp() {
		t.Error("it is not used up although it takes nothing")
	}
	refused(puts(t, s, chunkKey(3), 10), "a small one meanwhile")
	refused(puts(t, s, storage.Skip.Key([16]byte{1}, [32]byte{2}, 9), 10), "a skip meanwhile")
	must(puts(t, s, storage.Member.Key([32]byte{1}), 5000), "an entry")
	refused(puts(t, s, storage.Member.Key([32]byte{2}), 20<<20), "an entry beyond what is kept free for them")
	must(puts(t, s, storage.LogHead.Key([16]byte{1}, [32]byte{2}), 40), "a note")
	must(puts(t, s, chunkKey(1), 10), "a smaller one in the place of a chunk")
	var b storage.Batch
	b.Delete(chunkKey(2))
	b.Put(storage.Skip.Key([16]byte{1}, [32]byte{2}, 2), make([]byte, 200))
	must(s.Commit(t.Context(), &b), "a skip for a chunk")
	if s.UsedUp() {
		t.Error("it is used up after it got smaller")
	}
	must(puts(t, s, chunkKey(3), 100), "a chunk that has room again")
	must(puts(t, s, chunkKey(4), 100), "and one more")
	refused(puts(t, s, chunkKey(5), 1), "a fourth chunk")
	if !s.UsedUp() {
		t.Error("it is not used up although it takes no more chunks")
	}
	s.Limit(storage.Limits{Bytes: 20_000})
	if s.UsedUp() {
		t.Error("it is used up after its limits were raised")
	}
	must(puts(t, s, chunkKey(5), 8000), "a chunk after the limits were raised")
	other, err := storage.OpenShare(twin, 8)
	must(err, "another share")
	must(puts(t, other, chunkKey(1), 100_000), "a chunk of another share")
	s.End()
	if puts(t, s, chunkKey(6), 1) == nil {
		t.Error("it takes a chunk after its end")
	}
}

// TestShareDamaged: what is replaced and does not read makes nothing wrong for longer than until the next start.
func TestShareDamaged(t *testing.T) {
	twin := storage.NewTwin()
	s := openShare(t, twin)
	for n := range uint64(2) {
		if err := puts(t, s, chunkKey(n), 1000); err != nil {
			t.Fatal(err)
		}
	}
	twin.Corrupt(append(storage.Within.Key(7), chunkKey(1)...))
	if err := puts(t, s, chunkKey(1), 1000); err != nil {
		t.Fatal(err)
	}
	again := openShare(t, twin)
	if got, want := again.Held(), uint64(2*(1000+len(chunkKey(1)))); got.Bytes != want || got.Chunks != 2 {
		t.Errorf("it says that it holds %+v, not 2 chunks of %d bytes", got, want)
	}
}

// TestFrees: what makes room is committed while the disk is nearly full.
func TestFrees(t *testing.T) {
	free, err := storage.Free(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(filepath.Join(t.TempDir(), "store"), [32]byte{1}, storage.Options{LeastFree: free + free/2})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	var b storage.Batch
	b.Delete(chunkKey(1))
	if err := s.Commit(t.Context(), &b); !errors.Is(err, storage.ErrNoRoom) {
		t.Errorf("any batch: %v", err)
	}
	b.Frees = true
	if err := s.Commit(t.Context(), &b); err != nil {
		t.Errorf("a batch that frees: %v", err)
	}
}
