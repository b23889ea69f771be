package kept

import (
	"context"

	"chartmesh/lockquorum/seen"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

var _ session.Carrier = (*Practice)(nil)

// Seen returns what is kept of how far the practice's quorum was seen to be; nil: its membership log has not come, or this is no anchor of it.
func (p *Practice) Seen() *seen.Keeper {
	if h := p.held.Load(); h != nil && p.IsAnchor() {
		return h.seen
	}
	return nil
}

// Carries returns how far the practice's quorum was seen to be. It takes no key to tell who signed that.
func (p *Practice) Carries() []byte {
	if k := p.Seen(); k != nil {
		return k.Carries()
	}
	return nil
}

// Carried takes what a device carries.
func (p *Practice) Carried(ctx context.Context, from trust.DeviceID, carried []byte) {
	k := p.Seen()
	if k == nil {
		return
	}
	if err := k.Carried(ctx, carried); err != nil {
		p.cfg.Logger.Debug("how far a device says that the quorum came is not kept", "device", from, "error", err)
	}
}
