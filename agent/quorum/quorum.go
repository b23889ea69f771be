// Package quorum joins a device to its practice's quorum: it takes leases and numbers, in words for people.
//
// Nouns: a Service is one device's part. A name is what people call a lock, a circle or an item; the quorum knows keyed hashes. Held is a lease of this
// process, under which documents are written.
//
// Guarantees: what is asked of a quorum that cannot be reached fails soon and says so.
//
// Left to others: this device's voter (package lockquorum/local); what is written under a lease.
package quorum

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/ranges"
	"chartmesh/lockquorum/remote"
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
	Reseed(st *trust.State, voters []trust.DeviceID, now time.Time) (trust.Entry, error)
}

// Config says what a Service is. Store, Keys, Members, Log, Logs and Replaced are needed.
type Config struct {
	Store   storage.Store
	Keys    Keys
	Members func() *trust.State
	Log     local.Log
	// Name returns the names of a device.
	Name func(trust.DeviceID) api.Party
	// LastContact returns when a device was last connected; zero: that is not known. Nil: of none.
	LastContact func(trust.DeviceID) time.Time
	// Network reaches other devices; nil: nobody is reached.
	Network local.Network
	// Witness keeps outside of the folder how far its voter came; nil: nothing does.
	Witness local.Witness
	// Logs lists the logs that the folder writes and ever wrote.
	Logs func() [][32]byte
	// Replaced reports whether the folder was put back in the place of the one that wrote a log.
	Replaced func(log [32]byte) bool
	// Marks keep outside of the folder how far numbers were given from parts of ranges; nil: nothing does.
	Marks ranges.Marks
	// Enter puts an entry into the membership log and tells the other devices; nil: this device founds no quorum anew.
	Enter func(context.Context, trust.Entry) error
	// Granted is called when a lease was granted, before it is used, and Ending before one is given back; nil: nothing is to be done.
	Granted, Ending func(context.Context, Held)
	Logger          *slog.Logger // nil: none
}

// Service is one device's part in its practice's quorum. Its methods are safe for concurrent use.
type Service struct {
	cfg    Config
	log    *slog.Logger
	self   trust.DeviceID
	voter  *local.Voter
	client *client.Client
	ranges *ranges.Allocator
	low    chan struct{} // this device has few numbers of a range left

	founding sync.Mutex    // one founding at a time
	using    chan struct{} // room for who uses a lease of his own

	mu struct {
		sync.Mutex
		running bool
		held    map[lockquorum.LockID]*holding
	}
}

// Open opens the device's part, and founds the quorum if that is to be done and is this device's to do. Nothing runs before Run.
func Open(ctx context.Context, cfg Config) (_ *Service, err error) {
	s := &Service{cfg: cfg, log: cfg.Logger, self: cfg.Keys.Device(), using: make(chan struct{}, 1)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.mu.held = map[lockquorum.LockID]*holding{}
	s.voter, err = local.Open(ctx, local.Config{
		Store: cfg.Store, Keys: cfg.Keys, Members: cfg.Members, Log: cfg.Log, Network: cfg.Network, Witness: cfg.Witness, Names: s.tell, Parts: s.owned, Logger: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open quorum: %w", err)
	}
	s.client = client.New(client.Config{Self: s.self, Voters: s.voters, Voter: s.voterOf, Others: s.others})
	s.openRanges()
	return s, nil
}

// Run runs the device's voter, if it has one, until ctx ends. Then the leases that this process holds are given back.
func (s *Service) Run(ctx context.Context) error {
	s.mu.Lock()
	s.mu.running = true
	s.mu.Unlock()
	voting, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { s.voter.Run(voting) })
	work.Go(func() { s.meet(ctx) })
	work.Go(func() { s.tendRanges(ctx) })
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	s.client.Close(closing) // while the voter runs, since it may be the one that is told
	cancel()
	s.voter.Seen().Flush(context.WithoutCancel(ctx))
	s.mu.Lock()
	s.mu.running = false
	s.mu.Unlock()
	stop()
	work.Wait()
	return nil
}

// Serve answers a question of another device, which the connection has proven. It returns when the stream is not used any more.
func (s *Service) Serve(ctx context.Context, st remote.Stream, from trust.DeviceID) {
	s.voter.Serve(ctx, st, from)
}

// Carries returns how far this device saw the quorum come, for other devices.
func (s *Service) Carries() []byte { return s.voter.Seen().Carries() }

// Carried takes what another device carries of that.
func (s *Service) Carried(ctx context.Context, from trust.DeviceID, carried []byte) {
	if err := s.voter.Seen().Carried(ctx, carried); err != nil {
		s.log.Warn("how far a device says that the quorum came is not kept", "device", from, "error", err)
	}
}

// voters returns who may be asked.
func (s *Service) voters() (list []client.Voter) {
	for _, v := range s.voter.Voting() {
		if one, ok := s.voterOf(v.Device); ok {
			list = append(list, one)
		}
	}
	return list
}

// maxOthers bounds how many are asked who are not known to vote.
const maxOthers = 8

// others returns who may vote beside those who are known to, and is reached: the devices of the practice first. What they answer has to go on from what this
// device saw, as anybody's answer.
func (s *Service) others() (list []client.Voter) {
	st, known := s.cfg.Members(), s.voter.Voting()
	for _, m := range slices.Concat(st.Members(), st.Anchors()) {
		d := m.Device
		votes := slices.ContainsFunc(known, func(v lockquorum.Voter) bool { return v.Device == d })
		if votes || d == s.self || !lockquorum.MayVote(st, d) || s.cfg.Network == nil || !s.cfg.Network.Reaches(d) {
			continue
		}
		if one, ok := s.voterOf(d); ok && len(list) < maxOthers {
			list = append(list, one)
		}
	}
	return list
}

// voterOf returns how a device's voter is asked; false: it is this device's, and does not run.
func (s *Service) voterOf(d trust.DeviceID) (client.Voter, bool) {
	var e lockquorum.Engine = s.voter.Remote(d)
	if d == s.self {
		if e = s.voter.Engine(); e == nil {
			return client.Voter{}, false
		}
	}
	return client.Voter{Device: d, Engine: s.voter.Seen().Engine(d, e)}, true
}
