package crdt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func judged(t testing.TB, x *Index, c *Change) Record {
	t.Helper()
	r, err := x.Judge(decoded(t, c))
	if err != nil {
		t.Fatalf("Judge: %v", err)
	}
	return r
}

func added(t testing.TB, x *Index, c *Change) ChangeHash {
	t.Helper()
	r := judged(t, x, c)
	if err := x.Add(r); err != nil {
		t.Fatal(err)
	}
	return r.Hash
}

// The document that the rules are tried on, made by actor 1 in one change.
var (
	basePatient = at(1, 1)
	baseNames   = at(3, 1)
	baseName    = at(4, 1)
	baseItem    = at(6, 1)
	baseNote    = at(7, 1)
	baseLink    = at(10, 1)
	baseKey     = at(11, 1)
)

func baseChange() *Change {
	return newChange(1, 1, 1, nil,
		makeAt(OpID{}, "Patient/1", Map),                            // 1
		put(basePatient, "gender", text("male")),                    // 2
		makeAt(basePatient, "[name", List),                          // 3
		insert(baseNames, OpID{}, kindOnly(Map)),                    // 4
		put(baseName, "family", text("Kovács")),                     // 5
		insert(baseNames, baseName, kindOnly(Map)),                  // 6
		makeAt(basePatient, `"note`, Text),                          // 7
		insert(baseNote, OpID{}, text("x")),                         // 8
		insert(baseNote, at(8, 1), text("y")),                       // 9
		makeAt(basePatient, "{link", Map),                           // 10
		put(baseLink, "key", text("v")),                             // 11
		makeAt(OpID{}, "Observation/"+strings.Repeat("7", 64), Map), // 12
	)
}

