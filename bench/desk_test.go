package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/crdt/engine"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// desk is a device without a network: a store on disk, an engine in its process, and the replica over both.
type desk struct {
	*replica.Replica
	keys  *keyring.Keyring
	store *counted
	close func()
}

// counted counts what is committed.
type counted struct {
	storage.Store
	bytes, commits int
}

func (c *counted) Commit(ctx context.Context, b *storage.Batch) error {
	if b.Len() > 0 {
		c.bytes += b.Size()
		c.commits++
	}
	return c.Store.Commit(ctx, b)
}

// desks makes a practice of n devices.
func desks(b testing.TB, n int) (all []*desk) {
	b.Helper()
	keys, err := keyring.Create("", nil)
	must(b, err)
	e, _, err := keys.Found(keyring.FoundOptions{Practice: "Practice", Site: "surgery", Device: "surgery", Now: time.Now()})
	must(b, err)
	all = append(all, newDesk(b, keys, e))
	for range n - 1 {
		all = append(all, all[0].admit(b))
	}
	return all
}

// admit adds a device to the practice.
func (d *desk) admit(b testing.TB) *desk {
	b.Helper()
	keys, err := keyring.Create("", nil)
	must(b, err)
	raw, err := d.Admit(context.Background(), func(st *trust.State) (trust.Entry, error) {
		return d.keys.Admit(st, keyring.Newcomer{Device: keys.Device(), HPKE: keys.HPKEPublic(), Now: time.Now()})
	})
	must(b, err)
	var entries []trust.Entry
	for _, r := range raw {
		e, err := trust.ParseEntry(r)
		must(b, err)
		entries = append(entries, e)
	}
	return newDesk(b, keys, entries...)
}

// newDesk is a device that holds a membership log and nothing else.
func newDesk(b testing.TB, keys *keyring.Keyring, entries ...trust.Entry) *desk {
	b.Helper()
	s, err := storage.Open(filepath.Join(b.TempDir(), "records"), keys.StoreKey(), storage.Options{})
	must(b, err)
	d := &desk{keys: keys, store: &counted{Store: s}}
	d.close = sync.OnceFunc(func() { must(b, s.Close()) })
	b.Cleanup(func() { d.close() })
	must(b, replica.Adopt(context.Background(), d.store, entries))
	e, err := engine.Start(engine.Config{})
	must(b, err)
	d.close = sync.OnceFunc(func() { must(b, errors.Join(e.Close(), s.Close())) })
	d.Replica, err = replica.Open(replica.Config{Store: d.store, Keyring: keys, Engine: e})
	must(b, err)
	return d
}

// form saves a patient's form with another birth date than the last.
func (d *desk) form(b testing.TB, patient, n int) {
	b.Helper()
	ctx := context.Background()
	ref := api.Ref{Type: "Patient", ID: fmt.Sprintf("bench-%d", patient)}
	o := map[string]any{"resourceType": ref.Type, "id": ref.ID, "name": []any{map[string]any{"family": "Bench", "given": []any{"Anna", "Maria"}}}}
	if n > 0 {
		res, err := d.Get(ctx, ref, "")
		must(b, err)
		o = nil
		must(b, json.Unmarshal(res.JSON, &o))
	}
	o["birthDate"] = fmt.Sprintf("%04d-%02d-%02d", 1920+n/336%100, 1+n/28%12, 1+n%28)
	body, err := json.Marshal(o)
	must(b, err)
	_, err = d.Put(ctx, "Dr. Adler", body, false)
	must(b, err)
}

// clinical is the scope of patients.
func (d *desk) clinical(b testing.TB) trust.ScopeID {
	b.Helper()
	for _, s := range d.State().Scopes() {
		if s.Name == fhir.Clinical {
			return s.ID
		}
	}
	fatal(b, "there is no clinical scope")
	panic("unreachable")
}

const formPatients = 20

// BenchmarkEdit is a local edit: a form saved, from JSON to the durable commit. Its limit is a sync of what it commits.
func BenchmarkEdit(b *testing.B) {
	d := desks(b, 1)[0]
	for p := range formPatients {
		d.form(b, p, 0)
	}
	n := 0
	bytes, commits := d.store.bytes, d.store.commits
	for b.Loop() {
		d.form(b, n%formPatients, 1+n/formPatients)
		n++
	}
	if d.store.commits-commits != n {
		fatal(b, fmt.Sprintf("%d edits took %d commits", n, d.store.commits-commits))
	}
	size := (d.store.bytes - bytes) / n
	b.ReportMetric(float64(size), "committed-B/op")
	beside(b, fsynced(b, size))
}

// BenchmarkApply is what another's edit costs where it arrives: the chunk made durable, opened, judged, applied by the
// engine, and shown. Its limit is a sync of what each of the two commits holds.
func BenchmarkApply(b *testing.B) {
	all := desks(b, 2)
	author, reader := all[0], all[1]
	ctx := context.Background()
	scope, log := author.clinical(b), chunk.CurrentLog(author.keys)
	after := uint64(0)
	// next takes the author's newest chunk to the reader.
	next := func() {
		items, err := author.Chunks(scope, log, after, 1<<20)
		must(b, err)
		var chunks [][]byte
		for _, it := range items {
			chunks, after = append(chunks, it.Bytes), it.Counter
		}
		must(b, reader.Arrive(ctx, author.Device(), chunks))
		for more := true; more; {
			more, err = reader.Apply(ctx)
			must(b, err)
		}
	}
	for p := range formPatients {
		author.form(b, p, 0)
	}
	next()
	n := 0
	bytes, commits := reader.store.bytes, reader.store.commits
	for b.Loop() {
		b.StopTimer()
		author.form(b, n%formPatients, 1+n/formPatients)
		b.StartTimer()
		next()
		n++
	}
	if s := reader.Status(); !s.AtEnd || s.Resources != formPatients || s.Parked+s.Quarantined+s.Unapplied > 0 {
		fatal(b, fmt.Sprintf("the reader stands at %+v", s))
	}
	committed := reader.store.commits - commits
	each, size := (committed+n/2)/n, (reader.store.bytes-bytes)/committed
	b.ReportMetric(float64(reader.store.bytes-bytes)/float64(n), "committed-B/op")
	b.ReportMetric(float64(committed)/float64(n), "commits/op")
	beside(b, times(each, fsynced(b, size)))
}

