//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"chartmesh/crdt"
)

func TestMain(m *testing.M) {
	ChildMain()
	os.Exit(m.Run())
}

var (
	one   = crdt.Actor{1}
	two   = crdt.Actor{2}
	three = crdt.Actor{3}
	docA  = crdt.DocumentID{0xA}
	docB  = crdt.DocumentID{0xB}
)

func text(s string) crdt.Scalar     { return crdt.Scalar{Kind: crdt.String, Str: s} }
func number(n int64) crdt.Scalar    { return crdt.Scalar{Kind: crdt.Int, Int: n} }
func a(k crdt.Kind) crdt.Scalar     { return crdt.Scalar{Kind: k} }
func opaque(s string) crdt.Scalar   { return crdt.Scalar{Kind: crdt.Bytes, Str: s} }
func truth(b bool) crdt.Scalar      { return crdt.Scalar{Kind: crdt.Bool, Int: int64(bit(b))} }
func hash(b []byte) crdt.ChangeHash { return sha256.Sum256(b[8:]) }

func set(obj int, key string, v crdt.Scalar) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Set, Obj: obj, Key: key, Value: v}
}

func put(obj, index int, v crdt.Scalar) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Set, Obj: obj, Index: index, Value: v}
}

func insert(obj, index int, v crdt.Scalar) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Insert, Obj: obj, Index: index, Value: v}
}

func splice(obj, index, del int, s string) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Splice, Obj: obj, Index: index, Delete: del, Value: text(s)}
}

func enter(obj int, key string, op crdt.OpID) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Enter, Obj: obj, Key: key, Op: op}
}

func enterAt(obj, index int, op crdt.OpID) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Enter, Obj: obj, Index: index, Op: op}
}

// each runs a test against the engine in this process and against the one behind the pipe.
func each(t *testing.T, test func(t *testing.T, e crdt.Engine)) {
	t.Run("local", func(t *testing.T) { test(t, NewLocal()) })
	t.Run("supervised", func(t *testing.T) {
		s := supervised(t, Config{})
		test(t, s)
		if s.Restarts() != 0 {
			t.Errorf("the child ended %d times", s.Restarts())
		}
	})
}

