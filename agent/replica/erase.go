package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A document is erased by an administrator's order and an assent to it (docs/spec/erasure.md). When both have been applied it is as if nobody had ever written
// it; the chunks that the order names are deleted as soon as all of them are here. What else comes of the document is late, and is held.

// erasureState is what has become of an order. The numbers are stored.
type erasureState byte

const (
	erasureOrdered erasureState = 1 // no assent makes it count
	erasureAgreed  erasureState = 2 // nothing is shown of the document; not all that it names is deleted here
	erasureDone    erasureState = 3
	erasureRefused erasureState = 4 // it names what an order cannot: the document is not shown, and nothing is deleted for it
)

// erasure is what is kept of an order.
type erasure struct {
	place    chunk.Place
	scope    trust.ScopeID
	document crdt.DocumentID
	state    erasureState
	chunks   uint64 // that it names
	by       agreement
	reason   string
	assent   agreement // zero: not agreed
	rooted   bool      // the assent carries a root key's signature
	// keys are the document's resources, of which events up to before are to be forgotten; none once they are.
	keys   []string
	before uint64
}

// agreement is who ordered or assented, and when by their clock.
type agreement struct {
	device     trust.DeviceID
	user       string
	timeMillis int64
}

// maxErasedKeys bounds erasure.keys. What a document has beyond keeps its events.
const maxErasedKeys = 1 << 17

func (e *erasure) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Byte(byte(e.state))
	w.Raw(e.scope[:])
	place, _ := e.place.AppendBinary(nil)
	w.Raw(place)
	w.Uvarint(e.chunks)
	e.by.append(&w)
	w.String(e.reason)
	e.assent.append(&w)
	w.Bool(e.rooted)
	w.Uvarint(e.before)
	w.Uvarint(uint64(len(e.keys)))
	for _, k := range e.keys {
		w.String(k)
	}
	return w.Bytes()
}

func (a agreement) append(w *wire.Writer) {
	w.Raw(a.device[:])
	w.String(a.user)
	w.Varint(a.timeMillis)
}

func readAgreement(r *wire.Reader) (a agreement) {
	r.Fixed(a.device[:])
	a.user = r.String(chunk.MaxAuthor)
	a.timeMillis = r.Varint()
	return a
}

func parseErasure(document crdt.DocumentID, b []byte) (*erasure, error) {
	e := &erasure{document: document}
	r := open(b)
	if e.state = erasureState(r.Byte()); e.state < erasureOrdered || e.state > erasureRefused {
		r.Fail("state of an erasure")
	}
	r.Fixed(e.scope[:])
	e.place = chunk.ReadPlace(r)
	e.chunks = r.Uvarint(1<<64 - 1)
	e.by = readAgreement(r)
	e.reason = r.String(chunk.MaxReason)
	e.assent = readAgreement(r)
	e.rooted = r.Bool()
	e.before = r.Uvarint(1<<64 - 1)
	for range r.Uvarint(maxErasedKeys) {
		if e.keys = append(e.keys, r.String(maxText)); r.Err() != nil {
			break
		}
	}
	return e, r.Close()
}

// loadErasures reads the orders that wait for something. One that does not read is passed over: nothing is deleted for it.
func (r *Replica) loadErasures(v storage.Reader) error {
	r.erasures = map[chunk.ID]*erasure{}
	return v.Keys(storage.Erasure.All(), nil, func(key []byte) error {
		document, id, err := storage.Erasure.Parse(key)
		if err != nil {
			return err
		}
		value, err := v.Get(key)
		if storage.IgnoreDamaged(err) != nil {
			return err
		}
		var e *erasure
		if err == nil {
			e, err = parseErasure(document, value)
		}
		if err != nil {
			r.log.Warn("what is noted of an erasure does not read, and is passed over; `chartmesh verify --repair` makes it anew", "error", err)
		} else if e.waits() {
			r.erasures[id] = e
		}
		return nil
	})
}

func (e *erasure) waits() bool { return e.state == erasureOrdered || e.state == erasureAgreed }

// loadErased reads which chunks of the document were erased by orders that are agreed.
func (d *document) loadErased(v storage.Reader) error {
	return v.Scan(storage.Erasure.With(d.id), nil, func(_, value []byte) error {
		e, err := parseErasure(d.id, value)
		if err != nil || e.state == erasureOrdered {
			return err
		}
		if e.state == erasureRefused {
			d.erased = append(d.erased, nil) // it is erased, and nothing of it is named
			return nil
		}
		order, err := logs.ReadAt(v, e.scope, e.place)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged) {
			d.erased = append(d.erased, nil) // it is erased, and what of it is named is told when the order has come again
			return nil
		}
		if err != nil {
			return fmt.Errorf("read order to erase: %w", err)
		}
		covers, err := order.Covers()
		d.erased = append(d.erased, covers)
		return err
	})
}

