package architecture

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	function = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	named    = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
	link     = regexp.MustCompile(`\]\(([^)#\s]+)(?:#[^)\s]*)?\)`)
)

// TestGoalsNameTests: a goal is a promise as long as the test that it names is there.
func TestGoalsNameTests(t *testing.T) {
	tests := map[string]bool{}
	for _, f := range load(t) {
		if f.test {
			for _, m := range function.FindAllSubmatch(f.source, -1) {
				tests[string(m[1])] = true
			}
		}
	}
	goals, err := os.ReadFile(filepath.Join("..", "..", "docs", "GOALS.md"))
	if err != nil {
		t.Fatal(err)
	}
	names := named.FindAllSubmatch(goals, -1)
	if len(names) == 0 {
		t.Error("docs/GOALS.md names no test")
	}
	for _, m := range names {
		if name := string(m[1]); !tests[name] {
			t.Errorf("docs/GOALS.md names %s, and there is no such test", name)
		}
	}
}

// TestLinks: what a document of the project points at within it is there.
func TestLinks(t *testing.T) {
	root := filepath.Join("..", "..")
	documents := 0
	err := filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && at != root && (strings.HasPrefix(entry.Name(), ".") || entry.Name() == "testdata") {
			return filepath.SkipDir
		}
		if entry.IsDir() || filepath.Ext(at) != ".md" {
			return nil
		}
		documents++
		text, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		for _, m := range link.FindAllSubmatch(text, -1) {
			to := string(m[1])
			if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(at), filepath.FromSlash(to))); err != nil {
				t.Errorf("%s points at %s, and there is no such file", at, to)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if documents < 10 {
		t.Errorf("found %d documents: are they where they were?", documents)
	}
}
