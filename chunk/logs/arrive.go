package logs

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// arriving is a batch of arrived chunks on its way to the store.
type arriving struct {
	set      *Set
	batch    storage.Batch
	heads    map[trust.ScopeID]map[chunk.LogID]End
	taken    map[Ref]chunk.ID          // chunks in batch, in their place
	proofs   map[chunk.ID]chunk.Sealed // checkpoints and words in batch
	skips    map[Name]bool             // logs that a skip in batch goes on
	branches map[Ref]map[chunk.ID]node // chunks in batch, beside those
	turns    []storage.Ref             // the same, in the order in which they came
	behind   map[Name]bool             // whether chunks are kept behind the end of a log; see gap.go
	joins    bool                      // what is kept goes on behind what came last
	again    bool                      // the follower said so of something in batch
	said     []chunk.Sealed            // checkpoints and words in batch, if they are noted
}

func (s *Set) newArriving() *arriving {
	return &arriving{set: s, heads: map[trust.ScopeID]map[chunk.LogID]End{}, taken: map[Ref]chunk.ID{},
		branches: map[Ref]map[chunk.ID]node{}, proofs: map[chunk.ID]chunk.Sealed{},
		skips: map[Name]bool{}, behind: map[Name]bool{}}
}

// head returns where a log ends, with what is in the batch.
func (a *arriving) head(scope trust.ScopeID, log chunk.LogID) End {
	if head, ok := a.heads[scope][log]; ok {
		return head
	}
	return a.set.End(scope, log)
}

func (a *arriving) advance(scope trust.ScopeID, log chunk.LogID, to End) {
	if a.heads[scope] == nil {
		a.heads[scope] = map[chunk.LogID]End{}
	}
	a.heads[scope][log] = to
}

// forked reports whether the batch brings another history of a log.
func (a *arriving) forked(log chunk.LogID) bool {
	for at := range a.branches {
		if at.Log == log {
			return true
		}
	}
	return false
}

// note has the follower note a chunk.
func (a *arriving) note(sealed chunk.Sealed, beside bool) {
	if f := a.set.follower; f != nil && f.Coming(&a.batch, sealed, beside) {
		a.again = true
	}
}

// hear notes a chunk that is in the batch, if it is a checkpoint, an order, or a word on one.
func (a *arriving) hear(sealed chunk.Sealed) {
	if !vouches(sealed) {
		return
	}
	a.proofs[sealed.ID()] = sealed
	a.batch.Delete(storage.Loose.Key(sealed.Header().Scope, sealed.Log(), sealed.Header().Counter, sealed.ID()))
	if a.set.settler.on {
		a.said = append(a.said, sealed)
	}
}

// vouches reports whether a skip may rest on a chunk.
func vouches(sealed chunk.Sealed) bool {
	switch sealed.Header().Kind {
	case chunk.KindCheckpoint, chunk.KindCover, chunk.KindTombstone:
		return true
	}
	return false
}

// keepLoose stores a checkpoint or word that has no place yet in its log as it is held, for a skip that may need it.
func (a *arriving) keepLoose(at Ref, sealed chunk.Sealed) {
	_, notCheckpoint := sealed.Covers()
	_, _, notWord := sealed.Verdict()
	_, notAssent := sealed.Assent()
	if notCheckpoint != nil && notWord != nil && notAssent != nil {
		return
	}
	id := sealed.ID()
	a.proofs[id] = sealed
	a.batch.Put(storage.Loose.Key(at.Scope, at.Log, at.Counter, id), sealed.Bytes())
}

// Arrive takes chunks that a peer sent: each is verified against the membership log and its place in its log, and those
// that continue a log are committed. When Arrive returns nil, what the vectors then name is durable. Chunks that are
// known, that leave a gap, or that cannot be judged yet are passed over; the vector tells the peer so.
//
// It returns good skips that do not go on with what is held first of their log, for Rejoin.
func (s *Set) Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) (apart []chunk.Skip, err error) {
	var refused refusals
	err = s.arriveAll(ctx, from, chunks, &refused)
	return refused.apart, err
}

func (s *Set) arriveAll(ctx context.Context, from trust.DeviceID, chunks [][]byte, refused *refusals) error {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	st := s.state()
	a := s.newArriving()
	defer func() { refused.tell(s.log, from) }()
	for _, b := range chunks {
		if a.joins {
			if err := s.commitArrived(ctx, a); err != nil {
				return err
			}
		}
		if chunk.IsSkip(b) {
			if err := s.takeSkip(ctx, a, refused, from, b); err != nil {
				return err
			}
			continue
		}
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
			refused.add(sealed.ID(), err)
			continue
		}
		if h := sealed.Header(); h.Counter == 1 {
			ok, err := s.mayBegin(h.Scope, sealed.Log(), h.Device)
			if err != nil {
				return err
			}
			if !ok {
				refused.add(sealed.ID(), errTooManyLogs)
				continue
			}
		}
		if err := s.take(ctx, a, sealed); err != nil {
			return err
		}
		if a.batch.Size() > commitBytes {
			if err := s.commitArrived(ctx, a); err != nil {
				return err
			}
		}
	}
	return s.commitArrived(ctx, a)
}

