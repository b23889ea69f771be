package replica_test

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
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
	var tips []chunk.Tip
	must(t, d.twin.View(func(v storage.Reader) error {
		return v.Scan(storage.Chunk.With2(scope, log), nil, func(_, value []byte) error {
			sealed, err := chunk.Parse(append([]byte(nil), value...))
			must(t, err)
			opened, err := chunk.Open(d.keys, sealed)
			must(t, err)
			body := opened.(*chunk.Changes)
			c.Logs = []chunk.LogKey{sealed.LogKey()}
			c.Parts = append(c.Parts, chunk.PartOf(body, 0, sealed.Header().Counter))
			tips = append(tips, chunk.At(sealed.Header().Counter-1, sealed.Header().Previous).Tip)
			c.Covers = chunk.Covers{{Run: chunk.Run{Log: log, From: 1, To: sealed.Header().Counter, Last: sealed.ID()}, Tips: tips}}
			c.Authorship = []chunk.Word{{Log: 0, Authorship: body.Authorship[0]}}
			return nil
		})
	}))
	return c
}

// TestBadCheckpoints has a member make checkpoints that are not what they claim. Nothing is deleted for them, everybody
// shows the same, and everybody who can tell says so.
func TestBadCheckpoints(t *testing.T) {
	const (
		refused = 'r' // by bad words
		held    = 'h' // quarantined, or for a later version
		waits   = 'w' // for a word that nobody gives
	)
	for name, c := range map[string]struct {
		bend    func(*chunk.Checkpoint)
		outcome byte
	}{
		"another time":   {func(c *chunk.Checkpoint) { c.Parts[2].TimeMillis++ }, refused},
		"another author": {func(c *chunk.Checkpoint) { c.Parts[2].Author = "somebody" }, refused},
		"another place": {func(c *chunk.Checkpoint) {
			c.Parts[1].Counter, c.Parts[2].Counter = c.Parts[2].Counter, c.Parts[1].Counter
		}, refused},
		"another history":      {func(c *chunk.Checkpoint) { c.Covers[0].Last[0] ^= 1 }, waits},
		"another chunk within": {func(c *chunk.Checkpoint) { c.Covers[0].Tips[2][0] ^= 1 }, waits},
		"the last change left out": {func(c *chunk.Checkpoint) {
			c.Parts[len(c.Parts)-1].Changes = c.Parts[0].Changes
			c.Authorship[0].Seq--
		}, held},
		"a change left out": {func(c *chunk.Checkpoint) { c.Parts[1].Changes = c.Parts[0].Changes }, refused},
		"a change bent":     {func(c *chunk.Checkpoint) { c.Parts[1].Changes[0].Raw[20] ^= 1 }, held},
		"an actor that is not its author's": {func(c *chunk.Checkpoint) {
			for i := range c.Parts {
				c.Parts[i].Changes[0].Branch = 1
			}
			c.Authorship[0].Branch = 1
		}, held},
		"a newer version": {func(c *chunk.Checkpoint) { c.Parts[0].Schema = fhir.Schema + 1 }, held},
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
			doc := f.Document("section", "p1", "core")
			body := checkpointOf(t, a, f.Scope, doc)
			c.bend(body)
			bad := f.Seal(body)
			for _, d := range []*device{a, b} {
				d.take(f.device, bad)
			}
			words := a.compact().Words + b.compact().Words
			sync(t, a, b)
			deleted := a.compact().Deleted + b.compact().Deleted
			if deleted != 0 {
				t.Fatalf("%d chunks were deleted", deleted)
			}
			if c.outcome == refused && (words != 2 || a.waiting()+b.waiting() != 0) {
				t.Errorf("%d words, %d and %d wait", words, a.waiting(), b.waiting())
			}
			if list, _ := a.Held(10); c.outcome == held && (len(list) != 1 || words != 0) {
				t.Errorf("held %+v, %d words", list, words)
			}
			if c.outcome == waits && (words != 0 || a.waiting() != 1 || b.waiting() != 1) {
				t.Errorf("%d words, %d and %d wait", words, a.waiting(), b.waiting())
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

// word seals a device's word on a checkpoint of a document.
func (f *forger) word(doc crdt.DocumentID, on chunk.Place, good bool) chunk.Sealed {
	f.t.Helper()
	sealed, err := chunk.Parse(f.Seal(&chunk.Cover{Document: doc, Checkpoint: on, OK: good}))
	must(f.t, err)
	return sealed
}

func skipBytes(s chunk.Skip) []byte {
	b, _ := s.AppendBinary(nil)
	return b
}

// TestBadSkips sends skips that no checkpoint bears out, or no word of the device whose log they leave out: no log goes on
// over them.
func TestBadSkips(t *testing.T) {
	p := practice(t, "A", "forger", "B")
	a, b := p[0], p[2]
	a.put(compactPatient, false)
	a.editMany(0, 5)
	sync(t, a, p[1])
	sync(t, a, b) // before it holds anything of the forger's
	fresh := admit(t, a, "fresh")
	f := forge(p[1])
	doc := f.Document("section", "p1", "core")
	body := checkpointOf(t, a, f.Scope, doc)
	body.Covers[0].To, body.Covers[0].Tips, body.Parts = 4, body.Covers[0].Tips[:4], body.Parts[:4]
	var fourth, head []byte
	must(t, a.twin.View(func(v storage.Reader) (err error) {
		log := body.Covers[0].Log
		if fourth, err = v.Get(storage.Chunk.Key(f.Scope, log, 4)); err == nil {
			head, err = v.Get(storage.Chunk.Key(f.Scope, log, 6))
		}
		return err
	}))
	last, err := chunk.Parse(fourth)
	must(t, err)
	body.Covers[0].Last = last.ID()
	opened, err := chunk.Open(a.keys, last)
	must(t, err)
	body.Authorship[0].Authorship = opened.(*chunk.Changes).Authorship[0]
	raw, other := f.Seal(body), f.Seal(body)
	checkpoint, err := chunk.Parse(raw)
	must(t, err)
	twin, err := chunk.Parse(other)
	must(t, err)
	// A's words, after what it has written, and words of others.
	end, err := chunk.Parse(head)
	must(t, err)
	af, bf := forge(a), forge(b)
	af.Counter, af.Last = 6, end.ID()
	word := af.word(doc, checkpoint.Place(), true)
	bad, elsewhere := af.word(doc, checkpoint.Place(), false), af.word(doc, twin.Place(), true)
	foreign, own := bf.word(doc, checkpoint.Place(), true), f.word(doc, checkpoint.Place(), true)
	good := chunk.Skip{Scope: f.Scope, Key: body.Logs[0], Run: body.Covers[0].Run, Checkpoint: checkpoint.Place(), Word: word.Place()}
	at := func() uint64 { return fresh.Vector(f.Scope)[good.Log].Counter }

	fresh.take(f.device, skipBytes(good)) // its checkpoint is not here
	if at() != 0 {
		t.Fatal("a log goes on over a skip without a checkpoint")
	}
	fresh.take(f.device, raw, other, skipBytes(good)) // its word is not here
	if at() != 0 {
		t.Fatal("a log goes on over a skip without a word")
	}
	proofs := [][]byte{raw, word.Bytes(), bad.Bytes(), elsewhere.Bytes(), foreign.Bytes(), own.Bytes()}
	for name, bend := range map[string]func(*chunk.Skip){
		"too far":                     func(s *chunk.Skip) { s.To = 5 },
		"another last":                func(s *chunk.Skip) { s.Last[0] ^= 1 },
		"another log":                 func(s *chunk.Skip) { s.Key.Nonce[0] ^= 1 },
		"another device's log":        func(s *chunk.Skip) { s.Key.Device[0] ^= 1 },
		"the forger's log":            func(s *chunk.Skip) { s.Key.Device, s.Word = f.Device(), chunk.Place{} },
		"a gap":                       func(s *chunk.Skip) { s.From = 2 },
		"part of a run":               func(s *chunk.Skip) { s.To = 3 },
		"an unknown scope":            func(s *chunk.Skip) { s.Scope[0] ^= 1 },
		"another checkpoint":          func(s *chunk.Skip) { s.Checkpoint.ID[0] ^= 1 },
		"no word":                     func(s *chunk.Skip) { s.Word = chunk.Place{} },
		"a bad word":                  func(s *chunk.Skip) { s.Word = bad.Place() },
		"a word on another":           func(s *chunk.Skip) { s.Word = elsewhere.Place() },
		"another's word":              func(s *chunk.Skip) { s.Word = foreign.Place() },
		"its maker's word":            func(s *chunk.Skip) { s.Word = own.Place() },
		"the checkpoint as a word":    func(s *chunk.Skip) { s.Word = s.Checkpoint },
		"a forged place of the word":  func(s *chunk.Skip) { s.Word.Counter++ },
		"a forged log of the word":    func(s *chunk.Skip) { s.Word.Log = foreign.Log() },
		"a forged checkpoint's place": func(s *chunk.Skip) { s.Checkpoint.Counter++ },
		"another word's ID":           func(s *chunk.Skip) { s.Word.ID = bad.ID() },
	} {
		s := good
		bend(&s)
		fresh.take(f.device, append(proofs, skipBytes(s))...)
		fresh.take(f.device, skipBytes(s)) // and with what it names stored already
		if v := fresh.Vector(f.Scope); v[good.Log].Counter != 0 {
			t.Fatalf("%s: the log goes on to %d", name, at())
		}
	}
	fresh.crash()                         // what came loose is durable
	fresh.take(f.device, skipBytes(good)) // its checkpoint and word have come loose by now, or in their turn
	if at() != 4 || fresh.Status().Resources != 1 {
		t.Fatalf("a good skip is not taken: %d, %+v", at(), fresh.Status())
	}
	fresh.crash()
	if at() != 4 {
		t.Fatal("it is not durable")
	}
	// Whoever took it can pass it on, with what it rests on.
	items, err := fresh.Chunks(f.Scope, good.Log, 0, 1<<20)
	must(t, err)
	if len(items) != 3 || !items[0].Loose || !items[1].Loose || !items[2].Skip || string(items[1].Bytes) != string(word.Bytes()) ||
		string(items[2].Bytes) != string(skipBytes(good)) {
		t.Fatalf("it passes on %d items", len(items))
	}
	if err := fresh.Arrive(t.Context(), f.Device(), [][]byte{append(skipBytes(good), 0)}); err == nil {
		t.Error("a malformed skip is taken")
	}
}

// TestOldWord sends a skip with a checkpoint and word that are skipped by now themselves, to a device that holds what stands for
// them and has not come to the word on it: the log goes on. What is loose and past goes at the next start.
func TestOldWord(t *testing.T) {
	p := practice(t, "A", "packer", "B")
	a := p[0]
	a.put(compactPatient, false)
	a.editMany(0, 3)
	sync(t, a, p[1])
	sync(t, a, p[2])
	fresh := admit(t, a, "fresh")
	f := forge(p[1])
	doc := f.Document("section", "p1", "core")
	body := checkpointOf(t, a, f.Scope, doc)
	old := body.Covers[0]
	must(t, a.keys.MintLog())
	af := forge(a)
	parse := func(b []byte) chunk.Sealed {
		sealed, err := chunk.Parse(b)
		must(t, err)
		return sealed
	}
	first := parse(f.Seal(body))
	word := af.word(doc, first.Place(), true)
	keys := []chunk.LogKey{body.Logs[0], first.LogKey(), word.LogKey()}
	slices.SortFunc(keys, func(a, b chunk.LogKey) int {
		return cmp.Or(bytes.Compare(a.Device[:], b.Device[:]), bytes.Compare(a.Nonce[:], b.Nonce[:]))
	})
	next := *body
	next.Logs = keys
	next.Parts, next.Authorship = slices.Clone(body.Parts), slices.Clone(body.Authorship)
	was := slices.Index(keys, body.Logs[0])
	for i := range next.Parts {
		next.Parts[i].Log = was
	}
	for i := range next.Authorship {
		next.Authorship[i].Log = was
	}
	next.Covers = chunk.Covers{old}
	for _, other := range []chunk.Sealed{first, word} {
		next.Others = append(next.Others, chunk.Spot{Log: slices.Index(keys, other.LogKey()), Counter: 1})
		next.Covers = append(next.Covers, chunk.Covered{Run: chunk.Run{Log: other.Log(), From: 1, To: 1, Last: other.ID()}, Tips: make([]chunk.Tip, 1)})
	}
	slices.SortFunc(next.Others, func(a, b chunk.Spot) int { return cmp.Compare(a.Log, b.Log) })
	slices.SortFunc(next.Covers, func(a, b chunk.Covered) int { return a.Log.Compare(b.Log) })
	second := parse(f.Seal(&next))
	newer := af.word(doc, second.Place(), true)
	over := func(s chunk.Sealed, run chunk.Run, on, word chunk.Place) []byte {
		return skipBytes(chunk.Skip{Scope: f.Scope, Key: s.LogKey(), Run: run, Checkpoint: on, Word: word})
	}
	at := func(log chunk.LogID) uint64 { return fresh.Vector(f.Scope)[log].Counter }

	one := func(s chunk.Sealed) chunk.Run { return chunk.Run{Log: s.Log(), From: 1, To: 1, Last: s.ID()} }
	fresh.take(f.device, second.Bytes(), over(first, one(first), second.Place(), chunk.Place{}))
	fresh.take(f.device, second.Bytes(), newer.Bytes(), over(word, one(word), second.Place(), newer.Place()))
	if at(first.Log()) != 2 || at(word.Log()) != 1 {
		t.Fatalf("the packer's log is at %d, that of words at %d", at(first.Log()), at(word.Log()))
	}
	fresh.take(f.device, skipBytes(chunk.Skip{Scope: f.Scope, Key: body.Logs[0], Run: old.Run, Checkpoint: first.Place(), Word: word.Place()}))
	if at(old.Log) != old.To {
		t.Errorf("the log stands at %d of %d", at(old.Log), old.To)
	}
	var b storage.Batch
	b.Put(storage.Loose.Key(f.Scope, first.Log(), 1, first.ID()), first.Bytes())
	must(t, fresh.twin.Commit(t.Context(), &b))
	fresh.crash()
	var left [][]byte
	for _, k := range keysOf(t, fresh.twin) {
		if k[0] == storage.Loose.Number() {
			left = append(left, k)
		}
	}
	if len(left) != 1 || !bytes.Equal(left[0], storage.Loose.Key(f.Scope, newer.Log(), 2, newer.ID())) {
		t.Errorf("loose are %x", left)
	}
	if _, err := fresh.Chunks(f.Scope, old.Log, 0, 1<<20); err != nil {
		t.Errorf("it cannot pass the log on: %v", err)
	}
}

// TestSkipOfOnesOwn has a device make a checkpoint of its own log: that is its word.
func TestSkipOfOnesOwn(t *testing.T) {
	p := practice(t, "A", "B")
	a, b := p[0], p[1]
	a.put(compactPatient, false)
	a.editMany(0, 5)
	af := forge(a)
	body := checkpointOf(t, a, af.Scope, af.Document("section", "p1", "core"))
	af.Counter, af.Last = body.Covers[0].To, body.Covers[0].Last
	raw := af.Seal(body)
	checkpoint, err := chunk.Parse(raw)
	must(t, err)
	skip := chunk.Skip{Scope: af.Scope, Key: body.Logs[0], Run: body.Covers[0].Run, Checkpoint: checkpoint.Place()}
	b.take(a, raw, skipBytes(skip))
	if got := b.Vector(af.Scope)[skip.Log].Counter; got != skip.To || b.Status().Resources != 1 {
		t.Errorf("the skip is not taken: %d, %+v", got, b.Status())
	}
}

// TestSkipBeyondALog has a member make a checkpoint that covers what another device has not written yet, and send the skip.
// Nobody says that it is held, and what that device writes later arrives.
func TestSkipBeyondALog(t *testing.T) {
	p := practice(t, "A", "B", "forger")
	a, b, f := p[0], p[1], forge(p[2])
	a.put(compactPatient, false)
	a.editMany(0, 5)
	sync(t, a, b)
	sync(t, a, p[2])
	doc := f.Document("section", "p1", "core")
	body := checkpointOf(t, a, f.Scope, doc)
	// One chunk after the last, packed as if it were a copy of the last.
	last := body.Covers[0].To
	more := body.Parts[len(body.Parts)-1]
	more.Counter = last + 1
	body.Parts = append(body.Parts, more)
	covers := &body.Covers[0]
	covers.Tips = append(covers.Tips, chunk.At(last, covers.Last).Tip)
	covers.To, covers.Last = last+1, chunk.ID{1, 2, 3}
	raw := f.Seal(body)
	checkpoint, err := chunk.Parse(raw)
	must(t, err)
	word := f.word(doc, checkpoint.Place(), true)
	skip := chunk.Skip{Scope: f.Scope, Key: body.Logs[0], Run: chunk.Run{From: last + 1, To: last + 1, Last: chunk.ID{1, 2, 3}},
		Checkpoint: checkpoint.Place()}
	for _, skip.Word = range []chunk.Place{{}, word.Place()} {
		b.take(f.device, raw, word.Bytes(), skipBytes(skip))
		if got := b.Vector(f.Scope)[skip.Key.ID()].Counter; got != last {
			t.Errorf("B says that it holds A's log up to %d; A has written %d", got, last)
		}
	}
	a.put(bernd, false)
	sync(t, a, b)
	if got := b.get("Patient/bernd"); !strings.Contains(got, "Kraus") {
		t.Errorf("what A wrote after does not arrive: %s", got)
	}
}

// TestForgedEnd: nobody finds a checkpoint good that names another last chunk of a run, of the same tip: whoever took the skip that it bears out would hold what the log's
// device writes next as another history.
func TestForgedEnd(t *testing.T) {
	p := practice(t, "A", "B", "forger")
	a, b := p[0], p[1]
	a.put(compactPatient, false)
	a.editMany(0, 5)
	sync(t, a, b)
	sync(t, a, p[2])
	f := forge(p[2])
	body := checkpointOf(t, a, f.Scope, f.Document("section", "p1", "core"))
	body.Covers[0].Last[31] ^= 1
	bad := f.Seal(body)
	checkpoint, err := chunk.Parse(bad)
	must(t, err)
	for _, d := range []*device{a, b} {
		d.take(f.device, bad)
		d.compact()
	}
	own := a.ownLog()
	word, err := chunk.Parse(own[len(own)-1])
	must(t, err)
	skip := chunk.Skip{Scope: f.Scope, Key: body.Logs[0], Run: body.Covers[0].Run, Checkpoint: checkpoint.Place(), Word: word.Place()}
	fresh := admit(t, a, "fresh")
	fresh.take(f.device, bad, own[len(own)-1], skipBytes(skip))
	a.put(`{"resourceType":"Patient","id":"bernd","name":[{"family":"Kraus"}]}`, false)
	sync(t, a, fresh)
	sync(t, a, fresh)
	if n := len(fresh.Forks(f.Scope)); n != 0 {
		t.Errorf("a newcomer holds %d logs with several histories", n)
	}
	if a.waiting()+b.waiting() != 0 {
		t.Errorf("%d and %d wait for a word", a.waiting(), b.waiting())
	}
	if got := fresh.export(); !strings.Contains(got, "Kraus") || got != a.export() {
		t.Errorf("a newcomer shows %s", got)
	}
}
