package replica

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
	"chartmesh/wire"
)

// valueForms read a stored value and write it again, in the order of docs/spec/replica-values.md. The number of a form is
// the first byte of FuzzValues' input.
var valueForms = []struct {
	name    string
	sample  func(t testing.TB) []byte
	reforms func(b []byte) ([]byte, error)
}{
	{"applied change", sampleApplied, func(b []byte) ([]byte, error) {
		a, err := parseAppliedChange(b)
		if err != nil {
			return nil, err
		}
		return a.marshal(), nil
	}},
	{"view", func(testing.TB) []byte {
		v := view{
			Heads: []crdt.ChangeHash{{1}, {2}}, Imports: []crdt.ChangeHash{{1}}, UpdatedMillis: 1790000000000,
			Last: lastEdit{Device: trust.DeviceID{3}, Author: fuzzing.Canary, TimeMillis: -1},
			JSON: []byte(`{"resourceType":"Patient","id":"` + fuzzing.Canary + `"}`),
			Conflicts: []openConflict{{ID: [16]byte{4}, Path: "name[0]", Shown: 1, Sides: []conflictSide{
				{Removed: true}, {JSON: []byte(`"` + fuzzing.Canary + `"`), Author: "Dr. Adler", TimeMillis: 5},
			}}, {ID: [16]byte{5}}},
		}
		return v.marshal()
	}, func(b []byte) ([]byte, error) {
		v, err := parseView(b)
		if err != nil {
			return nil, err
		}
		return v.marshal(), nil
	}},
	{"counts", func(testing.TB) []byte { return counts{1, 2, 300, 4, 5, 1 << 60}.marshal() }, func(b []byte) ([]byte, error) {
		c, err := parseCounts(b)
		return c.marshal(), err
	}},
	{"held", func(testing.TB) []byte {
		h := held{State: Parked, Reason: "it builds on a change that has not arrived", Missing: missing{missingChange, [32]byte{1}},
			Class: classWaits, Decided: chunk.VerdictDiscard, Kind: chunk.KindChanges, About: "Patient/" + fuzzing.Canary, WrittenMillis: -1,
			HeldMillis: 1790000000000, Tries: 300, NextMillis: 5, Build: "1.0"}
		return h.marshal()
	}, func(b []byte) ([]byte, error) {
		h, err := parseHeld(b)
		if err == nil && b[0] == 1 {
			return b, nil // an earlier build's, which is not written any more
		}
		return h.marshal(), err
	}},
	{"decision", func(testing.TB) []byte {
		d := decisionRecord{Verdict: chunk.VerdictRelease, Replaced: true, TimeMillis: -5, User: fuzzing.Canary, Reason: fuzzing.Canary}
		return d.marshal()
	}, func(b []byte) ([]byte, error) {
		d, err := parseDecisionRecord(b)
		return d.marshal(), err
	}},
	{"decided", func(testing.TB) []byte { return standing{Releases: 300, Discards: 1}.marshal() }, func(b []byte) ([]byte, error) {
		s, err := parseStanding(b)
		return s.marshal(), err
	}},
	{"epoch key", func(testing.TB) []byte {
		return saidKey{trust.EpochID{1}, make([]byte, trust.PreviousEpochSize)}.marshal()
	},
		func(b []byte) ([]byte, error) {
			k, err := parseSaidKey(b)
			return k.marshal(), err
		}},
	{"sets", func(testing.TB) []byte {
		var s chunk.SetHash
		s.Add([32]byte{1})
		return marshalSets(map[trust.ScopeID]chunk.SetHash{{1}: s, {2}: {}})
	}, func(b []byte) ([]byte, error) {
		s, err := parseSets(b)
		return marshalSets(s), err
	}},
	{"conflict place", func(testing.TB) []byte { return marshalConflictPlace(crdt.DocumentID{1}, "Patient/"+fuzzing.Canary) },
		func(b []byte) ([]byte, error) {
			doc, key, err := parseConflictPlace(b)
			return marshalConflictPlace(doc, key), err
		}},
	{"events", func(testing.TB) []byte {
		return marshalEvents([]Event{
			{Kind: "resource", Resource: "Patient/" + fuzzing.Canary, Version: "0a", Local: true, Time: time.UnixMilli(1790000000000)}, {Kind: "peer", Peer: "branch"},
		})
	}, func(b []byte) ([]byte, error) {
		events, err := parseEvents(1<<20, b)
		if err != nil {
			return nil, err
		}
		if last := events[len(events)-1].Cursor; last != 1<<20 {
			return nil, errors.New("the last event is not the record's")
		}
		return marshalEvents(events), nil
	}},
	{"saved form", func(testing.TB) []byte { return marshalSaved(7, []byte(fuzzing.Canary)) }, func(b []byte) ([]byte, error) {
		n, form, err := parseSaved(b)
		return marshalSaved(n, form), err
	}},
	{"erasure", func(testing.TB) []byte {
		return (&erasure{state: erasureAgreed, place: chunk.Place{Log: chunk.LogID{2}, Counter: 3, ID: chunk.ID{4}}, chunks: 300, reason: "r",
			by: agreement{user: "u", timeMillis: -5}, assent: agreement{user: fuzzing.Canary}, rooted: true, before: 7, keys: []string{"Patient/p"}}).marshal()
	}, func(b []byte) ([]byte, error) {
		e, err := parseErasure(crdt.DocumentID{}, b)
		return e.marshal(), err
	}},
	{"checkpoint", func(testing.TB) []byte {
		return checkpoint{scope: trust.ScopeID{1}, place: chunk.Place{Log: chunk.LogID{2}, Counter: 3, ID: chunk.ID{4}},
			device: trust.DeviceID{5}, state: checkpointOpen, changes: 600}.marshal()
	}, func(b []byte) ([]byte, error) {
		c, err := parseCheckpointRecord(crdt.DocumentID{}, b)
		return c.marshal(), err
	}},
	{"tail", func(testing.TB) []byte { return tail{scope: trust.ScopeID{1}, changes: 300, lastMillis: -7}.marshal() }, func(b []byte) ([]byte, error) {
		x, err := parseTail(b)
		return x.marshal(), err
	}},
	{"decision", func(testing.TB) []byte {
		d := decisionRecord{Verdict: chunk.VerdictRelease, Replaced: true, Device: trust.DeviceID{1}, TimeMillis: -3, User: "Dr. Adler", Reason: fuzzing.Canary}
		return d.marshal()
	}, func(b []byte) ([]byte, error) {
		d, err := parseDecisionRecord(b)
		return d.marshal(), err
	}},
	{"lost change", func(testing.TB) []byte {
		l := lost{why: 1, done: true, device: trust.DeviceID{7}}
		l.place.Counter = 9
		return l.marshal()
	}, func(b []byte) ([]byte, error) {
		l, err := parseLost(b)
		return l.marshal(), err
	}},
	{"own logs", func(testing.TB) []byte {
		return marshalOwnLogs([]OwnLog{{ID: chunk.LogID{1}, Reason: 1}, {ID: chunk.LogID{2}, Began: time.UnixMilli(1790000000000)}})
	}, func(b []byte) ([]byte, error) {
		list, err := parseOwnLogs(b)
		return marshalOwnLogs(list), err
	}},
	{"saving", func(testing.TB) []byte {
		return marshalShown([]shownOnce{{base: []crdt.ChangeHash{{1}}, heads: []crdt.ChangeHash{{2}, {3}}, json: []byte(`{"id":"` + fuzzing.Canary + `"}`)},
			{scope: trust.ScopeID{4}, doc: crdt.DocumentID{4}}})
	}, func(b []byte) ([]byte, error) {
		list, err := parseShown(b)
		if bytes.HasPrefix(b, []byte("{")) { // as it was before it had a version
			return list[0].json, err
		}
		return marshalShown(list), err
	}},
	{"term", func(testing.TB) []byte { return marshalTerm("berg anna") }, func(b []byte) ([]byte, error) {
		name, err := parseTerm(b)
		if len(b) == 0 { // as older versions wrote it
			return nil, err
		}
		return marshalTerm(name), err
	}},
	{"stated", func(testing.TB) []byte {
		a := stated{at: chunk.Position{Counter: 300, Tip: [16]byte{1}}, had: 400, readable: 299, tree: [32]byte{7}, applied: true}
		return a.marshal()
	}, func(b []byte) ([]byte, error) {
		a, err := parseStated(b)
		if err == nil && b[0] == 1 {
			return b, nil // an earlier build's, which is not written any more
		}
		return a.marshal(), err
	}},
	{"statement", func(testing.TB) []byte {
		s := statement{stored: time.UnixMilli(1790000000000), lost: Lost{Seen: time.UnixMilli(-5)}}
		return s.marshal()
	}, func(b []byte) ([]byte, error) {
		s, err := parseStatement(b)
		return s.marshal(), err
	}},
	{"change under a lease", func(t testing.TB) []byte {
		a, err := parseAppliedChange(sampleApplied(t))
		if err != nil {
			t.Fatal(err)
		}
		a.Fence, a.Replaces = chunk.Fence{Epoch: 1, Index: 300}, crdt.ChangeHash{4}
		return a.marshal()
	}, func(b []byte) ([]byte, error) {
		a, err := parseAppliedChange(b)
		if err != nil {
			return nil, err
		}
		return a.marshal(), nil
	}},
	{"overlay", func(testing.TB) []byte {
		return overlay{chunk.Fence{Epoch: 1, Index: 300}, []string{"Invoice/" + fuzzing.Canary, "Invoice/2"}}.marshal()
	}, func(b []byte) ([]byte, error) {
		o, err := parseOverlay(b)
		return o.marshal(), err
	}},
	{"drafts", func(testing.TB) []byte {
		return marshalDrafts([]draft{{"Invoice/" + fuzzing.Canary, trust.ScopeID{1}, crdt.DocumentID{2}, []crdt.ChangeHash{{3}, {4}}}, {key: "Invoice/2"}})
	}, func(b []byte) ([]byte, error) {
		list, err := parseDrafts(b)
		return marshalDrafts(list), err
	}},
	{"certificate", func(testing.TB) []byte {
		s := certificate.Statement{Place: lockquorum.Place{Epoch: 1, Index: 9}, Token: lockquorum.Token{Epoch: 1, Index: 5},
			Heads: lockquorum.Heads{1}, Under: lockquorum.Token{Epoch: 1, Index: 5}, At: lockquorum.Place{Epoch: 1, Index: 7}}
		c := certified{raw: s.Marshal(), voter: trust.DeviceID{6}, device: trust.DeviceID{7}}
		c.place.Counter, c.Plain = 9, []certificate.Hash{{8}}
		return c.marshal()
	}, func(b []byte) ([]byte, error) {
		c, err := parseCertified(b)
		if err != nil {
			return nil, err
		}
		return c.marshal(), nil
	}},
	{"counter", func(testing.TB) []byte { return marshalCounter(1 << 50) }, func(b []byte) ([]byte, error) {
		r := open(b)
		n := r.Uvarint(1<<64 - 1)
		return marshalCounter(n), r.Close()
	}},
}

