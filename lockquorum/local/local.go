// Package local runs the voter of this device, of a workstation as of an anchor.
//
// Nouns: a Voter is this device's place in its practice's quorum: it founds it, begins to vote when it is told to, runs, and leaves. A Witness
// keeps outside of the folder how far it came.
//
// Guarantees: a quorum is founded once, by the device that founded the practice, and not by a folder that may be a copy of it. A voter in a folder
// that was copied, moved or put back does not start. What a voter signs is what the quorum agrees on at that moment. It knows no name: locks,
// circles and items are keyed hashes here.
//
// Left to others: streams, and who is connected (Network); what is asked of the quorum for this device's own use (packages client and agent/quorum).
package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/lockquorum/seen"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Keys are who this device is, and what it signs as.
type Keys interface {
	Device() trust.DeviceID
	Sign(context string, msg []byte) []byte
}

// Log is the log that the device writes: a folder that was copied, moved or put back begins another one.
type Log struct {
	Current func() [32]byte
	// Continues reports whether the folder is still the one that it was when its log was another, or the current one.
	Continues func(since [32]byte) bool
	// Original reports whether the folder never was anything but what it is: no copy, not put back, not filled anew.
	Original func() bool
}

// Config says whose voter it is. Store, Keys, Members and Log are needed.
type Config struct {
	Store   storage.Store
	Keys    Keys
	Members func() *trust.State
	Log     Log
	// Network reaches other devices; nil: nobody is reached.
	Network Network
	// Witness keeps outside of the folder how far the voter came; nil: nothing does.
	Witness Witness
	// Parts returns the parts of ranges that this device has, for a quorum that is founded anew; nil: it has none.
	Parts func() ([]lockquorum.Owned, error)
	// Names returns the names behind keyed hashes, for a device that may know them; nil: none is told.
	Names func(from lockquorum.DeviceID, list []remote.Name) []string
	// Seen keeps how far this device saw the quorum come; nil: it is opened in Store.
	Seen *seen.Keeper
	// SnapshotEvery is after how many commands a snapshot is made; 0: the driver's default.
	SnapshotEvery uint64
	Logger        *slog.Logger // nil: none
}

// Network reaches other devices of the practice.
type Network interface {
	// Open opens a stream to a device that is connected, at which its Voter answers.
	Open(context.Context, trust.DeviceID) (remote.Stream, error)
	// Reaches reports whether a device is connected.
	Reaches(trust.DeviceID) bool
	// RoundTrip returns how long the way to a device and back was when it was last measured; 0: it never was.
	RoundTrip(trust.DeviceID) time.Duration
	// Doubt says that a device has not answered in time, though it is connected: it may be gone, and its connection not show it yet.
	Doubt(trust.DeviceID)
}

// nearby is how long the way to a voter and back is at most, for one on the same LAN.
const nearby = 10 * time.Millisecond

// near reports whether the way to a device is short.
func (v *Voter) near(d lockquorum.DeviceID) bool {
	took := v.cfg.Network.RoundTrip(d)
	return took > 0 && took <= nearby
}

// Voter is one device's place in its practice's quorum. Its methods are safe for concurrent use.
type Voter struct {
	cfg    Config
	log    *slog.Logger
	self   trust.DeviceID
	server remote.Server
	seen   *seen.Keeper

	joining sync.Mutex    // one change of what this device votes in at a time
	begun   chan struct{} // this device is to vote
	ready   chan struct{} // closed when Run has found out whether there is a voter, and started it
	isReady sync.Once

	mu struct {
		sync.Mutex
		disk    *driver.StoreDisk // nil: this device does not vote
		record  driver.Record     // which voter that is
		driver  *driver.Driver    // nil: it does not run
		stopped error             // why this device's voter does not run, and must not
		known   known             // the voters, as this device last heard of them

		judged   *trust.State        // what inForce follows from
		inForce  lockquorum.Founding // see InForce
		followed trust.EntryID       // the founding that this device has followed
		prepared *driver.Prepared    // nil: none is
		held     time.Time           // the voter gives nothing until then
	}
}

