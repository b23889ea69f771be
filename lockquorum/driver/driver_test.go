package driver

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
)

// network carries messages between the voters of a test.
type network struct {
	mu     sync.Mutex
	voters map[lockquorum.DeviceID]*Driver
	cut    map[lockquorum.DeviceID]bool
	sent   int
	pieces int
	heard  func(from lockquorum.DeviceID, at lockquorum.Seen) // nil: nobody listens
	stop   map[lockquorum.DeviceID]func() error
}

// end is one voter's end of it.
type end struct {
	n    *network
	from lockquorum.DeviceID
}

func (w end) Send(to lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message) error {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	w.n.sent++
	if w.n.heard != nil {
		w.n.heard(w.from, at)
	}
	d := w.n.voters[to]
	if d == nil || w.n.cut[to] || w.n.cut[w.from] {
		return errors.New("it is not there")
	}
	m = proto.Clone(m).(*pb.Message)
	time.AfterFunc(time.Millisecond, func() { d.Receive(w.from, at, m) })
	return nil
}

func (w end) SendSnapshot(to lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message, all lockquorum.Pieces, done func(error)) error {
	w.n.mu.Lock()
	defer w.n.mu.Unlock()
	d := w.n.voters[to]
	if d == nil || w.n.cut[to] || w.n.cut[w.from] {
		return errors.New("it is not there")
	}
	m = proto.Clone(m).(*pb.Message)
	time.AfterFunc(time.Millisecond, func() {
		done(d.ReceiveSnapshot(context.Background(), w.from, at, m, func(sums []lockquorum.Sum, take func([]byte) error) error {
			for _, sum := range sums {
				piece, err := all.Piece(sum)
				if err != nil {
					return err
				}
				w.n.set(func() { w.n.pieces++ })
				if err := take(piece); err != nil {
					return err
				}
			}
			return nil
		}))
	})
	return nil
}

func founding(n int) *lockquorum.State {
	st := lockquorum.New(0)
	var list []lockquorum.Voter
	for i := range n {
		list = append(list, lockquorum.Voter{ID: uint64(i + 1), Device: lockquorum.DeviceID{byte(i + 1)}})
	}
	st.Reseed(1, list)
	return st
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// founded returns a store with the voter of a number, of so many.
func founded(t testing.TB, id, of int) *storage.Twin {
	t.Helper()
	twin := storage.NewTwin()
	must(t, Found(t.Context(), twin, Record{Epoch: 1, ID: uint64(id)}, voter.Found(founding(of))))
	return twin
}

// open opens the voter in a store.
func open(t testing.TB, store storage.Store, cfg Config) *Driver {
	t.Helper()
	disk, rec, err := OpenDisk(store)
	must(t, err)
	cfg.Disk, cfg.ID, cfg.Device, cfg.Allow, cfg.Boot = disk, rec.ID, lockquorum.DeviceID{byte(rec.ID)}, quorumtest.Allow, uint64(time.Now().UnixNano())
	cfg.Sign, cfg.Trusts = quorumtest.Sign(cfg.Device), quorumtest.Trusts
	d, err := Open(t.Context(), cfg)
	must(t, err)
	return d
}

// start runs a voter until the returned function is called, which says how it ended.
func start(t testing.TB, d *Driver) (stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	ended := false
	stop = func() error {
		cancel()
		if ended {
			return nil
		}
		ended = true
		return <-done
	}
	t.Cleanup(func() { _ = stop() })
	synctest.Wait()
	return stop
}

func TestContractOneVoter(t *testing.T) {
	quorumtest.Run(t, func(t *testing.T) lockquorum.Engine {
		d := open(t, founded(t, 1, 1), Config{SnapshotEvery: 10})
		start(t, d)
		return d
	})
}

// leader asks whoever leads.
type leader struct{ n *network }

func (l leader) find() *Driver {
	for range 200 {
		l.n.mu.Lock()
		for _, d := range l.n.voters {
			if d.Status().Leads && !l.n.cut[d.cfg.Device] {
				l.n.mu.Unlock()
				return d
			}
		}
		l.n.mu.Unlock()
		time.Sleep(20 * time.Millisecond)
	}
	for _, d := range l.n.voters {
		return d
	}
	return nil
}

// Do asks again, as a client does, where a voter gave up the lead between the two.
func (l leader) Do(ctx context.Context, from lockquorum.DeviceID, r lockquorum.Request) (a lockquorum.Answer, err error) {
	for range 50 {
		if a, err = l.find().Do(ctx, from, r); !errors.Is(err, lockquorum.ErrNotLeader) {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	return a, err
}

func (l leader) Read(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	return l.find().Read(ctx, from, q, shown...)
}

// set changes the network.
func (n *network) set(change func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	change()
}

func cluster(t *testing.T) (*network, map[lockquorum.DeviceID]*storage.Twin) {
	n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}, stop: map[lockquorum.DeviceID]func() error{}}
	stores := map[lockquorum.DeviceID]*storage.Twin{}
	for i := 1; i <= 3; i++ {
		device := lockquorum.DeviceID{byte(i)}
		stores[device] = founded(t, i, 3)
		n.voters[device] = open(t, stores[device], Config{Transport: end{n, device}, SnapshotEvery: 10})
	}
	for _, d := range n.voters {
		n.stop[d.cfg.Device] = start(t, d)
	}
	return n, stores
}

func TestContractThreeVoters(t *testing.T) {
	quorumtest.Run(t, func(t *testing.T) lockquorum.Engine {
		n, _ := cluster(t)
		return leader{n}
	})
}

func assign(t *testing.T, e lockquorum.Engine, item byte) lockquorum.Answer {
	t.Helper()
	a, err := e.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}, Item: lockquorum.ItemID{item}}})
	if err != nil || a.Code != lockquorum.CodeDone {
		t.Fatalf("a number: %v (%v)", a.Code, err)
	}
	return a
}

