// Package driver runs one voter of a quorum.
//
// Nouns: a Driver owns a voter.Node in one goroutine; a Disk keeps what the voter stored; a Transport carries messages to other voters.
//
// Guarantees: what a Batch says is durable before anything that follows from it is sent or answered; a disk that fails ends the voter before
// that. A voter that Raft refuses to go on with, since it has gone back or what it is sent does not fit, ends with a State that says so, and
// never takes the process with it. Who asks is what the caller says that the connection proved. A Driver is a lockquorum.Engine.
//
// Left to others: who may ask for what (Config.Allow); that messages come from whom they say (Config.Transport, and who calls Receive); when an ended
// voter is started again.
package driver

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/big"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// Config says what a Driver is. ID, Device, Disk and Allow are needed.
type Config struct {
	ID     uint64 // of the voter
	Device lockquorum.DeviceID
	Disk   Disk
	// Begin says whose quorum this voter is to join, or who votes now as far as its device has heard, see Meet.
	Begin Begin
	// Transport carries messages to other voters; nil: there are none.
	Transport Transport
	// Allow reports whether a device may ask for an operation; nil for the operation: whether it may read.
	Allow func(from lockquorum.DeviceID, o lockquorum.Operation) bool
	// Sign signs how far the quorum has come, as this voter; nil: answers do not say it.
	Sign func(lockquorum.Seen) lockquorum.Position
	// Trusts reports whether a position that somebody shows is the word of a device that may have voted; nil: none is. What is not is left out of account.
	Trusts func(lockquorum.Position) bool
	// Heard is what the voter's own device has heard: it is held against every command, as if it were shown with it. nil: nothing.
	Heard func() []lockquorum.Position
	// Now is a clock that runs evenly and never jumps; nil: the process's own.
	Now func() time.Duration
	// Boot is drawn by chance, for each process another one; 0: here.
	Boot uint64
	// Tick is what a voter counts time in where all voters are Near, FarTick where one is not or is preferred: an anchor, which may vote in many
	// quorums. A leader says a word every Heartbeat of them; Election is after how many without one another is wanted. 0: the defaults.
	Tick, FarTick       time.Duration
	Heartbeat, Election int
	// Near reports whether the way to a device is short, as it was when it was last connected; nil: to none it is.
	Near func(lockquorum.DeviceID) bool
	// Prefer reports whether a device's voter is to lead when it has been well for PreferAfter: an anchor's, as it is known now; nil: none is.
	Prefer      func(lockquorum.DeviceID) bool
	PreferAfter time.Duration
	// SnapshotEvery is after how many commands a snapshot is made; 0: the default.
	SnapshotEvery uint64
	Logger        *slog.Logger // nil: none
}

// Begin is a quorum and who votes in it: a voter takes messages of that epoch from these devices too, besides those that its State names. One that is to
// join has no State yet, and the State of one that was away may name only who votes no more.
type Begin struct {
	Epoch  uint64
	Voters []lockquorum.Voter
}

// Defaults of a Config.
const (
	DefaultTick          = 50 * time.Millisecond
	DefaultFarTick       = 150 * time.Millisecond
	DefaultHeartbeat     = 3
	DefaultElection      = 10
	DefaultPreferAfter   = 30 * time.Second
	DefaultSnapshotEvery = 4096
)

// Transport carries messages to other voters.
type Transport interface {
	// Send takes a message for a voter, with how far its sender has come, or the epoch alone. It must not block and keeps the message; an error
	// says that it will not arrive.
	Send(to lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) error
	// SendSnapshot is Send of a message that carries a snapshot, of which the receiver is sent the pieces that it lacks. Unless it returns an error it
	// calls done once, with nil when the other voter has taken it.
	SendSnapshot(to lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message, pieces lockquorum.Pieces, done func(error)) error
}

// Errors of Run, each of which a Status shows.
var (
	// ErrDisk says that something could not be stored. The voter may be started again when that is mended.
	ErrDisk = errors.New("the voter's disk failed")
	// ErrBroken says that the voter cannot go on with what it has.
	ErrBroken = errors.New("the voter cannot go on with what it has stored")
)