func TestJudgeRules(t *testing.T) {
	x := NewIndex(DocumentID{})
	base := added(t, x, baseChange())
	// Actor 4 wrote a second change that the tried one does not build on.
	added(t, x, newChange(4, 1, 13, []ChangeHash{base}, put(basePatient, liveKey, number(1)),
		put(basePatient, "active", boolean(1)), makeAt(basePatient, "{a", Map)))

	live := func(obj OpID, pred ...OpID) Op { return put(obj, liveKey, number(1), pred...) }
	deep := func(n int) (ops []Op) { // n containers below Patient/1
		in := basePatient
		for i := range n {
			ops = append(ops, makeAt(in, "{d", Map))
			in = at(13+uint64(i), 2)
		}
		return append(ops, live(basePatient))
	}
	for _, tt := range []struct {
		name   string
		ops    []Op
		reason string // empty: accepted
	}{
		{"field", []Op{put(basePatient, "gender", text("female"), at(2, 1)), live(basePatient)}, ""},
		{"field without predecessor", []Op{put(basePatient, "gender", text("f")), live(basePatient)}, ""},
		{"field twice",
			[]Op{put(basePatient, "b", number(1)), put(basePatient, "b", number(2), at(13, 2)), live(basePatient)}, ""},
		{"resource removed", []Op{put(basePatient, liveKey, number(0))}, ""},
		{"field that begins with a brace", []Op{put(basePatient, "~~{a", number(1)), live(basePatient)}, ""},
		{"field without a name", []Op{put(basePatient, "~~", number(1)), live(basePatient)}, ""},
		{"deep field", []Op{put(baseLink, "key", opaque(""), baseKey), live(baseLink), live(basePatient)}, ""},
		{"list element", []Op{insert(baseNames, OpID{}, kindOnly(Map)), insert(baseNames, baseItem, kindOnly(Map)),
			insert(baseNames, at(14, 2), kindOnly(Map)), live(basePatient)}, ""},
		{"list element removed", []Op{put(baseItem, liveKey, number(0)), live(basePatient)}, ""},
		{"in a list's map", []Op{put(baseName, "given", text("A")), live(baseName), live(basePatient)}, ""},
		{"text", []Op{insert(baseNote, at(9, 1), text("é")), remove(baseNote, at(8, 1)), remove(baseNote, at(13, 2)),
			put(basePatient, `~"note`, number(1)), live(basePatient)}, ""},
		{"text named", []Op{put(basePatient, `~"note`, text(baseNote.String())), live(basePatient)}, ""},
		{"new text named", []Op{makeAt(basePatient, `"note`, Text), put(basePatient, `~"note`, text(at(13, 2).String())),
			live(basePatient)}, ""},
		{"new resource with all", []Op{makeAt(OpID{}, "Patient/2", Map), makeAt(at(13, 2), "[l", List),
			insert(at(14, 2), OpID{}, kindOnly(Map)), makeAt(at(15, 2), "[", List),
			insert(at(16, 2), OpID{}, kindOnly(Map)), put(at(17, 2), "~~", number(1)),
			put(at(17, 2), "~~", number(2), at(18, 2)), makeAt(at(13, 2), `"t`, Text),
			insert(at(20, 2), OpID{}, text("t"))}, ""},
		{"same resource again", []Op{makeAt(OpID{}, "Patient/1", Map)}, ""},
		{"deepest", deep(MaxDepth - 1), ""},

		{"too deep", deep(MaxDepth), ReasonDepth},
		{"scalar in the root", []Op{put(OpID{}, "Patient/9", text("x"))}, ReasonRoot},
		{"list in the root", []Op{makeAt(OpID{}, "Patient/9", List)}, ReasonRoot},
		{"resource over a resource",
			[]Op{{Key: "Patient/1", Action: ActionMake, Value: kindOnly(Map), Pred: []OpID{basePatient}}}, ReasonRoot},
		{"resource deleted", []Op{{Key: "Patient/1", Action: ActionDelete, Pred: []OpID{basePatient}}}, ReasonRoot},
		{"root key without id", []Op{makeAt(OpID{}, "Patient/", Map)}, ReasonRoot},
		{"root key without slash", []Op{makeAt(OpID{}, "Patient", Map)}, ReasonRoot},
		{"root key with two slashes", []Op{makeAt(OpID{}, "Patient/1/2", Map)}, ReasonRoot},
		{"root key with a digit first", []Op{makeAt(OpID{}, "1/1", Map)}, ReasonRoot},
		{"root key with a blank", []Op{makeAt(OpID{}, "Patient/a b", Map)}, ReasonRoot},
		{"root key beyond ASCII", []Op{makeAt(OpID{}, "Patient/ä", Map)}, ReasonRoot},
		{"root key too long", []Op{makeAt(OpID{}, "Patient/"+strings.Repeat("1", MaxRootKeyBytes-7), Map)}, ReasonRoot},

		{"object unknown", []Op{put(at(40, 1), "a", number(1))}, ReasonObject},
		{"object of an unknown actor", []Op{put(at(1, 9), "a", number(1))}, ReasonObject},
		{"object that is a scalar", []Op{put(at(2, 1), "a", number(1))}, ReasonObject},
		{"object that is no ancestor's", []Op{put(at(15, 4), "a", number(1))}, ReasonObject},
		{"object made later",
			[]Op{put(at(14, 2), "a", number(1)), makeAt(basePatient, "{b", Map), live(basePatient)}, ReasonObject},
		{"object is the operation itself", []Op{makeAt(at(13, 2), "{b", Map)}, ReasonObject},
		{"object of a later change of the actor", []Op{put(at(99, 2), "a", number(1))}, ReasonObject},
		{"key in a list", []Op{put(baseNames, "a", number(1))}, ReasonObjectType},
		{"key in a text", []Op{put(baseNote, "a", number(1))}, ReasonObjectType},
		{"element in a map", []Op{insert(basePatient, OpID{}, number(1))}, ReasonObjectType},
		{"element in the root", []Op{insert(OpID{}, OpID{}, number(1))}, ReasonObjectType},

		{"map in a scalar's slot", []Op{makeAt(basePatient, "a", Map)}, ReasonSlot},
		{"map in a list's slot", []Op{makeAt(basePatient, "[a", Map)}, ReasonSlot},
		{"list in a map's slot", []Op{makeAt(basePatient, "{a", List)}, ReasonSlot},
		{"text in a map's slot", []Op{makeAt(basePatient, "{a", Text)}, ReasonSlot},
		{"map in a control slot", []Op{makeAt(basePatient, liveKey, Map)}, ReasonSlot},
		{"scalar in a map's slot", []Op{put(basePatient, "{link", number(1))}, ReasonSlot},
		{"scalar over a map", []Op{put(basePatient, "{link", number(1), baseLink)}, ReasonSlot},
		{"map over a map",
			[]Op{{Obj: basePatient, Key: "{link", Action: ActionMake, Value: kindOnly(Map), Pred: []OpID{baseLink}}},
			ReasonPredecessor},
		{"text in a list", []Op{insert(baseNames, OpID{}, kindOnly(Text))}, ReasonSlot},
		{"list in a list", []Op{insert(baseNames, OpID{}, kindOnly(List))}, ReasonSlot},
		{"scalar in a list", []Op{insert(baseNames, OpID{}, number(1))}, ReasonSlot},
		{"scalar over an element", []Op{overwrite(baseNames, baseItem, number(1), baseItem)}, ReasonSlot},
		{"scalar over an element, beside it", []Op{overwrite(baseNames, baseItem, number(1))}, ReasonSlot},
		{"map over an element",
			[]Op{{Obj: baseNames, Elem: baseItem, Action: ActionMake, Value: kindOnly(Map), Pred: []OpID{baseItem}}},
			ReasonSlot},
		{"map over an element, beside it",
			[]Op{{Obj: baseNames, Elem: baseItem, Action: ActionMake, Value: kindOnly(Map)}}, ReasonSlot},
		{"field deleted",
			[]Op{{Obj: basePatient, Key: "gender", Action: ActionDelete, Pred: []OpID{at(2, 1)}}}, ReasonAction},
		{"map deleted",
			[]Op{{Obj: basePatient, Key: "{link", Action: ActionDelete, Pred: []OpID{baseLink}}}, ReasonAction},
		{"element deleted", []Op{remove(baseNames, baseItem)}, ReasonAction},

		{"live 2", []Op{put(basePatient, liveKey, number(2))}, ReasonControl},
		{"live true", []Op{put(basePatient, liveKey, boolean(1))}, ReasonControl},
		{"live removed", []Op{put(basePatient, liveKey, opaque(""))}, ReasonControl},
		{"text register of a string", []Op{put(basePatient, `~"note`, text("1"))}, ReasonControl},
		{"text register of another slot's text", []Op{put(basePatient, `~"n`, text(baseNote.String()))}, ReasonControl},
		{"text register of another object's text",
			[]Op{put(baseLink, `~"note`, text(baseNote.String()))}, ReasonControl},
		{"text register of a list", []Op{put(basePatient, `~"[name`, text(baseNames.String()))}, ReasonControl},
		{"text register of an ID in another form",
			[]Op{put(basePatient, `~"note`, text("0"+baseNote.String()))}, ReasonControl},
		{"text register of an unknown text", []Op{put(basePatient, `~"note`, text(at(40, 1).String()))}, ReasonControl},
		{"text named, but not said to be edited", []Op{insert(baseNote, OpID{}, text("a")),
			put(basePatient, `~"note`, text(baseNote.String())), live(basePatient)}, ReasonUnmarked},
		{"unknown control key", []Op{put(basePatient, "~w", number(1))}, ReasonControl},
		{"tilde alone", []Op{put(basePatient, "~", number(1))}, ReasonControl},
		{"escape without need", []Op{put(basePatient, "~~a", number(1))}, ReasonControl},

		{"element unknown", []Op{insert(baseNames, at(40, 1), kindOnly(Map))}, ReasonElement},
		{"element of another object", []Op{insert(baseNames, at(8, 1), kindOnly(Map))}, ReasonElement},
		{"element of another list", []Op{makeAt(basePatient, "[a", List), insert(at(13, 2), OpID{}, kindOnly(Map)),
			insert(baseNames, at(14, 2), kindOnly(Map))}, ReasonElement},
		{"element that is a key", []Op{insert(baseNames, at(2, 1), kindOnly(Map))}, ReasonElement},
		{"element made later",
			[]Op{insert(baseNames, at(14, 2), kindOnly(Map)), insert(baseNames, OpID{}, kindOnly(Map))}, ReasonElement},
		{"element before itself", []Op{insert(baseNames, at(13, 2), kindOnly(Map))}, ReasonElement},
		{"character of a list", []Op{insert(baseNote, baseItem, text("a"))}, ReasonElement},
		{"character unknown", []Op{remove(baseNote, at(40, 1))}, ReasonElement},

		{"two characters at once", []Op{insert(baseNote, OpID{}, text("ab"))}, ReasonText},
		{"no character", []Op{insert(baseNote, OpID{}, text(""))}, ReasonText},
		{"number in a text", []Op{insert(baseNote, OpID{}, number(1))}, ReasonText},
		{"map in a text", []Op{insert(baseNote, OpID{}, kindOnly(Map))}, ReasonText},
		{"character written over", []Op{overwrite(baseNote, at(8, 1), text("b"), at(8, 1))}, ReasonText},
		{"deletion without predecessor",
			[]Op{{Obj: baseNote, Elem: at(8, 1), Action: ActionDelete}}, ReasonPredecessor},
		{"deletion of another character",
			[]Op{{Obj: baseNote, Elem: at(8, 1), Action: ActionDelete, Pred: []OpID{at(9, 1)}}}, ReasonPredecessor},

		{"predecessor unknown", []Op{put(basePatient, "gender", number(1), at(40, 1))}, ReasonPredecessor},
		{"predecessor of another key", []Op{put(basePatient, "birthDate", number(1), at(2, 1))}, ReasonPredecessor},
		{"predecessor of another object", []Op{put(baseLink, "key", number(1), at(2, 1))}, ReasonPredecessor},
		{"predecessor that is a container", []Op{put(basePatient, "gender", number(1), baseLink)}, ReasonPredecessor},
		{"predecessor that is no ancestor's",
			[]Op{put(basePatient, "active", number(1), at(14, 4))}, ReasonPredecessor},
		{"predecessor made later",
			[]Op{put(basePatient, "a", number(1), at(14, 2)), put(basePatient, "a", number(1))}, ReasonPredecessor},
		{"predecessor of an insertion",
			[]Op{{Obj: baseNames, Insert: true, Action: ActionMake, Value: kindOnly(Map), Pred: []OpID{baseItem}}},
			ReasonPredecessor},
		{"predecessor of a character",
			[]Op{{Obj: baseNote, Insert: true, Action: ActionPut, Value: text("a"), Pred: []OpID{at(8, 1)}}},
			ReasonPredecessor},
		{"predecessor that is an element", []Op{put(baseItem, "~~", number(1), baseItem)}, ReasonPredecessor},

		{"field unmarked", []Op{put(basePatient, "gender", text("female"), at(2, 1))}, ReasonUnmarked},
		{"map marked, resource not", []Op{put(baseLink, "key", number(1)), live(baseLink)}, ReasonUnmarked},
		{"resource marked, map not", []Op{put(baseLink, "key", number(1)), live(basePatient)}, ReasonUnmarked},
		{"new map unmarked", []Op{makeAt(basePatient, "{new", Map)}, ReasonUnmarked},
		{"list unmarked", []Op{insert(baseNames, OpID{}, kindOnly(Map))}, ReasonUnmarked},
		{"in a list's map, resource unmarked", []Op{put(baseName, "given", text("A")), live(baseName)}, ReasonUnmarked},
		{"text without its register", []Op{insert(baseNote, OpID{}, text("a")), live(basePatient)}, ReasonUnmarked},
		{"text with another's register",
			[]Op{insert(baseNote, OpID{}, text("a")), put(basePatient, `~"n`, number(1)), live(basePatient)},
			ReasonUnmarked},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := decoded(t, newChange(2, 1, 13, []ChangeHash{base}, tt.ops...))
			r, err := x.Judge(c)
			if tt.reason != "" {
				wantRefused(t, err, tt.reason)
				return
			}
			if err != nil {
				t.Fatalf("Judge: %v", err)
			}
			checkRecord(t, r, c)
		})
	}
}

