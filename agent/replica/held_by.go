package replica

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// holding is what stands in a log for one counter: a chunk, or a skip whose checkpoint is here.
type holding struct {
	tip    tip // where the log stands after it
	sealed chunk.Sealed
	skip   *chunk.Skip
}

// heldBy says by what a counter of a log is held: the one place that knows. errNotHeld, storage.ErrDamaged and
// chunk.ErrNewer say why it is not, or not readable.
func heldBy(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (holding, error) {
	sealed, err := readChunk(v, scope, log, counter)
	if err == nil {
		if h := sealed.Header(); h.Scope != scope || sealed.Log() != log || h.Counter != counter {
			return holding{}, fmt.Errorf("read chunk: %w: it stands in another's place", storage.ErrDamaged)
		}
		return holding{tip: tip{counter, sealed.ID()}, sealed: sealed}, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return holding{}, fmt.Errorf("read chunk: %w", err)
	}
	skip, found, err := readSkip(v, scope, log, counter)
	if err != nil {
		return holding{}, fmt.Errorf("read chunk: %w", err)
	}
	if !found {
		return holding{}, errNotHeld
	}
	sealed, err = readCheckpoint(v, scope, skip.Checkpoint)
	if errors.Is(err, storage.ErrNotFound) {
		return holding{}, errNotHeld
	}
	if err != nil {
		return holding{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return holding{tip: tip{skip.To, skip.Last}, sealed: sealed, skip: &skip}, nil
}

// follows reports whether h comes right after a log that ends at head.
func (h holding) follows(head tip) bool {
	if h.skip != nil {
		covers, err := h.sealed.Covers()
		run, ok := covers.Find(h.skip.Log, h.skip.To)
		return err == nil && ok && run.Joins(head.position())
	}
	return h.sealed.Follows(head.ID, head.Counter)
}

// onwards returns where a log ends that is held up to head, given what is stored behind it. That is more than nothing
// after a repair: chunks beyond a gap are kept, and counted when the gap is filled.
func onwards(v storage.Reader, scope trust.ScopeID, log chunk.LogID, head tip) tip {
	for {
		h, err := heldBy(v, scope, log, head.Counter+1)
		if err != nil || !h.follows(head) {
			return head
		}
		head = h.tip
	}
}