func supervised(t testing.TB, c Config) *Supervisor {
	t.Helper()
	s, err := Start(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// A bench drives one engine and fails the test on any error that is not expected.
type bench struct {
	testing.TB
	crdt.Engine
}

func (b bench) load(doc crdt.DocumentID, changes ...[]byte) []crdt.ChangeHash {
	b.Helper()
	s, err := b.Load(context.Background(), doc, nil, changes)
	if err != nil {
		b.Fatalf("load: %v", err)
	}
	return s.Heads
}

func (b bench) apply(doc crdt.DocumentID, changes ...[]byte) []crdt.ChangeHash {
	b.Helper()
	s, err := b.Apply(context.Background(), doc, changes)
	if err != nil {
		b.Fatalf("apply: %v", err)
	}
	return s.Heads
}

func (b bench) edit(doc crdt.DocumentID, actor crdt.Actor, steps ...crdt.Instruction) []byte {
	b.Helper()
	raw, _ := b.editAt(doc, actor, nil, steps...)
	return raw
}

func (b bench) editAt(
	doc crdt.DocumentID, actor crdt.Actor, base []crdt.ChangeHash, steps ...crdt.Instruction,
) ([]byte, []crdt.ChangeHash) {
	b.Helper()
	e := crdt.Edit{Actor: actor, TimeMillis: 1_700_000_000_999, Base: base, Instructions: steps}
	raw, s, err := b.Edit(context.Background(), doc, e)
	if err != nil {
		b.Fatalf("edit: %v", err)
	}
	if base == nil && (len(s.Heads) != 1 || s.Heads[0] != hash(raw)) {
		b.Fatalf("heads %v after change %v", s.Heads, hash(raw))
	}
	return raw, s.Heads
}

func (b bench) read(doc crdt.DocumentID, heads ...crdt.ChangeHash) string {
	b.Helper()
	fields, err := b.Read(context.Background(), doc, nil, heads)
	if err != nil {
		b.Fatalf("read: %v", err)
	}
	return show(fields)
}

// show writes fields as {key: values}; concurrent values are joined by |, ascending by operation.
func show(fields []crdt.Field) string {
	var parts []string
	for _, f := range fields {
		parts = append(parts, f.Key+": "+showRegister(f.Values))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

func showRegister(r crdt.Register) string {
	var parts []string
	for _, a := range r {
		parts = append(parts, showValue(a))
	}
	return strings.Join(parts, "|")
}

func showValue(a crdt.Alternative) string {
	switch a.Kind {
	case crdt.Map:
		return show(a.Map)
	case crdt.List:
		var parts []string
		for _, r := range a.List {
			parts = append(parts, showRegister(r))
		}
		return "[" + strings.Join(parts, ", ") + "]"
	case crdt.Text:
		return fmt.Sprintf("“%s”", a.Str)
	case crdt.String:
		return fmt.Sprintf("%q", a.Str)
	case crdt.Bytes:
		return fmt.Sprintf("<%x>", a.Str)
	case crdt.Bool:
		return fmt.Sprint(a.Int != 0)
	case crdt.Null:
		return "null"
	}
	return fmt.Sprint(a.Int)
}

func want(t testing.TB, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestKindsComeBack(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		raw := b.edit(docA, one,
			set(0, "P/1", a(crdt.Map)),
			set(1, "string", text("Zoë\x00")), set(1, "empty", text("")), set(1, "int", number(-1<<63)),
			set(1, "true", truth(true)), set(1, "false", truth(false)), set(1, "null", a(crdt.Null)),
			set(1, "bytes", opaque("\xff\x00")), set(1, "gone", opaque("")),
			set(1, "{map", a(crdt.Map)), set(1, "[list", a(crdt.List)), set(1, "\"text", a(crdt.Text)),
			set(2, "deep", number(1)), insert(3, 0, a(crdt.List)), insert(5, 0, text("x")), splice(4, 0, 0, "hé"))
		want(t, b.read(docA), `{P/1: {"text: “hé”, [list: [["x"]], bytes: <ff00>, empty: "", false: false, gone: <>, `+
			`int: -9223372036854775808, null: null, string: "Zoë\x00", true: true, {map: {deep: 1}}}`)
		if raw[8] != 1 || !bytes.HasPrefix(raw, []byte{0x85, 0x6f, 0x4a, 0x83}) {
			t.Errorf("not a raw change: %x", raw[:9])
		}
		fields, _ := e.Read(context.Background(), docA, []string{"none", "P/1", "absent"}, nil)
		if len(fields) != 1 || fields[0].Values[0].Op != (crdt.OpID{Counter: 1, Actor: one}) {
			t.Errorf("chosen keys: %v", show(fields))
		}
		for _, f := range fields[0].Values[0].Map {
			if f.Values[0].Op.Actor != one || f.Values[0].Op.Counter < 2 {
				t.Errorf("%s: operation %v", f.Key, f.Values[0].Op)
			}
		}
		if fields, err := e.Read(context.Background(), docA, []string{}, nil); err != nil || len(fields) != 0 {
			t.Errorf("no keys: %v %v", show(fields), err)
		}
	})
}

func TestTimeIsWholeSeconds(t *testing.T) {
	b := bench{t, NewLocal()}
	for millis, seconds := range map[int64]int64{0: 0, 999: 0, 1000: 1, -1: -1, -1000: -1, -1001: -2, 1_700_000_000_999: 1_700_000_000} {
		b.load(docA)
		raw, _, err := b.Edit(t.Context(), docA,
			crdt.Edit{Actor: one, TimeMillis: millis, Instructions: []crdt.Instruction{set(0, "k", number(1))}})
		if err != nil {
			t.Fatal(err)
		}
		// no dependencies (0), actor (16 bytes), sequence 1, first operation 1, then the time as signed LEB128
		at := bytes.Index(raw, append([]byte{0, 16}, one[:]...)) + 2 + 16 + 2
		if got := signedLEB(raw[at:]); got != seconds {
			t.Errorf("%d ms: %d s, want %d", millis, got, seconds)
		}
	}
}

func signedLEB(b []byte) (v int64) {
	for i, c := range b {
		v |= int64(c&0x7f) << (7 * i)
		if c&0x80 == 0 {
			if shift := 7 * (i + 1); c&0x40 != 0 && shift < 64 {
				v |= -1 << shift
			}
			return v
		}
	}
	return v
}

func TestConcurrentValuesAreAllRead(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		base := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "k", text("old")), set(1, "[l", a(crdt.List)),
			insert(2, 0, text("e0")), insert(2, 1, text("e1")))
		root := crdt.OpID{Counter: 1, Actor: one}
		list := crdt.OpID{Counter: 3, Actor: one}
		b.load(docB, base)
		left := b.edit(docA, one, enter(0, "P/1", root), set(1, "k", text("left")), enter(1, "[l", list),
			put(2, 0, text("E")), insert(2, 2, number(1)), set(1, "{m", a(crdt.Map)), set(3, "a", number(1)),
			set(1, "\"t", a(crdt.Text)), splice(4, 0, 0, "left"), set(1, "[n", a(crdt.List)), insert(5, 0, number(7)))
		right := b.edit(docB, two, enter(0, "P/1", root), set(1, "k", text("right")), enter(1, "[l", list),
			put(2, 0, a(crdt.Null)), insert(2, 2, number(2)), set(1, "{m", a(crdt.Map)), set(3, "b", number(2)),
			set(1, "\"t", a(crdt.Text)), splice(4, 0, 0, "right"), set(1, "[n", a(crdt.List)), insert(5, 0, number(8)))
		b.apply(docA, right)
		heads := b.apply(docB, left)
		if len(heads) != 2 || !slices.IsSortedFunc(heads, compareHashes) {
			t.Errorf("heads %v", heads)
		}
		want(t, b.read(docA), `{P/1: {"t: “left”|“right”, [l: ["E"|null, "e1", 2, 1], [n: [7]|[8], k: "left"|"right", `+
			`{m: {a: 1}|{b: 2}}}`)
		want(t, b.read(docB), b.read(docA))

		// Enter takes the alternative that it names, hidden or not; writing to a register takes all its values' place.
		fields, err := e.Read(t.Context(), docA, []string{"P/1"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		maps := fields[0].Values[0].Map[4]
		if maps.Key != "{m" || maps.Values[0].Op.Actor != one || maps.Values[1].Op.Actor != two {
			t.Fatalf("maps: %v", maps)
		}
		b.edit(docA, one, enter(0, "P/1", root), enter(1, "{m", maps.Values[0].Op), set(2, "a", number(3)),
			set(1, "k", text("right")))
		want(t, b.read(docA), `{P/1: {"t: “left”|“right”, [l: ["E"|null, "e1", 2, 1], [n: [7]|[8], k: "right", `+
			`{m: {a: 3}|{b: 2}}}`)
	})
}

// An equal value written again must be an operation: else an edit beside a removal would leave no trace of itself.
func TestEqualValueIsWrittenAgain(t *testing.T) {
	values := []crdt.Scalar{text("v"), text(""), number(0), number(1), truth(true), truth(false), a(crdt.Null), opaque("j1"), opaque("")}
	each(t, func(t *testing.T, e crdt.Engine) {
		for i, v := range values {
			b := bench{t, e}
			b.load(docA)
			base := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "k", v), set(1, "[l", a(crdt.List)), insert(2, 0, v))
			b.load(docB, base)
			root, list := crdt.OpID{Counter: 1, Actor: one}, crdt.OpID{Counter: 3, Actor: one}
			again := b.edit(docA, one, enter(0, "P/1", root), set(1, "k", v), enter(1, "[l", list), put(2, 0, v))
			b.edit(docB, two, enter(0, "P/1", root), set(1, "k", text("other")), enter(1, "[l", list), put(2, 0, text("other")))
			b.apply(docB, again)
			fields, err := e.Read(t.Context(), docB, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			list1, key := fields[0].Values[0].Map[0].Values[0].List[0], fields[0].Values[0].Map[1].Values
			for _, reg := range []crdt.Register{key, list1} {
				if len(reg) != 2 || !slices.ContainsFunc(reg, func(a crdt.Alternative) bool { return a.Scalar == v }) {
					t.Errorf("value %d: %v", i, showRegister(reg))
				}
			}
		}
	})
}

