package replica

import (
	"bytes"
	"cmp"
	"context"
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
type fork struct {
	nodes map[chunk.ID]node
	gone  map[chunk.ID]uint64 // damaged chunks that have not come again, with their counters

	reach   map[chunk.ID]bool // what held found, until something changes; nil: not known
	reachAt tip
}

type node struct {
	counter uint64
	parent  chunk.ID
}

// leaves returns the tree's ends, ascending by counter and ID. What lies behind a gap is kept and not part of it. The main
// history ends in one of its own, unless its end was taken back and another history goes on from where it stands now.
func (f *fork) leaves(head tip) []tip {
	inner, ends := map[chunk.ID]bool{}, make([]tip, 0, len(f.nodes))
	held := f.held(head)
	for id := range held {
		inner[f.nodes[id].parent] = true
	}
	for id := range held {
		if !inner[id] {
			ends = append(ends, tip{f.nodes[id].counter, id})
		}
	}
	if !inner[head.ID] {
		ends = append(ends, head)
	}
	slices.SortFunc(ends, compareTips)
	return ends
}

// held returns the chunks beside the main history of which every one before is held.
func (f *fork) held(head tip) map[chunk.ID]bool {
	if f.reach != nil && f.reachAt == head {
		return f.reach
	}
	held, left := make(map[chunk.ID]bool, len(f.nodes)), make(map[chunk.ID]bool)
	for id := range f.nodes {
		var path []chunk.ID
		at, n := id, f.nodes[id]
		var ok bool
		for {
			if held[at] || left[at] {
				ok = held[at]
				break
			}
			path = append(path, at)
			next, within := f.nodes[n.parent]
			if !within {
				ok = n.counter <= head.Counter+1 && !f.lacks(n.parent)
				break
			}
			at, n = n.parent, next
		}
		for _, p := range path {
			if ok {
				held[p] = true
			} else {
				left[p] = true
			}
		}
	}
	f.reach, f.reachAt = held, head
	return held
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

// printOf names a tree: one with a single end, as a log that was never forked, by that.
func printOf(leaves []tip) (print [32]byte) {
	if len(leaves) == 1 {
		p := leaves[0].position()
		copy(print[:], p.Tip[:])
		return print
	}
	var w wire.Writer
	w.String("chartmesh branches 1")
	for _, l := range leaves {
		w.Uvarint(l.Counter)
		w.Raw(l.ID[:])
	}
	return sha256.Sum256(w.Bytes())
}

// loadForks reads the logs that have branches, and returns the chunks of them that do not read.
func (r *Replica) loadForks(v storage.Reader) (damaged []*unreadable, err error) {
	r.mu.forks = map[trust.ScopeID]map[chunk.LogID]*fork{}
	err = v.Keys(storage.Branch.All(), nil, func(key []byte) error {
		scope, log, counter, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		at := storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}
		sealed, err := readBranch(v, at)
		if err == nil {
			r.growLocked(scope, log, id, node{counter, sealed.Header().Previous})
			return nil
		}
		bad, ok := errors.AsType[*unreadable](unreadableAs(at, err))
		if ok {
			damaged, err = append(damaged, bad), nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read branches: %w", err)
	}
	if err := r.loadGone(v); err != nil {
		return nil, fmt.Errorf("read what branches lack: %w", err)
	}
	return damaged, nil
}

// readBranch returns a chunk that stands beside the main history of its log; storage.ErrNotFound if it does not.
func readBranch(v storage.Reader, at storage.Ref) (chunk.Sealed, error) {
	b, err := v.Get(storage.Branch.Key(at.Scope, at.Log, at.Counter, at.ID))
	if err != nil {
		return chunk.Sealed{}, err
	}
	sealed, err := chunk.Parse(b)
	if err == nil && (sealed.ID() != at.ID || sealed.Log() != at.Log || sealed.Header().Counter != at.Counter) {
		err = errors.New("it stands in another's place")
	}
	if err != nil {
		return chunk.Sealed{}, fmt.Errorf("read branch: %w: %w", storage.ErrDamaged, err)
	}
	return sealed, nil
}

func (r *Replica) growLocked(scope trust.ScopeID, log chunk.LogID, id chunk.ID, n node) {
	f := r.forkLocked(scope, log)
	if len(f.nodes) == 0 {
		r.log.Warn("a log has more than one history; all of it is kept", "scope", scope, "log", log, "counter", n.counter)
	}
	f.nodes[id], f.reach = n, nil
	delete(f.gone, id)
}

// forkLocked returns what stands beside a log's main history, made if need be.
func (r *Replica) forkLocked(scope trust.ScopeID, log chunk.LogID) *fork {
	if r.mu.forks[scope] == nil {
		r.mu.forks[scope] = map[chunk.LogID]*fork{}
	}
	f := r.mu.forks[scope][log]
	if f == nil {
		f = &fork{nodes: map[chunk.ID]node{}, gone: map[chunk.ID]uint64{}}
		r.mu.forks[scope][log] = f
	}
	return f
}

// heldVectorLocked is what a scope's vector says: of a log with branches its longest history, whichever came first.
func (r *Replica) heldVectorLocked(scope trust.ScopeID) chunk.Vector {
	v := maps.Clone(r.mu.vectors[scope])
	for log, f := range r.mu.forks[scope] {
		v[log] = longest(f.leaves(r.mu.tips[scope][log])).position()
		if v[log].Counter == 0 { // all of it lies behind a gap
			delete(v, log)
		}
	}
	return v
}

// heldHashLocked names all that is held of a scope, branches too (docs/spec/log-and-vector.md).
func (r *Replica) heldHashLocked(scope trust.ScopeID) [32]byte {
	forks := r.mu.forks[scope]
	if len(forks) == 0 {
		return r.mu.vectors[scope].Hash()
	}
	hash := r.heldVectorLocked(scope).Hash()
	var w wire.Writer
	w.String("chartmesh held 1")
	w.Raw(hash[:])
	several := false
	for _, log := range slices.SortedFunc(maps.Keys(forks), chunk.LogID.Compare) {
		if leaves := forks[log].leaves(r.mu.tips[scope][log]); len(leaves) > 1 {
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
		f.nodes, f.gone = maps.Clone(have.nodes), maps.Clone(have.gone)
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
		for {
			n, ok := f.nodes[at.ID]
			if !ok {
				from[at.Counter] = true
				break
			}
			if at.Counter == next {
				add(at.position())
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
// the main history, then the others, ascending, at least one item if there is one, and no more than fit maxBytes. What does
// not read ends the list, and is claimed no longer once it comes first.
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
			return unreadableAs(chunkRef{scope, log, known + 1}.main(), err)
		}
		size := 0
		for _, it := range out {
			size += len(it.Bytes)
		}
		if n := len(out); n > 0 && out[n-1].Counter < head.Counter || n > 0 && out[n-1].Loose {
			return nil
		}
		for _, end := range rest {
			at := storage.Ref{Scope: scope, Log: log, Counter: end.Counter, ID: end.ID}
			sealed, err := readBranch(v, at)
			if err != nil {
				return unreadableAs(at, err)
			}
			b := sealed.Bytes()
			if len(out) > 0 && size+len(b) > maxBytes {
				return nil
			}
			out = append(out, session.Item{Bytes: b, Log: log, Counter: end.Counter})
			size += len(b)
		}
		return nil
	})
	if isUnreadable(err) && len(out) > 0 {
		return out, nil
	}
	if err != nil {
		r.write.Lock()
		defer r.write.Unlock()
		return nil, errors.Join(fmt.Errorf("read branches: %w", err), r.takeBackBy(context.Background(), err))
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

// storedAt reads what a place names, or says that it is unreadable; main says that it is what log head and cursor count. A
// place without an ID names that.
func (r *Replica) storedAt(at storage.Ref) (found stored, main bool, err error) {
	err = r.store.View(func(v storage.Reader) error {
		if at.ID != [32]byte{} {
			found.chunk, err = readBranch(v, at)
			if !errors.Is(err, storage.ErrNotFound) {
				return unreadableAs(at, err)
			}
			if b, err := v.Get(storage.Loose.Key(at.Scope, at.Log, at.Counter, at.ID)); err == nil {
				found.loose = true
				found.chunk, err = chunk.Parse(b)
				return err
			}
		}
		main = true
		ref := chunkRef{at.Scope, at.Log, at.Counter}
		found, err = readStored(v, ref)
		return unreadableAs(ref.main(), err)
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
	found, err := readStored(v, at)
	if err == nil {
		raw, err = r.rawIn(found.chunk, hash)
	} else if err = unreadableAs(at.main(), err); errors.Is(err, errNotHeld) {
		err = nil // beyond the main history's end
	}
	if err != nil || raw != nil {
		return raw, found.chunk, err
	}
	err = looseCheckpoints(v, at, func(loose chunk.Sealed) error {
		if raw, err = r.rawIn(loose, hash); raw != nil {
			sealed = loose
			return storage.ErrStop
		}
		return err
	})
	if err != nil || raw != nil {
		return raw, sealed, err
	}
	return r.rawBeside(v, at, hash)
}

// rawIn returns a change that a chunk holds, or nil.
func (r *Replica) rawIn(sealed chunk.Sealed, hash [32]byte) ([]byte, error) {
	opened, err := chunk.Open(r.keys, sealed)
	if err != nil {
		return nil, fmt.Errorf("open chunk: %w", err)
	}
	for _, p := range partsOf(sealed, opened) {
		for _, c := range p.Changes {
			if h, ok := hashOf(c.Raw); ok && h == hash {
				return c.Raw, nil
			}
		}
	}
	return nil, nil
}

// rawBeside finds a change among what stands beside the main history at one place of a log.
func (r *Replica) rawBeside(v storage.Reader, at chunkRef, hash [32]byte) (raw []byte, sealed chunk.Sealed, err error) {
	var damaged error
	err = v.Keys(storage.Branch.With3(at.Scope, at.Log, at.Counter), nil, func(key []byte) error {
		_, _, _, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		if raw != nil {
			return storage.ErrStop
		}
		place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: id}
		if sealed, err = readBranch(v, place); err == nil {
			raw, err = r.rawIn(sealed, hash)
			return err
		}
		if err = unreadableAs(place, err); isUnreadable(err) { // and it may be another one that holds the change
			damaged, err = err, nil
		}
		return err
	})
	if err == nil && raw == nil {
		if err = damaged; err == nil {
			err = errAwaited
		}
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
