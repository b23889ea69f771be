package architecture

import (
	"bufio"
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "chartmesh"

// file is one Go file, as far as the rules look at it.
type file struct {
	path    string // from the module's root, with slashes
	test    bool
	imports []string
	doc     string // the package comment in it
	pkg     string // the name in its package clause
	source  []byte
}

func (f file) folder() string { return path.Dir(f.path) }

// load reads every Go file of the module.
func load(t *testing.T) []file {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatalf("find the module's root: %v", err)
	}
	var files []file
	err := filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		if entry.IsDir() {
			if at == root {
				return nil
			}
			if name == "testdata" || strings.HasPrefix(name, ".") || strings.HasPrefix(name, "_") {
				return filepath.SkipDir
			}
			if _, err := os.Stat(filepath.Join(at, "go.mod")); err == nil {
				return filepath.SkipDir // another module
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		source, err := os.ReadFile(at)
		if err != nil {
			return err
		}
		tree, err := parser.ParseFile(token.NewFileSet(), at, source, parser.ImportsOnly|parser.ParseComments)
		if err != nil {
			return err
		}
		from, err := filepath.Rel(root, at)
		if err != nil {
			return err
		}
		f := file{path: filepath.ToSlash(from), test: strings.HasSuffix(name, "_test.go"), pkg: tree.Name.Name,
			doc: comment(tree), source: source}
		for _, spec := range tree.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			f.imports = append(f.imports, imported)
		}
		files = append(files, f)
		return nil
	})
	if err != nil {
		t.Fatalf("read the module: %v", err)
	}
	return files
}

func comment(tree *ast.File) string {
	if tree.Doc == nil {
		return ""
	}
	return tree.Doc.Text()
}

// ruleOf returns the name under which a folder is listed.
func ruleOf(folder string) (string, bool) {
	if _, ok := rules[folder]; ok {
		return folder, true
	}
	for at := folder; at != "."; at = path.Dir(at) {
		if _, ok := rules[at+"/..."]; ok {
			return at + "/...", true
		}
	}
	return "", false
}

// matches reports whether name is one of the patterns, or below one that ends in "/...".
func matches(name string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		folder, all := strings.CutSuffix(pattern, "/...")
		return name == folder || all && strings.HasPrefix(name, folder+"/")
	})
}

func below(imported string, prefixes []string) bool {
	return slices.ContainsFunc(prefixes, func(prefix string) bool {
		return imported == prefix || strings.HasPrefix(imported, prefix+"/")
	})
}

