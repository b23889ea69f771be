package replica

import (
	"bytes"
	"container/list"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/lockquorum/certificate"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// document is what is kept in memory of an open document. Only the holder of Replica.write touches it.
type document struct {
	id      crdt.DocumentID
	scope   trust.ScopeID
	index   *crdt.Index
	changes []changeMeta // in application order, as in the index
	byHash  map[crdt.ChangeHash]int
	lost    map[crdt.ChangeHash]*lost         // acceptable changes that are held and do not stand
	anew    map[crdt.ChangeHash][]replacement // by what they write anew
	packed  int                               // how many changes it had when a checkpoint of it was applied last
	saved   int                               // how many changes the stored saved form covers
	loaded  bool                              // in the engine
	counted uint64                            // operations counted in openDocuments
	place   *list.Element
	erased  []chunk.Covers // what agreed orders to erase it name; nil: it is not erased

	// Of a protected document: the lock that guards it, what is certified of it, which changes of this device are shown here alone, which made drafts
	// final, and what was judged last, by which membership; nil: not since it was opened.
	lock         string
	certificates []*certified
	overlay      map[crdt.ChangeHash]overlay
	drafts       map[crdt.ChangeHash][]draft
	judged       *certificate.Judgement
	judgedAt     [32]byte
}

// changeMeta is the part of an appliedChange that the index does not hold.
type changeMeta struct {
	chunk      logs.Ref
	device     trust.DeviceID
	author     string
	timeMillis int64
	origin     chunk.Origin
	schema     uint16
	arrived    int64
	fence      chunk.Fence
	raw        []byte // only until it is committed
}

// openDocuments is a least-recently-used set of documents, bounded by their operations.
type openDocuments struct {
	limit, ops uint64
	byID       map[crdt.DocumentID]*document
	recent     *list.List // front: most recently used
}

func newOpenDocuments(limit uint64) openDocuments {
	return openDocuments{limit: limit, byID: map[crdt.DocumentID]*document{}, recent: list.New()}
}

var errOtherScope = errors.New("it belongs to another scope")

// document returns an open document, reading its change records if need be. A new one is empty. Which scope a document
// belongs to is told by its ID and not by who named it first.
func (r *Replica) document(scope trust.ScopeID, id crdt.DocumentID) (*document, error) {
	if !bytes.HasPrefix(id[:], scope[:trust.DocumentPrefix]) {
		return nil, fmt.Errorf("open document %v: %w", id, errOtherScope)
	}
	if d := r.docs.byID[id]; d != nil {
		r.docs.recent.MoveToFront(d.place)
		return d, nil
	}
	d := newDocument(scope, id)
	err := r.store.View(func(v storage.Reader) error {
		if err := v.Scan(storage.Change.With(id), nil, func(_, value []byte) error {
			a, err := parseAppliedChange(value)
			if err != nil {
				return err
			}
			return d.add(a, nil)
		}); err != nil {
			return err
		}
		if err := d.loadLost(v); err != nil {
			return err
		}
		if err := d.loadProtected(v); err != nil {
			return err
		}
		if err := d.loadErased(v); err != nil {
			return err
		}
		if err := v.Scan(storage.Checkpoint.With(id), nil, func(_, value []byte) error {
			c, err := parseCheckpointRecord(id, value)
			d.packed = max(d.packed, int(c.changes))
			return err
		}); err != nil {
			return err
		}
		b, err := v.Get(storage.Snapshot.Key(id))
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		d.saved, _, err = parseSaved(b)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open document %v: %w", id, err)
	}
	d.place = r.docs.recent.PushFront(d)
	r.docs.byID[id] = d
	r.docs.count(d)
	return d, nil
}

func newDocument(scope trust.ScopeID, id crdt.DocumentID) *document {
	d := &document{id: id, scope: scope, index: crdt.NewIndex(id), byHash: map[crdt.ChangeHash]int{},
		lost: map[crdt.ChangeHash]*lost{}, anew: map[crdt.ChangeHash][]replacement{}}
	if d.lock, _ = LockOf(scope, id); d.lock != "" {
		d.overlay, d.drafts = map[crdt.ChangeHash]overlay{}, map[crdt.ChangeHash][]draft{}
	}
	return d
}

func (d *document) add(a appliedChange, raw []byte) error {
	if err := d.index.Add(a.Record); err != nil {
		return err
	}
	d.byHash[a.Record.Hash] = len(d.changes)
	d.changes = append(d.changes, changeMeta{
		chunk: a.Chunk, device: a.Device, author: a.Author, timeMillis: a.TimeMillis, origin: a.Origin,
		schema: a.Schema, arrived: a.ArrivedMillis, fence: a.Fence, raw: raw,
	})
	if a.Replaces != (crdt.ChangeHash{}) {
		d.anew[a.Replaces] = append(d.anew[a.Replaces], replacement{a.Record.Hash, a.Device})
	}
	return nil
}

// inEngine makes sure that the engine holds the document.
func (r *Replica) inEngine(ctx context.Context, d *document) error {
	if d.loaded {
		return nil
	}
	saved, changes, err := r.rawDocument(d)
	if err != nil {
		return fmt.Errorf("load document %v: %w", d.id, err)
	}
	st, err := r.engine.Load(ctx, d.id, saved, changes)
	if err == nil {
		err = d.agrees(st)
	}
	if err != nil && saved != nil {
		// The saved form is only a cache: the chunks decide.
		r.log.Warn("saved form of a document does not load, rebuilding it from its chunks", "document", d.id, "error", err)
		d.saved = 0
		if _, changes, err = r.rawDocument(d); err != nil {
			return fmt.Errorf("load document %v: %w", d.id, err)
		}
		if st, err = r.engine.Load(ctx, d.id, nil, changes); err == nil {
			err = d.agrees(st)
		}
	}
	if err != nil {
		return fmt.Errorf("load document %v: %w", d.id, err)
	}
	d.loaded = true
	return nil
}

// agrees checks that the engine holds exactly the changes that the index holds.
func (d *document) agrees(st crdt.State) error {
	want := d.index.Heads()
	if len(want) != len(st.Heads) {
		return fmt.Errorf("%w: heads differ from the index", crdt.ErrEngine)
	}
	for i := range want {
		if want[i] != st.Heads[i] {
			return fmt.Errorf("%w: heads differ from the index", crdt.ErrEngine)
		}
	}
	return nil
}

// engineTries is how often a call is made before the engine is said to have failed on it: an engine that was killed from
// outside, or that another document broke, deserves another try.
const engineTries = 3

// engineCall runs fn with the document loaded, again if the engine was lost meanwhile.
func (r *Replica) engineCall(ctx context.Context, d *document, fn func() error) error {
	for try := 1; ; try++ {
		err := r.inEngine(ctx, d)
		if err == nil {
			err = fn()
		}
		if err == nil {
			return nil
		}
		d.loaded = false
		lost := errors.Is(err, crdt.ErrNotLoaded) || errors.Is(err, crdt.ErrEngine)
		if !lost || try == engineTries || ctx.Err() != nil {
			return err
		}
	}
}

// rawDocument returns the saved form, if there is one, and the raw changes after it, out of the sealed chunks.
func (r *Replica) rawDocument(d *document) (saved []byte, changes [][]byte, err error) {
	err = r.store.View(func(v storage.Reader) error {
		if d.saved > 0 {
			b, err := v.Get(storage.Snapshot.Key(d.id))
			if err != nil {
				return err
			}
			n, form, err := parseSaved(b)
			if err != nil || n != d.saved || n > len(d.changes) {
				d.saved = 0 // a cache that does not fit is no loss
			} else {
				saved = form
			}
		}
		from := sources{r: r, v: v}
		records := d.index.Records()
		for i := d.saved; i < len(d.changes); i++ {
			raw := d.changes[i].raw
			if raw == nil {
				var err error
				if raw, err = from.raw(d.changes[i].chunk, records[i].Hash); err != nil {
					return err
				}
			}
			changes = append(changes, raw)
		}
		return nil
	})
	return saved, changes, err
}

// hashOf returns the hash of an uncompressed change.
func hashOf(raw []byte) (crdt.ChangeHash, bool) {
	if len(raw) <= 8 {
		return crdt.ChangeHash{}, false
	}
	return sha256.Sum256(raw[8:]), true
}

// forget drops what is in memory of a document whose transaction failed; the store has the truth.
func (r *Replica) forget(ctx context.Context, id crdt.DocumentID) {
	d := r.docs.byID[id]
	if d == nil {
		return
	}
	r.docs.remove(d)
	if err := r.engine.Forget(context.WithoutCancel(ctx), id); err != nil {
		r.log.Warn("engine could not forget a document", "document", id, "error", err)
	}
}

func (o *openDocuments) remove(d *document) {
	delete(o.byID, d.id)
	o.recent.Remove(d.place)
	o.ops -= d.counted
}

// perDocument is what an open document counts beside its operations, so that empty ones do not gather without end.
const perDocument = 32

// count brings the total in step with a document that has grown.
func (o *openDocuments) count(d *document) {
	now := d.index.Ops() + perDocument
	o.ops += now - d.counted
	d.counted = now
}

// savedAfter is how many changes a document gathers before its saved form is stored when it leaves memory.
const savedAfter = 32

// evict frees documents beyond the budget. It keeps at least one.
func (r *Replica) evict(ctx context.Context) {
	for r.docs.ops > r.docs.limit && r.docs.recent.Len() > 1 {
		d := r.docs.recent.Back().Value.(*document)
		if d.loaded && len(d.changes)-d.saved >= savedAfter {
			if err := r.storeSaved(ctx, d); err != nil {
				r.log.Warn("saved form of a document was not stored", "document", d.id, "error", err)
			}
		}
		r.forget(ctx, d.id)
	}
}

// storeSaved caches Automerge's own form of a document, so that it opens without replaying a long history.
func (r *Replica) storeSaved(ctx context.Context, d *document) error {
	form, err := r.engine.Save(ctx, d.id)
	if err != nil {
		return err
	}
	var b storage.Batch
	b.Put(storage.Snapshot.Key(d.id), marshalSaved(len(d.changes), form))
	if b.Size() > storage.MaxBatch {
		return nil
	}
	return r.store.Commit(ctx, &b)
}

func marshalSaved(n int, form []byte) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(n))
	w.Blob(form)
	return w.Bytes()
}

func parseSaved(b []byte) (n int, form []byte, err error) {
	r := open(b)
	n = int(r.Uvarint(1 << 40))
	form = r.Blob(maxRecord)
	return n, form, r.Close()
}
