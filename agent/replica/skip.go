package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// A counter of a log is held if its chunk is durable, or a skip and the proof that the skip names: the checkpoint, and the
// good word on it of the device whose log it is, unless that device made it. Each of the two stands in its own place or
// loose (out of its turn). The skip is written in the commit that brings them or after it; they are deleted only in a commit
// that gives the skip a later checkpoint with the word on that.

// errNotHeld says that a log holds neither a chunk nor a skip at a counter.
var errNotHeld = fmt.Errorf("a log has a gap: %w", storage.ErrDamaged)

// readSkip returns the skip that stands for a counter of a log.
func readSkip(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (skip chunk.Skip, found bool, err error) {
	err = v.Scan(storage.Skip.With2(scope, log), storage.Skip.Key(scope, log, counter), func(_, value []byte) error {
		if skip, err = chunk.ParseSkip(value); err != nil {
			return fmt.Errorf("read skip: %w: %w", storage.ErrDamaged, err)
		}
		found = skip.From <= counter
		return storage.ErrStop
	})
	return skip, found, err
}

// readChunk returns the chunk of a log at a counter; storage.ErrNotFound if it is not in its place.
func readChunk(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Sealed, error) {
	b, err := v.Get(storage.Chunk.Key(scope, log, counter))
	if err != nil {
		return chunk.Sealed{}, err
	}
	sealed, err := chunk.Parse(b)
	if err != nil {
		return chunk.Sealed{}, fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, err)
	}
	return sealed, nil
}

// maxSuccessors bounds how many checkpoints are followed from one to the next. Deleting one rewrites the skips that name
// it, so that there is one step at most.
const maxSuccessors = 8

// readCheckpoint returns the checkpoint at a place, or the one that stands for it by now.
func readCheckpoint(v storage.Reader, scope trust.ScopeID, at chunk.Place) (chunk.Sealed, error) {
	for range maxSuccessors {
		sealed, err := readAt(v, scope, at)
		if !errors.Is(err, storage.ErrNotFound) {
			return sealed, err
		}
		skip, found, err := readSkip(v, scope, at.Log, at.Counter)
		if err != nil {
			return chunk.Sealed{}, err
		}
		if !found {
			break
		}
		at = skip.Checkpoint
	}
	return chunk.Sealed{}, storage.ErrNotFound
}

// stored is what stands in a log at a counter: a chunk, or a skip with its checkpoint.
type stored struct {
	chunk chunk.Sealed
	skip  *chunk.Skip // the chunk is the checkpoint that it names
	loose bool        // it has no place in the log as it is held
}

// readStored returns what stands in a log at a counter.
func readStored(v storage.Reader, at chunkRef) (s stored, err error) {
	s.chunk, err = readChunk(v, at.Scope, at.Log, at.Counter)
	if !errors.Is(err, storage.ErrNotFound) {
		return s, err
	}
	skip, found, err := readSkip(v, at.Scope, at.Log, at.Counter)
	if err != nil {
		return s, err
	}
	if found {
		s.skip = &skip
		if s.chunk, err = readCheckpoint(v, at.Scope, skip.Checkpoint); errors.Is(err, storage.ErrNotFound) {
			err = errNotHeld
		}
		return s, err
	}
	// A loose checkpoint that waited for something is looked for at its place, too. A loose word waits for nothing.
	err = looseCheckpoints(v, at, func(loose chunk.Sealed) error {
		s.chunk, found = loose, true
		return storage.ErrStop
	})
	if err == nil && !found {
		err = errNotHeld
	}
	return s, err
}

// looseCheckpoints calls do for each checkpoint that lies loose at a place.
func looseCheckpoints(v storage.Reader, at chunkRef, do func(chunk.Sealed) error) error {
	return v.Scan(storage.Loose.With3(at.Scope, at.Log, at.Counter), nil, func(_, value []byte) error {
		loose, err := chunk.Parse(append([]byte(nil), value...))
		if err != nil || loose.Header().Kind != chunk.KindCheckpoint {
			return err
		}
		return do(loose)
	})
}

// arriving is a batch of arrived chunks on its way to the store.
type arriving struct {
	batch    storage.Batch
	heads    map[trust.ScopeID]map[chunk.LogID]tip
	taken    map[chunkRef]chunk.ID          // chunks in batch, in their place
	proofs   map[chunk.ID]chunk.Sealed      // checkpoints and words in batch
	skips    map[logRef]bool                // logs that a skip in batch goes on
	branches map[chunkRef]map[chunk.ID]node // chunks in batch, beside those
	turns    []storage.Ref                  // the same, in the order in which they came
	behind   map[logRef]bool                // whether chunks are kept behind the end of a log; see gap.go
	joins    bool                           // what is kept goes on behind what came last
	recut    bool                           // something in batch may say which history of a log a cut is of
}

