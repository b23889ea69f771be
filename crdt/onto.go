package crdt

import (
	"slices"
	"strconv"
)

// Onto returns what an edit makes of a resource that its author did not see: base, with what differs between before, which they saw,
// and after, which they left. Where base has nothing for a difference to stand in, or is contested, the edit brings what it left
// there whole: its author may have seen another side of the conflict, and an edit of one side is none of the other.
//
// In there, what it left alone stays as base has it where there is a conflict, in base or for its author: nobody has decided that.
//
// A list in which something differs is as the edit left it, with elements that it left alone as base has them.
func Onto(base, before Shown, after Value) Value {
	return onto{contested: base.Conflicts, open: before.Conflicts}.value("", "", base.Value, before.Value, after)
}

type onto struct {
	contested []Conflict // of base
	open      []Conflict // for the author
	whole     bool       // around here base is contested
}

// sided reports whether a value is a side of a conflict at a path.
func sided(list []Conflict, path string, value Value) bool {
	return slices.ContainsFunc(list, func(c Conflict) bool {
		return c.Path == path && slices.ContainsFunc(c.Sides, func(s ConflictSide) bool {
			return s.Removed && value.Kind == 0 || !s.Removed && s.Value.Equal(value)
		})
	})
}

// contestedAt reports whether there is a conflict at a path.
func contestedAt(list []Conflict, path string) bool {
	return slices.ContainsFunc(list, func(c Conflict) bool { return c.Path == path })
}

// undecided reports whether its author, by leaving a value alone, decided nothing: what they left is a side of a conflict in base, what base
// has was a side of one for them, or base has something there that is contested in base or was for them.
func (o onto) undecided(path, was string, base, after Value) bool {
	return sided(o.contested, path, after) || sided(o.open, was, base) ||
		base.Kind != 0 && (contestedAt(o.contested, path) || contestedAt(o.open, was))
}

// value goes on at a path of base, where before has another.
func (o onto) value(path, was string, base, before, after Value) Value {
	if before.Equal(after) && (!o.whole || o.undecided(path, was, base, after)) {
		return base
	}
	o.whole = o.whole || contestedAt(o.contested, path)
	switch {
	case base.Kind != after.Kind || before.Kind != after.Kind:
		return after
	case after.Kind == Map:
		out := Value{Kind: Map, Map: map[string]Value{}}
		put := func(key string) {
			if v := o.value(under(path, key), under(was, key), base.Map[key], before.Map[key], after.Map[key]); v.Kind != 0 {
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
				out.List[i] = o.value(atIndex(path, there[old]), atIndex(was, old), base.List[there[old]], before.List[old], v)
			}
		}
		return out
	}
	return after
}

func under(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func atIndex(path string, index int) string { return path + "[" + strconv.Itoa(index) + "]" }
