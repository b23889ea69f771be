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
	var batch storage.Batch
	heads := map[trust.ScopeID]map[chunk.LogID]tip{}
	taken := map[chunkRef]chunk.ID{} // in batch
	for _, b := range chunks {
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
			r.log.Warn("a chunk is not accepted", "from", from, "chunk", sealed.ID(), "error", err)
			continue
		}
		h := sealed.Header()
		at := chunkRef{h.Scope, sealed.Log(), h.Counter}
		if at.Log == r.logID(at.Scope) {
			continue // nobody tells this device what it wrote
		}
		head, ok := heads[at.Scope][at.Log]
		if !ok {
			head = r.tip(at.Scope, at.Log)
		}
		switch {
		case h.Counter <= head.Counter:
			if id, ok := taken[at]; ok && id != sealed.ID() {
				r.keepBranch(&batch, at, sealed)
			} else if !ok {
				if err := r.branch(&batch, at, sealed); err != nil {
					return err
				}
			}
			continue
		case h.Counter == head.Counter+1 && h.Previous != head.ID:
			// It continues another branch of its log. The header proves that its author signed two histories.
			r.keepBranch(&batch, at, sealed)
			continue
		case !sealed.Follows(head.ID, head.Counter):
			if err := r.branchGoesOn(&batch, at, sealed); err != nil {
				return err
			}
			continue
		}
		if heads[at.Scope] == nil {
			heads[at.Scope] = map[chunk.LogID]tip{}
		}
		heads[at.Scope][at.Log] = tip{h.Counter, sealed.ID()}
		taken[at] = sealed.ID()
		batch.Put(storage.Chunk.Key(at.Scope, at.Log, at.Counter), sealed.Bytes())
		if batch.Size() > importCommitBytes {
			if err := r.commitArrived(ctx, &batch, heads); err != nil {
				return err
			}
			batch, heads = storage.Batch{}, map[trust.ScopeID]map[chunk.LogID]tip{}
			clear(taken)
		}
	}
	return r.commitArrived(ctx, &batch, heads)
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
func (r *Replica) commitArrived(ctx context.Context, batch *storage.Batch, heads map[trust.ScopeID]map[chunk.LogID]tip) error {
	if batch.Len() == 0 {
		return nil
	}
	ends := map[logRef]tip{}
	if err := r.store.View(func(v storage.Reader) error {
		for scope, logs := range heads {
			for log, p := range logs {
				ends[logRef{scope, log}] = onwards(v, scope, log, p)
				batch.Put(storage.LogHead.Key(scope, log), marshalTip(ends[logRef{scope, log}]))
			}
		}
		return nil
	}); err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	if err := r.store.Commit(ctx, batch); errors.Is(err, storage.ErrNoRoom) {
		return nil // not kept: the vector tells the peer so, which sends again ever more seldom
	} else if err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	r.mu.Lock()
	for ref, end := range ends {
		r.behindCursorLocked(ref.scope, ref.log, r.mu.tips[ref.scope][ref.log].Counter, heads[ref.scope][ref.log].Counter)
		r.advanceLocked(ref.scope, ref.log, end)
	}
	r.mu.Unlock()
	r.notify()
	return nil
}

// branch looks at a chunk whose counter is held already: the same chunk is no news, another one is a branch.
func (r *Replica) branch(batch *storage.Batch, at chunkRef, sealed chunk.Sealed) error {
	return r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Chunk.Key(at.Scope, at.Log, at.Counter))
		if err != nil {
			return fmt.Errorf("compare chunk: %w", err)
		}
		have, err := chunk.Parse(b)
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