// Status is how things stand with a voter.
type Status struct {
	Running bool
	Err     error // why it ended
	Epoch   uint64
	Index   uint64 // of the last command that was applied
	Last    uint64 // of the last entry that is stored
	Term    uint64
	Chain   [32]byte
	Leader  lockquorum.DeviceID // zeros: nobody is known to lead
	Leads   bool                // it is this one, and it takes commands
	Voters  []lockquorum.Voter
	Resting bool // it is the only voter, and nothing is under way, held or waited for: it may be ended, and started when it is asked
}

// Driver is one voter that runs. Its methods are safe for concurrent use.
type Driver struct {
	cfg   Config
	log   *slog.Logger
	calls chan *call
	inbox chan letter
	asks  chan func()
	kept  chan kept
	stop  chan struct{}
	once  sync.Once
	ended chan struct{}
	work  sync.WaitGroup // what goes on beside Run

	// The goroutine of Run alone has these.
	node    *voter.Node
	waiting map[uint64]*call // by proposal
	queued  map[place][]*call
	ticking uint64 // the proposal of a Tick that is under way
	term    uint64
	last    uint64

	signing sync.Mutex
	signed  lockquorum.Position // the last one

	mu struct {
		sync.Mutex
		status Status
		met    Begin
		ran    bool
	}
}

// place is that of a command in its session.
type place struct {
	session lockquorum.SessionID
	seq     uint64
}

// letter is a message that came from another voter, with how far that had come.
type letter struct {
	at      lockquorum.Seen
	message *pb.Message
	taken   *voter.Taken // the message carries a snapshot
}

type call struct {
	ctx     context.Context
	command lockquorum.Command
	seen    []lockquorum.Seen // what was shown with it
	wait    bool
	query   *lockquorum.Query // nil: it is a command
	answer  chan reply        // has room for the one that comes
}

type reply struct {
	answer lockquorum.Answer
	view   []byte          // of who reads
	seen   lockquorum.Seen // how far the State had come
	err    error
}

// How much waits for the goroutine at a time, and how much of it shares one write to the disk.
const (
	maxCalls    = 256
	maxInbox    = 1024
	maxTogether = 256
)

var _ lockquorum.Engine = (*Driver)(nil)

