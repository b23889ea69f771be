package quorum

import "time"

// copies has somebody copy the machines' disks now and then.
func (w *World) copies() {
	w.after(w.between(2*time.Second, 12*time.Second), func() {
		if w.calm {
			return
		}
		if h := w.anyVoter(); h != nil {
			h.copies = append(h.copies, cloneStored(h.disk.durable))
		}
		w.copies()
	})
}

// anyVoter returns a machine that has a voter; nil: none has.
func (w *World) anyVoter() *host {
	for _, i := range w.rng.Perm(machines) {
		if w.hosts[i].disk.durable.id != 0 {
			return w.hosts[i]
		}
	}
	return nil
}

// goBack puts a machine's disk back to a copy, or wipes it.
func (w *World) goBack() {
	h := w.anyVoter()
	if w.chance(20) {
		h = w.hosts[w.rng.IntN(machines)]
	}
	if h == nil || h.disk.durable.id == 0 && len(h.copies) == 0 {
		return
	}
	w.ledger.back[h.epoch()] = true
	if len(h.copies) == 0 || w.chance(20) {
		w.note("machine %d: its disk is wiped", h.index)
		w.report.Wiped++
		h.replace(stored{}) // it does not vote: who it was, it does not know
		return
	}
	old := h.copies[w.rng.IntN(len(h.copies))]
	w.ledger.back[old.begin.epoch] = true
	w.note("machine %d: its disk goes back to voter %d of epoch %d, at %d", h.index, old.id, old.begin.epoch, old.HardState.GetCommit())
	w.report.Backs1++
	h.replace(cloneStored(old))
}
