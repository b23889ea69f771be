package driver

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
)

// snapshotOf returns a message of voter 1 that carries a State as a snapshot, and its pieces.
func snapshotOf(st *lockquorum.State) (*pb.Message, *lockquorum.Frozen) {
	f := st.Freeze()
	return &pb.Message{
		Type: pb.MsgSnap.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(2),
		Snapshot: &pb.Snapshot{Data: f.Manifest(), Metadata: &pb.SnapshotMetadata{
			Index: proto.Uint64(st.Index()), Term: proto.Uint64(2), ConfState: &pb.ConfState{Voters: []uint64{1, 2, 3}},
		}},
	}, f
}

// receives has a voter be sent a snapshot, of which no more than some pieces come, and returns how many it asked for.
func receives(d *Driver, m *pb.Message, from lockquorum.Pieces, come int) (asked int, err error) {
	err = d.ReceiveSnapshot(context.Background(), lockquorum.DeviceID{1}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m, func(sums []lockquorum.Sum, take func([]byte) error) error {
		asked = len(sums)
		for i, sum := range sums {
			if i == come {
				return errors.New("the connection broke")
			}
			piece, err := from.Piece(sum)
			if err != nil {
				return err
			}
			if err := take(piece); err != nil {
				return err
			}
		}
		return nil
	})
	synctest.Wait()
	return asked, err
}

// count returns how many pieces are stored.
func count(t *testing.T, twin *storage.Twin) (n int) {
	t.Helper()
	must(t, twin.View(func(r storage.Reader) error {
		return r.Keys(storage.QuorumPiece.All(), nil, func([]byte) error { n++; return nil })
	}))
	return n
}

const plenty = 1 << 20

// TestReceivesInParts: what has come of a snapshot changes nothing before all has; what came before the connection broke does not come again while the process lives,
// and after a restart all comes.
func TestReceivesInParts(t *testing.T) {
	st := full(t, 20_000, 3)
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 2, 3)
		d := open(t, twin, Config{})
		stop := start(t, d)
		m, from := snapshotOf(st)
		before := d.Status()
		all, err := receives(d, m, from, 75)
		if at := d.Status(); err == nil || at.Chain != before.Chain || at.Index != before.Index {
			t.Fatalf("of a part of a snapshot a voter has come to %d (%v)", at.Index, err)
		}
		if n := count(t, twin); n < 50 {
			t.Errorf("of 75 pieces %d were kept", n)
		}
		rest, err := receives(d, m, from, 3)
		if err == nil || rest > all-50 {
			t.Errorf("of %d pieces %d are asked for once more (%v)", all, rest, err)
		}
		must(t, stop())
		twin = twin.Crash()
		d = open(t, twin, Config{})
		start(t, d)
		if at := d.Status(); at.Chain != before.Chain || count(t, twin) != 1 {
			t.Errorf("started again it is at %d, and has %d pieces", at.Index, count(t, twin))
		}
		_, err = receives(d, m, from, plenty)
		must(t, err)
		if at := d.Status(); at.Chain != st.Chain() || at.Index != st.Index() {
			t.Errorf("it is at %d, and the snapshot was of %d", at.Index, st.Index())
		}
	})
}

