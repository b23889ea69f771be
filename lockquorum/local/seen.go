package local

import (
	"context"
	"errors"
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
		return e
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	switch err := v.mu.stopped; {
	case errors.Is(err, lockquorum.ErrOver):
		return ended{lockquorum.ErrOver}
	case errors.Is(err, lockquorum.ErrLost), errors.Is(err, ErrWentBack):
		return ended{lockquorum.ErrLost}
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
