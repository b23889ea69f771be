package remote

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"chartmesh/internal/fuzzing"
	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/lockquorum/driver"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// pipe is a Stream between two goroutines.
type pipe struct{ net.Conn }

func (p pipe) Reset() error { return p.Close() }

var practice = trust.EntryID{1}

func start(t *testing.T) *driver.Driver {
	t.Helper()
	st := lockquorum.New(0)
	st.Reseed(1, []lockquorum.Voter{{ID: 1, Device: lockquorum.DeviceID{1}}})
	twin := storage.NewTwin()
	must(t, driver.Found(t.Context(), twin, driver.Record{Epoch: 1, ID: 1}, voter.Found(st)))
	disk, _, err := driver.OpenDisk(twin)
	must(t, err)
	d, err := driver.Open(t.Context(), driver.Config{ID: 1, Device: lockquorum.DeviceID{1}, Disk: disk, Allow: quorumtest.Allow, Sign: quorumtest.Sign(lockquorum.DeviceID{1}), Trusts: quorumtest.Trusts})
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); _ = d.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return d
}

// reach returns the Engine by which a device reaches a Server.
func reach(t *testing.T, s *Server, from lockquorum.DeviceID, p trust.EntryID) *Engine {
	return &Engine{Practice: p, Open: func(ctx context.Context) (Stream, error) {
		here, there := net.Pipe()
		go func() { _ = s.Serve(t.Context(), pipe{there}, from) }()
		return pipe{here}, nil
	}}
}

// reached is an Engine for all devices of a test.
type reached struct {
	t *testing.T
	s *Server
}

func (r reached) Do(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Request) (lockquorum.Answer, error) {
	return reach(r.t, r.s, from, practice).Do(ctx, from, q)
}

func (r reached) Read(ctx context.Context, from lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	return reach(r.t, r.s, from, practice).Read(ctx, from, q, shown...)
}

func TestContract(t *testing.T) {
	quorumtest.Run(t, func(t *testing.T) lockquorum.Engine {
		d := start(t)
		return reached{t, &Server{Practice: practice, Engine: func() lockquorum.Engine { return d }}}
	})
}

// fixed is an Engine that answers alike.
type fixed struct {
	answer lockquorum.Answer
	err    error
	waits  chan struct{} // closed when a question's context ends; nil: it does not wait
}

func (f fixed) Do(ctx context.Context, _ lockquorum.DeviceID, _ lockquorum.Request) (lockquorum.Answer, error) {
	if f.waits != nil {
		<-ctx.Done()
		close(f.waits)
	}
	return f.answer, f.err
}

func (f fixed) Read(context.Context, lockquorum.DeviceID, lockquorum.Query, ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	return nil, lockquorum.Position{}, f.err
}

// TestErrors: what an Engine answers arrives as what it is, and what is not known to have failed as not known.
func TestErrors(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, c := range []struct{ err, want error }{
			{lockquorum.ErrBusy, lockquorum.ErrBusy},
			{lockquorum.ErrStopped, lockquorum.ErrStopped},
			{lockquorum.ErrForbidden, lockquorum.ErrForbidden},
			{lockquorum.ErrOutcomeUnknown, lockquorum.ErrOutcomeUnknown},
			{errors.Join(lockquorum.ErrOutcomeUnknown, lockquorum.ErrStopped), lockquorum.ErrOutcomeUnknown},
			{context.DeadlineExceeded, lockquorum.ErrOutcomeUnknown},
			{&lockquorum.NotLeaderError{Leader: quorumtest.B}, lockquorum.ErrNotLeader},
			{errors.Join(lockquorum.ErrStopped, lockquorum.ErrLost), lockquorum.ErrLost},
			{errors.Join(lockquorum.ErrStopped, lockquorum.ErrOver), lockquorum.ErrOver},
			{errors.Join(lockquorum.ErrLost, lockquorum.ErrOutcomeUnknown), lockquorum.ErrOutcomeUnknown},
		} {
			s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return fixed{err: c.err} }}
			_, err := reach(t, s, quorumtest.A, practice).Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{}})
			if !errors.Is(err, c.want) {
				t.Errorf("%v arrives as %v", c.err, err)
			}
			if not := (*lockquorum.NotLeaderError)(nil); errors.As(err, &not) && not.Leader != quorumtest.B {
				t.Errorf("the leader is %v", not.Leader)
			}
			if errors.Is(err, lockquorum.ErrOutcomeUnknown) != (c.want == lockquorum.ErrOutcomeUnknown) {
				t.Errorf("%v: whether it was carried out: %v", c.err, err)
			}
		}
		s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return nil }}
		if _, _, err := reach(t, s, quorumtest.A, practice).Read(t.Context(), quorumtest.A, lockquorum.Query{Kind: lockquorum.ReadVoters}); !errors.Is(err, lockquorum.ErrStopped) {
			t.Errorf("where no voter runs: %v", err)
		}
		if _, _, err := reach(t, s, quorumtest.A, trust.EntryID{2}).Read(t.Context(), quorumtest.A, lockquorum.Query{Kind: lockquorum.ReadVoters}); !errors.Is(err, lockquorum.ErrOutcomeUnknown) {
			t.Errorf("of another practice: %v", err)
		}
		none := &Engine{Open: func(context.Context) (Stream, error) { return nil, errors.New("not connected") }}
		if _, err := none.Do(t.Context(), quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{}}); !errors.Is(err, lockquorum.ErrUnreachable) {
			t.Errorf("who is not connected: %v", err)
		}
	})
}

