package quorum

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/remote"
	"chartmesh/trust"
)

// heard is what one device has of the quorum.
type heard struct {
	device  trust.DeviceID
	err     error              // why nothing is known of it
	whole   bool               // its voter's log
	state   *lockquorum.State  // that its voter's log amounts to; nil: it has none
	reach   driver.Reach       // of that log
	unfit   error              // why the log amounts to nothing
	parts   []lockquorum.Owned // of ranges, that it says it has
	removed bool               // it voted, and does not belong any more: nobody can reach it
}

// gathered is what all devices have.
type gathered struct {
	list []heard // ascending by device
	best int     // of the list: whose log reaches farthest; negative: nobody has one
}

const (
	maxAsked = 8                // devices at a time
	hearing  = 90 * time.Second // one device
)

// gather reads what each device has that may have a voter's log or parts of ranges: those that write, and those that vote or did. Devices that are gone for good are not asked.
func (s *Service) gather(ctx context.Context, gone []trust.DeviceID, hold bool) (gathered, error) {
	var all gathered
	todo := s.mayHave()
	for len(todo) > 0 { // a State may name voters that were not known
		round := make([]heard, len(todo))
		var work sync.WaitGroup
		free := make(chan struct{}, maxAsked)
		for i, d := range todo {
			work.Go(func() {
				free <- struct{}{}
				defer func() { <-free }()
				round[i] = s.hear(ctx, d, slices.Contains(gone, d), hold)
			})
		}
		work.Wait()
		if err := ctx.Err(); err != nil {
			return all, context.Cause(ctx)
		}
		all.list, todo = append(all.list, round...), nil
		for _, h := range round {
			if h.state == nil {
				continue
			}
			for _, v := range h.state.Voters() {
				if !slices.ContainsFunc(all.list, func(h heard) bool { return h.device == v.Device }) && !slices.Contains(todo, v.Device) {
					todo = append(todo, v.Device)
				}
			}
		}
	}
	slices.SortFunc(all.list, func(a, b heard) int { return bytes.Compare(a.device[:], b.device[:]) })
	all.best = -1
	stands := epochs(lockquorum.Foundings(s.cfg.Members()))
	for i, h := range all.list {
		if h.state != nil && slices.Contains(stands, h.reach.Epoch) && (all.best < 0 || h.reach.Compare(all.list[all.best].reach) > 0) {
			all.best = i
		}
	}
	return all, nil
}

func epochs(list []lockquorum.Founding) (all []uint64) {
	for _, f := range list {
		all = append(all, f.Epoch)
	}
	return all
}

// mayHave returns the devices that may have a voter's log or parts of ranges.
func (s *Service) mayHave() (list []trust.DeviceID) {
	st := s.cfg.Members()
	for _, m := range st.Members() {
		if m.Role.MayWrite() {
			list = append(list, m.Device)
		}
	}
	add := func(voters []lockquorum.Voter) {
		for _, v := range voters {
			if !slices.Contains(list, v.Device) {
				list = append(list, v.Device)
			}
		}
	}
	add(s.voter.Voting())
	for _, f := range lockquorum.Foundings(st) {
		add(f.Voters)
	}
	return list
}

// errGone says that a device was said to be gone for good, and is there.
var errGone = errors.New("it is said to be gone for good, and can be reached")

// hear asks one device.
func (s *Service) hear(ctx context.Context, d trust.DeviceID, gone, hold bool) heard {
	h := heard{device: d}
	st := s.cfg.Members()
	if _, belongs := st.Member(d); !belongs && !st.IsAnchor(d) {
		h.removed, h.err = true, errors.New("it was removed from the practice")
		return h
	}
	ctx, cancel := context.WithTimeout(ctx, hearing)
	defer cancel()
	var t remote.Testimony
	switch {
	case d == s.self:
		t, h.err = s.voter.Testify(ctx, d, hold)
	case !s.reaches(d):
		h.err = lockquorum.ErrUnreachable
	case gone:
		h.err = errGone
	default:
		t, h.err = s.testimony(ctx, d, hold)
	}
	if h.err != nil {
		return h
	}
	for _, p := range t.Parts {
		if p.Owner == d { // nobody speaks for others
			h.parts = append(h.parts, p)
		}
	}
	if len(t.Log) == 0 {
		return h
	}
	kept, err := driver.ParseKept(t.Log)
	if err == nil {
		h.whole = kept.Whole
		h.state, h.reach, err = kept.Latest()
	}
	if h.unfit = err; err != nil || h.reach == (driver.Reach{}) {
		h.state = nil
	}
	return h
}

// testimony asks another device, again if it is just about to follow another quorum.
func (s *Service) testimony(ctx context.Context, d trust.DeviceID, hold bool) (t remote.Testimony, err error) {
	for range 5 {
		if t, err = s.voter.Remote(d).Testimony(ctx, hold); !errors.Is(err, lockquorum.ErrBusy) {
			return t, err
		}
		select {
		case <-ctx.Done():
			return t, context.Cause(ctx)
		case <-time.After(busyAgain):
		}
	}
	return t, err
}

const busyAgain = 2 * time.Second

// missing returns the devices of which nothing is known and that nobody said to be gone for good.
func (g gathered) missing(gone []trust.DeviceID) (list []trust.DeviceID) {
	for _, h := range g.list {
		if h.err != nil && !h.removed && !slices.Contains(gone, h.device) {
			list = append(list, h.device)
		}
	}
	return list
}

// unknownEpoch reports whether some log is of a quorum that the membership log does not found, as far as it is known here.
func (g gathered) unknownEpoch(st *trust.State) bool {
	var all []uint64
	for _, r := range lockquorum.AllFoundings(st) {
		all = append(all, r.Epoch)
	}
	return slices.ContainsFunc(g.list, func(h heard) bool { return h.state != nil && !slices.Contains(all, h.reach.Epoch) })
}

// begin returns the State that a quorum is founded anew with: what the log amounts to that reaches farthest, and every part of a range that is known to somebody. whole is false
// if a part was known otherwise. The State is another one each time.
func (g gathered) begin() (st *lockquorum.State, whole bool, err error) {
	st, whole = lockquorum.New(0), true
	if g.best >= 0 {
		if st, err = lockquorum.Restore(g.list[g.best].state.Snapshot()); err != nil {
			return nil, false, fmt.Errorf("read the log that reaches farthest: %w", err)
		}
	}
	for _, h := range g.list {
		if h.state == nil {
			continue
		}
		for _, id := range h.state.Ranges() {
			for _, p := range h.state.Range(id) {
				whole = st.Adopt(id, p) && whole
			}
		}
	}
	for _, h := range g.list {
		for _, p := range h.parts {
			whole = st.Adopt(p.Range, p.Part) && whole
		}
	}
	return st, whole, nil
}
