package quorum

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
	"chartmesh/trust"
)

// admin is an administrator's device: it changes who votes, has voters that were lost replaced, and founds the quorum anew where nobody leads any more.
type admin struct {
	w     *World
	index int
	epoch uint64 // the latest that it has heard of
	want  []lockquorum.Voter
	fresh []lockquorum.Voter // of these, those that were not told yet to join
	idle  time.Duration      // it does nothing until then
	stuck time.Duration      // since when it reaches nobody who leads; zero: it does
}

func newAdmin(w *World, i int) *admin {
	a := &admin{w: w, index: i, epoch: firstEpoch}
	a.again()
	return a
}

func (a *admin) again() { a.w.after(a.w.between(80*time.Millisecond, 200*time.Millisecond), a.step) }

// reaches reports whether a machine is there.
func (a *admin) reaches(machine int) bool {
	return !a.w.cut[[2]int{a.index, machine}] && !a.w.cut[[2]int{machine, a.index}]
}

// step does one thing.
func (a *admin) step() {
	defer a.again()
	w := a.w
	if w.now < a.idle && !w.calm {
		return
	}
	a.hear()
	leader := a.leader()
	if leader == nil {
		if a.stuck == 0 {
			a.stuck = w.now
		}
		if w.kind.back && a.mayReseed() {
			a.reseed()
		}
		return
	}
	a.stuck = 0
	for _, h := range w.hosts { // they hear who votes
		if a.reaches(h.index) && h.runs() && w.chance(5) {
			h.met = begin{leader.epoch(), leader.node.State().Voters()}
		}
	}
	if w.calm && a != w.admins[0] {
		return
	}
	if a.want == nil && !a.choose(leader) {
		return
	}
	if w.chance(3) && !w.calm { // it is interrupted, and somebody may want something else then
		w.note("administrator %d is interrupted", a.index)
		if a.idle = w.now + w.between(time.Second, 6*time.Second); w.chance(50) {
			a.want = nil
		}
		return
	}
	a.change(leader)
}

// hear learns of later epochs, and tells who is in an earlier one.
func (a *admin) hear() {
	for _, h := range a.w.hosts {
		if a.reaches(h.index) && h.runs() && a.w.chance(20) {
			switch e := h.epoch(); {
			case e > a.epoch:
				a.epoch, a.want = e, nil
			case e < a.epoch:
				h.node.Shown(lockquorum.Seen{Place: lockquorum.Place{Epoch: a.epoch}})
				h.pump()
			}
		}
	}
}

// leader returns a machine that leads the epoch that it knows.
func (a *admin) leader() *host {
	for _, h := range a.w.hosts {
		if h.runs() && a.reaches(h.index) && h.epoch() == a.epoch {
			if _, settled := h.node.Leader(); settled {
				return h
			}
		}
	}
	return nil
}

// choose decides on who is to vote, if something is to be changed.
func (a *admin) choose(leader *host) bool {
	w, now := a.w, leader.node.State().Voters()
	a.fresh = nil // of what was wanted before
	conf := leader.node.Conf()
	voting := slices.DeleteFunc(slices.Clone(now), func(v lockquorum.Voter) bool { return !slices.Contains(conf.GetVoters(), v.ID) })
	if len(voting) != 1 && len(voting) != 3 || len(conf.GetVotersOutgoing()) > 0 {
		return false // it leaves that by itself
	}
	var gone []lockquorum.Voter
	for _, v := range voting {
		if h := w.hostOf(v.Device); a.reaches(h.index) && w.now >= h.paused && (h.disk.durable.id != v.ID || h.disk.durable.lost) {
			gone = append(gone, v)
		}
	}
	for _, h := range w.hosts { // who does not vote any more, stops
		if id := h.disk.durable.id; id != 0 && h.runs() && a.reaches(h.index) && h.epoch() == a.epoch &&
			!slices.ContainsFunc(now, func(v lockquorum.Voter) bool { return v.ID == id }) && w.chance(10) {
			w.note("machine %d votes no more", h.index)
			h.replace(stored{})
		}
	}
	switch {
	case len(gone) > 0 && len(voting) == 3:
		want := slices.DeleteFunc(slices.Clone(voting), func(v lockquorum.Voter) bool { return v == gone[0] })
		a.add(want, 1)
		w.report.Replaced++
	case len(now) != len(voting) || len(conf.GetLearners()) > 0: // what somebody began
		a.want = voting
	case w.kind.changes && !w.calm && w.chance(4):
		switch {
		case len(voting) == 1:
			a.add(voting, 2)
		case w.chance(50):
			a.want = []lockquorum.Voter{voting[w.rng.IntN(3)]}
		default:
			a.add(slices.Delete(slices.Clone(voting), 0, 1), 1)
		}
	default:
		return false
	}
	if a.want == nil {
		return false
	}
	w.report.Changes++
	w.note("administrator %d wants %v", a.index, names(a.want))
	return true
}