// erases reports whether an agreed order names a chunk of the document.
func (d *document) erases(at storage.Ref) bool {
	return slices.ContainsFunc(d.erased, func(covers chunk.Covers) bool {
		run, ok := covers.Find(at.Log, at.Counter)
		tip, within := run.TipAt(at.Counter)
		return ok && within && tip == chunk.At(at.Counter, at.ID).Tip
	})
}

// late is why a chunk of an erased document is held that no order names.
func late() *held { return quarantine("its document was erased") }

// putErasure stores what has become of an order.
func (t *transaction) putErasure(e *erasure) {
	t.batch.Put(storage.Erasure.Key(e.document, e.place.ID), e.marshal())
	t.erasures[e.place.ID] = e
}

// erasure returns what is kept of an order, as of this transaction; nil if it was not applied.
func (t *transaction) erasure(document crdt.DocumentID, order chunk.ID) (e *erasure, err error) {
	if e := t.erasures[order]; e != nil {
		return e, nil
	}
	err = t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Erasure.Key(document, order))
		if err == nil {
			e, err = parseErasure(document, b)
		}
		return storage.IgnoreNotFound(err)
	})
	if err != nil {
		return nil, fmt.Errorf("read erasure: %w", err)
	}
	if e != nil {
		again := *e
		e = &again
	}
	return e, nil
}

// takeErasure notes an order, and erases the document if it is agreed.
func (t *transaction) takeErasure(ctx context.Context, sealed chunk.Sealed, body *chunk.Erasure) (*held, error) {
	h := sealed.Header()
	d, err := t.r.document(h.Scope, body.Document)
	switch {
	case errors.Is(err, errOtherScope):
		return quarantine("it names a document of another scope"), nil
	case err != nil:
		return nil, err
	case d.lock != "":
		return quarantine("a protected document is not erased"), nil
	}
	e, err := t.erasure(d.id, sealed.ID())
	switch {
	case err != nil:
		return nil, err
	case e != nil && e.state == erasureOrdered: // it came again, and what makes it count may have come meanwhile
		return nil, t.judgeErasure(ctx, e, sealed)
	case e != nil:
		return nil, nil
	}
	e = &erasure{place: sealed.Place(), scope: h.Scope, document: d.id, state: erasureOrdered, chunks: body.Covers.Len(),
		by: agreement{h.Device, body.User, body.TimeMillis}, reason: body.Reason}
	t.putErasure(e)
	t.events = append(t.events, Event{Kind: "erasure-ordered"})
	return nil, t.judgeErasure(ctx, e, sealed)
}

// takeAssent notes an assent, and erases the document if it makes an order count that was applied.
func (t *transaction) takeAssent(ctx context.Context, sealed chunk.Sealed, body *chunk.Assent) (*held, error) {
	order := body.Erasure
	t.batch.Put(storage.Assent.Key(order.ID, sealed.ID()), logs.MarshalPlace(sealed.Place()))
	t.assents[order.ID] = append(t.assents[order.ID], sealed)
	e, err := t.erasure(body.Document, order.ID)
	if err != nil || e == nil || e.state != erasureOrdered {
		return nil, err
	}
	var given chunk.Sealed
	agreed := false
	err = t.r.store.View(func(v storage.Reader) (err error) {
		if given, err = logs.ReadAt(v, e.scope, e.place); err == nil {
			agreed, err = t.r.logs.MayErase(v, given, sealed)
		}
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged):
		t.r.erasuresAt = [32]byte{} // the order is judged when it reads again
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read order to erase: %w", err)
	case !agreed:
		return nil, nil
	}
	return nil, t.agreeErasure(ctx, e, given, sealed)
}

// judgeErasure erases the order's document if there is an assent that makes it count.
func (t *transaction) judgeErasure(ctx context.Context, e *erasure, order chunk.Sealed) error {
	var assent chunk.Sealed
	agreed := false
	err := t.r.store.View(func(v storage.Reader) (err error) {
		for _, assent = range t.assents[e.place.ID] {
			if agreed, err = t.r.logs.MayErase(v, order, assent); agreed || err != nil {
				return err
			}
		}
		assent, agreed, err = t.r.logs.AssentTo(v, order)
		return err
	})
	if err != nil || !agreed {
		return err
	}
	return t.agreeErasure(ctx, e, order, assent)
}

