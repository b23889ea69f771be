package storage_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"chartmesh/storage"
)

const salvageChunks = 3000

func salvageKey(i int) []byte { return storage.Chunk.Key([16]byte{1}, [32]byte{2}, uint64(i)) }

func salvageValue(i int) []byte {
	v := bytes.Clone(damageValue(i))
	if i == 17 {
		v = bytes.Repeat(v, 300<<10/len(v)) // in segments
	}
	return v
}

// salvageStore has values in tables and, if it crashed, the last of them in a log.
func salvageStore(t *testing.T) string {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < salvageChunks; {
		var b storage.Batch
		for end := min(i+100, salvageChunks); i < end; i++ {
			b.Put(salvageKey(i), []byte("older"))
			b.Put(salvageKey(i), salvageValue(i))
		}
		b.Put(storage.Term.Key("name", "Patient", fmt.Sprint(i)), nil) // not asked for
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

func salvaged(t *testing.T, dir string) (n int, count storage.Salvaged) {
	got := map[string][]byte{}
	count, err := storage.Salvage(dir, testKey, []storage.Kind{storage.Chunk.Kind}, func(k, v []byte) error {
		got[string(k)] = bytes.Clone(v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range salvageChunks {
		v, ok := got[string(salvageKey(i))]
		if ok && !bytes.Equal(v, salvageValue(i)) {
			t.Errorf("value %d is another", i)
		}
		if ok {
			n++
		}
		delete(got, string(salvageKey(i)))
	}
	if len(got) != 0 {
		t.Errorf("%d pairs that nobody asked for", len(got))
	}
	return n, count
}

// TestSalvage reads a store whose files are harmed: everything comes that is not in the harmed place, and nothing else.
func TestSalvage(t *testing.T) {
	dir := salvageStore(t)
	if n, count := salvaged(t, dir); n != salvageChunks || count.Damaged != 0 || count.Files == 0 {
		t.Fatalf("of an undamaged store %d of %d values come; %+v", n, salvageChunks, count)
	}
	tables, err := filepath.Glob(filepath.Join(dir, "store", "*.sst"))
	if err != nil || len(tables) == 0 {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(testSeed(t), 0))
	for range 20 {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(image, "store", filepath.Base(tables[rng.IntN(len(tables))]))
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		b[rng.IntN(len(b)*8/10)] ^= 1 << rng.IntN(8)
		if err := errors.Join(os.WriteFile(name, b, 0o600), os.Remove(filepath.Join(image, "store", "MANIFEST")),
			os.Remove(filepath.Join(image, "store", "KEYREGISTRY"))); err != nil {
			t.Fatal(err)
		}
		if n, _ := salvaged(t, image); n < salvageChunks*9/10 {
			t.Errorf("with one bit flipped and neither manifest nor keys, %d of %d values come", n, salvageChunks)
		}
	}
	stop := errors.New("stop")
	if _, err := storage.Salvage(dir, testKey, []storage.Kind{storage.Chunk.Kind}, func(_, _ []byte) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("the caller's error gave %v", err)
	}
	if _, err := storage.Salvage(dir, [32]byte{9}, []storage.Kind{storage.Chunk.Kind}, func(_, _ []byte) error {
		t.Error("a pair came with another key")
		return nil
	}); !errors.Is(err, storage.ErrDamaged) {
		t.Errorf("another key gave %v", err)
	}
}