// Status is how things stand with this device's voter.
type Status struct {
	Runs    bool
	Held    bool          // it is to give nothing for now, see Testify
	Stopped error         // why it does not run, and must not
	Voter   driver.Status // if it runs
}

// ErrWentBack says that a folder with a voter may be older than what the voter has said.
var ErrWentBack = errors.New("the folder was copied, moved or put back, and may not know what it has said since")

// ErrNotFounded says that the device that founded the practice has no voter, and founds no quorum.
var ErrNotFounded = errors.New("this folder may be a copy of one that has founded the quorum")

// Open opens the device's place, and founds the quorum if that is to be done and is this device's to do. Nothing runs before Run.
func Open(ctx context.Context, cfg Config) (*Voter, error) {
	v := &Voter{cfg: cfg, log: cfg.Logger, self: cfg.Keys.Device()}
	if v.log == nil {
		v.log = slog.New(slog.DiscardHandler)
	}
	v.begun, v.ready = make(chan struct{}, 1), make(chan struct{})
	if v.seen = cfg.Seen; v.seen == nil {
		var err error
		if v.seen, err = seen.Open(seen.Config{Store: cfg.Store, Members: cfg.Members, Self: v.self, Logger: v.log}); err != nil {
			return nil, err
		}
	}
	v.seen.Know(v.Voting)
	if err := v.open(ctx); errors.Is(err, storage.ErrNoRoom) {
		v.log.Warn("this device's voter does not begin before there is room on the disk", "error", err)
	} else if err != nil {
		return nil, err
	}
	if err := v.loadKnown(); err != nil {
		return nil, err
	}
	if err := v.loadPrepared(); err != nil {
		return nil, err
	}
	if err := v.loadHeld(); err != nil {
		return nil, err
	}
	v.server.Practice, v.server.Engine, v.server.Names, v.server.Certify = cfg.Members().Practice(), v.answers, cfg.Names, v.certify
	v.server.Begin, v.server.Change, v.server.Votes, v.server.Receive, v.server.Snapshot = v.Begin, v.Change, v.votes, v.receive, v.takeSnapshot
	v.server.Testify, v.server.Founds, v.server.Prepare = v.Testify, v.founder, v.Prepare
	return v, nil
}

