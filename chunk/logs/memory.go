package logs

import (
	"crypto/sha256"
	"maps"
	"slices"
	"sync"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Memory is what a Set keeps at hand of what is durable. Whoever reads or changes it holds its lock, as do the callers of its
// methods; a Follower may guard memory of its own with it, so that the two fit together at any time.
type Memory struct {
	sync.Mutex
	Vectors map[trust.ScopeID]chunk.Vector          // durable prefixes of the main histories
	Ends    map[trust.ScopeID]map[chunk.LogID]End   // the same with the whole ID of each last chunk
	Forks   map[trust.ScopeID]map[chunk.LogID]*Fork // of the logs that have several histories
	Turns   []storage.Ref                           // chunks beside the main histories that the Follower has not looked at
	Behind  []storage.Ref                           // of those, the ones that hang behind a gap: their turn comes when it is closed
}

func newMemory() *Memory {
	return &Memory{
		Vectors: map[trust.ScopeID]chunk.Vector{}, Ends: map[trust.ScopeID]map[chunk.LogID]End{},
		Forks: map[trust.ScopeID]map[chunk.LogID]*Fork{},
	}
}

// AddScopeLocked has room for a scope's logs.
func (m *Memory) AddScopeLocked(scope trust.ScopeID) {
	if m.Vectors[scope] == nil {
		m.Vectors[scope], m.Ends[scope] = chunk.Vector{}, map[chunk.LogID]End{}
	}
}

// AdvanceLocked counts what has become durable of a log's main history.
func (m *Memory) AdvanceLocked(scope trust.ScopeID, log chunk.LogID, to End) {
	m.AddScopeLocked(scope)
	m.Ends[scope][log] = to
	m.Vectors[scope][log] = to.Position()
}

// forkLocked returns what stands beside a log's main history, made if need be.
func (m *Memory) forkLocked(scope trust.ScopeID, log chunk.LogID) *Fork {
	if m.Forks[scope] == nil {
		m.Forks[scope] = map[chunk.LogID]*Fork{}
	}
	f := m.Forks[scope][log]
	if f == nil {
		f = newFork()
		m.Forks[scope][log] = f
	}
	return f
}

// tidyLocked forgets a fork of which nothing is left: the log has one history again, as it is told elsewhere.
func (m *Memory) tidyLocked(scope trust.ScopeID, log chunk.LogID) {
	if f := m.Forks[scope][log]; f != nil {
		if f.reach = nil; len(f.nodes)+len(f.gone) == 0 {
			delete(m.Forks[scope], log)
		}
	}
}

// VectorLocked is what a scope's vector says: of a log with branches its longest history, whichever came first.
func (m *Memory) VectorLocked(scope trust.ScopeID) chunk.Vector {
	v := maps.Clone(m.Vectors[scope])
	for log, f := range m.Forks[scope] {
		v[log] = longest(f.Leaves(m.Ends[scope][log])).Position()
		if v[log].Counter == 0 { // all of it lies behind a gap
			delete(v, log)
		}
	}
	return v
}

// HashLocked names all that is held of a scope, branches too (docs/spec/log-and-vector.md).
func (m *Memory) HashLocked(scope trust.ScopeID) [32]byte {
	forks := m.Forks[scope]
	if len(forks) == 0 {
		return m.Vectors[scope].Hash()
	}
	hash := m.VectorLocked(scope).Hash()
	var w wire.Writer
	w.String("chartmesh held 1")
	w.Raw(hash[:])
	several := false
	for _, log := range slices.SortedFunc(maps.Keys(forks), chunk.LogID.Compare) {
		if leaves := forks[log].Leaves(m.Ends[scope][log]); len(leaves) > 1 {
			several = true
			w.Raw(log[:])
			print := printOf(leaves)
			w.Raw(print[:])
		}
	}
	if !several {
		return hash
	}
	return sha256.Sum256(w.Bytes())
}

// BesideLocked reports whether a place is that of a chunk beside the main history of its log.
func (m *Memory) BesideLocked(at storage.Ref) bool {
	f := m.Forks[at.Scope][at.Log]
	if f == nil {
		return false
	}
	_, ok := f.nodes[at.ID]
	return ok
}

// BehindGapLocked reports whether a chunk that stands beside the main history of its log hangs behind a gap. What it says is no
// part of the documents until the gap is closed, as of what is kept behind the main history's end: else they would differ
// between devices that hold the same, by where each of them keeps it.
func (m *Memory) BehindGapLocked(at storage.Ref) bool {
	return m.BesideLocked(at) && !m.Forks[at.Scope][at.Log].held(m.Ends[at.Scope][at.Log])[at.ID]
}

// recallLocked gives the chunks their turn that hung behind a gap which is closed.
func (m *Memory) recallLocked() {
	m.Behind = slices.DeleteFunc(m.Behind, func(at storage.Ref) bool {
		closed := !m.BehindGapLocked(at)
		if closed {
			m.Turns = append(m.Turns, at)
		}
		return closed
	})
}

// forgetTurnsLocked takes chunks off those that have not been looked at.
func (m *Memory) forgetTurnsLocked(is func(storage.Ref) bool) {
	m.Turns, m.Behind = slices.DeleteFunc(m.Turns, is), slices.DeleteFunc(m.Behind, is)
}
