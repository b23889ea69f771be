package replica

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// verification checks one snapshot of the store: the logs (verify_logs.go), the documents that follow from them, what
// follows from the documents, and that all the rest can be read. What it holds in memory grows with the number of changes,
// by a few bytes each.
type verification struct {
	r        *Replica
	v        storage.Reader
	st       *trust.State
	report   api.VerifyReport
	progress func(api.VerifyProgress)
	told     time.Time

	cursors map[logs.Name]uint64 // how far each log is applied
	heads   map[logs.Name]uint64 // how far each log is claimed to be held; chunks beyond are on their way again
	damaged []storage.Ref        // chunks, and logs at their ends, to ask for again
	derived bool                 // something that follows from chunks is not what follows
	members bool                 // so is the membership log
	unread  []byte               // kinds of what is of this device alone, with a value that does not read

	carried map[crdt.DocumentID][]changeMark // by applied chunks
	beside  map[logs.Ref]bool                // where applied chunks stand beside the main history of their log
	apart   map[fhirRef]bool                 // resources that stand in several documents
	sets    map[trust.ScopeID]chunk.SetHash
	counts  counts
	expect  map[byte]*tally // by kind of key
}

// changeMark is the beginning of a change's hash.
type changeMark [8]byte

// tally is a set of keys as a count and a sum, so that two can be compared in any order.
type tally struct {
	n   uint64
	sum [32]byte
}

func (t *tally) add(key []byte) {
	t.n++
	for i, b := range sha256.Sum256(key) {
		t.sum[i] ^= b
	}
}

// tallied are the kinds of key that follow from the views and are compared as sets.
func tallied() []storage.Kind {
	return []storage.Kind{storage.DocumentsOf.Kind, storage.OfPatient.Kind, storage.Term.Kind, storage.Conflict.Kind,
		storage.ConflictOf.Kind, storage.Parked.Kind}
}

// Verify checks everything that is stored against what it follows from. It reads a snapshot; reads and writes go on.
// With opts.Repair it then has the chunks that are damaged come again from the other devices, makes anew what follows from
// chunks, and checks a second time.
func (r *Replica) Verify(ctx context.Context, opts api.VerifyOptions, progress func(api.VerifyProgress)) (api.VerifyReport, error) {
	start := time.Now()
	found, err := r.verifyOnce(ctx, progress)
	if err != nil {
		return api.VerifyReport{}, err
	}
	report := found.report
	report.Clean = report.Found == 0
	if opts.Repair && !report.Clean {
		if err := r.mend(ctx, found, progress); err != nil {
			return api.VerifyReport{}, err
		}
		again, err := r.verifyOnce(ctx, progress)
		if err != nil {
			return api.VerifyReport{}, err
		}
		report.Repaired, report.Clean = true, again.report.Found == 0
		if !report.Clean {
			report.Found, report.Kinds, report.Findings = again.report.Found, again.report.Kinds, again.report.Findings
		}
	}
	p, have, of, err := r.Repair()
	if err != nil {
		return api.VerifyReport{}, err
	}
	report.Wanted, report.Kept = of-have, p.Kept()
	report.Took = time.Since(start)
	return report, nil
}

func (r *Replica) verifyOnce(ctx context.Context, progress func(api.VerifyProgress)) (*verification, error) {
	c := &verification{
		r: r, progress: progress, report: api.VerifyReport{Findings: []api.Finding{}},
		carried: map[crdt.DocumentID][]changeMark{}, sets: map[trust.ScopeID]chunk.SetHash{}, expect: map[byte]*tally{},
		heads: map[logs.Name]uint64{}, cursors: map[logs.Name]uint64{}, apart: map[fhirRef]bool{},
		beside: map[logs.Ref]bool{},
	}
	for _, k := range tallied() {
		c.expect[k.Number()] = &tally{}
	}
	err := r.store.View(func(v storage.Reader) error {
		c.v, c.st = v, r.State()
		for _, step := range []func(context.Context) error{c.logs, c.branches, c.held, c.findApart, c.documents, c.indexes, c.rest} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("verify: %w", err)
	}
	return c, nil
}

// tell reports progress, a few times a second.
func (c *verification) tell(ctx context.Context, stage string, done, of uint64) error {
	if now := time.Now(); now.Sub(c.told) > 300*time.Millisecond {
		c.told = now
		c.progress(api.VerifyProgress{Stage: stage, Done: done, Of: of})
	}
	return ctx.Err()
}

// find notes something that is damaged. What is a text of this program's own, or a class of error.
func (c *verification) find(kind, id, what string) {
	c.report.Found++
	if c.report.Kinds == nil {
		c.report.Kinds = map[string]uint64{}
	}
	c.report.Kinds[kind]++
	if len(c.report.Findings) < api.MaxFindings {
		c.report.Findings = append(c.report.Findings, api.Finding{Kind: kind, ID: id, What: what})
	}
}

func (c *verification) findDerived(kind, id, what string) {
	c.derived = true
	c.find(kind, id, what)
}

// whatIs says in fixed words what is wrong with a stored value.
func whatIs(err error) string {
	switch {
	case errors.Is(err, logs.ErrNotHeld), errors.Is(err, storage.ErrNotFound):
		return "it is missing"
	case errors.Is(err, chunk.ErrBadSignature):
		return "its signature is wrong"
	case errors.Is(err, storage.ErrDamaged):
		return "it does not read"
	}
	return "it is malformed"
}

func short(id []byte) string { return hex.EncodeToString(id[:8]) }

// documents returns how many there are.
func (r *Replica) documents() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.counts.Documents
}