// A small change can touch many resources with long names; its record must stay small all the same.
func TestJudgeRefusesTooManyNames(t *testing.T) {
	x := NewIndex(DocumentID{})
	var deps []ChangeHash
	var objs []OpID
	start := uint64(1)
	for n := range 5 {
		c := newChange(1, uint64(n+1), start, deps)
		for k := range 1000 {
			id := fmt.Sprintf("%d-%d-", n, k)
			c.Ops = append(c.Ops, makeAt(OpID{}, "Patient/"+id+strings.Repeat("x", MaxRootKeyBytes-8-len(id)), Map))
			objs = append(objs, OpID{start + uint64(k), c.Actor})
		}
		deps, start = []ChangeHash{added(t, x, c)}, start+1000
	}
	touch := func(n int) *Change {
		c := newChange(2, 1, start, deps)
		for _, obj := range objs[:n] {
			c.Ops = append(c.Ops, put(obj, liveKey, number(1)))
		}
		return decoded(t, c)
	}
	most := (MaxChangeNames - len(liveKey)) / MaxRootKeyBytes
	if _, err := x.Judge(touch(most)); err != nil {
		t.Errorf("Judge: %v", err)
	}
	_, err := x.Judge(touch(most + 1))
	wantRefused(t, err, ReasonNames)
}

