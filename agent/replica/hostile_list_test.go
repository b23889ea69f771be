package replica_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
)

// bad is one thing that a hostile member sends: chunks of its log in order, and what must become of the last of them on
// every device. A state of "" is: applied.
type bad struct {
	name   string
	make   func(f *forger) []byte
	state  string
	reason string
}

// canary stands in everything that the hostile chunks say, and must stand in no log.
const canary = "Sigrid-Canary"

func set(obj int, key string, v crdt.Scalar) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Set, Obj: obj, Key: key, Value: v}
}

func str(s string) crdt.Scalar { return crdt.Scalar{Kind: crdt.String, Str: s} }

func of(kind crdt.Kind) crdt.Scalar { return crdt.Scalar{Kind: kind} }

// hostile is the list. Each entry has a document of its own, named after it.
var hostile = []bad{
	// What is no change at all.
	{"operations in 60 bytes", raw(func(f *forger, a crdt.Actor) []byte { return operationBomb(a, 100_000) }), "quarantined", crdt.ReasonOps},
	{"operations without end", raw(func(f *forger, a crdt.Actor) []byte { return operationBomb(a, 1<<62) }), "quarantined", crdt.ReasonOps},
	{"deflate bomb", raw(func(*forger, crdt.Actor) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 9)
		for range 16 {
			_, _ = w.Write(make([]byte, 16<<20)) // a quarter of a gigabyte
		}
		_ = w.Close()
		return envelope(2, b.Bytes())
	}), "quarantined", crdt.ReasonEnvelope},
	{"a whole document", raw(func(*forger, crdt.Actor) []byte { return envelope(0, make([]byte, 100)) }), "quarantined", crdt.ReasonEnvelope},
	{"text for a change", raw(func(*forger, crdt.Actor) []byte { return []byte(canary) }), "quarantined", crdt.ReasonEnvelope},
	{"a wrong checksum", bent(func(b []byte) []byte { b[4] ^= 1; return b }), "quarantined", crdt.ReasonChecksum},
	{"a change cut short", bent(func(b []byte) []byte { return mend(b[:len(b)-3]) }), "quarantined", crdt.ReasonEnvelope},
	{"a flipped bit, mended", bent(func(b []byte) []byte { b[len(b)-5] ^= 0x80; return mend(b) }), "quarantined", ""},

	// What is a change and may not be.
	{"a foreign actor", func(f *forger) []byte {
		doc := f.document("a foreign actor")
		return f.sealRaw(doc, f.as(crdt.Actor{1}, doc, resource("Basic/foreign")...))
	}, "quarantined", "its actor is not its author's"},
	{"a sequence number used again", func(f *forger) []byte {
		doc := f.document("a sequence number used again")
		first := f.change(doc, resource("Basic/again")...)
		second := f.editsOn(doc, [][]byte{first}, resource("Basic/again2"))[0]
		f.pending = append(f.pending, f.sealRaw(doc, first), f.sealRaw(doc, second))
		for i := 3; ; i++ { // the one with the smaller hash stands
			third := f.editsOn(doc, [][]byte{first}, resource(fmt.Sprintf("Basic/again%d", i)))[0]
			x, err := crdt.Decode(second)
			must(f.t, err)
			y, err := crdt.Decode(third)
			must(f.t, err)
			if bytes.Compare(x.Hash[:], y.Hash[:]) < 0 {
				return f.sealRaw(doc, third)
			}
		}
	}, "quarantined", "its author wrote two changes in one place"},
	{"a sequence number left out", func(f *forger) []byte {
		doc := f.document("a sequence number left out")
		raws := f.edits(doc, resource("Basic/gap"), resource("Basic/gap2"))
		bent := bytes.Clone(raws[1])
		_, n := binary.Uvarint(bent[9:])
		bent[9+n+1+32+1+16]++ // after the one dependency, the actor's length and the actor
		f.pending = append(f.pending, f.sealRaw(doc, raws[0]))
		return f.sealRaw(doc, mend(bent))
	}, "quarantined", crdt.ReasonSeq},
	{"a change that is missing", func(f *forger) []byte {
		doc := f.document("a change that is missing")
		return f.sealRaw(doc, f.edits(doc, resource("Basic/missing"), resource("Basic/missing2"))[1])
	}, "parked", "a change that it builds on has not arrived"},
	{"a root key without an id", made(set(0, canary, of(crdt.Map))), "quarantined", crdt.ReasonRoot},
	{"a root key without end", made(set(0, "Patient/"+strings.Repeat("x", 300), of(crdt.Map))), "quarantined", crdt.ReasonRoot},
	{"a scalar in the root", made(set(0, "Patient/x", str(canary))), "quarantined", crdt.ReasonRoot},
	{"a map in a scalar's place", made(append(resource("Patient/slot"), set(1, "name", of(crdt.Map)))...), "quarantined", crdt.ReasonSlot},
	{"a control key", made(append(resource("Patient/control"), set(1, "~v", str(canary)))...), "quarantined", crdt.ReasonControl},
	{"containers too deep", made(deep(70)...), "quarantined", crdt.ReasonDepth},
	{"keys too many", func(f *forger) []byte {
		doc := f.document("keys too many")
		in := resource("Basic/names")
		for i := range 1100 {
			in = append(in, set(1, fmt.Sprintf("%04d%s", i, strings.Repeat("k", 1000)), of(crdt.Null)))
		}
		return f.sealRaw(doc, f.change(doc, in...))
	}, "quarantined", crdt.ReasonNames},
	{"a value too large", made(append(resource("Basic/large"), set(1, "x", str(strings.Repeat("x", crdt.MaxValueBytes+1))))...), "quarantined",
		crdt.ReasonValue},
	{"too many operations together", func(f *forger) []byte {
		doc := f.document("too many operations together")
		raw := f.change(doc, wide(crdt.MaxChangeOps-2)...)
		return f.sealRaw(doc, raw, raw, raw, raw, raw)
	}, "quarantined", "it claims too many operations"},
	{"another's authorship", func(f *forger) []byte {
		doc := f.document("another's authorship")
		body := f.changesOf(doc, f.change(doc, resource("Basic/authorship")...))
		body.Authorship[0].Newest[0] ^= 1
		return f.seal(body)
	}, "quarantined", "its authorship names another change"},
	{"a document of another scope", func(f *forger) []byte {
		doc := f.document("another scope")
		doc[0] ^= 1
		return f.sealRaw(doc, f.change(doc, resource("Basic/scope")...))
	}, "quarantined", "it names a document of another scope"},

	// Bodies that do not open.
	{"a wrong tag", func(f *forger) []byte {
		doc := f.document("a wrong tag")
		return f.lie(liar{tag: &[16]byte{1}}, nil, f.changesOf(doc, f.change(doc, resource("Basic/tag")...)))
	}, "quarantined", "it does not open"},
	{"a zstd bomb", func(f *forger) []byte {
		doc := f.document("a zstd bomb")
		random := make([]byte, 66_000) // does not compress, so that the bomb's length fits
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range random {
			random[i] = byte(rng.Uint32())
		}
		return f.lie(liar{packed: packedBomb(2 << 30)}, nil, &chunk.Opaque{Type: chunk.KindChanges, Document: doc, Content: random})
	}, "quarantined", "it does not open"},
	{"a torn CHANGES", torn(chunk.KindChanges), "quarantined", "it does not open"},
	{"a torn DECISION", torn(chunk.KindDecision), "quarantined", "it does not open"},
	{"a body of nothing", func(f *forger) []byte { return f.seal(&chunk.Opaque{Type: chunk.KindChanges}) }, "quarantined", "it does not open"},
	{"changes without end", func(f *forger) []byte {
		content := append([]byte{0}, 0, 1)
		content = binary.AppendUvarint(content, 1<<40)
		return f.seal(&chunk.Opaque{Type: chunk.KindChanges, Document: f.document("changes without end"), Content: content})
	}, "quarantined", "it does not open"},

	// What a later version may understand.
	{"an unknown kind", func(f *forger) []byte { return f.seal(&chunk.Opaque{Type: 200, Content: []byte(canary)}) }, "parked", "newer version"},
	{"an unknown algorithm", func(f *forger) []byte {
		return f.resign(f.seal(&chunk.Opaque{Type: chunk.KindChanges}), func(b []byte) []byte { b[4] = 9; return b })
	}, "parked", "newer version"},
	{"an unknown dictionary", func(f *forger) []byte {
		sealed := f.seal(&chunk.Opaque{Type: chunk.KindChanges})
		return f.resign(sealed, func(b []byte) []byte {
			b[6] |= 2
			return slices.Insert(b, f.schemaAt()+1, 99)
		})
	}, "parked", "newer version"},
	{"a newer schema", func(f *forger) []byte {
		doc := f.document("a newer schema")
		body := f.changesOf(doc, f.change(doc, resource("Basic/schema")...))
		body.Schema = chunk.MaxSchema
		return f.seal(body)
	}, "parked", "newer version"},
	{"a later decision", func(f *forger) []byte {
		return f.seal(&chunk.Opaque{Type: chunk.KindDecision, Content: []byte{2, 1, 2, 3}})
	}, "parked", "newer version"},

	// Within the rules, and no reason to stop.
	{"the end of time", timed(math.MaxInt64), "", ""},
	{"the beginning of time", timed(math.MinInt64), "", ""},
	{"a name that steers", func(f *forger) []byte {
		doc := f.document("a name that steers")
		body := f.changesOf(doc, f.change(doc, person("steers")...))
		body.Author = "\x1b[2J\u202e" + canary
		return f.seal(body)
	}, "", ""},
	{"4,096 changes in a chunk", func(f *forger) []byte {
		doc := f.document("4,096 changes in a chunk")
		edits := [][]crdt.Instruction{person("many")}
		first := f.edits(doc, edits[0])[0]
		raws := [][]byte{first}
		made, err := crdt.Decode(first)
		must(f.t, err)
		in := crdt.Instruction{Do: crdt.Enter, Key: "Patient/many", Op: made.ID(0)}
		more := make([][]crdt.Instruction, chunk.MaxChangeCount-1)
		for i := range more {
			more[i] = []crdt.Instruction{in, set(1, "~v", crdt.Scalar{Kind: crdt.Int, Int: 1}), set(1, "gender", str(fmt.Sprint(i)))}
		}
		return f.sealRaw(doc, append(raws, f.editsOn(doc, raws, more...)...)...)
	}, "", ""},
	{"a list of thousands", made(wide(5_000)...), "", ""},
	{"containers as deep as may be", made(deep(crdt.MaxDepth)...), "", ""},
	{"JSON in JSON without end", jsonBytes("j" + strings.Repeat("[", 500_000)), "", ""},
	{"a number without end", jsonBytes("j1e999999999"), "", ""},
	{"a small number without end", jsonBytes("j1e-999999999"), "", ""},
	{"a value of no form", jsonBytes("z" + canary), "", ""},
	{"a key that names nobody", made(resource("a/!!!", field("resourceType", crdt.String, canary), field("id", crdt.Int, ""))...), "", ""},
}