func openCircle(t *testing.T, e lockquorum.Engine) {
	t.Helper()
	_, err := e.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.OpenCircle{Circle: lockquorum.CircleID{1}, First: 1, Last: 1000}})
	must(t, err)
}

// TestRestart: what was answered is there after a crash, wherever snapshots fall.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 1, 1)
		for run := range 20 {
			d := open(t, twin, Config{SnapshotEvery: 7})
			stop := start(t, d)
			if run == 0 {
				openCircle(t, d)
			}
			for item := range run {
				if got := assign(t, d, byte(item)); got.Number != int64(item+1) {
					t.Fatalf("in run %d item %d has the number %d", run, item, got.Number)
				}
			}
			must(t, stop())
			twin = twin.Crash()
		}
	})
}

// TestDiskFails: a voter whose disk fails answers nothing and sends nothing that it did not store, and says why it ended.
func TestDiskFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, stage := range []storage.Stage{storage.Begin, storage.Applied, storage.Synced} {
			n := &network{}
			twin := founded(t, 1, 1)
			d := open(t, twin, Config{Transport: end{n, lockquorum.DeviceID{1}}})
			start(t, d)
			openCircle(t, d)
			twin.OnCommit(func(s storage.Stage, _ int) error {
				if s == stage {
					return errors.New("no")
				}
				return nil
			})
			_, err := d.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}}})
			if !errors.Is(err, lockquorum.ErrOutcomeUnknown) {
				t.Errorf("%v: an operation that was not stored is answered %v", stage, err)
			}
			<-d.Ended()
			if st := d.Status(); st.Running || !errors.Is(st.Err, ErrDisk) {
				t.Errorf("%v: the voter says %+v", stage, st)
			}
			if _, err := d.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{}}); !errors.Is(err, lockquorum.ErrStopped) || !errors.Is(err, ErrDisk) {
				t.Errorf("%v: a voter that ended answers %v", stage, err)
			}
			twin = twin.Crash()
			twin.OnCommit(nil)
			d = open(t, twin, Config{})
			start(t, d)
			if got := assign(t, d, 7); got.Number < 1 || got.Number > 2 {
				t.Errorf("%v: started again it gives %d", stage, got.Number)
			}
		}
	})
}

// TestDiskFailsBeforeVote: a vote that was not stored is not cast.
func TestDiskFailsBeforeVote(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{voters: map[lockquorum.DeviceID]*Driver{}, cut: map[lockquorum.DeviceID]bool{}}
		twin := founded(t, 1, 3)
		d := open(t, twin, Config{Transport: end{n, lockquorum.DeviceID{1}}})
		start(t, d)
		before := n.sent
		twin.Fail(errors.New("no"))
		d.Receive(lockquorum.DeviceID{2}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, &pb.Message{
			Type: pb.MsgVote.Enum(), To: proto.Uint64(1), From: proto.Uint64(2), Term: proto.Uint64(9), Index: proto.Uint64(1), LogTerm: proto.Uint64(1),
		})
		<-d.Ended()
		if n.sent != before || !errors.Is(d.Status().Err, ErrDisk) {
			t.Errorf("it sent %d messages, and ended with %v", n.sent-before, d.Status().Err)
		}
	})
}

