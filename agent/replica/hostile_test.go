package replica_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/internal/hostile"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// forger is a device that writes chunks which no honest agent would write.
type forger struct {
	*device
	*hostile.Forger
}

func forge(d *device) *forger {
	for _, s := range d.State().Scopes() {
		if s.Name == fhir.Clinical {
			return &forger{d, &hostile.Forger{T: d.t, Keys: d.keys, Membership: d.State, Scope: s.ID}}
		}
	}
	d.t.Fatal("no scope")
	return nil
}

// take lets a device store and apply chunks.
func (d *device) take(from *device, chunks ...[]byte) {
	d.t.Helper()
	must(d.t, d.Arrive(d.t.Context(), from.Device(), chunks))
	d.applyAll()
}

func (d *device) applyAll() {
	d.t.Helper()
	for range 10_000 {
		more, err := d.Apply(d.t.Context())
		must(d.t, err)
		if !more {
			return
		}
	}
	d.t.Fatal("the applier does not come to rest")
}

// TestValueThatIsNoFHIR brings what the validator accepts and FHIR cannot say. It must not stop the records behind it,
// nor hide what else the resource says.
func TestValueThatIsNoFHIR(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	doc := f.Document("section", "eve", "core")
	bad := f.SealChange(doc, f.Change(doc, hostile.Resource("Patient/eve",
		hostile.Field("resourceType", crdt.String, "Patient"), hostile.Field("id", crdt.String, "eve"),
		hostile.Field("name", crdt.Bytes, "j{broken"), hostile.Field("birthDate", crdt.String, "1970-01-01"))...))
	a.take(f.device, bad)
	b.put(bernd, false)
	sync(t, a, b)
	alike(t, a, b)
	if got := a.get("Patient/bernd"); !strings.Contains(got, "Kraus") {
		t.Fatal("what came after is missing")
	}
	if got := a.get("Patient/eve"); !strings.Contains(got, "1970-01-01") {
		t.Fatalf("what can be read is not shown: %s", got)
	}
	if s := a.Status(); !s.AtEnd || s.Resources != 2 {
		t.Fatalf("status %+v", s)
	}
	a.edit("Patient/eve", func(o map[string]any) { o["active"] = true }) // and it can be mended by hand
}

// failingEngine fails to read a document back, as one does that runs out of memory or time.
type failingEngine struct {
	crdt.Engine
	doc crdt.DocumentID
}

func (e failingEngine) Read(
	ctx context.Context, doc crdt.DocumentID, keys []string, heads []crdt.ChangeHash,
) ([]crdt.Field, error) {
	if doc == e.doc {
		return nil, crdt.ErrEngine
	}
	return e.Engine.Read(ctx, doc, keys, heads)
}

// TestChunkThatTheEngineFailsOn stops nothing else, is shown, and is tried again by the next run.
func TestChunkThatTheEngineFailsOn(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	doc, err := a.keys.DocumentID(forge(a).Scope, "section", "anna", "core")
	must(t, err)
	e := engine.NewLocal()
	t.Cleanup(func() { _ = e.Close() })
	b.Replica, err = replica.Open(replica.Config{Store: b.twin, Keyring: b.keys, Engine: failingEngine{e, doc}})
	must(t, err)
	a.put(bernd, false)
	a.put(anna, false)
	a.put(weight, false)
	sync(t, a, b)
	if s := b.Status(); s.Unapplied != 1 || s.Resources != 2 || s.Documents != 2 || !s.AtEnd {
		t.Fatalf("status %+v", s)
	}
	held, err := b.Held(10)
	must(t, err)
	if len(held) != 1 || held[0].State != replica.Unapplied || held[0].Device != a.Device() {
		t.Fatalf("held %+v", held)
	}
	b.crash()
	b.applyAll()
	if s := b.Status(); s.Unapplied != 0 || s.Resources != 3 || s.Documents != 3 {
		t.Fatalf("status after a restart: %+v", s)
	}
	alike(t, a, b)
}

// TestChunkOfTooManyOperations packs more operations into one chunk than its changes' own caps would stop.
func TestChunkOfTooManyOperations(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	doc := f.Document("section", "eve", "core")
	in := make([]crdt.Instruction, crdt.MaxChangeOps)
	in[0] = crdt.Instruction{Do: crdt.Set, Key: "Basic/x", Value: crdt.Scalar{Kind: crdt.Map}}
	in[1] = crdt.Instruction{Do: crdt.Set, Obj: 1, Key: "[x", Value: crdt.Scalar{Kind: crdt.List}}
	for i := range in[2:] {
		in[2+i] = crdt.Instruction{Do: crdt.Insert, Obj: 2, Index: i, Value: crdt.Scalar{Kind: crdt.Null}}
	}
	raw := f.Change(doc, in...)
	c, err := crdt.Decode(raw)
	must(t, err)
	body := &chunk.Changes{
		Document: doc, Schema: fhir.Schema, TimeMillis: 1, Author: "forger", Origin: chunk.OriginEdit,
		Authorship: []chunk.Authorship{{Seq: c.Seq, Newest: c.Hash}},
	}
	for range 5 {
		body.Changes = append(body.Changes, chunk.Change{Raw: raw})
	}
	a.take(f.device, f.Seal(body))
	if s := a.Status(); s.Quarantined != 1 || s.Resources != 0 || !s.AtEnd {
		t.Fatalf("status %+v", s)
	}
}