// raw seals the bytes of something that is no change.
func raw(fn func(*forger, crdt.Actor) []byte) func(*forger) []byte {
	return func(f *forger) []byte {
		doc := f.document("raw", fmt.Sprint(f.counter))
		return f.sealRaw(doc, fn(f, crdt.Actor(chunk.ActorOf(chunk.CurrentLog(f.keys), doc, 0))))
	}
}

// bent seals a good change after fn.
func bent(fn func([]byte) []byte) func(*forger) []byte {
	return func(f *forger) []byte {
		doc := f.document("bent", fmt.Sprint(f.counter))
		return f.sealRaw(doc, fn(f.change(doc, person("bent")...)))
	}
}

// made seals what the engine makes of instructions that this agent would not give it.
func made(in ...crdt.Instruction) func(*forger) []byte {
	return func(f *forger) []byte {
		doc := f.document("made", fmt.Sprint(f.counter))
		return f.sealRaw(doc, f.change(doc, in...))
	}
}

func torn(kind chunk.Kind) func(*forger) []byte {
	return func(f *forger) []byte {
		return f.seal(&chunk.Opaque{Type: kind, Content: []byte{1, 2, 3}})
	}
}

func timed(millis int64) func(*forger) []byte {
	return func(f *forger) []byte {
		doc := f.document("timed", fmt.Sprint(f.counter))
		body := f.changesOf(doc, f.change(doc, person(fmt.Sprintf("timed%d", f.counter))...))
		body.TimeMillis = millis
		return f.seal(body)
	}
}

