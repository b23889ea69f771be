package simulations

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// disk is what of a device or of the anchor survives a crash, how the next one comes, and what was claimed on the strength of it.
type disk struct {
	w     *World
	name  string
	twin  *storage.Twin
	part  bool          // what is held stands in a part of it
	armed *fault        // what shall happen in a commit to come
	after *storage.Twin // set by a crash within a commit: what was durable
	busy  string        // what is under way, for the trace

	checked map[trust.ScopeID]chunk.Vector // found durable
	told    map[trust.ScopeID]chunk.Vector // said to some peer
}

func newDisk(w *World, name string, twin *storage.Twin) disk {
	return disk{w: w, name: name, twin: twin, checked: map[trust.ScopeID]chunk.Vector{}, told: map[trust.ScopeID]chunk.Vector{}}
}

// fault is what shall happen in a commit to come.
type fault struct {
	stage   storage.Stage
	commits int  // first let so many pass
	crash   bool // else the disk fails
}

var (
	errPower = errors.New("simulated power cut")
	errDisk  = errors.New("simulated disk failure")
)

// holder is what claims to hold something on a disk.
type holder interface {
	State() *trust.State
	Vector(trust.ScopeID) chunk.Vector
	Forks(trust.ScopeID) map[chunk.LogID][32]byte
	Former(trust.DeviceID) bool
	Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error)
}

// anchorPart is the number of the part in which the anchor holds the practice.
const anchorPart = 1

// view reads what is durable.
func (k *disk) view(do func(storage.Reader) error) error {
	if k.part {
		return storage.Part(k.twin, anchorPart).View(do)
	}
	return k.twin.View(do)
}

// onCommit is called at every stage of every commit, by the hook of whose disk it is.
func (k *disk) onCommit(stage storage.Stage, h holder) error {
	if stage == storage.Applied && h != nil {
		k.checkDurable(h, "in a commit")
	}
	f := k.armed
	if f == nil || f.stage != stage {
		return nil
	}
	if f.commits > 0 {
		f.commits--
		return nil
	}
	k.armed = nil
	what := "disk failure"
	if f.crash {
		what = "power cut"
	}
	k.w.report.Stages[fmt.Sprintf("%s at %v", what, stage)]++
	k.w.note("%s: %s at stage %v while it would %s", k.name, what, stage, k.busy)
	switch {
	case f.crash:
		k.after = k.twin.Crash()
		return errPower
	case stage != storage.Begin: // the store has failed and must be opened again
		k.after = k.twin
	}
	return errDisk
}

// crashed reports whether a crash has just come in a commit.
func (k *disk) crashed() bool {
	if k.after != nil && k.after == k.twin {
		k.after = k.twin.Crash()
	}
	return k.after != nil
}

// fall leaves what is durable.
func (k *disk) fall() {
	k.w.report.Crashes++
	if k.after == nil {
		k.after = k.twin.Crash()
	}
	k.twin, k.after, k.armed = k.after, nil, nil
}

// tell notes what is claimed now.
func (k *disk) tell(h holder) {
	if st := h.State(); st != nil {
		for _, s := range st.Scopes() {
			k.told[s.ID] = h.Vector(s.ID)
		}
	}
}
