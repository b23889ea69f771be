package anchor

import (
	"sync/atomic"

	"chartmesh/anchor/kept"
	"chartmesh/p2p/session"
	"chartmesh/storage"
	"chartmesh/trust"
)

// practice is one practice that the anchor holds, and what it may take.
type practice struct {
	*kept.Practice
	record
	id trust.EntryID

	share   *storage.Share         // what it is held in; nil: that does not read
	limits  atomic.Pointer[limits] // what it may take
	dropped atomic.Bool
	broken  error // why it cannot be held; nobody is let in
	turns   turns
}

var _ session.Replica = (*practice)(nil)

// practice makes a practice of which nothing is read yet but its share.
func (a *Anchor) practice(id trust.EntryID, r record) *practice {
	p := &practice{record: r, id: id}
	cfg := kept.Config{
		ID: id, By: r.By, Self: a.self, Logger: a.log.With("practice", id.String()),
		Changed: func() { a.index(p) }, // the host tells the sessions, since the change came by one
		Lost:    func() { a.lost(p) },
		Proven:  func(d trust.DeviceID) { a.proven(p, d) },
	}
	if p.share, p.broken = storage.OpenShare(a.metrics.commits.Of(a.store), r.Number); p.broken == nil {
		cfg.Store = p.share
	}
	p.Practice = kept.New(cfg)
	p.limit(r.Quota, a.cfg.Quota)
	return p
}

// admits reports whether a device is let in as one of this practice.
func (p *practice) admits(d trust.DeviceID) bool {
	return p.broken == nil && !p.dropped.Load() && p.Admits(d)
}
