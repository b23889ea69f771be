package storage_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	"chartmesh/storage"
)

// damageKey and damageValue make pairs that tell by themselves whether they are right.
func damageKey(i int) []byte { return fmt.Appendf(nil, "d/%06d", i) }

func damageValue(i int) []byte {
	sum := sha256.Sum256(damageKey(i))
	return bytes.Repeat(sum[:], 1+i%40)
}

const damagePairs = 3000

func damageStore(t testing.TB) string {
	dir := filepath.Join(t.TempDir(), "store")
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < damagePairs; {
		var b storage.Batch
		for end := min(i+500, damagePairs); i < end; i++ {
			b.Put(damageKey(i), damageValue(i))
		}
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return dir
}

// roleRead opens a store and reads all of it, by key and in order. It ends with 0 if everything is as it was written, 10
// if something was refused with an error, 11 if a pair is missing without one, and 12 if a value is wrong.
func roleRead(dir string) {
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		os.Exit(10)
	}
	refused, missing, wrong := false, false, false
	err = s.View(func(r storage.Reader) error {
		n := 0
		err := r.Scan([]byte("d/"), nil, func(k, v []byte) error {
			var i int
			if _, err := fmt.Sscanf(string(k), "d/%06d", &i); err != nil || !bytes.Equal(v, damageValue(i)) {
				wrong = true
			}
			n++
			return nil
		})
		refused = refused || err != nil
		missing = missing || err == nil && n != damagePairs
		for i := range damagePairs {
			v, err := r.Get(damageKey(i))
			switch {
			case errors.Is(err, storage.ErrNotFound):
				missing = true
			case err != nil:
				refused = true
			case !bytes.Equal(v, damageValue(i)):
				wrong = true
			}
		}
		return nil
	})
	switch {
	case wrong:
		os.Exit(12)
	case refused || err != nil:
		os.Exit(10)
	case missing:
		os.Exit(11)
	}
	os.Exit(0)
}