// Open reads what the voter stored. Nothing runs before Run. It is voter.ErrLost, as ErrBroken too, if that is not whole, and voter.ErrOver if its quorum was over.
func Open(ctx context.Context, cfg Config) (*Driver, error) {
	if cfg.ID == 0 || cfg.Disk == nil || cfg.Allow == nil {
		return nil, errors.New("open voter: number, disk and who may ask are needed")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		begun := time.Now()
		cfg.Now = func() time.Duration { return time.Since(begun) }
	}
	if cfg.Tick == 0 {
		cfg.Tick = DefaultTick
	}
	if cfg.FarTick == 0 {
		cfg.FarTick = DefaultFarTick
	}
	if cfg.Heartbeat == 0 {
		cfg.Heartbeat = DefaultHeartbeat
	}
	if cfg.Election == 0 {
		cfg.Election = DefaultElection
	}
	if cfg.PreferAfter == 0 {
		cfg.PreferAfter = DefaultPreferAfter
	}
	if cfg.SnapshotEvery == 0 {
		cfg.SnapshotEvery = DefaultSnapshotEvery
	}
	if cfg.Boot == 0 {
		n, err := rand.Int(rand.Reader, new(big.Int).SetUint64(math.MaxUint64))
		if err != nil {
			return nil, fmt.Errorf("open voter: %w", err)
		}
		cfg.Boot = n.Uint64()
	}
	d := &Driver{
		cfg: cfg, log: cfg.Logger, calls: make(chan *call, maxCalls), inbox: make(chan letter, maxInbox), asks: make(chan func()), kept: make(chan kept), stop: make(chan struct{}), ended: make(chan struct{}),
		waiting: map[uint64]*call{}, queued: map[place][]*call{},
	}
	d.mu.met = cfg.Begin
	stored, err := cfg.Disk.Load(ctx)
	if errors.Is(err, voter.ErrLost) || errors.Is(err, voter.ErrOver) {
		return nil, fmt.Errorf("open voter: %w: %w", ErrBroken, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open voter: %w", err)
	}
	if stored != nil {
		d.term, d.last = stored.HardState.GetTerm(), stored.Snapshot.GetMetadata().GetIndex()
		if n := len(stored.Entries); n > 0 {
			d.last = max(d.last, stored.Entries[n-1].GetIndex())
		}
	}
	err = guarded(func() (err error) {
		d.node, err = voter.Open(voter.Config{
			ID: cfg.ID, Boot: cfg.Boot, Heartbeat: cfg.Heartbeat, Election: cfg.Election, PreferAfter: int(cfg.PreferAfter / cfg.FarTick),
			SnapshotEvery: cfg.SnapshotEvery, Logger: raftLog{d.log},
		}, stored)
		return err
	})
	if err != nil {
		if errors.Is(err, voter.ErrLost) {
			err = fmt.Errorf("%w: %w", ErrBroken, err)
		}
		return nil, err
	}
	d.publish(false, nil)
	return d, nil
}

// Run runs the voter until ctx ends, or something does not let it go on: ErrDisk, ErrBroken. It runs once.
func (d *Driver) Run(ctx context.Context) error {
	d.mu.Lock()
	ran := d.mu.ran
	d.mu.ran = true
	d.mu.Unlock()
	if ran {
		return errors.New("run voter: it ran before")
	}
	pace := d.pace()
	tick := time.NewTicker(pace)
	defer tick.Stop()
	err := guarded(func() error {
		if d.node.Alone() {
			d.node.Campaign()
		}
		return d.pump(ctx)
	})
	d.publish(err == nil, err)
	for err == nil && ctx.Err() == nil && !d.stopping() {
		var do func()
		select {
		case <-ctx.Done():
			continue
		case <-d.stop:
			continue
		case <-tick.C:
			if now := d.pace(); now != pace {
				pace = now
				tick.Reset(pace)
			}
			do = d.tick
		case m := <-d.inbox:
			do = func() { d.step(m) }
		case c := <-d.calls:
			do = func() { d.propose(c) }
		case do = <-d.asks:
		case k := <-d.kept:
			if err = guarded(func() error { return d.compact(ctx, k) }); err != nil {
				d.publish(false, err)
				continue
			}
			do = func() {}
		}
		err = guarded(func() error {
			do()
			d.more()
			return d.pump(ctx)
		})
		d.publish(err == nil, err)
	}
	if errors.Is(err, voter.ErrLost) || errors.Is(err, voter.ErrOver) { // started again it would not know until somebody showed it once more
		if save := d.cfg.Disk.Save(context.WithoutCancel(ctx), Write{Ended: err, Sync: true}); save != nil {
			err = errors.Join(err, fmt.Errorf("that is not noted: %w", save))
		}
	}
	d.end(err)
	d.work.Wait()
	if err != nil {
		d.log.Error("a voter has stopped", "error", err)
	}
	return err
}

// Stop ends Run, which says when by Ended. It may be called again.
func (d *Driver) Stop() { d.once.Do(func() { close(d.stop) }) }

func (d *Driver) stopping() bool {
	select {
	case <-d.stop:
		return true
	default:
		return false
	}
}

// end answers everybody who waits.
func (d *Driver) end(err error) {
	d.publish(false, err)
	close(d.ended)
	for _, c := range d.waiting {
		c.answer <- reply{err: lockquorum.ErrOutcomeUnknown}
	}
	for _, list := range d.queued {
		for _, c := range list {
			c.answer <- reply{err: lockquorum.ErrOutcomeUnknown}
		}
	}
	for {
		select {
		case c := <-d.calls:
			c.answer <- reply{err: lockquorum.ErrStopped}
		default:
			return
		}
	}
}

// more takes what else waits, so that it shares a write.
func (d *Driver) more() {
	for range maxTogether {
		select {
		case m := <-d.inbox:
			d.step(m)
		case c := <-d.calls:
			d.propose(c)
		default:
			return
		}
	}
}

// step takes a message. Of one that has no State yet nothing is seen.
func (d *Driver) step(m letter) {
	if m.at.Index > 0 {
		d.node.Shown(m.at)
	}
	if m.taken != nil {
		d.node.Take(m.taken)
		return
	}
	d.node.Step(m.message)
}

func (d *Driver) propose(c *call) {
	if c.ctx.Err() != nil {
		return // nobody waits for it
	}
	var number uint64
	var err error
	if c.query != nil {
		number, err = d.node.Read(c.seen...)
	} else {
		number, err = d.node.Propose(d.cfg.Now(), &c.command, c.seen...)
	}
	if errors.Is(err, lockquorum.ErrNotLeader) {
		err = &lockquorum.NotLeaderError{Leader: d.leader()}
	}
	if err != nil { // if the voter ends thereby, pump says so
		c.answer <- reply{err: err}
		return
	}
	d.waiting[number] = c
}

// pump does what the voter says until it says nothing.
func (d *Driver) pump(ctx context.Context) error {
	for {
		b, ok := d.node.Batch()
		if err := d.node.Err(); err != nil {
			return fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if !ok {
			return nil
		}
		for _, m := range b.Ahead {
			d.send(m)
		}
		before, err := d.node.Before(d.cfg.Now(), b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBroken, err)
		}
		d.done(before)
		w := Write{HardState: b.HardState, Snapshot: b.Snapshot, Replace: b.Snapshot != nil, Entries: b.Entries, Sync: b.Sync}
		if b.Pieces != nil {
			w.Pieces = b.Pieces
		}
		if err := d.save(ctx, w); err != nil {
			return err
		}
		for _, m := range b.Messages {
			d.send(m)
		}
		out, err := d.node.Advance(d.cfg.Now(), b)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if out.Freezing != nil {
			d.keep(ctx, out.Freezing)
		}
		d.done(out)
	}
}

func (d *Driver) save(ctx context.Context, w Write) error {
	if err := d.cfg.Disk.Save(context.WithoutCancel(ctx), w); err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, err)
	}
	if w.HardState != nil {
		d.term = w.HardState.GetTerm()
	}
	if w.Replace {
		d.last = w.Snapshot.GetMetadata().GetIndex()
	}
	if n := len(w.Entries); n > 0 {
		d.last = w.Entries[n-1].GetIndex()
	}
	return nil
}

