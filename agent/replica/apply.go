package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/fhir"
	"chartmesh/storage"
)

// One commit of the applier takes this much, so that a first sync does not fsync once a chunk and a single edit is not
// kept waiting.
const (
	applyChunks = 256
	applyBytes  = 2 << 20
)

// maxChunkOps caps the operations of all changes of a chunk, which take next to no bytes. Since it decides what is
// quarantined, it is the same on every device.
const maxChunkOps = 4 * crdt.MaxChangeOps

// Apply brings arrived chunks into their documents, a batch at most, and reports whether there may be more. It is what
// moves the stored cursors. A chunk that cannot be applied is held, with its reason, in the same commit that passes it.
func (r *Replica) Apply(ctx context.Context) (more bool, err error) {
	r.write.Lock()
	defer r.write.Unlock()
	if more, err := r.reviewCuts(ctx); more || err != nil {
		return more, err
	}
	if all, some := r.refilled.Swap(false), r.branched.Swap(false); all || some {
		if err := r.retryUnapplied(all); err != nil {
			return false, err
		}
	}
	if err := r.reviewErasures(ctx); err != nil {
		return false, err
	}
	most, err := r.beginApplying(ctx)
	if err != nil {
		return false, err
	}
	for {
		n, err := r.applyBatch(ctx, most)
		if errors.Is(err, storage.ErrTooLarge) && n > 1 {
			most = n - 1 // without the last one, which may fit alone
			continue
		}
		if n == 0 && err == nil {
			n, err = r.writeLost(ctx)
		}
		if n == 0 && err == nil {
			n, err = r.deleteErased(ctx)
		}
		if n == 0 && err == nil {
			err = r.removeCertified(ctx)
		}
		r.evict(ctx)
		return n > 0 && err == nil, err
	}
}

// applyBatch applies or holds at most so many chunks, and returns how many. What one of them alone is to blame for stops
// none of the others: it is remembered, and the chunk held as unapplied when its turn comes again.
func (r *Replica) applyBatch(ctx context.Context, most int) (n int, err error) {
	t := r.begin(ctx)
	var current storage.Ref
	fail := func(err error) (int, error) {
		if bad, ok := errors.AsType[*logs.Unreadable](err); ok {
			if bad.At != current && bad.At != (logs.Ref{Scope: current.Scope, Log: current.Log, Counter: current.Counter}).Main() { // one that came before in its document
				r.failing[t.judging] = reasonEarlier
			}
			return n, r.takeBack(ctx, bad.At, bad.Err)
		}
		if errors.Is(err, errAwaited) {
			r.failing[t.judging] = reasonEarlier
			return n, nil
		}
		if !blames(err) || ctx.Err() != nil {
			return n, err
		}
		r.log.Error("applying a chunk failed; it is kept and tried again after a restart", "log", t.judging.Log, "counter", t.judging.Counter, "error", err)
		r.failing[t.judging] = "this machine failed on it"
		return n, nil
	}
	// The documents of a batch stay open until its end: they, too, may not outgrow the budget by more than as much again.
	opened := r.docs.ops
	for n < most && t.batch.Size() < applyBytes && r.docs.ops-opened <= r.docs.limit && (n == 0 || !r.write.wanted()) {
		at, ok := t.next()
		if !ok {
			break
		}
		n++
		current = at
		if err := t.step(ctx, at); err != nil {
			t.abort(ctx)
			return fail(err)
		}
	}
	if n == 0 {
		return 0, nil
	}
	t.progress()
	if err := t.commit(ctx); err != nil {
		err = fmt.Errorf("commit applied chunks: %w", err)
		if n > 1 {
			return n, err
		}
		return fail(err)
	}
	r.starts.stuck, r.starts.cleared = 0, true
	return n, nil
}

// blames reports whether an error is about the chunk at hand and not about the machine.
func blames(err error) bool {
	return errors.Is(err, crdt.ErrEngine) || errors.Is(err, crdt.ErrNotLoaded) || errors.Is(err, storage.ErrTooLarge)
}

// Nothing that was woken is lost: what a commit leaves over stays in Replica.mu.woken, and after a crash Open wakes
// whatever is parked once more.

