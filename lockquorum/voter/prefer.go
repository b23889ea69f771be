package voter

// sight is what a leader sees of the preferred voter at a tick.
type sight struct {
	votes    bool   // it is another one, and votes
	heard    bool   // it has said something since the last tick
	behind   uint64 // entries of the log that it has not said that it has
	changing bool   // who votes is being changed
}

// preference decides when the lead goes to the preferred voter: once it has been heard, and had about everything, for long and without a break.
type preference struct {
	well  int // for how many ticks it has been well
	quiet int // for how many it has not been heard
}

// maxQuiet is for how many of the leader's words on end it may not answer; the way to it may be longer than that.
const maxQuiet = 3

// tick takes what is seen, and reports whether to hand over now. Quiet is for how many ticks it may not be heard.
func (p *preference) tick(s sight, after, quiet int) bool {
	if p.quiet++; s.heard {
		p.quiet = 0
	}
	if !s.votes || s.changing || p.quiet > quiet || s.behind > maxInflight {
		p.well = 0
		return false
	}
	if p.well++; p.well < after {
		return false
	}
	p.well = 0 // if it does not take the lead, it is asked again after as long
	return true
}

// Prefer says which voter is to lead when it is well; zero: none is.
func (n *Node) Prefer(id uint64) {
	if n.cfg.Prefer != id {
		n.cfg.Prefer, n.preference = id, preference{}
	}
}

// prefer hands over to the preferred voter once it has been well for long.
func (n *Node) prefer() {
	if !n.leads || !n.settled || n.cfg.Prefer == 0 || n.cfg.Prefer == n.cfg.ID {
		n.preference = preference{}
		return
	}
	last, _ := n.log.LastIndex()
	p, ok := n.raft.Status().Progress[n.cfg.Prefer]
	s := sight{votes: ok && !p.IsLearner, heard: n.heard, changing: n.changing || len(n.conf.GetVotersOutgoing()) > 0}
	if p.Match < last {
		s.behind = last - p.Match
	}
	n.heard = false
	if n.preference.tick(s, n.cfg.PreferAfter, maxQuiet*n.cfg.Heartbeat) {
		n.raft.TransferLeader(n.cfg.Prefer)
	}
}
