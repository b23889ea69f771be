package voter

import (
	"cmp"
	"encoding/binary"
	"slices"

	"chartmesh/lockquorum"
)

// reads are what somebody asked to read, on their way: a majority confirms that this Node still leads, then it applies all that was agreed on before
// (Raft's ReadIndex, by messages and not by clocks). Nothing is stored. What is asked between two Batches is confirmed at once.
type reads struct {
	fresh     []reading
	asked     map[uint64][]reading // by the last one's number, which a majority confirms
	confirmed []confirmed
}

type reading struct {
	number uint64
	seen   []lockquorum.Seen
}

// confirmed are reads that are answered once all up to an index is applied.
type confirmed struct {
	index uint64
	list  []reading
}

// Read returns the number by which an Answer comes as soon as this Node's State has all that was answered before. With it comes, as with Propose,
// how far whoever asks has seen the quorum come. Errors are ErrNotLeader, ErrOver and ErrLost.
func (n *Node) Read(seen ...lockquorum.Seen) (uint64, error) {
	if err := n.takes(seen); err != nil {
		return 0, err
	}
	n.last++
	n.reads.fresh = append(n.reads.fresh, reading{n.last, seen})
	return n.last, nil
}

// confirm asks the others whether this Node still leads.
func (n *Node) confirm() {
	if len(n.reads.fresh) == 0 {
		return
	}
	if n.reads.asked == nil {
		n.reads.asked = map[uint64][]reading{}
	}
	n.reads.asked[n.last] = n.reads.fresh
	n.reads.fresh = nil
	n.raft.ReadIndex(binary.BigEndian.AppendUint64(nil, n.last))
}

// read takes what was confirmed, and answers what is applied.
func (n *Node) read(b Batch, out *Outcome) error {
	for _, rs := range b.ready.ReadStates {
		number := binary.BigEndian.Uint64(rs.RequestCtx)
		n.reads.confirmed = append(n.reads.confirmed, confirmed{rs.Index, n.reads.asked[number]})
		delete(n.reads.asked, number)
	}
	for len(n.reads.confirmed) > 0 && n.reads.confirmed[0].index <= n.applied {
		for _, r := range n.reads.confirmed[0].list {
			if err := n.against(r.seen, n.reads.confirmed[0].index); err != nil {
				n.stop(err)
				return err
			}
			out.Answers = append(out.Answers, Answer{Proposal: r.number, Index: n.state.Index()})
		}
		n.reads.confirmed = n.reads.confirmed[1:]
	}
	return nil
}

// unread answers all that is on its way that another has to be asked.
func (n *Node) unread(out *Outcome) {
	list := n.reads.fresh
	for _, more := range n.reads.asked {
		list = append(list, more...)
	}
	for _, c := range n.reads.confirmed {
		list = append(list, c.list...)
	}
	n.reads = reads{}
	slices.SortFunc(list, func(a, b reading) int { return cmp.Compare(a.number, b.number) })
	for _, r := range list {
		out.Answers = append(out.Answers, Answer{Proposal: r.number, Err: ErrNotLeader})
	}
}