// next names the next chunk to apply: one that something woke, else one that stands beside those that a cursor comes to,
// else the first behind a cursor, which has no ID here.
func (t *transaction) next() (storage.Ref, bool) {
	if len(t.woken) > 0 {
		at := t.woken[0]
		t.woken = t.woken[1:]
		return at, true
	}
	r := t.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for t.turned < len(r.mu.Turns) {
		at := r.mu.Turns[t.turned]
		if !r.mu.BehindGapLocked(at) {
			t.turned++
			return at, true
		}
		r.mu.Turns = slices.Delete(r.mu.Turns, t.turned, t.turned+1)
		r.mu.Behind = append(r.mu.Behind, at)
	}
	for _, s := range r.State().Scopes() {
		for _, log := range r.mu.Vectors[s.ID].Logs() {
			done, ok := t.cursors[s.ID][log]
			if !ok {
				done = r.mu.applied[s.ID][log]
			}
			if done.Counter < r.mu.Vectors[s.ID][log].Counter {
				return storage.Ref{Scope: s.ID, Log: log, Counter: done.Counter + 1}, true
			}
		}
	}
	return storage.Ref{}, false
}

// step applies or holds what stands at one place of a log, and moves the cursor past it.
func (t *transaction) step(ctx context.Context, at storage.Ref) error {
	found, main, err := t.r.logs.At(at)
	if err != nil {
		return fmt.Errorf("read chunk to apply: %w", err)
	}
	sealed, passed := found.Chunk, found.Chunk.Position()
	if found.Skip != nil {
		passed = found.Skip.Position()
	}
	if !t.appliedPack(sealed) {
		if err := t.judge(ctx, logs.Ref{Scope: at.Scope, Log: sealed.Log(), Counter: sealed.Header().Counter}, sealed); err != nil {
			return err
		}
	}
	if found.Loose {
		t.batch.Delete(storage.Parked.Key(missingTurn, [32]byte{}, at))
		return nil
	}
	if !main {
		t.passBranch(at, sealed.Header())
		return nil
	}
	ref := logs.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter}
	// A loose checkpoint that was woken does not move the cursor, which has not come so far.
	if c := t.cursor(ref).Counter; c < passed.Counter && c+1 >= at.Counter && passed.Counter <= t.r.logs.Position(at.Scope, at.Log).Counter {
		if t.cursors[at.Scope] == nil {
			t.cursors[at.Scope] = chunk.Vector{}
		}
		t.cursors[at.Scope][at.Log] = passed
	}
	return nil
}

// appliedPack reports whether a chunk is a checkpoint, or an order to erase, that was applied before.
func (t *transaction) appliedPack(sealed chunk.Sealed) bool {
	return isPack(sealed) && (t.r.packs[sealed.ID()] || slices.Contains(t.packs, sealed.ID()))
}

// isPack reports whether many skips may rest on a chunk.
func isPack(sealed chunk.Sealed) bool {
	return sealed.Header().Kind == chunk.KindCheckpoint || sealed.IsErasure()
}

// judge applies or holds one chunk.
func (t *transaction) judge(ctx context.Context, at logs.Ref, sealed chunk.Sealed) (err error) {
	place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}
	t.judging = place
	t.r.blame(place)
	verdict, err := t.verdict(ctx, at, place, sealed)
	if err != nil {
		return err
	}
	if err := t.release(place); err != nil {
		return err
	}
	if verdict != nil {
		t.hold(place, verdict)
	} else if isPack(sealed) {
		t.packs = append(t.packs, sealed.ID())
	}
	return nil
}

func (t *transaction) cursor(at logs.Ref) chunk.Position {
	if p, ok := t.cursors[at.Scope][at.Log]; ok {
		return p
	}
	t.r.mu.Lock()
	defer t.r.mu.Unlock()
	return t.r.mu.applied[at.Scope][at.Log]
}

// heldAt returns why a chunk is held, as of this transaction; nil if it is not.
func (t *transaction) heldAt(at storage.Ref) (h *held, err error) {
	if h, ok := t.held[at]; ok {
		return h, nil
	}
	err = t.r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Held.Key(at))
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err == nil {
			h, err = parseHeld(b)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read held chunk: %w", err)
	}
	return h, nil
}

