// Package replica is one device's copy of a practice's records, and the trips that change it.
//
// Nouns: a [Replica] joins a store, a keyring and an engine. It holds the logs of every device as sealed chunks (package logs), and for
// each document the applied changes and the views that follow from them. A transaction is what one commit makes durable.
//
// The trips, a file each: write.go (a local edit: engine, seal, one commit), arrive.go (chunks from elsewhere, into the
// logs), apply.go (arrived chunks into documents, behind a stored cursor).
//
// Guarantees: what a method reports as written is durable. A version vector names only what is durable. What is shown of
// a document follows from the chunks, the membership log and nothing else; what cannot be applied is held, with a
// reason, never dropped; deleted is what checkpoints stand for, and what two administrators erase (erase.go). The package leaves no goroutine behind and opens no socket, so a simulation can run it step by step.
//
// The network is left to package p2p, which knows a Replica as a session.Replica; scheduling is left to package agent.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// Config is what a Replica is made of. Store, Keyring and Engine stay the caller's to close, after the Replica's last use.
type Config struct {
	Store   storage.Store
	Keyring *keyring.Keyring
	Engine  crdt.Engine
	Logger  *slog.Logger     // nil: discard
	Now     func() time.Time // nil: time.Now; only shown and sent, never used for order
	// Build names the program's version: what another build failed on is tried again at once.
	Build string
	// OpenOps bounds the operations of documents kept open in the engine (about 800 bytes each); 0: 60,000.
	OpenOps uint64
	// Compaction says when documents are compacted.
	Compaction Compaction
	// Quorum is what is known of the practice's quorum; nil: nothing yet, so that no change of a protected document counts.
	Quorum Quorum
}

// Replica is one device's copy. It is safe for concurrent use: reads run beside one writer at a time.
type Replica struct {
	store      storage.Store
	keys       *keyring.Keyring
	engine     crdt.Engine
	log        *slog.Logger
	now        func() time.Time
	build      string
	compaction Compaction
	quorum     Quorum

	state atomic.Pointer[trust.State]

	// membership is held while entries are added, so that each is judged on top of the last.
	membership sync.Mutex

	// write is held by whoever changes documents or this device's own logs: edits, imports and the applier.
	write turns
	docs  openDocuments // guarded by write
	// checkpoints holds, guarded by write, those that are not settled; tails the documents that a checkpoint would help.
	checkpoints map[chunk.Place]checkpoint
	// erasures holds, guarded by write, the orders to erase that wait for an assent, or for chunks that they name; erasuresAt is the membership
	// by which the former were judged last.
	erasures   map[chunk.ID]*erasure
	erasuresAt [32]byte
	tails      map[crdt.DocumentID]tail
	// packs names, guarded by write, the checkpoints that this run of the program has applied, so that of the many skips that
	// name one only the first has it opened.
	packs map[chunk.ID]bool
	// failing holds, guarded by write, the chunks that this run of the program failed on, with the reason.
	failing map[storage.Ref]string
	// newer holds, guarded by write, the parked chunks of newer schemas by document; nil: they were not looked for.
	newer map[crdt.DocumentID][]storage.Ref
	// lost holds, guarded by write, the documents in which changes of this device may have to be written anew.
	lost map[crdt.DocumentID]trust.ScopeID
	// drafts holds, guarded by write, the documents for which drafts may have to be removed.
	drafts map[crdt.DocumentID]trust.ScopeID
	starts starts // guarded by write
	// cutting is, guarded by write, what is being looked at again since somebody was removed; nil: nothing.
	cutting *review
	// rebuilding says, guarded by write, that a rebuild was cut short: nothing else is written before it is over.
	rebuilding bool

	// flushing holds one token while acknowledgements are stored, from before they are read until they are durable.
	flushing chan struct{}

	takenBack atomic.Bool // vectors claim less than before; see TakenBack
	branched  atomic.Bool // chunks came that stand beside others; one of them may be what something else waits for
	refilled  atomic.Bool // a chunk came back that had been damaged; what failed without it is tried again

	// recut counts how often the membership changed, or something came of a log that ends at a cut, and reviewedTo is up to where that
	// was followed; see reviewCuts.
	recut, reviewedTo atomic.Uint64

	// logs are the chunks that are held. What they keep at hand is guarded by the same lock as what follows from them.
	logs *logs.Set

	mu struct {
		*logs.Memory
		applied map[trust.ScopeID]chunk.Vector // the applier's cursors
		woken   []storage.Ref                  // parked chunks whose turn has come; changed under write, too
		unsaid  bool                           // Replica.lost is not empty
		own     []OwnLog
		due     dueLog                          // before the next edit
		claims  map[trust.DeviceID]time.Time    // when a peer's word last made it so
		sets    map[trust.ScopeID]chunk.SetHash // of applied changes
		counts  counts
		acked   map[trust.DeviceID]map[trust.ScopeID]*statement
		event   uint64        // last event
		changed chan struct{} // closed and replaced after every commit
	}
}