// TestGoesAway: the voter does not wait for who has gone, and nobody for a voter that says nothing.
func TestGoesAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waits := make(chan struct{})
		s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return fixed{waits: waits} }}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := reach(t, s, quorumtest.A, practice).Do(ctx, quorumtest.A, lockquorum.Request{Operation: &lockquorum.Assign{}, Wait: true})
		if !errors.Is(err, lockquorum.ErrOutcomeUnknown) {
			t.Errorf("who goes away: %v", err)
		}
		<-waits
		synctest.Wait()
		if len(s.turns.asked) > 0 {
			t.Errorf("it still counts %v", s.turns.asked)
		}
		silent := &Engine{Practice: practice, Open: func(context.Context) (Stream, error) {
			here, there := net.Pipe()
			go func() { _, _ = there.Read(make([]byte, 1<<10)) }()
			return pipe{here}, nil
		}}
		begun := time.Now()
		if _, _, err := silent.Read(t.Context(), quorumtest.A, lockquorum.Query{Kind: lockquorum.ReadVoters}); !errors.Is(err, lockquorum.ErrOutcomeUnknown) || time.Since(begun) > patience {
			t.Errorf("a voter that says nothing: %v after %v", err, time.Since(begun))
		}
	})
}

// TestAtOnce: one device asks so much at a time, and keeps no place from another.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return fixed{} }}
		for range maxAtOnce {
			here, there := net.Pipe()
			t.Cleanup(func() { _ = here.Close() })
			go func() { _ = s.Serve(t.Context(), pipe{there}, quorumtest.A) }()
		}
		synctest.Wait()
		ask := func(from lockquorum.DeviceID) error {
			_, err := reach(t, s, from, practice).Do(t.Context(), from, lockquorum.Request{Operation: &lockquorum.Assign{}})
			return err
		}
		if err := ask(quorumtest.A); !errors.Is(err, lockquorum.ErrOutcomeUnknown) {
			t.Errorf("one more: %v", err)
		}
		must(t, ask(quorumtest.B))
		time.Sleep(2 * patience) // who says nothing is not waited for
		must(t, ask(quorumtest.A))
	})
}

// TestNames: names are told to whom the Server tells them.
func TestNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Practice: practice, Names: func(from lockquorum.DeviceID, list []Name) []string {
			if from != quorumtest.A {
				return nil
			}
			return []string{"", "billing"}
		}}
		ask := []Name{{1, [32]byte{1}}, {1, [32]byte{2}}}
		got, err := reach(t, s, quorumtest.A, practice).Names(t.Context(), ask)
		if err != nil || len(got) != 2 || got[1] != "billing" {
			t.Errorf("it is told %q (%v)", got, err)
		}
		got, err = reach(t, s, quorumtest.B, practice).Names(t.Context(), ask)
		if err != nil || len(got) != 2 || got[1] != "" {
			t.Errorf("another is told %q (%v)", got, err)
		}
	})
}

