package hostile

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"chartmesh/chunk"
	"chartmesh/crdt"
)

// Bad is one thing that a hostile member sends: chunks of its log in order, and what must become of the last of them on
// every device. A state of "" is: applied.
type Bad struct {
	Name   string
	Make   func(f *Forger) []byte
	State  string
	Reason string
}

// Canary stands in everything that the hostile chunks say, and must stand in no log.
const Canary = "Sigrid-Canary"

// Set is an instruction that sets a key of an object.
func Set(obj int, key string, v crdt.Scalar) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Set, Obj: obj, Key: key, Value: v}
}

// Str is a string as a value.
func Str(s string) crdt.Scalar { return crdt.Scalar{Kind: crdt.String, Str: s} }

func of(kind crdt.Kind) crdt.Scalar { return crdt.Scalar{Kind: kind} }

// List is what a hostile member may send. Each entry has a document of its own, named after it.
var List = []Bad{
	// What is no change at all.
	{"operations in 60 bytes", raw(func(f *Forger, a crdt.Actor) []byte { return operationBomb(a, 100_000) }), "quarantined", crdt.ReasonOps},
	{"operations without end", raw(func(f *Forger, a crdt.Actor) []byte { return operationBomb(a, 1<<62) }), "quarantined", crdt.ReasonOps},
	{"deflate bomb", raw(func(*Forger, crdt.Actor) []byte {
		var b bytes.Buffer
		w, _ := flate.NewWriter(&b, 9)
		for range 16 {
			_, _ = w.Write(make([]byte, 16<<20)) // a quarter of a gigabyte
		}
		_ = w.Close()
		return envelope(2, b.Bytes())
	}), "quarantined", crdt.ReasonEnvelope},
	{"a whole document", raw(func(*Forger, crdt.Actor) []byte { return envelope(0, make([]byte, 100)) }), "quarantined", crdt.ReasonEnvelope},
	{"text for a change", raw(func(*Forger, crdt.Actor) []byte { return []byte(Canary) }), "quarantined", crdt.ReasonEnvelope},
	{"a wrong checksum", bent(func(b []byte) []byte { b[4] ^= 1; return b }), "quarantined", crdt.ReasonChecksum},
	{"a change cut short", bent(func(b []byte) []byte { return mend(b[:len(b)-3]) }), "quarantined", crdt.ReasonEnvelope},
	{"a flipped bit, mended", bent(func(b []byte) []byte { b[len(b)-5] ^= 0x80; return mend(b) }), "quarantined", ""},

	// What is a change and may not be.
	{"a foreign actor", func(f *Forger) []byte {
		doc := f.Document("a foreign actor")
		return f.SealRaw(doc, f.As(crdt.Actor{1}, doc, Resource("Basic/foreign")...))
	}, "quarantined", "its actor is not its author's"},
	{"a sequence number used again", func(f *Forger) []byte {
		doc := f.Document("a sequence number used again")
		first := f.Change(doc, Resource("Basic/again")...)
		second := f.EditsOn(doc, [][]byte{first}, Resource("Basic/again2"))[0]
		f.Pending = append(f.Pending, f.SealRaw(doc, first), f.SealRaw(doc, second))
		for i := 3; ; i++ { // the one with the smaller hash stands
			third := f.EditsOn(doc, [][]byte{first}, Resource(fmt.Sprintf("Basic/again%d", i)))[0]
			x, err := crdt.Decode(second)
			must(f.T, err)
			y, err := crdt.Decode(third)
			must(f.T, err)
			if bytes.Compare(x.Hash[:], y.Hash[:]) < 0 {
				return f.SealRaw(doc, third)
			}
		}
	}, "quarantined", "its author wrote two changes in one place"},
	{"a sequence number left out", func(f *Forger) []byte {
		doc := f.Document("a sequence number left out")
		raws := f.Edits(doc, Resource("Basic/gap"), Resource("Basic/gap2"))
		bent := bytes.Clone(raws[1])
		_, n := binary.Uvarint(bent[9:])
		bent[9+n+1+32+1+16]++ // after the one dependency, the actor's length and the actor
		f.Pending = append(f.Pending, f.SealRaw(doc, raws[0]))
		return f.SealRaw(doc, mend(bent))
	}, "quarantined", crdt.ReasonSeq},
	{"a change that is missing", func(f *Forger) []byte {
		doc := f.Document("a change that is missing")
		return f.SealRaw(doc, f.Edits(doc, Resource("Basic/missing"), Resource("Basic/missing2"))[1])
	}, "parked", "a change that it builds on has not arrived"},
	{"a root key without an id", made(Set(0, Canary, of(crdt.Map))), "quarantined", crdt.ReasonRoot},
	{"a root key without end", made(Set(0, "Patient/"+strings.Repeat("x", 300), of(crdt.Map))), "quarantined", crdt.ReasonRoot},
	{"a scalar in the root", made(Set(0, "Patient/x", Str(Canary))), "quarantined", crdt.ReasonRoot},
	{"a map in a scalar's place", made(append(Resource("Patient/slot"), Set(1, "name", of(crdt.Map)))...), "quarantined", crdt.ReasonSlot},
	{"a control key", made(append(Resource("Patient/control"), Set(1, "~v", Str(Canary)))...), "quarantined", crdt.ReasonControl},
	{"containers too deep", made(deep(70)...), "quarantined", crdt.ReasonDepth},
	{"keys too many", func(f *Forger) []byte {
		doc := f.Document("keys too many")
		in := Resource("Basic/names")
		for i := range 1100 {
			in = append(in, Set(1, fmt.Sprintf("%04d%s", i, strings.Repeat("k", 1000)), of(crdt.Null)))
		}
		return f.SealRaw(doc, f.Change(doc, in...))
	}, "quarantined", crdt.ReasonNames},
	{"a value too large", made(append(Resource("Basic/large"), Set(1, "x", Str(strings.Repeat("x", crdt.MaxValueBytes+1))))...), "quarantined",
		crdt.ReasonValue},
	{"too many operations together", func(f *Forger) []byte {
		doc := f.Document("too many operations together")
		raw := f.Change(doc, wide(crdt.MaxChangeOps-2)...)
		return f.SealRaw(doc, raw, raw, raw, raw, raw)
	}, "quarantined", "it claims too many operations"},
	{"another's authorship", func(f *Forger) []byte {
		doc := f.Document("another's authorship")
		body := f.ChangesOf(doc, f.Change(doc, Resource("Basic/authorship")...))
		body.Authorship[0].Newest[0] ^= 1
		return f.Seal(body)
	}, "quarantined", "its authorship names another change"},
	{"a document of another scope", func(f *Forger) []byte {
		doc := f.Document("another scope")
		doc[0] ^= 1
		return f.SealRaw(doc, f.Change(doc, Resource("Basic/scope")...))
	}, "quarantined", "it names a document of another scope"},

	// Bodies that do not open.
	{"a wrong tag", func(f *Forger) []byte {
		doc := f.Document("a wrong tag")
		return f.Lie(Liar{Header: &[16]byte{1}}, nil, f.ChangesOf(doc, f.Change(doc, Resource("Basic/tag")...)))
	}, "quarantined", "it does not open"},
	{"a zstd bomb", func(f *Forger) []byte {
		doc := f.Document("a zstd bomb")
		random := make([]byte, 66_000) // does not compress, so that the bomb's length fits
		rng := rand.New(rand.NewPCG(1, 1))
		for i := range random {
			random[i] = byte(rng.Uint32())
		}
		return f.Lie(Liar{Packed: packedBomb(2 << 30)}, nil, &chunk.Opaque{Type: chunk.KindChanges, Document: doc, Content: random})
	}, "quarantined", "it does not open"},
	{"a torn CHANGES", torn(chunk.KindChanges), "quarantined", "it does not open"},
	{"a torn DECISION", torn(chunk.KindDecision), "quarantined", "it does not open"},
	{"a body of nothing", func(f *Forger) []byte { return f.Seal(&chunk.Opaque{Type: chunk.KindChanges}) }, "quarantined", "it does not open"},
	{"changes without end", func(f *Forger) []byte {
		content := append([]byte{0}, 0, 1)
		content = binary.AppendUvarint(content, 1<<40)
		return f.Seal(&chunk.Opaque{Type: chunk.KindChanges, Document: f.Document("changes without end"), Content: content})
	}, "quarantined", "it does not open"},

	// What a later version may understand.
	{"an unknown kind", func(f *Forger) []byte { return f.Seal(&chunk.Opaque{Type: 200, Content: []byte(Canary)}) }, "parked", "newer version"},
	{"an unknown algorithm", func(f *Forger) []byte {
		return f.Resign(f.Seal(&chunk.Opaque{Type: chunk.KindChanges}), func(b []byte) []byte { b[4] = 9; return b })
	}, "parked", "newer version"},
	{"an unknown dictionary", func(f *Forger) []byte {
		sealed := f.Seal(&chunk.Opaque{Type: chunk.KindChanges})
		return f.Resign(sealed, func(b []byte) []byte {
			b[6] |= 2
			return slices.Insert(b, f.schemaAt()+1, 99)
		})
	}, "parked", "newer version"},
	{"a newer schema", func(f *Forger) []byte {
		doc := f.Document("a newer schema")
		body := f.ChangesOf(doc, f.Change(doc, Resource("Basic/schema")...))
		body.Schema = chunk.MaxSchema
		return f.Seal(body)
	}, "parked", "newer version"},
	{"a later decision", func(f *Forger) []byte {
		return f.Seal(&chunk.Opaque{Type: chunk.KindDecision, Content: []byte{2, 1, 2, 3}})
	}, "parked", "newer version"},

	// Within the rules, and no reason to stop.
	{"the end of time", timed(math.MaxInt64), "", ""},
	{"the beginning of time", timed(math.MinInt64), "", ""},
	{"a name that steers", func(f *Forger) []byte {
		doc := f.Document("a name that steers")
		body := f.ChangesOf(doc, f.Change(doc, Person("steers")...))
		body.Author = "\x1b[2J\u202e" + Canary
		return f.Seal(body)
	}, "", ""},
	{"4,096 changes in a chunk", func(f *Forger) []byte {
		doc := f.Document("4,096 changes in a chunk")
		edits := [][]crdt.Instruction{Person("many")}
		first := f.Edits(doc, edits[0])[0]
		raws := [][]byte{first}
		made, err := crdt.Decode(first)
		must(f.T, err)
		in := crdt.Instruction{Do: crdt.Enter, Key: "Patient/many", Op: made.ID(0)}
		more := make([][]crdt.Instruction, chunk.MaxChangeCount-1)
		for i := range more {
			more[i] = []crdt.Instruction{in, Set(1, "~v", crdt.Scalar{Kind: crdt.Int, Int: 1}), Set(1, "gender", Str(fmt.Sprint(i)))}
		}
		return f.SealRaw(doc, append(raws, f.EditsOn(doc, raws, more...)...)...)
	}, "", ""},
	{"a list of thousands", made(wide(5_000)...), "", ""},
	{"containers as deep as may be", made(deep(crdt.MaxDepth)...), "", ""},
	{"JSON in JSON without end", jsonBytes("j" + strings.Repeat("[", 500_000)), "", ""},
	{"a number without end", jsonBytes("j1e999999999"), "", ""},
	{"a small number without end", jsonBytes("j1e-999999999"), "", ""},
	{"a value of no form", jsonBytes("z" + Canary), "", ""},
	{"a key that names nobody", made(Resource("a/!!!", Field("resourceType", crdt.String, Canary), Field("id", crdt.Int, ""))...), "", ""},
}

