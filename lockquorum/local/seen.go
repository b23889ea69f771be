package local

import (
	"context"
	"errors"
	"slices"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/seen"
	"chartmesh/lockquorum/voter"
)

// Seen returns what this device keeps of how far the quorum came.
func (v *Voter) Seen() *seen.Keeper { return v.seen }

// signs signs how far the quorum has come, as this voter.
func (v *Voter) signs(s lockquorum.Seen) lockquorum.Position {
	return lockquorum.SignPosition(v.cfg.Keys, v.server.Practice, s)
}

// proveAgain is after how long it is looked again whether a voter has come as far as its device has heard.
const proveAgain = time.Second

// prove holds what this device has heard of the quorum against its own voter, until ctx ends: whoever leads has to have that, and finds out as it reads. One
// that follows may be behind.
func (v *Voter) prove(ctx context.Context, d *driver.Driver) {
	for {
		behind := false
		for _, p := range v.seen.Shows() {
			if c, err := d.Show(ctx, p); err != nil || c != voter.Behind {
				continue
			}
			if behind = true; d.Status().Leads {
				if _, _, err := d.Read(ctx, v.self, lockquorum.Query{Kind: lockquorum.ReadVoters}, p); err == nil {
					behind = false
				}
			}
		}
		var again <-chan time.Time
		if behind {
			again = time.After(proveAgain)
		}
		select {
		case <-ctx.Done():
			return
		case <-v.seen.Moved():
		case <-again:
		}
	}
}

// answers returns what answers for this device's voter; nil: it does not run. One that does not run any more says why.
func (v *Voter) answers() lockquorum.Engine {
	if e := v.Engine(); e != nil {
		return hinting{e, v}
	}
	v.mu.Lock()
	err := v.mu.stopped
	v.mu.Unlock()
	switch {
	case errors.Is(err, lockquorum.ErrOver):
		return ended{lockquorum.ErrOver}
	case errors.Is(err, lockquorum.ErrLost), errors.Is(err, ErrWentBack):
		return ended{lockquorum.ErrLost}
	}
	if err == nil && !slices.ContainsFunc(v.Voting(), func(o lockquorum.Voter) bool { return o.Device == v.self }) {
		return ended{v.whom()} // it votes no more, or never did
	}
	return nil
}

// ended is a voter that answers nothing any more.
type ended struct{ why error }

// Do implements lockquorum.Engine.
func (e ended) Do(context.Context, lockquorum.DeviceID, lockquorum.Request) (lockquorum.Answer, error) {
	return lockquorum.Answer{}, e.why
}

// Read implements lockquorum.Engine.
func (e ended) Read(context.Context, lockquorum.DeviceID, lockquorum.Query, ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	return nil, lockquorum.Position{}, e.why
}

// hinting is a voter that says whom to ask where it knows of no leader: one that votes no more is told of none, and others may know of it alone.
type hinting struct {
	lockquorum.Engine
	v *Voter
}

// Do implements lockquorum.Engine.
func (h hinting) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	a, err := h.Engine.Do(ctx, from, r)
	return a, h.hint(err)
}

// Read implements lockquorum.Engine.
func (h hinting) Read(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	v, p, err := h.Engine.Read(ctx, from, q, shown...)
	return v, p, h.hint(err)
}

func (h hinting) hint(err error) error {
	not, ok := errors.AsType[*lockquorum.NotLeaderError](err)
	if !ok || not.Leader != (lockquorum.DeviceID{}) {
		return err
	}
	return h.v.whom()
}

// whom names another voter that may know who leads.
func (v *Voter) whom() error {
	var other lockquorum.DeviceID
	for _, o := range v.Voting() {
		if o.Device != v.self && (other == (lockquorum.DeviceID{}) || v.prefers(o.Device)) {
			other = o.Device
		}
	}
	return &lockquorum.NotLeaderError{Leader: other}
}
