package local

import (
	"context"
	"errors"
	"time"

	"chartmesh/lockquorum/driver"
)

// WitnessEvery is how often it is written down outside of the folder how far the voter came.
const WitnessEvery = time.Second

// wentBack compares what is stored with what was written down outside of the folder.
func (v *Voter) wentBack(voter uint64, at driver.Status) error {
	if v.cfg.Witness == nil {
		return nil
	}
	was, ok, err := v.cfg.Witness.Read()
	switch {
	case err != nil:
		v.log.Warn("what is kept outside of the folder does not say how far this device's voter was", "error", err)
	case ok && (was.Epoch > at.Epoch || was.Epoch == at.Epoch && (was.Voter > voter || was.Voter == voter && (was.Index > at.Last || was.Term > at.Term))):
		return ErrWentBack
	}
	return nil
}

// errFollow ends a run of the voter: the membership log says something else than it goes by.
var errFollow = errors.New("another quorum is in force")

// keeping writes down outside of the folder how far a voter came. What was applied is stored, so that a folder that has less has gone back.
type keeping struct {
	v       *Voter
	d       *driver.Driver
	rec     driver.Record
	written Reached
	failed  bool
}

func (k *keeping) write() {
	v, st := k.v, k.d.Status()
	now := Reached{st.Epoch, k.rec.ID, st.Term, st.Index}
	if v.cfg.Witness == nil || now == k.written {
		return
	}
	err := v.cfg.Witness.Write(now)
	if err != nil && !k.failed {
		v.log.Warn("how far this device's voter came is not kept outside of the folder; if that is put back from a copy, nobody may notice", "error", err)
	}
	if k.failed = err != nil; !k.failed {
		k.written = now
	}
}

// watch writes it down until ctx ends; whoever ended the voter writes it down once more, when that has applied its last. It is ErrWentBack if the folder turns out
// not to be the one that it was: another device has shown it.
func (k *keeping) watch(ctx context.Context) error {
	tick := time.NewTicker(WitnessEvery)
	defer tick.Stop()
	for {
		if !k.v.cfg.Log.Continues(k.rec.Log) {
			return ErrWentBack
		}
		if k.v.due() {
			return errFollow
		}
		k.write()
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