// TestDamage flips a bit somewhere in a store's files. Reading it, in a process of its own since the engine may end that,
// shows everything, or an error, or ends the process; but never another value, and never silence about a pair.
func TestDamage(t *testing.T) {
	flips := 24
	if os.Getenv("HEAVY") != "" {
		flips = 600
	}
	rng := rand.New(rand.NewPCG(testSeed(t), 0))
	dir := damageStore(t)
	var files []string
	var sizes []int64
	var total int64
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if size := info.Size(); size > 0 && filepath.Base(rel) != "LOCK" {
			files, sizes, total = append(files, rel), append(sizes, size), total+size
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]int{}
	for flip := range flips {
		// Every other flip by size, which means tables; the others by file.
		n := flip / 2 % len(files)
		if flip%2 == 0 {
			at := rng.Int64N(total)
			for n = 0; at >= sizes[n]; n++ {
				at -= sizes[n]
			}
		}
		offset, bit := rng.Int64N(sizes[n]), byte(1)<<rng.IntN(8)
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(image, files[n])
		content, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		content[offset] ^= bit
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
		cmd := child(t, "read", image)
		out, _ := cmd.CombinedOutput()
		switch code := cmd.ProcessState.ExitCode(); code {
		case 0:
			outcomes["everything"]++
		case 10:
			outcomes["an error"]++
		case 11:
			t.Errorf("%s, byte %d, bit %#x: a pair is missing without an error", files[n], offset, bit)
		case 12:
			t.Errorf("%s, byte %d, bit %#x: a wrong value", files[n], offset, bit)
		default:
			outcomes["the end of the process"]++
			t.Logf("%s, byte %d, bit %#x: exit %d: %.200s", files[n], offset, bit, code, out)
		}
		if err := os.RemoveAll(image); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d flips gave %v", flips, outcomes)
	if outcomes["an error"] == 0 {
		t.Error("no flip was noticed: the test shows nothing")
	}
}

// TestLost takes files away from a store, or puts older ones back. Opening it says so.
func TestLost(t *testing.T) {
	dir := damageStore(t)
	older := filepath.Join(t.TempDir(), "older")
	if err := os.CopyFS(older, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	var b storage.Batch
	b.Put([]byte("newer"), nil)
	if err := errors.Join(s.Commit(t.Context(), &b), s.Close()); err != nil {
		t.Fatal(err)
	}
	remove := func(names ...string) func(string) error {
		return func(dir string) (err error) {
			for _, n := range names {
				err = errors.Join(err, os.RemoveAll(filepath.Join(dir, n)))
			}
			return err
		}
	}
	for name, harm := range map[string]func(dir string) error{
		"engine":       remove("store"),
		"manifest":     remove("store/MANIFEST"),
		"key registry": remove("store/KEYREGISTRY"),
		"format":       remove("FORMAT"),
		"heads":        remove("HEADS"),
		"older engine": func(dir string) error {
			from := os.DirFS(filepath.Join(older, "store"))
			return errors.Join(remove("store")(dir), os.CopyFS(filepath.Join(dir, "store"), from))
		},
		"empty format":   func(dir string) error { return os.Truncate(filepath.Join(dir, "FORMAT"), 0) },
		"shorter format": func(dir string) error { return os.Truncate(filepath.Join(dir, "FORMAT"), 30) },
		"empty heads":    func(dir string) error { return os.Truncate(filepath.Join(dir, "HEADS"), 0) },
	} {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.CopyFS(image, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		if err := harm(image); err != nil {
			t.Fatal(err)
		}
		for range 2 { // and it does not heal by being opened
			s, err := storage.Open(image, testKey, storage.Options{})
			if err == nil {
				_ = s.Close()
			}
			if !errors.Is(err, storage.ErrDamaged) && !(name == "empty format" && errors.Is(err, storage.ErrForeign)) {
				t.Errorf("without %s: %v, want ErrDamaged", name, err)
			}
		}
	}
}

func TestFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new", "store")
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.(storage.Sizer).Size(); err != nil || n <= 0 || n > 16<<20 {
		t.Errorf("a new store has %d bytes, %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the folder has mode %v, %v, want 0700", info.Mode(), err)
	}

	_, err = storage.Open(dir, [32]byte{9}, storage.Options{})
	if !errors.Is(err, storage.ErrWrongKey) {
		t.Errorf("wrong key: %v, want ErrWrongKey", err)
	}

	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letter.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.Open(other, testKey, storage.Options{}); !errors.Is(err, storage.ErrForeign) {
		t.Errorf("a folder with something else: %v, want ErrForeign", err)
	}
	if err := os.WriteFile(filepath.Join(other, "FORMAT"), []byte("something\nversion 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.Open(other, testKey, storage.Options{}); !errors.Is(err, storage.ErrForeign) {
		t.Errorf("a folder of another format: %v, want ErrForeign", err)
	}

	newer := []byte("chartmesh store\nversion 27\nother lines\n")
	if err := os.WriteFile(filepath.Join(dir, "FORMAT"), newer, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = storage.Open(dir, testKey, storage.Options{})
	if !errors.Is(err, storage.ErrNewer) || !strings.Contains(err.Error(), "27") || !strings.Contains(err.Error(), " 2") {
		t.Errorf("a newer folder: %v, want ErrNewer with both versions", err)
	}

	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := storage.Open(file, testKey, storage.Options{}); err == nil {
		t.Error("a file was opened as a folder")
	}
}

// lockedBuffer takes the log of the engine's goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) WriteString(s string) { _, _ = l.Write([]byte(s)) }

func (l *lockedBuffer) Bytes() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return bytes.Clone(l.b.Bytes())
}

// TestNothingInClear looks for a name that stands in keys and values in the folder, the log and every error, in the forms
// that it may take, and finds it in a plain copy.
func TestNothingInClear(t *testing.T) {
	const name = "Quenneville-Zzyzx"
	var log lockedBuffer
	dir := filepath.Join(t.TempDir(), "store")
	opts := storage.Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	open := func() storage.Store {
		s, err := storage.Open(dir, testKey, opts)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	s := open()
	for round := range 40 {
		var b storage.Batch
		for i := range 100 {
			b.Put(storage.Term.Key(name, "Patient", fmt.Sprint(round, i)), []byte(name))
			b.Put(storage.Resource.Key("Patient", fmt.Sprint(name, round, i)), bytes.Repeat([]byte(name+"\n"), 40))
		}
		if err := s.Commit(t.Context(), &b); err != nil {
			t.Fatal(err)
		}
		if round%15 == 14 { // in the tables, and, at the end, in the logs too
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = open()
		}
	}
	var b storage.Batch
	b.Put(storage.Term.Key(strings.Repeat(name, 1000), "", ""), nil)
	err := s.Commit(t.Context(), &b)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err = errors.Join(err, s.Commit(ctx, &storage.Batch{}), s.View(func(r storage.Reader) error {
		_, err := r.Get(storage.Term.Key(name, "Patient", "none"))
		return err
	}))
	log.WriteString(err.Error())

	utf16le, utf16be := []byte{}, []byte{}
	for _, u := range utf16.Encode([]rune(name)) {
		utf16le, utf16be = append(utf16le, byte(u), byte(u>>8)), append(utf16be, byte(u>>8), byte(u))
	}
	forms := [][]byte{[]byte(name), utf16le, utf16be, []byte(hex.EncodeToString([]byte(name))),
		[]byte(strings.ToUpper(hex.EncodeToString([]byte(name)))), []byte(strings.ReplaceAll(name, "-", "\\x2d"))}
	for shift := range 3 {
		encoded := base64.StdEncoding.EncodeToString([]byte(strings.Repeat("x", shift) + name))
		forms = append(forms, []byte(encoded[4:len(encoded)-4]))
	}
	found := func(b []byte) bool {
		for _, f := range forms {
			if bytes.Contains(b, f) {
				return true
			}
		}
		return false
	}
	files := 0
	err = filepath.WalkDir(dir, func(file string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(file)
		if files++; found(b) || found([]byte(file)) {
			t.Errorf("%s holds the name", e.Name())
		}
		return err
	})
	if err != nil || files < 6 {
		t.Fatalf("%d files, %v", files, err)
	}
	if found(log.Bytes()) {
		t.Error("the log or an error holds the name")
	}
	if len(log.Bytes()) == 0 {
		t.Error("the engine logged nothing: the test shows little")
	}
	for _, f := range forms {
		if !found(append([]byte("plain "), f...)) {
			t.Errorf("the search does not find %q", f)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
