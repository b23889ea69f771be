package wholefile

import (
	"os"
	"path/filepath"
	"testing"
)

// TestBeside is what happens where a file cannot be without a name.
func TestBeside(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "all.ndjson")
	beside := func() *File {
		file, err := os.CreateTemp(dir, prefix(name)+"*")
		if err != nil {
			t.Fatal(err)
		}
		if err := lock(file); err != nil {
			t.Fatal(err)
		}
		return &File{file: file, name: name, beside: file.Name()}
	}
	f := beside()
	if _, err := f.Write([]byte("one")); err != nil {
		t.Fatal(err)
	}
	removeLeft(name)
	if err := f.Commit(); err != nil {
		t.Fatal(err)
	}
	if err := beside().Discard(); err != nil {
		t.Fatal(err)
	}
	killed := beside()
	if err := killed.file.Close(); err != nil { // as the system does
		t.Fatal(err)
	}
	if got := names(t, dir); len(got) != 2 {
		t.Fatalf("%q", got)
	}
	removeLeft(name)
	got, err := os.ReadFile(name)
	if left := names(t, dir); err != nil || string(got) != "one" || len(left) != 1 {
		t.Errorf("%q, %v, %q", got, err, left)
	}
}