// TestNoVoter: who does not vote sends no messages of a voter, however large; nor does who votes no more.
func TestNoVoter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var votes atomic.Bool
		took := 0
		s := &Server{Practice: practice, Votes: func(lockquorum.DeviceID) bool { return votes.Load() }, Receive: func(lockquorum.DeviceID, lockquorum.Seen, *pb.Message) { took++ }}
		b, err := question{practice: practice, kind: kindMessages}.encode()
		must(t, err)
		m, err := marshalMessage(lockquorum.Seen{}, &pb.Message{})
		must(t, err)
		for _, first := range []bool{false, true} {
			votes.Store(first)
			here, there := net.Pipe()
			over := make(chan error, 1)
			go func() { over <- s.Serve(t.Context(), pipe{there}, quorumtest.A) }()
			must(t, writeFrame(here, b))
			if first {
				must(t, writeFrame(here, m))
				synctest.Wait()
				votes.Store(false)
				must(t, writeFrame(here, m))
			}
			begun := time.Now()
			if err := <-over; !errors.Is(err, lockquorum.ErrForbidden) || time.Since(begun) > 0 {
				t.Errorf("voted before: %v: %v after %v", first, err, time.Since(begun))
			}
			must(t, here.Close())
		}
		if took != 1 {
			t.Errorf("%d messages were taken", took)
		}
	})
}

// TestMessages: voters on the network become three, and go on when the first is gone.
func TestMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type machine struct {
			*driver.Driver
			server *Server
			stop   func()
		}
		machines := map[lockquorum.DeviceID]*machine{}
		var gone atomic.Bool // the first
		var mu sync.Mutex
		reaches := func(d lockquorum.DeviceID) bool { return d != quorumtest.A || !gone.Load() }
		begin := func(device lockquorum.DeviceID, rec driver.Record, from *voter.Stored, b driver.Begin) {
			twin := storage.NewTwin()
			must(t, driver.Found(t.Context(), twin, rec, from))
			disk, _, err := driver.OpenDisk(twin)
			must(t, err)
			m := NewMessenger(practice, func(_ context.Context, to lockquorum.DeviceID) (Stream, error) {
				here, there := net.Pipe()
				mu.Lock()
				defer mu.Unlock()
				server := machines[to].server
				go func() { _ = server.Serve(t.Context(), pipe{there}, device) }()
				return pipe{here}, nil
			}, reaches)
			d, err := driver.Open(t.Context(), driver.Config{ID: rec.ID, Device: device, Disk: disk, Allow: quorumtest.Allow, Transport: m, Begin: b})
			must(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			over := make(chan struct{})
			go func() { defer close(over); _ = d.Run(ctx) }()
			stop := func() { cancel(); <-over; m.Close() }
			mu.Lock()
			defer mu.Unlock()
			machines[device] = &machine{d, &Server{Practice: practice, Engine: func() lockquorum.Engine { return d }, Receive: d.Receive, Snapshot: d.ReceiveSnapshot, Votes: func(lockquorum.DeviceID) bool { return true }}, stop}
		}
		first := lockquorum.New(0)
		first.Reseed(1, []lockquorum.Voter{{ID: 1, Device: quorumtest.A}})
		begin(quorumtest.A, driver.Record{Epoch: 1, ID: 1}, voter.Found(first), driver.Begin{})
		time.Sleep(time.Second)
		now := driver.Begin{Epoch: 1, Voters: first.Voters()}
		begin(quorumtest.B, driver.Record{Epoch: 1, ID: 2}, nil, now)
		begin(quorumtest.C, driver.Record{Epoch: 1, ID: 3}, nil, now)
		must(t, machines[quorumtest.A].Change(t.Context(), []lockquorum.Voter{{ID: 1, Device: quorumtest.A}, {ID: 2, Device: quorumtest.B}, {ID: 3, Device: quorumtest.C}}))
		machines[quorumtest.A].stop()
		gone.Store(true)
		time.Sleep(5 * time.Second)
		leads := 0
		for _, d := range []lockquorum.DeviceID{quorumtest.B, quorumtest.C} {
			if machines[d].Status().Leads {
				leads++
			}
		}
		if leads != 1 {
			t.Errorf("%d lead", leads)
		}
		machines[quorumtest.B].stop()
		machines[quorumtest.C].stop()
	})
}

