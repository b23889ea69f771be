// Package agent joins everything that makes a device of a practice: the folder with its keyring and store, the engine,
// the replica, and the network.
//
// Nouns: an [Agent] is an open folder. Run connects it to the other devices and applies what arrives; without Run it
// answers the same calls from the folder alone. Init founds a practice, Join adds this folder to one, Restore makes
// it an administrator's by the recovery code. RotateStore encrypts the store of a folder that nobody has open anew.
//
// Guarantees: those of package replica, and: whatever was written is told to every connected device at once; an
// invitation admits one device, once, before it ends; Close stops the network, then the applier, then the engine, then
// the store.
//
// What a document is and how it changes is left to package replica, the wire to package p2p, HTTP to package api.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/agent/replica"
	"chartmesh/crdt/engine"
	"chartmesh/p2p"
	"chartmesh/p2p/lan"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// Config says which folder to open and how.
type Config struct {
	Dir     string
	Version string       // of the product
	Logger  *slog.Logger // nil: none
	Listen  []string     // multiaddrs; nil: every interface, QUIC and TCP, on free ports
	Offline bool         // Run is not going to be called, or begins with the network paused
	NoMDNS  bool         // the local network is not searched for members, nor told of this device
	NoPorts bool         // the router is not asked to pass on what comes for this device's ports
	// RecentLog returns the end of the log, for a diagnosis; nil: none is kept.
	RecentLog func() []byte
	// Repair sets a damaged store aside and begins a new one; without it, opening a damaged store fails. It is for who
	// calls Run, since the other devices fill the new one. So is the claim on the folder, which keeps commands from it.
	Repair bool
	// Unlock gives the keyring's passphrase, if it is protected by one; nil: there is nobody to ask.
	Unlock func() ([]byte, error)
	// LeastFree is how much room is left free on the disk: with less, nothing is written. 0: storage.DefaultLeastFree.
	LeastFree uint64
}

// Agent is an open folder. Its methods are safe for concurrent use.
type Agent struct {
	cfg     Config
	log     *slog.Logger
	keys    *keyring.Keyring
	claimed io.Closer // the folder, until the store is open, or to the end for who calls Run
	store   storage.Store
	engine  *engine.Supervisor
	records *replica.Replica
	invites *invites
	watch   watch

	host    atomic.Pointer[p2p.Host]       // nil until Run
	quorum  atomic.Pointer[quorum.Service] // nil until Run
	online  atomic.Bool
	running atomic.Bool
	closing sync.Once
	closed  error
	metrics *metrics
	checks  checks

	peers    peerBook
	contacts struct {
		sync.Mutex
		written []byte
	}
	wasFull   atomic.Bool
	savedLost bool // housekeeping's
	aside     struct {
		sync.Mutex
		sizes map[string]uint64
	}
}

var _ api.Agent = (*Agent)(nil)

// Open opens a folder that Init or Join made. Another process that has it open is api.CodeInUse.
func Open(cfg Config) (_ *Agent, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	keys, err := keyring.Open(cfg.Dir, cfg.Unlock)
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	a := &Agent{cfg: cfg, log: cfg.Logger, keys: keys}
	defer func() {
		if err != nil {
			_ = a.Close()
		}
	}()
	if err = a.claim(); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	open := func() error { return a.openStore(context.Background()) }
	if cfg.Repair {
		err = whileInUse(open)
	} else {
		err = errors.Join(open(), a.release())
	}
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	before, err := a.checkWritten()
	if err == nil {
		err = a.noteWritten(before)
	}
	if err != nil {
		return nil, openError(cfg.Dir, err)
	}
	if keys.Moved() {
		// The keyring has begun a new log, so that a copy never writes under its original's.
		a.log.Warn("this folder was copied, moved or restored: it goes on under a new log")
	}
	if a.engine, err = engine.Start(engine.Config{Logger: cfg.Logger}); err != nil {
		return nil, fmt.Errorf("start engine: %w", err)
	}
	a.metrics = newMetrics(a)
	if err = a.openRecords(context.Background()); err != nil {
		return nil, openError(cfg.Dir, err)
	}
	if err = a.openWitness(context.Background()); err != nil {
		return nil, err
	}
	a.online.Store(!cfg.Offline)
	if a.invites, err = openInvites(a); err != nil {
		return nil, err
	}
	if err = a.peers.load(a.records); err != nil {
		return nil, err
	}
	if err := a.loadChecks(); err != nil {
		return nil, err
	}
	if err := a.keepContacts(); err != nil {
		a.log.Warn("contacts were not kept", "error", err)
	}
	return a, nil
}

