package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// What follows from what devices said: how much of what is held here each of them holds and reads, and where a change is.

// extent is how much of a log, as it stands here, a device holds: the main history up to a counter, and whether that and all
// that stands beside it.
type extent struct {
	main  uint64
	whole bool
}

// holds reports whether a place of the log is within the extent.
func (e extent) holds(counter uint64) bool { return e.whole || counter > 0 && counter <= e.main }

// forks are the histories of the logs that have several: how far they are the same, and their names.
type forks map[logs.Name]fork

type fork struct {
	common uint64
	tree   [32]byte
}

// forksNow reads them.
func (r *Replica) forksNow() forks {
	out := forks{}
	for _, s := range r.State().Scopes() {
		for log, tree := range r.logs.Forks(s.ID) {
			f, end := r.logs.Fork(s.ID, log)
			common := end.Counter
			for _, counter := range f.All() {
				common = min(common, counter-1)
			}
			out[logs.Name{Scope: s.ID, Log: log}] = fork{common, tree}
		}
	}
	return out
}

// extentsLocked returns how much of a log a device stores and reads.
func (r *Replica) extentsLocked(s *statement, at logs.Name, among forks) (stored, read extent) {
	if s == nil || s.logs[at.Log] == nil {
		return extent{}, extent{}
	}
	a := s.logs[at.Log]
	f, several := among[at]
	if several {
		same := a.tree == f.tree
		return extent{min(a.at.Counter, f.common), same}, extent{min(a.readable, f.common), same && a.applied}
	}
	stored, read = extent{main: a.at.Counter}, extent{main: a.readable}
	if !r.isOwnLocked(at.Log) {
		// It goes on where what is held here ends, or its author has written the log twice, which shows when the rest is here. Of
		// its own log this device knows better.
		stored.main = max(stored.main, a.said.Counter)
	}
	return stored, read
}

// amount counts the chunks of a log, and those of them within an extent.
func (r *Replica) amountLocked(at logs.Name, e extent) (all, within uint64) {
	main, beside := r.mu.Vectors[at.Scope][at.Log].Counter, uint64(r.mu.Forks[at.Scope][at.Log].Len())
	if e.whole {
		return main + beside, main + beside
	}
	return main + beside, min(main, e.main)
}

// Proof is what another device has confirmed to hold of what this one holds, of the scopes that both belong to. A chunk that a
// checkpoint stands for counts like others.
type Proof struct {
	Chunks           uint64 // held here
	Stored, Readable uint64 // of them
	StoredAsOf       time.Time
	ReadableAsOf     time.Time
	Bytes            uint64 // of those not stored there, about
	Lost             Lost
}

// Proofs returns what each other device and anchor has confirmed.
func (r *Replica) Proofs() (map[trust.DeviceID]Proof, error) {
	r.catchUp()
	st, among := r.State(), r.forksNow()
	out := map[trust.DeviceID]Proof{}
	var sample []logs.Ref
	r.mu.Lock()
	for _, device := range r.othersOf(st) {
		var p Proof
		for scope, vector := range r.mu.Vectors {
			if !st.MayHold(device, scope) {
				continue
			}
			s := r.mu.acked[device][scope]
			if s != nil {
				p.StoredAsOf, p.ReadableAsOf = earlier(p.StoredAsOf, s.stored), earlier(p.ReadableAsOf, s.readable)
				if s.lost.Open() && !p.Lost.Open() || s.lost.Open() == p.Lost.Open() && s.lost.Seen.After(p.Lost.Seen) {
					p.Lost = s.lost
				}
			}
			for log, end := range vector {
				at := logs.Name{Scope: scope, Log: log}
				stored, read := r.extentsLocked(s, at, among)
				all, has := r.amountLocked(at, stored)
				_, reads := r.amountLocked(at, read)
				p.Chunks, p.Stored, p.Readable = p.Chunks+all, p.Stored+has, p.Readable+min(reads, has)
				if has < all && len(sample) < sampled {
					sample = append(sample, logs.Ref{Scope: scope, Log: log, Counter: end.Counter})
				}
			}
		}
		out[device] = p
	}
	r.mu.Unlock()
	mean, err := r.meanSize(sample)
	if err != nil {
		return nil, err
	}
	for device, p := range out {
		p.Bytes = (p.Chunks - p.Stored) * mean
		out[device] = p
	}
	return out, nil
}