// What the engine puts in front of an equal value must pass the judge, in the registers of control too.
func TestEqualValueIsAccepted(t *testing.T) {
	b := bench{t, NewLocal()}
	b.load(docA)
	root := crdt.OpID{Counter: 1, Actor: one}
	status := text(crdt.OpID{Counter: 4, Actor: one}.String())
	index := crdt.NewIndex(docA)
	for i, raw := range [][]byte{
		b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "~v", number(1)), set(1, "k", text("v")),
			set(1, "\"t", a(crdt.Text)), splice(2, 0, 0, "x"), set(1, "~\"t", number(1)), set(1, "~\"t", status)),
		b.edit(docA, one, enter(0, "P/1", root), set(1, "~v", number(1)), set(1, "k", text("v")), set(1, "~\"t", status)),
		b.edit(docA, two, enter(0, "P/1", root), set(1, "~v", number(0))),
		b.edit(docA, one, enter(0, "P/1", root), set(1, "~v", number(0))),
	} {
		c, err := crdt.Decode(raw)
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		record, err := index.Judge(c)
		if err != nil {
			t.Fatalf("change %d: %v", i, err)
		}
		if err := index.Add(record); err != nil {
			t.Fatal(err)
		}
	}
}

func TestTextCountsCodePoints(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		base := b.edit(docA, one, set(0, "\"t", a(crdt.Text)), splice(1, 0, 0, "a😀e\u0301👍🏼z"), splice(1, 2, 2, "é"))
		want(t, b.read(docA), `{"t: “a😀é👍🏼z”}`)
		b.load(docB, base)
		op := crdt.OpID{Counter: 1, Actor: one}
		left := b.edit(docA, one, enter(0, "\"t", op), splice(1, 0, 1, "A"))
		b.edit(docB, two, enter(0, "\"t", op), splice(1, 5, 1, ""), splice(1, 5, 0, "Z"))
		b.apply(docB, left)
		want(t, b.read(docB), `{"t: “A😀é👍🏼Z”}`)
		b.edit(docB, two, enter(0, "\"t", op), splice(1, 0, 6, ""))
		want(t, b.read(docB), `{"t: “”}`)
	})
}

