package replica_test

import (
	"testing"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
)

// waiting compacts, and returns how many checkpoints wait for words.
func (d *device) waiting() int {
	d.t.Helper()
	c, err := d.Compact(d.t.Context(), false)
	must(d.t, err)
	return c.Waiting
}

// checkpointOf packs all chunks of a device's log of a document as an honest device would.
func checkpointOf(t *testing.T, d *device, scope trust.ScopeID, doc crdt.DocumentID) *chunk.Checkpoint {
	t.Helper()
	log := chunk.CurrentLog(d.keys)
	c := &chunk.Checkpoint{Document: doc, Others: []chunk.Spot{}}
	must(t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.With2(scope, log), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(append([]byte(nil), value...))
			must(t, err)
			opened, err := chunk.Open(d.keys, sealed)
			must(t, err)
			body := opened.(*chunk.Changes)
			c.Logs = []chunk.LogKey{sealed.LogKey()}
			c.Parts = append(c.Parts, chunk.PartOf(body, 0, sealed.Header().Counter))
			c.Covers = chunk.Runs{{Log: log, From: 1, To: sealed.Header().Counter, Last: sealed.ID()}}
			c.Authorship = []chunk.Word{{Log: 0, Authorship: body.Authorship[0]}}
			return nil
		})
	}))
	return c
}

// TestBadCheckpoints has a member make checkpoints that are not what they claim. Nothing is deleted for them, everybody
// shows the same, and everybody who can tell says so.
func TestBadCheckpoints(t *testing.T) {
	for name, c := range map[string]struct {
		bend    func(*chunk.Checkpoint)
		refused bool // by a bad word; else the chunk is quarantined, or nobody gives a word
	}{
		"another time":   {func(c *chunk.Checkpoint) { c.Parts[2].TimeMillis++ }, true},
		"another author": {func(c *chunk.Checkpoint) { c.Parts[2].Author = "somebody" }, true},
		"another place": {func(c *chunk.Checkpoint) {
			c.Parts[1].Counter, c.Parts[2].Counter = c.Parts[2].Counter, c.Parts[1].Counter
		}, true},
		"another history": {func(c *chunk.Checkpoint) { c.Covers[0].Last[0] ^= 1 }, true},
		"the last change left out": {func(c *chunk.Checkpoint) {
			c.Parts[len(c.Parts)-1].Changes = c.Parts[0].Changes
			c.Authorship[0].Seq--
		}, false},
		"a change left out": {func(c *chunk.Checkpoint) { c.Parts[1].Changes = c.Parts[0].Changes }, true},
		"a change bent":     {func(c *chunk.Checkpoint) { c.Parts[1].Changes[0].Raw[20] ^= 1 }, false},
		"an actor that is not its author's": {func(c *chunk.Checkpoint) {
			for i := range c.Parts {
				c.Parts[i].Changes[0].Branch = 1
			}
			c.Authorship[0].Branch = 1
		}, false},
		"a newer version": {func(c *chunk.Checkpoint) { c.Parts[0].Schema = fhir.Schema + 1 }, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := practice(t, "A", "B", "forger")
			a, b := p[0], p[1]
			a.put(compactPatient, false)
			a.editMany(0, 5)
			sync(t, a, b)
			sync(t, a, p[2])
			want := a.export()
			f := forge(p[2])
			doc := f.document("section", "p1", "core")
			body := checkpointOf(t, a, f.scope, doc)
			c.bend(body)
			bad := f.seal(body)
			for _, d := range []*device{a, b} {
				d.take(f.device, bad)
			}
			words := a.compact().Words + b.compact().Words
			sync(t, a, b)
			deleted := a.compact().Deleted + b.compact().Deleted
			if deleted != 0 {
				t.Fatalf("%d chunks were deleted", deleted)
			}
			if c.refused && (words != 2 || a.waiting()+b.waiting() != 0) {
				t.Errorf("%d words, %d and %d wait", words, a.waiting(), b.waiting())
			}
			if held, _ := a.Held(10); !c.refused && (len(held) != 1 || words != 0) {
				t.Errorf("held %+v, %d words", held, words)
			}
			sync(t, a, b)
			alike(t, a, b)
			if a.export() != want {
				t.Error("another export")
			}
			a.crash()
			if a.export() != want {
				t.Error("another export after a restart")
			}
		})
	}
}

// TestBadSkips sends skips that no checkpoint bears out: no log goes on over them.
func TestBadSkips(t *testing.T) {
	p := practice(t, "A", "forger", "B")
	a, b := p[0], p[2]
	a.put(compactPatient, false)
	a.editMany(0, 5)
	sync(t, a, p[1])
	sync(t, a, b) // before it holds anything of the forger's
	fresh := admit(t, a, "fresh")
	f := forge(p[1])
	body := checkpointOf(t, a, f.scope, f.document("section", "p1", "core"))
	body.Covers[0].To, body.Parts = 4, body.Parts[:4]
	var fourth []byte
	must(t, a.twin.View(func(v storage.Reader) (err error) {
		fourth, err = v.Get(storage.Chunk.Key(f.scope, body.Covers[0].Log, 4))
		return err
	}))
	last, err := chunk.Parse(fourth)
	must(t, err)
	body.Covers[0].Last = last.ID()
	opened, err := chunk.Open(a.keys, last)
	must(t, err)
	body.Authorship[0].Authorship = opened.(*chunk.Changes).Authorship[0]
	raw := f.seal(body)
	checkpoint, err := chunk.Parse(raw)
	must(t, err)
	good := chunk.Skip{Scope: f.scope, Run: body.Covers[0], Checkpoint: checkpoint.Place()}
	bytes := func(s chunk.Skip) []byte { b, _ := s.AppendBinary(nil); return b }
	at := func() uint64 { return fresh.Vector(f.scope)[good.Log].Counter }

	fresh.take(f.device, bytes(good)) // its checkpoint is not here
	if at() != 0 {
		t.Fatal("a log goes on over a skip without a checkpoint")
	}
	for name, bend := range map[string]func(*chunk.Skip){
		"too far":            func(s *chunk.Skip) { s.To = 5 },
		"another last":       func(s *chunk.Skip) { s.Last[0] ^= 1 },
		"another log":        func(s *chunk.Skip) { s.Log[0] ^= 1 },
		"a gap":              func(s *chunk.Skip) { s.From = 2 },
		"part of a run":      func(s *chunk.Skip) { s.To = 3 },
		"an unknown scope":   func(s *chunk.Skip) { s.Scope[0] ^= 1 },
		"another checkpoint": func(s *chunk.Skip) { s.Checkpoint.ID[0] ^= 1 },
	} {
		s := good
		bend(&s)
		fresh.take(f.device, raw, bytes(s))
		if at() != 0 {
			t.Fatalf("%s: the log goes on to %d", name, at())
		}
	}
	fresh.take(f.device, bytes(good)) // its checkpoint has come loose by now, or in its turn
	if at() != 4 || fresh.Status().Resources != 1 {
		t.Fatalf("a good skip is not taken: %d, %+v", at(), fresh.Status())
	}
	fresh.crash()
	// What the checkpoint left out comes as a chunk, and nobody has a reason to delete anything.
	if status, _ := sync(t, a, fresh); !status.InSync || fresh.export() != a.export() {
		t.Error("they do not agree")
	}
	if err := fresh.Arrive(t.Context(), f.Device(), [][]byte{append(bytes(good), 0)}); err == nil {
		t.Error("a malformed skip is taken")
	}
}