// earlier returns the earlier of two times that are not zero.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// othersOf returns the other members and the anchors: what a device held that was removed since is nobody's any more.
func (r *Replica) othersOf(st *trust.State) (list []trust.DeviceID) {
	for _, m := range st.Members() {
		if m.Device != r.Device() {
			list = append(list, m.Device)
		}
	}
	for _, m := range st.Anchors() {
		list = append(list, m.Device)
	}
	return list
}

const (
	sampled   = 8
	usualSize = 600 // bytes of a chunk, if none is at hand
)

// meanSize estimates the size of chunks by some of them.
func (r *Replica) meanSize(sample []logs.Ref) (uint64, error) {
	n, sum := uint64(0), uint64(0)
	err := r.store.View(func(v storage.Reader) error {
		for _, at := range sample {
			b, err := v.Get(storage.Chunk.Key(at.Scope, at.Log, at.Counter))
			if err == nil {
				n, sum = n+1, sum+uint64(len(b))
			}
			if err := storage.IgnoreNotFound(err); err != nil && !errors.Is(err, storage.ErrDamaged) {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return 0, fmt.Errorf("read the size of chunks: %w", err)
	}
	if n == 0 {
		return usualSize, nil
	}
	return sum / n, nil
}

// ownLocked counts the chunks of an own log, those of them that no other device and no anchor has confirmed, and those that
// only anchors have.
func (r *Replica) ownLocked(st *trust.State, others []trust.DeviceID, at logs.Name, among forks) (own, alone, anchored uint64) {
	var devices, any uint64
	for _, device := range others {
		if !st.MayHold(device, at.Scope) {
			continue
		}
		stored, _ := r.extentsLocked(r.mu.acked[device][at.Scope], at, among)
		_, has := r.amountLocked(at, stored)
		if any = max(any, has); !st.IsAnchor(device) {
			devices = max(devices, has)
		}
	}
	own, _ = r.amountLocked(at, extent{})
	return own, own - any, any - devices
}

// HeldBy reports whether one of some devices has confirmed to hold a chunk of this device's.
func (r *Replica) HeldBy(devices []trust.DeviceID, scope trust.ScopeID, log chunk.LogID, counter uint64) bool {
	r.catchUp()
	st, among := r.State(), r.forksNow()
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.ContainsFunc(devices, func(d trust.DeviceID) bool {
		stored, _ := r.extentsLocked(r.mu.acked[d][scope], logs.Name{Scope: scope, Log: log}, among)
		return st.MayHold(d, scope) && stored.holds(counter)
	})
}

// holders returns what tells by the place of a chunk who holds it beside this device.
func (r *Replica) holders() func(logs.Ref) api.Stored {
	r.catchUp()
	st, among := r.State(), r.forksNow()
	others := r.othersOf(st)
	names := map[trust.DeviceID]string{}
	for _, device := range others {
		names[device], _ = r.keys.Names(st, device)
	}
	return func(at logs.Ref) api.Stored {
		s := api.Stored{Where: api.StoredHere, StoredAt: []string{}, ReadableAt: []string{}}
		name := logs.Name{Scope: at.Scope, Log: at.Log}
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, device := range others {
			stored, read := r.extentsLocked(r.mu.acked[device][at.Scope], name, among)
			if !st.MayHold(device, at.Scope) || !stored.holds(at.Counter) {
				continue
			}
			s.StoredAt = append(s.StoredAt, names[device])
			if read.holds(at.Counter) {
				s.ReadableAt = append(s.ReadableAt, names[device])
			}
			if !st.IsAnchor(device) {
				s.Where = api.StoredDevices
				s.Devices++
			} else if s.Where == api.StoredHere {
				s.Where = api.StoredAnchor
			}
		}
		return s
	}
}

// Stored says of every change of a resource where it is stored, in the order of History.
func (r *Replica) Stored(_ context.Context, at api.Ref) (api.StoredResource, error) {
	ref := fhirRef{at.Type, at.ID}
	places, err := r.touches(ref)
	if err != nil {
		return api.StoredResource{}, err
	}
	holders := r.holders()
	out := api.StoredResource{Ref: ref.key(), Where: api.StoredDevices, Revisions: []api.StoredRevision{}}
	for _, p := range places {
		for i, hash := range p.changes {
			rev := api.StoredRevision{Version: crdt.Version([]crdt.ChangeHash{hash}), Stored: holders(p.chunks[i])}
			if rev.Where == api.StoredHere || rev.Where == api.StoredAnchor && out.Where == api.StoredDevices {
				out.Where = rev.Where
			}
			out.Revisions = append(out.Revisions, rev)
		}
	}
	return out, nil
}
