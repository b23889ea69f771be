package simulations

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is a product with one promise broken on purpose; some world must find it.
type mutant struct {
	name  string
	why   string
	edits []edit
}

// edit replaces one piece of a file, which must be there exactly once.
type edit struct{ file, old, new string }

// usual are the mutants of every run; MUTANTS=1 or HEAVY=1 runs all of them.
var usual = map[string]bool{"own-log-forgotten": true}

const mutantSeeds = 60 // worlds in which a mutant must be found

// TestMutants proves that the invariants have teeth.
func TestMutants(t *testing.T) {
	mutants := readMutants(t)
	all := os.Getenv("MUTANTS") != "" || os.Getenv("HEAVY") != ""
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			overlay := m.overlay(t)
			if !all && !usual[m.name] {
				return // that it applies was looked at
			}
			if testing.Short() {
				t.Skip("builds a program")
			}
			start := time.Now()
			found, output := m.run(t, overlay)
			if found == "" {
				t.Fatalf("survives %d worlds: %s\n%s", mutantSeeds, m.why, last(output, 30))
			}
			t.Logf("%s: found by %s in %.0f s", m.why, found, time.Since(start).Seconds())
		})
	}
}

// readMutants reads all patches: a line "# why", then for each edit "--- file", and between "<<<<", "====" and ">>>>" what
// stands there and what shall.
func readMutants(t *testing.T) []mutant {
	t.Helper()
	names, err := filepath.Glob("mutants/*.patch")
	if err != nil || len(names) == 0 {
		t.Fatalf("no mutants: %v", err)
	}
	var list []mutant
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		m := mutant{name: strings.TrimSuffix(filepath.Base(name), ".patch")}
		head, rest, _ := strings.Cut(string(b), "\n")
		m.why = strings.TrimPrefix(head, "# ")
		for rest != "" {
			var e edit
			var ok [3]bool
			e.file, rest, ok[0] = strings.Cut(strings.TrimPrefix(rest, "--- "), "\n<<<<\n")
			e.old, rest, ok[1] = strings.Cut(rest, "====\n")
			e.new, rest, ok[2] = strings.Cut(rest, ">>>>\n")
			if ok != [3]bool{true, true, true} {
				t.Fatalf("%s: not a patch", name)
			}
			m.edits = append(m.edits, e)
		}
		list = append(list, m)
	}
	return list
}

// overlay writes the mutant's files and returns the overlay for the go command.
func (m mutant) overlay(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	texts, replace := map[string]string{}, map[string]string{}
	for _, e := range m.edits {
		at := filepath.Join(root, filepath.FromSlash(e.file))
		if _, ok := texts[at]; !ok {
			b, err := os.ReadFile(at)
			if err != nil {
				t.Fatalf("the patch does not apply: %v", err)
			}
			texts[at] = string(b)
		}
		if n := strings.Count(texts[at], e.old); n != 1 {
			t.Fatalf("the patch does not apply: %s holds what it replaces %d times:\n%s", e.file, n, e.old)
		}
		texts[at] = strings.Replace(texts[at], e.old, e.new, 1)
	}
	for at, text := range texts {
		replace[at] = filepath.Join(dir, fmt.Sprintf("%d.go", len(replace)))
		if err := os.WriteFile(replace[at], []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	b, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

var failurePattern = regexp.MustCompile(`seed \d+: I-[a-z]+`)

// run builds the mutant and returns the seed and the invariant that found it.
func (m mutant) run(t *testing.T, overlay string) (found, output string) {
	t.Helper()
	tool, err := exec.LookPath("go")
	if err != nil {
		t.Skip("there is no go command to build with")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	program := filepath.Join(filepath.Dir(overlay), "mutant.test")
	if out, err := exec.CommandContext(ctx, tool, "test", "-c", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("the mutant does not build: %v\n%s", err, out)
	}
	worlds := "^TestWorlds$"
	if strings.HasPrefix(m.name, "removed-") {
		worlds = "^TestRemovals$"
	} else if strings.HasPrefix(m.name, "anchor-") {
		worlds = "^TestAnchors$"
	} else if strings.HasPrefix(m.name, "protected-") {
		worlds = "^TestProtected$"
	}
	cmd := exec.CommandContext(ctx, program, "-test.run", worlds, "-test.timeout", "10m")
	cmd.Env = append(os.Environ(), fmt.Sprintf("SIM_SEEDS=%d", mutantSeeds), "SIM_SEED=", "SIM_FIRST=1")
	out, _ := cmd.CombinedOutput() // that it fails is what we want
	return failurePattern.FindString(string(out)), string(out)
}

// last returns the last lines of a text.
func last(text string, n int) string {
	lines := strings.Split(text, "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