func TestRefusedEditForgetsTheDocument(t *testing.T) {
	op := crdt.OpID{Counter: 1, Actor: one}
	edits := map[string]crdt.Edit{
		"no instructions":       {},
		"unknown verb":          {Instructions: []crdt.Instruction{{Do: 9}}},
		"unknown reference":     {Instructions: []crdt.Instruction{set(1, "k", number(1))}},
		"negative reference":    {Instructions: []crdt.Instruction{set(-1, "k", number(1))}},
		"later reference":       {Instructions: []crdt.Instruction{set(2, "k", number(1)), set(0, "m", a(crdt.Map))}},
		"index in a map":        {Instructions: []crdt.Instruction{put(0, 1, number(1))}},
		"insert into a map":     {Instructions: []crdt.Instruction{insert(0, 0, number(1))}},
		"key in a list":         {Instructions: []crdt.Instruction{enter(0, "[l", op), set(1, "k", number(1))}},
		"set beyond the list":   {Instructions: []crdt.Instruction{enter(0, "[l", op), put(1, 1, number(1))}},
		"insert beyond":         {Instructions: []crdt.Instruction{enter(0, "[l", op), insert(1, 2, number(1))}},
		"negative index":        {Instructions: []crdt.Instruction{enter(0, "[l", op), insert(1, -1, number(1))}},
		"splice a list":         {Instructions: []crdt.Instruction{enter(0, "[l", op), splice(1, 0, 0, "x")}},
		"splice beyond":         {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), splice(1, 1, 0, "x")}},
		"splice too much":       {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), splice(1, 0, 1, "x")}},
		"splice nothing":        {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), splice(1, 0, 0, "")}},
		"negative delete":       {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), splice(1, 0, -1, "x")}},
		"set a character":       {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), put(1, 0, number(1))}},
		"enter nothing":         {Instructions: []crdt.Instruction{enter(0, "none", op)}},
		"enter a scalar":        {Instructions: []crdt.Instruction{enter(0, "s", crdt.OpID{Counter: 3, Actor: one})}},
		"enter another's":       {Instructions: []crdt.Instruction{enter(0, "[l", crdt.OpID{Counter: 1, Actor: two})}},
		"enter beyond the list": {Instructions: []crdt.Instruction{enter(0, "[l", op), enterAt(1, 7, op)}},
		"bad string":            {Instructions: []crdt.Instruction{set(0, "k", text("\xff"))}},
		"bad key":               {Instructions: []crdt.Instruction{set(0, "\xff", number(1))}},
		"bad splice":            {Instructions: []crdt.Instruction{set(0, "\"t", a(crdt.Text)), splice(1, 0, 0, "\xff")}},
		"empty key":             {Instructions: []crdt.Instruction{set(0, "", number(1))}},
		"unknown kind":          {Instructions: []crdt.Instruction{set(0, "k", a(9))}},
		"no kind":               {Instructions: []crdt.Instruction{set(0, "k", a(0))}},
		"unknown base":          {Base: []crdt.ChangeHash{{1}}, Instructions: []crdt.Instruction{set(0, "k", number(1))}},
	}
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		for name, edit := range edits {
			b.load(docA)
			b.load(docB)
			b.edit(docA, one, set(0, "[l", a(crdt.List)), insert(1, 0, number(1)), set(0, "s", text("canary Müller")))
			edit.Actor = one
			_, _, err := e.Edit(t.Context(), docA, edit)
			if !errors.Is(err, crdt.ErrEngine) || strings.Contains(err.Error(), "canary") {
				t.Errorf("%s: %v", name, err)
			}
			if _, err := e.Read(t.Context(), docA, nil, nil); !errors.Is(err, crdt.ErrNotLoaded) {
				t.Errorf("%s: still loaded: %v", name, err)
			}
			if _, err := e.Read(t.Context(), docB, nil, nil); err != nil {
				t.Errorf("%s: the other document: %v", name, err)
			}
		}
	})
}