// TestDocumentOfAnotherScope names, in a chunk of one scope, a document of another. Whichever comes first, all devices
// show the same.
func TestDocumentOfAnotherScope(t *testing.T) {
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	doc := f.Document("section", "bernd", "core")
	for _, s := range f.State().Scopes() {
		if s.Name == fhir.Billing {
			f.Scope = s.ID
		}
	}
	foreign := f.SealChange(doc, f.Change(doc, hostile.Resource("Claim/x",
		hostile.Field("resourceType", crdt.String, "Claim"), hostile.Field("id", crdt.String, "x"))...))
	sync(t, a, b) // b learns of the forger
	a.put(bernd, false)
	b.take(f.device, foreign)
	if s := b.Status(); s.Documents != 0 || s.Quarantined != 1 {
		t.Fatalf("status %+v", s)
	}
	if sa, sb := sync(t, a, b); !sa.Agreed || !sb.Agreed {
		t.Fatalf("the devices do not agree: %+v, %+v", sa, sb)
	}
	alike(t, a, b)
	if got := b.get("Patient/bernd"); !strings.Contains(got, "Kraus") {
		t.Fatal("a foreign chunk keeps a record from being shown")
	}
}

// TestMadeUpAcks acknowledges what nobody wrote, and another history of a log.
func TestMadeUpAcks(t *testing.T) {
	p := practice(t, "surgery", "branch")
	a, b := p[0], p[1]
	a.put(bernd, false)
	scope, log := forge(a).Scope, chunk.CurrentLog(a.keys)
	must(t, a.Acked(t.Context(), b.Device(), session.Ack{Scope: scope, Stored: chunk.Vector{
		log: {Counter: 1, Tip: [16]byte{1}}, {1}: {Counter: 1 << 60},
	}}))
	must(t, a.Acked(t.Context(), b.Device(), session.Ack{Scope: trust.ScopeID{9}, Stored: chunk.Vector{log: {Counter: 1}}}))
	if s := a.Status(); s.NotElsewhere != 1 {
		t.Fatalf("status %+v", s)
	}
	must(t, a.FlushAcks(t.Context()))
	n := 0
	must(t, a.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Ack.All(), nil, func(_, _ []byte) error { n++; return nil })
	}))
	if n != 0 {
		t.Fatalf("%d made-up acknowledgements were stored", n)
	}
}

// TestAuthorshipOfAnotherChange signs the word on a change that the chunk does not hold.
func TestAuthorshipOfAnotherChange(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	doc := f.Document("section", "eve", "core")
	raw := f.Change(doc, hostile.Resource("Basic/x")...)
	a.take(f.device, f.Seal(&chunk.Changes{
		Document: doc, Schema: fhir.Schema, TimeMillis: 1, Author: "forger", Origin: chunk.OriginEdit,
		Changes: []chunk.Change{{Raw: raw}}, Authorship: []chunk.Authorship{{Seq: 1, Newest: [32]byte{1}}},
	}))
	if s := a.Status(); s.Quarantined != 1 || s.Resources != 0 {
		t.Fatalf("status %+v", s)
	}
}

// TestThousandsOfValuesInOnePlace are one conflict, which is listed and decided like another.
func TestThousandsOfValuesInOnePlace(t *testing.T) {
	const values = 4200 // more than any honest field ever has
	p := practice(t, "surgery", "branch", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	sync(t, a, b)
	doc := f.Document("crowd")
	a.take(f.device, f.SealRaw(doc, hostile.CrowdChange(crdt.Actor(chunk.ActorOf(chunk.CurrentLog(f.keys), doc, 0)), values)))
	list := a.conflicts()
	if len(list) != 1 || len(list[0].Values) != values {
		t.Fatalf("%d conflicts", len(list))
	}
	if !strings.Contains(a.export(), `"gender":"4199"`) {
		t.Error("the last value is not shown")
	}
	first := 0
	_, err := a.Resolve(t.Context(), "user", list[0].ID, api.Decision{Choose: &first})
	must(t, err)
	if len(a.conflicts()) != 0 || !strings.Contains(a.export(), `"gender":"0000"`) {
		t.Fatal("it is not decided")
	}
	sync(t, a, b)
	alike(t, a, b)
}

// TestTimesBeyondJSON: an author may claim any time, and what is shown of it can be said.
func TestTimesBeyondJSON(t *testing.T) {
	p := practice(t, "surgery", "forger")
	a, f := p[0], forge(p[1])
	for i, millis := range []int64{math.MaxInt64, math.MinInt64} {
		doc := f.Document("times", fmt.Sprint(i))
		body := f.ChangesOf(doc, hostile.CrowdChange(crdt.Actor(chunk.ActorOf(chunk.CurrentLog(f.keys), doc, 0)), 2))
		body.TimeMillis = millis
		a.take(f.device, f.Seal(body))
	}
	bad := f.ChangesOf(f.Document("bad"), []byte("no change"))
	bad.TimeMillis = math.MaxInt64
	a.take(f.device, f.Seal(bad))
	history, err := a.History(t.Context(), parseRef(t, "Patient/crowd"))
	must(t, err)
	held := a.heldList(false)
	detail, err := a.ShowHeld(t.Context(), held[0].Chunk)
	must(t, err)
	for name, v := range map[string]any{"history": history, "conflicts": a.conflicts(), "held": held, "shown": detail} {
		b, err := json.Marshal(v)
		if err != nil || len(b) < 100 {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
}
