package crdt

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"chartmesh/internal/fuzzing"
)

// everything is a change with every kind of operation and value that Decode takes.
func everything() *Change {
	patient, names, note := at(7, 1), at(9, 1), at(14, 1)
	return newChange(1, 3, 7, []ChangeHash{{1}, {2}},
		makeAt(OpID{}, "Patient/1", Map),
		put(patient, "gender", text("männlich")),
		makeAt(patient, "[name", List),
		insert(names, OpID{}, kindOnly(Map)),
		insert(names, at(10, 1), text("x")),
		overwrite(names, at(11, 1), opaque(""), at(11, 1)),
		put(patient, "count", number(math.MinInt64), at(1, 2), at(1, 9), at(2, 2)),
		makeAt(patient, `"note`, Text),
		insert(note, OpID{}, text("a")),
		insert(note, at(15, 1), text("é")),
		remove(note, at(15, 1)),
		put(patient, `~"note`, number(1)),
		put(patient, "a", number(-64)), put(patient, "b", number(64)), put(patient, "c", number(math.MaxInt64)),
		put(patient, "d", boolean(0)), put(patient, "e", boolean(1)), put(patient, "f", Scalar{Kind: Null}),
		put(patient, "g", opaque("j{}")), put(at(5, 7), "h", text("")), put(patient, "h", text("")),
		overwrite(at(3, 2), at(4, 7), number(0), at(4, 7)),
	)
}

func TestDecodeReturnsWhatWasEncoded(t *testing.T) {
	for _, message := range []string{"", "saved by hand"} {
		want := everything()
		want.Message = message
		want.TimeSeconds = -1
		got, err := Decode(encodeChange(want))
		if err != nil {
			t.Fatal(err)
		}
		want.Hash = got.Hash
		for i := range want.Ops {
			if len(want.Ops[i].Pred) == 0 {
				want.Ops[i].Pred = nil
			}
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("decoded\n%+v\nwant\n%+v", got, want)
		}
	}
}

func wantRefused(t *testing.T, err error, reason string) {
	t.Helper()
	var refused *Refused
	if !errors.As(err, &refused) || !errors.Is(err, ErrRefused) || refused.Reason != reason {
		t.Errorf("got %v, want refused: %s", err, reason)
	}
}

