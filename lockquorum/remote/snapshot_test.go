package remote

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/trust"
)

// large returns a snapshot of so many numbers, and a message that carries it.
func large(t *testing.T, n int) (*lockquorum.Frozen, *pb.Message) {
	t.Helper()
	st := lockquorum.New(1)
	do := func(o lockquorum.Operation) {
		c := &lockquorum.Command{Device: quorumtest.A, Operation: o}
		raw, err := c.Marshal()
		must(t, err)
		st.Apply(st.Index()+1, c, raw)
	}
	do(&lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: lockquorum.MaxNumber})
	for i := range n {
		do(&lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{1, byte(i >> 8), byte(i)}})
	}
	f := st.Freeze()
	return f, &pb.Message{Type: pb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Snapshot: &pb.Snapshot{Data: f.Manifest()}}
}

// receiver takes snapshots, as a driver does.
type receiver struct {
	has   map[lockquorum.Sum][]byte
	taken int // snapshots
}

func (r *receiver) Piece(sum lockquorum.Sum) ([]byte, error) {
	if b, ok := r.has[sum]; ok {
		return b, nil
	}
	return nil, lockquorum.ErrPiece
}

func (r *receiver) snapshot(_ context.Context, _ lockquorum.DeviceID, _ lockquorum.Seen, m *pb.Message, fetch Fetch) error {
	sums, err := lockquorum.SumsOf(m.GetSnapshot().GetData())
	if err != nil {
		return err
	}
	sums = slices.DeleteFunc(sums, func(s lockquorum.Sum) bool { return r.has[s] != nil })
	if err := fetch(sums, func(piece []byte) error {
		r.has[lockquorum.SumOf(piece)] = slices.Clone(piece)
		return nil
	}); err != nil {
		return err
	}
	if _, err := lockquorum.Assemble(m.GetSnapshot().GetData(), r); err != nil {
		return err
	}
	r.taken++
	return nil
}

// counting is a Stream that breaks after so many frames were written to it.
type counting struct {
	net.Conn
	left *int
}

func (c counting) Reset() error { return c.Close() }

func (c counting) Write(b []byte) (int, error) {
	if *c.left--; *c.left < 0 {
		_ = c.Close()
		return 0, errors.New("the connection broke")
	}
	return c.Conn.Write(b)
}

// send sends a snapshot over a connection that breaks after so many writes, and says how that went and how many writes it took.
func send(t *testing.T, s *Server, m *pb.Message, pieces lockquorum.Pieces, writes int) (took int, err error) {
	t.Helper()
	left := writes
	messenger := NewMessenger(practice, func(context.Context, lockquorum.DeviceID) (Stream, error) {
		here, there := net.Pipe()
		go func() { _ = s.Serve(t.Context(), pipe{there}, quorumtest.A) }()
		return counting{here, &left}, nil
	}, func(lockquorum.DeviceID) bool { return true })
	defer messenger.Close()
	done := make(chan error, 1)
	must(t, messenger.SendSnapshot(quorumtest.B, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m, pieces, func(err error) { done <- err }))
	err = <-done
	synctest.Wait()
	return writes - left, err
}

// TestSnapshot: a snapshot is sent in pieces, of which the other voter is sent what it lacks; wherever the connection breaks it is not taken, and goes on from there.
func TestSnapshot(t *testing.T) {
	const plenty = 1 << 20
	synctest.Test(t, func(t *testing.T) {
		frozen, m := large(t, 1000)
		took := 0
		for breaks := -1; breaks <= took; breaks++ {
			r := &receiver{has: map[lockquorum.Sum][]byte{}}
			s := &Server{Practice: practice, Votes: func(lockquorum.DeviceID) bool { return true }, Snapshot: r.snapshot}
			if breaks < 0 { // to find out how long it takes
				n, err := send(t, s, m, frozen, plenty)
				must(t, err)
				if took = n; r.taken != 1 {
					t.Fatal("it was not taken")
				}
				continue
			}
			_, err := send(t, s, m, frozen, breaks)
			if breaks < took && (err == nil || r.taken != 0) {
				t.Fatalf("broken after %d of %d writes it is taken %d times (%v)", breaks, took, r.taken, err)
			}
			had := len(r.has)
			n, err := send(t, s, m, frozen, plenty)
			must(t, err)
			if r.taken == 0 || n > took-had {
				t.Errorf("broken after %d of %d writes, with %d pieces, it took %d once more", breaks, took, had, n)
			}
		}
	})
}

