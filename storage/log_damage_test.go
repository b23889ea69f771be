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
	return dir, crash(t, dir)
}

func crash(t *testing.T, dir string) (log string) {
	if out, err := child(t, "crash", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	logs, err := filepath.Glob(filepath.Join(dir, "store", "*.mem"))
	if err != nil || len(logs) != 1 {
		t.Fatalf("the store has the logs %v, %v", logs, err)
	}
	return filepath.Join("store", filepath.Base(logs[0]))
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

// TestLastTransaction harms the last transaction of a log, of which HEADS does not know yet. A flipped bit is damage;
// what a crash leaves of it is not.
func TestLastTransaction(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	heads, err := os.ReadFile(filepath.Join(dir, "HEADS"))
	if err != nil {
		t.Fatal(err)
	}
	log := crash(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "HEADS"), heads, 0o600); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, log))
	if err != nil {
		t.Fatal(err)
	}
	content := len(bytes.TrimRight(whole, "\x00"))
	// The last value is of 1280 bytes; its entry ends some 80 bytes before the content does.
	sector := (content - 100) / 512 * 512
	for name, c := range map[string]struct {
		harm    func(b []byte)
		damaged bool
	}{
		"a bit of the value":              {func(b []byte) { b[content-700] ^= 1 }, true},
		"two bytes of the value":          {func(b []byte) { b[content-300], b[content-900] = b[content-300]^0x80, b[content-900]^2 }, true},
		"the rest, from within the value": {func(b []byte) { clear(b[content-700:]) }, false},
		"the mark at its end":             {func(b []byte) { clear(b[content-30:]) }, false},
		"a sector":                        {func(b []byte) { clear(b[sector-512 : sector]) }, false},
		"a sector from a byte on":         {func(b []byte) { clear(b[sector-77 : sector]) }, false},
		"all but the last sector":         {func(b []byte) { clear(b[content-1300 : sector]) }, false},
	} {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		b := bytes.Clone(whole)
		c.harm(b)
		if err := os.WriteFile(filepath.Join(image, log), b, 0o600); err != nil {
			t.Fatal(err)
		}
		if c.damaged {
			s, err := storage.Open(image, testKey, storage.Options{})
			if err == nil {
				_ = s.Close()
			}
			if !errors.Is(err, storage.ErrDamaged) {
				t.Errorf("%s: %v, want ErrDamaged", name, err)
			}
		} else if n := count(t, image); n != crashPairs-1 {
			t.Errorf("without %s there are %d pairs, want %d", name, n, crashPairs-1)
		}
	}
}

// TestEmptyFiles opens a store with the files of no length that the end of a process may leave where the engine was about
// to fill or to remove them.
func TestEmptyFiles(t *testing.T) {
	dir, _ := crashed(t)
	for _, names := range [][]string{
		{"00000.mem"},   // emptied, once its content was in a table, and not removed
		{"00002.mem"},   // made, and not given its length
		{"000000.vlog"}, // likewise
		{"000002.vlog"},
		{"00000.mem", "00002.mem", "000000.vlog", "000002.vlog", "DISCARD", "000099.sst"},
	} {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			name = filepath.Join(image, "store", name)
			if info, err := os.Stat(name); err == nil && info.Size() > 0 && filepath.Base(name) != "DISCARD" {
				t.Fatalf("%s is one of the store's", name)
			}
			if err := os.WriteFile(name, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			if n := count(t, image); n != crashPairs {
				t.Errorf("with %v of no length there are %d of %d pairs", names, n, crashPairs)
			}
		}
	}
}

// TestLostLog empties and removes the older one of two logs. What it held is missing although the newest commit is there,
// and opening says so.
func TestLostLog(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := storage.Open(dir, testKey, storage.Options{}) // so that what the store begins with is in a table
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	first := crash(t, dir)
	image := filepath.Join(t.TempDir(), "image")
	if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// Another process makes a table of the log and begins a second log. The first one's manifest and log together with the
	// second are what would be there had it ended before it made the table.
	if out, err := child(t, "crash", image).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{first, filepath.Join("store", "MANIFEST")} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(image, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	logs, err := filepath.Glob(filepath.Join(image, "store", "*.mem"))
	if err != nil || len(logs) != 2 {
		t.Fatalf("the store has the logs %v, %v", logs, err)
	}
	for name, harm := range map[string]func(name string) error{
		"whole":   func(string) error { return nil },
		"emptied": func(name string) error { return os.Truncate(name, 0) },
		"removed": os.Remove,
	} {
		copied := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(copied, os.DirFS(image)); err != nil {
			t.Fatal(err)
		}
		if err := harm(filepath.Join(copied, first)); err != nil {
			t.Fatal(err)
		}
		if name == "whole" {
			if n := count(t, copied); n != crashPairs {
				t.Errorf("two whole logs give %d of %d pairs", n, crashPairs)
			}
			continue
		}
		s, err := storage.Open(copied, testKey, storage.Options{})
		if err == nil {
			_ = s.Close()
		}
		if !errors.Is(err, storage.ErrDamaged) {
			t.Errorf("the older log %s: %v, want ErrDamaged", name, err)
		}
	}
}
