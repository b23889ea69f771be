package logs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chartmesh/chunk"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// ParkedTurn is the kind under storage.Parked of a chunk that stands beside the main history of its log and has not been looked at.
const ParkedTurn byte = 5

// commitBytes is how much arrives in one commit.
const commitBytes = 1 << 20

// Follower makes something of the logs, and keeps notes of that in the commits that change them.
type Follower interface {
	// Coming adds to a batch what is noted of a chunk that the batch brings, beside the main history of its log or not, and reports
	// whether what was made before is to be looked at again. It may be called for a chunk that is known.
	Coming(b *storage.Batch, sealed chunk.Sealed, beside bool) (again bool)
	// Came is told what a commit brought, before Memory is changed, which is locked. Turns are queued in Memory.
	Came(Came)
	// Changed is told that something came, or is not claimed any more.
	Changed()
}

// Came is what a commit brought.
type Came struct {
	Grown  []Grown
	Beside int  // chunks beside main histories
	Again  bool // Follower.Coming said so of one of them
}

// Grown says which chunks of a log's main history came: those after From, up to To.
type Grown struct {
	Name
	From, To uint64
}

// Config is what a Set is made of. The store stays the caller's to close.
type Config struct {
	Store    storage.Store
	State    func() *trust.State
	Own      func(trust.ScopeID) chunk.LogID // the log that is written here, which no skip of others goes on; nil: none is
	Follower Follower                        // nil: nobody follows
	Settles  bool                            // checkpoints and words on them are noted for Settle; of who follows that is the follower's
	Now      func() time.Time                // nil: time.Now
	Logger   *slog.Logger                    // nil: discard
}

// Set is the logs of a practice as they are held here. It is safe for concurrent use.
type Set struct {
	Memory   *Memory
	store    storage.Store
	state    func() *trust.State
	own      func(trust.ScopeID) chunk.LogID
	follower Follower
	now      func() time.Time
	log      *slog.Logger

	// arrive is held while chunks are judged and committed, per batch.
	arrive sync.Mutex
	begun  beginners // guarded by arrive

	settler settler
}

// Open reads where the logs stand. It returns the chunks beside main histories that do not read, for the caller to take back.
func Open(ctx context.Context, cfg Config) (s *Set, damaged []*Unreadable, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Own == nil {
		cfg.Own = func(trust.ScopeID) chunk.LogID { return chunk.LogID{} }
	}
	s = &Set{Memory: newMemory(), store: cfg.Store, state: cfg.State, own: cfg.Own, follower: cfg.Follower, now: cfg.Now, log: cfg.Logger}
	for _, scope := range cfg.State().Scopes() {
		s.Memory.AddScopeLocked(scope.ID)
	}
	if err := s.store.View(func(v storage.Reader) error {
		if err := v.Scan(storage.LogHead.All(), nil, func(key, value []byte) error {
			scope, log, err := storage.LogHead.Parse(key)
			if err != nil {
				return err
			}
			at, err := ParseEnd(value)
			if err != nil {
				return err
			}
			if at.Counter > 0 { // taken back to its beginning
				s.Memory.AdvanceLocked(scope, log, at)
			}
			return nil
		}); err != nil {
			return fmt.Errorf("read log heads: %w", err)
		}
		if damaged, err = s.loadForks(v); err != nil {
			return err
		}
		if s.settler.on = cfg.Settles; s.settler.on {
			if err := s.openSettler(v); err != nil {
				return fmt.Errorf("read how far checkpoints are settled: %w", err)
			}
		}
		s.Memory.Turns, err = ReadTurns(v)
		return err
	}); err != nil {
		return nil, nil, err
	}
	forked := map[Name]bool{}
	for scope, logs := range s.Memory.Forks {
		for log := range logs {
			forked[Name{scope, log}] = true
		}
	}
	if err := s.findGone(forked); err != nil {
		return nil, nil, err
	}
	if err := s.forgetCome(ctx); err != nil {
		s.log.Warn("it was not noted that damaged chunks have come again", "error", err)
	}
	if err := s.dropLoose(ctx); err != nil {
		s.log.Warn("what waits for no turn any more was not removed", "error", err)
	}
	return s, damaged, nil
}

