// Package quorum joins a device to its practice's quorum: it founds the quorum, runs this device's voter, and takes leases and numbers.
//
// Nouns: a Service is one device's part. A name is what people call a lock, a circle or an item; the quorum knows keyed hashes. Held is a lease of this
// process, under which documents are written.
//
// Guarantees: a quorum is founded once, by the device that founded the practice, and not by a folder that may be a copy of it. A voter in a folder
// that was copied, moved or put back does not start. What is asked of a quorum that cannot be reached fails soon and says so. What a voter signs is
// what the quorum agrees on at that moment.
//
// Left to others: what is written under a lease.
package quorum

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Keys are the operations of the keyring that are needed.
type Keys interface {
	Device() trust.DeviceID
	QuorumName(scope trust.ScopeID, kind string, parts ...string) ([32]byte, error)
	SealNote(scope trust.ScopeID, context, plain []byte) ([]byte, error)
	OpenNote(scope trust.ScopeID, context, sealed []byte) ([]byte, error)
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

// Config says what a Service is. Store, Keys, Members and Log are needed.
type Config struct {
	Store   storage.Store
	Keys    Keys
	Members func() *trust.State
	Log     Log
	// Name returns the names of a device.
	Name func(trust.DeviceID) api.Party
	// Network reaches other devices; nil: nobody is reached.
	Network Network
	// Witness keeps outside of the folder how far its voter came; nil: nothing does.
	Witness Witness
	// Granted is called when a lease was granted, before it is used, and Ending before one is given back; nil: nothing is to be done.
	Granted, Ending func(context.Context, Held)
	Logger          *slog.Logger // nil: none
}

// Network reaches other devices of the practice.
type Network interface {
	// Open opens a stream to a device that is connected, at which its Service answers.
	Open(context.Context, trust.DeviceID) (remote.Stream, error)
	// Reaches reports whether a device is connected.
	Reaches(trust.DeviceID) bool
}

// Witness keeps how far a voter came, outside of its folder.
type Witness interface {
	// Read returns what was written last; false: nothing was.
	Read() (Reached, bool, error)
	Write(Reached) error
}

// Reached is how far the voter of a number came. A device that votes again has another number.
type Reached struct{ Epoch, Voter, Term, Index uint64 }

// firstEpoch is that of the quorum that a practice's founding brings.
const firstEpoch = 1

// Service is one device's part in its practice's quorum. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	log    *slog.Logger
	self   trust.DeviceID
	client *client.Client
	server remote.Server

	joining sync.Mutex    // one change of what this device votes in at a time
	begun   chan struct{} // this device is to vote
	voter   driver.Record // under mu

	mu struct {
		sync.Mutex
		disk    *driver.StoreDisk // nil: this device does not vote
		driver  *driver.Driver    // nil: it does not run
		stopped error             // why this device's voter does not run, and must not
		running bool
		known   known // the voters, as this device last heard of them
		held    map[lockquorum.LockID]*holding
	}
}

// ErrWentBack says that a folder with a voter may be older than what the voter has said.
var ErrWentBack = errors.New("the folder was copied, moved or put back, and may not know what it has said since")

// errNotFounded says that the device that founded the practice has no voter, and founds no quorum.
var errNotFounded = errors.New("this folder may be a copy of one that has founded the quorum")

