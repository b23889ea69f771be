package voter

import (
	"cmp"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
)

// Reach is how far a voter's log reaches. Of two of an epoch the one that reaches farther has all that was agreed on that the other has.
type Reach struct{ Epoch, Term, Index uint64 }

// Compare is negative if r does not reach as far.
func (r Reach) Compare(o Reach) int {
	return cmp.Or(cmp.Compare(r.Epoch, o.Epoch), cmp.Compare(r.Term, o.Term), cmp.Compare(r.Index, o.Index))
}

// Latest returns the State that a voter's whole log amounts to, for a quorum that is founded anew: also of what it stored and does not know to be agreed
// on, since who relied on it for that may be lost, and have answered. What was not agreed on may be carried out thereby, as where its outcome
// is not known. A zero Reach: there is no State.
func Latest(s *Stored) (*lockquorum.State, Reach, error) {
	if err := s.whole(); err != nil {
		return nil, Reach{}, err
	}
	if s.Snapshot == nil {
		return lockquorum.New(0), Reach{}, nil
	}
	st, err := Restore(s.Snapshot, s.Pieces)
	if err != nil {
		return nil, Reach{}, err
	}
	reach := Reach{st.Epoch(), s.Snapshot.GetMetadata().GetTerm(), s.Snapshot.GetMetadata().GetIndex()}
	for _, e := range s.Entries {
		if e.GetIndex() <= s.Snapshot.GetMetadata().GetIndex() {
			continue
		}
		reach.Term, reach.Index = e.GetTerm(), e.GetIndex()
		if e.GetType() != pb.EntryNormal || len(e.GetData()) == 0 {
			continue
		}
		_, _, _, raw, err := parseEnvelope(e.GetData())
		if err != nil {
			return nil, Reach{}, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		c, err := lockquorum.Parse(raw)
		if err != nil {
			return nil, Reach{}, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		st.Apply(e.GetIndex(), c, raw)
	}
	return st, reach, nil
}
