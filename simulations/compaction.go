package simulations

import (
	"errors"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// scheduleCompaction has each device look now and then at what it could compact.
func (w *World) scheduleCompaction() {
	w.after(w.between(500*time.Millisecond, 10*time.Second), true, func() {
		if d := w.devices[w.rng.IntN(len(w.devices))]; d.replica != nil {
			d.compact(w.chance(3))
		}
		w.scheduleCompaction()
	})
}

// compact lets a device compact, and checks that it deleted nothing too early.
func (d *device) compact(now bool) {
	w := d.w
	if d.replica == nil {
		return
	}
	before := d.skipped()
	d.busy = "compact"
	c, err := d.replica.Compact(w.ctx, now)
	d.generation++
	if !d.survived() {
		w.note("%s: compact: unknown", d.name)
		return
	}
	if err != nil && !errors.Is(err, errDisk) {
		w.fail("I-sound", "%s cannot compact: %v", d.name, err)
		return
	}
	w.ledger.read(d, nil)
	w.report.Deleted += c.Deleted
	if c != (replica.Compacted{}) {
		w.note("%s: compact: %+v", d.name, c)
	}
	for id, place := range d.skipped() {
		if _, ok := before[id]; !ok {
			w.checkWords(d.name, d.replica.State(), place)
		}
	}
	for _, e := range w.net.ends(d) {
		e.session().LocalChunks(w.now)
	}
	w.net.pumpDevice(w, d)
}

// skipped lists the checkpoints that stand for something that is not held itself.
func (k *disk) skipped() map[chunk.ID]checkpointAt {
	found := map[chunk.ID]checkpointAt{}
	err := k.view(func(v storage.Reader) error {
		return v.Scan(storage.Skip.All(), nil, func(_, value []byte) error {
			skip, err := chunk.ParseSkip(value)
			found[skip.Checkpoint.ID] = checkpointAt{skip.Scope, skip.Checkpoint}
			return err
		})
	})
	if err != nil {
		k.w.fail("I-sound", "%s: read skips: %v", k.name, err)
	}
	return found
}

type checkpointAt struct {
	scope trust.ScopeID
	chunk.Place
}

// saidWord reports whether anybody holds a device's word on a checkpoint. A device that was started twice gives one.
func (w *World) saidWord(at checkpointAt, by *device) (said bool) {
	disks := []*disk{}
	for _, d := range w.devices {
		disks = append(disks, &d.disk)
	}
	if w.anchor != nil {
		disks = append(disks, &w.anchor.disk)
	}
	for _, o := range disks {
		err := o.view(func(v storage.Reader) error {
			_, err := v.Get(storage.Word.Key(at.ID, by.keys.Device()))
			said = said || err == nil
			return nil
		})
		if err != nil {
			w.fail("I-sound", "%s: read words: %v", o.name, err)
		}
	}
	return said
}

// checkWords is I-compact: chunks are deleted for a checkpoint only when every device of the practice, as far as the one
// that deletes knows, has durably found it good, or has it covered by a later one already.
func (w *World) checkWords(who string, st *trust.State, at checkpointAt) {
	for _, o := range w.devices {
		if _, member := st.Member(o.keys.Device()); !member || o.wentBack {
			continue // one that went back gave its word before, on another disk
		}
		said := w.saidWord(at, o) // a disk that went back may have lost it
		err := o.view(func(v storage.Reader) error {
			if said {
				return nil
			}
			b, err := v.Get(storage.Chunk.Key(at.scope, at.Log, at.Counter))
			if errors.Is(err, storage.ErrNotFound) {
				said = standsFor(v, at.scope, at.Log, chunk.At(at.Counter, at.ID)) == nil
				return nil
			}
			if err != nil {
				return err
			}
			sealed, err := chunk.Parse(b)
			said = sealed.Header().Device == o.keys.Device()
			return err
		})
		if err != nil {
			w.fail("I-sound", "%s: read words: %v", o.name, err)
		}
		if !said {
			w.fail("I-compact", "%s deleted what checkpoint %v covers before %s had found it good", who, at.ID, o.name)
		}
	}
}
