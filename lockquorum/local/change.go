package local

import (
	"context"
	"fmt"
	"slices"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/trust"
)

// changing bounds how long a change of voters may take. What is done of it stays, and it goes on when it is asked for again.
const changing = 90 * time.Second

// admin reports whether a device is an administrator's.
func (v *Voter) admin(d trust.DeviceID) bool {
	m, ok := v.cfg.Members().Member(d)
	return ok && m.Role == trust.RoleAdmin
}

// Begin has this device vote in a quorum whose leader asks for it: a device that was told to vote by an administrator, or founded the practice.
func (v *Voter) Begin(ctx context.Context, from lockquorum.DeviceID, b remote.Begin) error {
	votes := slices.ContainsFunc(b.Voters, func(o lockquorum.Voter) bool { return o.Device == from })
	heardOf := slices.ContainsFunc(v.Voting(), func(o lockquorum.Voter) bool { return o.Device == from })
	if !votes || !heardOf && !v.admin(from) || !lockquorum.Reads(v.cfg.Members(), from) && !v.cfg.Members().IsAnchor(from) || !lockquorum.MayVote(v.cfg.Members(), v.self) {
		return lockquorum.ErrForbidden
	}
	v.joining.Lock()
	defer v.joining.Unlock()
	v.mu.Lock()
	has, stopped, rec, running := v.mu.disk != nil, v.mu.stopped, v.mu.record, v.mu.driver
	v.mu.Unlock()
	switch {
	case b.Epoch < v.InForce().Epoch, has && b.Epoch < rec.Epoch:
		return lockquorum.ErrForbidden // that quorum is over
	case !v.mayVote():
		return remote.ErrMissing
	case has && stopped == nil && rec.Epoch == b.Epoch && rec.ID == b.Number:
		if running != nil { // again; it may have been away while all the others changed
			running.Meet(driver.Begin{Epoch: b.Epoch, Voters: b.Voters})
		}
		return nil
	case slices.Contains(b.Voters, lockquorum.Voter{ID: b.Number, Device: v.self}):
		return lockquorum.ErrForbidden // it voted under this number, and does not remember what
	case has && rec.Epoch == b.Epoch && rec.ID >= b.Number:
		return lockquorum.ErrForbidden // a number is never given again
	case has:
		if err := v.leave(ctx); err != nil {
			return err
		}
	}
	v.mu.Lock()
	prepared := v.mu.prepared
	v.mu.Unlock()
	if prepared != nil && prepared.Epoch <= b.Epoch { // that quorum has begun, without this device as that voter
		if err := v.discard(ctx); err != nil {
			return err
		}
	}
	next := driver.Record{Practice: v.server.Practice, Epoch: b.Epoch, ID: b.Number, Log: v.cfg.Log.Current()}
	if err := v.learnVoters(ctx, known{lockquorum.Place{Epoch: b.Epoch}, b.Voters}); err != nil {
		return err
	}
	if err := driver.Found(ctx, v.cfg.Store, next, nil); err != nil {
		return err
	}
	if err := v.open(ctx); err != nil {
		return err
	}
	v.log.Info("this device begins to vote on leases and numbers", "number", b.Number)
	select {
	case v.begun <- struct{}{}:
	default:
	}
	return nil
}

// mayVote reports whether the folder is one that a voter may begin in: the one that its log is bound to.
func (v *Voter) mayVote() bool { return v.cfg.Log.Continues(v.cfg.Log.Current()) }

// leave ends this device's voter, which has no part in its quorum any more.
func (v *Voter) leave(ctx context.Context) error {
	v.mu.Lock()
	d := v.mu.driver
	v.mu.disk, v.mu.stopped = nil, nil
	v.mu.Unlock()
	if d != nil {
		d.Stop()
		select {
		case <-d.Ended():
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return driver.Forget(ctx, v.cfg.Store)
}

// Change has devices vote and nobody else, at an administrator's word; this device leads, or says who does.
func (v *Voter) Change(ctx context.Context, from lockquorum.DeviceID, devices []lockquorum.DeviceID) error {
	if !v.admin(from) {
		return lockquorum.ErrForbidden
	}
	d := v.running()
	if d == nil {
		return lockquorum.ErrStopped
	}
	st := d.Status()
	if !st.Leads {
		return &lockquorum.NotLeaderError{Leader: st.Leader}
	}
	if len(devices) != 1 && len(devices) != 3 {
		return remote.ErrVoters
	}
	var want, fresh []lockquorum.Voter
	for i, device := range devices {
		if slices.Contains(devices[:i], device) || !lockquorum.MayVote(v.cfg.Members(), device) {
			return lockquorum.ErrForbidden
		}
		at := slices.IndexFunc(st.Voters, func(o lockquorum.Voter) bool { return o.Device == device })
		if at < 0 { // an index of the log is never used twice, nor is a number that is one
			o := lockquorum.Voter{ID: st.Last + 1 + uint64(i), Device: device}
			want, fresh = append(want, o), append(fresh, o)
		} else {
			want = append(want, st.Voters[at])
		}
	}
	ctx, cancel := context.WithTimeout(ctx, changing)
	defer cancel()
	for _, o := range want {
		if o.Device == v.self {
			continue
		}
		err := v.Remote(o.Device).Begin(ctx, remote.Begin{Epoch: st.Epoch, Number: o.ID, Voters: st.Voters})
		if err != nil && slices.Contains(fresh, o) {
			return fmt.Errorf("%w: %w", remote.ErrMissing, err)
		}
	}
	err := d.Change(ctx, want)
	if ctx.Err() != nil && err != nil {
		err = fmt.Errorf("%w: %w", remote.ErrMissing, err)
	}
	return err
}
