package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
)

// transaction gathers what one commit makes durable, and what memory takes over once it is. The holder of
// Replica.write owns it. Reads through it see its own writes.
type transaction struct {
	r       *Replica
	batch   storage.Batch
	now     time.Time
	docs    map[crdt.DocumentID]*document // changed in memory and engine; forgotten if the commit fails
	views   map[viewKey]*view
	where   map[fhirRef][]crdt.DocumentID
	own     map[trust.ScopeID]logs.End // heads of this device's own logs
	sealed  map[trust.ScopeID]bool     // own logs that grew
	cursors map[trust.ScopeID]chunk.Vector
	sets    map[trust.ScopeID]chunk.SetHash
	woken   []storage.Ref
	turned  int                   // of Replica.mu.turns, taken from the front
	noLog   error                 // why nothing can be written in this device's own log
	held    map[storage.Ref]*held // nil: not held any more
	waiting map[missing][]storage.Ref
	counts  counts
	events  []Event
	// checkpoints and tails are what changes of those that the replica keeps at hand; nil: not any more.
	checkpoints map[chunk.Place]*checkpoint
	tails       map[crdt.DocumentID]*tail
	erasures    map[chunk.ID]*erasure       // as checkpoints
	assents     map[chunk.ID][]chunk.Sealed // by the order, that were taken
	packs       []chunk.ID                  // checkpoints and orders that were applied
	judging     storage.Ref                 // the chunk that was judged last
	decisions
	// duplicates holds the conflict between a resource's documents as of this transaction; nil: none.
	duplicates map[fhirRef]*[16]byte
}

type viewKey struct {
	doc crdt.DocumentID
	key string
}

type fhirRef struct{ typ, id string }

func (f fhirRef) key() string { return f.typ + "/" + f.id }

func parseRef(key string) (fhirRef, bool) {
	typ, id, ok := bytes.Cut([]byte(key), []byte("/"))
	return fhirRef{string(typ), string(id)}, ok
}

// begin starts a transaction. If a rebuild was cut short, or there is reason to begin a new log, that comes first.
func (r *Replica) begin(ctx context.Context) *transaction {
	broken := r.goOnRebuilding(ctx)
	err := r.renewLog(ctx)
	t := r.beginPlain()
	t.noLog, t.broken = cmp.Or(broken, err), broken
	return t
}

func (r *Replica) beginPlain() *transaction {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &transaction{
		r: r, now: r.now(), counts: r.mu.counts,
		docs:  map[crdt.DocumentID]*document{},
		views: map[viewKey]*view{}, where: map[fhirRef][]crdt.DocumentID{},
		own: map[trust.ScopeID]logs.End{}, sealed: map[trust.ScopeID]bool{},
		cursors:    map[trust.ScopeID]chunk.Vector{},
		duplicates: map[fhirRef]*[16]byte{}, checkpoints: map[chunk.Place]*checkpoint{}, tails: map[crdt.DocumentID]*tail{},
		erasures: map[chunk.ID]*erasure{}, assents: map[chunk.ID][]chunk.Sealed{},
		decisions: newDecisions(),
		held:      map[storage.Ref]*held{}, waiting: map[missing][]storage.Ref{},
		sets: maps.Clone(r.mu.sets), woken: slices.Clone(r.mu.woken),
	}
}