func sampleApplied(t testing.TB) []byte {
	// The record of a change whose one operation makes Patient/1.
	var w wire.Writer
	w.Byte(1)               // version
	w.Raw(make([]byte, 32)) // hash
	w.Uvarint(0)            // dependencies
	w.Raw(make([]byte, 16)) // actor
	w.Uvarint(1)            // its sequence number
	w.Uvarint(1)            // first operation
	w.Uvarint(1)            // operations
	w.Uvarint(0)            // other actors
	w.Uvarint(1)            // keys
	w.Uvarint(uint64(len("Patient")) + 1)
	w.Raw([]byte("Patient"))
	w.Uvarint(2 * 1)
	w.Raw([]byte("1"))
	w.Uvarint(0) // names
	w.Uvarint(1) // objects that were not made here
	w.Uvarint(0) // the root
	w.Varint(0)  // rows in the root
	w.Uvarint(0) // one
	w.Uvarint(1) // makes a map under the first key
	rec, err := crdt.ParseRecord(w.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	a := appliedChange{
		Record: rec, Chunk: logs.Ref{Scope: trust.ScopeID{1}, Log: chunk.LogID{2}, Counter: 300}, Device: trust.DeviceID{3}, Schema: 1,
		TimeMillis: -5, Author: fuzzing.Canary, Origin: chunk.OriginImport, ArrivedMillis: 1790000000000,
	}
	return a.marshal()
}

// FuzzValues reads what a device keeps for itself. The store's tag says that a value is as it was written, so that these
// decoders meet damage only where somebody has the store's key; they keep to the rules of the others all the same.
func FuzzValues(f *testing.F) {
	var samples [][]byte
	for i, form := range valueForms {
		b := form.sample(f)
		if again, err := form.reforms(b); err != nil || !bytes.Equal(again, b) {
			f.Fatalf("sample of %s: %x is read as %x: %v", form.name, b, again, err)
		}
		samples = append(samples, append([]byte{byte(i)}, b...))
		f.Add(samples[i])
		// Lengths at their caps with nothing behind.
		f.Add(binary.AppendUvarint([]byte{byte(i), recordVersion}, maxHashes))
	}
	fuzzing.Bent(f, samples)
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || int(b[0]) >= len(valueForms) {
			return
		}
		form, b := valueForms[b[0]], b[1:]
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 300, 128<<10, func() { again, err = form.reforms(b) })
		fuzzing.Quiet(t, err)
		switch {
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Errorf("%s %x: %v", form.name, b, err)
		case err == nil && !bytes.Equal(again, b):
			t.Errorf("%s %x comes back as %x", form.name, b, again)
		}
	})
}

// A document has fewer changes than a checkpoint packed once where some have lost their place. Builds before noted a tail of fewer than
// none then, and read it no more.
func TestTailOfShrunkDocument(t *testing.T) {
	r := &Replica{compaction: Compaction{}.orDefault()}
	tx := &transaction{r: r, tails: map[crdt.DocumentID]*tail{}}
	tx.noteTail(&document{packed: 3, changes: make([]changeMeta, 1)})
	if len(tx.tails) != 0 {
		t.Error("a tail was noted")
	}
	below := tail{changes: 1<<64 - 2, lastMillis: 7}
	if got, err := parseTail(below.marshal()); err != nil || got != below {
		t.Errorf("%+v, %v", got, err)
	}
}