func newArriving() *arriving {
	return &arriving{heads: map[trust.ScopeID]map[chunk.LogID]tip{}, taken: map[chunkRef]chunk.ID{},
		branches: map[chunkRef]map[chunk.ID]node{}, proofs: map[chunk.ID]chunk.Sealed{},
		skips: map[logRef]bool{}, behind: map[logRef]bool{}}
}

// head returns where a log ends, with what is in the batch.
func (a *arriving) head(r *Replica, scope trust.ScopeID, log chunk.LogID) tip {
	if head, ok := a.heads[scope][log]; ok {
		return head
	}
	return r.tip(scope, log)
}

func (a *arriving) advance(scope trust.ScopeID, log chunk.LogID, to tip) {
	if a.heads[scope] == nil {
		a.heads[scope] = map[chunk.LogID]tip{}
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

// keepLoose stores a checkpoint or word that has no place yet in its log as it is held, for a skip that may need it.
func (a *arriving) keepLoose(at chunkRef, sealed chunk.Sealed) {
	_, notCheckpoint := sealed.Covers()
	_, _, notWord := sealed.Verdict()
	if notCheckpoint != nil && notWord != nil {
		return
	}
	id := sealed.ID()
	a.proofs[id] = sealed
	a.batch.Put(storage.Loose.Key(at.Scope, at.Log, at.Counter, id), sealed.Bytes())
}

// takeSkip lets a log go on over chunks that were deleted elsewhere, if the checkpoint that stands for them is here, signed
// by a member, and says that it covers them, and the device whose log it is says so too. One that brings nothing, leaves a
// gap or names what is not here is passed over; the vector tells the peer so.
func (r *Replica) takeSkip(ctx context.Context, a *arriving, refused *refusals, from trust.DeviceID, b []byte) error {
	skip, err := chunk.ParseSkip(b)
	if errors.Is(err, chunk.ErrNewer) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("skip from %v: %w", from, err)
	}
	if _, ok := r.State().Scope(skip.Scope); !ok || skip.Log == r.logID(skip.Scope) {
		return nil
	}
	head := a.head(r, skip.Scope, skip.Log)
	if skip.IsInPlace() && skip.To == head.Counter+1 {
		sealed, found, err := r.looseAt(a, skip.Scope, skip.Checkpoint)
		if err != nil || !found {
			return err
		}
		return r.take(ctx, a, sealed)
	}
	if refused.skips == maxRefusedSkips || skip.From > head.Counter+1 && !a.forked(skip.Log) && !r.forked(skip.Scope, skip.Log) {
		return nil
	}
	var p proof
	var run chunk.Covered
	err = r.store.View(func(v storage.Reader) error {
		if skip.To <= head.Counter {
			if at, err := mainPosition(v, skip.Scope, skip.Log, skip.To); err != nil || at == skip.Position() {
				return errors.Join(errKnown, err)
			}
		}
		p, err = readProof(v, skip, a.proofs)
		return err
	})
	if err == nil {
		run, err = p.covers(skip)
	}
	switch {
	case errors.Is(err, errKnown):
		return nil
	case errors.Is(err, storage.ErrNotFound):
		refused.skips++ // to look took as long
		return nil
	case errors.Is(err, errNoWord), errors.Is(err, errNotCovered):
		refused.skips++
		refused.add(skip.Checkpoint.ID, err)
		return nil
	case err != nil:
		return fmt.Errorf("read checkpoint of a skip: %w", err)
	}
	if head.Counter == 0 {
		if ok, err := r.mayBegin(skip.Scope, skip.Log, skip.Key.Device); err != nil || !ok {
			return err
		}
	}
	skip.Checkpoint, skip.Word = p.checkpoint.Place(), p.word.Place()
	if !run.Joins(head.position()) {
		refused.skips++
		if !slices.Contains(refused.apart, skip) {
			refused.apart = append(refused.apart, skip)
		}
		return nil
	}
	skip.From = head.Counter + 1
	value, _ := skip.AppendBinary(nil)
	a.batch.Put(storage.Skip.Key(skip.Scope, skip.Log, skip.To), value)
	if err := r.store.View(func(v storage.Reader) error {
		others, err := keptUnder(v, skip.Scope, run, head, &a.batch)
		for _, sealed := range others {
			a.putBranch(chunkRef{skip.Scope, skip.Log, sealed.Header().Counter}, sealed)
		}
		return err
	}); err != nil {
		return fmt.Errorf("look for what is kept under a skip: %w", err)
	}
	a.skips[logRef{skip.Scope, skip.Log}] = true
	a.advance(skip.Scope, skip.Log, tip{skip.To, skip.Last})
	return nil
}

// errKnown says that a skip brings nothing.
var errKnown = errors.New("known")

// proof is what a skip rests on.
type proof struct {
	checkpoint chunk.Sealed
	word       chunk.Sealed // none if the device whose log it is made the checkpoint
}

// readProof returns the checkpoint of a skip, or what stands for it by now, with the word of the device whose log it is:
// out of what has just come, or as stored. errNoWord if the word is another one; storage.ErrNotFound if not all is here.
func readProof(v storage.Reader, skip chunk.Skip, came map[chunk.ID]chunk.Sealed) (p proof, err error) {
	var ok bool
	if p.checkpoint, ok = came[skip.Checkpoint.ID]; !ok || p.checkpoint.Place() != skip.Checkpoint {
		if p.checkpoint, err = readCheckpoint(v, skip.Scope, skip.Checkpoint); err != nil {
			return p, err
		}
	}
	on := p.checkpoint.Place()
	if p.checkpoint.Header().Device == skip.Key.Device {
		return p, nil
	}
	at := skip.Word
	if on != skip.Checkpoint { // the word was on another
		if at, err = wordOn(v, skip, on); err != nil {
			return p, err
		}
	}
	if at == (chunk.Place{}) {
		return p, errNoWord
	}
	if p.word, ok = came[at.ID]; !ok || p.word.Place() != at {
		if p.word, err = readAt(v, skip.Scope, at); err != nil {
			return p, err
		}
	}
	about, good, err := p.word.Verdict()
	if h := p.word.Header(); err != nil || !good || about != on || h.Device != skip.Key.Device || h.Scope != skip.Scope {
		return p, errNoWord
	}
	return p, nil
}

// wordOn finds the word of the device of a skip's log on the checkpoint that stands for the skip's by now: as the applier noted it,
// or as the skip names it that stands for the word before, since the applier may not have come to it.
func wordOn(v storage.Reader, skip chunk.Skip, on chunk.Place) (at chunk.Place, err error) {
	b, err := v.Get(storage.Word.Key(on.ID, skip.Key.Device))
	if err == nil {
		said, err := parseWord(b)
		return said.at, err
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return at, err
	}
	later, found, skipErr := readSkip(v, skip.Scope, skip.Word.Log, skip.Word.Counter)
	if skipErr != nil || !found || later.Checkpoint != on {
		return at, cmp.Or(skipErr, err)
	}
	return later.Word, nil
}

// covers returns the run for which the checkpoint stands in the skip's place; errNotCovered if it does not.
func (p proof) covers(skip chunk.Skip) (chunk.Covered, error) {
	covers, err := p.checkpoint.Covers()
	run, ok := covers.Find(skip.Log, skip.To)
	if err != nil || !ok || run.From > skip.From || run.To != skip.To || run.Last != skip.Last || p.checkpoint.Header().Scope != skip.Scope {
		return chunk.Covered{}, errNotCovered
	}
	return run, nil
}

// readAt returns the very chunk at a place: in its place, in another history of its log or loose; storage.ErrNotFound if it
// is not here.
func readAt(v storage.Reader, scope trust.ScopeID, at chunk.Place) (chunk.Sealed, error) {
	for _, key := range [][]byte{
		storage.Chunk.Key(scope, at.Log, at.Counter), storage.Branch.Key(scope, at.Log, at.Counter, at.ID),
		storage.Loose.Key(scope, at.Log, at.Counter, at.ID),
	} {
		b, err := v.Get(key)
		if errors.Is(err, storage.ErrNotFound) {
			continue
		}
		if err != nil {
			return chunk.Sealed{}, err
		}
		sealed, err := chunk.Parse(b)
		if err != nil {
			return chunk.Sealed{}, fmt.Errorf("read chunk: %w: %w", storage.ErrDamaged, err)
		}
		if sealed.ID() == at.ID {
			return sealed, nil
		}
	}
	return chunk.Sealed{}, storage.ErrNotFound
}

// looseAt returns a checkpoint or word that came before its turn.
func (r *Replica) looseAt(a *arriving, scope trust.ScopeID, at chunk.Place) (sealed chunk.Sealed, found bool, err error) {
	if sealed, found = a.proofs[at.ID]; found {
		return sealed, true, nil
	}
	err = r.store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Loose.Key(scope, at.Log, at.Counter, at.ID))
		if err != nil {
			return storage.IgnoreNotFound(err)
		}
		sealed, err = chunk.Parse(b)
		found = err == nil
		return err
	})
	if err != nil {
		return sealed, false, fmt.Errorf("read what is loose: %w", err)
	}
	return sealed, found, nil
}

