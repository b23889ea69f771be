package fhir

import (
	"fmt"
	"strconv"
	"strings"

	"chartmesh/crdt"
)

// The first byte of a Bytes value says what follows it.
const (
	tagJSON      = 'j' // canonical JSON: an atom, a number that is no int64, an empty array
	tagPair      = 'p' // canonical JSON [value, sibling]: the element x with its sibling _x
	tagValue     = 'v' // canonical JSON: an element of the list x behind the end of the list _x
	tagExtension = 'e' // canonical JSON: an element of _x where x has none
)

// choiceSuffix ends the key of a choice group. A JSON key that ends so is stored with another one behind it.
const choiceSuffix = "[x]"

// ToValue maps a resource to the value that its document keeps. It fails only when resourceType is no string.
func ToValue(o Object) (crdt.Value, error) {
	t, ok := o["resourceType"].(string)
	if !ok {
		return crdt.Value{}, fmt.Errorf("map a resource: read resourceType: %w", ErrInvalid)
	}
	return mapValue(o, resourceShape(t)), nil
}

func mapValue(o Object, s *shape) crdt.Value {
	m := make(map[string]crdt.Value, len(o))
	siblings := false
	for k := range o {
		if _, ok := siblingOf(k); ok {
			siblings = true
			break
		}
	}
	var groups map[string]Object
	for k, v := range o {
		name, isSibling := k, false
		if siblings {
			if base, ok := siblingOf(k); ok {
				name, isSibling = base, true
			}
		}
		if g := s.group(name); g != "" {
			if groups == nil {
				groups = map[string]Object{}
			}
			if groups[g] == nil {
				groups[g] = Object{}
			}
			groups[g][k] = v
			continue
		}
		if isSibling {
			if _, ok := o[name]; !ok {
				m[storedKey(name)] = siblingValue(v)
			}
			continue
		}
		if siblings && k != "" && k[0] != '_' {
			if sibling, ok := o["_"+k]; ok {
				m[storedKey(k)] = pairValue(v, sibling)
				continue
			}
		}
		m[storedKey(k)] = fieldValue(v, s.element(k))
	}
	for g, members := range groups {
		m[g] = atom(tagJSON, members)
	}
	return crdt.Value{Kind: crdt.Map, Map: m}
}

// siblingOf returns x for a key _x. A key with two underscores, or nothing behind one, is an ordinary key.
func siblingOf(key string) (base string, ok bool) {
	if len(key) < 2 || key[0] != '_' || key[1] == '_' {
		return "", false
	}
	return key[1:], true
}

func storedKey(key string) string {
	if strings.HasSuffix(key, choiceSuffix) {
		return key + choiceSuffix
	}
	return key
}

func atom(tag byte, v any) crdt.Value {
	var room [512]byte
	return crdt.Value{Kind: crdt.Bytes, Str: string(AppendCanonical(append(room[:0], tag), v))}
}

// fieldValue maps a field without a sibling.
func fieldValue(v any, e element) crdt.Value {
	switch v := v.(type) {
	case []any:
		if len(v) == 0 {
			return atom(tagJSON, v)
		}
		l := make([]crdt.Value, len(v))
		for i := range v {
			l[i] = singleValue(v[i], e)
		}
		return crdt.Value{Kind: crdt.List, List: l}
	case string:
		if e.text && v != "" {
			return crdt.Value{Kind: crdt.Text, Str: v}
		}
	}
	return singleValue(v, e)
}

// singleValue maps an element of a list, or a field that is none.
func singleValue(v any, e element) crdt.Value {
	switch v := v.(type) {
	case nil:
		return crdt.Value{Kind: crdt.Null}
	case bool:
		b := crdt.Value{Kind: crdt.Bool}
		if v {
			b.Int = 1
		}
		return b
	case string:
		return crdt.Value{Kind: crdt.String, Str: v}
	case Number:
		// Only the digits that an integer is written back with are an Int; -0, 1e3 and 37.50 keep theirs.
		if n, err := strconv.ParseInt(string(v), 10, 64); err == nil && v != "-0" {
			return crdt.Value{Kind: crdt.Int, Int: n}
		}
	case Object:
		if e.inside != nil {
			return mapValue(v, e.inside)
		}
		if t, ok := v["resourceType"].(string); ok && e.resource {
			return mapValue(v, resourceShape(t))
		}
	}
	return atom(tagJSON, v)
}

// pairValue maps x together with its sibling _x: lists element by element, everything else as one atom.
func pairValue(v, sibling any) crdt.Value {
	values, ok1 := v.([]any)
	siblings, ok2 := sibling.([]any)
	if !ok1 || !ok2 || len(values) == 0 || len(siblings) == 0 {
		return atom(tagPair, []any{v, sibling})
	}
	l := make([]crdt.Value, 0, max(len(values), len(siblings)))
	marked := len(siblings) > len(values)
	for _, s := range siblings {
		marked = marked || s != nil
	}
	for i, v := range values {
		switch {
		case i >= len(siblings):
			l = append(l, atom(tagValue, v))
		case siblings[i] != nil || !marked: // one pair must tell that there is a list of siblings, if only of nulls
			l = append(l, atom(tagPair, []any{v, siblings[i]}))
			marked = true
		default:
			l = append(l, singleValue(v, element{}))
		}
	}
	for i := len(values); i < len(siblings); i++ {
		l = append(l, atom(tagExtension, siblings[i]))
	}
	return crdt.Value{Kind: crdt.List, List: l}
}

