package wholefile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func begin(t *testing.T, name, content string) *File {
	t.Helper()
	f, err := Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	return f
}

// TestWhole writes a file, replaces it, and gives up a third: the name always has a whole file, which only its owner may read.
func TestWhole(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "all.ndjson")
	want := ""
	for _, content := range []string{"one", "two"} {
		f := begin(t, name, content)
		if got, err := os.ReadFile(name); string(got) != want || want == "" && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("before it is complete: %q, %v", got, err)
		}
		if err := f.Commit(); err != nil {
			t.Fatal(err)
		}
		want = content
		if err := f.Discard(); err != nil { // which changes nothing any more
			t.Fatal(err)
		}
		if err := f.Commit(); err == nil {
			t.Error("it is committed twice")
		}
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	f := begin(t, name, "three")
	if err := f.Discard(); err != nil {
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 1 || got[0] != "all.ndjson" {
		t.Errorf("left behind: %q", got)
	}
	info, err := os.Stat(name)
	if err != nil || renamesOpen && info.Mode() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if _, err := Create(filepath.Join(dir, "no", "such", "folder")); err == nil {
		t.Error("a file in a folder that is not there")
	}
}

// TestLeftBehind: what a killed process left of this very name is removed, what another is writing is not.
func TestLeftBehind(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "all.ndjson")
	mine := func(s string) string { return filepath.Join(dir, prefix(name)+s) }
	others := []string{filepath.Join(dir, ".all.ndjson.swp"), filepath.Join(dir, ".b.ndjson.unfinished-1"), mine("written")}
	for _, n := range append(others, mine("left")) {
		if err := os.WriteFile(n, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	written, err := os.Open(mine("written"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = written.Close() }()
	if err := lock(written); err != nil {
		t.Fatal(err)
	}
	if err := begin(t, name, "y").Commit(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mine("left")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("what was left is there: %v", err)
	}
	for _, n := range append(others, name) {
		if _, err := os.Stat(n); err != nil {
			t.Error(err)
		}
	}
}
