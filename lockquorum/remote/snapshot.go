package remote

import (
	"context"
	"errors"
	"fmt"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// A message that carries a snapshot goes on a stream of its own, so that nothing waits behind it:
//
//	question  12, then the message as on a stream of messages, its snapshot a manifest
//	answer    12 | a bit for each piece of the manifest, the first one the lowest of a byte: it is wanted
//	then each of these, behind its length
//	answer    12                                it is taken

const maxManifest = lockquorum.MaxManifest + 4<<10

// SendSnapshot sends a message that carries a snapshot, and of its pieces those that the other device lacks. It does not block, and calls done when the
// other voter has taken it, or will not.
func (m *Messenger) SendSnapshot(to lockquorum.DeviceID, at lockquorum.Seen, msg *pb.Message, pieces lockquorum.Pieces, done func(error)) error {
	if !m.reaches(to) {
		return errGone
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return errGone
	}
	m.work.Go(func() { done(m.sendSnapshot(to, at, msg, pieces)) })
	return nil
}

func (m *Messenger) sendSnapshot(to lockquorum.DeviceID, at lockquorum.Seen, msg *pb.Message, pieces lockquorum.Pieces) error {
	sums, err := lockquorum.SumsOf(msg.GetSnapshot().GetData())
	if err != nil {
		return err
	}
	b, err := marshalMessage(at, msg)
	if err != nil {
		return err
	}
	q, err := question{practice: m.practice, kind: kindSnapshot}.encode()
	if err != nil {
		return err
	}
	st, err := m.open(m.ctx, to)
	if err != nil {
		return err
	}
	defer func() { _ = st.Reset() }()
	defer context.AfterFunc(m.ctx, func() { _ = st.Reset() })()
	_ = st.SetDeadline(time.Now().Add(silence))
	if err := writeFrame(st, q); err != nil {
		return err
	}
	if err := writeFrame(st, b); err != nil {
		return err
	}
	wanted, err := readWanted(st, len(sums))
	if err != nil {
		return err
	}
	for i, sum := range sums {
		if wanted[i/8]>>(i%8)&1 == 0 {
			continue
		}
		piece, err := pieces.Piece(sum)
		if err != nil {
			return err
		}
		_ = st.SetDeadline(time.Now().Add(patience))
		if err := writeFrame(st, piece); err != nil {
			return err
		}
	}
	_ = st.SetDeadline(time.Now().Add(silence))
	_, err = readWanted(st, 0)
	return err
}

// readWanted reads which of so many pieces are wanted.
func readWanted(st Stream, pieces int) ([]byte, error) {
	b, err := readFrame(st, 64+pieces/8)
	if err != nil {
		return nil, err
	}
	a, err := parseAnswer(b)
	switch {
	case err != nil:
		return nil, err
	case a.kind == kindRefused:
		return nil, a.err()
	case a.kind != kindSnapshot || len(a.wanted) != (pieces+7)/8:
		return nil, errors.New("the answer is to another question")
	}
	return a.wanted, nil
}

// takeSnapshot takes a message that carries a snapshot.
func (s *Server) takeSnapshot(ctx context.Context, st Stream, from lockquorum.DeviceID) error {
	if s.Snapshot == nil || s.Votes == nil || !s.Votes(from) {
		return lockquorum.ErrForbidden
	}
	defer s.snapshots.begin(from, st)()
	_ = st.SetDeadline(time.Now().Add(silence))
	b, err := readFrame(st, maxManifest)
	if err != nil {
		return err
	}
	at, m, err := parseMessage(b)
	if err != nil {
		return err
	}
	sums, err := lockquorum.SumsOf(m.GetSnapshot().GetData())
	if err != nil {
		return err
	}
	err = s.Snapshot(ctx, from, at, m, func(lacks []lockquorum.Sum, take func([]byte) error) error {
		a := answer{kind: kindSnapshot, wanted: make([]byte, (len(sums)+7)/8)}
		want := map[lockquorum.Sum]bool{}
		for _, sum := range lacks {
			want[sum] = true
		}
		var order []lockquorum.Sum
		for i, sum := range sums {
			if want[sum] { // once, if it comes twice
				a.wanted[i/8] |= 1 << (i % 8)
				order = append(order, sum)
				delete(want, sum)
			}
		}
		if err := writeFrame(st, a.encode()); err != nil {
			return err
		}
		for _, sum := range order {
			_ = st.SetDeadline(time.Now().Add(patience))
			piece, err := readFrame(st, lockquorum.MaxPiece)
			if err != nil {
				return err
			}
			if lockquorum.SumOf(piece) != sum {
				return fmt.Errorf("take a piece of a snapshot: %w: it is another one", wire.ErrMalformed)
			}
			if err := take(piece); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	_ = st.SetDeadline(time.Now().Add(patience))
	if err := writeFrame(st, answer{kind: kindSnapshot}.encode()); err != nil {
		return err
	}
	var end [1]byte
	_, _ = st.Read(end[:]) // it has been read
	return nil
}
