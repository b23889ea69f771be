package fhir

import (
	"fmt"
	"strconv"
	"strings"

	"chartmesh/crdt"
)

// JSON maps any part of a value to JSON for showing it, as a side of a conflict: a choice group as an object of its
// keys, an element with its sibling as {"value": x, "_value": _x}. ValueAt takes it back.
func JSON(v crdt.Value) (any, error) {
	if v.Kind == crdt.List {
		out := make([]any, len(v.List))
		for i := range v.List {
			e, err := JSON(v.List[i])
			if err != nil {
				return nil, err
			}
			out[i] = e
		}
		return out, nil
	}
	p, err := readSingle(v, MaxDepth)
	if err != nil || !p.hasSibling {
		return p.value, err
	}
	o := Object{"_value": p.sibling}
	if p.hasValue {
		o["value"] = p.value
	}
	return o, nil
}

// ValueAt maps what a person wants at a path of resource o, in the form that JSON shows, to the value to be written
// there. The path has stored keys and the indexes of list elements, "name[0].given[1]", "component[2].value[x]"; it need
// not lead to anything in o, which only tells the types of resources inside it. An empty path is the resource.
func ValueAt(o Object, path string, shown any) (crdt.Value, error) {
	if path == "" {
		whole, ok := shown.(Object)
		if !ok {
			return crdt.Value{}, fmt.Errorf("map a resource: %w", ErrInvalid)
		}
		return ToValue(whole)
	}
	return valueAt(resourceShape(o.Type()), o, path, shown)
}

var errNowhere = fmt.Errorf("find a place in a resource: the path leads nowhere: %w", ErrInvalid)

// valueAt follows path from a structure; here is what the resource has in its place, or nil.
func valueAt(s *shape, here Object, path string, shown any) (crdt.Value, error) {
	key, rest := cutKey(path)
	name, special := strings.CutSuffix(key, choiceSuffix)
	if special && !strings.HasSuffix(name, choiceSuffix) {
		if rest != "" {
			return crdt.Value{}, errNowhere // a choice is an atom
		}
		return groupValue(s, key, shown)
	}
	e, child := s.element(name), here[name]
	index, rest, inList := cutIndex(rest)
	if inList {
		l, _ := child.([]any)
		if child = nil; index < len(l) {
			child = l[index]
		}
	}
	if rest == "" {
		return shownValue(shown, e, inList), nil
	}
	below, ok := strings.CutPrefix(rest, ".")
	inner, _ := child.(Object)
	next := e.inside
	if e.resource {
		next = resourceShape(inner.Type())
	}
	if !ok || next == nil {
		return crdt.Value{}, errNowhere
	}
	return valueAt(next, inner, below, shown)
}

// cutIndex takes "[3]" from the beginning of a path.
func cutIndex(path string) (index int, rest string, ok bool) {
	digits, rest, ok := strings.Cut(strings.TrimPrefix(path, "["), "]")
	if !ok || path[0] != '[' {
		return 0, path, false
	}
	index, err := strconv.Atoi(digits)
	if err != nil || index < 0 {
		return 0, path, false
	}
	return index, rest, true
}

// cutKey takes a key from the beginning of a path, with each "[x]" that belongs to it.
func cutKey(path string) (key, rest string) {
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		return path, ""
	}
	for strings.HasPrefix(path[end:], choiceSuffix) {
		end += len(choiceSuffix)
	}
	return path[:end], path[end:]
}

func groupValue(s *shape, group string, shown any) (crdt.Value, error) {
	members, ok := shown.(Object)
	for k := range members {
		name := k
		if base, is := siblingOf(k); is {
			name = base
		}
		ok = ok && s.group(name) == group
	}
	if !ok || len(members) == 0 {
		return crdt.Value{}, fmt.Errorf("map a choice: an object with the element's full name is needed: %w", ErrInvalid)
	}
	return atom(tagJSON, members), nil
}

func shownValue(shown any, e element, inList bool) crdt.Value {
	switch shown := shown.(type) {
	case Object:
		sibling, paired := shown["_value"]
		value, valued := shown["value"]
		switch {
		case !paired || e.complex || len(shown) > 2 || len(shown) == 2 && !valued:
		case valued && inList:
			return atom(tagPair, []any{value, sibling})
		case valued:
			return pairValue(value, sibling)
		case inList:
			return atom(tagExtension, sibling)
		default:
			return siblingValue(sibling)
		}
	case []any:
		if inList || len(shown) == 0 {
			break
		}
		l := make([]crdt.Value, len(shown))
		for i := range shown {
			l[i] = shownValue(shown[i], e, true)
		}
		return crdt.Value{Kind: crdt.List, List: l}
	}
	if inList {
		return singleValue(shown, e)
	}
	return fieldValue(shown, e)
}