func TestImports(t *testing.T) {
	found := map[string]bool{}
	for _, f := range load(t) {
		name, ok := ruleOf(f.folder())
		if !ok {
			if !found[f.folder()] {
				t.Errorf("package %s has no rule: say in rules.go what it may import", f.folder())
			}
			found[f.folder()] = true
			continue
		}
		found[name] = true
		for _, imported := range f.imports {
			if why := refused(f, name, imported); why != "" {
				t.Errorf("%s imports %s: %s", f.path, imported, why)
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		if !found[name] {
			t.Errorf("package %s is listed and there is none", name)
		}
	}
	for name := range testImports {
		if _, ok := rules[name]; !ok {
			t.Errorf("testImports names %s, which has no rule", name)
		}
	}
}

// refused says why a file may not import something, or nothing.
func refused(f file, name, imported string) string {
	if imported == "C" {
		if f.folder() != cgo {
			return "only " + cgo + " may use cgo"
		}
		return ""
	}
	if inside, ok := strings.CutPrefix(imported, module+"/"); ok {
		if matches(inside, rules[name].module) {
			return ""
		}
		if f.test && (matches(inside, testImports[name]) || matches(inside, testModules) || inside == f.folder()) {
			return ""
		}
		return "the rule of " + name + " does not name it"
	}
	if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
		if imported == "plugin" || imported == "unsafe" && !f.test && f.folder() != cgo {
			return "not in this module"
		}
		return ""
	}
	if below(imported, rules[name].others) {
		return ""
	}
	if f.test && (below(imported, testsToo) || below(imported, testOthers[name])) {
		return ""
	}
	return "the rule of " + name + " does not name this module"
}

// TestReach follows the imports of what gets linked. The rules above name single steps; this names where no number of
// steps may lead, so that a new step in rules.go cannot open a way by accident.
func TestReach(t *testing.T) {
	steps := map[string]map[string]bool{}
	usesC := map[string]bool{}
	for _, f := range load(t) {
		if f.test {
			continue
		}
		from := f.folder()
		if steps[from] == nil {
			steps[from] = map[string]bool{}
		}
		for _, imported := range f.imports {
			if imported == "C" {
				usesC[from] = true
			}
			if inside, ok := strings.CutPrefix(imported, module+"/"); ok {
				steps[from][inside] = true
			}
		}
	}
	reach := func(from string) map[string]bool {
		seen := map[string]bool{}
		for todo := []string{from}; len(todo) > 0; {
			at := todo[0]
			todo = todo[1:]
			for next := range steps[at] {
				if !seen[next] {
					seen[next] = true
					todo = append(todo, next)
				}
			}
		}
		return seen
	}
	for from, never := range unreachable {
		if steps[from] == nil {
			t.Errorf("package %s is listed in unreachable and there is none", from)
		}
		reached := reach(from)
		for _, to := range never {
			if reached[to] {
				t.Errorf("%s reaches %s, which it must not", from, to)
			}
		}
	}
	if !usesC[cgo] {
		t.Errorf("%s does not use cgo: is it still the engine's package?", cgo)
	}
	for _, from := range blind {
		reached := reach(from)
		reached[from] = true
		if steps[from] == nil {
			t.Errorf("package %s is listed in blind and there is none", from)
		}
		for to := range reached {
			if usesC[to] {
				t.Errorf("%s reaches cgo through %s: an anchor must not be able to", from, to)
			}
			if to == "trust/keyring" || to == "crdt" || to == "fhir" || to == "agent" {
				t.Errorf("%s reaches %s: an anchor must not be able to", from, to)
			}
		}
	}
}

func TestPackageComments(t *testing.T) {
	docs := map[string][]file{}
	for _, f := range load(t) {
		if f.test {
			continue
		}
		if f.doc != "" {
			docs[f.folder()] = append(docs[f.folder()], f)
		} else if docs[f.folder()] == nil {
			docs[f.folder()] = []file{}
		}
	}
	for folder, with := range docs {
		if len(with) != 1 {
			t.Errorf("package %s has %d package comments, not one", folder, len(with))
			continue
		}
		f, start := with[0], "Package "+with[0].pkg+" "
		if f.pkg == "main" {
			start = "Command " + path.Base(folder) + " "
		}
		if !strings.HasPrefix(f.doc, start) {
			t.Errorf("%s: the package comment does not begin with %q", f.path, start)
		}
	}
}

func TestFileLengths(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range load(t) {
		lines, limit := bytes.Count(f.source, []byte("\n")), maxLines
		if f.test {
			limit = maxTestLines
		}
		if allowed, ok := long[f.path]; ok {
			if lines <= limit {
				t.Errorf("%s has %d lines and need not be listed in long any more", f.path, lines)
			}
			limit, seen[f.path] = allowed, true
		}
		if lines > limit {
			t.Errorf("%s has %d lines, over %d: which two things does it hold?", f.path, lines, limit)
		}
	}
	for name := range long {
		if !seen[name] {
			t.Errorf("%s is listed in long and there is none", name)
		}
	}
}

// TestNoSleeps: a test that sleeps waits too long on a fast machine and not long enough on a slow one. In a bubble of
// testing/synctest time is virtual and sleeping is exact; between two looks at another process it is all there is, and
// the line says so.
func TestNoSleeps(t *testing.T) {
	for _, f := range load(t) {
		if !f.test || slices.Contains(f.imports, "testing/synctest") || f.folder() == "internal/architecture" {
			continue
		}
		lines := bufio.NewScanner(bytes.NewReader(f.source))
		for n := 1; lines.Scan(); n++ {
			if line := lines.Text(); strings.Contains(line, "time.Sleep(") && !strings.Contains(line, "// between polls") {
				t.Errorf("%s:%d: a test sleeps: wait for what it waits for", f.path, n)
			}
		}
	}
}