func TestNotLoaded(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		ctx := t.Context()
		_, _, editErr := e.Edit(ctx, docA, crdt.Edit{Instructions: []crdt.Instruction{set(0, "k", number(1))}})
		_, applyErr := e.Apply(ctx, docA, nil)
		_, readErr := e.Read(ctx, docA, nil, nil)
		_, saveErr := e.Save(ctx, docA)
		for i, err := range []error{editErr, applyErr, readErr, saveErr} {
			if !errors.Is(err, crdt.ErrNotLoaded) || errors.Is(err, crdt.ErrEngine) {
				t.Errorf("call %d: %v", i, err)
			}
		}
		if err := e.Forget(ctx, docA); err != nil {
			t.Errorf("forget: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if err := e.Close(); err != nil {
			t.Errorf("close again: %v", err)
		}
		if _, err := e.Load(ctx, docA, nil, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("load after close: %v", err)
		}
		if err := e.Forget(ctx, docA); !errors.Is(err, ErrClosed) {
			t.Errorf("forget after close: %v", err)
		}
	})
}

func TestEndedContextForgetsTheDocument(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := e.Read(ctx, docA, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("read: %v", err)
		}
		if _, err := e.Load(ctx, docB, nil, nil); !errors.Is(err, context.Canceled) {
			t.Errorf("load: %v", err)
		}
		for _, doc := range []crdt.DocumentID{docA, docB} {
			if _, err := e.Read(t.Context(), doc, nil, nil); !errors.Is(err, crdt.ErrNotLoaded) {
				t.Errorf("still loaded: %v", err)
			}
		}
	})
}

func TestSavedFormComesBack(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		first := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "k", text("1")))
		saved, err := e.Save(t.Context(), docA)
		if err != nil {
			t.Fatal(err)
		}
		second := b.edit(docA, two, set(0, "P/2", a(crdt.Map)), set(1, "k", text("2")))
		s, err := e.Load(t.Context(), docB, saved, [][]byte{second})
		if err != nil || len(s.Heads) != 1 || s.Heads[0] != hash(second) {
			t.Fatalf("load: %v %v", s, err)
		}
		want(t, b.read(docB), b.read(docA))
		want(t, b.read(docB, hash(first)), `{P/1: {k: "1"}}`)
		// The same edit on what was loaded is the same change: actor, sequence and operations go on.
		step := set(0, "P/3", a(crdt.Map))
		if x, y := b.edit(docA, one, step), b.edit(docB, one, step); !bytes.Equal(x, y) {
			t.Errorf("changes differ:\n%x\n%x", x, y)
		}
		// Load forgets what was there.
		b.load(docB, first)
		want(t, b.read(docB), `{P/1: {k: "1"}}`)
	})
}