// loadForks reads the logs that have branches, and returns the chunks of them that do not read.
func (s *Set) loadForks(v storage.Reader) (damaged []*Unreadable, err error) {
	err = v.Keys(storage.Branch.All(), nil, func(key []byte) error {
		scope, log, counter, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		at := storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}
		sealed, err := ReadBranch(v, at)
		if err == nil {
			s.growLocked(scope, log, id, node{counter, sealed.Header().Previous})
			return nil
		}
		bad, ok := errors.AsType[*Unreadable](UnreadableAs(at, err))
		if ok {
			damaged, err = append(damaged, bad), nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read branches: %w", err)
	}
	if err := s.loadGone(v); err != nil {
		return nil, fmt.Errorf("read what branches lack: %w", err)
	}
	return damaged, nil
}

func (s *Set) growLocked(scope trust.ScopeID, log chunk.LogID, id chunk.ID, n node) {
	f := s.Memory.forkLocked(scope, log)
	if len(f.nodes) == 0 {
		s.log.Warn("a log has more than one history; all of it is kept", "scope", scope, "log", log, "counter", n.counter)
	}
	f.nodes[id], f.reach = n, nil
	delete(f.gone, id)
}

// ReadTurns returns the chunks of other histories that have not been looked at.
func ReadTurns(v storage.Reader) (turns []storage.Ref, err error) {
	err = v.Scan(storage.Parked.With(ParkedTurn), nil, func(key, _ []byte) error {
		_, _, at, err := storage.Parked.Parse(key)
		turns = append(turns, at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read chunks beside others: %w", err)
	}
	return turns, nil
}

// noteTurn has the follower look at a chunk, once the batch is durable and Memory says so.
func (s *Set) noteTurn(b *storage.Batch, at storage.Ref) {
	if s.follower != nil {
		b.Put(storage.Parked.Key(ParkedTurn, [32]byte{}, at), nil)
	}
}

func (s *Set) changed() {
	if s.follower != nil {
		s.follower.Changed()
	}
}

// End returns the last chunk of a log's main history.
func (s *Set) End(scope trust.ScopeID, log chunk.LogID) End {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	return s.Memory.Ends[scope][log]
}

// Position returns where a log's main history stands.
func (s *Set) Position(scope trust.ScopeID, log chunk.LogID) chunk.Position {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	return s.Memory.Vectors[scope][log]
}

// Forked reports whether a log has several histories.
func (s *Set) Forked(scope trust.ScopeID, log chunk.LogID) bool {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	return s.Memory.Forks[scope][log] != nil
}

// Fork returns a copy of what stands beside a log's main history, and where that ends.
func (s *Set) Fork(scope trust.ScopeID, log chunk.LogID) (*Fork, End) {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	return s.Memory.Forks[scope][log].clone(), s.Memory.Ends[scope][log]
}

// Vector returns a copy of what is durable of a scope.
func (s *Set) Vector(scope trust.ScopeID) chunk.Vector {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	return s.Memory.VectorLocked(scope)
}

// Forks names the histories of each log of a scope that has several: equal trees have equal names.
func (s *Set) Forks(scope trust.ScopeID) map[chunk.LogID][32]byte {
	s.Memory.Lock()
	defer s.Memory.Unlock()
	if len(s.Memory.Forks[scope]) == 0 {
		return nil
	}
	out := map[chunk.LogID][32]byte{}
	for log, f := range s.Memory.Forks[scope] {
		out[log] = printOf(f.Leaves(s.Memory.Ends[scope][log]))
	}
	return out
}

// Locators describes what is held of a log, so that a peer finds where its own histories leave it: of every history its
// end, and chunks below it at growing distances.
func (s *Set) Locators(scope trust.ScopeID, log chunk.LogID) ([]chunk.Position, error) {
	f, head := s.Fork(scope, log)
	seen := map[chunk.Position]bool{}
	var out []chunk.Position
	add := func(p chunk.Position) {
		if p.Counter > 0 && !seen[p] && len(out) < session.MaxLocators {
			seen[p] = true
			out = append(out, p)
		}
	}
	from := map[uint64]bool{head.Counter: true} // where to go down the main history
	for _, at := range f.Leaves(head) {
		next, step := at.Counter, uint64(1)
		for {
			n, ok := f.nodes[at.ID]
			if !ok {
				from[at.Counter] = true
				break
			}
			if at.Counter == next {
				add(at.Position())
				next -= min(next, step)
				step *= 2
			}
			at = End{n.counter - 1, n.parent}
		}
	}
	add(head.Position())
	err := s.store.View(func(v storage.Reader) error {
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

// Beyond returns what is held of a log, of all its histories, that is neither at the given positions nor below one of them:
// the main history, then the others, ascending, at least one item if there is one, and no more than fit maxBytes. What does
// not read ends the list; where it comes first the error is an Unreadable, to be taken back.
func (s *Set) Beyond(scope trust.ScopeID, log chunk.LogID, has []chunk.Position, maxBytes int) (out []session.Item, err error) {
	f, head := s.Fork(scope, log)
	err = s.store.View(func(v storage.Reader) error {
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
		if out, err = s.items(v, scope, log, known, head.Counter, maxBytes); err != nil {
			return UnreadableAs(Ref{scope, log, known + 1}.Main(), err)
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
			sealed, err := ReadBranch(v, at)
			if err != nil {
				return UnreadableAs(at, err)
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
	if IsUnreadable(err) && len(out) > 0 {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read branches: %w", err)
	}
	return out, nil
}

// Chunks returns what a log holds durably from after+1 on, at least one item if there is one. What does not read, or what
// the store says nothing of, ends the list; where it comes first the error is an Unreadable, to be taken back.
func (s *Set) Chunks(scope trust.ScopeID, log chunk.LogID, after uint64, maxBytes int) (out []session.Item, err error) {
	end := s.Position(scope, log).Counter
	err = s.store.View(func(v storage.Reader) error {
		out, err = s.items(v, scope, log, after, end, maxBytes)
		return err
	})
	if len(out) > 0 || err == nil && after >= end {
		return out, nil
	}
	if err == nil {
		err = ErrNotHeld
	}
	return nil, fmt.Errorf("read chunks: %w", UnreadableAs(Ref{scope, log, after + 1}.Main(), err))
}

// Stood returns where the first history of a log stood at a counter; the zero Position if that is not held, or does not read.
func (s *Set) Stood(scope trust.ScopeID, log chunk.LogID, counter uint64) (at chunk.Position, err error) {
	err = s.store.View(func(v storage.Reader) (err error) {
		at, err = mainPosition(v, scope, log, counter)
		return err
	})
	if err != nil {
		return at, fmt.Errorf("read where a log stood: %w", err)
	}
	return at, nil
}

// At reads what a place names, or says that it is unreadable; main says that it is of the main history. A place without an ID
// names that.
func (s *Set) At(at storage.Ref) (found Stored, main bool, err error) {
	err = s.store.View(func(v storage.Reader) error {
		if at.ID != [32]byte{} {
			found.Chunk, err = ReadBranch(v, at)
			if !errors.Is(err, storage.ErrNotFound) {
				return UnreadableAs(at, err)
			}
			if b, err := v.Get(storage.Loose.Key(at.Scope, at.Log, at.Counter, at.ID)); err == nil {
				found.Loose = true
				found.Chunk, err = chunk.Parse(b)
				return err
			}
		}
		main = true
		ref := Ref{at.Scope, at.Log, at.Counter}
		found, err = Read(v, ref)
		if bad, ok := errors.AsType[*Unreadable](err); ok {
			err = bad.Err // of what stands for it: whoever has its turn waits for it all the same
		}
		return UnreadableAs(ref.Main(), err)
	})
	return found, main, err
}

// Sealed reads the chunk that a place names.
func (s *Set) Sealed(at storage.Ref) (chunk.Sealed, error) {
	found, _, err := s.At(at)
	return found.Chunk, err
}

// Quiet calls do while nothing arrives.
func (s *Set) Quiet(do func() error) error {
	s.arrive.Lock()
	defer s.arrive.Unlock()
	return do()
}