// storeIn is where a data folder has its store, beside the keyring and the socket.
func storeIn(dir string) string { return filepath.Join(dir, "records") }

// compactEvery is how often an agent looks whether there is anything to compact.
const compactEvery = 30 * time.Second

// ackEvery is how often acknowledgements of other devices are stored; a crash forgets no more than that.
const ackEvery = 2 * time.Second

// Run brings the folder onto the network until ctx ends. It may be called once.
func (a *Agent) Run(ctx context.Context) error {
	if a.running.Swap(true) {
		return errors.New("the agent is running already")
	}
	listen, err := a.listen()
	if err != nil {
		return err
	}
	var tag lan.Tagger
	if !a.cfg.NoMDNS {
		tag = a.announcementTag
	}
	host, err := p2p.Open(p2p.Config{
		LAN:      tag,
		Identity: identity{a.keys}, Replica: syncing{a.records, a}, Listen: listen, Logger: a.log, Version: a.cfg.Version,
		Schema: replica.Schemas(), Invites: a.invites, Offline: !a.online.Load(),
		Admit: a.admits,
		Root:  a.rootKey, Readmission: a.records, Relays: a.relays, MapPorts: !a.cfg.NoPorts,
		Quorum: a.serveQuorum,
		Blind:  func(d trust.DeviceID) bool { return a.records.State().IsAnchor(d) },
		OnPeer: a.peers.changed, OnAddrs: a.peers.learnt,
		// What one frame brings is made durable at once, and a cut loses no more than one.
		Session: session.Config{FramePayload: 64 << 10},
	})
	if err != nil {
		return fmt.Errorf("open network: %w", err)
	}
	if err := a.rememberPorts(ctx, host.Addresses()); err != nil && !errors.Is(err, storage.ErrNoRoom) {
		return errors.Join(err, host.Close())
	}
	exclusive, err := a.openQuorum(ctx)
	if err != nil {
		return errors.Join(err, host.Close())
	}
	a.host.Store(host)
	host.SetPeers(a.peers.addresses(a.records))
	host.SetFull(a.full())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { _ = exclusive.Run(ctx) })
	wg.Go(func() { a.apply(ctx, host) })
	wg.Go(func() { a.housekeeping(ctx, host) })
	wg.Go(func() { a.tellOfPeers(ctx) })
	wg.Go(func() { a.settleLeases(ctx) })
	wg.Go(func() { a.scrub(ctx) })
	wg.Go(func() { a.compact(ctx) })
	wg.Go(func() { a.keepEpochs(ctx, rotateAfter) })
	err = host.Run(ctx)
	cancel()
	wg.Wait()
	a.host.Store(nil)
	a.quorum.Store(nil)
	err = errors.Join(err, host.Close())
	if flush := a.records.FlushAcks(context.WithoutCancel(ctx)); flush != nil && !errors.Is(flush, storage.ErrNoRoom) {
		err = errors.Join(err, fmt.Errorf("store acknowledgements: %w", flush))
	}
	return err
}