func person(id string) []crdt.Instruction {
	return resource("Patient/"+id, field("resourceType", crdt.String, "Patient"), field("id", crdt.String, id),
		field("gender", crdt.String, canary))
}

func deep(n int) []crdt.Instruction {
	in := person("deep")
	at := 1
	for range n - 1 {
		in = append(in, set(at, "{a", of(crdt.Map)))
		at = count(in)
	}
	return in
}

// count returns the reference that the last container of some instructions has.
func count(in []crdt.Instruction) (n int) {
	for _, i := range in {
		if i.Value.Kind.Container() {
			n++
		}
	}
	return n
}

func wide(n int) []crdt.Instruction {
	in := []crdt.Instruction{set(0, "Basic/wide", of(crdt.Map)), set(1, "[x", of(crdt.List))}
	for i := range n {
		in = append(in, crdt.Instruction{Do: crdt.Insert, Obj: 2, Index: i, Value: of(crdt.Map)})
	}
	return in
}

func jsonBytes(s string) func(*forger) []byte {
	return func(f *forger) []byte {
		return made(append(person(fmt.Sprintf("json%d", f.counter)), set(1, "x", crdt.Scalar{Kind: crdt.Bytes, Str: s}))...)(f)
	}
}

// as makes a first change of a document under another actor.
func (f *forger) as(actor crdt.Actor, doc crdt.DocumentID, in ...crdt.Instruction) []byte {
	f.t.Helper()
	e := engine.NewLocal()
	defer e.Close()
	_, err := e.Load(f.t.Context(), doc, nil, nil)
	must(f.t, err)
	raw, _, err := e.Edit(f.t.Context(), doc, crdt.Edit{Actor: actor, Instructions: in})
	must(f.t, err)
	return raw
}