func (d *Driver) send(m *pb.Message) {
	to := d.deviceOf(m.GetTo())
	if m.GetType() == pb.MsgSnap {
		d.sendSnapshot(to, m)
		return
	}
	err := errNoVoter
	if d.cfg.Transport != nil && to != (lockquorum.DeviceID{}) {
		err = d.cfg.Transport.Send(to, d.at(), m)
	}
	if err != nil {
		d.node.Unreachable(m.GetTo())
	}
}

var errNoVoter = errors.New("there is no such voter")

// epoch and voters are the State's, or those that this voter begins with.
func (d *Driver) epoch() uint64 {
	if st := d.node.State(); st.Epoch() > 0 {
		return st.Epoch()
	}
	return d.met().Epoch
}

// at is how far this voter has come.
func (d *Driver) at() lockquorum.Seen {
	if st := d.node.State(); st.Epoch() > 0 {
		return st.Seen()
	}
	return lockquorum.Seen{Place: lockquorum.Place{Epoch: d.met().Epoch}}
}

func (d *Driver) voters() []lockquorum.Voter {
	if st := d.node.State(); st.Epoch() > 0 {
		return st.Voters()
	}
	return d.met().Voters
}

func (d *Driver) met() Begin {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.met
}

// Meet says who votes now, as the device has heard.
func (d *Driver) Meet(b Begin) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mu.met = b
}

// deviceOf returns the device of a voter; zeros if it is not known.
func (d *Driver) deviceOf(id uint64) lockquorum.DeviceID {
	met := d.met()
	if met.Epoch != d.epoch() {
		met.Voters = nil
	}
	for _, v := range slices.Concat(d.voters(), met.Voters) {
		if v.ID == id {
			return v.Device
		}
	}
	return lockquorum.DeviceID{}
}

func (d *Driver) leader() lockquorum.DeviceID {
	id, _ := d.node.Leader()
	return d.deviceOf(id)
}
