package replica

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Compaction says when a document is compacted. The zero value is for a practice.
type Compaction struct {
	// Changes is how many changes no checkpoint packs before one is worth making; 0: 64.
	Changes uint64
	// Idle is how long nobody changed the document, by this device's clock; each device waits up to as long again, by chance,
	// so that usually one of them makes the checkpoint. 0: 10 minutes.
	Idle time.Duration
	// Grace is how long what a checkpoint covers is kept after it was applied here, though every device has found it good: time
	// to notice a mistake while the originals are there. 0: 7 days.
	Grace time.Duration
}

func (c Compaction) orDefault() Compaction {
	if c.Changes == 0 {
		c.Changes = 64
	}
	if c.Idle == 0 {
		c.Idle = 10 * time.Minute
	}
	if c.Grace == 0 {
		c.Grace = 7 * 24 * time.Hour
	}
	return c
}

// restless is how many times as many changes pack a document that is never left alone.
const restless = 16

// maxPacked bounds the changes of a document that is compacted, so that a checkpoint fits one commit of its readers. Its operations
// are bounded by what its readers take (maxCheckpointOps): one that they refuse would stand for chunks that nobody has any more.
const maxPacked = 1 << 14

// tail is what no checkpoint packs of a document.
type tail struct {
	scope      trust.ScopeID
	changes    uint64
	lastMillis int64 // when the last of them came, by this device's clock
}

// noteTail follows a document's growth once a checkpoint would be worth while.
func (t *transaction) noteTail(d *document) {
	n := uint64(max(0, len(d.changes)-d.packed)) // a document shrinks where changes lose their place
	if n < t.r.compaction.Changes {
		return
	}
	x := tail{d.scope, n, t.now.UnixMilli()}
	t.tails[d.id] = &x
	t.batch.Put(storage.Tail.Key(d.id), x.marshal())
}

// loadCheckpoints reads what compaction waits for. What does not read is passed over: to compact later, or not, loses nothing.
func (r *Replica) loadCheckpoints(v storage.Reader) error {
	r.checkpoints, r.tails = map[chunk.Place]checkpoint{}, map[crdt.DocumentID]tail{}
	unread := func(err error) {
		r.log.Warn("what is noted of a document's compaction does not read, and is passed over", "error", err)
	}
	if err := v.Scan(storage.Checkpoint.All(), nil, func(key, value []byte) error {
		document, _, _, err := storage.Checkpoint.Parse(key)
		if err != nil {
			return err
		}
		c, err := parseCheckpointRecord(document, value)
		if err != nil {
			unread(err)
		} else if c.state == checkpointOpen {
			r.checkpoints[c.place] = c
		}
		return nil
	}); err != nil {
		return err
	}
	return v.Scan(storage.Tail.All(), nil, func(key, value []byte) error {
		id, err := storage.Tail.Parse(key)
		if err != nil {
			return err
		}
		x, err := parseTail(value)
		if err != nil {
			unread(err)
			return nil
		}
		r.tails[id] = x
		return nil
	})
}

// Compacted says what a call of Compact did.
type Compacted struct {
	Checkpoints int // made
	Words       int // given on checkpoints of other devices
	Deleted     int // chunks that checkpoints stand for from now on
	Waiting     int // checkpoints that not every device has given its word on
	Contested   int // documents that are due and never packed, since changes of them come from a log with several histories
}