// siblingValue maps a sibling _x whose x is absent.
func siblingValue(sibling any) crdt.Value {
	siblings, ok := sibling.([]any)
	if !ok || len(siblings) == 0 {
		return atom(tagExtension, sibling)
	}
	l := make([]crdt.Value, len(siblings))
	for i, s := range siblings {
		l[i] = atom(tagExtension, s)
	}
	return crdt.Value{Kind: crdt.List, List: l}
}

// FromValue maps a document's value back to the resource. It needs no table, so that what another table wrote reads the
// same. Its errors wrap ErrMapping.
func FromValue(v crdt.Value) (Object, error) {
	if v.Kind != crdt.Map {
		return nil, fmt.Errorf("read a resource from kind %d: %w", v.Kind, ErrMapping)
	}
	return readMap(v, MaxDepth)
}

// part is what one field or list element says of x and of _x.
type part struct {
	value, sibling       any
	hasValue, hasSibling bool
	last                 bool // the list _x ended before this element
}

func readMap(v crdt.Value, depth int) (Object, error) {
	if depth == 0 {
		return nil, fmt.Errorf("read a map: nested too deeply: %w", ErrMapping)
	}
	o := make(Object, len(v.Map))
	put := func(key string, v any) error {
		before := len(o)
		if o[key] = v; len(o) == before {
			return fmt.Errorf("read a map: a key comes twice: %w", ErrMapping)
		}
		return nil
	}
	for key, c := range v.Map {
		if stem, ok := strings.CutSuffix(key, choiceSuffix); ok {
			if !strings.HasSuffix(stem, choiceSuffix) {
				p, err := readSingle(c, depth-1)
				if err != nil {
					return nil, err
				}
				members, ok := p.value.(Object)
				if !ok || c.Kind != crdt.Bytes || p.hasSibling {
					return nil, fmt.Errorf("read a choice group: %w", ErrMapping)
				}
				for k, v := range members {
					if err := put(k, v); err != nil {
						return nil, err
					}
				}
				continue
			}
			key = stem
		}
		p, err := readField(c, depth-1)
		if err != nil {
			return nil, err
		}
		if p.hasValue {
			if err := put(key, p.value); err != nil {
				return nil, err
			}
		}
		if p.hasSibling {
			if err := put("_"+key, p.sibling); err != nil {
				return nil, err
			}
		}
	}
	return o, nil
}

func readField(v crdt.Value, depth int) (part, error) {
	if v.Kind != crdt.List {
		return readSingle(v, depth)
	}
	// The elements may come from several writers, so every order of tags has a reading: x and _x each end at the last
	// element that has a place in them, and what has none in between is null.
	var (
		parts            = make([]part, len(v.List))
		values, siblings int
		paired           bool
	)
	for i, e := range v.List {
		p, err := readSingle(e, depth)
		if err != nil {
			return part{}, err
		}
		parts[i] = p
		if p.hasValue {
			values = i + 1
		}
		if !p.last {
			siblings = i + 1
		}
		paired = paired || p.hasSibling
	}
	out := part{hasValue: values > 0 || !paired, hasSibling: paired}
	if out.hasValue {
		l := make([]any, values)
		for i := range l {
			l[i] = parts[i].value
		}
		out.value = l
	}
	if paired {
		l := make([]any, siblings)
		for i := range l {
			l[i] = parts[i].sibling
		}
		out.sibling = l
	}
	return out, nil
}

func readSingle(v crdt.Value, depth int) (part, error) {
	switch v.Kind {
	case crdt.Map:
		o, err := readMap(v, depth)
		return part{value: o, hasValue: true}, err
	case crdt.Text, crdt.String:
		return part{value: v.Str, hasValue: true}, nil
	case crdt.Int:
		return part{value: Number(strconv.FormatInt(v.Int, 10)), hasValue: true}, nil
	case crdt.Bool:
		return part{value: v.Int != 0, hasValue: true}, nil
	case crdt.Null:
		return part{hasValue: true}, nil
	case crdt.Bytes:
		return readTagged(v.Str)
	}
	return part{}, fmt.Errorf("read a value of kind %d: %w", v.Kind, ErrMapping)
}

func readTagged(s string) (part, error) {
	if s == "" {
		return part{}, fmt.Errorf("read an empty atom: %w", ErrMapping)
	}
	// The value of an atom was inside a resource, so that it obeys the same caps; a pair has one array around it.
	v, err := parseValue([]byte(s[1:]), MaxResource+16, MaxDepth+1)
	if err != nil {
		return part{}, fmt.Errorf("read an atom: %w", ErrMapping)
	}
	switch s[0] {
	case tagJSON:
		return part{value: v, hasValue: true}, nil
	case tagValue:
		return part{value: v, hasValue: true, last: true}, nil
	case tagExtension:
		return part{sibling: v, hasSibling: true}, nil
	case tagPair:
		if l, ok := v.([]any); ok && len(l) == 2 {
			return part{value: l[0], hasValue: true, sibling: l[1], hasSibling: true}, nil
		}
	}
	return part{}, fmt.Errorf("read an atom with tag %d: %w", s[0], ErrMapping)
}