// Open opens the device's part, and founds the quorum if that is to be done and is this device's to do. Nothing runs before Run.
func Open(ctx context.Context, cfg Config) (*Service, error) {
	s := &Service{cfg: cfg, log: cfg.Logger, self: cfg.Keys.Device()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.begun = make(chan struct{}, 1)
	s.mu.held = map[lockquorum.LockID]*holding{}
	if err := s.openVoter(ctx); errors.Is(err, storage.ErrNoRoom) {
		s.log.Warn("this device's voter does not begin before there is room on the disk", "error", err)
	} else if err != nil {
		return nil, fmt.Errorf("open quorum: %w", err)
	}
	if err := s.loadKnown(); err != nil {
		return nil, fmt.Errorf("open quorum: %w", err)
	}
	s.server.Practice, s.server.Engine, s.server.Names = cfg.Members().Practice(), s.engine, s.tell
	s.server.Certify = s.certify
	s.server.Begin, s.server.Change, s.server.Votes, s.server.Receive = s.beginVoting, s.changeVoters, s.votes, s.receive
	s.client = client.New(client.Config{Self: s.self, Voters: s.voters})
	return s, nil
}

func (s *Service) openVoter(ctx context.Context) error {
	disk, rec, err := driver.OpenDisk(s.cfg.Store)
	if errors.Is(err, storage.ErrNotFound) {
		if !s.founds() {
			if s.cfg.Members().Founding().Device.ID == s.self {
				s.mu.Lock()
				defer s.mu.Unlock()
				s.mu.stopped = errNotFounded
			}
			return nil
		}
		if err := s.found(ctx); err != nil {
			return err
		}
		disk, rec, err = driver.OpenDisk(s.cfg.Store)
	}
	stopped := err
	switch {
	case errors.Is(err, storage.ErrDamaged):
	case err != nil:
		return err
	case rec.Practice != s.cfg.Members().Practice():
		stopped = errors.New("the voter is another practice's")
	case !s.cfg.Log.Continues(rec.Log):
		stopped = ErrWentBack
	case rec.Log != s.cfg.Log.Current():
		rec.Log = s.cfg.Log.Current()
		if err := disk.Rebind(ctx, rec); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.disk, s.mu.stopped, s.voter = disk, stopped, rec
	return nil
}

// founds reports whether this device is to found the quorum.
func (s *Service) founds() bool {
	st := s.cfg.Members()
	self, ok := st.Member(s.self)
	if st.Founding().Device.ID != s.self || !ok || self.Role != trust.RoleAdmin || !s.cfg.Log.Original() {
		return false
	}
	if s.cfg.Witness == nil {
		return true
	}
	_, before, err := s.cfg.Witness.Read()
	return err == nil && !before
}

func (s *Service) found(ctx context.Context) error {
	st := lockquorum.New(0)
	st.Reseed(firstEpoch, []lockquorum.Voter{{ID: 1, Device: s.self}})
	rec := driver.Record{Practice: s.cfg.Members().Practice(), Epoch: firstEpoch, ID: 1, Log: s.cfg.Log.Current()}
	if err := driver.Found(ctx, s.cfg.Store, rec, voter.Found(st)); err != nil {
		return err
	}
	s.log.Info("this device founded the practice's quorum")
	return nil
}

// retryVoter is after how long a voter is started again whose disk failed.
const retryVoter = 10 * time.Second

// witnessEvery is how often it is written down outside of the folder how far the voter came.
const witnessEvery = time.Second

// Run runs the device's voter, if it has one, until ctx ends. Then the leases that this process holds are given back.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.mu.running = true
	s.mu.Unlock()
	voting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { s.vote(voting) })
	work.Go(func() { s.meet(ctx) })
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	s.client.Close(closing) // while the voter runs, since it may be the one that is told
	cancel()
	s.mu.Lock()
	s.mu.running = false
	s.mu.Unlock()
	stop()
	work.Wait()
	return nil
}

// vote runs the voter, if this device has one or is to have one, and again after its disk failed.
func (s *Service) vote(ctx context.Context) {
	for ctx.Err() == nil {
		s.mu.Lock()
		disk, stopped := s.mu.disk, s.mu.stopped
		s.mu.Unlock()
		var err error
		switch {
		case stopped != nil:
			s.log.Error("this device's voter does not run", "error", stopped)
			s.awaitBegin(ctx)
			continue
		case disk != nil:
			if err = s.voteOnce(ctx, disk); err == nil {
				if ctx.Err() == nil {
					s.awaitBegin(ctx) // it left its quorum
				}
				continue
			}
			if !errors.Is(err, driver.ErrDisk) {
				s.mu.Lock()
				s.mu.stopped = err
				s.mu.Unlock()
				continue
			}
		case s.founds():
			if err = s.openVoter(ctx); err == nil {
				continue
			}
		default:
			s.awaitBegin(ctx)
			continue
		}
		s.log.Warn("this device's voter is started again", "error", err, "in", retryVoter)
		select {
		case <-ctx.Done():
		case <-time.After(retryVoter):
		}
	}
}

// awaitBegin waits until this device is told to vote.
func (s *Service) awaitBegin(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-s.begun:
	}
}

// votes reports whether a device has another voter of the quorum that this device's voter is in.
func (s *Service) votes(from lockquorum.DeviceID) bool {
	s.mu.Lock()
	d := s.mu.driver
	s.mu.Unlock()
	return d != nil && slices.ContainsFunc(d.Status().Voters, func(v lockquorum.Voter) bool { return v.Device == from })
}

// receive takes a message of another voter.
func (s *Service) receive(from lockquorum.DeviceID, epoch uint64, m *pb.Message) {
	s.mu.Lock()
	d := s.mu.driver
	s.mu.Unlock()
	if d != nil {
		d.Receive(from, epoch, m)
	}
}

