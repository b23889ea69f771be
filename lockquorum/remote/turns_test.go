package remote

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/quorumtest"
	"chartmesh/trust"
)

// TestServers: what is asked goes to the practice that it names, of those that the device may speak to, and each is given back.
func TestServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		used := 0
		one := &Server{Practice: practice, Engine: func() lockquorum.Engine { return nil }}
		s := &Servers{}
		of := func(from lockquorum.DeviceID) func(context.Context, trust.EntryID) (*Server, func()) {
			return func(_ context.Context, p trust.EntryID) (*Server, func()) {
				if p != practice || from != quorumtest.A {
					return nil, nil
				}
				used++
				return one, func() { used-- }
			}
		}
		ask := func(p trust.EntryID, from lockquorum.DeviceID) error {
			served := make(chan error, 1)
			e := &Engine{Practice: p, Open: func(context.Context) (Stream, error) {
				here, there := net.Pipe()
				go func() { served <- s.Serve(t.Context(), pipe{there}, from, of(from)) }()
				return pipe{here}, nil
			}}
			_, _, err := e.Read(t.Context(), from, lockquorum.Query{Kind: lockquorum.ReadVoters})
			return errors.Join(err, <-served)
		}
		if err := ask(practice, quorumtest.A); !errors.Is(err, lockquorum.ErrStopped) {
			t.Errorf("it answers %v", err)
		}
		for _, c := range []struct {
			p    trust.EntryID
			from lockquorum.DeviceID
		}{{practice, quorumtest.B}, {trust.EntryID{2}, quorumtest.A}} {
			if err := ask(c.p, c.from); !errors.Is(err, errNoServer) {
				t.Errorf("of %v, by %v, it answers %v", c.p, c.from, err)
			}
		}
		if used != 0 {
			t.Errorf("%d questions are under way", used)
		}
	})
}

// TestOneStreamOfMessages: a voter's messages come on one stream, the latest; each may be large.
func TestOneStreamOfMessages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var took atomic.Int32
		s := &Server{
			Practice: practice, Engine: func() lockquorum.Engine { return nil }, Votes: func(lockquorum.DeviceID) bool { return true },
			Receive: func(lockquorum.DeviceID, lockquorum.Seen, *pb.Message) { took.Add(1) },
		}
		b, err := question{practice: practice, kind: kindMessages}.encode()
		must(t, err)
		m, err := marshalMessage(lockquorum.Seen{Place: lockquorum.Place{Epoch: 1}}, &pb.Message{})
		must(t, err)
		open := func(from lockquorum.DeviceID) net.Conn {
			here, there := net.Pipe()
			go func() { _ = s.Serve(t.Context(), pipe{there}, from) }()
			must(t, writeFrame(here, b))
			must(t, writeFrame(here, m))
			synctest.Wait()
			return here
		}
		first, other, second := open(quorumtest.A), open(quorumtest.B), open(quorumtest.A)
		if writeFrame(first, m) == nil {
			t.Error("the stream of before is read on")
		}
		must(t, writeFrame(other, m))
		must(t, writeFrame(second, m))
		must(t, other.Close())
		must(t, second.Close())
		synctest.Wait()
		if took.Load() != 5 || len(s.speaking.on) != 0 {
			t.Errorf("%d messages were taken, and %d streams are counted", took.Load(), len(s.speaking.on))
		}
	})
}
