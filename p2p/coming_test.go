package p2p

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/p2p/session"
	"chartmesh/p2p/session/sessiontest"
	"chartmesh/trust"
)

// halting is a frame that comes but for its last byte, until the rest is let go.
type halting struct {
	come io.Reader
	rest chan struct{}
	last io.Reader
	h    *hold
}

// hold counts what was taken off all streams.
type hold struct {
	sync.Mutex
	taken int
}

func (s *halting) Read(b []byte) (int, error) {
	n, err := s.come.Read(b)
	if errors.Is(err, io.EOF) {
		<-s.rest
		n, err = s.last.Read(b)
	}
	s.h.Lock()
	defer s.h.Unlock()
	s.h.taken += n
	return n, err
}

// TestFramesThatNeverCome: frames that many devices of a practice begin and do not end take no more memory than is there for one practice;
// another one's come all the same, and so do theirs when there is room.
func TestFramesThatNeverCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &Host{}
		h.mu.of, h.mu.peers = map[session.Replica]*sessions{}, map[trust.DeviceID]*member{}
		const most = 32 << 20
		frame := make([]byte, session.MaxFrame)
		frame[0] = 200 // of a kind that is not known
		var heads [4]byte
		binary.BigEndian.PutUint32(heads[:], uint32(len(frame)))
		hold := new(hold)
		begins := func(of session.Replica, rest chan struct{}) chan error {
			s := &halting{come: io.MultiReader(bytes.NewReader(heads[:]), bytes.NewReader(frame[1:])), rest: rest, last: bytes.NewReader(frame[:1]), h: hold}
			l := &link{stream: &bytesStream{Reader: s}, replica: of, wake: make(chan struct{}, 1), session: session.New(session.Config{Replica: of})}
			ended := make(chan error, 1)
			go func() { ended <- h.read(t.Context(), l) }()
			return ended
		}
		one, other, rest := &owed{}, &owed{}, make(chan struct{})
		h.ofLocked(one).coming.most = most
		var ended []chan error
		for range 12 {
			ended = append(ended, begins(one, rest))
		}
		synctest.Wait()
		if hold.taken > most+12*ownFrame {
			t.Errorf("%d MiB are held of frames that are not whole", hold.taken>>20)
		}
		foreign := begins(other, rest)
		synctest.Wait()
		select {
		case err := <-foreign:
			t.Errorf("another practice's frame does not come: %v", err)
		default:
		}
		close(rest)
		synctest.Wait()
		later := begins(one, rest)
		if err := <-later; errors.Is(err, errTooMuch) {
			t.Errorf("what comes later is not taken: %v", err)
		}
		for _, c := range append(ended, foreign) {
			if err := <-c; err == nil {
				t.Error("a link has ended without a reason")
			}
		}
	})
}

// standing is a stream that takes nothing, until it ends.
type standing struct {
	bytesStream
	end chan struct{}
}

func (s *standing) Write(b []byte) (int, error) {
	<-s.end
	return 0, io.ErrClosedPipe
}

// TestFramesThatAreNotTaken: large chunks that many devices of a practice ask for and do not take stay in memory for as many as there is room for.
func TestFramesThatAreNotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		scope, size := trust.ScopeID{1}, 4<<20
		from := sessiontest.New(trust.DeviceID{1}, trust.EntryID{1}, scope)
		going, end := &large{most: int64(3 * size)}, make(chan struct{})
		var all []*session.Session
		for i := range byte(8) {
			s := session.New(session.Config{Self: from.Device, Peer: trust.DeviceID{2, i}, Replica: from, Locate: sessiontest.Locate})
			asks := session.New(session.Config{Self: trust.DeviceID{2, i}, Peer: from.Device, Replica: sessiontest.New(trust.DeviceID{2, i}, trust.EntryID{1}, scope), Locate: sessiontest.Locate})
			s.Start(time.Now())
			asks.Start(time.Now())
			for range 4 { // until it knows that the other has nothing
				for a, b := range map[*session.Session]*session.Session{s: asks, asks: s} {
					if f, err := a.Next(t.Context(), time.Now()); err != nil {
						t.Fatal(err)
					} else if f != nil {
						if _, err := b.Handle(t.Context(), time.Now(), f); err != nil {
							t.Fatal(err)
						}
					}
				}
			}
			all = append(all, s)
		}
		from.Edit(scope, make([]byte, size))
		var ended []chan error
		for _, s := range all {
			s.LocalChunks(time.Now())
			l, c := &link{stream: &standing{end: end}, replica: from, wake: make(chan struct{}, 1), session: s}, make(chan error, 1)
			ended = append(ended, c)
			go func() { c <- l.write(t.Context(), going) }()
		}
		synctest.Wait()
		stand := 0
		for _, c := range ended {
			if len(c) == 0 {
				stand++
			} else if err := <-c; !errors.Is(err, errTooMuch) {
				t.Error(err)
			}
		}
		if stand != 3 {
			t.Errorf("%d large frames stand in memory, and there is room for 3", stand)
		}
		close(end)
		synctest.Wait()
		if left := going.bytes.Load(); left != 0 {
			t.Errorf("%d bytes are not given back", left)
		}
	})
}
