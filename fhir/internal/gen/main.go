// Command gen writes r4.txt, the table of R4 elements that package fhir embeds, from HL7's definitions.
//
//	go run ./fhir/internal/gen DEFINITIONS > fhir/r4.txt
//
// DEFINITIONS is a folder with profiles-types.json, profiles-resources.json, compartmentdefinition-patient.json and
// search-parameters.json of R4 4.0.1, as HL7 publishes them (docs/decisions/0010-fhir-tables.md says where from).
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

type bundle struct {
	Entry []struct{ Resource json.RawMessage }
}

type structure struct {
	ResourceType, Name, Kind, BaseDefinition, Derivation string

	Snapshot struct{ Element []element }
}

type element struct {
	Path, Max, ContentReference string

	Type []struct{ Code string }
}

type parameter struct {
	Code, Expression string
	Base             []string
}

type compartment struct {
	Resource []struct {
		Code  string
		Param []string
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: gen DEFINITIONS > r4.txt")
		os.Exit(2)
	}
	if err := run(os.Args[1], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

func run(dir string, out io.Writer) error {
	var structures []structure
	for _, name := range []string{"profiles-types.json", "profiles-resources.json"} {
		var b bundle
		if err := load(filepath.Join(dir, name), &b); err != nil {
			return err
		}
		for _, e := range b.Entry {
			var s structure
			if err := json.Unmarshal(e.Resource, &s); err != nil {
				return fmt.Errorf("read a definition in %s: %w", name, err)
			}
			if s.ResourceType == "StructureDefinition" && s.Derivation != "constraint" && s.Kind != "primitive-type" {
				structures = append(structures, s)
			}
		}
	}
	slices.SortFunc(structures, func(a, b structure) int { return strings.Compare(a.Name, b.Name) })
	refs, err := patientPaths(dir)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	fmt.Fprintln(w, "chartmesh-fhir 1 R4 4.0.1")
	for _, s := range structures {
		block(w, s, inherited(structures, s), refs[s.Name])
	}
	return w.Flush()
}

func load(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

func base(s structure) string {
	return s.BaseDefinition[strings.LastIndexByte(s.BaseDefinition, '/')+1:]
}

// inherited returns the names of the elements that a type has from its bases.
func inherited(all []structure, s structure) map[string]bool {
	names := map[string]bool{}
	for b := base(s); b != ""; {
		i := slices.IndexFunc(all, func(t structure) bool { return t.Name == b })
		if i < 0 {
			break
		}
		for _, e := range all[i].Snapshot.Element[1:] {
			names[strings.TrimPrefix(e.Path, b+".")] = true
		}
		b = base(all[i])
	}
	return names
}

// block writes a type and each of its nested structures: a header "Path : Base", then a line an element.
func block(w io.Writer, s structure, inherited map[string]bool, refs []string) {
	children := map[string][]element{}
	var paths []string
	for _, e := range s.Snapshot.Element[1:] {
		parent := e.Path[:strings.LastIndexByte(e.Path, '.')]
		if children[parent] == nil {
			paths = append(paths, parent)
		}
		children[parent] = append(children[parent], e)
	}
	if len(paths) == 0 {
		paths = []string{s.Name}
	}
	for i, path := range paths {
		// Every nested structure is given the base with modifierExtension: Element's few differ in nothing else.
		b := "BackboneElement"
		if i == 0 {
			b = base(s)
		}
		fmt.Fprintln(w, strings.TrimSuffix(path+" : "+b, " : "))
		for _, e := range children[path] {
			name := e.Path[len(path)+1:]
			if i == 0 && inherited[name] || i > 0 && (name == "id" || name == "extension" || name == "modifierExtension") {
				continue
			}
			if e.Max != "1" {
				name += "*"
			}
			fmt.Fprintln(w, "", name, types(e, children[e.Path] != nil))
		}
		if i == 0 && len(refs) > 0 {
			fmt.Fprintln(w, " @", strings.Join(refs, " "))
		}
	}
}

// types returns the element's types; "." says that its structure follows under the element's own path, and "#Path" that
// it is the one of another path.
func types(e element, nested bool) string {
	if nested {
		return "."
	}
	if e.ContentReference != "" {
		return e.ContentReference
	}
	var codes []string
	for _, t := range e.Type {
		code := t.Code
		if strings.HasPrefix(code, "http://hl7.org/fhirpath/System.") { // ids, and the values of primitive types
			code = "string"
		}
		codes = append(codes, code)
	}
	return strings.Join(codes, " ")
}

// patientPaths returns for each resource type the elements whose references put it in a patient's compartment.
func patientPaths(dir string) (map[string][]string, error) {
	var b bundle
	if err := load(filepath.Join(dir, "search-parameters.json"), &b); err != nil {
		return nil, err
	}
	expressions := map[string]string{}
	for _, e := range b.Entry {
		var p parameter
		if err := json.Unmarshal(e.Resource, &p); err != nil {
			return nil, fmt.Errorf("read a search parameter: %w", err)
		}
		for _, t := range p.Base {
			expressions[t+" "+p.Code] = p.Expression
		}
	}
	var c compartment
	if err := load(filepath.Join(dir, "compartmentdefinition-patient.json"), &c); err != nil {
		return nil, err
	}
	refs := map[string][]string{}
	for _, r := range c.Resource {
		for _, code := range r.Param {
			found := false
			for part := range strings.SplitSeq(expressions[r.Code+" "+code], "|") {
				path, ok := strings.CutPrefix(strings.TrimSpace(part), r.Code+".")
				if !ok {
					continue
				}
				path, _, _ = strings.Cut(path, ".where(")
				if strings.ContainsAny(path, "() ") {
					return nil, fmt.Errorf("search parameter %s of %s: expression not understood", code, r.Code)
				}
				found = true
				if !slices.Contains(refs[r.Code], path) {
					refs[r.Code] = append(refs[r.Code], path)
				}
			}
			if !found {
				return nil, fmt.Errorf("search parameter %s of %s has no expression", code, r.Code)
			}
		}
		slices.Sort(refs[r.Code])
	}
	return refs, nil
}
