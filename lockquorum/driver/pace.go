package driver

import (
	"time"

	"chartmesh/lockquorum"
)

// preferred returns the voter that is to lead when it is well; 0: it is this one, or there is none.
func (d *Driver) preferred() (id uint64) {
	if d.cfg.Prefer == nil || d.cfg.Prefer(d.cfg.Device) {
		return 0
	}
	for _, v := range d.node.State().Voters() {
		if d.cfg.Prefer(v.Device) {
			return v.ID
		}
	}
	return 0
}

// pace returns how long a tick is. Voters need not be of one mind: who is hasty asks whether the others have not heard of the leader either (PreVote).
func (d *Driver) pace() time.Duration {
	prefer := func(id lockquorum.DeviceID) bool { return d.cfg.Prefer != nil && d.cfg.Prefer(id) }
	list := d.voters()
	if len(list) < 2 || d.cfg.Near == nil || prefer(d.cfg.Device) {
		return d.cfg.FarTick
	}
	for _, v := range list {
		if v.Device != d.cfg.Device && (prefer(v.Device) || !d.cfg.Near(v.Device)) {
			return d.cfg.FarTick
		}
	}
	return d.cfg.Tick
}

func (d *Driver) tick() {
	if _, settled := d.node.Leader(); settled {
		d.node.Prefer(d.preferred())
	}
	d.node.Tick()
	now := d.cfg.Now()
	// Who leads and hears nothing has the clock go on in the log when a lease may have ended.
	if _, settled := d.node.Leader(); settled && d.ticking == 0 && d.node.Clock(now) >= d.node.State().NextExpiry() {
		d.ticking, _ = d.node.Propose(now, &lockquorum.Command{Operation: &lockquorum.Tick{}})
	}
	for at, list := range d.queued {
		kept := list[:0]
		for _, c := range list {
			if c.ctx.Err() == nil {
				kept = append(kept, c)
			}
		}
		if d.queued[at] = kept; len(kept) == 0 {
			delete(d.queued, at)
		}
	}
}