// hold stores why a chunk is not applied, and under what it waits for.
func (t *transaction) hold(at storage.Ref, h *held) {
	decided, err := t.decidedOn(at)
	if err != nil {
		t.broken = errors.Join(t.broken, err)
		return
	}
	before := t.before[at]
	if h.Class == classPolicy && h.About == "" {
		t.describeAt(h, at)
	}
	h.complete(before, decided, t.r.build, t.now)
	t.held[at] = h
	t.batch.Put(storage.Held.Key(at), h.marshal())
	if h.Missing.Kind != missingNothing {
		t.batch.Put(storage.Parked.Key(h.Missing.Kind, h.Missing.What, at), nil)
		t.waiting[h.Missing] = append(t.waiting[h.Missing], at)
		if h.Missing.Kind == missingSchema && t.r.newer != nil {
			t.r.newer[h.Document] = append(t.r.newer[h.Document], at)
		}
	}
	if n := t.counts.of(h.State); n != nil {
		*n++
	}
	if before == nil || before.State != h.State {
		t.events = append(t.events, Event{Kind: "chunk-" + h.State.String()})
	}
}

// release takes a chunk off the held ones; hold puts it back if it still is.
func (t *transaction) release(at storage.Ref) error {
	h, err := t.heldAt(at)
	if err != nil || h == nil {
		return err
	}
	t.before[at] = h
	t.held[at] = nil
	t.batch.Delete(storage.Held.Key(at))
	if h.Missing.Kind != missingNothing {
		t.batch.Delete(storage.Parked.Key(h.Missing.Kind, h.Missing.What, at))
	}
	if n := t.counts.of(h.State); n != nil {
		*n--
	}
	return nil
}

// of returns the count of a state; nil for what nobody need look at any more.
func (c *counts) of(s HeldState) *uint64 {
	switch s {
	case Parked:
		return &c.Parked
	case Quarantined:
		return &c.Quarantined
	case Discarded, Settled:
		return nil
	}
	return &c.Unapplied
}

// tryApply judges a chunk and applies its changes. A verdict that is not nil says why it is held. What it decides follows
// from the chunk and what it depends on, except for Unapplied, which is this machine's own trouble.
func (t *transaction) tryApply(ctx context.Context, at logs.Ref, sealed chunk.Sealed) (verdict *held, err error) {
	h := sealed.Header()
	opened, err := chunk.Open(t.r.keys, sealed)
	switch {
	case errors.Is(err, chunk.ErrNoKey):
		return park("its key has not arrived", missing{Kind: missingEpoch, What: h.Epoch}), nil
	case errors.Is(err, chunk.ErrNewer):
		return newer(), nil
	case errors.Is(err, chunk.ErrDamaged):
		return quarantine("it does not open"), nil
	case err != nil:
		return nil, err
	}
	if verdict, err = t.tryBody(ctx, at, sealed, opened); verdict != nil {
		t.describe(verdict, opened)
	}
	return verdict, err
}

// tryBody judges a chunk by its kind.
func (t *transaction) tryBody(ctx context.Context, at logs.Ref, sealed chunk.Sealed, opened chunk.Body) (*held, error) {
	switch body := opened.(type) {
	case *chunk.Cover:
		return nil, t.applyCover(sealed, body)
	case *chunk.Decision:
		return nil, t.takeDecision(at.Scope, sealed.ID(), sealed.Header().Device, body)
	case *chunk.Keys:
		return nil, t.takeKeys(at.Scope, sealed, body)
	case *chunk.Erasure:
		return t.takeErasure(ctx, sealed, body)
	case *chunk.Assent:
		return t.takeAssent(ctx, sealed, body)
	case *chunk.Changes, *chunk.Checkpoint, *chunk.Certificate:
	default:
		return newer(), nil
	}
	d, err := t.r.document(at.Scope, opened.DocumentID())
	if errors.Is(err, errOtherScope) {
		return quarantine("it names a document of another scope"), nil
	}
	if err != nil {
		return nil, err
	}
	if len(d.erased) > 0 {
		if d.erases(refOf(sealed)) {
			return nil, t.eraseAgain(d) // it waits to be deleted
		}
		return late(), nil
	}
	switch body := opened.(type) {
	case *chunk.Checkpoint:
		return t.applyCheckpoint(ctx, at, sealed, body, d)
	case *chunk.Certificate:
		place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}
		return t.takeCertificate(ctx, place, sealed.Header().Device, body, d)
	}
	return t.applyChanges(ctx, at, sealed, opened.(*chunk.Changes), d)
}

// reason gives an error's fixed part, which carries no payload.
func reason(err error) string {
	var refused *crdt.Refused
	if errors.As(err, &refused) {
		return refused.Reason
	}
	return err.Error()
}

