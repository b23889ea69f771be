package logs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Switcher takes part where another history of a log becomes the main one: it follows that.
type Switcher interface {
	// Followed returns how far it has come in a log's main history.
	Followed(Name) chunk.Position
	// Switch commits a batch, and with it that it has come no farther in the log than to, if that is not nil; branched says that it
	// is the first commit after which what it followed stands beside.
	Switch(ctx context.Context, b *storage.Batch, log Name, to *chunk.Position, branched *trust.DeviceID) error
}

// still is the Switcher of who follows nothing.
type still struct{ s *Set }

func (still) Followed(Name) chunk.Position { return chunk.Position{} }

func (f still) Switch(ctx context.Context, b *storage.Batch, _ Name, _ *chunk.Position, _ *trust.DeviceID) error {
	return f.s.store.Commit(ctx, b)
}

// Rejoin takes a good skip that does not go on with what came first of its log: the log has another history, which leaves
// that one before or within what the skip stands for. Skips stand in the main history alone. So the skip's becomes the main
// one, and the chunks that were it stand beside it, as at every device that held the skip before it met them. It takes as
// many commits as it needs, after each of which everything is held as before; one that was cut short goes on with the next skip.
//
// The follower does nothing meanwhile; by may be nil if there is none. If the skip is not taken, its checkpoint is queued where it lies
// loose, unless looked says that it was looked at: what it packs comes all the same.
func (s *Set) Rejoin(ctx context.Context, skip chunk.Skip, by Switcher, looked func(chunk.ID) bool) error {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	if by == nil {
		by = still{s}
	}
	for {
		more, err := s.rejoinOnce(ctx, skip, by)
		switch {
		case errors.Is(err, storage.ErrNoRoom):
			return nil // as of arrived chunks
		case errors.Is(err, errNoJoin), errors.Is(err, storage.ErrNotFound), errors.Is(err, storage.ErrDamaged), errors.Is(err, ErrNoWord),
			errors.Is(err, ErrNotCovered):
			s.log.Warn("a peer has packed another history of a log than is held here; it is taken when all before it is here",
				"log", skip.Log, "counter", skip.To, "why", err)
			if s.follower == nil || looked(skip.Checkpoint.ID) {
				return nil
			}
			return s.queueLoose(ctx, skip)
		case err != nil:
			return fmt.Errorf("take a skip of another history: %w", err)
		case !more:
			return s.findGone(map[Name]bool{{skip.Scope, skip.Log}: true})
		}
	}
}

// rejoinStep is one commit of a Rejoin.
type rejoinStep struct {
	set     *Set
	batch   storage.Batch
	skip    chunk.Skip
	head    End // where the main history ends after it
	out     []chunk.Sealed
	in      []End // of the branches, into the main history or under the skip
	turns   []storage.Ref
	apart   bool // the main history was brought to where the skip's leaves it
	takesIt bool // it takes the skip
}

func (s *Set) rejoinOnce(ctx context.Context, skip chunk.Skip, by Switcher) (more bool, err error) {
	f, head := s.Fork(skip.Scope, skip.Log)
	if skip.Log == s.own(skip.Scope) || head.Counter == 0 && len(f.nodes) == 0 {
		return false, nil
	}
	name := Name{skip.Scope, skip.Log}
	step := &rejoinStep{set: s, skip: skip}
	done := by.Followed(name).Counter
	var to *chunk.Position
	err = s.store.View(func(v storage.Reader) error {
		main := &History{Reader: v, Scope: skip.Scope, Log: skip.Log}
		if at, err := main.At(min(skip.To, head.Counter)); err != nil {
			return err
		} else if at == skip.Position() {
			return errKnown
		}
		p, err := ReadProof(v, skip, nil, s.assents(v))
		if err != nil {
			return err
		}
		run, err := p.Covers(skip)
		if err != nil {
			return err
		}
		sw, err := f.joining(main, run, head)
		if err != nil {
			return err
		}
		if done > sw.fork {
			// The follower goes through all of the new main history; what it has looked at already is no work.
			stays, err := main.At(sw.fork)
			if err != nil {
				return err
			}
			to = &stays
		}
		switch {
		case head.Counter > sw.fork:
			return step.shrink(v, head, sw.fork, done)
		case len(sw.in) > 0:
			return step.grow(v, head, sw.in)
		}
		return step.take(v, f, run, head, done)
	})
	if errors.Is(err, errKnown) { // what came meanwhile has led to where it ends
		return false, nil
	}
	if err != nil {
		return false, err
	}
	step.batch.Put(storage.LogHead.Key(skip.Scope, skip.Log), MarshalEnd(step.head))
	var branched *trust.DeviceID
	if step.apart {
		branched = &skip.Key.Device
	}
	if err := by.Switch(ctx, &step.batch, name, to, branched); err != nil {
		return false, err
	}
	step.settle()
	return !step.takesIt, nil
}

func (t *rejoinStep) place(at End) storage.Ref {
	return storage.Ref{Scope: t.skip.Scope, Log: t.skip.Log, Counter: at.Counter, ID: at.ID}
}