// FuzzMessage reads a voter's message: what it takes it can write, in no more memory than its bytes claim.
func FuzzMessage(f *testing.F) {
	read := func(b []byte) (err error) { _, _, err = parseMessage(b); return err }
	var seeds [][]byte
	for _, m := range []*pb.Message{
		{Type: pb.MsgApp.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Term: proto.Uint64(3), Entries: []*pb.Entry{{Index: proto.Uint64(4), Data: []byte(fuzzing.Canary)}}},
		{Type: pb.MsgSnap.Enum(), Snapshot: &pb.Snapshot{Data: []byte(fuzzing.Canary), Metadata: &pb.SnapshotMetadata{ConfState: &pb.ConfState{Voters: []uint64{1}}}}},
		{Type: pb.MsgVote.Enum(), Context: []byte("x")},
	} {
		b, err := marshalMessage(lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: 300}, Chain: [32]byte{9}}, m)
		if err != nil {
			f.Fatal(err)
		}
		seeds = append(seeds, b)
	}
	fuzzing.Seeds(f, read, seeds...)
	f.Fuzz(func(t *testing.T, b []byte) {
		var at lockquorum.Seen
		var m *pb.Message
		var err error
		fuzzing.Allocates(t, len(b), 128, 16<<10, func() { at, m, err = parseMessage(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		again, err := marshalMessage(at, m)
		if err != nil {
			t.Fatal(err)
		}
		if e, n, err := parseMessage(again); err != nil || e != at || !proto.Equal(m, n) {
			t.Errorf("%x comes back as %v (%v)", b, n, err)
		}
	})
}

// FuzzFrames reads questions (first byte 0) and answers (1): what is taken is written the same, and a frame takes no more memory than it has bytes.
func FuzzFrames(f *testing.F) {
	read := func(b []byte) (again []byte, err error) {
		if b[0] == 0 {
			q, err := parseQuestion(b[1:])
			if err != nil {
				return nil, err
			}
			return q.encode()
		}
		a, err := parseAnswer(b[1:])
		if err != nil {
			return nil, err
		}
		return a.encode(), nil
	}
	asks := func(q question) []byte {
		q.practice = practice
		b, err := q.encode()
		if err != nil {
			f.Fatal(err)
		}
		return append([]byte{0}, b...)
	}
	shown := []lockquorum.Position{quorumtest.Sign(quorumtest.A)(lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: 300}}), {Seen: lockquorum.Seen{Place: lockquorum.Place{Epoch: 1 << 32}}}}
	fuzzing.Seeds(f, func(b []byte) error { _, err := read(b); return err },
		asks(question{kind: kindDo, shown: shown, request: lockquorum.Request{Operation: &lockquorum.Keep{}}}),
		asks(question{kind: kindRead, shown: shown}), asks(question{kind: kindCertify, shown: shown[:1]}),
		append([]byte{1}, answer{kind: kindDo, at: shown[0]}.encode()...), append([]byte{1}, answer{kind: kindRead, at: shown[1]}.encode()...),
		append([]byte{1}, refused(lockquorum.ErrLost).encode()...),
		asks(question{kind: kindDo, request: lockquorum.Request{Session: lockquorum.SessionID{1}, Seq: 3, Done: 2, Wait: true, Operation: &lockquorum.Acquire{TTL: 20000}}}),
		asks(question{kind: kindDo, request: lockquorum.Request{Operation: &lockquorum.Resolve{To: lockquorum.NumberVoid, Note: []byte(fuzzing.Canary)}}}),
		asks(question{kind: kindMessages}), asks(question{kind: kindChange, devices: []lockquorum.DeviceID{quorumtest.A, quorumtest.B}}),
		asks(question{kind: kindBegin, begin: Begin{1, 300, []lockquorum.Voter{{ID: 1, Device: quorumtest.A}}}}),
		append([]byte{1}, answer{kind: kindChange}.encode()...), append([]byte{1}, answer{kind: kindBegin}.encode()...),
		asks(question{kind: kindRead, query: lockquorum.Query{Kind: lockquorum.ReadNumbers, ID: [32]byte{5}, Series: 2, Number: 300}}), asks(question{kind: kindSnapshot}),
		append([]byte{1}, answer{kind: kindSnapshot, wanted: []byte{0xff, 3}}.encode()...),
		asks(question{kind: kindRead}), asks(question{kind: kindNames, names: []Name{{1, [32]byte{2}}, {3, [32]byte{4}}}}),
		append([]byte{1}, answer{kind: kindDo, answer: lockquorum.Answer{Result: lockquorum.Result{Code: 1, Number: 7, Series: lockquorum.SeriesID{Epoch: 1, N: 2}},
			Place: lockquorum.Place{Epoch: 1, Index: 300}, Documents: []lockquorum.Document{{Heads: lockquorum.Heads{1}}}}}.encode()...),
		asks(question{kind: kindCertify, lock: lockquorum.LockID{5}, document: lockquorum.DocumentID{6}}),
		append([]byte{1}, answer{kind: kindCertify, signed: certificate.Signed{Statement: []byte(fuzzing.Canary), Voter: quorumtest.A}}.encode()...),
		asks(question{kind: kindTestimony, hold: true}), append([]byte{1}, answer{kind: kindTestimony, length: 1 << 20}.encode()...),
		asks(question{kind: kindPrepare, prepare: Prepare{Entry: trust.EntryID{7}, Epoch: 1 << 33, Number: 2}, length: 4711}), append([]byte{1}, answer{kind: kindPrepare}.encode()...),
		append([]byte{1}, answer{kind: kindRead, view: lockquorum.New(1).View(lockquorum.Query{}, 0)}.encode()...),
		append([]byte{1}, answer{kind: kindNames, names: []string{"", fuzzing.Canary}}.encode()...),
		append([]byte{1}, refused(&lockquorum.NotLeaderError{Leader: quorumtest.A}).encode()...),
		append([]byte{1}, refused(lockquorum.ErrBusy).encode()...))
	f.Add(append([]byte{0}, 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) == 0 || b[0] > 1 {
			return
		}
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 32, 16<<10, func() { again, err = read(b) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.Equal(again, b[1:]) {
			t.Errorf("%x comes back as %x", b[1:], again)
		}
		var frame []byte
		fuzzing.Allocates(t, len(b), 8, 16<<10, func() { frame, err = readFrame(bytes.NewReader(b[1:]), maxView) })
		if err == nil && (len(b) < 5+len(frame) || !bytes.Equal(frame, b[5:5+len(frame)])) {
			t.Errorf("a frame of %x is %x", b[1:], frame)
		}
	})
}

