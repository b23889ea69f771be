package fhir

import (
	_ "embed"
	"strings"
	"sync"
)

//go:generate sh -c "go run ./internal/gen \"$FHIR_DEFINITIONS\" > r4.txt"

// r4 is the table of R4's elements. A line that begins a block has a path and, behind a colon, the type whose elements
// it also has; the lines under it, indented, an element and its types: "*" a list, "[x]" a choice, "." a structure whose
// block follows, "#Path" the structure of another block. "@" names the elements whose references put a resource in a
// patient's compartment.
//
//go:embed r4.txt
var r4 string

// structures are the complex types that become maps, so that their elements merge one by one; nested structures of a
// resource and of these do too. Every other complex type is atomic: its parts mean something only together, and so does
// what the table does not know.
var structures = map[string]bool{
	"HumanName": true, "ContactPoint": true, "Annotation": true, "Meta": true,
	"ContactDetail": true, "Contributor": true, "ElementDefinition": true,
}

// textPolicy names the narrative elements whose characters merge. Every other string is a scalar, and two writers'
// strings are a conflict.
var textPolicy = map[string]bool{"Annotation.text": true}

// shape is what the table says of one structure.
type shape struct {
	base     *shape
	elements map[string]element
	groups   map[string]string // the concrete key of a choice, "valueQuantity", to its group, "value[x]"
	patients [][]string        // paths of the references that decide the compartment
}

// element is one field of a structure. The zero element is atomic, and what is unknown is that.
type element struct {
	inside   *shape // not nil: an object in it becomes a map
	resource bool   // an object in it is a resource, whose type says its shape
	text     bool   // a string in it becomes a text
	complex  bool   // R4 has an object here
}

func (s *shape) element(key string) element {
	for ; s != nil; s = s.base {
		if e, ok := s.elements[key]; ok {
			return e
		}
	}
	return element{}
}

func (s *shape) group(key string) string {
	for ; s != nil; s = s.base {
		if g, ok := s.groups[key]; ok {
			return g
		}
	}
	return ""
}

// shapes returns the table by path, read once.
var shapes = sync.OnceValue(readTables)

func readTables() map[string]*shape {
	all := map[string]*shape{}
	at := func(path string) *shape {
		if path == "" {
			return nil
		}
		if all[path] == nil {
			all[path] = &shape{elements: map[string]element{}, groups: map[string]string{}}
		}
		return all[path]
	}
	var path string
	_, lines, _ := strings.Cut(r4, "\n")
	for line := range strings.Lines(lines) {
		line = strings.TrimSuffix(line, "\n")
		if line[0] != ' ' {
			p, base, _ := strings.Cut(line, " : ")
			path = p
			at(path).base = at(base)
			continue
		}
		name, types, _ := strings.Cut(line[1:], " ")
		name = strings.TrimSuffix(name, "*")
		s := at(path)
		switch stem, choice := strings.CutSuffix(name, "[x]"); {
		case name == "@":
			for p := range strings.FieldsSeq(types) {
				s.patients = append(s.patients, strings.Split(p, "."))
			}
		case choice:
			for t := range strings.FieldsSeq(types) {
				s.groups[stem+strings.ToUpper(t[:1])+t[1:]] = name
			}
		default:
			e := element{text: textPolicy[path+"."+name], resource: types == "Resource", complex: types[0] < 'a'}
			switch {
			case types == ".":
				e.inside = at(path + "." + name)
			case types[0] == '#':
				e.inside = at(types[1:])
			case structures[types]:
				e.inside = at(types)
			}
			s.elements[name] = e
		}
	}
	return all
}

// unknown is the shape of a resource whose type R4 does not have: what every resource has, and the rest atomic.
var unknown = sync.OnceValue(func() *shape { return &shape{base: shapes()["DomainResource"]} })

// KnownType reports whether R4 has a resource type of this name.
func KnownType(resourceType string) bool { return resourceShape(resourceType) != unknown() }

func resourceShape(resourceType string) *shape {
	s := shapes()[resourceType]
	if s == nil || s.base == nil || s != shapes()["Resource"] && s.base != shapes()["Resource"] && s.base != shapes()["DomainResource"] {
		return unknown()
	}
	return s
}
