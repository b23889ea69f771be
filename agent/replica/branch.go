package replica

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A log that was written twice (a copy that was not noticed, a machine rolled back, a dishonest device) is a tree: each
// chunk names the one before it, and a chunk is only kept when that one is. What came first of each fork stands under
// storage.Chunk and is counted by the log head and the cursor, all others under storage.Branch. Which is which depends on
// the order of arrival, so nothing that is shown or told may: a tree is told by its leaves.

// fork is what stands beside the chunks that log head and cursor count, in memory.
type fork struct{ nodes map[chunk.ID]node }

type node struct {
	counter uint64
	parent  chunk.ID
}

// leaves returns the tree's ends, ascending by counter and ID. The main history ends in one of its own.
func (f *fork) leaves(head tip) []tip {
	inner := map[chunk.ID]bool{}
	for _, n := range f.nodes {
		inner[n.parent] = true
	}
	out := []tip{head}
	for id, n := range f.nodes {
		if !inner[id] {
			out = append(out, tip{n.counter, id})
		}
	}
	slices.SortFunc(out, compareTips)
	return out
}

func compareTips(a, b tip) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.ID[:], b.ID[:]))
}

// longest returns the leaf that stands for the log in a vector: the farthest, and of equally far ones the smallest.
func longest(leaves []tip) tip {
	best := leaves[len(leaves)-1]
	for _, l := range slices.Backward(leaves) {
		if l.Counter == best.Counter {
			best = l
		}
	}
	return best
}

// printOf names a tree.
func printOf(leaves []tip) [32]byte {
	var w wire.Writer
	w.String("chartmesh branches 1")
	for _, l := range leaves {
		w.Uvarint(l.Counter)
		w.Raw(l.ID[:])
	}
	return sha256.Sum256(w.Bytes())
}

// loadForks reads the logs that have branches.
func (r *Replica) loadForks(v storage.Reader) error {
	r.mu.forks = map[trust.ScopeID]map[chunk.LogID]*fork{}
	if err := v.Scan(storage.Branch.All(), nil, func(key, value []byte) error {
		scope, log, counter, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		sealed, err := chunk.Parse(bytes.Clone(value))
		if err != nil {
			return err
		}
		r.growLocked(scope, log, id, node{counter, sealed.Header().Previous})
		return nil
	}); err != nil {
		return fmt.Errorf("read branches: %w", err)
	}
	return nil
}

func (r *Replica) growLocked(scope trust.ScopeID, log chunk.LogID, id chunk.ID, n node) {
	if r.mu.forks[scope] == nil {
		r.mu.forks[scope] = map[chunk.LogID]*fork{}
	}
	if r.mu.forks[scope][log] == nil {
		r.mu.forks[scope][log] = &fork{nodes: map[chunk.ID]node{}}
		r.log.Warn("a log has more than one history; all of it is kept", "scope", scope, "log", log, "counter", n.counter)
	}
	r.mu.forks[scope][log].nodes[id] = n
}

// heldVectorLocked is what a scope's vector says: of a log with branches its longest history, whichever came first.
func (r *Replica) heldVectorLocked(scope trust.ScopeID) chunk.Vector {
	v := maps.Clone(r.mu.vectors[scope])
	for log, f := range r.mu.forks[scope] {
		v[log] = longest(f.leaves(r.mu.tips[scope][log])).position()
	}
	return v
}

// heldHashLocked names all that is held of a scope, branches too (docs/spec/log-and-vector.md).
func (r *Replica) heldHashLocked(scope trust.ScopeID) [32]byte {
	forks := r.mu.forks[scope]
	if len(forks) == 0 {
		return r.mu.vectors[scope].Hash()
	}
	var w wire.Writer
	w.String("chartmesh held 1")
	hash := r.heldVectorLocked(scope).Hash()
	w.Raw(hash[:])
	for _, log := range slices.SortedFunc(maps.Keys(forks), chunk.LogID.Compare) {
		w.Raw(log[:])
		print := printOf(forks[log].leaves(r.mu.tips[scope][log]))
		w.Raw(print[:])
	}
	return sha256.Sum256(w.Bytes())
}

// Forks names the histories of each log of a scope that has several: equal trees have equal names.
func (r *Replica) Forks(scope trust.ScopeID) map[chunk.LogID][32]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.mu.forks[scope]) == 0 {
		return nil
	}
	out := map[chunk.LogID][32]byte{}
	for log, f := range r.mu.forks[scope] {
		out[log] = printOf(f.leaves(r.mu.tips[scope][log]))
	}
	return out
}

// forked reports whether a log has several histories.
func (r *Replica) forked(scope trust.ScopeID, log chunk.LogID) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.forks[scope][log] != nil
}