// TestWentBack: a voter whose disk went back to an earlier state ends when the leader relies on what it forgot, and the others go on.
func TestWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, stores := cluster(t)
		e := leader{n}
		openCircle(t, e)
		lead := e.find()
		var back lockquorum.DeviceID
		for device := range n.voters {
			if device != lead.cfg.Device {
				back = device
			}
		}
		old := stores[back].Copy()
		for i := range 5 {
			assign(t, e, byte(i))
		}
		time.Sleep(time.Second)
		must(t, n.stop[back]())
		d := open(t, old, Config{Transport: end{n, back}})
		n.set(func() { n.voters[back] = d })
		start(t, d)
		for i := range 30 {
			assign(t, e, byte(10+i))
			time.Sleep(50 * time.Millisecond)
		}
		select {
		case <-d.Ended():
		default:
			t.Fatal("a voter that went back votes on")
		}
		if st := d.Status(); st.Running || !errors.Is(st.Err, ErrBroken) {
			t.Errorf("it says %+v", st)
		}
		disk, _, err := OpenDisk(old)
		must(t, err)
		if _, err := Open(t.Context(), Config{ID: d.cfg.ID, Device: back, Disk: disk, Allow: quorumtest.Allow}); !errors.Is(err, voter.ErrLost) || !errors.Is(err, ErrBroken) {
			t.Errorf("started again it votes: %v", err)
		}
		if got := assign(t, e, 99); got.Number != 36 {
			t.Errorf("the others give %d", got.Number)
		}
	})
}

// TestLeaderGone: the others go on when the leader is gone, and what was answered stays.
func TestLeaderGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n, _ := cluster(t)
		e := leader{n}
		openCircle(t, e)
		assign(t, e, 1)
		gone := e.find()
		n.set(func() { n.cut[gone.cfg.Device] = true })
		time.Sleep(5 * time.Second)
		if gone.Status().Leads {
			t.Error("a leader that nobody hears leads on")
		}
		_, err := gone.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{Circle: lockquorum.CircleID{1}}})
		if !errors.Is(err, lockquorum.ErrNotLeader) {
			t.Errorf("it answers %v", err)
		}
		if first, second := assign(t, e, 1), assign(t, e, 2); first.Number != 1 || second.Number != 2 {
			t.Errorf("the numbers go on with %d and %d", first.Number, second.Number)
		}
	})
}

// TestReceive: what is not from a voter of this quorum is dropped.
func TestReceive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := open(t, founded(t, 1, 3), Config{})
		start(t, d)
		term := d.Status().Term
		m := func(from uint64) *pb.Message {
			return &pb.Message{Type: pb.MsgHeartbeat.Enum(), To: proto.Uint64(1), From: proto.Uint64(from), Term: proto.Uint64(50)}
		}
		d.Receive(lockquorum.DeviceID{9}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m(2)) // another device in its name
		d.Receive(lockquorum.DeviceID{2}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 2}}, m(2)) // of another epoch
		d.Receive(lockquorum.DeviceID{2}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m(3))
		d.Receive(lockquorum.DeviceID{2}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m(7))
		synctest.Wait()
		if got := d.Status().Term; got != term {
			t.Errorf("the term is %d and was %d", got, term)
		}
		d.Receive(lockquorum.DeviceID{2}, lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, m(2))
		synctest.Wait()
		if got := d.Status(); got.Term != 50 || got.Leader != (lockquorum.DeviceID{2}) {
			t.Errorf("what a voter says is not taken: %+v", got)
		}
	})
}

// TestLostEntries: a disk that lacks something of what was stored does not open, at whichever end it lacks.
func TestLostEntries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		twin := founded(t, 1, 1)
		d := open(t, twin, Config{})
		stop := start(t, d)
		openCircle(t, d)
		for i := range 5 {
			assign(t, d, byte(i))
		}
		must(t, stop())
		last := d.Status().Last
		for _, key := range [][]byte{storage.QuorumEntry.Key(last), storage.QuorumEntry.Key(last - 3), storage.QuorumEntry.Key(2), storage.Quorum.Key(itemHard),
			storage.Quorum.Key(itemSnapshot)} {
			for _, damaged := range []bool{false, true} {
				less := twin.Copy()
				if damaged {
					if !less.Corrupt(key) {
						t.Fatal("there is nothing to damage")
					}
				} else {
					var b storage.Batch
					b.Delete(key)
					must(t, less.Commit(t.Context(), &b))
				}
				disk, rec, err := OpenDisk(less)
				must(t, err)
				_, err = Open(t.Context(), Config{ID: rec.ID, Disk: disk, Allow: quorumtest.Allow})
				if !errors.Is(err, voter.ErrLost) {
					t.Errorf("without %x (damaged: %v) it opens: %v", key, damaged, err)
				}
			}
		}
	})
}

// TestFoundOnce: a store has one voter.
func TestFoundOnce(t *testing.T) {
	twin := founded(t, 1, 1)
	if err := Found(t.Context(), twin, Record{Epoch: 1, ID: 1}, voter.Found(founding(1))); err == nil {
		t.Error("a voter was founded over another")
	}
}
