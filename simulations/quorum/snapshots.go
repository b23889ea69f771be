package quorum

import (
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum/voter"
)

// freezes has the pieces of a snapshot stored, which takes a while now and then.
func (h *host) freezes(f *voter.Freezing) bool {
	if h.w.chance(50) {
		return h.compact(f)
	}
	node := h.node
	h.freezing = f
	h.w.after(h.w.between(time.Millisecond, time.Second), func() {
		if h.node == node && h.compact(f) {
			h.pump()
		}
	})
	return true
}

// compact has a snapshot whose pieces are stored take the place of the one before.
func (h *host) compact(f *voter.Freezing) bool {
	w := h.w
	if h.freezing == f {
		h.freezing = nil
	}
	snapshot, forget, err := h.node.Compact(f)
	switch {
	case err != nil:
		w.fail("I-sound", "a snapshot is not made: %v", err)
		return false
	case snapshot == nil: // another one has come
	case w.cfg.Mutant == NoSnapshot && !proto.Equal(snapshot.GetMetadata().GetConfState(), h.disk.now.Snapshot.GetMetadata().GetConfState()):
	default:
		w.report.Snapshots++
		d := &h.disk.now
		d.Snapshot, d.Pieces = snapshot, f
		d.Entries = slices.DeleteFunc(slices.Clone(d.Entries), func(e *pb.Entry) bool { return e.GetIndex() <= forget })
		if err := h.sync(true); err != nil {
			h.crash(err.Error(), true)
			return false
		}
	}
	if next := h.node.Freeze(); next != nil {
		return h.freezes(next)
	}
	return true
}
