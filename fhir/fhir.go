// Package fhir carries HL7 FHIR R4 resources between JSON and the values that documents keep.
//
// Nouns: an [Object] is a resource (or a part of one) as JSON, with the digits of its numbers; [ToValue] and [FromValue]
// are the mapping to [crdt.Value]; a [Placement] says in which scope, chart and section a resource lives; an [Item] is
// one resource of a file; terms are the words by which a person is found.
//
// Guarantees: whatever Parse accepts comes back from FromValue(ToValue(x)) equal, whether R4 knows its type, its fields
// and its shapes or not. An element whose parts mean something only together (a quantity with its unit, a value with the
// extension that qualifies it) is one scalar, so that no merge can mix two writers' halves. The same file always yields
// the same resources with the same ids. What comes from outside is capped (limits.go), and no error carries its content.
//
// Whether a resource is valid FHIR is left to validation; which documents exist, who may read them and how concurrent
// values merge is left to crdt and to the agent. docs/spec/fhir-mapping.md is the normative text.
package fhir

import (
	"errors"
	"fmt"
)

// Schema is the number of the mapping. Whoever changes what ToValue writes raises it, and readers park what is newer.
const Schema = 1

// Object is a JSON object. Its values are Object, []any, string, [Number], bool and nil.
type Object map[string]any

// Number is a JSON number by its digits, exactly as they came.
type Number string

var (
	// ErrInvalid is wrapped by the error of whatever is not a resource: no type, an id that is none.
	ErrInvalid = errors.New("not a resource")
	// ErrRefused is wrapped by the error of an entry that asks for something else than storing its resource.
	ErrRefused = errors.New("refused")
	// ErrMapping is wrapped by FromValue's errors: the value was not made by a ToValue that this build knows.
	ErrMapping = errors.New("value does not map to FHIR")
	// ErrTooLarge is wrapped when a cap of limits.go is exceeded.
	ErrTooLarge = errors.New("too large")
)

// Type returns the resource's type, or "" when it has none.
func (o Object) Type() string { return text(o, "resourceType") }

// ID returns the resource's id, or "" when it has none.
func (o Object) ID() string { return text(o, "id") }

// Name returns the resource's type and id after checking that both are well formed.
func Name(o Object) (resourceType, id string, err error) {
	if resourceType = o.Type(); !ValidType(resourceType) {
		return "", "", fmt.Errorf("read resourceType: %w", ErrInvalid)
	}
	if id = o.ID(); !ValidID(id) {
		return "", "", fmt.Errorf("read id: %w", ErrInvalid)
	}
	return resourceType, id, nil
}

// ValidType reports whether s has the shape of a resource type's name. The type need not be one of R4's.
func ValidType(s string) bool {
	if len(s) == 0 || len(s) > MaxTypeName || s[0] < 'A' || s[0] > 'Z' {
		return false
	}
	for i := range len(s) {
		if !letterOrDigit(s[i]) {
			return false
		}
	}
	return true
}

// ValidID reports whether s is a FHIR id: 1 to 64 of A-Z a-z 0-9 - and full stop.
func ValidID(s string) bool {
	if len(s) == 0 || len(s) > MaxID {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// text returns o[key] when it is a string.
func text(o Object, key string) string {
	s, _ := o[key].(string)
	return s
}

// object returns o[key] when it is an object.
func object(o Object, key string) Object {
	c, _ := o[key].(Object)
	return c
}

// list returns o[key] when it is an array.
func list(o Object, key string) []any {
	c, _ := o[key].([]any)
	return c
}

// objects calls fn for each object of the array o[key], or for o[key] itself when it is an object.
func objects(o Object, key string, fn func(Object)) {
	switch c := o[key].(type) {
	case Object:
		fn(c)
	case []any:
		for _, e := range c {
			if e, ok := e.(Object); ok {
				fn(e)
			}
		}
	}
}