// documents rebuilds every document from its chunks and compares it with its stored records and views.
func (c *verification) documents(ctx context.Context) error {
	var d *document
	flush := func() error {
		if d == nil {
			return nil
		}
		c.report.Documents++
		c.counts.Documents++
		if err := c.tell(ctx, "documents", c.report.Documents, c.r.documents()); err != nil {
			return err
		}
		return c.document(ctx, d)
	}
	next, broken := uint64(0), false
	err := c.v.Scan(storage.Change.All(), nil, func(key, value []byte) error {
		id, n, err := storage.Change.Parse(key)
		if err != nil {
			return err
		}
		a, err := parseAppliedChange(bytes.Clone(value))
		if err != nil {
			c.findDerived("document", short(id[:]), "the record of a change is malformed")
			return nil
		}
		if d == nil || d.id != id {
			if err := flush(); err != nil {
				return err
			}
			d = newDocument(a.Chunk.Scope, id)
			next, broken = 0, false
		}
		if n != next || broken {
			if !broken {
				c.findDerived("document", short(id[:]), "the record of a change is missing")
			}
			broken = true
			return nil
		}
		next++
		if at := a.Chunk; at.Counter > c.cursors[logs.Name{Scope: at.Scope, Log: at.Log}] && !c.beside[at] {
			c.findDerived("document", short(id[:]), "it holds a change of a chunk that does not count as applied")
		}
		if err := d.add(a, nil); err != nil {
			broken = true
			c.findDerived("document", short(id[:]), "the record of a change does not fit those before")
			return nil
		}
		if d.lock != "" {
			_, err := c.v.Get(storage.Overlay.Key(id, a.Record.Hash))
			if !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		set := c.sets[d.scope]
		set.Add(a.Record.Hash)
		c.sets[d.scope] = set
		return nil
	})
	if err == nil {
		err = flush()
	} else if errors.Is(err, storage.ErrDamaged) {
		c.findDerived("change", "", whatIs(err))
		err = nil
	}
	for id := range c.carried { // what is left belongs to documents without a record
		waits, unread := c.waitsToBeErased(id)
		if err = errors.Join(err, unread); waits {
			continue
		}
		lacks, unread := c.lacksCarried(id, nil)
		if err = errors.Join(err, unread); lacks {
			c.findDerived("document", short(id[:]), "it is missing, and chunks of it are applied")
		}
	}
	return err
}

// waitsToBeErased reports whether chunks of a document that was erased are still to be deleted.
func (c *verification) waitsToBeErased(id crdt.DocumentID) (waits bool, err error) {
	err = c.v.Scan(storage.Erasure.With(id), nil, func(_, value []byte) error {
		e, err := parseErasure(id, value)
		waits = waits || err == nil && e.state == erasureAgreed
		return nil //nolint:nilerr // found with its kind
	})
	return waits, storage.IgnoreDamaged(err)
}

// lacksCarried reports whether a chunk that counts as applied carries a change that a document neither has nor keeps aside for another chunk
// that carries it too.
func (c *verification) lacksCarried(id crdt.DocumentID, have map[changeMark]bool) (bool, error) {
	lacks := func(mark changeMark) bool { return !have[mark] }
	if !slices.ContainsFunc(c.carried[id], lacks) {
		return false, nil
	}
	kept := map[changeMark]bool{}
	if err := c.v.Keys(storage.Lost.With(id), nil, func(key []byte) error {
		_, hash, err := storage.Lost.Parse(key)
		kept[changeMark(hash[:8])] = true
		return err
	}); err != nil {
		return false, err
	}
	return slices.ContainsFunc(c.carried[id], func(mark changeMark) bool { return lacks(mark) && !kept[mark] }), nil
}

// document checks one document.
func (c *verification) document(ctx context.Context, d *document) error {
	id := short(d.id[:])
	have := make(map[changeMark]bool, len(d.changes))
	for _, rec := range d.index.Records() {
		have[changeMark(rec.Hash[:8])] = true
	}
	lacks, err := c.lacksCarried(d.id, have)
	if err != nil {
		return err
	}
	if lacks {
		c.findDerived("document", id, "it lacks a change of a chunk that counts as applied")
	}
	delete(c.carried, d.id)
	raws, ok, err := c.rawChanges(d)
	if err != nil || !ok {
		return err
	}
	// The engine knows documents by name; this one is not the one that is open there.
	alias := crdt.DocumentID(sha256.Sum256(append([]byte("chartmesh verify 1"), d.id[:]...)))
	defer func() { _ = c.r.engine.Forget(context.WithoutCancel(ctx), alias) }()
	var fields []crdt.Field
	err = c.engine(ctx, func() error {
		st, err := c.r.engine.Load(ctx, alias, nil, raws)
		if err == nil {
			err = d.agrees(st)
		}
		if err == nil {
			fields, err = c.r.engine.Read(ctx, alias, nil, nil)
		}
		return err
	})
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && blames(err):
		c.findDerived("document", id, "its changes do not make what its records say")
		return nil
	case err != nil:
		return err
	}
	if err := c.saved(ctx, d, alias, raws); err != nil {
		return err
	}
	return c.views(d, fields)
}

