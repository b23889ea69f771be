package replica

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// The logs of a device that was removed, or may not write any more, count up to its cut. What it wrote beyond is kept and
// barred: it is lost like a change whose place is taken (lost.go), quarantined with its reason. But what somebody in good
// standing has built on it counts, for what an honest person wrote on top must not go with it. So whether a change is barred follows
// from the changes that are held and from the membership log, on every device alike.

// CutOf says how far a device's logs have come here, for an administrator who removes it: whatever was written up to there counts.
// What does not count already, since the device may not write any more, is not made to count by that.
func (r *Replica) CutOf(device trust.DeviceID) (trust.Cut, error) {
	var cut trust.Cut
	err := r.logs.Quiet(func() (err error) {
		cut, err = r.cutOf(device)
		return err
	})
	return cut, err
}

func (r *Replica) cutOf(device trust.DeviceID) (cut trust.Cut, err error) {
	st := r.State()
	for _, s := range st.Scopes() {
		if right, until := st.Right(device, s.ID); right == trust.RightUntil {
			for _, p := range until {
				if p.Scope == s.ID {
					cut = append(cut, p)
				}
			}
			continue
		}
		begun, err := r.logs.Beginners(s.ID)
		if err != nil {
			return nil, fmt.Errorf("find the logs of a device: %w", err)
		}
		for log, by := range begun {
			if by != device {
				continue
			}
			f, head := r.logs.Fork(s.ID, log)
			for _, end := range f.Leaves(head) {
				if p := end.Position(); p.Counter > 0 {
					cut = append(cut, trust.CutPosition{Scope: s.ID, Log: log, Counter: p.Counter, Tip: p.Tip})
				}
			}
		}
	}
	return cut.Sorted(), nil
}

// Contents counts a scope's documents and the patients in them.
func (r *Replica) Contents(scope trust.ScopeID) (documents, patients int, err error) {
	seen := map[crdt.DocumentID]bool{}
	err = r.store.View(func(v storage.Reader) error {
		return v.Keys(storage.DocumentsOf.All(), nil, func(key []byte) error {
			typ, _, doc, err := storage.DocumentsOf.Parse(key)
			if err != nil || !bytes.HasPrefix(doc[:], scope[:trust.DocumentPrefix]) {
				return err
			}
			seen[doc] = true
			if typ == "Patient" {
				patients++
			}
			return nil
		})
	})
	if err != nil {
		return 0, 0, fmt.Errorf("count what a scope holds: %w", err)
	}
	return len(seen), patients, nil
}

// endsAt reports whether a device's chunks count up to a cut.
func (t *transaction) endsAt(device trust.DeviceID, scope trust.ScopeID) bool {
	right, _ := t.r.State().Right(device, scope)
	return right == trust.RightUntil
}

// anyRemoved reports whether a change of a document does not stand because of its author.
func (d *document) anyRemoved() bool {
	for _, l := range d.lost {
		if l.why == lostRemoved {
			return true
		}
	}
	return false
}

