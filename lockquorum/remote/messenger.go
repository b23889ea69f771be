package remote

import (
	"context"
	"errors"
	"sync"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/trust"
)

// Messenger carries a voter's messages to others, on one stream to each. What does not arrive is not sent again: Raft does that.
type Messenger struct {
	practice trust.EntryID
	open     func(context.Context, lockquorum.DeviceID) (Stream, error)
	reaches  func(lockquorum.DeviceID) bool
	ctx      context.Context
	cancel   context.CancelFunc
	work     sync.WaitGroup

	mu struct {
		sync.Mutex
		closed bool
		queues map[lockquorum.DeviceID]chan []byte
	}
}

// maxQueue is how many messages wait for a device.
const maxQueue = 512

var (
	errGone = errors.New("it is not connected")
	errSlow = errors.New("too many messages wait for it")
)

// NewMessenger returns one that opens streams as Engine does.
func NewMessenger(practice trust.EntryID, open func(context.Context, lockquorum.DeviceID) (Stream, error), reaches func(lockquorum.DeviceID) bool) *Messenger {
	m := &Messenger{practice: practice, open: open, reaches: reaches}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	m.mu.queues = map[lockquorum.DeviceID]chan []byte{}
	return m
}

// Close ends all streams.
func (m *Messenger) Close() {
	m.mu.Lock()
	m.mu.closed = true
	m.mu.Unlock()
	m.cancel()
	m.work.Wait()
}

// Send takes a message. It does not block; an error says that it will not arrive.
func (m *Messenger) Send(to lockquorum.DeviceID, at lockquorum.Seen, msg *pb.Message) error {
	if !m.reaches(to) {
		return errGone
	}
	b, err := marshalMessage(at, msg)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.mu.closed {
		return errGone
	}
	q := m.mu.queues[to]
	if q == nil {
		q = make(chan []byte, maxQueue)
		m.mu.queues[to] = q
		m.work.Go(func() { m.carry(to, q) })
	}
	select {
	case q <- b:
		return nil
	default:
		return errSlow
	}
}

// again is after how long a stream is opened again that broke.
const again = 100 * time.Millisecond

// carry writes what is queued for a device. While there is no stream, what waits is dropped.
func (m *Messenger) carry(to lockquorum.DeviceID, q <-chan []byte) {
	for m.ctx.Err() == nil {
		m.stream(to, q)
		for range len(q) {
			<-q
		}
		select {
		case <-m.ctx.Done():
		case <-time.After(again):
		}
	}
}

func (m *Messenger) stream(to lockquorum.DeviceID, q <-chan []byte) {
	var first []byte
	select {
	case <-m.ctx.Done():
		return
	case first = <-q:
	}
	st, err := m.open(m.ctx, to)
	if err != nil {
		return
	}
	defer func() { _ = st.Reset() }()
	defer context.AfterFunc(m.ctx, func() { _ = st.Reset() })()
	b, err := question{practice: m.practice, kind: kindMessages}.encode()
	if err != nil {
		return
	}
	for _, frame := range [][]byte{b, first} {
		_ = st.SetDeadline(time.Now().Add(patience))
		if writeFrame(st, frame) != nil {
			return
		}
	}
	for {
		select {
		case <-m.ctx.Done():
			return
		case frame := <-q:
			_ = st.SetDeadline(time.Now().Add(patience))
			if writeFrame(st, frame) != nil {
				return
			}
		}
	}
}