// forkOf returns a copy of what stands beside a log's main history, and where that ends.
func (r *Replica) forkOf(scope trust.ScopeID, log chunk.LogID) (*fork, tip) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f := &fork{}
	if have := r.mu.forks[scope][log]; have != nil {
		f.nodes = maps.Clone(have.nodes)
	}
	return f, r.mu.tips[scope][log]
}

// Locators describes what is held of a log, so that a peer finds where its own histories leave it: of every history its
// end, and chunks below it at growing distances.
func (r *Replica) Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	f, head := r.forkOf(scope, log)
	seen := map[chunk.Position]bool{}
	var out []chunk.Position
	add := func(p chunk.Position) {
		if p.Counter > 0 && !seen[p] && len(out) < session.MaxLocators {
			seen[p] = true
			out = append(out, p)
		}
	}
	from := map[uint64]bool{head.Counter: true} // where to go down the main history
	for _, at := range f.leaves(head) {
		next, step := at.Counter, uint64(1)
		var branch []chunk.Position
		for {
			n, ok := f.nodes[at.ID]
			if !ok {
				// What lies beyond the head is kept and not counted: the peer must not take what is below it for known.
				if at.Counter <= head.Counter {
					from[at.Counter] = true
					for _, p := range branch {
						add(p)
					}
				}
				break
			}
			if at.Counter == next {
				branch = append(branch, at.position())
				next -= min(next, step)
				step *= 2
			}
			at = tip{n.counter - 1, n.parent}
		}
	}
	add(head.position())
	err := r.store.View(func(v storage.Reader) error {
		for at := range from {
			for step := uint64(1); at > 0; step *= 2 {
				p, err := mainPosition(v, scope, log, at)
				if err != nil {
					return err
				}
				add(p)
				at -= min(at, step)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("describe a log: %w", err)
	}
	slices.SortFunc(out, comparePositions)
	return out, nil
}

func comparePositions(a, b chunk.Position) int {
	return cmp.Or(cmp.Compare(a.Counter, b.Counter), bytes.Compare(a.Tip[:], b.Tip[:]))
}

// mainPosition returns where the main history stands at a counter; zero if that is not held, or does not read.
func mainPosition(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	p, err := (&history{v: v, scope: scope, log: log}).at(counter)
	if errors.Is(err, storage.ErrDamaged) { // errNotHeld, too
		return chunk.Position{}, nil
	}
	return p, err
}

// history reads where a log's main history stands, at one counter after another.
type history struct {
	v     storage.Reader
	scope trust.ScopeID
	log   chunk.LogID
	run   chunk.Covered // what a checkpoint stands for, as read last
}

// at returns where the main history stands at a counter; errNotHeld if there is neither a chunk nor what stands for it.
func (h *history) at(counter uint64) (chunk.Position, error) {
	if counter == 0 {
		return chunk.Position{}, nil
	}
	sealed, err := readChunk(h.v, h.scope, h.log, counter)
	if err == nil {
		return sealed.Position(), nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return chunk.Position{}, err
	}
	if counter < h.run.From || counter > h.run.To {
		if err := h.readRun(counter); err != nil {
			return chunk.Position{}, err
		}
	}
	tip, _ := h.run.TipAt(counter)
	return chunk.Position{Counter: counter, Tip: tip}, nil
}

// readRun reads what a skip over a counter stands for.
func (h *history) readRun(counter uint64) error {
	skip, found, err := readSkip(h.v, h.scope, h.log, counter)
	if err != nil {
		return err
	}
	if !found {
		return errNotHeld
	}
	sealed, err := readCheckpoint(h.v, h.scope, skip.Checkpoint)
	if errors.Is(err, storage.ErrNotFound) {
		return errNotHeld
	}
	if err != nil {
		return err
	}
	covers, err := sealed.Covers()
	if err != nil {
		return fmt.Errorf("read checkpoint: %w: %w", storage.ErrDamaged, err)
	}
	run, ok := covers.Find(h.log, counter)
	if !ok {
		return fmt.Errorf("read checkpoint: %w: a skip names it, and it does not cover that", storage.ErrDamaged)
	}
	h.run = run
	return nil
}

// Beyond returns what is held of a log, of all its histories, that is neither at the given positions nor below one of them:
// the main history, then the others, ascending, at least one item if there is one, and no more than fit maxBytes.
func (r *Replica) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) (out []session.Item, err error) {
	f, head := r.forkOf(scope, log)
	err = r.store.View(func(v storage.Reader) error {
		known, rest := f.split(has)
		for _, p := range has {
			if p.Counter > known && p.Counter <= head.Counter {
				at, err := mainPosition(v, scope, log, p.Counter)
				if err != nil {
					return err
				}
				if at == p {
					known = p.Counter
				}
			}
		}
		if out, err = items(v, scope, log, known, head.Counter, maxBytes); err != nil {
			return err
		}
		size := 0
		for _, it := range out {
			size += len(it.Bytes)
		}
		if n := len(out); n > 0 && out[n-1].Counter < head.Counter || n > 0 && out[n-1].Loose {
			return nil
		}
		for _, end := range rest {
			b, err := v.Get(storage.Branch.Key(scope, log, end.Counter, end.ID))
			if err != nil {
				return err
			}
			if len(out) > 0 && size+len(b) > maxBytes {
				return nil
			}
			out = append(out, session.Item{Bytes: b, Log: log, Counter: end.Counter})
			size += len(b)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read branches: %w", err)
	}
	return out, nil
}

// split returns how far the main history is known for sure to who holds the given positions, by where the branches that
// are known to them leave it, and the chunks of branches that are not known, ascending.
func (f *fork) split(has []chunk.Position) (main uint64, rest []tip) {
	at := map[chunk.Position]chunk.ID{}
	for id, n := range f.nodes {
		at[chunk.At(n.counter, id)] = id
	}
	known := map[chunk.ID]bool{}
	for _, p := range has {
		for id, ok := at[p]; ok && !known[id]; {
			known[id] = true
			n := f.nodes[id]
			id = n.parent
			if _, ok = f.nodes[id]; !ok {
				main = max(main, n.counter-1)
			}
		}
	}
	for id, n := range f.nodes {
		if !known[id] {
			rest = append(rest, tip{n.counter, id})
		}
	}
	slices.SortFunc(rest, compareTips)
	return main, rest
}

// storedAt reads what a place names; main says that it is what log head and cursor count. A place without an ID names that.
func (r *Replica) storedAt(at storage.Ref) (found stored, main bool, err error) {
	err = r.store.View(func(v storage.Reader) error {
		if at.ID != [32]byte{} {
			b, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter, at.ID))
			if err == nil {
				found.chunk, err = chunk.Parse(b)
				return err
			}
			if !errors.Is(err, storage.ErrNotFound) {
				return err
			}
		}
		main = true
		found, err = readStored(v, chunkRef{at.Scope, at.Log, at.Counter})
		return err
	})
	return found, main, err
}

// sealedAt reads the chunk that a place names.
func (r *Replica) sealedAt(at storage.Ref) (chunk.Sealed, error) {
	found, _, err := r.storedAt(at)
	return found.chunk, err
}

// rawAt finds a change among what stands at one place of a log, and the chunk that holds it. Usually there is one.
func (r *Replica) rawAt(v storage.Reader, at chunkRef, hash [32]byte) (raw []byte, sealed chunk.Sealed, err error) {
	look := func(s chunk.Sealed) error {
		opened, err := chunk.Open(r.keys, s)
		if err != nil {
			return fmt.Errorf("open chunk: %w", err)
		}
		for _, p := range partsOf(s, opened) {
			for _, c := range p.Changes {
				if h, ok := hashOf(c.Raw); ok && h == hash {
					raw, sealed = c.Raw, s
				}
			}
		}
		return nil
	}
	found, err := readStored(v, at)
	if err == nil {
		err = look(found.chunk)
	} else if errors.Is(err, errNotHeld) {
		err = nil // beyond the main history's end
	}
	if err != nil || raw != nil {
		return raw, sealed, err
	}
	start := storage.Branch.Key(at.Scope, at.Log, at.Counter, chunk.ID{})
	err = v.Scan(storage.Branch.With2(at.Scope, at.Log), start, func(key, value []byte) error {
		_, _, counter, _, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		if counter != at.Counter || raw != nil {
			return storage.ErrStop
		}
		s, err := chunk.Parse(bytes.Clone(value))
		if err != nil {
			return err
		}
		return look(s)
	})
	if err == nil && raw == nil {
		err = fmt.Errorf("%w: a chunk lacks the change that its record names", storage.ErrDamaged)
	}
	return raw, sealed, err
}

// part is what one CHANGES chunk held, whoever packed it.
type part struct {
	chunk.Part
	device trust.DeviceID
	at     chunkRef
}

// partsOf returns the changes in a chunk: its own, or those that it packs.
func partsOf(sealed chunk.Sealed, body chunk.Body) []part {
	at := chunkRef{sealed.Header().Scope, sealed.Log(), sealed.Header().Counter}
	switch body := body.(type) {
	case *chunk.Changes:
		return []part{{chunk.PartOf(body, 0, at.Counter), sealed.Header().Device, at}}
	case *chunk.Checkpoint:
		list := make([]part, len(body.Parts))
		for i, p := range body.Parts {
			list[i] = part{p, body.Logs[p.Log].Device, at}
		}
		return list
	}
	return nil
}

// readTurns returns the chunks of other histories that have not been looked at.
func readTurns(v storage.Reader) (turns []storage.Ref, err error) {
	err = v.Scan(storage.Parked.With(missingTurn), nil, func(key, _ []byte) error {
		_, _, at, err := storage.Parked.Parse(key)
		turns = append(turns, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read chunks beside others: %w", err)
	}
	return turns, nil
}