// Open reads the replica's state from its store. The founding entry must be there already (see Found and Adopt).
func Open(cfg Config) (*Replica, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.OpenOps == 0 {
		cfg.OpenOps = 60_000
	}
	r := &Replica{store: cfg.Store, keys: cfg.Keyring, engine: cfg.Engine, log: cfg.Logger, now: cfg.Now,
		build: cfg.Build, compaction: cfg.Compaction.orDefault(), quorum: cfg.Quorum}
	r.write = newTurns()
	r.flushing = make(chan struct{}, 1)
	r.docs = newOpenDocuments(cfg.OpenOps)
	r.failing, r.lost = map[storage.Ref]string{}, map[crdt.DocumentID]trust.ScopeID{}
	r.packs = map[chunk.ID]bool{}
	r.mu.changed = make(chan struct{})
	if err := endRebuilding(cfg.Store); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := r.load(); err != nil {
		return nil, err
	}
	if err := r.beginReview(); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := r.nameTerms(context.Background()); err != nil {
		return nil, fmt.Errorf("open replica: %w", err)
	}
	if err := r.openLog(context.Background()); err != nil {
		r.log.Warn("the log of this device is not noted yet; nothing is written until it is", "error", err)
	}
	return r, nil
}

// Adopt stores the entries of a membership log, before the first Open: the founding entry that this device made, or what
// an inviter answered.
func Adopt(ctx context.Context, store storage.Store, entries []trust.Entry) error {
	if _, rejected := trust.Replay(entries); len(rejected) > 0 {
		return fmt.Errorf("adopt membership log: %w", rejected[0].Err)
	}
	var b storage.Batch
	for _, e := range entries {
		id := e.ID()
		b.Put(storage.Member.Key(id), e.Bytes())
	}
	return store.Commit(ctx, &b)
}

func (r *Replica) load() error {
	if err := r.store.View(func(v storage.Reader) error {
		st, err := logs.ReadMembers(v)
		r.state.Store(st)
		return err
	}); err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	var damaged []*logs.Unreadable
	var err error
	r.logs, damaged, err = logs.Open(context.Background(), logs.Config{
		Store: r.store, State: r.State, Own: r.logID, Follower: follower{r}, Logger: r.log,
	})
	if err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	m := &r.mu
	m.Memory = r.logs.Memory
	m.applied = map[trust.ScopeID]chunk.Vector{}
	m.sets = map[trust.ScopeID]chunk.SetHash{}
	m.acked = map[trust.DeviceID]map[trust.ScopeID]*statement{}
	m.claims = map[trust.DeviceID]time.Time{}
	err = r.store.View(func(v storage.Reader) error {
		if err := loadPositions(v, storage.Cursor, m.applied); err != nil {
			return fmt.Errorf("read cursors: %w", err)
		}
		for scope := range m.Vectors {
			r.addScopeLocked(scope)
		}
		if err := r.loadOwnLogs(v); err != nil {
			return fmt.Errorf("read own logs: %w", err)
		}
		return r.loadRest(v)
	})
	if err != nil {
		return fmt.Errorf("open replica: %w", err)
	}
	for _, bad := range damaged {
		if err := r.takeBack(context.Background(), bad.At, bad.Err); err != nil {
			r.log.Warn("a damaged chunk was not forgotten", "error", err)
		}
	}
	r.learn(r.state.Load())
	if err := r.takeSaid(r.state.Load()); err != nil {
		r.log.Warn("keys of epochs that members said were not read; `chartmesh verify --repair` reads them anew", "error", err)
	}
	return nil
}