// add wants these and some more, on machines that do not vote.
func (a *admin) add(keep []lockquorum.Voter, n int) {
	w := a.w
	want := slices.Clone(keep)
	a.fresh = nil
	for _, i := range w.rng.Perm(len(w.hosts)) {
		h := w.hosts[i]
		voting := slices.ContainsFunc(w.hosts, func(o *host) bool {
			return o.node != nil && slices.ContainsFunc(o.voters(), func(v lockquorum.Voter) bool { return v.Device == h.device && v.ID == h.disk.durable.id })
		})
		if len(a.fresh) == n || !a.reaches(i) || w.now < h.paused || voting && !h.disk.durable.lost ||
			slices.ContainsFunc(keep, func(v lockquorum.Voter) bool { return v.Device == h.device }) {
			continue
		}
		w.numbers++
		v := lockquorum.Voter{ID: w.numbers, Device: h.device}
		want, a.fresh = append(want, v), append(a.fresh, v)
	}
	if w.cfg.Mutant == RestAtTwo && len(want) == 3 && n == 2 {
		want, a.fresh = want[:2], a.fresh[:1]
	}
	if len(want) != 1 && len(want) != 3 && w.cfg.Mutant != RestAtTwo {
		a.fresh = nil
		return
	}
	slices.SortFunc(want, func(a, b lockquorum.Voter) int { return cmp.Compare(a.ID, b.ID) })
	a.want = want
}

func names(list []lockquorum.Voter) (out []string) {
	for _, v := range list {
		out = append(out, fmt.Sprintf("%d on %d", v.ID, v.Device[0]-1))
	}
	return out
}

// change goes on with a change of voters.
func (a *admin) change(leader *host) {
	w := a.w
	for _, v := range a.fresh {
		h := w.hostOf(v.Device)
		if !a.reaches(h.index) || w.now < h.paused {
			return
		}
		if d := h.disk.durable; d.id != 0 && !d.lost && h.epoch() >= a.epoch && (h.node == nil || h.node.State().Epoch() > 0) {
			a.want = nil // it votes, or did
			return
		}
		h.join(v.ID, begin{leader.epoch(), leader.voters()})
	}
	a.fresh = nil
	for _, v := range a.want {
		if d := w.hostOf(v.Device).disk.durable; d.id != v.ID || d.lost {
			a.want = nil // it is not there any more
			return
		}
	}
	step, err := leader.node.Change(a.want)
	switch {
	case err != nil:
	case step.Done:
		w.note("administrator %d: %v vote", a.index, names(a.want))
		a.want = nil
		w.report.Changed++
	case step.Voters != nil:
		_, _ = leader.node.Propose(leader.stamp(), &lockquorum.Command{Operation: &lockquorum.Voters{List: step.Voters}})
	}
	leader.pump()
}

// mayReseed reports whether nobody has led for long; sooner where voters were lost.
func (a *admin) mayReseed() bool {
	w := a.w
	for _, c := range w.clients { // they all say which numbers they have
		if !a.reaches(c.index) || w.now < c.paused {
			return false
		}
	}
	lost := slices.ContainsFunc(w.hosts, func(h *host) bool { return h.disk.durable.lost || h.disk.durable.id == 0 })
	d := w.now - a.stuck
	return d > 15*time.Second && (w.calm || w.chance(1)) || d > 6*time.Second && lost
}

