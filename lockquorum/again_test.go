package lockquorum_test

import (
	"fmt"
	"testing"

	"chartmesh/lockquorum"
)

// Who gives up waiting, or asks anew, has its first question answered: it will not be granted. What was asked for anew is, at the same place.
func TestWaitsNoMore(t *testing.T) {
	q := begin(t)
	a, b, c := q.client("a"), q.client("b"), q.client("c")
	held := a.expect(lockquorum.CodeDone, &lockquorum.Acquire{Lock: lists, TTL: 20_000})
	ask := func(c *client) *lockquorum.Command {
		cmd := c.command(&lockquorum.Acquire{Lock: lists, TTL: 20_000})
		cmd.Done = 0 // it has no answer yet
		if r, _ := q.apply(cmd); r.Code != lockquorum.CodeQueued {
			t.Fatalf("asked: %v", r.Code)
		}
		return cmd
	}
	left := func(cmd *lockquorum.Command, events []lockquorum.Event) {
		t.Helper()
		if len(events) != 1 || events[0].Happening != lockquorum.Left || events[0].Session != cmd.Session || events[0].Seq != cmd.Seq {
			t.Errorf("who waits is told %+v", events)
		}
		if r, _ := q.apply(cmd); r.Code != lockquorum.CodeUnknown {
			t.Errorf("asked again, it is %v", r.Code)
		}
	}
	first := ask(b)
	ask(c)
	second := b.command(&lockquorum.Acquire{Lock: lists, TTL: 10_000})
	second.Done = 0
	_, events := q.apply(second)
	left(first, events)
	cancel := c.command(&lockquorum.Cancel{Lock: lists})
	cancel.Done = 0
	_, events = q.apply(cancel)
	left(&lockquorum.Command{Device: c.device, Session: c.session, Seq: cancel.Seq - 1, Operation: &lockquorum.Acquire{Lock: lists, TTL: 20_000}}, events)
	a.expect(lockquorum.CodeDone, &lockquorum.Release{Lock: lists, Token: held.Token})
	if r, _ := q.apply(second); r.Code != lockquorum.CodeDone || q.lease(lists).Session != b.session || len(q.lease(lists).Waiting) > 0 {
		t.Errorf("asked for anew: %v, and %+v", r.Code, q.lease(lists))
	}
}

// What comes twice and was refused the first time, since its session has too many answers, is refused again: its client may have gone on by then.
func TestRefusedTwice(t *testing.T) {
	q := begin(t)
	a := q.client("a")
	a.expect(lockquorum.CodeDone, &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000})
	assign := func(item string) *lockquorum.Command {
		c := a.command(&lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID([]byte(fmt.Sprintf("%32s", item)))})
		c.Done = 2
		return c
	}
	for i := range lockquorum.MaxWindow {
		if r, _ := q.apply(assign(fmt.Sprint(i))); r.Code != lockquorum.CodeDone {
			t.Fatalf("command %d: %v", i, r.Code)
		}
	}
	beyond := assign("beyond")
	if r, _ := q.apply(beyond); r.Code != lockquorum.CodeFull {
		t.Fatalf("beyond the window: %v", r.Code)
	}
	keep := a.command(&lockquorum.Keep{})
	keep.Done = 40 // it has some answers more: there is room
	if r, _ := q.apply(keep); r.Code != lockquorum.CodeDone {
		t.Fatalf("with room: %v", r.Code)
	}
	if r, _ := q.apply(beyond); r.Code != lockquorum.CodeFull {
		t.Errorf("a copy of what was refused: %v", r.Code)
	}
}
