package quorum

import (
	"chartmesh/lockquorum"
)

var patients = lockquorum.RangeID{1}

// given says who gave a patient's number, and from which log.
type given struct {
	client int
	log    [32]byte
}

// part is a part of a range that a client gives numbers from, and how far it came.
type part struct {
	lockquorum.Part
	next int64
	at   past // when it was told that it has it
}

// patient gives a number to a patient, without asking; or asks for more.
func (c *client) patient() {
	for i := range c.parts {
		if p := &c.parts[i]; !p.Void && p.Log == c.log && p.next <= p.Max {
			c.w.ledger.patient(c.w, c, p.next)
			c.mark = max(c.mark, p.next)
			p.next++
			c.work()
			return
		}
	}
	min := int64(1 + 37*c.w.rng.IntN(25))
	o := &lockquorum.Grant{Range: patients, Owner: c.device, Log: c.log, Min: min, Max: min + int64(9+c.w.rng.IntN(50)), Increment: 1}
	c.request(o, func(r reply, _ moment) {
		switch r.Code {
		case lockquorum.CodeDone:
			c.takePart(o, r)
		case lockquorum.CodeNoSession:
			c.restart()
			return
		}
		c.work()
	})
}

// takePart takes a part that was granted. Checked is I10: nobody has another one with the same numbers.
func (c *client) takePart(o *lockquorum.Grant, r reply) {
	at := pastOf(r.seen)
	for _, other := range c.w.clients {
		for _, p := range other.parts {
			if p.Min <= o.Max && o.Min <= p.Max && (p.Owner != o.Owner || p.Log != o.Log) {
				if p.at.epoch != at.epoch || !c.w.lost(p.at, at) {
					c.w.fail("I10", "client %d is granted %d to %d, and client %d has %d to %d", c.index, o.Min, o.Max, other.index, p.Min, p.Max)
				}
				c.w.report.Doubled++
			}
		}
	}
	c.w.report.Parts++
	c.parts = append(c.parts, part{lockquorum.Part{Min: o.Min, Max: o.Max, Increment: 1, Owner: o.Owner, Log: o.Log}, o.Min, at})
}

// patient checks I10 of numbers that were given without asking.
func (l *ledger) patient(w *World, c *client, n int64) {
	w.report.Patients++
	if had, twice := l.patients[n]; twice {
		if !w.kind.back || had.client == c.index {
			w.fail("I10", "client %d gives patient number %d, which client %d gave", c.index, n, had.client)
		}
		w.report.Doubled++ // of a part that was granted twice, which was counted then
	}
	l.patients[n] = given{c.index, c.log}
}

// parts checks I10 of what voters hold.
func (l *ledger) parts(w *World, h *host, st *lockquorum.State) {
	if st.Index()%statesEvery != 0 {
		return
	}
	list := st.Range(patients)
	for i, p := range list {
		if p.Min > p.Max || i > 0 && list[i-1].Max >= p.Min {
			w.fail("I10", "machine %d has parts %d to %d and %d to %d", h.index, list[max(0, i-1)].Min, list[max(0, i-1)].Max, p.Min, p.Max)
		}
	}
}

// image puts a workstation back to what it was: its log branches, so that it begins another one, and gives back what is left of its parts. How far it came
// it has written down elsewhere too.
func (c *client) image() {
	if c.copied == nil {
		c.copied = append([]part{}, c.parts...)
		return
	}
	c.w.note("client %d is put back to an image", c.index)
	c.w.report.Images++
	now := c.parts
	c.parts, c.copied = c.copied, nil
	if c.w.cfg.Mutant == LogKept {
		return
	}
	c.logs++
	c.log = [32]byte{byte(c.index), byte(c.logs)}
	c.parts = append([]part{}, now...) // whose they are, the quorum knows
	for i := range c.parts {
		c.giveBack(&c.parts[i])
	}
}

// giveBack has the quorum note from where on a part's numbers were not given.
func (c *client) giveBack(p *part) {
	if p.Void {
		return
	}
	p.Void, p.From = true, max(p.Min, min(p.Max, c.mark)+1)
	from := p.From
	c.request(&lockquorum.Void{Range: patients, Min: p.Min, From: from}, func(r reply, _ moment) {
		if r.Code == lockquorum.CodeDone {
			c.w.report.Voids++
		}
	})
}
