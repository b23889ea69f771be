package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A quorum that is founded anew begins in three steps, each of which may be the last one for now: voters are prepared, beside those that there are; the entry that founds it
// comes to be in the membership log; each device that hears of it ends the voter that it had, for good, and takes up the one that is prepared. Until the entry is there nothing has changed.

// InForce returns the quorum that counts by the membership log as it is known here: the founding of the latest epoch.
func (v *Voter) InForce() lockquorum.Founding {
	st := v.cfg.Members()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.mu.judged != st {
		list := lockquorum.Foundings(st)
		v.mu.judged, v.mu.inForce = st, list[len(list)-1]
	}
	return v.mu.inForce
}

// loadPrepared reads which voter is prepared.
func (v *Voter) loadPrepared() error {
	p, _, err := driver.LoadPrepared(v.cfg.Store)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case errors.Is(err, storage.ErrDamaged):
		v.log.Warn("a voter that was prepared for a quorum to be founded anew does not read", "error", err)
		return nil
	case err != nil:
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.prepared = &p
	return nil
}

// due reports whether what the membership log says is to be followed, or the voter goes on that was held.
func (v *Voter) due() bool {
	v.InForce()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.mu.followed != v.mu.inForce.Entry || v.mu.held != (time.Time{}) && !time.Now().Before(v.mu.held)
}

// follow has this device follow the quorum in force. Its voter must not run.
func (v *Voter) follow(ctx context.Context) error {
	force := v.InForce()
	v.joining.Lock()
	defer v.joining.Unlock()
	v.mu.Lock()
	prepared, has, stopped, rec := v.mu.prepared, v.mu.disk != nil, v.mu.stopped, v.mu.record
	v.mu.Unlock()
	switch {
	case prepared != nil && prepared.Entry == force.Entry && (!has || rec.Epoch < force.Epoch):
		if err := v.takeUp(ctx, *prepared, force); err != nil {
			return err
		}
	case prepared != nil && prepared.Epoch <= force.Epoch:
		if err := v.discard(ctx); err != nil {
			return err
		}
		fallthrough
	default:
		if has && rec.Epoch < force.Epoch && !errors.Is(stopped, voter.ErrOver) {
			if err := driver.End(ctx, v.cfg.Store, voter.ErrOver); err != nil {
				return err
			}
			v.log.Info("this device's voter has ended: a quorum of a later epoch has begun", "epoch", rec.Epoch, "later", force.Epoch)
			v.halt(voter.ErrOver)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if errors.Is(v.mu.stopped, ErrNotFounded) && force.Epoch > lockquorum.FirstEpoch {
		v.mu.stopped = nil
	}
	v.mu.followed = force.Entry
	if !v.isHeldLocked() {
		v.mu.held = time.Time{}
	}
	return nil
}

// halt notes why this device's voter does not run, and must not.
func (v *Voter) halt(why error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.stopped = why
}

// takeUp has the voter that is prepared take the place of the one that there was.
func (v *Voter) takeUp(ctx context.Context, p driver.Prepared, force lockquorum.Founding) error {
	_, st, err := driver.LoadPrepared(v.cfg.Store)
	if err != nil {
		return err
	}
	switch {
	case !v.cfg.Log.Continues(p.Log):
		v.halt(ErrWentBack)
		return nil
	case p.Practice != v.server.Practice, p.Epoch != force.Epoch, st.Epoch() != force.Epoch, !slices.Equal(st.Voters(), force.Voters):
		v.log.Error("a voter was prepared for another quorum than its entry founds", "epoch", p.Epoch)
		return v.discard(ctx)
	}
	// The voter of before has ended by the entry that is in force, so that nobody is held in between.
	over := storage.Batch{Frees: true}
	over.Delete(storage.Quorum.Key(itemHeld))
	if err := v.cfg.Store.Commit(ctx, &over); err != nil {
		return fmt.Errorf("note that this device's voter is not held any more: %w", err)
	}
	if err := driver.TakeUp(ctx, v.cfg.Store); err != nil {
		return err
	}
	v.mu.Lock()
	v.mu.prepared, v.mu.disk, v.mu.stopped, v.mu.held = nil, nil, nil, time.Time{} // what was held is over
	v.mu.Unlock()
	if err := v.learnVoters(ctx, known{lockquorum.Place{Epoch: force.Epoch}, force.Voters}); err != nil {
		return err
	}
	v.log.Info("this device votes in the quorum that was founded anew", "epoch", force.Epoch, "number", p.ID)
	return v.open(ctx)
}

func (v *Voter) discard(ctx context.Context) error {
	if err := driver.Discard(ctx, v.cfg.Store); err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.prepared = nil
	return nil
}

// Testify says what this device has of the quorum, to an administrator's device: all that its voter stored, whatever became of it, and its parts of ranges. With hold, its voter stops for
// remote.Hold: what it gave from then on would not be known to the quorum that is founded.
func (v *Voter) Testify(ctx context.Context, from lockquorum.DeviceID, hold bool) (t remote.Testimony, err error) {
	if !v.admin(from) {
		return t, lockquorum.ErrForbidden
	}
	force := v.InForce()
	v.mu.Lock()
	followed := v.mu.followed == force.Entry
	v.mu.Unlock()
	if !followed { // its voter may be another one in a moment
		v.wake()
		return t, lockquorum.ErrBusy
	}
	if hold {
		if err := v.hold(ctx); err != nil {
			return t, err
		}
	}
	kept, err := driver.ReadKept(v.cfg.Store)
	switch {
	case errors.Is(err, storage.ErrNotFound):
	case err != nil:
		return t, err
	default:
		if t.Log, err = kept.Marshal(); err != nil {
			return t, err
		}
	}
	if v.cfg.Parts != nil {
		if t.Parts, err = v.cfg.Parts(); err != nil {
			return t, fmt.Errorf("read which parts of ranges this device has: %w", err)
		}
	}
	return t, nil
}

// itemHeld is its number under storage.Quorum.
const itemHeld = 10

// hold stops the voter for a while, which a process that is started again goes on with.
func (v *Voter) hold(ctx context.Context) error {
	until := time.Now().Add(remote.Hold)
	b := storage.Batch{Frees: true} // a full disk does not hinder it
	b.Put(storage.Quorum.Key(itemHeld), marshalHeld(until))
	if err := v.cfg.Store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("note until when this device's voter is held: %w", err)
	}
	v.mu.Lock()
	v.mu.held = until
	d := v.mu.driver
	v.mu.Unlock()
	if d == nil {
		return nil
	}
	v.log.Info("this device's voter stops for a while: an administrator reads what it has", "for", remote.Hold)
	d.Stop()
	select {
	case <-d.Ended():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// loadHeld reads until when the voter is held. A clock that was set back makes that no longer than it was to be, and what does not read is taken for a hold that begins.
func (v *Voter) loadHeld() error {
	latest := time.Now().Add(remote.Hold)
	until := time.Time{}
	err := v.cfg.Store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(itemHeld))
		if err == nil {
			until, err = parseHeld(b)
		}
		return err
	})
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case errors.Is(err, storage.ErrDamaged), errors.Is(err, wire.ErrMalformed):
		until = latest
	case err != nil:
		return fmt.Errorf("read until when this device's voter is held: %w", err)
	}
	if until.After(latest) {
		until = latest
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if until.After(time.Now()) {
		v.mu.held = until
	}
	return nil
}