func (v *Voter) open(ctx context.Context) error {
	disk, rec, err := driver.OpenDisk(v.cfg.Store)
	if errors.Is(err, storage.ErrNotFound) {
		if !v.founds() {
			if v.cfg.Members().Founding().Device.ID == v.self && v.InForce().Epoch == lockquorum.FirstEpoch {
				v.mu.Lock()
				defer v.mu.Unlock()
				v.mu.stopped = ErrNotFounded
			}
			return nil
		}
		if err := v.found(ctx); err != nil {
			return err
		}
		disk, rec, err = driver.OpenDisk(v.cfg.Store)
	}
	stopped := err
	switch {
	case errors.Is(err, storage.ErrDamaged):
	case err != nil:
		return err
	case rec.Practice != v.cfg.Members().Practice():
		stopped = errors.New("the voter is another practice's")
	case !v.cfg.Log.Continues(rec.Log):
		stopped = ErrWentBack
	case rec.Log != v.cfg.Log.Current():
		rec.Log = v.cfg.Log.Current()
		if err := disk.Rebind(ctx, rec); err != nil {
			return err
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.disk, v.mu.stopped, v.mu.record = disk, stopped, rec
	return nil
}

// founds reports whether this device is to found the quorum.
func (v *Voter) founds() bool {
	st := v.cfg.Members()
	self, ok := st.Member(v.self)
	if st.Founding().Device.ID != v.self || !ok || self.Role != trust.RoleAdmin || !v.cfg.Log.Original() || v.InForce().Epoch != lockquorum.FirstEpoch {
		return false
	}
	if v.cfg.Witness == nil {
		return true
	}
	_, before, err := v.cfg.Witness.Read()
	return err == nil && !before
}

func (v *Voter) found(ctx context.Context) error {
	st := lockquorum.New(0)
	st.Reseed(lockquorum.FirstEpoch, []lockquorum.Voter{{ID: 1, Device: v.self}})
	rec := driver.Record{Practice: v.cfg.Members().Practice(), Epoch: lockquorum.FirstEpoch, ID: 1, Log: v.cfg.Log.Current()}
	if err := driver.Found(ctx, v.cfg.Store, rec, voter.Found(st)); err != nil {
		return err
	}
	v.log.Info("this device founded the practice's quorum")
	return nil
}

// Retry is after how long a voter is started again whose disk failed.
const Retry = 10 * time.Second

// Run runs the voter, if this device has one or is to have one, and again after its disk failed, until ctx ends.
func (v *Voter) Run(ctx context.Context) {
	for ctx.Err() == nil {
		err := v.follow(ctx)
		v.mu.Lock()
		disk, stopped, waits := v.mu.disk, v.mu.stopped, v.isHeldLocked() || v.mu.record.Epoch > v.mu.inForce.Epoch
		v.mu.Unlock()
		switch {
		case err != nil:
		case stopped != nil:
			v.log.Error("this device's voter does not run", "error", stopped)
			v.awaitBegin(ctx)
			continue
		case disk != nil && waits:
			v.awaitBegin(ctx)
			continue
		case disk != nil:
			if err = v.runOnce(ctx, disk); err == nil || v.isOver(disk) {
				if ctx.Err() == nil && !v.due() {
					v.awaitBegin(ctx) // it left its quorum, or is held, or another begins in its place
				}
				continue
			}
			if !errors.Is(err, driver.ErrDisk) {
				v.halt(err)
				continue
			}
		case v.founds():
			if err = v.open(ctx); err == nil {
				continue
			}
		default:
			v.awaitBegin(ctx)
			continue
		}
		v.isReady.Do(func() { close(v.ready) })
		v.log.Warn("this device's voter is started again", "error", err, "in", Retry)
		select {
		case <-ctx.Done():
		case <-time.After(Retry):
		}
	}
}

// isOver reports whether a voter has left, and perhaps another one begun in its place, while it was started or ran.
func (v *Voter) isOver(disk *driver.StoreDisk) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.disk != disk
}

// awaitBegin waits until this device is told to vote, or the membership log says that another quorum is in force.
func (v *Voter) awaitBegin(ctx context.Context) {
	v.isReady.Do(func() { close(v.ready) })
	look := time.NewTicker(WitnessEvery)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-v.begun:
			return
		case <-look.C:
			if v.due() {
				return
			}
		}
	}
}

// votes reports whether a device has another voter of the quorum that this device's voter is in.
func (v *Voter) votes(from lockquorum.DeviceID) bool {
	d := v.running()
	return d != nil && slices.ContainsFunc(d.Status().Voters, func(o lockquorum.Voter) bool { return o.Device == from })
}

// receive takes a message of another voter.
func (v *Voter) receive(from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) {
	if d := v.running(); d != nil {
		d.Receive(from, at, m)
	}
}

// takeSnapshot takes a message of another voter that carries a snapshot.
func (v *Voter) takeSnapshot(ctx context.Context, from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message, fetch remote.Fetch) error {
	if d := v.running(); d != nil {
		return d.ReceiveSnapshot(ctx, from, at, m, fetch)
	}
	return lockquorum.ErrStopped
}