// agreeErasure erases the document of an order that an assent makes count.
func (t *transaction) agreeErasure(ctx context.Context, e *erasure, order, assent chunk.Sealed) error {
	covers, err := order.Covers()
	if err != nil {
		return err
	}
	next := *e
	next.state, next.assent = erasureAgreed, agreement{device: assent.Header().Device}
	// Whether it counts is told without a key; who said it, as they are called, is shown where it opens.
	if opened, err := chunk.Open(t.r.keys, assent); err == nil {
		if body, ok := opened.(*chunk.Assent); ok {
			next.rooted, next.assent.user, next.assent.timeMillis = body.Root != chunk.RootWord{}, body.User, body.TimeMillis
		}
	}
	return t.eraseDocument(ctx, &next, covers)
}

// eraseDocument makes a document as if nobody had ever written it. Its chunks that no agreed order names are held as late.
func (t *transaction) eraseDocument(ctx context.Context, e *erasure, covers chunk.Covers) error {
	r := t.r
	d, err := r.document(e.scope, e.document)
	if err != nil {
		return err
	}
	t.docs[d.id] = d
	places := map[storage.Ref]bool{}
	if err := r.placesOf(d, places); err != nil {
		return fmt.Errorf("find the chunks of an erased document: %w", err)
	}
	d.erased = append(d.erased, covers)
	e.keys = d.keys()
	r.mu.Lock()
	e.before = r.mu.event
	r.mu.Unlock()
	if len(d.changes) > 0 {
		if err := t.accept(ctx, d, nil); err != nil {
			return fmt.Errorf("erase document: %w", err)
		}
	}
	for hash := range maps.Clone(d.lost) {
		t.unlose(d, hash)
	}
	t.batch.Delete(storage.Snapshot.Key(d.id))
	t.batch.Delete(storage.Tail.Key(d.id))
	t.tails[d.id] = nil
	for _, key := range e.keys {
		if ref, ok := parseRef(key); ok {
			t.batch.Delete(storage.Imported.Key(ref.typ, ref.id))
		}
	}
	if err := t.forgetShown(d.id); err != nil {
		return err
	}
	if err := t.forgetPacks(d); err != nil {
		return err
	}
	for at := range places {
		if err := t.release(at); err != nil {
			return err
		}
		if !d.erases(at) {
			t.holdLate(at)
		}
	}
	t.putErasure(e)
	t.events = append(t.events, Event{Kind: "document-erased"})
	return nil
}

// eraseAgain has what a document's orders name deleted once more, if it was: a chunk of it has come again, since what stood in its place was damaged.
func (t *transaction) eraseAgain(d *document) error {
	return t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Erasure.With(d.id), nil, func(_, value []byte) error {
			e, err := parseErasure(d.id, value)
			if err == nil && e.state == erasureDone {
				e.state = erasureAgreed
				t.putErasure(e)
			}
			return err
		})
	})
}

// holdLate holds a chunk of an erased document that no order names.
func (t *transaction) holdLate(at storage.Ref) {
	h := late()
	if sealed, err := t.r.logs.Sealed(at); err == nil {
		h.Device, h.Kind = sealed.Header().Device, sealed.Header().Kind
		if body, err := chunk.Open(t.r.keys, sealed); err == nil {
			t.describe(h, body)
		}
	}
	t.hold(at, h)
}

// keys lists the resources that the document's changes touch.
func (d *document) keys() []string {
	set := map[string]bool{}
	for _, rec := range d.index.Records() {
		mark(set, rec.Keys)
	}
	keys := slices.Sorted(maps.Keys(set))
	return keys[:min(len(keys), maxErasedKeys)]
}

// placesOf finds where the document's changes stand that were applied or lost their place, its checkpoints, and what is held of it.
func (r *Replica) placesOf(d *document, places map[storage.Ref]bool) error {
	return r.store.View(func(v storage.Reader) error {
		seen := map[logs.Ref]bool{}
		for i, m := range d.changes {
			forked := r.logs.Forked(d.scope, m.chunk.Log)
			if seen[m.chunk] && !forked {
				continue
			}
			seen[m.chunk] = true
			found, err := logs.Read(v, m.chunk)
			if forked { // several chunks have this place
				found.Skip = nil
				_, found.Chunk, err = r.rawAt(v, m.chunk, d.index.Records()[i].Hash)
			}
			if err != nil { // whoever asked waits until it has come again, since it may be late
				return logs.UnreadableAs(m.chunk.Main(), err)
			}
			if found.Skip == nil {
				places[refOf(found.Chunk)] = true
			}
		}
		for _, l := range d.lost {
			places[l.place] = true
		}
		if err := v.Scan(storage.Checkpoint.With(d.id), nil, func(_, value []byte) error {
			c, err := parseCheckpointRecord(d.id, value)
			if err == nil {
				places[storage.Ref{Scope: c.scope, Log: c.place.Log, Counter: c.place.Counter, ID: c.place.ID}] = true
			}
			return err
		}); err != nil {
			return err
		}
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil {
				return err
			}
			h, err := parseHeld(value)
			if err == nil && h.Document == d.id && h.Kind != chunk.KindTombstone {
				places[at] = true
			}
			return err
		})
	})
}

