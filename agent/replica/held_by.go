package replica

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// errNotHeld says that nothing stands for a counter of a log.
var errNotHeld = errors.New("it is not held")

// holding is what stands in a log for one counter.
type holding struct {
	tip    tip
	sealed chunk.Sealed
}

// heldBy says by what a counter of a log is held: the one place that knows. errNotHeld, storage.ErrDamaged and
// chunk.ErrNewer say why it is not, or not readable.
func heldBy(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (holding, error) {
	b, err := v.Get(storage.Chunk.Key(scope, log, counter))
	if errors.Is(err, storage.ErrNotFound) {
		return holding{}, errNotHeld
	}
	if err != nil {
		return holding{}, fmt.Errorf("read chunk: %w", err)
	}
	sealed, err := chunk.Parse(b)
	if err != nil {
		return holding{}, fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, err)
	}
	if h := sealed.Header(); h.Scope != scope || sealed.Log() != log || h.Counter != counter {
		return holding{}, fmt.Errorf("read chunk: %w: it stands in another's place", storage.ErrDamaged)
	}
	return holding{tip{counter, sealed.ID()}, sealed}, nil
}

// follows reports whether h comes right after a log that ends at head.
func (h holding) follows(head tip) bool { return h.sealed.Follows(head.ID, head.Counter) }

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