// commit makes the transaction durable and then visible. After an error nothing of it is, neither in the store nor in
// memory: what the engine holds beyond the store is forgotten.
func (t *transaction) commit(ctx context.Context) error {
	r := t.r
	if t.broken != nil {
		t.abort(ctx)
		return t.broken
	}
	if t.batch.Len() == 0 && len(t.cursors) == 0 && len(t.events) == 0 {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.mu.woken, r.mu.Turns = t.woken, r.mu.Turns[t.turned:]
		return nil
	}
	t.batch.Put(storage.Meta.Key(metaApplied), marshalSets(t.sets))
	for scope := range t.sealed {
		log, head := r.logID(scope), t.own[scope]
		t.batch.Put(storage.LogHead.Key(scope, log), logs.MarshalEnd(head))
		t.batch.Put(storage.Cursor.Key(scope, log), logs.MarshalPosition(head.Position()))
	}
	for scope, byLog := range t.cursors {
		for log, p := range byLog {
			t.batch.Put(storage.Cursor.Key(scope, log), logs.MarshalPosition(p))
		}
	}
	t.batch.Put(storage.Meta.Key(metaCounts), t.counts.marshal())
	r.mu.Lock()
	last := r.mu.event
	r.mu.Unlock()
	for i := range t.events {
		last++
		t.events[i].Cursor, t.events[i].Time = last, t.now
	}
	if len(t.events) > 0 {
		t.batch.Put(storage.Event.Key(last), marshalEvents(t.events))
		t.batch.Put(storage.Meta.Key(metaEvent), marshalCounter(last))
	}
	if err := r.store.Commit(ctx, &t.batch); err != nil {
		t.abort(ctx)
		return err
	}
	t.settle()
	r.mu.Lock()
	defer r.mu.Unlock()
	for scope := range t.sealed {
		r.addScopeLocked(scope)
		r.mu.AdvanceLocked(scope, r.logID(scope), t.own[scope])
		r.mu.applied[scope][r.logID(scope)] = t.own[scope].Position()
	}
	for scope, byLog := range t.cursors {
		maps.Copy(r.mu.applied[scope], byLog)
	}
	r.mu.sets, r.mu.counts, r.mu.event, r.mu.woken = t.sets, t.counts, last, t.woken
	r.mu.Turns, r.mu.unsaid = r.mu.Turns[t.turned:], len(r.lost) > 0
	for _, d := range t.docs {
		r.docs.count(d)
		for i := len(d.changes) - 1; i >= 0 && d.changes[i].raw != nil; i-- {
			d.changes[i].raw = nil
		}
	}
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
	return nil
}

// settle has memory follow what is durable of checkpoints and erasures now.
func (t *transaction) settle() {
	r := t.r
	for place, c := range t.checkpoints {
		if c == nil || c.state != checkpointOpen {
			delete(r.checkpoints, place)
		} else {
			r.checkpoints[place] = *c
		}
	}
	for id, e := range t.erasures {
		if delete(r.erasures, id); e.waits() {
			r.erasures[id] = e
		}
	}
	for id, x := range t.tails {
		if x == nil {
			delete(r.tails, id)
		} else {
			r.tails[id] = *x
		}
	}
	if len(r.packs) > maxPacks {
		clear(r.packs)
	}
	for _, id := range t.packs {
		r.packs[id] = true
	}
}

// maxPacks bounds how many applied checkpoints and orders are remembered by ID.
const maxPacks = 1024

// abort forgets the documents that the transaction changed.
func (t *transaction) abort(ctx context.Context) {
	for id := range t.docs {
		t.r.forget(ctx, id)
	}
}

// seal appends one chunk to this device's own log of the scope.
func (t *transaction) seal(scope trust.ScopeID, body chunk.Body) (logs.Ref, chunk.Sealed, error) {
	at, done := t.sealing(scope, body, chunk.Fence{})
	sealed, err := done()
	return at, sealed, err
}

// sealing begins what seal does, since compressing takes as long as reading back what was written. The chunk is part of the
// log when done has returned it: call it in any case, before the next chunk is begun, and do not change the body until then.
func (t *transaction) sealing(scope trust.ScopeID, body chunk.Body, fence chunk.Fence) (at logs.Ref, done func() (chunk.Sealed, error)) {
	r := t.r
	if t.noLog != nil {
		return logs.Ref{}, func() (chunk.Sealed, error) { return chunk.Sealed{}, t.noLog }
	}
	head, ok := t.own[scope]
	if !ok {
		r.mu.Lock()
		head = r.mu.Ends[scope][r.logID(scope)]
		r.mu.Unlock()
	}
	at = logs.Ref{Scope: scope, Log: r.logID(scope), Counter: head.Counter + 1}
	params := chunk.Params{
		Membership: r.State(), Scope: scope, Log: at.Log, Counter: at.Counter, Previous: head.ID, Dictionary: chunk.Dictionary1,
		Fence: fence,
	}
	var sealed chunk.Sealed
	var err error
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		sealed, err = chunk.Seal(r.keys, params, body)
	}()
	return at, func() (chunk.Sealed, error) {
		<-ready
		if err != nil {
			return chunk.Sealed{}, err
		}
		t.own[scope] = logs.End{Counter: at.Counter, ID: sealed.ID()}
		t.sealed[scope] = true
		t.batch.Put(storage.Chunk.Key(at.Scope, at.Log, at.Counter), sealed.Bytes())
		return sealed, nil
	}
}