// compactEdits is how many edits of one record are packed at a time.
var compactEdits = 200

// BenchmarkCompact packs the edits of a record into a checkpoint and deletes their chunks. Its limits are the chunks'
// bytes through the compressor, and a sync of what is committed.
func BenchmarkCompact(b *testing.B) {
	d := desks(b, 1)[0]
	ctx := context.Background()
	var before, after, bytes, rounds int64
	for b.Loop() {
		b.StopTimer()
		_, _, others, err := d.StoredChunks()
		must(b, err)
		for n := range compactEdits {
			d.form(b, int(rounds), n)
		}
		_, _, had, err := d.StoredChunks()
		must(b, err)
		committed := int64(d.store.bytes)
		b.StartTimer()
		c, err := d.Compact(ctx, true)
		b.StopTimer()
		must(b, err)
		if c.Checkpoints != 1 || c.Deleted < compactEdits-1 || c.Waiting != 0 {
			fatal(b, fmt.Sprintf("of %d edits it made %+v", compactEdits, c))
		}
		_, _, has, err := d.StoredChunks()
		must(b, err)
		before, after, bytes = before+had-others, after+has-others, bytes+int64(d.store.bytes)-committed
		rounds++
		b.StartTimer()
	}
	b.ReportMetric(float64(after)/float64(before), "after/before")
	b.ReportMetric(float64(after/rounds), "after-B")
	beside(b, compressed(b, record(b, int(before/rounds))), fsynced(b, int(bytes/rounds)))
}

// record is size bytes of patients' records, as an import has them.
func record(b testing.TB, size int) []byte {
	b.Helper()
	batches, _, _ := bundles(b, 1)
	var all []byte
	for _, r := range batches[0].Resources {
		all = append(all, r...)
	}
	for len(all) < size {
		all = append(all, all...)
	}
	return all[:size]
}

// sealing is what Seal and Open work on: a member's keys, and a body of size bytes.
func sealing(b testing.TB, size int) (k *keyring.Keyring, p chunk.Params, body *chunk.Changes) {
	b.Helper()
	k, err := keyring.Create("", nil)
	must(b, err)
	e, _, err := k.Found(keyring.FoundOptions{Practice: "Practice", Now: time.Now()})
	must(b, err)
	st, err := trust.Found(e)
	must(b, err)
	must(b, k.Learn(st))
	scope, _ := st.ScopeNamed(trust.ScopeClinical)
	return k, chunk.Params{Membership: st, Scope: scope, Log: chunk.CurrentLog(k), Counter: 1, Dictionary: chunk.Dictionary1},
		&chunk.Changes{Document: [32]byte{1}, Author: "Dr. Adler", Origin: chunk.OriginEdit, Changes: []chunk.Change{{Raw: record(b, size)}},
			Authorship: []chunk.Authorship{{Seq: 1}}}
}

// bodies are of a form that was saved, and of a bundle that was imported.
var bodies = []struct {
	name string
	size int
}{{"form", 1 << 10}, {"bundle", 100 << 10}}

// BenchmarkSeal makes a chunk. Its limits are the same bytes through the compressor, what comes of them through the
// cipher, and two signatures.
func BenchmarkSeal(b *testing.B) {
	for _, of := range bodies {
		b.Run(of.name, func(b *testing.B) {
			k, p, body := sealing(b, of.size)
			b.SetBytes(int64(of.size))
			var s chunk.Sealed
			for b.Loop() {
				var err error
				s, err = chunk.Seal(k, p, body)
				must(b, err)
			}
			b.ReportMetric(float64(len(s.Bytes())), "chunk-B")
			beside(b, compressed(b, body.Changes[0].Raw), encrypted(b, s.Header().Length), times(2, signed(b)))
		})
	}
}

// BenchmarkOpen reads a chunk as it comes off the wire: parsed, verified, opened. Its limits are the reverse of Seal's.
func BenchmarkOpen(b *testing.B) {
	for _, of := range bodies {
		b.Run(of.name, func(b *testing.B) {
			k, p, body := sealing(b, of.size)
			sealed, err := chunk.Seal(k, p, body)
			must(b, err)
			b.SetBytes(int64(of.size))
			for b.Loop() {
				s, err := chunk.Parse(sealed.Bytes())
				must(b, err)
				must(b, s.Verify(p.Membership))
				got, err := chunk.Open(k, s)
				must(b, err)
				if len(got.(*chunk.Changes).Changes[0].Raw) != of.size {
					fatal(b, "something else was opened")
				}
			}
			beside(b, inflated(b, body.Changes[0].Raw), encrypted(b, sealed.Header().Length), times(2, verified(b)))
		})
	}
}