func (s *Service) voteOnce(ctx context.Context, disk *driver.StoreDisk) error {
	s.mu.Lock()
	rec, begin := s.voter, driver.Begin{Epoch: s.voter.Epoch, Voters: s.mu.known.voters}
	s.mu.Unlock()
	cfg := driver.Config{ID: rec.ID, Device: s.self, Disk: disk, Begin: begin, Allow: s.allows, Logger: s.log}
	if s.cfg.Network != nil {
		messenger := remote.NewMessenger(s.server.Practice, s.cfg.Network.Open, s.cfg.Network.Reaches)
		defer messenger.Close()
		cfg.Transport = messenger
	}
	d, err := driver.Open(ctx, cfg)
	if err != nil {
		if !errors.Is(err, driver.ErrBroken) {
			err = fmt.Errorf("%w: %w", driver.ErrDisk, err)
		}
		return err
	}
	if err := s.wentBack(rec.ID, d.Status()); err != nil {
		return err
	}
	s.mu.Lock()
	s.mu.driver = d
	s.mu.Unlock()
	running, stop := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	watch.Go(func() { stop(s.watch(running, d, rec)) })
	err = d.Run(running)
	stop(nil)
	watch.Wait()
	s.mu.Lock()
	s.mu.driver = nil
	s.mu.Unlock()
	if cause := context.Cause(running); err == nil && errors.Is(cause, ErrWentBack) {
		return cause
	}
	return err
}

// allows reports whether a device may ask for an operation, by the membership log as it is known here.
func (s *Service) allows(from lockquorum.DeviceID, o lockquorum.Operation) bool {
	if st := s.cfg.Members(); o != nil {
		return lockquorum.Allows(st, from, o)
	} else {
		return lockquorum.Reads(st, from)
	}
}

// wentBack compares what is stored with what was written down outside of the folder.
func (s *Service) wentBack(voter uint64, at driver.Status) error {
	if s.cfg.Witness == nil {
		return nil
	}
	was, ok, err := s.cfg.Witness.Read()
	switch {
	case err != nil:
		s.log.Warn("what is kept outside of the folder does not say how far this device's voter was", "error", err)
	case ok && (was.Epoch > at.Epoch || was.Epoch == at.Epoch && (was.Voter > voter || was.Voter == voter && (was.Index > at.Last || was.Term > at.Term))):
		return ErrWentBack
	}
	return nil
}

// watch writes down outside of the folder how far the voter came, until ctx ends. What was applied is stored, so that a folder that has less has
// gone back. It is ErrWentBack if the folder turns out not to be the one that it was: another device has shown it.
func (s *Service) watch(ctx context.Context, d *driver.Driver, rec driver.Record) error {
	var written Reached
	failed := false
	write := func() {
		st := d.Status()
		now := Reached{st.Epoch, rec.ID, st.Term, st.Index}
		if s.cfg.Witness == nil || now == written {
			return
		}
		err := s.cfg.Witness.Write(now)
		if err != nil && !failed {
			s.log.Warn("how far this device's voter came is not kept outside of the folder; if that is put back from a copy, nobody may notice", "error", err)
		}
		if failed = err != nil; !failed {
			written = now
		}
	}
	tick := time.NewTicker(witnessEvery)
	defer tick.Stop()
	for {
		if !s.cfg.Log.Continues(rec.Log) {
			return ErrWentBack
		}
		write()
		select {
		case <-ctx.Done():
			write()
			return nil
		case <-tick.C:
		}
	}
}

// engine returns this device's voter; nil: it does not run.
func (s *Service) engine() lockquorum.Engine {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.driver == nil {
		return nil
	}
	return s.mu.driver
}

// Serve answers a question of another device, which the connection has proven. It returns when the stream is not used any more.
func (s *Service) Serve(ctx context.Context, st remote.Stream, from trust.DeviceID) {
	if err := s.server.Serve(ctx, st, from); err != nil {
		s.log.Debug("a question about leases or numbers was not answered", "device", from, "error", err)
	}
}

// voters returns who may be asked.
func (s *Service) voters() (list []client.Voter) {
	for _, v := range s.voting() {
		if v.Device == s.self {
			if e := s.engine(); e != nil {
				list = append(list, client.Voter{Device: v.Device, Engine: e})
			}
			continue
		}
		list = append(list, client.Voter{Device: v.Device, Engine: s.remote(v.Device)})
	}
	return list
}

// remote returns the voter of another device.
func (s *Service) remote(d trust.DeviceID) *remote.Engine {
	return &remote.Engine{Practice: s.server.Practice, Open: func(ctx context.Context) (remote.Stream, error) {
		if s.cfg.Network == nil {
			return nil, lockquorum.ErrUnreachable
		}
		return s.cfg.Network.Open(ctx, d)
	}}
}
