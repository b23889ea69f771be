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
	r.arrive.Lock()
	defer r.arrive.Unlock()
	st := r.State()
	a := newArriving()
	var refused refusals
	defer func() { refused.tell(r, from) }()
	for _, b := range chunks {
		if chunk.IsSkip(b) {
			if err := r.takeSkip(a, from, &refused, b); err != nil {
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
		if err := r.take(a, sealed); err != nil {
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
func (r *Replica) take(a *arriving, sealed chunk.Sealed) error {
	h := sealed.Header()
	at := chunkRef{h.Scope, sealed.Log(), h.Counter}
	if at.Log == r.logID(at.Scope) {
		return nil // nobody tells this device what it wrote
	}
	head := a.head(r, at.Scope, at.Log)
	switch {
	case h.Counter <= head.Counter:
		if id, ok := a.taken[at]; ok && id != sealed.ID() {
			r.keepBranch(&a.batch, at, sealed)
		} else if !ok {
			return r.branch(&a.batch, at, sealed)
		}
		return nil
	case h.Counter == head.Counter+1 && h.Previous != head.ID:
		// It continues another branch of its log. The header proves that its author signed two histories.
		r.keepBranch(&a.batch, at, sealed)
		return nil
	case !sealed.Follows(head.ID, head.Counter):
		if h.Kind == chunk.KindCheckpoint {
			a.keepLoose(at, sealed)
		}
		return r.branchGoesOn(&a.batch, at, sealed)
	}
	a.advance(at.Scope, at.Log, tip{h.Counter, sealed.ID()})
	a.taken[at] = sealed.ID()
	a.batch.Put(storage.Chunk.Key(at.Scope, at.Log, at.Counter), sealed.Bytes())
	if h.Kind == chunk.KindCheckpoint {
		a.checkpoints[sealed.ID()] = sealed
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
		return nil
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
	r.mu.Unlock()
	*a = *newArriving()
	r.notify()
	return nil
}

// branch looks at a chunk whose counter is held already: the same chunk is no news, another one is a branch.
func (r *Replica) branch(batch *storage.Batch, at chunkRef, sealed chunk.Sealed) error {
	return r.store.View(func(v storage.Reader) error {
		have, err := readChunk(v, at.Scope, at.Log, at.Counter)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // a checkpoint stands for it, here or in this very batch
		}
		if err != nil {
			return fmt.Errorf("compare chunk: %w", err)
		}
		if have.ID() != sealed.ID() {
			r.keepBranch(batch, at, sealed)
		}
		return nil
	})
}

// branchGoesOn keeps a chunk that continues a branch of which the chunk before is kept already.
func (r *Replica) branchGoesOn(batch *storage.Batch, at chunkRef, sealed chunk.Sealed) error {
	return r.store.View(func(v storage.Reader) error {
		_, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter-1, sealed.Header().Previous))
		if err == nil {
			r.keepBranch(batch, at, sealed)
		}
		return ignoreNotFound(err)
	})
}

// keepBranch stores a chunk of a second history of a log beside the first: kept, passed on, not applied; the log says so.
func (r *Replica) keepBranch(batch *storage.Batch, at chunkRef, sealed chunk.Sealed) {
	id := sealed.ID()
	batch.Put(storage.Branch.Key(at.Scope, at.Log, at.Counter, id), sealed.Bytes())
	r.log.Warn("a log has two histories", "scope", at.Scope, "log", at.Log, "counter", at.Counter)
}
