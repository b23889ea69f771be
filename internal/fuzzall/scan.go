package main

import (
	"cmp"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// target is a fuzz target.
type target struct {
	folder, name string
	calls        map[string]bool // what its file calls, by the last name: "Seeds" of fuzzing.Seeds
}

func (t target) String() string { return t.folder + " " + t.name }

// decoder is a function that takes bytes, text or a stream apart.
type decoder struct {
	folder, name string // a method's name has its type before it: "hello.decode"
	why          string // by what it was found
	file         string // its base name
	first, last  int    // lines of its body
}

func (d decoder) String() string { return d.folder + " " + d.name }

type found struct {
	targets  []target
	decoders []decoder
}

// takesApart are the functions by which bytes and texts from outside become something else, by the name that stands before
// the last dot. Who calls one is a decoder.
var takesApart = map[string][]string{
	"wire":          {"NewReader"},
	"json":          {"Unmarshal", "NewDecoder"},
	"binary":        {"Read", "Uvarint", "Varint"},
	"BigEndian":     {"Uint16", "Uint32", "Uint64"},
	"LittleEndian":  {"Uint16", "Uint32", "Uint64"},
	"hex":           {"Decode", "DecodeString"},
	"codeEncoding":  {"DecodeString"},
	"strconv":       {"Atoi", "ParseInt", "ParseUint", "ParseBool", "ParseFloat", "Unquote"},
	"fmt":           {"Sscan", "Sscanf", "Sscanln", "Fscan", "Fscanf"},
	"gzip":          {"NewReader"},
	"zstd":          {"NewReader"},
	"bufio":         {"NewScanner", "NewReader"},
	"io":            {"ReadAll"},
	"url":           {"Parse", "ParseQuery", "PathUnescape", "QueryUnescape"},
	"mime":          {"ParseMediaType"},
	"time":          {"Parse", "ParseDuration"},
	"netip":         {"ParseAddr", "ParseAddrPort", "AddrFromSlice"},
	"ma":            {"NewMultiaddr", "NewMultiaddrBytes"},
	"transportPort": {"FindStringSubmatch"},
	"trust":         {"ParseEntry"},
}

// named is how decoders are called; such a function is one if it is given bytes, a text, a stream or a frame.
var named = regexp.MustCompile(`^(?:[Pp]arse|[Dd]ecode|[Uu]nmarshal|[Uu]npack|[Ss]can|read|Read)(?:[A-Z].*)?$`)

// skipped are the folders whose code meets nothing from outside: tests of the whole, test doubles, tools and generators.
var skipped = []string{"acceptance", "bench", "internal", "simulations", "fhir/internal", "fhir/synthetic", "cmd/chartmesh/demo",
	"agent/api/apitest", "p2p/session/sessiontest", "storage/storagetest", "tools"}

// scan finds every fuzz target and every decoder below root.
func scan(root string) (all found, err error) {
	err = filepath.WalkDir(root, func(at string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			name := entry.Name()
			_, other := os.Stat(filepath.Join(at, "go.mod"))
			if at != root && (name == "testdata" || name[0] == '.' || name[0] == '_' || other == nil) {
				return filepath.SkipDir
			}
			return nil
		}
		if filepath.Ext(at) != ".go" {
			return nil
		}
		files := token.NewFileSet()
		tree, err := parser.ParseFile(files, at, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		from, err := filepath.Rel(root, filepath.Dir(at))
		if err != nil {
			return err
		}
		folder := filepath.ToSlash(from)
		if strings.HasSuffix(at, "_test.go") {
			all.targets = append(all.targets, targetsIn(tree, folder)...)
		} else if !below(folder, skipped) {
			all.decoders = append(all.decoders, decodersIn(files, tree, folder)...)
		}
		return nil
	})
	slices.SortFunc(all.targets, func(a, b target) int { return cmp.Compare(a.String(), b.String()) })
	slices.SortFunc(all.decoders, func(a, b decoder) int { return cmp.Compare(a.String(), b.String()) })
	return all, err
}

func below(folder string, list []string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return folder == s || strings.HasPrefix(folder, s+"/") })
}

// targetsIn returns the functions that go test -fuzz would take.
func targetsIn(tree *ast.File, folder string) (targets []target) {
	for _, d := range tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Recv != nil || !strings.HasPrefix(fn.Name.Name, "Fuzz") || len(fn.Type.Params.List) != 1 {
			continue
		}
		if typ, ok := fn.Type.Params.List[0].Type.(*ast.StarExpr); !ok || lastName(typ.X) != "F" {
			continue
		}
		t := target{folder: folder, name: fn.Name.Name, calls: map[string]bool{}}
		ast.Inspect(fn, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				t.calls[lastName(call.Fun)] = true
			}
			return true
		})
		targets = append(targets, t)
	}
	return targets
}

func decodersIn(files *token.FileSet, tree *ast.File, folder string) (decoders []decoder) {
	for _, d := range tree.Decls {
		fn, ok := d.(*ast.FuncDecl)
		if !ok || fn.Body == nil {
			continue
		}
		if why := decodes(fn); why != "" {
			name := fn.Name.Name
			if fn.Recv != nil {
				name = receiver(fn.Recv.List[0].Type) + "." + name
			}
			from, to := files.Position(fn.Body.Pos()), files.Position(fn.Body.End())
			decoders = append(decoders, decoder{folder, name, why, filepath.Base(from.Filename), from.Line, to.Line})
		}
	}
	return decoders
}

// decodes says why a function is a decoder, or nothing.
func decodes(fn *ast.FuncDecl) (why string) {
	for _, p := range fn.Type.Params.List {
		star, ok := p.Type.(*ast.StarExpr)
		if ok && lastName(star.X) == "Reader" {
			if sel, ok := star.X.(*ast.SelectorExpr); ok && lastName(sel.X) == "wire" {
				return "is given a wire.Reader"
			}
		}
		switch {
		case !named.MatchString(fn.Name.Name):
		case isText(p.Type), isStream(p.Type), lastName(p.Type) == "Frame":
			return "its name and what it is given"
		}
	}
	ast.Inspect(fn.Body, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		if sel, ok := call.Fun.(*ast.SelectorExpr); ok && slices.Contains(takesApart[lastName(sel.X)], sel.Sel.Name) {
			why = "calls " + lastName(sel.X) + "." + sel.Sel.Name
		}
		return true
	})
	return why
}

// isText reports whether a type is string or []byte.
func isText(e ast.Expr) bool {
	if list, ok := e.(*ast.ArrayType); ok && list.Len == nil {
		return lastName(list.Elt) == "byte"
	}
	return lastName(e) == "string"
}

// isStream reports whether a type is io.Reader.
func isStream(e ast.Expr) bool {
	sel, ok := e.(*ast.SelectorExpr)
	return ok && lastName(sel.X) == "io" && sel.Sel.Name == "Reader"
}

func lastName(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	case *ast.IndexExpr:
		return lastName(e.X)
	}
	return ""
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.IndexListExpr:
		return receiver(e.X)
	}
	return path.Base(lastName(e))
}
