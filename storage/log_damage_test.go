package storage_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"chartmesh/storage"
)

const crashPairs = 400

// roleCrash commits pairs one by one and ends without closing the store.
func roleCrash(dir string) {
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		fatal(err)
	}
	for i := range crashPairs {
		var b storage.Batch
		b.Put(damageKey(i), damageValue(i))
		if err := s.Commit(context.Background(), &b); err != nil {
			fatal(err)
		}
	}
	os.Exit(0)
}

// crashed returns the folder of a store whose process ended without closing it, and the name of its log.
func crashed(t *testing.T) (dir, log string) {
	dir = filepath.Join(t.TempDir(), "store")
	if out, err := child(t, "crash", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "store", "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("the store has the logs %v, %v", logs, err)
	}
	return dir, filepath.Join("store", filepath.Base(logs[0]))
}

// count opens the store and returns how many of the pairs are there from the first on.
func count(t *testing.T, dir string) int {
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}()
	n := 0
	err = s.View(func(r storage.Reader) error {
		for ; n < crashPairs; n++ {
			v, err := r.Get(damageKey(n))
			if errors.Is(err, storage.ErrNotFound) {
				return nil
			}
			if err != nil || !bytes.Equal(v, damageValue(n)) {
				return fmt.Errorf("pair %d: %w", n, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// TestLogDamage harms the log of a store that was not closed. The engine would keep what comes before the damage and say
// nothing; opening says so.
func TestLogDamage(t *testing.T) {
	dir, log := crashed(t)
	if storage.EndedInOrder(dir) {
		t.Error("a crash counts as an end in order")
	}
	whole, err := os.ReadFile(filepath.Join(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	content := len(bytes.TrimRight(whole, "\x00"))
	flip := func(at int) func(name string) error {
		return func(name string) error {
			b := bytes.Clone(whole)
			b[at] ^= 0x08
			return os.WriteFile(name, b, 0o600)
		}
	}
	harms := map[string]func(name string) error{
		"a cut in the middle": func(name string) error { return os.Truncate(name, int64(content)*6/10) },
		"a cut of zeros":      func(name string) error { return os.Truncate(name, int64(content)*2/10) },
		"no log":              os.Remove,
		"the key's number":    flip(7),
		"the IV":              flip(12),
	}
	for tenth := range 9 {
		harms[fmt.Sprintf("a flip at %d0 %%", tenth)] = flip(20 + (content-20)*tenth/10)
	}
	for name, harm := range harms {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := harm(filepath.Join(image, log)); err != nil {
			t.Fatal(err)
		}
		for range 2 { // and it does not heal by being opened
			s, err := storage.Open(image, testKey, storage.Options{})
			if err == nil {
				_ = s.Close()
			}
			if !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("%s: %v, want ErrDamaged", name, err)
			}
		}
	}
	// What a crash tears is one transaction at the end, and no damage.
	image := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	torn := bytes.Clone(whole)
	clear(torn[content-10:])
	if err := os.WriteFile(filepath.Join(image, log), torn, 0o600); err != nil {
		t.Fatal(err)
	}
	serial, _, err := storage.ReadHeads(image, testKey)
	if err != nil {
		t.Fatal(err)
	}
	if serial > crashPairs { // the child was slow enough for HEADS to know of the last one: then it was durable
		if _, err := storage.Open(image, testKey, storage.Options{}); !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("a torn transaction that was durable: %v, want ErrDamaged", err)
		}
	} else if n := count(t, image); n != crashPairs-1 {
		t.Errorf("a log whose last transaction is torn gives %d pairs, want %d", n, crashPairs-1)
	}
	if n := count(t, dir); n != crashPairs {
		t.Errorf("an undamaged log gives %d of %d pairs", n, crashPairs)
	}
	if !storage.EndedInOrder(dir) {
		t.Error("a close does not count as an end in order")
	}
}