// TestCertify: a voter's word comes as it signed it; who has none to give says so.
func TestCertify(t *testing.T) {
	s := &Server{Practice: practice, Engine: func() lockquorum.Engine { return nil }}
	e := reach(t, s, quorumtest.B, practice)
	if _, err := e.Certify(t.Context(), lockquorum.LockID{1}, lockquorum.DocumentID{2}); !errors.Is(err, lockquorum.ErrForbidden) {
		t.Errorf("who certifies nothing answers %v", err)
	}
	want := certificate.Signed{Statement: []byte("statement"), Voter: quorumtest.A, Signature: [64]byte{7}}
	s.Certify = func(_ context.Context, from lockquorum.DeviceID, lock lockquorum.LockID, document lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error) {
		if from != quorumtest.B || lock != (lockquorum.LockID{1}) || document != (lockquorum.DocumentID{2}) || len(shown) != 1 || shown[0].Index != 7 {
			return certificate.Signed{}, &lockquorum.NotLeaderError{Leader: from}
		}
		return want, nil
	}
	got, err := e.Certify(t.Context(), lockquorum.LockID{1}, lockquorum.DocumentID{2}, lockquorum.Position{Seen: lockquorum.Seen{Place: lockquorum.Place{Epoch: 1, Index: 7}}})
	must(t, err)
	if !bytes.Equal(got.Statement, want.Statement) || got.Voter != want.Voter || got.Signature != want.Signature {
		t.Errorf("came %v, want %v", got, want)
	}
	if _, err := e.Certify(t.Context(), lockquorum.LockID{9}, lockquorum.DocumentID{2}); !errors.Is(err, lockquorum.ErrNotLeader) {
		t.Errorf("who does not lead answers %v", err)
	}
}

// TestDoubt: it is said of a device that it does not answer, not of one that who asked did not wait for.
func TestDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		doubts := 0
		e := &Engine{Practice: practice, Doubt: func() { doubts++ }, Open: func(context.Context) (Stream, error) {
			here, there := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, there) }()
			return pipe{here}, nil
		}}
		for _, c := range []struct {
			end  func(context.Context) (context.Context, context.CancelFunc)
			want int
		}{
			{func(ctx context.Context) (context.Context, context.CancelFunc) {
				ctx, cancel := context.WithCancel(ctx)
				time.AfterFunc(time.Second, cancel)
				return ctx, cancel
			}, 0},
			{func(ctx context.Context) (context.Context, context.CancelFunc) {
				return context.WithTimeout(ctx, time.Second)
			}, 1},
		} {
			ctx, cancel := c.end(t.Context())
			_, err := e.Do(ctx, lockquorum.DeviceID{}, lockquorum.Request{Operation: &lockquorum.Tick{}})
			cancel()
			if !errors.Is(err, lockquorum.ErrOutcomeUnknown) || doubts != c.want {
				t.Errorf("%v, and it was doubted %d times", err, doubts)
			}
		}
	})
}