// checkRecord holds a record against its change, and against itself through its saved form.
func checkRecord(t *testing.T, r Record, c *Change) {
	t.Helper()
	if r.Hash != c.Hash || !slices.Equal(r.Deps, c.Deps) || r.Actor != c.Actor || r.Seq != c.Seq ||
		r.StartOp != c.StartOp || r.Count != uint64(len(c.Ops)) {
		t.Fatalf("record %+v of change %+v", r, c)
	}
	saved, err := r.AppendBinary([]byte("before"))
	if err != nil {
		t.Fatal(err)
	}
	saved = bytes.TrimPrefix(saved, []byte("before"))
	again, err := ParseRecord(saved)
	if err != nil {
		t.Fatalf("ParseRecord: %v", err)
	}
	if twice, _ := again.AppendBinary(nil); !bytes.Equal(saved, twice) {
		t.Fatalf("saved as %x, then as %x", saved, twice)
	}
	if fmt.Sprintf("%+v", normal(again)) != fmt.Sprintf("%+v", normal(r)) {
		t.Fatalf("parsed\n%+v\nof\n%+v", again, r)
	}
	seen := map[string]bool{}
	for i, op := range c.Ops {
		key, ok := again.Key(c.StartOp + uint64(i))
		if !ok || op.Obj == (OpID{}) && key != op.Key {
			t.Fatalf("operation %d belongs to %q", i, key)
		}
		seen[key] = true
	}
	for _, counter := range []uint64{c.StartOp - 1, c.StartOp + uint64(len(c.Ops))} {
		if key, ok := r.Key(counter); ok {
			t.Errorf("operation %d, not the change's, belongs to %q", counter, key)
		}
	}
	if len(seen) != len(r.Keys) {
		t.Errorf("keys %q, operations name %v", r.Keys, seen)
	}
}

