package agent

import (
	"context"
	"fmt"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/lockquorum/local"
	"chartmesh/lockquorum/ranges"
	"chartmesh/lockquorum/remote"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// openQuorum opens this device's part in the practice's quorum.
func (a *Agent) openQuorum(ctx context.Context) (*quorum.Service, error) {
	cfg := quorum.Config{
		Network: network{a},
		Store:   a.metrics.commits.Of(a.store), Keys: a.keys, Members: a.records.State, Name: a.party, Logger: a.log, Granted: a.granted, Ending: a.ending,
		LastContact: func(d trust.DeviceID) time.Time { return a.peers.get(d).LastContact },
		Enter: func(ctx context.Context, e trust.Entry) error {
			return a.enter(ctx, func(*trust.State) ([]trust.Entry, error) { return []trust.Entry{e}, nil })
		},
		Log:  local.Log{Current: func() [32]byte { return chunk.CurrentLog(a.keys) }, Continues: a.continues, Original: a.original},
		Logs: a.logs, Replaced: a.replaced,
	}
	if dir, err := local.StateFolder(); err == nil {
		cfg.Witness, cfg.Marks = local.FileOf(dir, a.keys.Device()), ranges.Files{Dir: dir, Device: a.keys.Device()}
	} else {
		a.log.Warn("there is no place outside of the folder to keep how far this device's voter came", "error", err)
	}
	s, err := quorum.Open(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("open leases and numbers: %w", err)
	}
	a.quorum.Store(s)
	return s, nil
}

// syncing is what a session reads and writes: the records, and how far the practice's quorum was seen to be.
type syncing struct {
	*replica.Replica
	a *Agent
}

var (
	_ session.Bookkeeper = syncing{}
	_ session.Carrier    = syncing{}
)

// Carries implements session.Carrier.
func (s syncing) Carries() []byte {
	if service := s.a.quorum.Load(); service != nil {
		return service.Carries()
	}
	return nil
}

// Carried implements session.Carrier.
func (s syncing) Carried(ctx context.Context, from trust.DeviceID, carried []byte) {
	if service := s.a.quorum.Load(); service != nil {
		service.Carried(ctx, from, carried)
	}
}

// network reaches the voters of other devices.
type network struct{ a *Agent }

// Open implements local.Network.
func (n network) Open(ctx context.Context, d trust.DeviceID) (remote.Stream, error) {
	host := n.a.host.Load()
	if host == nil {
		return nil, notRunning()
	}
	return host.OpenQuorum(ctx, d)
}

// Reaches implements local.Network.
func (n network) Reaches(d trust.DeviceID) bool {
	host := n.a.host.Load()
	return host != nil && host.Reaches(d)
}

// RoundTrip implements local.Network.
func (n network) RoundTrip(d trust.DeviceID) time.Duration {
	host := n.a.host.Load()
	if host == nil {
		return 0
	}
	return host.RoundTrip(d)
}

// Doubt implements local.Network.
func (n network) Doubt(d trust.DeviceID) {
	if host := n.a.host.Load(); host != nil {
		host.Doubt(d)
	}
}

// serveQuorum answers a question of another device about leases and numbers.
func (a *Agent) serveQuorum(ctx context.Context, s p2p.QuorumStream, from trust.DeviceID) {
	if service := a.quorum.Load(); service != nil {
		service.Serve(ctx, s, from)
	}
}

// party names a device.
func (a *Agent) party(d trust.DeviceID) api.Party {
	p := api.Party{}
	p.Name, p.Site = a.keys.Names(a.records.State(), d)
	if id, err := p2p.PeerID(d); err == nil {
		p.PeerID = id.String()
	}
	return p
}

// apart reports whether a log was begun since the folder is a copy, or older than it was.
func apart(why replica.LogReason) bool {
	return why != replica.LogFirst && why != replica.LogDamaged && why != replica.LogRebuilt
}

// continues reports whether the folder is the one that it was when its log was another, or the present one.
func (a *Agent) continues(since [32]byte) bool {
	_, _, known := a.records.Written()
	if !known {
		return false // a new log is to begin
	}
	current, found := chunk.CurrentLog(a.keys), false
	for _, l := range a.records.OwnLogs() {
		if found = found || l.ID == since; found && l.ID != since && apart(l.Reason) {
			return false
		}
	}
	own := a.records.OwnLogs()
	return found && own[len(own)-1].ID == current
}

// original reports whether the folder never was a copy, put back, or filled anew: what a voter here once said would not be forgotten.
func (a *Agent) original() bool {
	_, _, known := a.records.Written()
	repair, _, _, err := a.records.Repair()
	if !known || a.keys.Moved() || err != nil || !repair.Since.IsZero() {
		return false
	}
	for _, l := range a.records.OwnLogs() {
		if apart(l.Reason) {
			return false
		}
	}
	return true
}

// exclusive returns what answers for leases and numbers, while the agent runs.
func (a *Agent) exclusive() (*quorum.Service, error) {
	if s := a.quorum.Load(); s != nil {
		return s, nil
	}
	return nil, notRunning()
}

// asked has the part for leases and numbers answer.
func asked[T any](a *Agent, ask func(*quorum.Service) (T, error)) (T, error) {
	s, err := a.exclusive()
	if err != nil {
		var none T
		return none, err
	}
	return ask(s)
}

// Quorum implements api.Exclusive.
func (a *Agent) Quorum(ctx context.Context) (api.QuorumStatus, error) {
	return asked(a, func(s *quorum.Service) (api.QuorumStatus, error) { return s.Quorum(ctx) })
}

// devices finds devices that belong by their names or peer IDs.
func (a *Agent) devices(names []string) (list []trust.DeviceID, err error) {
	for _, name := range names {
		d, err := a.device(a.records.State(), name)
		if err != nil {
			return nil, err
		}
		list = append(list, d)
	}
	return list, nil
}

// ReseedQuorum implements api.Exclusive.
func (a *Agent) ReseedQuorum(ctx context.Context, req api.ReseedRequest) (api.Reseed, error) {
	voters, err := a.devices(req.Voters)
	if err != nil {
		return api.Reseed{}, err
	}
	gone, err := a.devices(req.Gone)
	if err != nil {
		return api.Reseed{}, err
	}
	return asked(a, func(s *quorum.Service) (api.Reseed, error) { return s.Reseed(ctx, voters, gone, req.Plan) })
}

// ChangeQuorum implements api.Exclusive.
func (a *Agent) ChangeQuorum(ctx context.Context, req api.QuorumChange) (api.QuorumStatus, error) {
	add, err := a.devices(req.Add)
	if err != nil {
		return api.QuorumStatus{}, err
	}
	remove, err := a.devices(req.Remove)
	if err != nil {
		return api.QuorumStatus{}, err
	}
	return asked(a, func(s *quorum.Service) (api.QuorumStatus, error) { return s.ChangeQuorum(ctx, add, remove) })
}

// Leases implements api.Exclusive.
func (a *Agent) Leases(ctx context.Context) ([]api.Lease, error) {
	return asked(a, func(s *quorum.Service) ([]api.Lease, error) { return s.Leases(ctx) })
}

// AcquireLease implements api.Exclusive.
func (a *Agent) AcquireLease(ctx context.Context, user string, req api.LeaseRequest) (api.Lease, error) {
	return asked(a, func(s *quorum.Service) (api.Lease, error) { return s.AcquireLease(ctx, user, req) })
}

// HoldLease implements api.Exclusive.
func (a *Agent) HoldLease(ctx context.Context, user string, req api.LeaseRequest, held func(api.Lease) error) error {
	s, err := a.exclusive()
	if err != nil {
		return err
	}
	return s.HoldLease(ctx, user, req, held)
}

// WaitLease implements api.Exclusive.
func (a *Agent) WaitLease(ctx context.Context, name string) (api.Lease, error) {
	return asked(a, func(s *quorum.Service) (api.Lease, error) { return s.WaitLease(ctx, name) })
}

// ReleaseLease implements api.Exclusive.
func (a *Agent) ReleaseLease(ctx context.Context, name string) error {
	s, err := a.exclusive()
	if err != nil {
		return err
	}
	return s.ReleaseLease(ctx, name)
}

// BreakLease implements api.Exclusive. What documents are taken back to is put into this device's log for the others.
func (a *Agent) BreakLease(ctx context.Context, user string, req api.BreakRequest) (api.Lease, error) {
	s, err := a.exclusive()
	if err != nil {
		return api.Lease{}, err
	}
	var back *quorum.Back
	if req.TakeBack {
		if back, err = s.NotHere(ctx, req.Name, a.records.Names); err != nil {
			return api.Lease{}, explain(err)
		}
	}
	out, err := s.BreakLease(ctx, user, req, back)
	if err != nil {
		return out, err
	}
	if back == nil {
		return out, nil
	}
	for _, d := range back.To {
		if err := a.certify(ctx, s, replica.Proposal{Lock: req.Name, Name: d.Document}); err != nil { // whoever is granted a lease next asks for it again
			a.log.Warn("a document was taken back, and that is not put into the log yet", "error", err)
		}
	}
	return out, nil
}

// Circles implements api.Exclusive.
func (a *Agent) Circles(ctx context.Context) ([]api.Circle, error) {
	return asked(a, func(s *quorum.Service) ([]api.Circle, error) { return s.Circles(ctx) })
}

// OpenCircle implements api.Exclusive.
func (a *Agent) OpenCircle(ctx context.Context, req api.CircleRequest) (api.Circle, error) {
	return asked(a, func(s *quorum.Service) (api.Circle, error) { return s.OpenCircle(ctx, req) })
}

// CloseCircle implements api.Exclusive.
func (a *Agent) CloseCircle(ctx context.Context, name string) (api.Circle, error) {
	return asked(a, func(s *quorum.Service) (api.Circle, error) { return s.CloseCircle(ctx, name) })
}

// AssignNumber implements api.Exclusive.
func (a *Agent) AssignNumber(ctx context.Context, req api.NumberRequest) (api.Number, error) {
	return asked(a, func(s *quorum.Service) (api.Number, error) { return s.AssignNumber(ctx, req) })
}

// ResolveNumber implements api.Exclusive.
func (a *Agent) ResolveNumber(ctx context.Context, user string, req api.ResolveRequest) (api.Number, error) {
	return asked(a, func(s *quorum.Service) (api.Number, error) { return s.ResolveNumber(ctx, user, req) })
}

// Numbers implements api.Exclusive.
func (a *Agent) Numbers(ctx context.Context, circle string) (api.NumberReport, error) {
	return asked(a, func(s *quorum.Service) (api.NumberReport, error) { return s.Numbers(ctx, circle) })
}