// barred returns the changes that do not count because of their authors.
// Of a protected document that follows from its certificates alone.
func (t *transaction) barred(d *document, all []*contender) (map[crdt.ChangeHash]lostReason, error) {
	if d.lock != "" {
		return t.uncertified(d, all), nil
	}
	barred := map[crdt.ChangeHash]lostReason{}
	st := t.r.State()
	for _, c := range all {
		right, cut := st.Right(c.device, d.scope)
		if right != trust.RightUntil {
			continue
		}
		within := false
		err := t.r.store.View(func(v storage.Reader) error {
			log, at, err := t.r.spotOf(v, c)
			if err == nil {
				within, err = t.r.logs.Within(v, cut, d.scope, log, at)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("hold a change against its author's cut: %w", err)
		}
		if !within {
			barred[c.Hash] = lostRemoved
		}
	}
	if len(barred) == 0 {
		return nil, nil
	}
	byHash := make(map[crdt.ChangeHash]*contender, len(all))
	for _, c := range all {
		byHash[c.Hash] = c
	}
	var spare func(c *contender)
	spare = func(c *contender) {
		for _, h := range c.Deps {
			if o := byHash[h]; o != nil && barred[h] != 0 {
				delete(barred, h)
				spare(o)
			}
		}
	}
	for _, c := range all {
		if barred[c.Hash] == 0 {
			spare(c)
		}
	}
	return barred, nil
}

// spotOf returns where a change's author first wrote it: in its own chunk, which may have been packed since.
func (r *Replica) spotOf(v storage.Reader, c *contender) (log chunk.LogID, at chunk.Position, err error) {
	var sealed chunk.Sealed
	if c.change == nil {
		_, sealed, err = r.rawAt(v, c.applied.Chunk, c.Hash)
	} else {
		sealed, err = r.logs.Sealed(c.place)
	}
	if err != nil {
		return log, at, err
	}
	if sealed.Header().Kind != chunk.KindCheckpoint {
		return sealed.Log(), sealed.Position(), nil
	}
	opened, err := chunk.Open(r.keys, sealed)
	if err != nil {
		return log, at, fmt.Errorf("open checkpoint: %w", err)
	}
	body, ok := opened.(*chunk.Checkpoint)
	if !ok {
		return log, at, fmt.Errorf("open checkpoint: %w: it is none", storage.ErrDamaged)
	}
	for _, p := range body.Parts {
		if !slices.ContainsFunc(p.Changes, func(ch chunk.Change) bool {
			h, ok := hashOf(ch.Raw)
			return ok && h == c.Hash
		}) {
			continue
		}
		log = body.Logs[p.Log].ID()
		run, _ := body.Covers.Find(log, p.Counter)
		tip, _ := run.TipAt(p.Counter)
		return log, chunk.Position{Counter: p.Counter, Tip: tip}, nil
	}
	return log, at, fmt.Errorf("open checkpoint: %w: it lacks a change that is noted of it", storage.ErrDamaged)
}

// reviewedAtOnce is how many documents are looked at again before somebody else may write.
const reviewedAtOnce = 16

// review is what is to be looked at again since the membership changed, or something came that says which history a cut is of.
type review struct {
	asked uint64   // Replica.recut when it began
	heads [32]byte // the membership that it is of
	docs  map[crdt.DocumentID]trust.ScopeID
}

// beginReview sees to it that what was not looked at before a restart is looked at now. Going through all changes, which may be
// necessary if anybody's logs end at a cut, is left to the applier.
func (r *Replica) beginReview() error {
	st := r.State()
	due, err := r.reviewDue(st)
	if err == nil && due && len(st.Ended()) == 0 {
		var docs map[crdt.DocumentID]trust.ScopeID
		docs, err = r.cutDocuments(st)
		due = len(docs) > 0
	}
	if due {
		r.recut.Add(1)
	}
	return err
}

// reviewDue reports whether a membership is another one than was last followed to the end.
func (r *Replica) reviewDue(st *trust.State) (due bool, err error) {
	heads := st.HeadsHash()
	err = r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Meta.Key(metaReviewed))
		due = !bytes.Equal(b, heads[:])
		return storage.IgnoreNotFound(err)
	})
	return due, err
}

// reviewed reports whether everything stands that is to by the membership and by what arrived.
func (r *Replica) reviewed() bool { return r.recut.Load() == r.reviewedTo.Load() }

