package voter

import (
	"bytes"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// A snapshot as Raft sees it is a manifest: the pieces that it names are stored and sent beside it. To find their names takes time where much has changed,
// and needs nothing of the Node: so it says what was frozen, and whoever runs it has the pieces stored, and then says so by Compact.

// Freezing is a State of which a snapshot is to be stored.
type Freezing struct {
	*lockquorum.Frozen
	index uint64
	conf  *pb.ConfState
}

// Taken is a snapshot that another voter sent, with all its pieces.
type Taken struct {
	message *pb.Message
	state   *lockquorum.State
	frozen  *lockquorum.Frozen
}

// Assemble reads a snapshot of a message and the pieces that it names. Whoever does may do it beside the Node.
func Assemble(m *pb.Message, pieces lockquorum.Pieces) (*Taken, error) {
	st, err := Restore(m.GetSnapshot(), pieces)
	if err != nil {
		return nil, err
	}
	t := &Taken{m, st, st.Freeze()}
	if lockquorum.IsManifest(m.GetSnapshot().GetData()) && !slices.Equal(t.frozen.Manifest(), m.GetSnapshot().GetData()) {
		return nil, fmt.Errorf("take a snapshot: %w: it is written otherwise", wire.ErrMalformed)
	}
	return t, nil
}

// Restore reads the State of a snapshot, which older versions stored in one.
func Restore(s *pb.Snapshot, pieces lockquorum.Pieces) (*lockquorum.State, error) {
	if !lockquorum.IsManifest(s.GetData()) {
		return lockquorum.Restore(s.GetData())
	}
	if pieces == nil {
		return nil, lockquorum.ErrPiece
	}
	return lockquorum.Assemble(s.GetData(), pieces)
}

// Take takes a snapshot that another voter sent.
func (n *Node) Take(t *Taken) {
	defer n.contain()
	if n.err != nil || t.message.GetType() != pb.MsgSnap {
		return
	}
	n.taken = append(n.taken, t)
	_ = n.raft.Step(t.message)
}

// takenOf returns what was taken with a snapshot that Raft goes on from.
func (n *Node) takenOf(s *pb.Snapshot) *Taken {
	at := slices.IndexFunc(n.taken, func(t *Taken) bool {
		m := t.message.GetSnapshot()
		return m.GetMetadata().GetIndex() == s.GetMetadata().GetIndex() && bytes.Equal(m.GetData(), s.GetData())
	})
	return n.taken[at]
}

// kept are the last two snapshots: a message may still be of the one before.
type kept [2]struct {
	index  uint64
	pieces *lockquorum.Frozen
}

func (k *kept) add(index uint64, f *lockquorum.Frozen) {
	k[1] = k[0]
	k[0].index, k[0].pieces = index, f
}

// Pieces returns those of the snapshot that a message carries; false: it is not to be sent, since it is not the last one any more, or is from before
// the receiver was made a voter, and the one after that is being made.
func (n *Node) Pieces(m *pb.Message) (lockquorum.Pieces, bool) {
	conf := m.GetSnapshot().GetMetadata().GetConfState()
	if !slices.Contains(slices.Concat(conf.GetVoters(), conf.GetLearners(), conf.GetVotersOutgoing()), m.GetTo()) {
		return nil, false
	}
	for _, k := range n.kept {
		if k.pieces != nil && k.index == m.GetSnapshot().GetMetadata().GetIndex() {
			return k.pieces, true
		}
	}
	return nil, false
}

// Freeze says that a snapshot is to be made when it is time, and at once after a change of voters: one from before it could not be given to a new voter. Nil:
// none is.
func (n *Node) Freeze() *Freezing {
	if n.err != nil || n.freezing != nil || n.applied-n.snapshot < n.cfg.SnapshotEvery && !n.changed || n.applied == n.snapshot {
		return nil
	}
	n.freezing, n.changed = &Freezing{n.state.Freeze(), n.applied, n.conf}, false
	return n.freezing
}

// Compact says that the pieces of what was frozen are stored. The snapshot is to be stored then; entries up to forget are not needed any more once it
// is. Nil: another one has been taken meanwhile.
func (n *Node) Compact(f *Freezing) (snapshot *pb.Snapshot, forget uint64, err error) {
	if n.freezing != f || n.err != nil {
		return nil, 0, n.err
	}
	n.freezing = nil
	snapshot, err = n.log.CreateSnapshot(f.index, f.conf, f.Manifest())
	if err != nil {
		return nil, 0, fmt.Errorf("make a snapshot: %w", err)
	}
	n.snapshot = f.index
	n.kept.add(f.index, f.Frozen)
	first, err := n.log.FirstIndex()
	if err != nil {
		return nil, 0, err
	}
	if f.index > n.cfg.SnapshotEvery {
		forget = f.index - n.cfg.SnapshotEvery
	}
	if forget >= first { // else it was not read when this Node was opened
		err = n.log.Compact(forget)
	}
	return snapshot, forget, err
}