// normal makes nil what is empty.
func normal(r Record) Record {
	if len(r.Deps) == 0 {
		r.Deps = nil
	}
	if len(r.names) == 0 {
		r.names = nil
	}
	return r
}

func TestRecordTellsResources(t *testing.T) {
	x := NewIndex(DocumentID{1})
	base := added(t, x, baseChange())
	r := judged(t, x, newChange(2, 1, 13, []ChangeHash{base},
		put(baseName, "given", text("A")), put(baseName, liveKey, number(1)), put(basePatient, liveKey, number(1)),
		makeAt(OpID{}, "Patient/2", Map), put(at(16, 2), "a", number(1))))
	for counter, want := range map[uint64]string{13: "Patient/1", 15: "Patient/1", 16: "Patient/2", 17: "Patient/2"} {
		if got, ok := r.Key(counter); !ok || got != want {
			t.Errorf("operation %d belongs to %q, want %q", counter, got, want)
		}
	}
	if !slices.Equal(r.Keys, []string{"Patient/1", "Patient/2"}) {
		t.Errorf("keys %q", r.Keys)
	}
	if err := x.Add(r); err != nil {
		t.Fatal(err)
	}
	if got, ok := x.ByOp(at(14, 2)); !ok || got.Hash != r.Hash {
		t.Error("operation 14 is not the second change's")
	}
	if got, ok := x.ByOp(at(12, 1)); !ok || got.Hash != base {
		t.Error("operation 12 is not the first change's")
	}
	for _, id := range []OpID{at(13, 1), at(12, 2), at(18, 2), at(1, 3), {}} {
		if _, ok := x.ByOp(id); ok {
			t.Errorf("operation %v found", id)
		}
	}
	if x.Ops() != 17 || x.Len() != 2 || x.Document() != (DocumentID{1}) || x.NextSeq(testActor(1)) != 2 ||
		x.NextSeq(testActor(3)) != 1 {
		t.Error("counts are wrong")
	}
	if got := x.Touched("Patient/1"); !slices.Equal(got, []ChangeHash{base, r.Hash}) {
		t.Errorf("Patient/1 touched by %v", got)
	}
	if got := x.KeyHeads("Patient/1"); !slices.Equal(got, []ChangeHash{r.Hash}) {
		t.Errorf("Patient/1 has heads %v", got)
	}
	if x.Touched("Patient/3") != nil || x.KeyHeads("Patient/3") != nil {
		t.Error("a resource that is not there was touched")
	}
}

