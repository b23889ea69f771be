package logfile_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"chartmesh/cmd/chartmesh/logfile"
)

// lines returns what the parts hold, oldest first, and checks each.
func lines(t *testing.T, path string, size, parts int) []string {
	t.Helper()
	names, err := filepath.Glob(path + "*")
	if err != nil || len(names) > parts {
		t.Errorf("parts %v, %v", names, err)
	}
	var all []string
	for i := parts - 1; i >= 0; i-- {
		name := path
		if i > 0 {
			name = fmt.Sprintf("%s.%d", path, i)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		info, err := os.Stat(name)
		if err != nil || len(b) > size || runtime.GOOS != "windows" && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has %d bytes, %v, %v", name, len(b), info.Mode(), err)
		}
		all = append(all, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")...)
	}
	return all
}

// TestNothingIsLost: many writers, many rotations and openings anew; with room for all of it, every line is there once.
func TestNothingIsLost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	const writers, each, size, parts = 8, 200, 1 << 10, 64
	for round := range 2 {
		f, err := logfile.Open(path, size, parts-1)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for w := range writers {
			wg.Go(func() {
				for n := range each {
					if _, err := fmt.Fprintf(f, "%d-%d-%d\n", round, w, n); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	seen, last := map[string]bool{}, map[string]int{}
	for _, line := range lines(t, path, size, parts) {
		var round, w, n int
		if _, err := fmt.Sscanf(line, "%d-%d-%d", &round, &w, &n); err != nil || seen[line] {
			t.Fatalf("%q: %v", line, err)
		}
		seen[line] = true
		if by := fmt.Sprint(round, w); last[by] > n {
			t.Errorf("%q comes after %d", line, last[by])
		} else {
			last[by] = n
		}
	}
	if len(seen) != 2*writers*each {
		t.Errorf("%d lines of %d", len(seen), 2*writers*each)
	}
}

func TestOldestGo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("from before, and readable by others\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := logfile.Open(path, 100, 2)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for n := range 100 {
		if _, err := fmt.Fprintf(f, "line %03d\n", n); err != nil {
			t.Fatal(err)
		}
	}
	all := lines(t, path, 100, 3)
	if len(all) < 23 || all[len(all)-1] != "line 099" || all[0] == "line 000" {
		t.Errorf("%q", all)
	}
}

// TestCannotMove: where the parts cannot be moved the log goes on in the file that there is.
func TestCannotMove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.MkdirAll(filepath.Join(path+".1", "occupied"), 0o700); err != nil {
		t.Fatal(err)
	}
	f, err := logfile.Open(path, 20, 1)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		if _, err := f.Write([]byte("a line of log\n")); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(path); err != nil || strings.Count(string(b), "\n") != 10 {
		t.Errorf("%q, %v", b, err)
	}
	for range 2 {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
	if _, err := f.Write([]byte("x\n")); err == nil {
		t.Error("a closed log takes lines")
	}
}

func TestNoFile(t *testing.T) {
	if _, err := logfile.Open(t.TempDir(), 1, 1); err == nil {
		t.Error("a folder was opened as a log")
	}
}
