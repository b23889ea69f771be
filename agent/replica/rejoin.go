package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// switching is how the main history of a log becomes another.
type switching struct {
	fork uint64 // up to where it stays
	in   []tip  // what comes in the place of the rest, ascending, up to where a skip begins
}

// errNoJoin says that no history that is held goes on with a skip.
var errNoJoin = errors.New("no history of the log goes on with a skip")

// joining finds where a run leaves the histories that are held.
func (f *fork) joining(main *history, run chunk.Covered, head tip) (sw switching, err error) {
	// What they have in common is a prefix. A run may be long, and its tips those of a liar, who gets fewer chunks read thus.
	end := min(head.Counter, run.To-1) + 1
	common := sort.Search(int(max(end, run.From-1)-(run.From-1)), func(i int) bool {
		var p chunk.Position
		if err == nil {
			p, err = main.at(run.From - 1 + uint64(i))
		}
		return err != nil || !run.Joins(p)
	})
	if err != nil {
		return sw, err
	}
	if common > 0 {
		return switching{fork: run.From - 2 + uint64(common)}, nil
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
// one, and the chunks that were it stand beside it, as at every device that held the skip before it met them. It takes as
// many commits as it needs, after each of which everything is held as before; one that was cut short goes on with the next skip.
func (r *Replica) rejoin(ctx context.Context, skip chunk.Skip) error {
	r.write.Lock() // the applier follows the main history
	defer r.write.Unlock()
	r.arrive.Lock()
	defer r.arrive.Unlock()
	for {
		more, err := r.rejoinOnce(ctx, skip)
		switch {
		case errors.Is(err, storage.ErrNoRoom):
			return nil // as of arrived chunks
		case errors.Is(err, errNoJoin), errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrDamaged), errors.Is(err, errNoWord),
			errors.Is(err, errNotCovered):
			r.log.Warn("a peer has packed another history of a log than is held here; it is taken when all before it is here",
				"log", skip.Log, "counter", skip.To, "why", err)
			return r.applyLoose(ctx, skip)
		case err != nil:
			return fmt.Errorf("take a skip of another history: %w", err)
		case !more:
			return r.findGone(map[logRef]bool{{skip.Scope, skip.Log}: true})
		}
	}
}

// rejoinStep is one commit of a rejoin.
type rejoinStep struct {
	t       *transaction
	skip    chunk.Skip
	head    tip // where the main history ends after it
	out     []chunk.Sealed
	in      []tip // of the branches, into the main history or under the skip
	turns   []storage.Ref
	takesIt bool // it takes the skip
}

func (r *Replica) rejoinOnce(ctx context.Context, skip chunk.Skip) (more bool, err error) {
	f, head := r.forkOf(skip.Scope, skip.Log)
	if skip.Log == r.logID(skip.Scope) || head.Counter == 0 && len(f.nodes) == 0 {
		return false, nil
	}
	s := &rejoinStep{t: r.beginPlain(), skip: skip}
	done := s.t.cursor(chunkRef{Scope: skip.Scope, Log: skip.Log})
	err = r.store.View(func(v storage.Reader) error {
		main := &history{v: v, scope: skip.Scope, log: skip.Log}
		if at, err := main.at(min(skip.To, head.Counter)); err != nil {
			return err
		} else if at == skip.Position() {
			return errKnown
		}
		p, err := readProof(v, skip, nil)
		if err != nil {
			return err
		}
		run, err := p.covers(skip)
		if err != nil {
			return err
		}
		sw, err := f.joining(main, run, head)
		if err != nil {
			return err
		}
		if done.Counter > sw.fork {
			// The applier goes through all of the new main history; what it has applied already is no work.
			stays, err := main.at(sw.fork)
			if err != nil {
				return err
			}
			s.t.cursors[skip.Scope] = chunk.Vector{skip.Log: stays}
		}
		switch {
		case head.Counter > sw.fork:
			return s.shrink(v, head, sw.fork, done.Counter)
		case len(sw.in) > 0:
			return s.grow(v, head, sw.in)
		}
		return s.take(v, f, run, head, done.Counter)
	})
	if errors.Is(err, errKnown) { // what came meanwhile has led to where it ends
		return false, nil
	}
	if err != nil {
		return false, err
	}
	s.t.batch.Put(storage.LogHead.Key(skip.Scope, skip.Log), marshalTip(s.head))
	if err := s.t.commit(ctx); err != nil {
		return false, err
	}
	s.settle(r)
	return !s.takesIt, nil
}

func (s *rejoinStep) place(at tip) storage.Ref {
	return storage.Ref{Scope: s.skip.Scope, Log: s.skip.Log, Counter: at.Counter, ID: at.ID}
}

// shrink moves chunks from the end of the main history beside it.
func (s *rejoinStep) shrink(v storage.Reader, head tip, fork, done uint64) error {
	s.head = head
	for s.head.Counter > fork && s.t.batch.Size() < importCommitBytes {
		sealed, err := readChunk(v, s.skip.Scope, s.skip.Log, s.head.Counter)
		if err != nil {
			return err // packed as well: then there is no moving it
		}
		s.t.batch.Delete(storage.Chunk.Key(s.skip.Scope, s.skip.Log, s.head.Counter))
		s.putBeside(sealed, done)
		s.head = tip{s.head.Counter - 1, sealed.Header().Previous}
	}
	if s.head.Counter == fork {
		name, _ := s.t.r.names(s.skip.Key.Device)
		s.t.events = append(s.t.events, Event{Kind: "log-branched", Peer: name})
	}
	return nil
}

func (s *rejoinStep) putBeside(sealed chunk.Sealed, done uint64) {
	place := s.place(tip{sealed.Header().Counter, sealed.ID()})
	s.t.batch.Delete(storage.Gone.Key(place.Scope, place.Log, place.Counter, place.ID))
	s.t.batch.Put(storage.Branch.Key(place.Scope, place.Log, place.Counter, place.ID), sealed.Bytes())
	s.out = append(s.out, sealed)
	if place.Counter > done {
		s.t.batch.Put(storage.Parked.Key(missingTurn, [32]byte{}, place), nil)
		s.turns = append(s.turns, place)
	}
}

// grow moves chunks of another history to the end of the main one.
func (s *rejoinStep) grow(v storage.Reader, head tip, in []tip) error {
	s.head = head
	for _, at := range in {
		if s.t.batch.Size() >= importCommitBytes {
			return nil
		}
		b, err := v.Get(storage.Branch.Key(s.skip.Scope, s.skip.Log, at.Counter, at.ID))
		if err != nil {
			return err
		}
		s.dropBranch(at)
		s.t.batch.Put(storage.Chunk.Key(s.skip.Scope, s.skip.Log, at.Counter), bytes.Clone(b))
		s.head = at
	}
	return nil
}

// dropBranch takes a chunk off those beside the main history, where it stands now or is packed.
func (s *rejoinStep) dropBranch(at tip) {
	s.t.batch.Delete(storage.Branch.Key(s.skip.Scope, s.skip.Log, at.Counter, at.ID))
	s.t.batch.Delete(storage.Parked.Key(missingTurn, [32]byte{}, s.place(at)))
	s.in = append(s.in, at)
}

// take puts the skip at the end of the main history. Chunks beside it that the skip stands for are packed.
func (s *rejoinStep) take(v storage.Reader, f *fork, run chunk.Covered, head tip, done uint64) error {
	kept, err := keptUnder(v, s.skip.Scope, run, head, &s.t.batch)
	if err != nil {
		return err
	}
	for _, sealed := range kept {
		s.putBeside(sealed, done)
	}
	for id, n := range f.nodes {
		if packed, ok := run.TipAt(n.counter); ok && n.counter > head.Counter && packed == chunk.At(n.counter, id).Tip {
			s.dropBranch(tip{n.counter, id})
		}
	}
	skip := s.skip
	skip.From = head.Counter + 1
	value, _ := skip.AppendBinary(nil)
	s.t.batch.Put(storage.Skip.Key(skip.Scope, skip.Log, skip.To), value)
	s.head, s.takesIt = tip{skip.To, skip.Last}, true
	return nil
}

// settle has memory follow what is durable now.
func (s *rejoinStep) settle(r *Replica) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, sealed := range s.out {
		h := sealed.Header()
		r.growLocked(s.skip.Scope, s.skip.Log, sealed.ID(), node{h.Counter, h.Previous})
	}
	gone := map[tip]bool{}
	for _, at := range s.in {
		gone[at] = true
		delete(r.mu.forks[s.skip.Scope][s.skip.Log].nodes, at.ID)
	}
	if f := r.mu.forks[s.skip.Scope][s.skip.Log]; f != nil {
		if f.reach = nil; len(f.nodes)+len(f.gone) == 0 {
			delete(r.mu.forks[s.skip.Scope], s.skip.Log) // one history again, as it is told elsewhere
		}
	}
	is := func(at storage.Ref) bool { return at.Log == s.skip.Log && gone[tip{at.Counter, at.ID}] }
	r.mu.turns = append(slices.DeleteFunc(r.mu.turns, is), s.turns...)
	r.mu.behind = slices.DeleteFunc(r.mu.behind, is)
	r.advanceLocked(s.skip.Scope, s.skip.Log, s.head)
	r.recallLocked()
}

// applyLoose has the checkpoint of a skip that cannot be taken looked at where it lies: what it packs comes all the same.
func (r *Replica) applyLoose(ctx context.Context, skip chunk.Skip) error {
	at := storage.Ref{Scope: skip.Scope, Log: skip.Checkpoint.Log, Counter: skip.Checkpoint.Counter, ID: skip.Checkpoint.ID}
	if r.packs[at.ID] {
		return nil
	}
	here := false
	if err := r.store.View(func(v storage.Reader) error {
		_, err := v.Get(storage.Loose.Key(at.Scope, at.Log, at.Counter, at.ID))
		here = err == nil
		return storage.IgnoreNotFound(err)
	}); err != nil || !here {
		return err
	}
	var batch storage.Batch
	batch.Put(storage.Parked.Key(missingTurn, [32]byte{}, at), nil)
	if err := r.store.Commit(ctx, &batch); errors.Is(err, storage.ErrNoRoom) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at a loose checkpoint: %w", err)
	}
	r.mu.Lock()
	if !slices.Contains(r.mu.turns, at) {
		r.mu.turns = append(r.mu.turns, at)
	}
	r.mu.Unlock()
	r.notify()
	return nil
}