// items reads what a log holds from after+1 on up to end, a skip behind its checkpoint and word, within maxBytes.
func items(v storage.Reader, scope trust.ScopeID, log chunk.LogID, after, end uint64, maxBytes int) ([]session.Item, error) {
	var out []session.Item
	size := 0
	add := func(it session.Item) error {
		if len(out) > 0 && size+len(it.Bytes) > maxBytes {
			return storage.ErrStop
		}
		out = append(out, it)
		size += len(it.Bytes)
		after = it.Counter
		return nil
	}
	loose := map[chunk.ID]bool{}
	for after < end {
		full, before := false, after
		err := v.Scan(storage.Chunk.With2(scope, log), storage.Chunk.Key(scope, log, after+1), func(key, value []byte) error {
			_, _, counter, err := storage.Chunk.Parse(key)
			if err != nil {
				return err
			}
			if counter > end || counter != after+1 {
				return storage.ErrStop
			}
			err = add(session.Item{Bytes: append([]byte(nil), value...), Log: log, Counter: counter})
			full = errors.Is(err, storage.ErrStop)
			return err
		})
		if err != nil || full || after >= end {
			return out, err
		}
		skip, found, err := readSkip(v, scope, log, after+1)
		if err != nil {
			return nil, err
		}
		if !found || skip.To > end {
			if after == before && len(out) == 0 {
				return nil, errNotHeld
			}
			return out, nil
		}
		p, err := readProof(v, skip, nil)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, errNoWord) {
			return nil, errNotHeld
		}
		if err != nil {
			return nil, err
		}
		skip.Checkpoint, skip.Word = p.checkpoint.Place(), p.word.Place()
		value, _ := skip.AppendBinary(nil)
		if len(out) > 0 && size+len(value) > maxBytes {
			return out, nil
		}
		for _, sealed := range []chunk.Sealed{p.checkpoint, p.word} {
			if id := sealed.ID(); id != (chunk.ID{}) && !loose[id] {
				loose[id] = true
				out = append(out, session.Item{Bytes: sealed.Bytes(), Log: sealed.Log(), Counter: sealed.Header().Counter, Loose: true})
			}
		}
		if err := add(session.Item{Bytes: value, Log: log, Counter: skip.To, Skip: true}); errors.Is(err, storage.ErrStop) {
			return out, nil
		}
	}
	return out, nil
}