// applyChanges applies a chunk's changes, all or none.
func (t *transaction) applyChanges(ctx context.Context, at logs.Ref, sealed chunk.Sealed, body *chunk.Changes, d *document) (*held, error) {
	if body.Schema > fhir.Schema {
		return newer(), nil
	}
	place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: sealed.ID()}
	if d.lock != "" {
		return t.applyProtected(ctx, at, place, sealed, body, d)
	}
	var raws [][]byte
	var list []appliedChange
	trial := d.index
	if len(body.Changes) > 1 { // judged one upon the other, without leaving a trace if one is held
		trial = crdt.NewIndex(d.id)
		for _, rec := range d.index.Records() {
			if err := trial.Add(rec); err != nil {
				return nil, err
			}
		}
	}
	ops := 0
	newest := map[byte]*crdt.Change{}
	for _, ch := range body.Changes {
		c, err := crdt.Decode(ch.Raw)
		if err != nil {
			return quarantine(reason(err)), nil
		}
		if ops += len(c.Ops); ops > maxChunkOps {
			return quarantine("it claims too many operations"), nil
		}
		if c.Actor != crdt.Actor(chunk.ActorOf(at.Log, d.id, ch.Branch)) {
			return quarantine("its actor is not its author's"), nil
		}
		newest[ch.Branch] = c
		rec, err := trial.Judge(c)
		var lacks *crdt.Missing
		var twice *crdt.Equivocation
		switch {
		case errors.Is(err, crdt.ErrKnown):
			continue
		case errors.As(err, &lacks) && d.isLost(c, trial):
			if d.anyRemoved() { // of which it may make some stand
				return t.contest(ctx, d, place, sealed, body, crdt.ChangeHash{})
			}
			return t.lose(d, place, sealed, body, lostBase)
		case errors.As(err, &twice):
			return t.contest(ctx, d, place, sealed, body, twice.Other)
		case errors.As(err, &lacks):
			return park("a change that it builds on has not arrived", missing{Kind: missingChange, What: d.notArrived(c, trial)}), nil
		case err != nil:
			return quarantine(reason(err)), nil
		}
		if trial != d.index {
			if err := trial.Add(rec); err != nil {
				return nil, err
			}
		}
		raws = append(raws, ch.Raw)
		list = append(list, appliedChange{
			Record: rec, Chunk: at, Device: sealed.Header().Device, Schema: body.Schema, TimeMillis: body.TimeMillis,
			Author: body.Author, Origin: body.Origin, ArrivedMillis: t.now.UnixMilli(), Replaces: body.Replaces,
		})
	}
	for _, a := range body.Authorship {
		if c := newest[a.Branch]; c == nil || c.Seq != a.Seq || c.Hash != a.Newest {
			return quarantine("its authorship names another change"), nil
		}
	}
	if len(raws) == 0 {
		return nil, nil
	}
	if t.endsAt(sealed.Header().Device, at.Scope) {
		return t.contest(ctx, d, place, sealed, body, crdt.ChangeHash{})
	}
	return t.applyJudged(ctx, d, raws, list, sealed.ID())
}

// applyJudged applies changes that were judged one upon the other.
func (t *transaction) applyJudged(ctx context.Context, d *document, raws [][]byte, list []appliedChange, from chunk.ID) (*held, error) {
	r := t.r
	t.docs[d.id] = d
	var st crdt.State
	err := r.engineCall(ctx, d, func() (err error) {
		st, err = r.engine.Apply(ctx, d.id, raws)
		return err
	})
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !errors.Is(err, crdt.ErrEngine):
		return nil, err
	default:
		r.log.Error("the engine failed on a chunk; it is kept and retried after a restart",
			"document", d.id, "chunk", from, "error", err)
		return unapplied("this machine's engine failed on it"), nil
	}
	records := make([]crdt.Record, len(list))
	for i, a := range list {
		records[i] = a.Record
		if err := t.record(d, a, raws[i]); err != nil {
			return nil, err
		}
		t.unlose(d, a.Record.Hash)
		if err := t.wake(missing{missingChange, a.Record.Hash}); err != nil {
			return nil, err
		}
	}
	if err := d.agrees(st); err != nil {
		return nil, err
	}
	_, err = t.refresh(ctx, d, records, false)
	return nil, err
}

// wake queues the chunks that waited for something, those of this very transaction too.
func (t *transaction) wake(m missing) error {
	t.woken = append(t.woken, t.waiting[m]...)
	delete(t.waiting, m)
	return t.r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Parked.With2(m.Kind, m.What), nil, func(key, _ []byte) error {
			_, _, at, err := storage.Parked.Parse(key)
			t.woken = append(t.woken, at)
			return err
		})
	})
}
