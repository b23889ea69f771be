package compat

import (
	"os"
	"path/filepath"
	"testing"
)

// TestEach: what was kept of builds comes back, of each once, and unpacked for each test anew.
func TestEach(t *testing.T) {
	at := t.TempDir()
	for _, build := range []string{"1", "2"} {
		dir := filepath.Join(t.TempDir(), "data")
		must(t, os.MkdirAll(filepath.Join(dir, "inner"), 0o700))
		must(t, os.WriteFile(filepath.Join(dir, "inner", "file"), []byte("of "+build), 0o600))
		Keep(t, dir, []byte("state of "+build), filepath.Join(at, build))
	}
	seen := map[string]string{}
	Each(t, at, func(t *testing.T, dir string, state []byte) {
		path := filepath.Join(dir, "inner", "file")
		b, err := os.ReadFile(path)
		must(t, err)
		info, err := os.Stat(path)
		must(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
		seen[string(state)] += string(b)
	})
	if len(seen) != 2 || seen["state of 1"] != "of 1" || seen["state of 2"] != "of 2" {
		t.Errorf("what came back: %v", seen)
	}
}
