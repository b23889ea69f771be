package quorum

import (
	"bytes"
	"slices"
	"time"

	"chartmesh/lockquorum"
)

// voting returns the machines that vote in the end, and the one of them that leads; nil: none does.
func (w *World) voting() (list []*host, leader *host) {
	for _, h := range w.hosts {
		if h.node == nil {
			continue
		}
		if _, settled := h.node.Leader(); settled && (leader == nil || h.epoch() > leader.epoch()) {
			leader = h
		}
	}
	if leader == nil {
		return nil, nil
	}
	for _, v := range leader.node.State().Voters() {
		h := w.hostOf(v.Device)
		if h.node == nil || h.disk.durable.id != v.ID {
			return nil, nil
		}
		list = append(list, h)
	}
	return list, leader
}

// even reports whether all voters have applied the same.
func (w *World) even() bool {
	list, leader := w.voting()
	return leader != nil && !slices.ContainsFunc(list, func(h *host) bool { return h.node.State().Index() != leader.node.State().Index() })
}

// checkRest checks what must hold when everything has arrived everywhere.
func (w *World) checkRest() {
	l := &w.ledger
	for end := w.now + 10*time.Second; w.now < end && !w.even(); { // sessions go on being kept
		w.until(w.now + tick)
	}
	if w.failure != nil {
		return
	}
	list, leader := w.voting()
	if leader == nil {
		for _, h := range w.hosts {
			if h.node != nil {
				id, settled := h.node.Leader()
				w.note("machine %d: voter %d of epoch %d at %d, led by %d (%v), %v", h.index, h.disk.now.id, h.epoch(), h.node.State().Index(), id, settled, h.node.Conf())
			}
		}
		w.fail("I8", "nobody leads, or a voter does not run")
		return
	}
	st, conf := leader.node.State(), leader.node.Conf()
	if n := len(list); n != 1 && n != 3 || len(conf.GetVoters()) != n || len(conf.GetLearners()) > 0 || len(conf.GetVotersOutgoing()) > 0 {
		w.fail("I-voters", "the State names %d voters, and it rests with %v", n, conf)
	}
	for _, h := range list {
		if h.node.State().Seen() != st.Seen() {
			w.fail("I8", "machine %d is at %v, and the leader at %v", h.index, h.node.State().Seen().Place, st.Seen().Place)
			return
		}
		if !bytes.Equal(h.node.State().Snapshot(), st.Snapshot()) {
			w.fail("I6", "machine %d applied the same as the leader, and holds something else", h.index)
		}
	}
	if len(l.committed) == 0 || l.lastTold < w.cfg.Duration {
		w.fail("I8", "%d changes were committed, and nobody was told anything after %v", len(l.committed), l.lastTold)
		return
	}
	final := pastOf(st.Seen())
	heads := map[lockquorum.LockID]lockquorum.Heads{}
	for _, lease := range st.Leases() {
		for _, d := range lease.Documents {
			heads[lease.Lock] = d.Heads
		}
	}
	for _, ch := range l.committed {
		switch {
		case l.descends(heads[ch.lock], ch.id) || l.undone[ch.id]:
		case w.lost(ch.at, final):
			w.report.LostCommits++
		default:
			w.fail("I7", "change %v was committed under %v, and %v is certified without it", ch.id, ch.token, heads[ch.lock])
		}
	}
	for _, c := range w.clients {
		if len(c.store) != len(l.changes) {
			w.fail("I8", "client %d has %d of %d changes", c.index, len(c.store), len(l.changes))
		}
	}
	w.checkNumbers(st)
	w.checkAccepted(heads)
	if !w.kind.back && w.report.Doubled+w.report.LostCommits+w.report.LostAtReseed+w.report.Unseen > 0 {
		w.fail("I9", "something was lost where no disk went back: %+v", w.report)
	}
}

// checkNumbers checks I5 at the end: an item has one number, which is that which everybody was told; and of what was told nothing is missing.
func (w *World) checkNumbers(st *lockquorum.State) {
	final := pastOf(st.Seen())
	given, count := map[lockquorum.ItemID]number{}, map[lockquorum.SeriesID]int64{}
	list, _ := st.Circle(circle)
	for _, in := range list {
		count[in.ID] = int64(len(in.Numbers))
		if in.Closed == 0 && in.ID.Epoch != st.Epoch() {
			w.fail("I5", "series %v gives numbers in epoch %d", in.ID, st.Epoch())
		}
		for _, n := range in.Numbers {
			if had, twice := given[n.Item]; twice {
				w.fail("I5", "item %v has %v and %d of %v", n.Item, had, n.Number, in.ID)
			}
			given[n.Item] = number{in.ID, n.Number}
		}
	}
	for item, told := range w.ledger.numbers {
		for _, f := range told {
			switch {
			case w.lost(f.at, final):
			case given[item] != f.number:
				w.fail("I5", "item %v has %v, and somebody was told %v", item, given[item], f.number)
			case f.n < 1 || f.n > count[f.series]: // without a gap: as many were given as the highest says
				w.fail("I5", "somebody was told %v, of %d that were given from 1 on", f.number, count[f.series])
			}
		}
	}
}