// apply is the applier: it works whenever something was committed, and tells the sessions of what there is to push.
func (a *Agent) apply(ctx context.Context, host *p2p.Host) {
	pause := time.Duration(0)
	for {
		changed := a.records.Changed()
		for _, s := range a.records.State().Scopes() {
			host.Push(s.ID)
		}
		more, err := a.records.Apply(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			// The store or the engine is in trouble; what arrived stays and is tried again.
			pause = min(max(2*pause, 100*time.Millisecond), 10*time.Second)
			if errors.Is(err, storage.ErrNoRoom) {
				pause = 10 * time.Second // housekeeping says when there is room again, which wakes nobody
			} else {
				a.log.Error("applying arrived chunks failed", "error", err, "again_in", pause)
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
			continue
		case more:
			continue
		}
		pause = 0
		for _, s := range a.records.State().Scopes() {
			host.Applied(s.ID)
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// housekeeping stores what need not be stored at once.
func (a *Agent) housekeeping(ctx context.Context, host *p2p.Host) {
	tick := time.NewTicker(ackEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		full := a.full()
		if host.SetFull(full); full {
			continue
		}
		if err := a.records.FlushAcks(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("acknowledgements were not stored", "error", err)
		}
		a.keepWitness(ctx)
		if err := a.records.PruneEvents(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("old events were not removed", "error", err)
		}
		if err := a.peers.store(ctx, a.records); err != nil && ctx.Err() == nil {
			a.log.Warn("addresses of peers were not stored", "error", err)
		}
		if err := a.keepContacts(); err != nil {
			a.log.Warn("contacts were not kept", "error", err)
		}
		if a.records.TakenBack() {
			host.Renew(nil)
		}
		a.watchRepair(ctx)
		host.SetPeers(a.peers.addresses(a.records))
	}
}

// compact packs documents that are left alone, and deletes what is packed and found good. Each commit of it wakes the
// applier's loop, which tells the peers.
func (a *Agent) compact(ctx context.Context) {
	tick := time.NewTicker(compactEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		switch c, err := a.records.Compact(ctx, false); {
		case err != nil && ctx.Err() == nil:
			a.log.Warn("compaction failed; it is tried again", "error", err)
		case c.Checkpoints+c.Deleted > 0:
			a.log.Info("compacted", "checkpoints", c.Checkpoints, "deleted_chunks", c.Deleted, "waiting", c.Waiting)
		}
	}
}

// tellOfPeers records that peers came and went.
func (a *Agent) tellOfPeers(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case n := <-a.peers.news:
			e := api.Event{Kind: "peer-offline"}
			if n.online {
				e.Kind = "peer-online"
			}
			e.Peer, _ = a.keys.Names(a.records.State(), n.device)
			if err := a.records.Tell(ctx, e); err != nil && ctx.Err() == nil {
				a.log.Warn("an event was not recorded", "error", err)
			}
		}
	}
}

// Close closes the folder. Run must have returned.
func (a *Agent) Close() error {
	a.closing.Do(func() {
		if a.records != nil {
			if err := a.peers.store(context.Background(), a.records); !errors.Is(err, storage.ErrNoRoom) {
				a.closed = errors.Join(a.closed, err)
			}
			a.keepWitness(context.Background())
		}
		if a.engine != nil {
			a.closed = errors.Join(a.closed, a.engine.Close())
		}
		if a.store != nil {
			a.closed = errors.Join(a.closed, a.store.Close())
		}
		a.closed = errors.Join(a.closed, a.release())
	})
	return a.closed
}

// SetOnline pauses or resumes the network.
func (a *Agent) SetOnline(_ context.Context, online bool) error {
	host := a.host.Load()
	if host == nil {
		return notRunning()
	}
	a.online.Store(online)
	host.SetOnline(online)
	return nil
}

func notRunning() error {
	return &api.Error{Code: api.CodeUnavailable, Message: "no agent is running for this folder", Hint: "start it with `chartmesh agent`"}
}

// openError explains why a folder does not open.
func openError(dir string, err error) error {
	if e, ok := errors.AsType[*api.Error](err); ok {
		return e
	}
	e := &api.Error{Code: api.CodeInternal, Message: err.Error(), Err: err}
	switch {
	case errors.Is(err, keyring.ErrNotFound):
		e.Code, e.Message = api.CodeNotFound, "there is no practice in "+dir
		e.Hint = "found one with `chartmesh init`, join one with `chartmesh join`, or name another folder with --data"
	case errors.Is(err, storage.ErrNotFound):
		e.Code, e.Message = api.CodeNotFound, "joining a practice was begun in "+dir+" and not finished"
		e.Hint = "run `chartmesh join` or `chartmesh recovery restore` again with the same code"
	case errors.Is(err, storage.ErrInUse):
		e.Code, e.Message = api.CodeInUse, dir+" is open in another process"
		e.Hint = "an agent that runs for it answers all commands; wait for another command to end"
	case errors.Is(err, storage.ErrNewer), errors.Is(err, keyring.ErrProtected):
		e.Code, e.Message = api.CodeIncompat, dir+" was written by a newer version of chartmesh: "+err.Error()
		e.Hint = newerHint
	case errors.Is(err, storage.ErrDamaged):
		e.Code, e.Message = api.CodeDamaged, "this device's copy of the records is damaged: "+err.Error()
		e.Hint = "start the agent: it sets the copy aside, keeps what can be read, and gets the rest from the other devices"
	case errors.Is(err, keyring.ErrPassphrase), errors.Is(err, keyring.ErrLocked):
		e.Code, e.Message = api.CodeForbidden, "the keys in "+dir+" are protected by another passphrase"
		e.Hint = "if it is forgotten, nothing opens this folder; the other devices have the records, and this one can join anew"
	case errors.Is(err, keyring.ErrKeychainEntry):
		e.Code, e.Message = api.CodeForbidden, "the keys in "+dir+" are sealed by a key in the system's keychain, and this one does not have it"
		e.Hint = "the folder belongs to another machine or user, or the keychain was reset: let this device join anew, or get back in with " +
			"`chartmesh recovery restore` into another folder; the other devices have the records"
	case errors.Is(err, keyring.ErrNoKeychain):
		e.Code, e.Message = api.CodeForbidden, "the keys in "+dir+" are sealed by a key in the system's keychain, which cannot be reached"
		e.Hint = "log in as the user whose keychain has it and unlock it; for a service move the keys first, in that session: `chartmesh keyring protect`"
	case errors.Is(err, keyring.ErrChanged):
		e.Code, e.Message = api.CodeInUse, "another process has just changed how the keys in "+dir+" are kept"
		e.Hint = "try again"
	case errors.Is(err, keyring.ErrDamaged), errors.Is(err, storage.ErrWrongKey):
		e.Code = api.CodeDamaged
	case errors.Is(err, storage.ErrNoRoom):
		e.Code, e.Message = api.CodeFull, "the records cannot be opened: "+noRoom(err)
		e.Hint = "make room on the disk of " + dir + ", then start again"
	}
	return e
}

// rootKey says whether a key follows from the recovery code.
func (a *Agent) rootKey(id trust.DeviceID) p2p.RootKey {
	st := a.records.State()
	switch root, _ := st.Root(); {
	case id == root:
		return p2p.RootInForce
	case st.WasRoot(id):
		return p2p.RootReplaced
	}
	return p2p.RootNone
}

// announcementTag is by which members know each other on the local network: all of them read the clinical records.
func (a *Agent) announcementTag(message []byte) ([16]byte, error) {
	for _, s := range a.records.State().Scopes() {
		if s.Name == trust.ScopeClinical {
			return a.keys.AnnouncementTag(s.ID, message)
		}
	}
	return [16]byte{}, errors.New("the practice has no clinical records")
}

// identity gives libp2p the device's key as operations.
type identity struct{ *keyring.Keyring }

func (i identity) SignRaw(message []byte) ([]byte, error) { return i.SignTransport(message) }
