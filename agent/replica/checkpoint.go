package replica

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
	"chartmesh/trust"
)

// maxCheckpointOps caps the operations of all changes of a checkpoint. Since it decides what is quarantined, it is the same
// on every device.
const maxCheckpointOps = 1 << 18

// checkpointState is what has become of a checkpoint. The numbers are stored.
type checkpointState byte

const (
	checkpointOpen    checkpointState = 1 // not all devices have given their word, or not all that it covers is deleted here
	checkpointSettled checkpointState = 2 // what it covers is deleted here
	checkpointRefused checkpointState = 3 // a device said that it is not what it claims to be: nothing is deleted for it
)

// checkpoint is what a device remembers of a checkpoint that it has applied.
type checkpoint struct {
	place    chunk.Place
	scope    trust.ScopeID
	document crdt.DocumentID
	device   trust.DeviceID // who made it
	state    checkpointState
	// notedMillis is when it was applied here, by this device's clock.
	notedMillis int64
	changes     uint64 // how many the document had here when it was applied
}

// applyCheckpoint judges and applies the changes of a checkpoint, all or none, each as if it had come alone. Most are known.
func (t *transaction) applyCheckpoint(ctx context.Context, at logs.Ref, sealed chunk.Sealed, body *chunk.Checkpoint, d *document) (*held, error) {
	// A key that is not in the membership log signs for nobody. One that may not write any more could when it was packed: every
	// writer has agreed to that, and the chunks may be gone.
	for _, k := range body.Logs {
		switch right, _ := t.r.State().Right(k.Device, at.Scope); right {
		case trust.RightUnknown:
			return park("an author in it is not known yet", missing{Kind: missingAuthor}), nil
		case trust.RightNever:
			return quarantine("an author in it may not write"), nil
		}
	}
	if d.lock != "" {
		return t.applyProtectedPack(ctx, at, storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}, sealed, body, d)
	}
	if len(body.Certificates) > 0 {
		return quarantine("the document is not a protected one, and there are certificates in it"), nil
	}
	trial := crdt.NewIndex(d.id)
	for _, rec := range d.index.Records() {
		if err := trial.Add(rec); err != nil {
			return nil, err
		}
	}
	ids := make([]chunk.LogID, len(body.Logs))
	for i, k := range body.Logs {
		ids[i] = k.ID()
	}
	type actor struct {
		log    int
		branch byte
	}
	newest := map[actor]*crdt.Change{}
	var raws [][]byte
	var list []appliedChange
	ops := 0
	for _, p := range body.Parts {
		if p.Schema > fhir.Schema {
			return newer(), nil
		}
		for _, ch := range p.Changes {
			c, err := crdt.Decode(ch.Raw)
			if err != nil {
				return quarantine(reason(err)), nil
			}
			if ops += len(c.Ops); ops > maxCheckpointOps {
				return quarantine("it claims too many operations"), nil
			}
			if c.Actor != crdt.Actor(chunk.ActorOf(ids[p.Log], d.id, ch.Branch)) {
				return quarantine("an actor in it is not its author's"), nil
			}
			newest[actor{p.Log, ch.Branch}] = c
			rec, err := trial.Judge(c)
			var lacks *crdt.Missing
			var twice *crdt.Equivocation
			switch {
			case errors.Is(err, crdt.ErrKnown):
				continue
			case err == nil && t.endsAt(body.Logs[p.Log].Device, at.Scope), errors.As(err, &lacks) && d.isLost(c, trial),
				errors.As(err, &twice):
				if verdict, err := t.contest(ctx, d, storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}, sealed, body,
					crdt.ChangeHash{}); verdict != nil || err != nil {
					return verdict, err
				}
				return nil, t.noteCheckpoint(at, sealed, d)
			case errors.As(err, &lacks):
				return quarantine("it lacks a change that another in it builds on"), nil
			case err != nil:
				return quarantine(reason(err)), nil
			}
			if err := trial.Add(rec); err != nil {
				return nil, err
			}
			raws = append(raws, ch.Raw)
			list = append(list, appliedChange{
				Record: rec, Chunk: at, Device: body.Logs[p.Log].Device, Schema: p.Schema, TimeMillis: p.TimeMillis, Author: p.Author,
				Origin: p.Origin, ArrivedMillis: t.now.UnixMilli(), Replaces: p.Replaces,
			})
		}
	}
	for _, a := range body.Authorship {
		if c := newest[actor{a.Log, a.Branch}]; c == nil || c.Seq != a.Seq || c.Hash != a.Newest {
			return quarantine("an authorship in it names another change"), nil
		}
	}
	if len(raws) > 0 {
		if verdict, err := t.applyJudged(ctx, d, raws, list, sealed.ID()); verdict != nil || err != nil {
			return verdict, err
		}
	}
	return nil, t.noteCheckpoint(at, sealed, d)
}

// noteCheckpoint remembers a checkpoint that has been applied, if it is new.
func (t *transaction) noteCheckpoint(at logs.Ref, sealed chunk.Sealed, d *document) error {
	key := storage.Checkpoint.Key(d.id, at.Log, at.Counter)
	known := false
	if err := t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(key)
		if err != nil {
			return storage.IgnoreNotFound(err)
		}
		c, err := parseCheckpointRecord(d.id, b)
		known = c.place.ID == sealed.ID()
		return err
	}); err != nil {
		return fmt.Errorf("read checkpoint: %w", err)
	}
	if known {
		return nil
	}
	c := checkpoint{place: sealed.Place(), scope: at.Scope, document: d.id, device: sealed.Header().Device, state: checkpointOpen,
		notedMillis: t.now.UnixMilli(), changes: uint64(len(d.changes))}
	t.putCheckpoint(c)
	t.docs[d.id] = d
	d.packed = len(d.changes)
	t.batch.Delete(storage.Tail.Key(d.id))
	t.tails[d.id] = nil
	return nil
}

// putCheckpoint stores what has become of a checkpoint.
func (t *transaction) putCheckpoint(c checkpoint) {
	t.batch.Put(storage.Checkpoint.Key(c.document, c.place.Log, c.place.Counter), c.marshal())
	t.checkpoints[c.place] = &c
}

// dropCheckpoint forgets a checkpoint that a later one covers.
func (t *transaction) dropCheckpoint(v storage.Reader, c checkpoint) error {
	t.batch.Delete(storage.Checkpoint.Key(c.document, c.place.Log, c.place.Counter))
	t.checkpoints[c.place] = nil
	return v.Scan(storage.Word.With(c.place.ID), nil, func(key, _ []byte) error {
		t.batch.Delete(append([]byte(nil), key...))
		return nil
	})
}

// applyCover notes a device's word on a checkpoint, which need not have come yet. Of two by one device the bad one counts.
func (t *transaction) applyCover(sealed chunk.Sealed, body *chunk.Cover) error {
	key := storage.Word.Key(body.Checkpoint.ID, sealed.Header().Device)
	var before logs.Word
	if err := t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(key)
		if err == nil {
			before, err = logs.ParseWord(b)
		}
		return storage.IgnoreNotFound(err)
	}); err != nil {
		return fmt.Errorf("read word on a checkpoint: %w", err)
	}
	if before.At == (chunk.Place{}) || before.OK {
		t.batch.Put(key, logs.Word{OK: body.OK, At: sealed.Place()}.Marshal())
	}
	return nil
}
