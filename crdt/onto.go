package crdt

import (
	"slices"
	"strconv"
	"strings"
)

// Onto returns what an edit makes of a resource that its author did not see: base, with what differs between before, which they saw,
// and after, which they left. Where base has nothing for a difference to stand in, or is contested, the edit brings what it left
// there whole: its author may have seen another side of the conflict, and an edit of one side is none of the other.
//
// Only what it left alone in there stays contested, if the side that its author saw is there.
//
// A list in which something differs is as the edit left it, with elements that it left alone as base has them.
func Onto(base Shown, before, after Value) Value {
	return onto{contested: base.Conflicts}.value("", base.Value, before, after)
}

type onto struct {
	contested []Conflict
	whole     bool // around here base is contested
}

// at returns the conflict at a place of base.
func (o onto) at(path string) (Conflict, bool) {
	at := slices.IndexFunc(o.contested, func(c Conflict) bool { return c.Path == path })
	if at < 0 {
		return Conflict{}, false
	}
	return o.contested[at], true
}

// leaves reports whether a value that its author left alone is one side of a conflict that they left open.
func (o onto) leaves(path string, value Value) bool {
	c, ok := o.at(path)
	return ok && slices.ContainsFunc(c.Sides, func(s ConflictSide) bool {
		return s.Removed && value.Kind == 0 || !s.Removed && s.Value.Equal(value)
	})
}

func (o onto) value(path string, base, before, after Value) Value {
	if before.Equal(after) && (!o.whole || o.leaves(path, after)) {
		return base
	}
	if _, contested := o.at(path); contested {
		o.whole = true
	}
	switch {
	case base.Kind != after.Kind || before.Kind != after.Kind:
		return after
	case after.Kind == Map:
		out := Value{Kind: Map, Map: map[string]Value{}}
		put := func(key string) {
			at := key
			if path != "" {
				at = path + "." + key
			}
			_, has := after.Map[key]
			if _, had := before.Map[key]; o.whole && !has && !had && !o.leaves(at, Value{}) {
				return // another side's
			}
			if v := o.value(at, base.Map[key], before.Map[key], after.Map[key]); v.Kind != 0 {
				out.Map[key] = v
			}
		}
		for key := range base.Map {
			put(key)
		}
		for key := range after.Map {
			put(key)
		}
		return out
	case after.Kind == List:
		out := Value{Kind: List, List: make([]Value, len(after.List))}
		edited, there := align(before.List, after.List), align(base.List, before.List)
		for i, v := range after.List {
			out.List[i] = v
			if old := edited[i]; old >= 0 && there[old] >= 0 {
				at := path + "[" + strconv.Itoa(there[old]) + "]"
				out.List[i] = o.value(at, base.List[there[old]], before.List[old], v)
			}
		}
		return out
	}
	return after
}

// Became returns what an edit made of what stood at a path of before, of the form of [Conflict.Path]; the absent Value if it removed it.
func Became(before, after Value, path string) Value {
	if path == "" {
		return after
	}
	switch before.Kind {
	case Map:
		longest := ""
		for key := range before.Map {
			rest, ok := strings.CutPrefix(path, key)
			if ok && len(key) > len(longest) && (rest == "" || rest[0] == '.' || rest[0] == '[') {
				longest = key
			}
		}
		if longest == "" {
			return after.Map[path] // a removal was shown, or there was nothing
		}
		return Became(before.Map[longest], after.Map[longest], strings.TrimPrefix(path[len(longest):], "."))
	case List:
		for i, v := range before.List {
			rest, ok := strings.CutPrefix(path, "["+strconv.Itoa(i)+"]")
			if !ok {
				continue
			}
			at := slices.Index(align(before.List, after.List), i)
			if at < 0 && len(after.List) >= len(before.List) {
				at = i // another in its place
			}
			if at < 0 {
				return Value{}
			}
			return Became(v, after.List[at], strings.TrimPrefix(rest, "."))
		}
	}
	return Value{}
}
