package driver

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// ErrVoters says that a quorum has one voter or three: two go on only while both are there, and one more than that is no help.
var ErrVoters = errors.New("a quorum has one voter or three")

// changeEvery is how often it is looked how far a change has come.
const changeEvery = 50 * time.Millisecond

// Change has these vote and nobody else, in the steps of voter.Node.Change. Where it is interrupted, by ctx too, those who voted do so still, or the new ones; asked for again it
// goes on. Errors are ErrVoters, a *lockquorum.NotLeaderError, those of Do, and ctx's.
func (d *Driver) Change(ctx context.Context, want []lockquorum.Voter) error {
	if len(want) != 1 && len(want) != 3 {
		return ErrVoters
	}
	slices.SortFunc(want, func(a, b lockquorum.Voter) int { return int(min(1, max(-1, int64(a.ID)-int64(b.ID)))) })
	for {
		var next voter.Step
		var leader lockquorum.DeviceID
		var failed error
		if err := d.within(ctx, func() { next, failed = d.node.Change(want); leader = d.leader() }); err != nil {
			return err
		}
		switch {
		case errors.Is(failed, lockquorum.ErrNotLeader):
			return &lockquorum.NotLeaderError{Leader: leader}
		case failed != nil:
			return failed
		case next.Done:
			return d.told(ctx, want)
		case next.Voters != nil:
			if _, err := d.ask(ctx, &call{command: lockquorum.Command{Operation: &lockquorum.Voters{List: next.Voters}}}); err != nil {
				return err
			}
			continue
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", next.Waits, context.Cause(ctx))
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
