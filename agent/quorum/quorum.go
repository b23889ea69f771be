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
	"sync"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/client"
	"chartmesh/lockquorum/local"
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
}

// Config says what a Service is. Store, Keys, Members and Log are needed.
type Config struct {
	Store   storage.Store
	Keys    Keys
	Members func() *trust.State
	Log     local.Log
	// Name returns the names of a device.
	Name func(trust.DeviceID) api.Party
	// Network reaches other devices; nil: nobody is reached.
	Network local.Network
	// Witness keeps outside of the folder how far its voter came; nil: nothing does.
	Witness local.Witness
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

	mu struct {
		sync.Mutex
		running bool
		held    map[lockquorum.LockID]*holding
	}
}

// Open opens the device's part, and founds the quorum if that is to be done and is this device's to do. Nothing runs before Run.
func Open(ctx context.Context, cfg Config) (_ *Service, err error) {
	s := &Service{cfg: cfg, log: cfg.Logger, self: cfg.Keys.Device()}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.mu.held = map[lockquorum.LockID]*holding{}
	s.voter, err = local.Open(ctx, local.Config{
		Store: cfg.Store, Keys: cfg.Keys, Members: cfg.Members, Log: cfg.Log, Network: cfg.Network, Witness: cfg.Witness, Names: s.tell, Logger: s.log,
	})
	if err != nil {
		return nil, fmt.Errorf("open quorum: %w", err)
	}
	s.client = client.New(client.Config{Self: s.self, Voters: s.voters})
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

// Serve answers a question of another device, which the connection has proven. It returns when the stream is not used any more.
func (s *Service) Serve(ctx context.Context, st remote.Stream, from trust.DeviceID) {
	s.voter.Serve(ctx, st, from)
}

// voters returns who may be asked.
func (s *Service) voters() (list []client.Voter) {
	for _, v := range s.voter.Voting() {
		if v.Device == s.self {
			if e := s.voter.Engine(); e != nil {
				list = append(list, client.Voter{Device: v.Device, Engine: s.voter.Seen().Engine(v.Device, e)})
			}
			continue
		}
		list = append(list, client.Voter{Device: v.Device, Engine: s.voter.Seen().Engine(v.Device, s.voter.Remote(v.Device))})
	}
	return list
}
