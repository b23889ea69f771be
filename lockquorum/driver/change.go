package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
)

// ErrVoters says that a quorum has one voter or three: two go on only while both are there, and one more than that is no help.
var ErrVoters = errors.New("a quorum has one voter or three")

// changeEvery is how often it is looked how far a change has come.
const changeEvery = 50 * time.Millisecond

// Change has these vote and nobody else. It goes in steps: the State names all who vote and are to, those who are to learn what there is, all change at once
// by joint consensus, and the State names those who vote. Where it is interrupted, by ctx too, those who voted do so still, or the new ones; asked for again it
// goes on. Errors are ErrVoters, a *lockquorum.NotLeaderError, those of Do, and ctx's.
func (d *Driver) Change(ctx context.Context, want []lockquorum.Voter) error {
	if len(want) != 1 && len(want) != 3 {
		return ErrVoters
	}
	slices.SortFunc(want, func(a, b lockquorum.Voter) int { return int(min(1, max(-1, int64(a.ID)-int64(b.ID)))) })
	for {
		var next step
		if err := d.within(ctx, func() { next = d.nextStep(want) }); err != nil {
			return err
		}
		switch {
		case next.err != nil:
			return next.err
		case next.done:
			return d.told(ctx, want)
		case next.list != nil:
			if _, err := d.ask(ctx, &call{command: lockquorum.Command{Operation: &lockquorum.Voters{List: next.list}}}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", next.waits, context.Cause(ctx))
		case <-d.ended:
			return d.stopped()
		case <-time.After(changeEvery):
		}
	}
}

// told waits until all who vote know it. One that has stored a command from after the change has been told that the change was agreed on; one
// that has not would not stand for election, and with this voter gone nobody might.
func (d *Driver) told(ctx context.Context, want []lockquorum.Voter) error {
	got, err := d.ask(ctx, &call{command: lockquorum.Command{Operation: &lockquorum.Tick{}}})
	for err == nil {
		all := true
		if err = d.within(ctx, func() {
			for _, v := range want {
				all = all && (v.ID == d.cfg.ID || d.node.Has(v.ID, got.answer.Place.Index))
			}
		}); err != nil || all {
			break
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("they vote, and not all of them have heard it: %w", context.Cause(ctx))
		case <-d.ended:
			return d.stopped()
		case <-time.After(changeEvery):
		}
	}
	return err
}

// step is what is to be done next for a change of voters.
type step struct {
	err   error
	done  bool
	list  []lockquorum.Voter // that the State is to name
	waits string             // for what
}

// nextStep does what can be done at once.
func (d *Driver) nextStep(want []lockquorum.Voter) step {
	if _, settled := d.node.Leader(); !settled {
		return step{err: &lockquorum.NotLeaderError{Leader: d.leader()}}
	}
	now, conf := d.node.State().Voters(), d.node.Conf()
	all := slices.Clone(now)
	var ids []uint64
	for _, v := range want {
		if ids = append(ids, v.ID); !slices.Contains(now, v) {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b lockquorum.Voter) int { return int(min(1, max(-1, int64(a.ID)-int64(b.ID)))) })
	voting := slices.Sorted(slices.Values(conf.GetVoters()))
	joint := len(conf.GetVotersOutgoing()) > 0
	switch {
	case slices.Equal(voting, ids) && !joint && len(conf.GetLearners()) == 0:
		if slices.Equal(now, want) {
			return step{done: true}
		}
		return step{list: want}
	case len(all) > len(now):
		return step{list: all}
	case joint:
		return step{waits: "the voters of before have not all agreed to the change"}
	}
	var changes []*pb.ConfChangeSingle
	change := func(how pb.ConfChangeType, id uint64) {
		changes = append(changes, &pb.ConfChangeSingle{Type: how.Enum(), NodeId: proto.Uint64(id)})
	}
	for _, id := range ids {
		if !slices.Contains(voting, id) && !slices.Contains(conf.GetLearners(), id) {
			change(pb.ConfChangeAddLearnerNode, id)
		}
	}
	waits := "the change of voters is not agreed on"
	if len(changes) == 0 {
		for _, id := range ids {
			if !slices.Contains(voting, id) {
				if !d.node.CaughtUp(id) {
					return step{waits: "who is to vote has not got everything yet, or is not reached"}
				}
				change(pb.ConfChangeAddNode, id)
			}
		}
		if !slices.Contains(ids, d.cfg.ID) { // it gives up the lead first, to one that stays
			for _, id := range ids {
				if slices.Contains(voting, id) && d.node.CaughtUp(id) {
					d.node.Transfer(id)
					return step{waits: "another voter has not taken the lead yet"}
				}
			}
		}
		for _, id := range slices.Concat(voting, conf.GetLearners()) {
			if !slices.Contains(ids, id) {
				change(pb.ConfChangeRemoveNode, id)
			}
		}
	}
	v2 := &pb.ConfChangeV2{Transition: pb.ConfChangeTransitionJointImplicit.Enum(), Changes: changes}
	if err := d.node.ProposeVoters(v2); err != nil && !errors.Is(err, lockquorum.ErrBusy) {
		return step{err: err}
	}
	return step{waits: waits}
}

// within runs something in the goroutine of Run.
func (d *Driver) within(ctx context.Context, fn func()) error {
	done := make(chan struct{})
	select {
	case d.asks <- func() { defer close(done); fn() }:
	case <-d.ended:
		return d.stopped()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	select {
	case <-done:
		return nil
	case <-d.ended:
		return d.stopped()
	}
}