func TestDecodeRefuses(t *testing.T) {
	patient := at(1, 1)
	simple := func() *Change { return newChange(1, 1, 1, nil, makeAt(OpID{}, "Patient/1", Map)) }
	with := func(ops ...Op) []byte {
		c := simple()
		c.Ops = append(c.Ops, ops...)
		return encodeChange(c)
	}
	changed := func(f func(c *Change)) []byte {
		c := simple()
		f(c)
		return encodeChange(c)
	}
	bent := func(old, new string) []byte {
		raw := with(put(patient, "key", text("value")))
		if strings.Count(string(raw), old) != 1 {
			t.Fatalf("%q stands %d times", old, strings.Count(string(raw), old))
		}
		if len(old) == len(new) {
			return reseal([]byte(strings.Replace(string(raw), old, new, 1)))
		}
		return envelope([]byte(strings.Replace(string(raw[10:]), old, new, 1)))
	}
	manyActors := func(n int) []byte {
		var ops []Op
		for i := range n {
			var id OpID
			id.Counter = 1
			binary.BigEndian.PutUint16(id.Actor[:], uint16(i)+2)
			ops = append(ops, put(id, "k", number(1)))
		}
		return with(ops...)
	}
	preds := make([]OpID, MaxChangePreds/2+1)
	for i := range preds {
		preds[i] = at(uint64(i)+1, 2)
	}
	for _, tt := range []struct {
		name   string
		raw    []byte
		reason string
	}{
		{"nothing", nil, ReasonEnvelope},
		{"too large", make([]byte, MaxChangeBytes+1), ReasonSize},
		{"another magic", append([]byte{0x86}, with()[1:]...), ReasonEnvelope},
		{"document chunk", reseal(slices.Replace(with(), 8, 9, 0)), ReasonEnvelope},
		{"compressed change", reseal(slices.Replace(with(), 8, 9, 2)), ReasonEnvelope},
		{"byte after the end", reseal(append(with(), 0)), ReasonEnvelope},
		{"wrong checksum", slices.Replace(with(), 4, 5, with()[4]^1), ReasonChecksum},
		{"length not minimal", reseal(slices.Replace(with(), 9, 10, with()[9]|0x80, 0)), ReasonEnvelope},
		{"extra bytes inside", envelope(append(slices.Clone(with()[10:]), 0)), ReasonEncoding},
		{"no operations", changed(func(c *Change) { c.Ops = nil }), ReasonOps},
		{"seq 0", changed(func(c *Change) { c.Seq = 0 }), ReasonHeader},
		{"seq over the cap", changed(func(c *Change) { c.Seq = MaxSeq + 1 }), ReasonHeader},
		{"start 0", changed(func(c *Change) { c.StartOp = 0 }), ReasonHeader},
		{"last counter over the cap", changed(func(c *Change) {
			c.StartOp = MaxCounter
			c.Ops = append(c.Ops, c.Ops...)
		}), ReasonOps},
		{"time over the cap", changed(func(c *Change) { c.TimeSeconds = MaxAbsTimeSeconds + 1 }), ReasonHeader},
		{"time under the cap", changed(func(c *Change) { c.TimeSeconds = math.MinInt64 }), ReasonHeader},
		{"message over the cap",
			changed(func(c *Change) { c.Message = strings.Repeat("m", MaxMessageBytes+1) }), ReasonHeader},
		{"message not UTF-8", changed(func(c *Change) { c.Message = "\xff" }), ReasonHeader},
		{"dependencies not ascending", changed(func(c *Change) { c.Deps = []ChangeHash{{2}, {1}} }), ReasonDeps},
		{"dependency twice", changed(func(c *Change) { c.Deps = []ChangeHash{{2}, {2}} }), ReasonDeps},
		{"dependencies over the cap",
			changed(func(c *Change) { c.Deps = make([]ChangeHash, MaxChangeDeps+1) }), ReasonDeps},
		{"dependencies claimed", envelope([]byte{0xff, 0x07}), ReasonEncoding},
		{"actor of 15 bytes", envelope(append([]byte{0, 15}, make([]byte, 40)...)), ReasonActors},
		{"actor that nothing names", func() []byte {
			raw := with()
			body := slices.Clone(raw[10:])
			i := slices.Index(body, 0x15) - 2 // the number of other actors
			body = slices.Insert(body, i+1, append([]byte{16}, make([]byte, 16)...)...)
			body[i] = 1
			return envelope(body)
		}(), ReasonActors},
		{"256 actors beside the author", manyActors(256), ReasonActors},
		{"operations over the cap",
			with(slices.Repeat([]Op{put(patient, "k", number(1))}, MaxChangeOps)...), ReasonOps},
		{"predecessors over the cap",
			with(put(patient, "k", number(1), preds...), put(patient, "k", number(1), preds...)), ReasonPreds},
		{"predecessors not ascending", with(put(patient, "k", number(1), at(2, 2), at(1, 2))), ReasonPreds},
		{"predecessor twice", with(put(patient, "k", number(1), at(2, 2), at(2, 2))), ReasonPreds},
		{"counter over the cap", with(put(at(MaxCounter+1, 1), "k", number(1))), ReasonReference},
		{"key over the cap", with(put(patient, strings.Repeat("k", MaxKeyBytes+1), number(1))), ReasonKey},
		{"key not UTF-8", with(put(patient, "\xff", number(1))), ReasonEncoding},
		{"beginning of a list written over", with(overwrite(patient, OpID{}, number(1))), ReasonKey},
		{"key inserted",
			with(Op{Obj: patient, Key: "k", Insert: true, Action: ActionPut, Value: number(1)}), ReasonKey},
		{"value over the cap", with(put(patient, "k", text(strings.Repeat("v", MaxValueBytes+1)))), ReasonValue},
		{"string not UTF-8", with(put(patient, "k", text("\xff"))), ReasonEncoding},
		{"key cut short", bent("\x03key", "\x7fkey"), ReasonEncoding},
		{"counter as a value", bent("\x7e\x00\x56", "\x7e\x00\x58"), ReasonValue},
		{"timestamp as a value", bent("\x7e\x00\x56", "\x7e\x00\x59"), ReasonValue},
		{"float as a value", bent("\x7e\x00\x56", "\x7e\x00\x55"), ReasonValue},
		{"uint as a value", bent("\x7e\x00\x56", "\x7e\x00\x53"), ReasonValue},
		{"unknown type as a value", bent("\x7e\x00\x56", "\x7e\x00\x5a"), ReasonValue},
		{"integer with bytes behind it", bent("\x7e\x00\x56", "\x7e\x00\x54"), ReasonEncoding},
		{"null with bytes", bent("\x7e\x00\x56", "\x7e\x00\x50"), ReasonEncoding},
		{"value bytes missing", bent("\x7e\x00\x56", "\x7e\x00\x66"), ReasonEncoding},
		{"value bytes left over", bent("\x7e\x00\x56", "\x7e\x00\x46"), ReasonRows},
		{"container with a value", bent("\x7e\x00\x56", "\x7e\x10\x46"), ReasonValue},
		{"increment", bent("\x7e\x00\x01", "\x7e\x00\x05"), ReasonAction},
		{"table", bent("\x7e\x00\x01", "\x7e\x00\x06"), ReasonAction},
		{"mark", bent("\x7e\x00\x01", "\x7e\x00\x07"), ReasonAction},
		{"literal run of equal values", bent("\x7e\x00\x01", "\x7e\x00\x00"), ReasonEncoding},
		{"column that is not ours", bent("\x70\x02", "\x72\x02"), ReasonColumns},
		{"columns not ascending", bent("\x70\x02", "\x40\x02"), ReasonColumns},
		{"deflated column", bent("\x70\x02", "\x78\x02"), ReasonColumns},
		{"predecessors counted that are not there", envelope(append(with()[10:len(with())-1], 1)), ReasonRows},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Decode(tt.raw)
			if c != nil {
				t.Error("decoded")
			}
			wantRefused(t, err, tt.reason)
		})
	}
}

