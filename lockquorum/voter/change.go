package voter

import (
	"cmp"
	"errors"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
)

// Step is what a change of voters needs next.
type Step struct {
	Done bool
	// Voters is whom the State is to name; nil: nothing is to be proposed.
	Voters []lockquorum.Voter
	// Waits says what is waited for.
	Waits string
}

// Change does what can be done at once to have these vote and nobody else, and says what is next. It goes in steps: the State names all who
// vote and are to; those who are to, learn what there is; all change at once by joint consensus, so that it never rests at two; the State names
// those who vote. Whoever leads goes on where another one was interrupted, with other voters too. want is ascending by number. Errors are ErrNotLeader.
func (n *Node) Change(want []lockquorum.Voter) (Step, error) {
	if !n.leads || !n.settled {
		return Step{}, ErrNotLeader
	}
	now := n.state.Voters()
	all := slices.Clone(now)
	var ids []uint64
	for _, v := range want {
		if ids = append(ids, v.ID); !slices.Contains(now, v) {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b lockquorum.Voter) int { return cmp.Compare(a.ID, b.ID) })
	voting, learners := n.conf.GetVoters(), n.conf.GetLearners()
	voting = slices.Sorted(slices.Values(voting))
	joint := len(n.conf.GetVotersOutgoing()) > 0
	switch {
	case slices.Equal(voting, ids) && !joint && len(learners) == 0:
		if slices.Equal(now, want) {
			return Step{Done: true}, nil
		}
		return Step{Voters: slices.Clone(want)}, nil
	case len(all) > len(now):
		return Step{Voters: all}, nil
	case joint:
		return Step{Waits: "the voters of before have not all agreed to the change"}, nil
	}
	var changes []*pb.ConfChangeSingle
	change := func(how pb.ConfChangeType, id uint64) {
		changes = append(changes, &pb.ConfChangeSingle{Type: how.Enum(), NodeId: proto.Uint64(id)})
	}
	for _, id := range ids {
		if !slices.Contains(voting, id) && !slices.Contains(learners, id) {
			change(pb.ConfChangeAddLearnerNode, id)
		}
	}
	if len(changes) == 0 {
		for _, id := range ids {
			if !slices.Contains(voting, id) {
				if !n.CaughtUp(id) {
					return Step{Waits: "who is to vote has not got everything yet, or is not reached"}, nil
				}
				change(pb.ConfChangeAddNode, id)
			}
		}
		// Those of before may not know any more who they were, once they do not vote: nobody would lead if those who are to vote could not find each other.
		if there := slices.DeleteFunc(slices.Clone(ids), func(id uint64) bool { return id != n.cfg.ID && !n.CaughtUp(id) }); 2*len(there) <= len(ids) {
			return Step{Waits: "most of those who are to vote have not got everything yet, or are not reached"}, nil
		}
		if !slices.Contains(ids, n.cfg.ID) { // it gives up the lead first, to one that stays
			for _, id := range ids {
				if slices.Contains(voting, id) && n.CaughtUp(id) {
					n.Transfer(id)
					return Step{Waits: "another voter has not taken the lead yet"}, nil
				}
			}
		}
		for _, id := range slices.Concat(voting, learners) {
			if !slices.Contains(ids, id) {
				change(pb.ConfChangeRemoveNode, id)
			}
		}
	}
	v2 := &pb.ConfChangeV2{Transition: pb.ConfChangeTransitionJointImplicit.Enum(), Changes: changes}
	if err := n.ProposeVoters(v2); err != nil && !errors.Is(err, ErrBusy) {
		return Step{}, err
	}
	return Step{Waits: "the change of voters is not agreed on"}, nil
}

// ProposeVoters changes who votes and who learns, by joint consensus where it takes that. One change at a time: else it is ErrBusy.
func (n *Node) ProposeVoters(change *pb.ConfChangeV2) error {
	if !n.leads || !n.settled {
		return ErrNotLeader
	}
	if n.changing || len(n.conf.GetVotersOutgoing()) > 0 {
		return ErrBusy
	}
	if err := n.raft.ProposeConfChange(change); err != nil {
		return ErrBusy
	}
	n.changing = true
	return nil
}

// leaving reports whether this Node leads and is on the way to vote no more. What it stored after the entry by which it leaves would make its log longer than that
// of those who stay: it would not vote for them, who may not know yet that they can do without, and nobody would lead again.
func (n *Node) leaving() bool {
	return len(n.conf.GetVotersOutgoing()) > 0 && !slices.Contains(n.conf.GetVoters(), n.cfg.ID)
}

// Transfer has another voter take the lead.
func (n *Node) Transfer(to uint64) { n.raft.TransferLeader(to) }

// Conf returns who votes and who learns, as Raft has it.
func (n *Node) Conf() *pb.ConfState { return proto.Clone(n.conf).(*pb.ConfState) }

// CaughtUp reports whether a voter or learner is heard and has about all that this leader has.
func (n *Node) CaughtUp(id uint64) bool {
	last, _ := n.log.LastIndex()
	p, ok := n.raft.Status().Progress[id]
	return ok && p.RecentActive && p.Match+caughtUp >= last
}

// Has reports whether a voter has stored what there is up to an index.
func (n *Node) Has(id, index uint64) bool {
	p, ok := n.raft.Status().Progress[id]
	return ok && p.Match >= index
}

// caughtUp is how far behind one may be that is to vote.
const caughtUp = 64

// Alone reports whether this voter is the only one.
func (n *Node) Alone() bool {
	return len(n.conf.GetVoters()) == 1 && n.conf.GetVoters()[0] == n.cfg.ID && len(n.conf.GetVotersOutgoing()) == 0
}

// Resting reports whether this voter is the only one and leads, and nobody is about to vote.
func (n *Node) Resting() bool {
	return n.Alone() && n.leads && n.settled && len(n.conf.GetLearners()) == 0 && !n.changing
}
