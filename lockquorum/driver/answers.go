package driver

import (
	"errors"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// done answers what came of a Batch.
func (d *Driver) done(out voter.Outcome) {
	seen := d.node.State().Seen()
	for _, a := range out.Answers {
		if a.Proposal == d.ticking {
			d.ticking = 0
		}
		c := d.waiting[a.Proposal]
		if c == nil {
			continue
		}
		delete(d.waiting, a.Proposal)
		switch {
		case errors.Is(a.Err, lockquorum.ErrNotLeader): // nothing was done
			c.answer <- reply{err: &lockquorum.NotLeaderError{Leader: d.leader()}}
		case a.Err != nil:
			c.answer <- reply{err: a.Err}
		case c.query != nil:
			c.answer <- reply{view: d.node.State().View(*c.query, d.node.Clock(d.cfg.Now())), seen: seen}
		case c.wait && a.Result.Code == lockquorum.CodeQueued:
			at := place{c.command.Session, c.command.Seq}
			d.queued[at] = append(d.queued[at], c)
		default:
			c.answer <- reply{answer: d.answer(c, a.Result, a.Index), seen: seen}
		}
	}
	for _, e := range out.Events {
		switch e.Happening {
		case lockquorum.Granted:
			l, _ := d.node.State().Lease(e.Lock)
			for _, c := range d.queued[place{e.Session, e.Seq}] {
				c.answer <- reply{answer: d.answer(c, lockquorum.Result{Code: lockquorum.CodeDone, Token: e.Token, Expiry: l.Expiry}, e.Token.Index), seen: seen}
			}
			delete(d.queued, place{e.Session, e.Seq})
		case lockquorum.Left:
			for _, c := range d.queued[place{e.Session, e.Seq}] {
				c.answer <- reply{answer: d.answer(c, lockquorum.Result{Code: lockquorum.CodeUnknown}, d.node.State().Index()), seen: seen}
			}
			delete(d.queued, place{e.Session, e.Seq})
		case lockquorum.Ended:
			for at, list := range d.queued {
				if at.session != e.Session {
					continue
				}
				for _, c := range list {
					c.answer <- reply{answer: d.answer(c, lockquorum.Result{Code: lockquorum.CodeNoSession}, d.node.State().Index()), seen: seen}
				}
				delete(d.queued, at)
			}
		}
	}
	if _, settled := d.node.Leader(); out.Led && !settled {
		d.ticking = 0
		for at, list := range d.queued { // it waits on, and another one knows when its turn has come
			for _, c := range list {
				c.answer <- reply{err: lockquorum.ErrOutcomeUnknown}
			}
			delete(d.queued, at)
		}
	}
}

func (d *Driver) answer(c *call, r lockquorum.Result, index uint64) lockquorum.Answer {
	st := d.node.State()
	a := lockquorum.Answer{Result: r, Place: lockquorum.Place{Epoch: st.Epoch(), Index: index}}
	switch o := c.command.Operation.(type) {
	case *lockquorum.Acquire:
		if r.Code == lockquorum.CodeDone {
			l, _ := st.Lease(o.Lock)
			a.Documents = l.Documents
		}
	case *lockquorum.Renew:
		if r.Code == lockquorum.CodeDone {
			l, _ := st.Lease(o.Lock)
			a.Documents = l.Documents
		}
	}
	return a
}