func refOf(sealed chunk.Sealed) storage.Ref {
	h := sealed.Header()
	return storage.Ref{Scope: h.Scope, Log: sealed.Log(), Counter: h.Counter, ID: sealed.ID()}
}

// forgetPacks forgets what was made of the checkpoints of an erased document, and the words on them.
func (t *transaction) forgetPacks(d *document) error {
	err := t.r.store.View(func(v storage.Reader) error {
		var list []checkpoint
		if err := v.Scan(storage.Checkpoint.With(d.id), nil, func(_, value []byte) error {
			c, err := parseCheckpointRecord(d.id, value)
			list = append(list, c)
			return err
		}); err != nil {
			return err
		}
		for _, c := range list {
			t.batch.Delete(storage.Checkpoint.Key(d.id, c.place.Log, c.place.Counter))
			t.checkpoints[c.place] = nil // the words on it stay: a skip may rest on them
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("forget the checkpoints of an erased document: %w", err)
	}
	return nil
}

// reviewErasures looks again at the orders that nobody's assent makes count, once the membership is another.
func (r *Replica) reviewErasures(ctx context.Context) error {
	heads := r.State().HeadsHash()
	if heads == r.erasuresAt {
		return nil
	}
	all := true
	for _, id := range sortedErasures(r.erasures) {
		e := r.erasures[id]
		if e.state != erasureOrdered {
			continue
		}
		t := r.begin(ctx)
		var order chunk.Sealed
		err := r.store.View(func(v storage.Reader) (err error) {
			order, err = logs.ReadAt(v, e.scope, e.place)
			return err
		})
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrDamaged) {
			all = false // it is asked for
			continue
		}
		if err == nil {
			err = t.judgeErasure(ctx, e, order)
		}
		if bad, ok := errors.AsType[*logs.Unreadable](err); ok {
			t.abort(ctx)
			if all = false; r.takeBack(ctx, bad.At, bad.Err) != nil {
				return err
			}
			continue
		}
		if err != nil {
			t.abort(ctx)
			err = fmt.Errorf("look at an order to erase again: %w", err)
		} else {
			err = t.commit(ctx)
		}
		if err != nil && blames(err) && ctx.Err() == nil { // the others do not wait with it
			r.log.Error("this machine failed on an order to erase; it is tried again after a restart", "order", id, "error", err)
			continue
		}
		if err != nil {
			return err
		}
	}
	if all {
		r.erasuresAt = heads
	}
	return nil
}

func sortedErasures(m map[chunk.ID]*erasure) []chunk.ID {
	return slices.SortedFunc(maps.Keys(m), func(a, b chunk.ID) int { return bytes.Compare(a[:], b[:]) })
}

// mayBegin refuses a new resource of a patient whose own document was erased: it may belong in one that there was not, and that no order names.
func (t *transaction) mayBegin(obj fhir.Object) error {
	patient := fhir.Place(obj).Patient
	if patient == "" {
		return nil
	}
	p := fhir.Place(fhir.Object{"resourceType": "Patient", "id": patient})
	scope, err := t.r.scope(p.Scope)
	if err != nil || !t.r.State().MayRead(t.r.Device(), scope) {
		return err
	}
	doc, err := t.r.keys.DocumentID(scope, "section", p.Patient, p.Section)
	if err != nil {
		return fmt.Errorf("place resource: %w", err)
	}
	return t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Erasure.With(doc), nil, func(_, value []byte) error {
			e, err := parseErasure(doc, value)
			if err == nil && e.state != erasureOrdered {
				err = errErased
			}
			return err
		})
	})
}

// errErased refuses what would be written to an erased document.
var errErased = &api.Error{Code: api.CodeDeleted, Message: "the record that this belongs to was erased; nothing was written",
	Hint: "`chartmesh erase list` says when and by whom; what has to be kept is entered under another id"}