func edit(actor byte, seq, start uint64, deps ...ChangeHash) *Change {
	return newChange(actor, seq, start, deps, makeAt(OpID{}, fmt.Sprintf("Patient/%d-%d-%d", actor, seq, start), Map))
}

func TestJudgeSequence(t *testing.T) {
	x := NewIndex(DocumentID{})
	a1 := added(t, x, edit(1, 1, 1))
	b1 := added(t, x, edit(2, 1, 1))
	a2 := added(t, x, edit(1, 2, 2, a1))
	ab := added(t, x, edit(2, 2, 3, b1, a2))
	gap := uint64(MaxCounterGap)
	for _, tt := range []struct {
		name   string
		c      *Change
		reason string
	}{
		{"next", edit(1, 3, 4, a2, ab), ""},
		{"next on top of a later one alone", edit(1, 3, 4, ab), ""},
		{"next with a gap in counters", edit(1, 3, 4+gap, ab), ""},
		{"new actor without ancestors", edit(3, 1, 1), ""},
		{"new actor on an old version", edit(3, 1, 2, a1), ""},
		{"actor skips", edit(1, 4, 4, ab), ReasonSeq},
		{"new actor skips", edit(3, 2, 4, ab), ReasonSeq},
		{"actor repeats an ancestor's", edit(1, 2, 4, ab), ReasonSeq},
		{"actor does not build on its own", edit(1, 3, 2, b1), ReasonSeq},
		{"counter of an ancestor's", edit(1, 3, 3, ab), ReasonStartOp},
		{"counter too far on", edit(1, 3, 5+gap, ab), ReasonStartOp},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := x.Judge(decoded(t, tt.c)); tt.reason != "" {
				wantRefused(t, err, tt.reason)
			} else if err != nil {
				t.Errorf("Judge: %v", err)
			}
		})
	}
	if _, err := x.Judge(decoded(t, edit(2, 2, 3, b1, a2))); !errors.Is(err, ErrKnown) {
		t.Errorf("an applied change: %v", err)
	}
	var missing *Missing
	_, err := x.Judge(decoded(t, edit(1, 3, 4, ChangeHash{9}, ab, ChangeHash{8})))
	if !errors.As(err, &missing) || missing.Hash != (ChangeHash{8}) {
		t.Errorf("two dependencies missing: %v", err)
	}
	var twice *Equivocation
	again := newChange(1, 2, 2, []ChangeHash{a1}, makeAt(OpID{}, "Patient/other", Map))
	if _, err := x.Judge(decoded(t, again)); !errors.As(err, &twice) || *twice != (Equivocation{testActor(1), 2, a2}) {
		t.Errorf("another change 2 of actor 1: %v", err)
	}
	// A refusal comes before it, since it does not depend on what is applied.
	again.Ops[0].Key = "Patient"
	_, err = x.Judge(decoded(t, again))
	wantRefused(t, err, ReasonRoot)
}

func TestAddRefusesWhatIsOutOfOrder(t *testing.T) {
	x, y := NewIndex(DocumentID{}), NewIndex(DocumentID{})
	first := judged(t, x, edit(1, 1, 1))
	if err := x.Add(first); err != nil {
		t.Fatal(err)
	}
	second := judged(t, x, edit(1, 2, 2, first.Hash))
	if err := x.Add(first); !errors.Is(err, ErrOrder) {
		t.Errorf("added twice: %v", err)
	}
	var missing *Missing
	if err := y.Add(second); !errors.Is(err, ErrOrder) || !errors.As(err, &missing) || missing.Hash != first.Hash {
		t.Errorf("added before its dependency: %v", err)
	}
	if y.Len() != 0 || y.NextSeq(testActor(1)) != 1 {
		t.Error("a refused record left traces")
	}
	second.Seq = 3
	if err := x.Add(second); !errors.Is(err, ErrOrder) {
		t.Errorf("added with another sequence number: %v", err)
	}
}
