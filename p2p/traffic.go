package p2p

import "chartmesh/p2p/session"

// Traffic is what the sessions of a host have moved since it was opened.
type Traffic struct {
	Sessions            uint64 // ever
	Open                int    // now
	BytesIn, BytesOut   uint64
	ChunksIn, ChunksOut uint64
	NetworkChanges      uint64 // addresses that came or went, and wakes from sleep
	Wakes               uint64
	Announcements       uint64 // of members on the local network that were understood
}

func (t *Traffic) add(s session.Status) {
	t.Sessions++
	t.BytesIn += s.BytesIn
	t.BytesOut += s.BytesOut
	t.ChunksIn += s.ChunksIn
	t.ChunksOut += s.ChunksOut
}

// Traffic returns what all sessions together have moved.
func (h *Host) Traffic() Traffic {
	h.mu.Lock()
	sum := h.mu.past
	var links []*link
	for _, m := range h.mu.peers {
		if m.link != nil {
			links = append(links, m.link)
		}
	}
	h.mu.Unlock()
	sum.Open = len(links)
	for _, l := range links {
		sum.add(l.session.Status())
	}
	return sum
}