// reviewCuts looks again at the documents in which a device's chunks beyond its cut have a part, or had one. It looks at some
// and reports whether there are more. The caller holds Replica.write.
func (r *Replica) reviewCuts(ctx context.Context) (more bool, err error) {
	asked := r.recut.Load()
	if asked == r.reviewedTo.Load() {
		return false, nil
	}
	if r.cutting == nil || r.cutting.asked != asked {
		st := r.State()
		docs, err := r.cutDocuments(st)
		if err != nil {
			return false, fmt.Errorf("look for what was written after a removal: %w", err)
		}
		r.cutting = &review{asked: asked, heads: st.HeadsHash(), docs: docs}
	}
	docs := r.cutting.docs
	ids := slices.SortedFunc(maps.Keys(docs), func(a, b crdt.DocumentID) int { return bytes.Compare(a[:], b[:]) })
	for _, id := range ids[:min(len(ids), reviewedAtOnce)] {
		if err := r.reviewDocument(ctx, docs[id], id); err != nil {
			return false, fmt.Errorf("take what was written after a removal out of a document: %w", err)
		}
		delete(docs, id)
	}
	if len(docs) > 0 {
		return true, nil
	}
	// What arrives now, and asks for another look, comes before this note or after it.
	return true, r.logs.Quiet(func() error {
		if r.recut.Load() != asked {
			return nil
		}
		var batch storage.Batch
		batch.Put(storage.Meta.Key(metaReviewed), r.cutting.heads[:])
		if err := r.store.Commit(ctx, &batch); err != nil {
			return fmt.Errorf("note that nothing more is to be looked at: %w", err)
		}
		r.cutting = nil
		r.erasuresAt = [32]byte{} // an order or an assent may be within its author's cut by now
		r.reviewedTo.Store(asked)
		r.notify()
		return nil
	})
}

func (r *Replica) reviewDocument(ctx context.Context, scope trust.ScopeID, id crdt.DocumentID) error {
	t := r.begin(ctx)
	d, err := r.document(scope, id)
	if err != nil {
		return err
	}
	all, err := t.contenders(d)
	if err == nil {
		_, err = t.reconsider(ctx, d, all, storage.Ref{})
	}
	if err != nil {
		t.abort(ctx)
		return err
	}
	return t.commit(ctx)
}

// cutDocuments names the documents in which changes do not stand because of their authors, and those with changes of a device
// whose logs end at a cut, unless they are within it for certain; and those of which something is certified, since the membership says who
// was a voter. There are none if they were looked at as of this membership.
func (r *Replica) cutDocuments(st *trust.State) (map[crdt.DocumentID]trust.ScopeID, error) {
	docs := map[crdt.DocumentID]trust.ScopeID{}
	if due, err := r.reviewDue(st); err != nil || !due {
		return nil, err
	}
	err := r.store.View(func(v storage.Reader) error {
		err := v.Scan(storage.Lost.All(), nil, func(key, value []byte) error {
			doc, _, err := storage.Lost.Parse(key)
			if err != nil {
				return err
			}
			l, err := parseLost(value)
			if err == nil && l.why == lostRemoved {
				docs[doc] = l.place.Scope
			}
			return err
		})
		if err == nil {
			err = certifiedDocuments(v, docs)
		}
		if err != nil {
			return err
		}
		ended := map[trust.DeviceID]bool{}
		for _, id := range st.Ended() {
			ended[id] = true
		}
		if len(ended) == 0 {
			return nil
		}
		return v.Scan(storage.Change.All(), nil, func(key, value []byte) error {
			doc, _, err := storage.Change.Parse(key)
			if err != nil {
				return err
			}
			a, err := parseAppliedChange(value)
			if err != nil || !ended[a.Device] || docs[doc] != (trust.ScopeID{}) {
				return err
			}
			if right, cut := st.Right(a.Device, a.Chunk.Scope); right == trust.RightUntil && !r.surelyWithin(cut, a.Chunk) {
				docs[doc] = a.Chunk.Scope
			}
			return nil
		})
	})
	return docs, err
}

// surelyWithin reports whether a chunk of a device's log, which was never forked, stands at or before a cut's position. A packed
// change names another's log, and is looked at.
func (r *Replica) surelyWithin(cut trust.Cut, at logs.Ref) bool {
	return !r.logs.Forked(at.Scope, at.Log) && slices.ContainsFunc(cut, func(p trust.CutPosition) bool {
		return p.Scope == at.Scope && chunk.LogID(p.Log) == at.Log && at.Counter <= p.Counter &&
			r.logs.Position(at.Scope, at.Log).Counter <= p.Counter
	})
}