// sources finds raw changes in stored chunks, and keeps open what it opened last, and every checkpoint.
type sources struct {
	r     *Replica
	v     storage.Reader
	last  chunkRef
	open  map[crdt.ChangeHash][]byte
	packs map[chunk.ID]map[crdt.ChangeHash][]byte
}

// raw returns the change with a hash out of the chunk at a place, or what stands for it.
func (s *sources) raw(at chunkRef, hash crdt.ChangeHash) ([]byte, error) {
	if s.open == nil || at != s.last {
		if err := s.read(at); err != nil {
			return nil, err
		}
	}
	raw, ok := s.open[hash]
	if !ok { // it stands beside the chunk that came first, or beyond the first history's end
		var err error
		if raw, _, err = s.r.rawAt(s.v, at, hash); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func (s *sources) read(at chunkRef) error {
	found, err := readStored(s.v, at)
	if errors.Is(err, errNotHeld) {
		s.last, s.open = at, map[crdt.ChangeHash][]byte{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read chunk: %w", unreadableAs(at.main(), err))
	}
	id := found.chunk.ID()
	if known := s.packs[id]; known != nil {
		s.last, s.open = at, known
		return nil
	}
	body, err := chunk.Open(s.r.keys, found.chunk)
	if err != nil {
		return fmt.Errorf("open chunk: %w", err)
	}
	s.last, s.open = at, map[crdt.ChangeHash][]byte{}
	switch body := body.(type) {
	case *chunk.Changes:
		s.take(body.Changes)
	case *chunk.Checkpoint:
		for _, p := range body.Parts {
			s.take(p.Changes)
		}
		if s.packs == nil {
			s.packs = map[chunk.ID]map[crdt.ChangeHash][]byte{}
		}
		s.packs[id] = s.open
	}
	return nil // of another kind: then the change is of another history of the log; see raw
}

func (s *sources) take(changes []chunk.Change) {
	for _, c := range changes {
		if hash, ok := hashOf(c.Raw); ok {
			s.open[hash] = c.Raw
		}
	}
}
