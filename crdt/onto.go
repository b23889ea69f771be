package crdt

// Onto returns what an edit makes of a value that its author did not see: base, with what differs between before, which they saw,
// and after, which they left. Where base has nothing for a difference to stand in, the edit brings what it left there whole.
//
// A list in which something differs is as the edit left it, with elements that it left alone as base has them.
func Onto(base, before, after Value) Value {
	switch {
	case before.Equal(after):
		return base
	case base.Kind != after.Kind || before.Kind != after.Kind || base.Equal(before):
		return after
	case after.Kind == Map:
		out := Value{Kind: Map, Map: map[string]Value{}}
		put := func(key string) {
			if v := Onto(base.Map[key], before.Map[key], after.Map[key]); v.Kind != 0 {
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
			if o := edited[i]; o >= 0 && there[o] >= 0 {
				out.List[i] = Onto(base.List[there[o]], before.List[o], v)
			}
		}
		return out
	}
	return after
}
