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

// watch writes down outside of the folder how far the voter came, until ctx ends. What was applied is stored, so that a folder that has less has
// gone back. It is ErrWentBack if the folder turns out not to be the one that it was: another device has shown it.
func (v *Voter) watch(ctx context.Context, d *driver.Driver, rec driver.Record) error {
	var written Reached
	failed := false
	write := func() {
		st := d.Status()
		now := Reached{st.Epoch, rec.ID, st.Term, st.Index}
		if v.cfg.Witness == nil || now == written {
			return
		}
		err := v.cfg.Witness.Write(now)
		if err != nil && !failed {
			v.log.Warn("how far this device's voter came is not kept outside of the folder; if that is put back from a copy, nobody may notice", "error", err)
		}
		if failed = err != nil; !failed {
			written = now
		}
	}
	tick := time.NewTicker(WitnessEvery)
	defer tick.Stop()
	for {
		if !v.cfg.Log.Continues(rec.Log) {
			return ErrWentBack
		}
		if v.due() {
			return errFollow
		}
		write()
		select {
		case <-ctx.Done():
			write()
			return nil
		case <-tick.C:
		}
	}
}
