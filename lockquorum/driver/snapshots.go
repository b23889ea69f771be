package driver

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
)

// kept says that the pieces of a snapshot that is made are stored.
type kept struct {
	of  *voter.Freezing
	err error
}

// keep stores the pieces of a snapshot beside Run: a leader must not be silent meanwhile.
func (d *Driver) keep(ctx context.Context, f *voter.Freezing) {
	d.work.Go(func() {
		k := kept{of: f, err: guarded(func() error {
			sums, err := lockquorum.SumsOf(f.Manifest())
			if err == nil {
				err = d.cfg.Disk.Keep(context.WithoutCancel(ctx), sums, f)
			}
			return err
		})}
		select {
		case d.kept <- k:
		case <-d.ended:
		}
	})
}

// compact has a snapshot whose pieces are stored take the place of the one before.
func (d *Driver) compact(ctx context.Context, k kept) error {
	if k.err != nil {
		return fmt.Errorf("%w: %w", ErrDisk, k.err)
	}
	snapshot, forget, err := d.node.Compact(k.of)
	switch {
	case err != nil:
		return fmt.Errorf("%w: %w", ErrBroken, err)
	case snapshot == nil:
		return nil
	}
	if err := d.save(ctx, Write{Snapshot: snapshot, Pieces: k.of, Forget: forget, Sync: true}); err != nil {
		return err
	}
	if f := d.node.Freeze(); f != nil { // the voters have changed meanwhile, and nothing else may come for long
		d.keep(ctx, f)
	}
	return nil
}

// snapshotAgain is after how long a snapshot is sent again that was not taken.
const snapshotAgain = time.Second

// sendSnapshot sends a message that carries a snapshot. Raft sends nothing else to that voter until it hears how it went.
func (d *Driver) sendSnapshot(to lockquorum.DeviceID, m *pb.Message) {
	pieces, ok := d.node.Pieces(m)
	err := errNoVoter
	if ok && d.cfg.Transport != nil && to != (lockquorum.DeviceID{}) {
		err = d.cfg.Transport.SendSnapshot(to, d.at(), m, pieces, func(err error) {
			if err != nil {
				d.log.Debug("a snapshot did not arrive", "voter", m.GetTo(), "error", err)
				select { // Raft sends it again at once
				case <-time.After(snapshotAgain):
				case <-d.ended:
				}
			}
			select {
			case d.asks <- func() { d.node.Sent(m.GetTo(), err == nil) }:
			case <-d.ended:
			}
		})
	}
	if err != nil {
		d.node.Sent(m.GetTo(), false)
	}
}

// ErrUnwanted says that a snapshot is not from a voter of this quorum to this one.
var ErrUnwanted = errors.New("the snapshot is not for this voter")

// ReceiveSnapshot takes a message that carries a snapshot, which came from a device, as the connection proves. fetch has the pieces come that this voter lacks, and
// calls take with each.
func (d *Driver) ReceiveSnapshot(ctx context.Context, from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message,
	fetch func(sums []lockquorum.Sum, take func(piece []byte) error) error,
) error {
	if !d.hears(from, at, m) || m.GetType() != pb.MsgSnap {
		return ErrUnwanted
	}
	sums, err := lockquorum.SumsOf(m.GetSnapshot().GetData())
	if err != nil {
		return err
	}
	part := pieces{}
	var order []lockquorum.Sum
	size := 0
	keep := func() error {
		err := d.cfg.Disk.Keep(ctx, order, part)
		part, order, size = pieces{}, nil, 0
		return err
	}
	err = fetch(d.cfg.Disk.Lacks(sums), func(piece []byte) error {
		sum := lockquorum.SumOf(piece)
		part[sum], order, size = piece, append(order, sum), size+len(piece)
		if size >= keepPart {
			return keep()
		}
		return nil
	})
	if err == nil {
		err = keep()
	}
	if err != nil {
		return err
	}
	taken, err := voter.Assemble(m, d.cfg.Disk)
	if err != nil {
		return err
	}
	if !d.hears(from, at, m) { // it may be long ago that it did
		return ErrUnwanted
	}
	select {
	case d.inbox <- letter{at: at, message: m, taken: taken}:
		return nil
	case <-d.ended:
		return d.stopped()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// pieces are some that came.
type pieces map[lockquorum.Sum][]byte

// Piece implements lockquorum.Pieces.
func (p pieces) Piece(sum lockquorum.Sum) ([]byte, error) {
	if b, ok := p[sum]; ok {
		return b, nil
	}
	return nil, lockquorum.ErrPiece
}