// take puts a verified chunk where it belongs: at the end of its log, beside it, or nowhere.
func (s *Set) take(ctx context.Context, a *arriving, sealed chunk.Sealed) error {
	h := sealed.Header()
	at := Ref{h.Scope, sealed.Log(), h.Counter}
	if head := a.head(at.Scope, at.Log); !sealed.Follows(head.ID, head.Counter) {
		// Known, or of another history of its log, or out of order.
		if a.skips[Name{at.Scope, at.Log}] { // what it is compared with is in the batch
			if err := s.commitArrived(ctx, a); err != nil {
				return err
			}
		}
		placed, err := s.branch(a, at, sealed)
		if err == nil && !placed {
			a.keepLoose(at, sealed)
		}
		a.note(sealed, true)
		return err
	}
	if beside, err := s.besideKept(a, at, sealed); err != nil {
		return err
	} else if beside {
		_, err := s.branch(a, at, sealed)
		a.note(sealed, true)
		return err
	}
	a.note(sealed, false)
	a.advance(at.Scope, at.Log, End{h.Counter, sealed.ID()})
	a.taken[at] = sealed.ID()
	a.batch.Put(storage.Chunk.Key(at.Scope, at.Log, at.Counter), sealed.Bytes())
	a.hear(sealed)
	return nil
}

// commitArrived makes chunks durable, and only then counts them.
func (s *Set) commitArrived(ctx context.Context, a *arriving) error {
	if a.batch.Len() == 0 {
		return nil
	}
	ends := map[Name]End{}
	if err := s.store.View(func(v storage.Reader) error {
		for scope, heads := range a.heads {
			for log, p := range heads {
				ends[Name{scope, log}] = Onwards(v, scope, log, p)
				a.batch.Put(storage.LogHead.Key(scope, log), MarshalEnd(ends[Name{scope, log}]))
			}
		}
		if err := s.adoptAll(v, a, ends); err != nil {
			return err
		}
		return noteSaid(v, &a.batch, a.said, s.now())
	}); err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	if err := s.store.Commit(ctx, &a.batch); errors.Is(err, storage.ErrNoRoom) {
		*a = *s.newArriving()
		return nil // not kept: the vector tells the peer so, which sends again ever more seldom
	} else if err != nil {
		return fmt.Errorf("commit arrived chunks: %w", err)
	}
	if len(a.said) > 0 || s.settler.lacks.Load() {
		s.settler.news.Store(true)
	}
	s.Memory.Lock()
	if s.follower != nil {
		came := Came{Beside: len(a.turns), Again: a.again}
		for name := range ends {
			came.Grown = append(came.Grown, Grown{name, s.Memory.Ends[name.Scope][name.Log].Counter, a.heads[name.Scope][name.Log].Counter})
		}
		s.follower.Came(came)
		s.Memory.Turns = append(s.Memory.Turns, a.turns...)
	}
	for ref, end := range ends {
		s.Memory.AdvanceLocked(ref.Scope, ref.Log, end)
	}
	for at, nodes := range a.branches {
		for id, n := range nodes {
			s.growLocked(at.Scope, at.Log, id, n)
		}
	}
	s.Memory.Unlock()
	err := s.findGone(a.logs())
	*a = *s.newArriving()
	s.changed()
	return err
}

// branch keeps a chunk that does not continue what is held of its log, if it is new and the one before it is held: it is
// stored beside the others, passed on, and applied as they are. It reports whether the chunk is here now, or was.
func (s *Set) branch(a *arriving, at Ref, sealed chunk.Sealed) (placed bool, err error) {
	id, previous := sealed.ID(), sealed.Header().Previous
	stored := s.End(at.Scope, at.Log)
	held := func(v storage.Reader, at Ref, id chunk.ID) (bool, error) {
		if _, ok := a.branches[at][id]; ok || a.taken[at] == id {
			return true, nil
		}
		if at.Counter <= stored.Counter {
			have, err := (&History{Reader: v, Scope: at.Scope, Log: at.Log}).At(at.Counter)
			if err != nil || have == chunk.At(at.Counter, id) {
				return err == nil, err
			}
		}
		return hasBranch(v, at, id)
	}
	err = s.store.View(func(v storage.Reader) error {
		known, err := held(v, at, id)
		if errors.Is(err, storage.ErrDamaged) {
			return nil // what it is compared with is being repaired; until then the peer is asked for both
		}
		if err != nil {
			return fmt.Errorf("compare chunk: %w", err)
		}
		follows := at.Counter == 1
		if !known && !follows {
			if follows, err = held(v, Ref{at.Scope, at.Log, at.Counter - 1}, previous); errors.Is(err, storage.ErrDamaged) {
				return nil
			} else if err != nil {
				return fmt.Errorf("compare chunk: %w", err)
			}
		}
		if placed = known || follows; known || !follows {
			return nil
		}
		a.putBranch(at, sealed)
		return nil
	})
	return placed, err
}
