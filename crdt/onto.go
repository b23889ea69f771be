package crdt

import (
	"slices"
	"strconv"
)

// Onto returns what an edit makes of a resource that its author did not see: base, with what differs between before, which they saw,
// and after, which they left. Where base has nothing for a difference to stand in, or is contested, the edit brings what it left
// there whole: its author may have seen another side of the conflict, and an edit of one side is none of the other.
//
// A list in which something differs is as the edit left it, with elements that it left alone as base has them.
func Onto(base Shown, before, after Value) Value {
	o := onto{}
	for _, c := range base.Conflicts {
		o.contested = append(o.contested, c.Path)
	}
	return o.value("", base.Value, before, after)
}

type onto struct{ contested []string } // paths

func (o onto) value(path string, base, before, after Value) Value {
	switch {
	case before.Equal(after):
		return base
	case base.Kind != after.Kind || before.Kind != after.Kind || slices.Contains(o.contested, path):
		return after
	case after.Kind == Map:
		out := Value{Kind: Map, Map: map[string]Value{}}
		put := func(key string) {
			at := key
			if path != "" {
				at = path + "." + key
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