// learn opens the epochs that the membership log has for this device. A box that does not open is its author's doing, perhaps one
// who was removed for it: nothing else may stop for that.
func (r *Replica) learn(st *trust.State) {
	if err := r.keys.Learn(st); err != nil {
		r.log.Warn("a key of the membership log does not open here", "error", err)
	}
}

func loadPositions(v storage.Reader, kind storage.Kind2[[16]byte, [32]byte], into map[trust.ScopeID]chunk.Vector) error {
	return v.Scan(kind.All(), nil, func(key, value []byte) error {
		scope, log, err := kind.Parse(key)
		if err != nil {
			return err
		}
		p, err := logs.ParsePosition(value)
		if err != nil {
			return err
		}
		if into[scope] == nil {
			into[scope] = chunk.Vector{}
		}
		into[scope][log] = p
		return nil
	})
}

// Numbers of the meta values (docs/spec/store-layout.md).
const (
	metaCounts  byte = 1
	metaApplied byte = 2
	metaEvent   byte = 3
	MetaInvites byte = 4 // package agent's
	MetaPorts   byte = 5 // package agent's
	metaStarts  byte = 10
	MetaWitness byte = 6 // package agent's
	metaOwnLogs byte = 7
	// metaReviewed is the membership, by its heads hash, as of which everything stands that is to.
	metaReviewed byte = 11
	MetaWritten  byte = 24 // package agent's
	MetaChecks   byte = 25 // package agent's
)

func (r *Replica) loadRest(v storage.Reader) error {
	b, err := v.Get(storage.Meta.Key(metaApplied))
	if err == nil {
		r.mu.sets, err = parseSets(b)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("read applied sets: %w", err)
	}
	if r.starts.stuck, err = readStarts(v); err != nil {
		return fmt.Errorf("read starts: %w", err)
	}
	b, err = v.Get(storage.Meta.Key(metaCounts))
	if err == nil {
		r.mu.counts, err = parseCounts(b)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("read counts: %w", err)
	}
	if r.mu.event, err = lastEvent(v); err != nil {
		return fmt.Errorf("read events: %w", err)
	}
	if err := r.wakeHeld(v); err != nil {
		return fmt.Errorf("read held chunks: %w", err)
	}
	if err := r.loadLost(v); err != nil {
		return fmt.Errorf("read changes that lost their place: %w", err)
	}
	if err := r.loadDrafts(v); err != nil {
		return fmt.Errorf("read which drafts were made final: %w", err)
	}
	if err := r.loadCheckpoints(v); err != nil {
		return fmt.Errorf("read checkpoints: %w", err)
	}
	if err := r.loadErasures(v); err != nil {
		return fmt.Errorf("read erasures: %w", err)
	}
	return r.loadAcks(v)
}

// addScopeLocked has room for a scope.
func (r *Replica) addScopeLocked(scope trust.ScopeID) {
	r.mu.AddScopeLocked(scope)
	if r.mu.applied[scope] == nil {
		r.mu.applied[scope] = chunk.Vector{}
	}
}

// State returns the membership as this device knows it.
func (r *Replica) State() *trust.State { return r.state.Load() }

// Device returns this device's ID.
func (r *Replica) Device() trust.DeviceID { return r.keys.Device() }

// Changed returns a channel that is closed at the next commit that changes what is shown or held.
func (r *Replica) Changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.mu.changed
}

func (r *Replica) notify() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.mu.changed)
	r.mu.changed = make(chan struct{})
}

// scope returns the ID of a scope by name.
func (r *Replica) scope(name string) (trust.ScopeID, error) {
	for _, s := range r.State().Scopes() {
		if s.Name == name {
			return s.ID, nil
		}
	}
	return trust.ScopeID{}, fmt.Errorf("the practice has no scope %q", name)
}