// TestKilledWhileReceiving: wherever a voter is killed that is sent a snapshot, it has its old State or the new one, and comes to have the new one.
func TestKilledWhileReceiving(t *testing.T) {
	st := full(t, 20_000, 3)
	chains := map[[32]byte]int{}
	for _, stage := range []storage.Stage{storage.Begin, storage.Applied, storage.Synced} {
		for at := range 5 {
			synctest.Test(t, func(t *testing.T) {
				twin := founded(t, 2, 3)
				d := open(t, twin, Config{})
				start(t, d)
				old := d.Status().Chain
				m, from := snapshotOf(st)
				commits, killed := 0, errors.New("killed")
				twin.OnCommit(func(s storage.Stage, _ int) error {
					if s == stage {
						commits++
					}
					if commits > at {
						return killed
					}
					return nil
				})
				_, _ = receives(d, m, from, plenty)
				d.Stop()
				<-d.Ended()
				twin = twin.Crash()
				twin.OnCommit(nil)
				d = open(t, twin, Config{})
				start(t, d)
				chain := d.Status().Chain
				if chains[chain]++; chain != old && chain != st.Chain() {
					t.Errorf("%v %d: it is neither as before nor as it was sent", stage, at)
				}
				_, err := receives(d, m, from, plenty)
				must(t, err)
				if d.Status().Chain != st.Chain() {
					t.Errorf("%v %d: it is not as it was sent in the end", stage, at)
				}
			})
		}
	}
	if len(chains) != 2 {
		t.Errorf("it was never killed before or never after: %d", len(chains))
	}
}

// TestSnapshotOfAnother: a snapshot from a device that is not that voter, of another epoch or to another one, is not taken, and neither are its pieces.
func TestSnapshotOfAnother(t *testing.T) {
	st := full(t, 300, 3)
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 2, 3)
		d := open(t, twin, Config{})
		start(t, d)
		m, _ := snapshotOf(st)
		asked := func([]lockquorum.Sum, func([]byte) error) error { t.Error("its pieces are asked for"); return nil }
		at := lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}
		other := proto.Clone(m).(*pb.Message)
		other.To = proto.Uint64(3)
		for what, err := range map[string]error{
			"another device":   d.ReceiveSnapshot(t.Context(), lockquorum.DeviceID{3}, at, m, asked),
			"a stranger":       d.ReceiveSnapshot(t.Context(), quorumtest.Stranger, at, m, asked),
			"another epoch":    d.ReceiveSnapshot(t.Context(), lockquorum.DeviceID{1}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 2}}, m, asked),
			"to another voter": d.ReceiveSnapshot(t.Context(), lockquorum.DeviceID{1}, at, other, asked),
		} {
			if !errors.Is(err, ErrUnwanted) {
				t.Errorf("a snapshot of %s: %v", what, err)
			}
		}
	})
}

// TestPreparedPieces: the pieces of a voter that is prepared stay while another one goes on that has some of them too, and are gone when it is discarded.
func TestPreparedPieces(t *testing.T) {
	for _, taken := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			twin := storage.NewTwin()
			st := full(t, 300, 1)
			must(t, Found(t.Context(), twin, Record{Epoch: 1, ID: 1}, voter.Found(st)))
			d := open(t, twin, Config{SnapshotEvery: 2})
			stop := start(t, d)
			must(t, d.cfg.Disk.(*StoreDisk).Prepare(t.Context(), Prepared{Record: Record{Epoch: 2, ID: 1}}, st))
			if n := count(t, twin); n != 3 {
				t.Errorf("%d pieces are stored, and both have the same", n)
			}
			for range 2 {
				for i := range 9 {
					assign(t, d, byte(100+i)) // so that the last page is another one
				}
				must(t, stop())
				d = open(t, twin, Config{SnapshotEvery: 2})
				stop = start(t, d)
			}
			must(t, stop())
			_, begins, err := LoadPrepared(twin)
			must(t, err)
			if list, _ := begins.Circle(invoices); len(list[0].Numbers) != 300 {
				t.Errorf("it begins with %d numbers", len(list[0].Numbers))
			}
			want := 309
			if taken {
				must(t, TakeUp(t.Context(), twin))
				want = 300
			} else {
				must(t, Discard(t.Context(), twin))
			}
			d = open(t, twin, Config{})
			start(t, d)
			if got := given(t, d); got != want {
				t.Errorf("it has %d numbers, and not %d", got, want)
			}
			if n := count(t, twin); n != 3 {
				t.Errorf("%d pieces are stored: one of the head and two pages are meant", n)
			}
		})
	}
}