// Compact does what compaction waits for, a commit each: it gives this device's word on checkpoints of others, deletes what
// is covered by one that every device that writes has found good, after a grace, and packs documents that have been left alone
// for a while; now does both at once. A crash between two commits is harmless: what was not done is done next time.
func (r *Replica) Compact(ctx context.Context, now bool) (c Compacted, err error) {
	if c.Words, err = r.giveWords(ctx); err != nil {
		return c, err
	}
	if c.Deleted, err = r.deleteCovered(ctx, now); err != nil {
		return c, err
	}
	for _, id := range r.tailsDue(now) {
		made, err := r.pack(ctx, id)
		if errors.Is(err, errContested) {
			c.Contested++
			continue
		}
		if errors.Is(err, storage.ErrDamaged) {
			// It waits until what it lacks is here again; the others do not wait with it.
			r.log.Warn("a document is not packed, since a chunk of it does not read", "document", id, "error", err)
			continue
		}
		if err != nil {
			return c, fmt.Errorf("compact document %v: %w", id, err)
		}
		if made {
			c.Checkpoints++
		}
	}
	if c.Checkpoints > 0 { // of a practice of one device they are settled already
		n, err := r.deleteCovered(ctx, now)
		c.Deleted += n
		if err != nil {
			return c, err
		}
	}
	r.write.Lock()
	defer r.write.Unlock()
	c.Waiting = len(r.checkpoints)
	return c, nil
}