// A few bytes can claim any number of operations. The claim must be refused before memory is taken for it.
func TestDecodeClaims(t *testing.T) {
	claim := func(n int64) []byte {
		body := append([]byte{0, 16}, make([]byte, 16)...)
		body = append(body, 1, 1, 0, 0, 0) // seq, start, time, message, actors
		run := appendSigned(nil, n)
		rows := binary.AppendUvarint(nil, uint64(n))
		repeat := func(v ...byte) []byte { return append(slices.Clone(run), v...) }
		columns := []struct {
			spec byte
			data []byte
		}{
			{keyStringColumn, repeat(1, 'k')}, {insertColumn, rows}, {actionColumn, repeat(1)}, {valueMetaColumn, repeat(0)},
			{predCountColumn, repeat(0)},
		}
		body = append(body, byte(len(columns)))
		var data []byte
		for _, c := range columns {
			body = append(body, c.spec, byte(len(c.data)))
			data = append(data, c.data...)
		}
		return envelope(append(body, data...))
	}
	if _, err := Decode(claim(MaxChangeOps)); err != nil {
		t.Fatalf("the cap itself: %v", err)
	}
	for _, n := range []int64{MaxChangeOps + 1, 100_000, math.MaxInt64} {
		raw := claim(n)
		t.Logf("%d operations in %d bytes", n, len(raw))
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Decode(raw)
		runtime.ReadMemStats(&after)
		wantRefused(t, err, ReasonOps)
		if got := after.TotalAlloc - before.TotalAlloc; got > 64<<10 {
			t.Errorf("%d operations claimed: %d bytes allocated", n, got)
		}
	}
}

// Every run-length form but Automerge's own is refused, so that a decoded change has one encoding.
func TestBentChangesReencodeOrAreRefused(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	base := encodeChange(everything())
	reasons := map[string]int{}
	for range 30_000 {
		raw := slices.Clone(base)
		for range 1 + rng.IntN(3) {
			switch i := 10 + rng.IntN(len(raw)-10); rng.IntN(4) {
			case 0:
				raw[i] = byte(rng.Uint32())
			default:
				raw[i] ^= 1 << rng.IntN(8)
			}
		}
		checkDecode(t, reseal(raw), reasons)
		if t.Failed() {
			t.Fatalf("seed %d: %x", seed, raw)
		}
	}
	t.Log(reasons)
	for _, reason := range []string{
		"", ReasonEncoding, ReasonReference, ReasonRows, ReasonValue, ReasonPreds, ReasonColumns,
	} {
		if reasons[reason] == 0 {
			t.Errorf("seed %d: no input was refused with %q", seed, reason)
		}
	}
}

func checkDecode(t *testing.T, raw []byte, reasons map[string]int) {
	c, err := Decode(raw)
	if err != nil {
		var refused *Refused
		if c != nil || !errors.As(err, &refused) || refused.Reason == "" {
			t.Errorf("Decode: %v, %v", c, err)
			return
		}
		reasons[refused.Reason]++
		return
	}
	reasons[""]++
	if again := encodeChange(c); string(again) != string(raw) {
		t.Errorf("encodes again as %x", again)
	}
}

func FuzzDecode(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := Decode(b)
		return err
	}, seedChanges(f)...)
	f.Fuzz(func(t *testing.T, raw []byte) {
		check := func(raw []byte) {
			var err error
			// Of a long run an operation takes less than a bit, and some 140 bytes once decoded. What a change at its caps
			// takes, with what growing slices leave behind, is therefore no matter of its length.
			fuzzing.Allocates(t, len(raw), 32, 64<<20, func() { _, err = Decode(raw) })
			fuzzing.Quiet(t, err)
			checkDecode(t, raw, map[string]int{})
		}
		// What is bent inside should get past the checksum.
		if len(raw) > 10 {
			check(envelope(raw[10:]))
		}
		check(raw)
	})
}

func seedChanges(t testing.TB) (seeds [][]byte) {
	seeds = append(seeds, encodeChange(everything()),
		encodeChange(newChange(1, 1, 1, nil, makeAt(OpID{}, "Patient/1", Map))))
	w := newWorld(rand.New(rand.NewPCG(1, 1)))
	for range 10 {
		w.step(t)
	}
	for _, c := range w.changes {
		seeds = append(seeds, encodeChange(c))
	}
	return seeds
}