// logID is this device's own log. A device has one log nonce; the scope keeps its logs apart in the store and on the wire.
func (r *Replica) logID(trust.ScopeID) chunk.LogID {
	return chunk.CurrentLog(r.keys)
}

// record notes a change as applied: in the index, the store and the scope's applied set.
func (t *transaction) record(d *document, a appliedChange, raw []byte) error {
	if len(d.changes) == 0 {
		t.counts.Documents++
	}
	t.batch.Put(storage.Change.Key(d.id, uint64(len(d.changes))), a.marshal())
	t.docs[d.id] = d
	if err := d.add(a, raw); err != nil {
		return fmt.Errorf("record change: %w", err)
	}
	if a.overlay {
		t.putOverlay(d, a.Record.Hash, a.Fence, a.Record.Keys)
	} else {
		set := t.sets[d.scope]
		set.Add(a.Record.Hash)
		t.sets[d.scope] = set
	}
	t.noteTail(d)
	return t.resettle(d, a.Replaces)
}

// view returns a resource's view as of this transaction; nil if the document has no such resource.
func (t *transaction) view(doc crdt.DocumentID, key string) (*view, error) {
	at := viewKey{doc, key}
	if v, ok := t.views[at]; ok {
		return v, nil
	}
	var v *view
	err := t.r.store.View(func(s storage.Reader) (err error) {
		v, err = readView(s, doc, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.views[at] = v
	return v, nil
}

func readView(s storage.Reader, doc crdt.DocumentID, key string) (*view, error) {
	b, err := s.Get(storage.ResourceIn.Key(doc, key))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	v, err := parseView(b)
	if err != nil {
		return nil, fmt.Errorf("read view: %w", err)
	}
	return v, nil
}

// documentsOf returns the documents that hold a resource, ascending; usually one.
func (t *transaction) documentsOf(ref fhirRef) ([]crdt.DocumentID, error) {
	if docs, ok := t.where[ref]; ok {
		return docs, nil
	}
	var docs []crdt.DocumentID
	err := t.r.store.View(func(s storage.Reader) (err error) {
		docs, err = readDocumentsOf(s, ref)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.where[ref] = docs
	return docs, nil
}

func readDocumentsOf(s storage.Reader, ref fhirRef) (docs []crdt.DocumentID, err error) {
	err = s.Scan(storage.DocumentsOf.With2(ref.typ, ref.id), nil, func(key, _ []byte) error {
		_, _, doc, err := storage.DocumentsOf.Parse(key)
		docs = append(docs, doc)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read resource: %w", err)
	}
	return docs, nil
}

// refresh reads the root keys that some changes touched back from the engine and brings views, indexes and events up to
// date. It returns how many conflicts the changes opened.
func (t *transaction) refresh(ctx context.Context, d *document, changes []crdt.Record, local bool) (int, error) {
	by := map[string][]crdt.ChangeHash{}
	for _, rec := range changes {
		for _, key := range rec.Keys {
			by[key] = append(by[key], rec.Hash)
		}
	}
	opened := 0
	for keys := range slices.Chunk(slices.Sorted(maps.Keys(by)), refreshedAtOnce) {
		n, err := t.refreshKeys(ctx, d, keys, by, local)
		if err != nil {
			return 0, err
		}
		opened += n
	}
	return opened, nil
}

// refreshedAtOnce bounds how many resources the engine answers with.
const refreshedAtOnce = 64

func (t *transaction) refreshKeys(ctx context.Context, d *document, keys []string, by map[string][]crdt.ChangeHash, local bool) (int, error) {
	var fields []crdt.Field
	err := t.r.engineCall(ctx, d, func() (err error) {
		fields, err = t.r.engine.Read(ctx, d.id, keys, nil)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("read back: %w", err)
	}
	opened := 0
	for _, f := range fields {
		old, err := t.view(d.id, f.Key)
		if err != nil {
			return 0, err
		}
		next := t.r.show(d, f, old, by[f.Key], t.now)
		n, err := t.putView(d, f.Key, old, next, local)
		if err != nil {
			return 0, err
		}
		opened += n
	}
	return opened, nil
}

// show turns what the engine holds of a resource into its view, after the changes by, in the order in which they were
// applied.
func (r *Replica) show(d *document, f crdt.Field, old *view, by []crdt.ChangeHash, now time.Time) *view {
	shown := crdt.Show(f.Key, f.Values)
	next := &view{Scope: d.scope, Removed: !shown.Exists || shown.Removed, UpdatedMillis: now.UnixMilli()}
	next.Heads = d.index.KeyHeads(f.Key)
	next.Last = d.lastOf(next.Heads)
	if old != nil {
		next.Imports = old.Imports
	}
	for _, hash := range by {
		if i, ok := d.byHash[hash]; ok && d.changes[i].origin == chunk.OriginImport {
			next.Imports = d.index.HeadsOf(append([]crdt.ChangeHash{hash}, next.Imports...))
		}
	}
	if !next.Removed {
		next.object = resourceOf(shown.Value)
		next.JSON = fhir.AppendCanonical(nil, next.object)
	}
	for _, c := range shown.Conflicts {
		open := openConflict{ID: c.ID, Path: c.Path, Shown: c.Shown}
		for _, side := range c.Sides {
			s := conflictSide{Removed: side.Removed}
			if !side.Removed {
				s.JSON = sideJSON(c.Path, side.Value)
			}
			if m, ok := d.author(side.Ops); ok {
				s.Device, s.Author, s.TimeMillis = m.device, m.author, m.timeMillis
			}
			open.Sides = append(open.Sides, s)
		}
		next.Conflicts = append(next.Conflicts, open)
	}
	return next
}

// lastOf returns who wrote the newest of some changes; of equally new ones the one with the greatest hash counts.
func (d *document) lastOf(heads []crdt.ChangeHash) lastEdit {
	var last lastEdit
	for _, h := range heads { // ascending
		i, ok := d.byHash[h]
		if !ok {
			continue
		}
		if m := d.changes[i]; m.timeMillis >= last.TimeMillis {
			last = lastEdit{m.device, m.author, m.timeMillis}
		}
	}
	return last
}

// resourceOf says a resource in FHIR. A field that FHIR cannot say, which no agent of ours writes, is left out: it must
// neither hide the others nor stop the applier. The document keeps it.
func resourceOf(v crdt.Value) fhir.Object {
	if obj, err := fhir.FromValue(v); err == nil {
		return obj
	}
	obj := fhir.Object{}
	for _, key := range slices.Sorted(maps.Keys(v.Map)) {
		part, err := fhir.FromValue(crdt.Value{Kind: crdt.Map, Map: map[string]crdt.Value{key: v.Map[key]}})
		if err != nil {
			continue
		}
		for k, field := range part {
			if _, taken := obj[k]; !taken {
				obj[k] = field
			}
		}
	}
	return obj
}

// sideJSON is one side of a conflict for people: a whole resource as such, a part as JSON.
func sideJSON(path string, v crdt.Value) []byte {
	if path == "" {
		return fhir.AppendCanonical(nil, resourceOf(v))
	}
	part, err := fhir.JSON(v)
	if err != nil {
		part = nil // see resourceOf
	}
	return fhir.AppendCanonical(nil, part)
}

// author tells who wrote the newest of some operations.
func (d *document) author(ops []crdt.OpID) (changeMeta, bool) {
	if len(ops) == 0 {
		return changeMeta{}, false
	}
	rec, ok := d.index.ByOp(slices.MaxFunc(ops, crdt.OpID.Compare))
	if !ok {
		return changeMeta{}, false
	}
	i, ok := d.byHash[rec.Hash]
	if !ok {
		return changeMeta{}, false
	}
	return d.changes[i], true
}