// tailsDue lists the documents whose turn it is, ascending.
func (r *Replica) tailsDue(now bool) []crdt.DocumentID {
	r.write.Lock()
	defer r.write.Unlock()
	at := r.now().UnixMilli()
	var due []crdt.DocumentID
	for id, x := range r.tails {
		if now || x.changes >= restless*r.compaction.Changes || at-x.lastMillis >= r.patience(id, x).Milliseconds() || at < x.lastMillis {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, func(a, b crdt.DocumentID) int { return slices.Compare(a[:], b[:]) })
	return due
}

// patience is how long this device leaves a document alone: by chance, and the same after a restart.
func (r *Replica) patience(id crdt.DocumentID, x tail) time.Duration {
	device := r.keys.Device()
	b := append(append(device[:], id[:]...), x.marshal()...)
	sum := sha256.Sum256(b)
	part := time.Duration(binary.BigEndian.Uint64(sum[:]) % uint64(r.compaction.Idle))
	return r.compaction.Idle + part
}

// open lists the checkpoints that are not settled, in an order that does not change.
func (r *Replica) openCheckpoints() []checkpoint {
	r.write.Lock()
	defer r.write.Unlock()
	return slices.SortedFunc(maps.Values(r.checkpoints), func(a, b checkpoint) int { return slices.Compare(a.place.ID[:], b.place.ID[:]) })
}

// reached reports whether the applier has come to a place.
func (r *Replica) reached(scope trust.ScopeID, log chunk.LogID, counter uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.applied[scope][log].Counter >= counter
}

// giveWords compares checkpoints of other devices with what this one holds, and says so in its own log.
func (r *Replica) giveWords(ctx context.Context) (n int, err error) {
	self := r.keys.Device()
	for _, c := range r.openCheckpoints() {
		if c.device == self || !r.State().MayWrite(self, c.scope) || !r.reached(c.scope, c.place.Log, c.place.Counter) {
			continue
		}
		given, err := r.giveWord(ctx, c)
		if err != nil {
			return n, err
		}
		if given {
			n++
		}
	}
	return n, nil
}

func (r *Replica) giveWord(ctx context.Context, c checkpoint) (bool, error) {
	r.write.Lock()
	defer r.write.Unlock()
	said, verdict := false, verdictWait
	err := r.store.View(func(v storage.Reader) error {
		all, err := logs.Said(v, c.place.ID, c.device)
		if err != nil {
			return err
		}
		if _, said = all[r.keys.Device()]; said {
			return nil
		}
		verdict, err = r.examine(v, c)
		return err
	})
	if err != nil || said || verdict == verdictWait {
		return false, err
	}
	t := r.begin(ctx)
	body := &chunk.Cover{Document: c.document, Checkpoint: c.place, OK: verdict == verdictGood}
	_, sealed, err := t.seal(c.scope, body)
	if err != nil {
		return false, err
	}
	if !body.OK {
		r.log.Error("a checkpoint is not what it claims to stand for; nothing is deleted for it", "checkpoint", c.place.ID, "by", c.device)
	}
	if err := t.applyCover(sealed, body); err != nil {
		return false, err
	}
	if err := t.commit(ctx); err != nil {
		return false, fmt.Errorf("commit word on a checkpoint: %w", err)
	}
	return true, nil
}

// deleteCovered deletes what checkpoints stand for on which every device that writes has given a good word.
func (r *Replica) deleteCovered(ctx context.Context, now bool) (n int, err error) {
	for _, c := range r.openCheckpoints() {
		if age := r.now().UnixMilli() - c.notedMillis; !now && age >= 0 && age < r.compaction.Grace.Milliseconds() {
			continue
		}
		deleted, err := r.deleteFor(ctx, c)
		n += deleted
		if err != nil {
			return n, fmt.Errorf("delete what checkpoint %v covers: %w", c.place.ID, err)
		}
	}
	return n, nil
}

func (r *Replica) deleteFor(ctx context.Context, c checkpoint) (n int, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	if now, ok := r.checkpoints[c.place]; !ok || now != c || !r.reached(c.scope, c.place.Log, c.place.Counter) {
		return 0, nil // a later one covers it
	}
	t := r.begin(ctx)
	var d *document // a protected one
	if _, protected := LockOf(c.scope, c.document); protected {
		if d, err = r.document(c.scope, c.document); err != nil {
			return 0, err
		}
	}
	err = r.store.View(func(v storage.Reader) error {
		said, err := logs.Said(v, c.place.ID, c.device)
		if err != nil {
			return err
		}
		switch logs.AgreementOn(r.State(), c.scope, said) {
		case logs.Awaited:
			return nil
		case logs.Refused:
			c.state = checkpointRefused
			t.putCheckpoint(c)
			t.events = append(t.events, Event{Kind: "checkpoint-refused"})
			return nil
		}
		c.state = checkpointSettled
		t.putCheckpoint(c)
		sealed, err := logs.ReadChunk(v, c.scope, c.place.Log, c.place.Counter)
		if errors.Is(err, storage.ErrNotFound) || err == nil && sealed.ID() != c.place.ID {
			*t = *r.begin(ctx) // a later one stands for it, or it is of another history of its log
			if _, skipped, err := logs.ReadSkip(v, c.scope, c.place.Log, c.place.Counter); err != nil || !skipped {
				return err
			}
			return t.dropCheckpoint(v, c)
		}
		if err != nil {
			return err
		}
		covers, err := sealed.Covers()
		if err != nil {
			return err
		}
		for _, run := range covers {
			if !r.reached(c.scope, run.Log, run.To) {
				*t = *r.begin(ctx) // of a device that only reads: it has given no word, and is not so far yet
				return nil
			}
		}
		deleted, err := logs.DeleteCovered(v, &t.batch, sealed, said)
		switch {
		case errors.Is(err, logs.ErrNoWord), errors.Is(err, storage.ErrNotFound):
			*t = *r.begin(ctx) // of a device that wrote no word since it may not write any more: nobody could take the skip
			return nil
		case errors.Is(err, logs.ErrOtherHistory), errors.Is(err, logs.ErrCoversWrongly), errors.Is(err, logs.ErrNotHeld),
			errors.Is(err, chunk.ErrNewer):
			*t = *r.begin(ctx)
			return nil
		case err != nil:
			return err
		}
		for _, at := range deleted.Earlier {
			t.batch.Delete(storage.Checkpoint.Key(c.document, at.Log, at.Counter))
			t.checkpoints[at] = nil
		}
		n = deleted.Chunks
		if d != nil {
			return t.dropCertificates(v, d, covers)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	return n, t.commit(ctx)
}

// StoredChunks counts what is stored of chunks, loose ones and skips, and their bytes.
func (r *Replica) StoredChunks() (chunks, skips int, bytes int64, err error) {
	err = r.store.View(func(v storage.Reader) error {
		for prefix, n := range map[string]*int{string(storage.Chunk.All()): &chunks, string(storage.Branch.All()): &chunks,
			string(storage.Loose.All()): &chunks, string(storage.Skip.All()): &skips} {
			if err := v.Scan([]byte(prefix), nil, func(_, value []byte) error {
				*n++
				bytes += int64(len(value))
				return nil
			}); err != nil {
				return fmt.Errorf("count chunks: %w", err)
			}
		}
		return nil
	})
	return chunks, skips, bytes, err
}