// TestSnapshotRefused: who does not vote sends none; a piece that is another one than its name says ends it; so does what is no manifest.
func TestSnapshotRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		frozen, m := large(t, 300)
		votes := false
		r := &receiver{has: map[lockquorum.Sum][]byte{}}
		s := &Server{Practice: practice, Votes: func(lockquorum.DeviceID) bool { return votes }, Snapshot: r.snapshot}
		if _, err := send(t, s, m, frozen, 100); err == nil || r.taken+len(r.has) > 0 {
			t.Errorf("of a device that does not vote %d pieces were taken (%v)", len(r.has), err)
		}
		votes = true
		if _, err := send(t, s, m, forged{frozen}, 100); err == nil || r.taken+len(r.has) > 0 {
			t.Errorf("of pieces that are others %d were taken (%v)", len(r.has), err)
		}
		if _, err := send(t, s, m, forged{nil}, 100); !errors.Is(err, lockquorum.ErrPiece) || r.taken > 0 {
			t.Errorf("without its pieces a snapshot is taken (%v)", err)
		}
		no := proto.Clone(m).(*pb.Message)
		no.Snapshot.Data = []byte("cmlq")
		if _, err := send(t, s, no, frozen, 100); err == nil || r.taken > 0 {
			t.Errorf("what is no manifest is taken (%v)", err)
		}
		must(t, func() error { _, err := send(t, s, m, frozen, 100); return err }())
		if r.taken != 1 {
			t.Error("it is not taken after that")
		}
	})
}

// forged has pieces that are others than their names say; nil: none.
type forged struct{ of lockquorum.Pieces }

func (f forged) Piece(sum lockquorum.Sum) ([]byte, error) {
	if f.of == nil {
		return nil, lockquorum.ErrPiece
	}
	b, err := f.of.Piece(sum)
	return append(slices.Clone(b), 0), err
}

// TestSnapshotStalls: a sender that says nothing more is not waited for long, and another snapshot of it takes the place of the one before.
func TestSnapshotStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, m := large(t, 300)
		ended := make(chan error, 2)
		s := &Server{Practice: practice, Votes: func(lockquorum.DeviceID) bool { return true }, Snapshot: func(_ context.Context, _ trust.DeviceID, _ lockquorum.Seen, m *pb.Message, fetch Fetch) error {
			sums, err := lockquorum.SumsOf(m.GetSnapshot().GetData())
			must(t, err)
			return fetch(sums, func([]byte) error { return nil })
		}}
		q, err := question{practice: practice, kind: kindSnapshot}.encode()
		must(t, err)
		b, err := marshalMessage(lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m)
		must(t, err)
		begin := func() net.Conn {
			here, there := net.Pipe()
			go func() { ended <- s.Serve(t.Context(), pipe{there}, quorumtest.A) }()
			must(t, writeFrame(here, q))
			must(t, writeFrame(here, b))
			_, err := readFrame(here, 1<<10)
			must(t, err)
			return here
		}
		first := begin()
		second := begin()
		if err := <-ended; err == nil {
			t.Error("the first goes on beside the second")
		}
		begun := time.Now()
		if err := <-ended; err == nil || time.Since(begun) > silence {
			t.Errorf("who says nothing more is waited for %v (%v)", time.Since(begun), err)
		}
		_, _ = first.Close(), second.Close()
	})
}
