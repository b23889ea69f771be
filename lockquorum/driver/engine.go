package driver

import (
	"context"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
)

// Do implements lockquorum.Engine.
func (d *Driver) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	if !d.cfg.Allow(from, r.Operation) {
		return lockquorum.Answer{}, lockquorum.ErrForbidden
	}
	got, err := d.ask(ctx, &call{
		command: lockquorum.Command{Device: from, Session: r.Session, Seq: r.Seq, Done: r.Done, Operation: r.Operation}, wait: r.Wait,
	})
	return got.answer, err
}

// Read implements lockquorum.Engine. What is read is at the place of a Tick of its own, so that no voter that has lost the lead answers.
func (d *Driver) Read(ctx context.Context, from lockquorum.DeviceID) (*lockquorum.State, error) {
	if !d.cfg.Allow(from, nil) {
		return nil, lockquorum.ErrForbidden
	}
	got, err := d.ask(ctx, &call{command: lockquorum.Command{Operation: &lockquorum.Tick{}}, read: true})
	if err != nil {
		return nil, err
	}
	return lockquorum.Restore(got.state)
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

// Receive takes a message that came from a device, as the connection proves. What is not from a voter of this quorum, or of another epoch, is
// dropped; so is what there is no room for, as a network would.
func (d *Driver) Receive(from lockquorum.DeviceID, epoch uint64, m *pb.Message) {
	st := d.Status()
	if !st.Running || epoch != st.Epoch || m.GetTo() != d.cfg.ID {
		return
	}
	v, met := lockquorum.Voter{ID: m.GetFrom(), Device: from}, d.met()
	if !slices.Contains(st.Voters, v) && (met.Epoch != epoch || !slices.Contains(met.Voters, v)) {
		return
	}
	select {
	case d.inbox <- m:
	default:
	}
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
	}
	if !running {
		s.Leader = lockquorum.DeviceID{}
	}
	d.mu.Lock()
	d.mu.status = s
	d.mu.Unlock()
}