// reseed founds the quorum anew with the latest State that there is: of all machines that are reached, whether their voters run or not.
func (a *admin) reseed() {
	w := a.w
	var best *lockquorum.State
	var far voter.Reach
	var machines []*host
	var states []*lockquorum.State
	for _, h := range w.hosts {
		if !a.reaches(h.index) || w.now < h.paused {
			continue
		}
		machines = append(machines, h)
		st, reach := h.latest()
		if reach == (voter.Reach{}) {
			continue
		}
		states = append(states, st)
		if w.cfg.Mutant == AppliedOnly && h.node != nil && h.node.State().Epoch() == reach.Epoch {
			st = h.node.State()
		}
		if best == nil || reach.Compare(far) > 0 {
			best, far = st, reach
		}
	}
	switch {
	case len(machines) < 3, best == nil && len(machines) < len(w.hosts):
		return
	case best == nil: // from nothing
		best = lockquorum.New(a.epoch)
	}
	w.ledger.nothingForgotten(w, best, states)
	w.rng.Shuffle(len(machines), func(i, j int) { machines[i], machines[j] = machines[j], machines[i] })
	n := 3
	if len(machines) == 5 && w.chance(40) {
		a.found(best, a.epoch, machines[3:4]) // somebody else, who does not know of it
		w.report.Twins++
	} else if w.chance(30) {
		n = 1
	}
	a.epoch = a.found(best, a.epoch, machines[:n])
	a.want, a.stuck = nil, 0
}

// found founds a quorum with a State, on some machines.
func (a *admin) found(from *lockquorum.State, after uint64, machines []*host) uint64 {
	w := a.w
	var entry trust.EntryID
	for i := range entry {
		entry[i] = byte(w.rng.Uint32())
	}
	after = max(after, from.Epoch())
	epoch, _ := lockquorum.EpochOf(entry, after)
	if w.cfg.Mutant == SameEpoch {
		epoch = after + 1
	}
	st, err := lockquorum.Restore(from.Snapshot())
	if err != nil {
		w.fail("I-sound", "a State does not read: %v", err)
		return after
	}
	if w.cfg.Mutant != PartsForgotten {
		for _, c := range w.clients {
			for _, p := range c.parts {
				st.Adopt(patients, p.Part)
			}
		}
	}
	var list []lockquorum.Voter
	for i, h := range machines {
		list = append(list, lockquorum.Voter{ID: uint64(i + 1), Device: h.device})
	}
	before := pastOf(st.Seen())
	st.Reseed(epoch, list)
	w.report.Reseeds++
	w.note("administrator %d founds epoch %d after %d at %d with %v", a.index, epoch, from.Epoch(), from.Index(), names(list))
	w.ledger.founded(st, before)
	for i, h := range machines {
		h.found(list[i].ID, st)
	}
	return epoch
}

// checkVoters checks what holds of who votes: three or one, but for the moment of a change; and a snapshot has each change.
func (w *World) checkVoters(h *host) {
	conf := h.node.Conf()
	if len(conf.GetVotersOutgoing()) == 0 && len(conf.GetVoters()) == 2 {
		w.fail("I-voters", "machine %d rests at two voters", h.index)
	}
	on := h.disk.durable.Snapshot.GetMetadata().GetConfState()
	if w.cfg.Mutant != NoSync && w.cfg.Mutant != SyncIgnored && h.node.State().Epoch() > 0 && h.freezing == nil && (!slices.Equal(on.GetVoters(), conf.GetVoters()) || !slices.Equal(on.GetVotersOutgoing(), conf.GetVotersOutgoing()) ||
		!slices.Equal(on.GetLearners(), conf.GetLearners())) {
		w.fail("I-voters", "machine %d goes by %v, and its snapshot says %v", h.index, conf, on)
	}
}