// engine calls the engine again if it was lost: it is shared with the agent's own work.
func (c *verification) engine(ctx context.Context, fn func() error) error {
	for try := 1; ; try++ {
		err := fn()
		if err == nil || try == engineTries || ctx.Err() != nil || !blames(err) {
			return err
		}
	}
}

// rawChanges reads a document's changes from its chunks; not ok if a chunk is damaged, which was found before.
func (c *verification) rawChanges(d *document) (raws [][]byte, ok bool, err error) {
	from := sources{r: c.r, v: c.v}
	for i, rec := range d.index.Records() {
		at := d.changes[i].chunk
		raw, err := from.raw(at, rec.Hash)
		if err == nil {
			raws = append(raws, raw)
			continue
		}
		bad, gone := errors.AsType[*logs.Unreadable](err)
		switch {
		case gone && (at.Counter > c.heads[logs.Name{Scope: at.Scope, Log: at.Log}] || slices.Contains(c.damaged, bad.At)):
		case gone:
			c.findDerived("document", short(d.id[:]), "it names a chunk that is not there")
		case errors.Is(err, storage.ErrDamaged), errors.Is(err, chunk.ErrDamaged):
			c.findDerived("document", short(d.id[:]), "it names a change that its chunk does not hold")
		default:
			return nil, false, err
		}
		return nil, false, nil
	}
	return raws, true, nil
}

// saved checks the cache of the engine's own form.
func (c *verification) saved(ctx context.Context, d *document, alias crdt.DocumentID, raws [][]byte) error {
	b, err := c.v.Get(storage.Snapshot.Key(d.id))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	var n int
	var form []byte
	if err == nil {
		n, form, err = parseSaved(b)
	}
	if err == nil && n <= len(raws) {
		err = c.engine(ctx, func() error {
			st, err := c.r.engine.Load(ctx, alias, form, raws[n:])
			if err == nil {
				err = d.agrees(st)
			}
			return err
		})
		if err == nil || ctx.Err() != nil {
			return ctx.Err()
		}
	}
	c.findDerived("cache", short(d.id[:]), "a saved form does not make its document")
	return nil
}

// views compares the stored views of a document with what the engine reads from it, and notes what is found by them.
func (c *verification) views(d *document, fields []crdt.Field) error {
	id := short(d.id[:])
	stored := 0
	if err := c.v.Scan(storage.ResourceIn.With(d.id), nil, func(_, _ []byte) error { stored++; return nil }); err != nil {
		c.findDerived("view", id, whatIs(err))
		return nil //nolint:nilerr // it is a finding
	}
	if stored != len(fields) {
		c.findDerived("view", id, fmt.Sprintf("its document has %d, and %d are stored", len(fields), stored))
	}
	for _, f := range fields {
		old, err := readView(c.v, d.id, f.Key)
		if err != nil || old == nil {
			if err == nil {
				err = storage.ErrNotFound
			}
			c.findDerived("view", id, whatIs(err))
			continue
		}
		if !sameView(old, c.r.show(d, f, old, nil, time.UnixMilli(old.UpdatedMillis))) {
			c.findDerived("view", id, "it differs from its document")
			continue
		}
		ref, ok := parseRef(f.Key)
		if !ok {
			c.findDerived("view", id, "its root key is not Type/id")
			continue
		}
		c.expect[storage.DocumentsOf.Number()].add(storage.DocumentsOf.Key(ref.typ, ref.id, d.id))
		for _, conflict := range old.Conflicts {
			c.counts.Conflicts++
			c.expect[storage.Conflict.Number()].add(storage.Conflict.Key(conflict.ID))
		}
		if old.Removed {
			continue
		}
		c.report.Resources++
		c.counts.Resources++
		if c.apart[ref] {
			continue // it is found by what all of its documents say; see duplicates
		}
		c.expectFound(ref, found(old))
	}
	return nil
}

// expectFound notes the entries by which a resource is found.
func (c *verification) expectFound(ref fhirRef, x indexed) {
	for term := range x.terms {
		c.expect[storage.Term.Number()].add(storage.Term.Key(term, ref.typ, ref.id))
	}
	for p := range x.patients {
		c.expect[storage.OfPatient.Number()].add(storage.OfPatient.Key(p, ref.typ, ref.id))
	}
}

// sameView reports whether two views say the same of a document; what is of this device alone (arrival) is left out.
func sameView(a, b *view) bool {
	x, y := *a, *b
	x.object, y.object = nil, nil
	y.UpdatedMillis, y.Imports = x.UpdatedMillis, x.Imports
	return bytes.Equal(x.marshal(), y.marshal())
}
