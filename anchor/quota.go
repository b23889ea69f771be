package anchor

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/time/rate"

	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Quota is what a practice may take. 0 of anything: no limit.
type Quota struct {
	Bytes       uint64 `json:"bytes"`       // stored: keys and values
	Chunks      uint64 `json:"chunks"`      // stored
	Connections uint64 `json:"connections"` // devices at once
	Rate        uint64 `json:"rate"`        // bytes a second that are taken of its devices
}

// DefaultQuota is what a practice may take where nothing else is said: far more than one needs that keeps records.
var DefaultQuota = Quota{Bytes: 100e9, Chunks: 20e6, Connections: 512, Rate: 32e6}

const (
	maxLimit       = 1 << 62
	maxConnections = 1 << 14 // what the network takes of all together
	// leastRate is what keeps a session alive.
	leastRate = 16_000
)

// ErrQuota says that a limit makes no sense.
var ErrQuota = errors.New("not a quota")

func (q Quota) validate() error {
	switch {
	case max(q.Bytes, q.Chunks, q.Rate) > maxLimit, q.Connections > maxConnections:
		return fmt.Errorf("%w: it is too large", ErrQuota)
	case q.Rate > 0 && q.Rate < leastRate:
		return fmt.Errorf("%w: a rate is at least %d bytes a second", ErrQuota, leastRate)
	}
	return nil
}

// ownLimit is 0 for the default, or one more than a limit.
type ownLimit uint64

// ownQuota is what is said of one practice: bytes, chunks, connections, rate.
type ownQuota [4]ownLimit

// over returns the quota that counts where d is the default.
func (o ownQuota) over(d Quota) Quota {
	for i, to := range []*uint64{&d.Bytes, &d.Chunks, &d.Connections, &d.Rate} {
		if o[i] > 0 {
			*to = uint64(o[i] - 1)
		}
	}
	return d
}

// Limit is what is to be said of one limit of a practice.
type Limit struct {
	Default bool   `json:"default,omitempty"` // the anchor's default, whatever it is
	Value   uint64 `json:"value"`
}

// Change is what is to be changed of a practice's quota; nil: it stays.
type Change struct {
	Bytes       *Limit `json:"bytes,omitempty"`
	Chunks      *Limit `json:"chunks,omitempty"`
	Connections *Limit `json:"connections,omitempty"`
	Rate        *Limit `json:"rate,omitempty"`
}

func (c Change) on(o ownQuota) ownQuota {
	for i, l := range []*Limit{c.Bytes, c.Chunks, c.Connections, c.Rate} {
		switch {
		case l == nil:
		case l.Default:
			o[i] = 0
		default:
			o[i] = ownLimit(min(l.Value, maxLimit+1) + 1) // too large ones stay so
		}
	}
	return o
}

// limits is what counts for a practice.
type limits struct {
	Quota
	own  ownQuota
	rate *rate.Limiter // nil: none
}

// limit has a quota count for the practice.
func (p *practice) limit(own ownQuota, defaults Quota) {
	l := &limits{Quota: own.over(defaults), own: own}
	if l.Rate > 0 {
		burst := int(min(max(l.Rate, p2p.RateBurst), 1<<30))
		if was := p.limits.Load(); was != nil && was.rate != nil {
			l.rate = was.rate // with what is owed
			l.rate.SetLimit(rate.Limit(l.Rate))
			l.rate.SetBurst(burst)
		} else {
			l.rate = rate.NewLimiter(rate.Limit(l.Rate), burst)
		}
	}
	p.limits.Store(l)
	if p.share != nil {
		p.share.Limit(storage.Limits{Bytes: l.Bytes, Chunks: l.Chunks})
	}
}

var _ p2p.Limited = (*practice)(nil)

// UsedUp reports whether nothing more is stored of the practice.
func (p *practice) UsedUp() bool { return p.share != nil && p.share.UsedUp() }

// Gone implements p2p.Limited.
func (p *practice) Gone() bool { return p.dropped.Load() }

// Connections returns how many devices of the practice may be connected at once; 0: any number.
func (p *practice) Connections() int { return int(p.limits.Load().Connections) }

// Rate bounds the bytes that arrive of the practice.
func (p *practice) Rate() *rate.Limiter { return p.limits.Load().rate }

// enters reports whether one more device may connect. There is room for more than may have a session, which tells those why not.
func (a *Anchor) enters(d trust.DeviceID) bool {
	for _, p := range a.comesAs(d) {
		if p.admits(d) && !a.crowded(p, d) {
			return true
		}
	}
	return false
}

// spareConnections is how many devices of a practice may be connected beyond as many again as may have a session.
const spareConnections = 8

func (a *Anchor) crowded(p *practice, d trust.DeviceID) bool {
	most, st := 2*p.Connections()+spareConnections, p.State()
	if p.Connections() == 0 || st == nil || len(st.Members()) <= most {
		return false
	}
	n := 0
	for _, m := range st.Members() {
		if m.Device != d && a.host.HasConnection(m.Device) {
			if n++; n >= most {
				return true
			}
		}
	}
	return false
}

// SetQuota changes what a practice may take, at once and for good, and returns what it takes. Errors are ErrUnknown and ErrQuota.
func (a *Anchor) SetQuota(ctx context.Context, id trust.EntryID, change Change) (Usage, error) {
	a.admission.Lock()
	defer a.admission.Unlock()
	p := a.find(id)
	if p == nil {
		return Usage{}, ErrUnknown
	}
	own := change.on(p.limits.Load().own)
	if err := own.over(a.cfg.Quota).validate(); err != nil {
		return Usage{}, err
	}
	if own != p.limits.Load().own {
		r := p.record
		r.Quota = own
		b := storage.Batch{Frees: true} // whoever decides must be heard while the disk is full
		b.Put(storage.Practice.Key(p.id), r.marshal())
		if err := a.store.Commit(ctx, &b); err != nil {
			return Usage{}, fmt.Errorf("set quota: %w", err)
		}
		p.limit(own, a.cfg.Quota)
		a.host.FullChanged(p)
		a.log.Info("the quota of a practice was changed", "practice", p.id)
	}
	return usageOf(p, a.host.Moved()[p]), nil
}
