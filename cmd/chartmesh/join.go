package main

import (
	"context"
	"io"
	"log/slog"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/cmd/chartmesh/crash"
	"chartmesh/fhir"
)

// joins is what the commands need besides api.Agent; tests put an agent in memory in its place.
type joins struct {
	init    func(dir string, opts initOptions) (founded, error)
	join    func(ctx context.Context, dir string, opts joinOptions) (joined, error)
	restore func(ctx context.Context, dir string, opts restoreOptions) (api.Restored, error)
	rotate  func(ctx context.Context, dir string, opts openOptions) (api.StoreRotation, error)
	open    func(opts openOptions) (localAgent, error)
	read    func(name string, r io.Reader, fn func(item) error) error
}

// localAgent is an agent in this process.
type localAgent interface {
	api.Agent
	Run(ctx context.Context) error
	Close() error
}

type initOptions struct{ practice, site, device string }

type founded struct{ recoveryCode, peerID string }

type joinOptions struct {
	code, site, device, address string

	anchor []string

	logger  *slog.Logger
	timeout time.Duration
	begun   func(fingerprint string)
	waiting func()
}

type joined struct{ device, site, role string }

type restoreOptions struct {
	code, site, device string
	addresses          []string
	logger             *slog.Logger
}

type openOptions struct {
	dir     string
	listen  []string
	offline bool
	noMDNS  bool
	noPorts bool
	logger  *slog.Logger
	recent  func() []byte // the end of the log; nil: none is kept

	leastFree uint64                 // bytes; 0: what the store keeps by itself
	unlock    func() ([]byte, error) // asks for the keyring's passphrase
}

// item is one resource of a file, or the reason why there is none. Its fields are those of fhir.Item.
type item struct {
	unit, line, entry int
	ref               api.Ref
	raw               []byte
	err               error
}

func childMain() {
	crash.Main()
	agent.ChildMain()
}

var agentJoins = joins{
	init: func(dir string, opts initOptions) (founded, error) {
		f, err := agent.Init(dir, agent.InitOptions{Practice: opts.practice, Site: opts.site, Device: opts.device})
		return founded{recoveryCode: f.RecoveryCode, peerID: f.PeerID}, err
	},
	join: func(ctx context.Context, dir string, opts joinOptions) (joined, error) {
		j, err := agent.Join(ctx, dir, agent.JoinOptions{Code: opts.code, Site: opts.site, Device: opts.device, Address: opts.address, Anchor: opts.anchor,
			Logger: opts.logger, Timeout: opts.timeout, Begun: opts.begun, Waiting: opts.waiting})
		return joined{j.Device, j.Site, j.Role}, err
	},
	restore: func(ctx context.Context, dir string, opts restoreOptions) (api.Restored, error) {
		return agent.Restore(ctx, dir, agent.RestoreOptions{Code: opts.code, Site: opts.site, Device: opts.device, Addresses: opts.addresses,
			Logger: opts.logger})
	},
	rotate: func(ctx context.Context, dir string, opts openOptions) (api.StoreRotation, error) {
		return agent.RotateStore(ctx, dir, agent.RotateOptions{Unlock: opts.unlock, LeastFree: opts.leastFree, Logger: opts.logger})
	},
	open: func(opts openOptions) (localAgent, error) {
		a, err := agent.Open(agent.Config{Dir: opts.dir, Version: version(), Logger: opts.logger, Listen: opts.listen, Offline: opts.offline,
			NoMDNS: opts.noMDNS, NoPorts: opts.noPorts, RecentLog: opts.recent, Repair: !opts.offline, LeastFree: opts.leastFree, Unlock: opts.unlock})
		if err != nil {
			return nil, err
		}
		return a, nil
	},
	read: func(name string, r io.Reader, fn func(item) error) error {
		return fhir.ReadFile(name, r, func(it fhir.Item) error {
			return fn(item{unit: it.Bundle, line: it.Line, entry: it.Entry, ref: api.Ref{Type: it.Resource.Type(), ID: it.Resource.ID()},
				raw: it.Raw, err: it.Err})
		})
	},
}
