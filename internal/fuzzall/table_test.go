package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var root = filepath.Join("..", "..")

// row is one line of a table in docs/fuzzing.md. Of the second table it has no target.
type row struct {
	folder, target string
	decoders       []string
	checked        string
}

var quoted = regexp.MustCompile("`([^`]+)`")

// table reads docs/fuzzing.md.
func table(t *testing.T) (rows []row) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docs", "fuzzing.md"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if !strings.HasPrefix(line, "| `") || len(cells) < 5 {
			continue // prose, and the table of commands, whose rows have two cells
		}
		names := func(cell string) (names []string) {
			for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
				names = append(names, m[1])
			}
			return names
		}
		r := row{folder: strings.Join(names(cells[1]), "")}
		if len(cells) == 6 {
			r.target, r.decoders, r.checked = strings.Join(names(cells[2]), ""), names(cells[3]), cells[4]
		} else {
			r.decoders, r.checked = names(cells[2]), cells[3]
		}
		rows = append(rows, r)
	}
	return rows
}

// TestTable holds docs/fuzzing.md, the fuzz targets and the code together.
func TestTable(t *testing.T) {
	all, err := scan(root)
	if err != nil {
		t.Fatal(err)
	}
	rows := table(t)
	if len(rows) < 30 || len(all.targets) < 30 || len(all.decoders) < 100 {
		t.Fatalf("%d rows, %d targets, %d decoders: are they where they were?", len(rows), len(all.targets), len(all.decoders))
	}
	targets := map[string]target{}
	for _, x := range all.targets {
		targets[x.String()] = x
	}
	inRows := map[string]int{}
	for _, r := range rows {
		if strings.TrimSpace(r.checked) == "" {
			t.Errorf("the row of %s %s%v says nothing of what is checked, or why not", r.folder, r.target, r.decoders)
		}
		for _, d := range r.decoders {
			inRows[r.folder+" "+d]++
		}
		if r.target == "" {
			continue
		}
		x, ok := targets[r.folder+" "+r.target]
		if !ok {
			t.Errorf("docs/fuzzing.md names the target %s of %s, and there is none", r.target, r.folder)
			continue
		}
		delete(targets, x.String())
		for word, call := range map[string]string{"memory": "Allocates", "quiet": "Quiet"} {
			if says := strings.Contains(r.checked, word); says != x.calls[call] {
				t.Errorf("%v: its row says %q: %v, and it calls fuzzing.%s: %v", x, word, says, call, x.calls[call])
			}
		}
	}
	for name := range targets {
		t.Errorf("the target %s has no row in docs/fuzzing.md", name)
	}
	found := map[string]bool{}
	for _, d := range all.decoders {
		found[d.String()] = true
		switch n := inRows[d.String()]; {
		case n == 0:
			t.Errorf("%v takes bytes apart (%s) and has no row in docs/fuzzing.md: give it a fuzz target and a row", d, d.why)
		case n > 1:
			t.Errorf("%v has %d rows in docs/fuzzing.md", d, n)
		}
	}
	for name := range inRows {
		if !found[name] {
			t.Errorf("docs/fuzzing.md names %s, and no such function takes bytes apart", name)
		}
	}
}

// TestScan: what is a decoder is found by what it calls, by what it is given, and by its name; what is a target, as go
// test finds it.
func TestScan(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.go", `package a
func parseThing(b []byte) error { return nil }
func ParseText(s string) error { return nil }
func (m *message) decode(r *wire.Reader) {}
func (t table[A, B]) Parse(key []byte) error { return nil }
func quiet(b []byte) int { return int(binary.BigEndian.Uint32(b)) }
func readStream(r io.Reader) {}
func ready(s string) {}
func parse(n int) {}
func encode(b []byte) {}
`)
	write("a_test.go", `package a
func FuzzThing(f *testing.F) { fuzzing.Allocates(nil) }
func FuzzNot(t *testing.T) {}
func TestThing(t *testing.T) {}
func parseInTest(b []byte) {}
`)
	all, err := scan(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range all.decoders {
		names = append(names, d.name)
	}
	if want := []string{"ParseText", "message.decode", "parseThing", "quiet", "readStream", "table.Parse"}; !slices.Equal(names, want) {
		t.Errorf("decoders %q, want %q", names, want)
	}
	if len(all.targets) != 1 || all.targets[0].name != "FuzzThing" || !all.targets[0].calls["Allocates"] {
		t.Errorf("targets %v", all.targets)
	}
}
