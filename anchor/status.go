package anchor

import (
	"context"
	"errors"
	"time"

	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Practice is a practice at a glance.
type Practice struct {
	ID       string    `json:"id"` // of its founding entry
	Admitted time.Time `json:"admitted"`
	Known    bool      `json:"known"`  // its membership log has come
	Anchor   bool      `json:"anchor"` // and names this anchor
	Devices  int       `json:"devices"`
	Chunks   uint64    `json:"chunks"`            // held, over all logs and scopes
	Deleted  uint64    `json:"deleted"`           // of those: here, since checkpoints stand for them or they were erased
	UsedUp   bool      `json:"used_up"`           // nothing more of it is taken, since its share is used up
	Voter    *Voter    `json:"voter,omitempty"`   // if it votes on leases and numbers, or did
	Damaged  string    `json:"damaged,omitempty"` // why nothing of it is held: its devices keep theirs
}

func (p *practice) status() Practice {
	s := Practice{ID: p.id.String(), Admitted: p.Admitted, UsedUp: p.UsedUp()}
	if p.broken != nil {
		s.Damaged = p.broken.Error()
		return s
	}
	if st := p.State(); st != nil {
		s.Known, s.Anchor, s.Devices = true, p.IsAnchor(), len(st.Members())
		s.Chunks, s.Deleted = p.Held(), p.Deleted()
	}
	return s
}

// Status is how things stand.
type Status struct {
	PeerID    string     `json:"peer_id"`
	Version   string     `json:"version"`
	Region    string     `json:"region,omitempty"`
	Addresses []string   `json:"addresses"`
	Connected int        `json:"connected"`         // devices, of all practices
	Full      bool       `json:"full"`              // nothing is taken, for want of room on the disk
	Trouble   string     `json:"trouble,omitempty"` // why it does not store, or does not serve
	Deleting  int        `json:"deleting"`          // dropped practices of which something is left
	Practices []Practice `json:"practices"`         // as they were admitted
}

// Status returns how things stand.
func (a *Anchor) Status() (Status, error) {
	id, err := p2p.PeerID(a.self.Device())
	if err != nil {
		return Status{}, err
	}
	s := Status{PeerID: id.String(), Version: a.cfg.Version, Region: a.cfg.Region, Addresses: a.Addresses(), Full: a.full(), Practices: []Practice{},
		Deleting: int(a.deleting.Load())}
	if err := errors.Join(a.Healthy(), a.Ready()); err != nil {
		s.Trouble = err.Error()
	}
	for _, p := range a.host.Peers() {
		if p.Connected {
			s.Connected++
		}
	}
	for _, p := range a.list() {
		one := p.status()
		one.Voter = a.quorums.voter(p)
		s.Practices = append(s.Practices, one)
	}
	return s, nil
}

// Healthy returns nil, or why nothing is stored: the disk is full, or the store has failed and the anchor must be started again.
func (a *Anchor) Healthy() error { return a.store.Commit(context.Background(), new(storage.Batch)) }

// errNotServing says that Run has not begun, or is over.
var errNotServing = errors.New("the anchor does not serve")

// Ready returns nil, or why no device is served.
func (a *Anchor) Ready() error {
	if !a.running.Load() {
		return errNotServing
	}
	return nil
}

// Usage is what a practice takes.
type Usage struct {
	ID          string     `json:"id"`
	Number      uint64     `json:"number"` // of its part of the store
	Bytes       uint64     `json:"bytes"`  // stored: keys and values
	Chunks      uint64     `json:"chunks"`
	Devices     int        `json:"devices"`
	Connected   int        `json:"connected"`
	LastContact *time.Time `json:"last_contact,omitempty"` // since the start
	LastStored  *time.Time `json:"last_stored,omitempty"`
	BytesIn     uint64     `json:"bytes_in"` // of its devices, since the start
	BytesOut    uint64     `json:"bytes_out"`
	ChunksIn    uint64     `json:"chunks_in"`
	ChunksOut   uint64     `json:"chunks_out"`
	Quota       Quota      `json:"quota"`
	Own         []string   `json:"own"`   // what of the quota is the practice's own, and not the anchor's default
	Share       float64    `json:"share"` // of its bytes or chunks, whichever is more; 0 if neither is bounded
	UsedUp      bool       `json:"used_up"`
	Damaged     bool       `json:"damaged"`
}

// quotaNames are the names of ownQuota's limits.
var quotaNames = [len(ownQuota{})]string{"bytes", "chunks", "connections", "rate"}

func usageOf(p *practice, moved p2p.Moved) Usage {
	l := p.limits.Load()
	u := Usage{ID: p.id.String(), Number: p.Number, Quota: l.Quota, Own: []string{}, UsedUp: p.UsedUp(), Damaged: p.broken != nil}
	for i, own := range l.own {
		if own > 0 {
			u.Own = append(u.Own, quotaNames[i])
		}
	}
	if p.share != nil {
		held := p.share.Held()
		u.Bytes, u.Chunks = held.Bytes, held.Chunks
		u.LastStored = timeOf(held.Stored)
	}
	for _, of := range [][2]uint64{{u.Bytes, l.Bytes}, {u.Chunks, l.Chunks}} {
		if of[1] > 0 {
			u.Share = max(u.Share, float64(of[0])/float64(of[1]))
		}
	}
	if st := p.State(); st != nil {
		u.Devices = len(st.Members())
	}
	u.Connected, u.LastContact = moved.Open, timeOf(moved.Contact.UTC())
	u.BytesIn, u.BytesOut, u.ChunksIn, u.ChunksOut = moved.BytesIn, moved.BytesOut, moved.ChunksIn, moved.ChunksOut
	return u
}

func timeOf(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// UsageOf returns what a practice takes. The error is ErrUnknown.
func (a *Anchor) UsageOf(id trust.EntryID) (Usage, error) {
	if p := a.find(id); p != nil {
		return usageOf(p, a.host.Moved()[p]), nil
	}
	return Usage{}, ErrUnknown
}

// Usages returns what each practice takes, in the order in which they were admitted.
func (a *Anchor) Usages() []Usage {
	list, moved := []Usage{}, a.host.Moved()
	for _, p := range a.list() {
		list = append(list, usageOf(p, moved[p]))
	}
	return list
}
