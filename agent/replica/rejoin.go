package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// switching is how the main history of a log becomes another.
type switching struct {
	fork uint64         // up to where it stays
	out  []chunk.Sealed // its chunks behind that, ascending, which go beside it
	in   []tip          // what comes in their place, ascending, up to where a skip begins
}

// errNoJoin says that no history that is held goes on with a skip.
var errNoJoin = errors.New("no history of the log goes on with a skip")

// joining finds where a run leaves the histories that are held.
func (f *fork) joining(main *history, run chunk.Covered, head tip) (sw switching, err error) {
	for c := min(head.Counter, run.To-1) + 1; c >= run.From; c-- {
		p, err := main.at(c - 1)
		if err != nil {
			return sw, err
		}
		if run.Joins(p) {
			return switching{fork: c - 1}, nil
		}
	}
	var at tip
	for id, n := range f.nodes {
		if n.counter > at.Counter && run.Joins(chunk.At(n.counter, id)) {
			at = tip{n.counter, id}
		}
	}
	for n, ok := f.nodes[at.ID]; ok; n, ok = f.nodes[at.ID] {
		sw.in = append(sw.in, at)
		at = tip{n.counter - 1, n.parent}
	}
	if len(sw.in) == 0 || at.Counter > head.Counter {
		return sw, errNoJoin
	}
	slices.Reverse(sw.in)
	sw.fork = at.Counter
	return sw, nil
}

// rejoin takes a good skip that does not go on with what came first of its log: the log has another history, which leaves
// that one before or within what the skip stands for. Skips stand in the main history alone. So the skip's becomes the main
// one, and the chunks that were it stand beside it, as at every device that held the skip before it met them.
func (r *Replica) rejoin(ctx context.Context, skip chunk.Skip) error {
	r.write.Lock() // the applier follows the main history
	defer r.write.Unlock()
	r.arrive.Lock()
	defer r.arrive.Unlock()
	f, head := r.forkOf(skip.Scope, skip.Log)
	if skip.Log == r.logID(skip.Scope) || head.Counter == 0 {
		return nil
	}
	done := r.beginPlain().cursor(chunkRef{Scope: skip.Scope, Log: skip.Log})
	var sw switching
	var stays chunk.Position
	var turns []storage.Ref
	t := r.beginPlain()
	err := r.store.View(func(v storage.Reader) (err error) {
		main := &history{v: v, scope: skip.Scope, log: skip.Log}
		p, err := readProof(v, skip, nil)
		if err != nil {
			return err
		}
		run, err := p.covers(skip)
		if err != nil {
			return err
		}
		if sw, err = f.joining(main, run, head); err != nil {
			return err
		}
		if stays, err = main.at(sw.fork); err != nil {
			return err
		}
		for c := sw.fork + 1; c <= head.Counter; c++ {
			sealed, err := readChunk(v, skip.Scope, skip.Log, c)
			if err != nil {
				return err
			}
			sw.out = append(sw.out, sealed)
			t.batch.Delete(storage.Chunk.Key(skip.Scope, skip.Log, c))
		}
		kept, err := keptUnder(v, skip.Scope, run, head, &t.batch)
		if err != nil {
			return err
		}
		sw.out = append(sw.out, kept...)
		for _, sealed := range sw.out {
			at := sealed.Place()
			place := storage.Ref{Scope: skip.Scope, Log: skip.Log, Counter: at.Counter, ID: at.ID}
			t.batch.Put(storage.Branch.Key(place.Scope, place.Log, place.Counter, place.ID), sealed.Bytes())
			if at.Counter > done.Counter {
				t.batch.Put(storage.Parked.Key(missingTurn, [32]byte{}, place), nil)
				turns = append(turns, place)
			}
		}
		for _, at := range sw.in {
			place := storage.Ref{Scope: skip.Scope, Log: skip.Log, Counter: at.Counter, ID: at.ID}
			key := storage.Branch.Key(place.Scope, place.Log, at.Counter, at.ID)
			b, err := v.Get(key)
			if err != nil {
				return err
			}
			t.batch.Delete(key)
			t.batch.Delete(storage.Parked.Key(missingTurn, [32]byte{}, place))
			t.batch.Put(storage.Chunk.Key(place.Scope, place.Log, at.Counter), bytes.Clone(b))
		}
		return nil
	})
	switch {
	case errors.Is(err, errNoJoin), errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrDamaged), errors.Is(err, errNoWord),
		errors.Is(err, errNotCovered):
		r.log.Warn("a peer has packed another history of a log than is held here; it is taken when all before it is here",
			"log", skip.Log, "counter", skip.To, "why", err)
		return nil
	case err != nil:
		return fmt.Errorf("take a skip of another history: %w", err)
	case len(sw.out) == 0 && len(sw.in) == 0: // what came meanwhile has led to where it begins
		return nil
	}
	skip.From = sw.fork + uint64(len(sw.in)) + 1
	value, _ := skip.AppendBinary(nil)
	t.batch.Put(storage.Skip.Key(skip.Scope, skip.Log, skip.To), value)
	t.batch.Put(storage.LogHead.Key(skip.Scope, skip.Log), marshalTip(tip{skip.To, skip.Last}))
	if done.Counter > sw.fork {
		// The applier goes through all of the new main history; what it has applied already is no work.
		t.cursors[skip.Scope] = chunk.Vector{skip.Log: stays}
	}
	name, _ := r.names(skip.Key.Device)
	t.events = append(t.events, Event{Kind: "log-branched", Peer: name})
	if err := t.commit(ctx); errors.Is(err, storage.ErrNoRoom) {
		return nil // as of arrived chunks
	} else if err != nil {
		return fmt.Errorf("take a skip of another history: %w", err)
	}
	r.rejoined(skip, sw, turns)
	return r.findGone(map[logRef]bool{{skip.Scope, skip.Log}: true})
}

// rejoined has memory follow.
func (r *Replica) rejoined(skip chunk.Skip, sw switching, turns []storage.Ref) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sealed := range sw.out {
		h := sealed.Header()
		r.growLocked(skip.Scope, skip.Log, sealed.ID(), node{h.Counter, h.Previous})
	}
	for _, at := range sw.in {
		delete(r.mu.forks[skip.Scope][skip.Log].nodes, at.ID)
	}
	r.mu.turns = slices.DeleteFunc(r.mu.turns, func(at storage.Ref) bool {
		return at.Log == skip.Log && slices.Contains(sw.in, tip{at.Counter, at.ID})
	})
	r.mu.turns = append(r.mu.turns, turns...)
	r.advanceLocked(skip.Scope, skip.Log, tip{skip.To, skip.Last})
}