// marshalHeld writes: 1 | milliseconds since 1970.
func marshalHeld(until time.Time) []byte {
	var w wire.Writer
	w.Byte(1)
	w.Varint(until.UnixMilli())
	return w.Bytes()
}

func parseHeld(b []byte) (time.Time, error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	until := time.UnixMilli(r.Varint())
	return until, r.Close()
}

// isHeldLocked reports whether the voter is to give nothing for now.
func (v *Voter) isHeldLocked() bool { return time.Now().Before(v.mu.held) }

// Prepare stores a voter of a quorum that is to be founded anew, at an administrator's word. It is durable when Prepare returns, and does nothing before the entry that founds the quorum is known here.
func (v *Voter) Prepare(ctx context.Context, from lockquorum.DeviceID, p remote.Prepare) error {
	if !v.admin(from) || !lockquorum.MayVote(v.cfg.Members(), v.self) {
		return lockquorum.ErrForbidden
	}
	st, err := lockquorum.Restore(p.State)
	if err != nil {
		return err
	}
	if st.Epoch() != p.Epoch || st.Index() != 0 || !slices.Contains(st.Voters(), lockquorum.Voter{ID: p.Number, Device: v.self}) || p.Epoch <= v.InForce().Epoch {
		return lockquorum.ErrForbidden
	}
	v.joining.Lock()
	defer v.joining.Unlock()
	if !v.mayVote() {
		return remote.ErrMissing
	}
	next := driver.Prepared{Record: driver.Record{Practice: v.server.Practice, Epoch: p.Epoch, ID: p.Number, Log: v.cfg.Log.Current()}, Entry: p.Entry}
	v.mu.Lock()
	disk := v.mu.disk
	v.mu.Unlock()
	if disk == nil {
		err = driver.Prepare(ctx, v.cfg.Store, next, st)
	} else {
		err = disk.Prepare(ctx, next, st)
	}
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.mu.prepared = &next
	return nil
}

// wake has Run look at what is to be done.
func (v *Voter) wake() {
	select {
	case v.begun <- struct{}{}:
	default:
	}
}

// Learned says that the membership log has grown: a quorum may have been founded anew. Run looks itself now and then.
func (v *Voter) Learned() {
	if v.due() {
		v.wake()
	}
}

// founder reports whether a device may have voters stored here.
func (v *Voter) founder(from trust.DeviceID) bool { return v.admin(from) }