// hostileDevice opens a device over the real engine process.
func (d *device) hostileDevice(log *bytes.Buffer) *engine.Supervisor {
	d.t.Helper()
	e, err := engine.Start(engine.Config{})
	must(d.t, err)
	d.t.Cleanup(func() { _ = e.Close() })
	d.Replica, err = replica.Open(replica.Config{Store: d.twin, Keyring: d.keys, Engine: e,
		Logger: slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	must(d.t, err)
	return e
}

// TestHostileMember gives three devices with real engines everything on the list, in different orders and between records
// of honest members: each chunk is held alike everywhere, or applied, and everything else goes on. Bounds are counted:
// engines that ended, and bytes allocated for each chunk.
func TestHostileMember(t *testing.T) {
	p := practice(t, "surgery", "branch", "home", "forger")
	f := forge(p[3])
	for _, d := range p[1:3] {
		sync(t, p[0], d)
	}
	var sent [][]byte
	last := map[string]string{}
	for _, h := range hostile {
		f.pending = nil
		b := h.make(f)
		s, err := chunk.Parse(b)
		must(t, err)
		id := s.ID()
		last[h.name] = fmt.Sprintf("%x", id[:8])
		sent = append(append(sent, f.pending...), b)
	}
	orders := uint64(1)
	if os.Getenv("HEAVY") != "" {
		orders = 6
	}
	for seed := range orders {
		t.Run(fmt.Sprint("order ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 7))
			var log bytes.Buffer
			var devices []*device
			var engines []*engine.Supervisor
			for _, d := range p[:3] {
				c := &device{t: t, keys: d.keys, twin: d.twin.Crash(), name: d.name}
				engines = append(engines, c.hostileDevice(&log))
				devices = append(devices, c)
			}
			a, b, c := devices[0], devices[1], devices[2]
			var before, after runtime.MemStats
			most := uint64(0)
			for i, at := range sent {
				runtime.ReadMemStats(&before)
				a.take(f.device, at)
				runtime.ReadMemStats(&after)
				most = max(most, after.TotalAlloc-before.TotalAlloc)
				if i%10 == 0 {
					a.put(strings.ReplaceAll(bernd, "bernd", fmt.Sprint("honest", i)), false)
				}
				if rng.IntN(12) == 0 {
					sync(t, a, b)
				}
				if rng.IntN(12) == 0 {
					sync(t, b, c)
				}
			}
			for range 2 {
				for _, i := range rng.Perm(3) {
					sa, sb := sync(t, devices[i], devices[(i+1)%3])
					if !sa.Agreed || !sb.Agreed {
						t.Fatalf("the devices do not agree: %+v\n%+v", sa, sb)
					}
				}
			}
			held := map[string]api.Held{}
			for _, h := range a.heldList(true) {
				held[h.Chunk] = h
			}
			wanted := 0
			for _, h := range hostile {
				got, isHeld := held[last[h.name]]
				if isHeld != (h.state != "") || isHeld && (got.State != h.state || !strings.Contains(got.Reason, h.reason)) {
					t.Errorf("%s: %q, %q; want %q, %q", h.name, got.State, got.Reason, h.state, h.reason)
				}
				if h.state != "" {
					wanted++
				}
			}
			if len(held) != wanted {
				t.Errorf("%d chunks are held, want %d", len(held), wanted)
			}
			for i, d := range devices {
				if d.heldTable() != a.heldTable() {
					t.Errorf("%s holds otherwise:\n%s\n%s", d.name, d.heldTable(), a.heldTable())
				}
				alike(t, a, d)
				s := d.Status()
				if s.Unapplied != 0 || !s.AtEnd || s.Parked+s.Quarantined != wanted {
					t.Errorf("%s: status %+v", d.name, s)
				}
				if got := d.get("Patient/honest0"); !strings.Contains(got, "Kraus") {
					t.Errorf("%s: an honest record is missing", d.name)
				}
				if n := engines[i].Restarts(); n != 0 {
					t.Errorf("%s: the engine ended %d times", d.name, n)
				}
				for _, h := range d.heldList(true) { // what is shown of them can be said in JSON, and steers nothing
					detail, err := d.ShowHeld(t.Context(), h.Chunk)
					must(t, err)
					if detail.Content == nil && detail.Hidden == "" {
						t.Errorf("%s shows nothing and no reason", h.Chunk)
					}
				}
			}
			for _, ref := range []string{"Patient/many", "Patient/steers"} {
				if _, err := a.History(t.Context(), parseRef(t, ref)); err != nil {
					t.Errorf("history of %s: %v", ref, err)
				}
			}
			if strings.Contains(log.String(), canary) {
				t.Errorf("a log holds what a chunk says:\n%s", log.String())
			}
			t.Logf("%d chunks, at most %d MB allocated for one", len(sent), most>>20)
			if most > 1<<30 {
				t.Errorf("%d MB were allocated for one chunk", most>>20)
			}
		})
	}
}

// TestHostileLogs lies about a log: what does not continue it is not stored, and stops nothing.
func TestHostileLogs(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	b.put(bernd, false)
	sync(t, a, b)
	theirs, err := chunk.Parse(b.ownLog()[0])
	must(t, err)
	doc := f.document("logs")
	body := func(id string) *chunk.Changes { return f.changesOf(doc, f.change(doc, person(id)...)) }
	nonce := theirs.Header().Nonce

	first := f.lie(liar{}, nil, body("first"))
	a.take(f.device, first)
	for name, lie := range map[string][]byte{
		"a gap":                  f.lie(liar{}, func(p *chunk.Params) { p.Counter, p.Previous = 9, chunk.ID{1} }, body("gap")),
		"the last counter":       f.lie(liar{}, func(p *chunk.Params) { p.Counter, p.Previous = 1<<63-1, chunk.ID{1} }, body("last")),
		"another's chunk before": f.lie(liar{}, func(p *chunk.Params) { p.Previous = theirs.ID() }, body("previous")),
	} {
		if err := a.Arrive(t.Context(), f.Device(), [][]byte{lie}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		a.applyAll()
	}
	// Two chunks at one counter: the first that came is applied, the other is kept beside it.
	f2 := *f
	second, other := f.lie(liar{}, nil, body("second")), f2.lie(liar{}, nil, body("other"))
	a.take(f.device, second, other)
	// Another's nonce under one's own name is a log of one's own.
	a.take(f.device, f.lie(liar{nonce: &nonce}, func(p *chunk.Params) { p.Counter, p.Previous = 1, chunk.ID{} }, body("nonce")))
	// Another's chunk under the forger's signature.
	stolen := bytes.Clone(theirs.Bytes())
	copy(stolen[len(stolen)-64:], f.keys.Sign("chartmesh chunk 1", []byte("x")))
	if err := a.Arrive(t.Context(), f.Device(), [][]byte{stolen}); err != nil {
		t.Errorf("a stolen chunk: %v", err)
	}
	for name, junk := range map[string][]byte{"nothing": nil, "text": []byte(canary), "a torn chunk": first[:100]} {
		if err := a.Arrive(t.Context(), f.Device(), [][]byte{junk}); err == nil {
			t.Errorf("%s was taken for a chunk", name)
		}
	}
	scope := f.scope
	if v := a.Vector(scope); v[chunk.CurrentLog(f.keys)].Counter != 2 || len(v) != 3 {
		t.Errorf("the vector says %v", v)
	}
	sync(t, a, b)
	alike(t, a, b)
	if s := a.Status(); s.Unapplied != 0 || !s.AtEnd {
		t.Errorf("status %+v", s)
	}
	a.put(anna, false)
	sync(t, a, b)
	if got := b.get("Patient/anna"); !strings.Contains(got, "Anna") {
		t.Error("records do not go on")
	}
}
