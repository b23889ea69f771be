package quorum

import (
	"time"

	"chartmesh/lockquorum/voter"
)

// copies has somebody copy the machines' disks now and then.
func (w *World) copies() {
	w.after(w.between(2*time.Second, 12*time.Second), func() {
		if w.calm {
			return
		}
		h := w.hosts[w.rng.IntN(machines)]
		if h.disk.durable.id != 0 {
			h.copies = append(h.copies, cloneStored(h.disk.durable))
		}
		w.copies()
	})
}

// goBack puts a machine's disk back to a copy, or wipes it.
func (h *host) goBack() {
	w := h.w
	if h.disk.durable.id == 0 && len(h.copies) == 0 {
		return
	}
	w.ledger.back[h.epoch()] = true
	if len(h.copies) == 0 || w.chance(30) {
		w.note("machine %d: its disk is wiped", h.index)
		w.report.Wiped++
		if w.cfg.Mutant == WipedVotes {
			h.replace(stored{Stored: voter.Stored{}, id: h.disk.durable.id, begin: begin{h.epoch(), h.voters()}})
			return
		}
		h.replace(stored{}) // it does not vote: who it was, it does not know
		return
	}
	old := h.copies[w.rng.IntN(len(h.copies))]
	w.ledger.back[old.begin.epoch] = true
	w.note("machine %d: its disk goes back to voter %d of epoch %d, at %d", h.index, old.id, old.begin.epoch, old.HardState.GetCommit())
	w.report.Backs1++
	h.replace(cloneStored(old))
}