// raw seals the bytes of something that is no change.
func raw(fn func(*Forger, crdt.Actor) []byte) func(*Forger) []byte {
	return func(f *Forger) []byte {
		doc := f.Document("raw", fmt.Sprint(f.Counter))
		return f.SealRaw(doc, fn(f, crdt.Actor(chunk.ActorOf(chunk.CurrentLog(f.Keys), doc, 0))))
	}
}

// bent seals a good change after fn.
func bent(fn func([]byte) []byte) func(*Forger) []byte {
	return func(f *Forger) []byte {
		doc := f.Document("bent", fmt.Sprint(f.Counter))
		return f.SealRaw(doc, fn(f.Change(doc, Person("bent")...)))
	}
}

// made seals what the engine makes of instructions that this agent would not give it.
func made(in ...crdt.Instruction) func(*Forger) []byte {
	return func(f *Forger) []byte {
		doc := f.Document("made", fmt.Sprint(f.Counter))
		return f.SealRaw(doc, f.Change(doc, in...))
	}
}

func torn(kind chunk.Kind) func(*Forger) []byte {
	return func(f *Forger) []byte {
		return f.Seal(&chunk.Opaque{Type: kind, Content: []byte{1, 2, 3}})
	}
}

func timed(millis int64) func(*Forger) []byte {
	return func(f *Forger) []byte {
		doc := f.Document("timed", fmt.Sprint(f.Counter))
		body := f.ChangesOf(doc, f.Change(doc, Person(fmt.Sprintf("timed%d", f.Counter))...))
		body.TimeMillis = millis
		return f.Seal(body)
	}
}