// shrink moves chunks from the end of the main history beside it.
func (t *rejoinStep) shrink(v storage.Reader, head End, fork, done uint64) error {
	t.head = head
	for t.head.Counter > fork && t.batch.Size() < commitBytes {
		sealed, err := ReadChunk(v, t.skip.Scope, t.skip.Log, t.head.Counter)
		if err != nil {
			return err // packed as well: then there is no moving it
		}
		t.batch.Delete(storage.Chunk.Key(t.skip.Scope, t.skip.Log, t.head.Counter))
		t.putBeside(sealed, done)
		t.head = End{t.head.Counter - 1, sealed.Header().Previous}
	}
	t.apart = t.head.Counter == fork
	return nil
}

func (t *rejoinStep) putBeside(sealed chunk.Sealed, done uint64) {
	place := t.place(End{sealed.Header().Counter, sealed.ID()})
	t.batch.Delete(storage.Gone.Key(place.Scope, place.Log, place.Counter, place.ID))
	t.batch.Put(storage.Branch.Key(place.Scope, place.Log, place.Counter, place.ID), sealed.Bytes())
	t.out = append(t.out, sealed)
	if place.Counter > done {
		t.set.noteTurn(&t.batch, place)
		t.turns = append(t.turns, place)
	}
}

// grow moves chunks of another history to the end of the main one.
func (t *rejoinStep) grow(v storage.Reader, head End, in []End) error {
	t.head = head
	for _, at := range in {
		if t.batch.Size() >= commitBytes {
			return nil
		}
		b, err := v.Get(storage.Branch.Key(t.skip.Scope, t.skip.Log, at.Counter, at.ID))
		if err != nil {
			return err
		}
		t.dropBranch(at)
		t.batch.Put(storage.Chunk.Key(t.skip.Scope, t.skip.Log, at.Counter), bytes.Clone(b))
		t.head = at
	}
	return nil
}

// dropBranch takes a chunk off those beside the main history, where it stands now or is packed.
func (t *rejoinStep) dropBranch(at End) {
	t.batch.Delete(storage.Branch.Key(t.skip.Scope, t.skip.Log, at.Counter, at.ID))
	t.batch.Delete(storage.Parked.Key(ParkedTurn, [32]byte{}, t.place(at)))
	t.in = append(t.in, at)
}

// take puts the skip at the end of the main history. Chunks beside it that the skip stands for are packed.
func (t *rejoinStep) take(v storage.Reader, f *Fork, run chunk.Covered, head End, done uint64) error {
	kept, err := keptUnder(v, t.skip.Scope, run, head, &t.batch)
	if err != nil {
		return err
	}
	for _, sealed := range kept {
		t.putBeside(sealed, done)
	}
	for id, n := range f.nodes {
		if packed, ok := run.TipAt(n.counter); ok && n.counter > head.Counter && packed == chunk.At(n.counter, id).Tip {
			t.dropBranch(End{n.counter, id})
		}
	}
	skip := t.skip
	skip.From = head.Counter + 1
	value, _ := skip.AppendBinary(nil)
	t.batch.Put(storage.Skip.Key(skip.Scope, skip.Log, skip.To), value)
	t.head, t.takesIt = End{skip.To, skip.Last}, true
	return nil
}

// settle has memory follow what is durable now.
func (t *rejoinStep) settle() {
	m := t.set.Memory
	m.Lock()
	defer m.Unlock()
	for _, sealed := range t.out {
		h := sealed.Header()
		t.set.growLocked(t.skip.Scope, t.skip.Log, sealed.ID(), node{h.Counter, h.Previous})
	}
	gone := map[End]bool{}
	for _, at := range t.in {
		gone[at] = true
		delete(m.Forks[t.skip.Scope][t.skip.Log].nodes, at.ID)
	}
	m.tidyLocked(t.skip.Scope, t.skip.Log)
	m.forgetTurnsLocked(func(at storage.Ref) bool {
		return at.Scope == t.skip.Scope && at.Log == t.skip.Log && gone[End{at.Counter, at.ID}]
	})
	if t.set.follower != nil {
		m.Turns = append(m.Turns, t.turns...)
	}
	m.AdvanceLocked(t.skip.Scope, t.skip.Log, t.head)
	m.recallLocked()
}

// queueLoose has the checkpoint of a skip that cannot be taken looked at where it lies.
func (s *Set) queueLoose(ctx context.Context, skip chunk.Skip) error {
	at := storage.Ref{Scope: skip.Scope, Log: skip.Checkpoint.Log, Counter: skip.Checkpoint.Counter, ID: skip.Checkpoint.ID}
	here := false
	if err := s.store.View(func(v storage.Reader) error {
		_, err := v.Get(storage.Loose.Key(at.Scope, at.Log, at.Counter, at.ID))
		here = err == nil
		return storage.IgnoreNotFound(err)
	}); err != nil || !here {
		return err
	}
	var batch storage.Batch
	s.noteTurn(&batch, at)
	if err := s.store.Commit(ctx, &batch); errors.Is(err, storage.ErrNoRoom) {
		return nil
	} else if err != nil {
		return fmt.Errorf("look at a loose checkpoint: %w", err)
	}
	s.Memory.Lock()
	if !slices.Contains(s.Memory.Turns, at) {
		s.Memory.Turns = append(s.Memory.Turns, at)
	}
	s.Memory.Unlock()
	s.changed()
	return nil
}