func TestApplyNoticesWhatTheLibrarySwallows(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		first := b.edit(docA, one, set(0, "P/1", a(crdt.Map)))
		second := b.edit(docA, one, set(0, "P/2", a(crdt.Map)))
		third := b.edit(docA, one, set(0, "P/3", a(crdt.Map)))
		flipped := bytes.Clone(second)
		flipped[len(flipped)-1] ^= 1
		for name, changes := range map[string][][]byte{
			"dependency missing": {third},
			"junk":               {[]byte("canary junk that is no change")},
			"nothing":            {{}},
			"short":              {first[:8]},
			"cut":                {second[:len(second)-1]},
			"wrong checksum":     {flipped},
			"junk between":       {second, []byte("canary canary"), third},
		} {
			b.load(docA, first)
			_, err := e.Apply(t.Context(), docA, changes)
			if !errors.Is(err, crdt.ErrEngine) || strings.Contains(err.Error(), "canary") {
				t.Errorf("apply %s: %v", name, err)
			}
			if _, err := e.Read(t.Context(), docA, nil, nil); !errors.Is(err, crdt.ErrNotLoaded) {
				t.Errorf("%s: still loaded: %v", name, err)
			}
			if _, err := e.Load(t.Context(), docA, nil, changes); !errors.Is(err, crdt.ErrEngine) {
				t.Errorf("load %s: %v", name, err)
			}
		}
		if _, err := e.Load(t.Context(), docA, []byte("junk"), nil); !errors.Is(err, crdt.ErrEngine) {
			t.Errorf("load junk: %v", err)
		}
		b.load(docA, first, second)
		b.apply(docA, second, first, third) // again and out of order does no harm
		b.apply(docA)
		want(t, b.read(docA), `{P/1: {}, P/2: {}, P/3: {}}`)
	})
}

func TestReadAtUnknownHeads(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		for _, keys := range [][]string{nil, {"P/1"}} {
			b.load(docA)
			if _, err := e.Read(t.Context(), docA, keys, []crdt.ChangeHash{{1}}); !errors.Is(err, crdt.ErrEngine) {
				t.Errorf("%v", err)
			}
		}
		b.load(docA)
		b.edit(docA, one, set(0, "P/1", a(crdt.Map)))
		for _, keys := range [][]string{nil, {"P/1"}} {
			if f, err := e.Read(t.Context(), docA, keys, []crdt.ChangeHash{}); err != nil || len(f) != 0 {
				t.Errorf("as of nothing: %v %v", show(f), err)
			}
		}
	})
}

// The actor of an edit at old heads goes on with its own sequence, on both sides of the base.
func TestEditAtBaseContinuesTheSequence(t *testing.T) {
	each(t, func(t *testing.T, e crdt.Engine) {
		b := bench{t, e}
		b.load(docA)
		first := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "k", text("1")))
		second := b.edit(docA, one, set(0, "P/2", a(crdt.Map)))
		root := crdt.OpID{Counter: 1, Actor: one}
		// On a branch: actor two starts at sequence 1, then goes on with 2 on top of its own change.
		x, heads := b.editAt(docA, two, []crdt.ChangeHash{hash(first)}, enter(0, "P/1", root), set(1, "k", text("x")))
		if len(heads) != 2 {
			t.Fatalf("heads %v", heads)
		}
		y, heads := b.editAt(docA, two, []crdt.ChangeHash{hash(x)}, enter(0, "P/1", root), set(1, "k", text("y")))
		if len(heads) != 2 {
			t.Fatalf("heads %v", heads)
		}
		z := b.edit(docA, one, enter(0, "P/1", root), set(1, "j", text("z")))
		// Several heads, in any order and twice, that are not the document's.
		back, _ := b.editAt(docA, three, []crdt.ChangeHash{hash(second), hash(y), hash(second), hash(first)},
			enter(0, "P/1", root), set(1, "m", text("back")))
		want(t, b.read(docA), `{P/1: {j: "z", k: "y", m: "back"}, P/2: {}}`)
		want(t, b.read(docA, hash(back)), `{P/1: {k: "y", m: "back"}, P/2: {}}`)
		// From nothing.
		b.editAt(docA, crdt.Actor{4}, []crdt.ChangeHash{}, set(0, "P/9", a(crdt.Map)))
		want(t, b.read(docA), `{P/1: {j: "z", k: "y", m: "back"}, P/2: {}, P/9: {}}`)
		// The heads that are the document's own need no branch.
		_, heads = b.editAt(docA, three, reversedHeads(t, e, docA), enter(0, "P/1", root), set(1, "m", text("end")))
		if len(heads) != 1 {
			t.Errorf("heads %v", heads)
		}
		b.load(docB, first, second, x, y, z, back)
		want(t, b.read(docB, hash(back), hash(z)), `{P/1: {j: "z", k: "y", m: "back"}, P/2: {}}`)
	})
}

func reversedHeads(t *testing.T, e crdt.Engine, doc crdt.DocumentID) []crdt.ChangeHash {
	s, err := e.Apply(t.Context(), doc, nil)
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(s.Heads)
	return s.Heads
}
