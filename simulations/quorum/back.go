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

// running returns the machines whose voters run and that some leader's State names, in any order.
func (w *World) running() (list []*host) {
	for _, i := range w.rng.Perm(machines) {
		h := w.hosts[i]
		if h.node == nil {
			continue
		}
		if _, settled := h.node.Leader(); !settled {
			continue
		}
		for _, v := range h.node.State().Voters() {
			if o := w.hostOf(v.Device); o.node != nil && o.disk.durable.id == v.ID {
				list = append(list, o)
			}
		}
		w.rng.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
		return list
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
	if len(h.copies) == 0 || w.chance(20) {
		list := []*host{h}
		if voters := w.running(); len(voters) == 3 && w.chance(50) {
			list = voters[:2] // one is left, which may not know of what it has that it was agreed on
		}
		for _, h := range list {
			w.note("machine %d: its disk is wiped", h.index)
			w.report.Wiped++
			h.replace(stored{}) // it does not vote: who it was, it does not know
		}
		return
	}
	old := h.copies[w.rng.IntN(len(h.copies))]
	w.ledger.back[h.epoch()], w.ledger.back[old.begin.epoch] = true, true
	w.note("machine %d: its disk goes back to voter %d of epoch %d, at %d", h.index, old.id, old.begin.epoch, old.HardState.GetCommit())
	w.report.PutBack++
	h.replace(cloneStored(old))
}