func (v *Voter) runOnce(ctx context.Context, disk *driver.StoreDisk) error {
	v.mu.Lock()
	rec, begin := v.mu.record, driver.Begin{Epoch: v.mu.record.Epoch, Voters: v.mu.known.voters}
	v.mu.Unlock()
	cfg := driver.Config{
		ID: rec.ID, Device: v.self, Disk: disk, Begin: begin, Allow: v.allows, Prefer: v.prefers, Sign: v.signs, Trusts: v.seen.Trusts, Heard: v.seen.Shows,
		SnapshotEvery: v.cfg.SnapshotEvery, Logger: v.log,
	}
	if v.cfg.Network != nil {
		messenger := remote.NewMessenger(v.server.Practice, v.cfg.Network.Open, v.cfg.Network.Reaches)
		defer messenger.Close()
		cfg.Transport, cfg.Near = messenger, v.near
	}
	d, err := driver.Open(ctx, cfg)
	if err != nil {
		if !errors.Is(err, driver.ErrBroken) {
			err = fmt.Errorf("%w: %w", driver.ErrDisk, err)
		}
		return err
	}
	if err := v.wentBack(rec.ID, d.Status()); err != nil {
		return err
	}
	v.mu.Lock()
	if v.mu.disk != disk || v.isHeldLocked() || v.leftLocked(d.Status()) {
		v.mu.Unlock()
		return nil
	}
	v.mu.driver, v.mu.held = d, time.Time{}
	v.mu.Unlock()
	v.isReady.Do(func() { close(v.ready) })
	running, stop := context.WithCancelCause(ctx)
	kept := &keeping{v: v, d: d, rec: rec}
	var watch sync.WaitGroup
	var watched error
	watch.Go(func() { watched = kept.watch(running); stop(watched) })
	watch.Go(func() { v.prove(running, d) })
	err = d.Run(running)
	stop(nil)
	watch.Wait()
	if watched == nil {
		kept.write()
	}
	v.mu.Lock()
	v.mu.driver = nil
	v.mu.Unlock()
	if cause := context.Cause(running); err == nil && errors.Is(cause, ErrWentBack) {
		return cause
	}
	return err // what the membership log says is followed by who calls
}

// allows reports whether a device may ask for an operation, by the membership log as it is known here.
func (v *Voter) allows(from lockquorum.DeviceID, o lockquorum.Operation) bool {
	if st := v.cfg.Members(); o != nil {
		return lockquorum.Allows(st, from, o)
	} else {
		return lockquorum.Reads(st, from)
	}
}

// prefers reports whether a device is to lead when it is well: an anchor, which is always on.
func (v *Voter) prefers(d lockquorum.DeviceID) bool { return v.cfg.Members().IsAnchor(d) }

// running returns the voter; nil: it does not run.
func (v *Voter) running() *driver.Driver {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.driver
}

// Engine returns this device's voter; nil: it does not run, or its quorum is over.
func (v *Voter) Engine() lockquorum.Engine {
	force := v.InForce().Epoch
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.driver == nil || v.mu.record.Epoch != force {
		return nil
	}
	return v.mu.driver
}

// Status returns how things stand.
func (v *Voter) Status() Status {
	force := v.InForce().Epoch
	v.mu.Lock()
	d, stopped, rec, held := v.mu.driver, v.mu.stopped, v.mu.record, v.isHeldLocked()
	v.mu.Unlock()
	if errors.Is(stopped, voter.ErrOver) && rec.Epoch < force {
		stopped = nil // it is a device as all that do not vote
	}
	if rec.Epoch != force || held { // it may just be ending
		d = nil
	}
	s := Status{Runs: d != nil, Held: held, Stopped: stopped}
	if d != nil {
		s.Voter = d.Status()
	}
	return s
}

// Ready is closed when Run has found out whether there is a voter, and has started it.
func (v *Voter) Ready() <-chan struct{} { return v.ready }

// Server answers for this device's voter.
func (v *Voter) Server() *remote.Server { return &v.server }

// Serve answers a question of another device, which the connection has proven. It returns when the stream is not used any more.
func (v *Voter) Serve(ctx context.Context, st remote.Stream, from trust.DeviceID) {
	if err := v.server.Serve(ctx, st, from); err != nil {
		v.log.Debug("a question about leases or numbers was not answered", "device", from, "error", err)
	}
}

// Remote returns the voter of another device.
func (v *Voter) Remote(d trust.DeviceID) *remote.Engine {
	e := &remote.Engine{Practice: v.server.Practice, Open: func(ctx context.Context) (remote.Stream, error) {
		if v.cfg.Network == nil {
			return nil, lockquorum.ErrUnreachable
		}
		return v.cfg.Network.Open(ctx, d)
	}}
	if v.cfg.Network != nil {
		e.Doubt = func() { v.cfg.Network.Doubt(d) }
	}
	return e
}
