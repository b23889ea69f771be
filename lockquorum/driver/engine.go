package driver

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// Do implements lockquorum.Engine.
func (d *Driver) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	if !d.cfg.Allow(from, r.Operation) {
		return lockquorum.Answer{}, lockquorum.ErrForbidden
	}
	got, err := d.ask(ctx, &call{
		command: lockquorum.Command{Device: from, Session: r.Session, Seq: r.Seq, Done: r.Done, Operation: r.Operation}, wait: r.Wait, seen: append(d.trusted(r.Shown), d.heard()...),
	})
	got.answer.Position = d.position(got.seen)
	return got.answer, err
}

// Read implements lockquorum.Engine. A majority confirms that this voter leads before it answers.
func (d *Driver) Read(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	if !d.cfg.Allow(from, nil) {
		return nil, lockquorum.Position{}, lockquorum.ErrForbidden
	}
	got, err := d.ask(ctx, &call{query: &q, seen: append(d.trusted(shown), d.heard()...)})
	if err != nil {
		return nil, lockquorum.Position{}, err
	}
	v, err := lockquorum.ParseView(q, got.view)
	return v, d.position(got.seen), err
}

// Show shows the voter how far its own device has heard that the quorum came, and returns how that stands to what it has. It ends by another history, and by a later
// epoch. To be behind proves nothing of one that follows; of one that leads, a Read that shows it does.
func (d *Driver) Show(ctx context.Context, p lockquorum.Position) (c voter.Compared, err error) {
	seen := d.trusted([]lockquorum.Position{p})
	if len(seen) == 0 {
		return voter.Unknown, nil
	}
	err = d.within(ctx, func() {
		if d.node.State().Epoch() == 0 { // it waits to be made a voter
			c = voter.Unknown
			return
		}
		c = d.node.Compare(seen[0])
		d.node.Shown(seen[0])
	})
	return c, err
}

// trusted returns what is seen by positions that are shown, of those that can be relied on.
func (d *Driver) trusted(shown []lockquorum.Position) (seen []lockquorum.Seen) {
	for _, p := range shown[:min(len(shown), lockquorum.MaxShown)] {
		if d.cfg.Trusts != nil && d.cfg.Trusts(p) {
			seen = append(seen, p.Seen)
		}
	}
	return seen
}

// heard returns what the device has heard.
func (d *Driver) heard() []lockquorum.Seen {
	if d.cfg.Heard == nil {
		return nil
	}
	return lockquorum.SeenOf(d.cfg.Heard())
}

// position signs how far the quorum has come. Many answers come with one.
func (d *Driver) position(s lockquorum.Seen) lockquorum.Position {
	if d.cfg.Sign == nil || s.Epoch == 0 {
		return lockquorum.Position{}
	}
	d.signing.Lock()
	defer d.signing.Unlock()
	if d.signed.Seen != s {
		d.signed = d.cfg.Sign(s)
	}
	return d.signed
}

func (d *Driver) ask(ctx context.Context, c *call) (reply, error) {
	c.ctx, c.answer = ctx, make(chan reply, 1)
	if ctx.Err() != nil {
		return reply{}, ctx.Err()
	}
	select {
	case <-d.ended:
		return reply{}, d.stopped()
	default:
	}
	select {
	case d.calls <- c:
	case <-d.ended:
		return reply{}, d.stopped()
	case <-ctx.Done():
		return reply{}, ctx.Err()
	}
	select {
	case r := <-c.answer:
		if r.err != nil {
			return reply{}, r.err
		}
		return r, nil
	case <-ctx.Done():
		return reply{}, fmt.Errorf("%w: %w", lockquorum.ErrOutcomeUnknown, ctx.Err())
	case <-d.ended:
		select {
		case r := <-c.answer:
			return r, r.err
		default:
			return reply{}, lockquorum.ErrOutcomeUnknown // it was put there as the voter ended
		}
	}
}

func (d *Driver) stopped() error {
	if err := d.Status().Err; err != nil {
		return fmt.Errorf("%w: %w", lockquorum.ErrStopped, err)
	}
	return lockquorum.ErrStopped
}

// Receive takes a message that came from a device, as the connection proves, with how far that had come. What is not from a voter of this quorum, or of another epoch, is
// dropped; so is what there is no room for, as a network would.
func (d *Driver) Receive(from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) {
	if !d.hears(from, at, m) {
		return
	}
	select {
	case d.inbox <- letter{at: at, message: m}:
	default:
	}
}

// hears reports whether a message is from a voter of this quorum to this one.
func (d *Driver) hears(from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) bool {
	st := d.Status()
	if !st.Running || at.Epoch != st.Epoch || m.GetTo() != d.cfg.ID {
		return false
	}
	v, met := lockquorum.Voter{ID: m.GetFrom(), Device: from}, d.met()
	return slices.Contains(st.Voters, v) || met.Epoch == at.Epoch && slices.Contains(met.Voters, v)
}

// Status returns how things stand.
func (d *Driver) Status() Status {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.mu.status
}

// Ended is closed when Run is over.
func (d *Driver) Ended() <-chan struct{} { return d.ended }

func (d *Driver) publish(running bool, err error) {
	st := d.node.State()
	_, leads := d.node.Leader()
	s := Status{
		Running: running, Err: err, Epoch: d.epoch(), Index: st.Index(), Last: d.last, Term: d.term, Chain: st.Chain(), Leader: d.leader(),
		Leads: leads && running, Voters: d.voters(),
		Resting: d.node.Resting() && len(d.waiting) == 0 && len(d.queued) == 0 && st.NextExpiry() == lockquorum.MaxClock,
	}
	if !running {
		s.Leader = lockquorum.DeviceID{}
	}
	d.mu.Lock()
	d.mu.status = s
	d.mu.Unlock()
}