// Person is a patient whose gender is Canary.
func Person(id string) []crdt.Instruction {
	return Resource("Patient/"+id, Field("resourceType", crdt.String, "Patient"), Field("id", crdt.String, id),
		Field("gender", crdt.String, Canary))
}

func deep(n int) []crdt.Instruction {
	in := Person("deep")
	at := 1
	for range n - 1 {
		in = append(in, Set(at, "{a", of(crdt.Map)))
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
	in := []crdt.Instruction{Set(0, "Basic/wide", of(crdt.Map)), Set(1, "[x", of(crdt.List))}
	for i := range n {
		in = append(in, crdt.Instruction{Do: crdt.Insert, Obj: 2, Index: i, Value: of(crdt.Map)})
	}
	return in
}

func jsonBytes(s string) func(*Forger) []byte {
	return func(f *Forger) []byte {
		return made(append(Person(fmt.Sprintf("json%d", f.Counter)), Set(1, "x", crdt.Scalar{Kind: crdt.Bytes, Str: s}))...)(f)
	}
}

// Resource makes a resource under a root key, which further instructions name 1.
func Resource(key string, fields ...crdt.Instruction) []crdt.Instruction {
	out := []crdt.Instruction{{Do: crdt.Set, Key: key, Value: crdt.Scalar{Kind: crdt.Map}}}
	for _, f := range fields {
		f.Obj = 1
		out = append(out, f)
	}
	return out
}

// Field is one field of a Resource.
func Field(key string, kind crdt.Kind, s string) crdt.Instruction {
	return crdt.Instruction{Do: crdt.Set, Key: key, Value: crdt.Scalar{Kind: kind, Str: s}}
}
