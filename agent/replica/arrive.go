package replica

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Arrive takes chunks that a peer sent: each is verified against the membership log and its place in its log, and those
// that continue a log are committed. When Arrive returns nil, what the vectors then name is durable. Chunks that are
// known, that leave a gap, or that this device cannot judge yet are passed over; the vector tells the peer so.
func (r *Replica) Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) error {
	if len(chunks) == 0 {
		return nil
	}
	if err := r.judgeOwn(ctx, from, chunks); err != nil {
		return err
	}
	var refused refusals
	if err := r.arriveAll(ctx, from, chunks, &refused); err != nil {
		return err
	}
	for _, skip := range refused.apart {
		if err := r.rejoin(ctx, skip); err != nil {
			return err
		}
	}
	return nil
}

func (r *Replica) arriveAll(ctx context.Context, from trust.DeviceID, chunks [][]byte, refused *refusals) error {
	r.arrive.Lock()
	defer r.arrive.Unlock()
	st := r.State()
	a := newArriving()
	defer func() { refused.tell(r, from, "chunks are not accepted") }()
	for _, b := range chunks {
		if a.joins {
			if err := r.commitArrived(ctx, a); err != nil {
				return err
			}
		}
		if chunk.IsSkip(b) {
			if err := r.takeSkip(ctx, a, refused, from, b); err != nil {
				return err
			}
			continue
		}
		sealed, err := chunk.Parse(b)
		if errors.Is(err, chunk.ErrNewer) {
			continue // for a later version of this program; the vector keeps asking for it
		}
		if err != nil {
			return fmt.Errorf("chunk from %v: %w", from, err)
		}
		switch err := sealed.Verify(st); {
		case errors.Is(err, chunk.ErrUnknownAuthor):
			continue // its membership entry is on the way; the peer sends again what our vector lacks
		case err != nil:
			// Whoever relays it may be honest and know another membership; what else it sends is welcome.
			refused.add(sealed.ID(), err)
			continue
		}
		if h := sealed.Header(); h.Counter == 1 {
			ok, err := r.mayBegin(h.Scope, sealed.Log(), h.Device)
			if err != nil {
				return err
			}
			if !ok {
				refused.add(sealed.ID(), errTooManyLogs)
				continue
			}
		}
		if err := r.take(ctx, a, sealed); err != nil {
			return err
		}
		if a.batch.Size() > importCommitBytes {
			if err := r.commitArrived(ctx, a); err != nil {
				return err
			}
		}
	}
	return r.commitArrived(ctx, a)
}

// take puts a verified chunk where it belongs: at the end of its log, beside it, or nowhere.
func (r *Replica) take(ctx context.Context, a *arriving, sealed chunk.Sealed) error {
	h := sealed.Header()
	at := chunkRef{h.Scope, sealed.Log(), h.Counter}
	if head := a.head(r, at.Scope, at.Log); !sealed.Follows(head.ID, head.Counter) {
		// Known, or of another history of its log, or out of order.
		if a.skips[logRef{at.Scope, at.Log}] { // what it is compared with is in the batch
			if err := r.commitArrived(ctx, a); err != nil {
				return err
			}
		}
		placed, err := r.branch(a, at, sealed)
		if err == nil && !placed {
			a.keepLoose(at, sealed)
		}
		a.noteCut(r.State(), sealed, true)
		return err
	}
	if beside, err := r.besideKept(a, at, sealed); err != nil {
		return err
	} else if beside {
		_, err := r.branch(a, at, sealed)
		a.noteCut(r.State(), sealed, true)
		return err
	}
	a.noteCut(r.State(), sealed, false)
	a.advance(at.Scope, at.Log, tip{h.Counter, sealed.ID()})
	a.taken[at] = sealed.ID()
	a.batch.Put(storage.Chunk.Key(at.Scope, at.Log, at.Counter), sealed.Bytes())
	if h.Kind == chunk.KindCheckpoint || h.Kind == chunk.KindCover {
		a.proofs[sealed.ID()] = sealed
		a.batch.Delete(storage.Loose.Key(at.Scope, at.Log, at.Counter, sealed.ID()))
	}
	return nil
}

func (r *Replica) position(scope trust.ScopeID, log chunk.LogID) chunk.Position {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.vectors[scope][log]
}

func (r *Replica) tip(scope trust.ScopeID, log chunk.LogID) tip {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.tips[scope][log]
}

// commitArrived makes chunks durable, and only then counts them.
func (r *Replica) commitArrived(ctx context.Context, a *arriving) error {
	if a.batch.Len() == 0 {
		return nil
	}
	ends := map[logRef]tip{}
	if err := r.store.View(func(v storage.Reader) error {
		for scope, logs := range a.heads {
			for log, p := range logs {
				ends[logRef{scope, log}] = onwards(v, scope, log, p)
				a.batch.Put(storage.LogHead.Key(scope, log), marshalTip(ends[logRef{scope, log}]))
			}
		}
		return r.adoptAll(v, a, ends)
	}); err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	if err := r.store.Commit(ctx, &a.batch); errors.Is(err, storage.ErrNoRoom) {
		*a = *newArriving()
		return nil // not kept: the vector tells the peer so, which sends again ever more seldom
	} else if err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	r.mu.Lock()
	for ref, end := range ends {
		r.behindCursorLocked(ref.scope, ref.log, r.mu.tips[ref.scope][ref.log].Counter, a.heads[ref.scope][ref.log].Counter)
		r.advanceLocked(ref.scope, ref.log, end)
	}
	for at, nodes := range a.branches {
		for id, n := range nodes {
			r.growLocked(at.Scope, at.Log, id, n)
		}
	}
	if r.mu.turns = append(r.mu.turns, a.turns...); len(a.turns) > 0 {
		r.branched.Store(true)
	}
	r.mu.Unlock()
	if a.recut {
		r.recut.Add(1)
	}
	err := r.findGone(a.logs())
	*a = *newArriving()
	r.notify()
	return err
}

// branch keeps a chunk that does not continue what is held of its log, if it is new and the one before it is held: it is
// stored beside the others, passed on, and applied as they are. It reports whether the chunk is here now, or was.
func (r *Replica) branch(a *arriving, at chunkRef, sealed chunk.Sealed) (placed bool, err error) {
	id, previous := sealed.ID(), sealed.Header().Previous
	stored := r.tip(at.Scope, at.Log)
	held := func(v storage.Reader, at chunkRef, id chunk.ID) (bool, error) {
		if _, ok := a.branches[at][id]; ok || a.taken[at] == id {
			return true, nil
		}
		if at.Counter <= stored.Counter {
			have, err := (&history{v: v, scope: at.Scope, log: at.Log}).at(at.Counter)
			if err != nil || have == chunk.At(at.Counter, id) {
				return err == nil, err
			}
		}
		return hasBranch(v, at, id)
	}
	err = r.store.View(func(v storage.Reader) error {
		known, err := held(v, at, id)
		if errors.Is(err, storage.ErrDamaged) {
			return nil // what it is compared with is being repaired; until then the peer is asked for both
		}
		if err != nil {
			return fmt.Errorf("compare chunk: %w", err)
		}
		follows := at.Counter == 1
		if !known && !follows {
			if follows, err = held(v, chunkRef{at.Scope, at.Log, at.Counter - 1}, previous); errors.Is(err, storage.ErrDamaged) {
				return nil
			} else if err != nil {
				return fmt.Errorf("compare chunk: %w", err)
			}
		}
		if placed = known || follows; known || !follows {
			return nil
		}
		a.putBranch(at, sealed)
		return nil
	})
	return placed, err
}
