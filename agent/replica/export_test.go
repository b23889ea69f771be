package replica

import (
	"chartmesh/chunk"
	"chartmesh/trust"
)

// ManySaid has many devices say how far they hold many logs.
func (r *Replica) ManySaid(scope trust.ScopeID, devices, logs int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for d := range devices {
		s := r.statementLocked(trust.DeviceID{1, byte(d)}, scope)
		for l := range logs {
			s.log(chunk.LogID{byte(l), byte(l >> 8)}).raise(chunk.Position{Counter: 1})
		}
	}
}

// OrdersAtMost has an order to erase name so many runs and chunks at most.
func OrdersAtMost(runs, chunks int) (restore func()) {
	r, c := maxOrderedRuns, maxOrderedChunks
	maxOrderedRuns, maxOrderedChunks = runs, chunks
	return func() { maxOrderedRuns, maxOrderedChunks = r, c }
}
