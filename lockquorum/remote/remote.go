// Package remote carries operations to the voter of another device, each on a stream of its own.
//
// Nouns: an Engine asks the voter of another device; a Server answers for the voter of this one.
//
// Guarantees: the Server takes for who asks whom the caller says that the connection proved, never what a question says; it waits no longer for
// who has gone away; everything that comes has a cap, and so has how much one device asks at a time. An Engine says ErrUnreachable only of what
// was not sent.
//
// Left to others: opening streams, and who may.
package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/trust"
)

// Stream is a connection to one device. *Deadline bounds reading and writing; Reset ends both sides' use of it.
type Stream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
}

// Periods.
const (
	patience = 10 * time.Second // with a question or an answer on its way
	silence  = 2 * time.Minute  // without a sign of life from who is asked, of a question that waits
)

// maxAtOnce is how much one device asks at a time.
const maxAtOnce = 320 // more than it has sessions

// Server answers for the voter of this device.
type Server struct {
	Practice trust.EntryID
	// Engine is the voter; nil: there is none, or it does not run.
	Engine func() lockquorum.Engine
	// Names returns the names behind keyed hashes, for a device that may know them; empty: not known. nil: none is told.
	Names func(from lockquorum.DeviceID, list []Name) []string

	// Votes reports whether a device is one whose voter's messages are taken, each of which may be large; nil: none is.
	Votes func(from lockquorum.DeviceID) bool
	// Receive takes a voter's message; nil: none is taken.
	Receive func(from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message)
	// Snapshot takes a voter's message that carries a snapshot, of which fetch has the pieces come that are lacking; nil: none is taken.
	Snapshot func(ctx context.Context, from lockquorum.DeviceID, at lockquorum.Seen, m *pb.Message, fetch Fetch) error
	// Begin has this device begin to vote, and Change has others vote, at a device's word; nil: that is ErrForbidden.
	Begin  func(ctx context.Context, from lockquorum.DeviceID, b Begin) error
	Change func(ctx context.Context, from lockquorum.DeviceID, devices []lockquorum.DeviceID) error
	// Certify signs what the voter says of a document; nil: that is ErrForbidden.
	Certify func(ctx context.Context, from lockquorum.DeviceID, lock lockquorum.LockID, document lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error)
	// Testify returns what this device has of the quorum; with hold, its voter gives nothing from then on, for Hold. nil: that is ErrForbidden.
	Testify func(ctx context.Context, from lockquorum.DeviceID, hold bool) (Testimony, error)
	// Founds reports whether a device may have voters stored, and Prepare stores one; nil: that is ErrForbidden.
	Founds  func(from lockquorum.DeviceID) bool
	Prepare func(ctx context.Context, from lockquorum.DeviceID, p Prepare) error

	turns     turns
	speaking  speaking
	snapshots speaking
}

// Fetch has pieces of a snapshot come, and calls take with each.
type Fetch = func(sums []lockquorum.Sum, take func(piece []byte) error) error

// Serve answers one question of a device, which the connection has proven.
func (s *Server) Serve(ctx context.Context, st Stream, from lockquorum.DeviceID) error {
	return s.turns.serve(ctx, st, from, func(_ context.Context, practice trust.EntryID) (*Server, func()) {
		if practice != s.Practice {
			return nil, nil
		}
		return s, func() {}
	})
}

// Servers answer for the voters of several practices.
type Servers struct{ turns turns }

// Serve answers one question of a device, which the connection has proven. Of returns the Server of a practice, and what is called when it is not used any
// more; nil: there is none that the device may speak to.
func (s *Servers) Serve(ctx context.Context, st Stream, from lockquorum.DeviceID, of func(context.Context, trust.EntryID) (*Server, func())) error {
	return s.turns.serve(ctx, st, from, of)
}

// answering answers a question that was read.
func (s *Server) answering(ctx context.Context, cancel func(), st Stream, from lockquorum.DeviceID, q question) error {
	if q.kind == kindMessages {
		err := s.messages(st, from)
		_ = st.Reset()
		return err
	}
	if q.kind == kindSnapshot {
		err := s.takeSnapshot(ctx, st, from)
		_ = st.Reset()
		return err
	}
	var unfit error
	if q.kind == kindPrepare {
		unfit = s.prepare(st, from, &q.prepare, q.length)
	}
	_ = st.SetDeadline(time.Time{})
	gone := make(chan struct{})
	go func() { // who asks says nothing more, and goes away at the end
		defer close(gone)
		if unfit != nil { // what was to follow is on its way
			_, _ = io.CopyN(io.Discard, st, 2*maxState)
		} else {
			_, _ = io.CopyN(io.Discard, st, 1)
		}
		cancel()
	}()
	var a answer
	if unfit != nil {
		a = refused(unfit)
	} else {
		a = s.answer(ctx, from, q)
	}
	var err error
	if ctx.Err() == nil {
		_ = st.SetDeadline(time.Now().Add(patience))
		if err = writeFrame(st, a.encode()); err == nil {
			err = writePieces(st, a.pieces)
		}
		if err == nil {
			select {
			case <-gone: // it has been read
			case <-time.After(patience):
			}
		}
	}
	_ = st.Reset()
	<-gone
	return err
}

// messages takes a voter's messages until the stream ends.
func (s *Server) messages(st Stream, from lockquorum.DeviceID) error {
	if s.Receive == nil || s.Votes == nil {
		return lockquorum.ErrStopped
	}
	defer s.speaking.begin(from, st)()
	for {
		if !s.Votes(from) {
			return lockquorum.ErrForbidden
		}
		_ = st.SetDeadline(time.Now().Add(silence))
		b, err := readFrame(st, maxMessage)
		if err != nil {
			return err
		}
		if !s.Votes(from) { // it may be long ago that it did
			return lockquorum.ErrForbidden
		}
		at, m, err := parseMessage(b)
		if err != nil {
			return err
		}
		s.Receive(from, at, m)
	}
}

// done answers what is carried out or not.
func done(kind byte, err error) answer {
	if err != nil {
		return refused(err)
	}
	return answer{kind: kind}
}

func (s *Server) answer(ctx context.Context, from lockquorum.DeviceID, q question) answer {
	if q.kind == kindNames {
		a := answer{kind: kindNames, names: make([]string, len(q.names))}
		if s.Names != nil {
			copy(a.names, s.Names(from, q.names))
		}
		return a
	}
	switch {
	case q.kind == kindBegin && s.Begin != nil:
		return done(q.kind, s.Begin(ctx, from, q.begin))
	case q.kind == kindChange && s.Change != nil:
		return done(q.kind, s.Change(ctx, from, q.devices))
	case q.kind == kindCertify && s.Certify != nil:
		signed, err := s.Certify(ctx, from, q.lock, q.document, q.shown...)
		if err != nil {
			return refused(err)
		}
		return answer{kind: q.kind, signed: signed}
	case q.kind == kindTestimony && s.Testify != nil:
		return s.testify(ctx, from, q.hold)
	case q.kind == kindPrepare && s.Prepare != nil:
		return done(q.kind, s.Prepare(ctx, from, q.prepare))
	case q.kind == kindBegin, q.kind == kindChange, q.kind == kindCertify, q.kind == kindTestimony, q.kind == kindPrepare:
		return refused(lockquorum.ErrForbidden)
	}
	e := s.Engine()
	if e == nil {
		return refused(lockquorum.ErrStopped)
	}
	if q.kind == kindRead {
		v, at, err := e.Read(ctx, from, q.query, q.shown...)
		if err != nil {
			return refused(err)
		}
		return answer{kind: kindRead, at: at, view: v.Marshal()}
	}
	q.request.Shown = q.shown
	got, err := e.Do(ctx, from, q.request)
	if err != nil {
		return refused(err)
	}
	return answer{kind: kindDo, at: got.Position, answer: got}
}

// Engine asks the voter of another device.
type Engine struct {
	Practice trust.EntryID
	// Open opens a stream to the device. It fails at once where the device is not connected.
	Open func(context.Context) (Stream, error)
	// Doubt is told that the device has not answered in time, though it is connected; nil: nobody is.
	Doubt func()
}

var _ lockquorum.Engine = (*Engine)(nil)

// ask asks one question. What was sent may have been carried out, whatever becomes of the answer.
func (e *Engine) ask(ctx context.Context, q question, limit int) (answer, error) {
	return e.exchange(ctx, q, limit, nil, nil)
}

// converse asks one question that something follows, or whose answer is followed by something.
func (e *Engine) converse(ctx context.Context, q question, pieces []byte, more func(Stream, answer) error) (answer, error) {
	return e.exchange(ctx, q, maxAnswer, pieces, more)
}

func (e *Engine) exchange(ctx context.Context, q question, limit int, pieces []byte, more func(Stream, answer) error) (answer, error) {
	q.practice = e.Practice
	b, err := q.encode()
	if err != nil {
		return answer{}, err
	}
	st, err := e.Open(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return answer{}, context.Cause(ctx)
		}
		return answer{}, fmt.Errorf("%w: %w", lockquorum.ErrUnreachable, err)
	}
	defer func() { _ = st.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = st.Reset() })()
	wait := patience
	if q.request.Wait || q.kind == kindChange {
		wait = silence
	}
	_ = st.SetDeadline(time.Now().Add(wait))
	err = writeFrame(st, b)
	if err == nil && len(pieces) > 0 {
		err = writePieces(st, pieces)
		_ = st.SetDeadline(time.Now().Add(wait))
	}
	var a answer
	if err == nil || len(pieces) > 0 { // who refuses may not have read all
		a, err = readAnswer(st, limit)
	}
	switch {
	case err == nil && a.kind == kindRefused:
		return answer{}, a.err()
	case err == nil && a.kind != q.kind:
		err = errors.New("the answer is to another question")
	case err == nil && more != nil:
		err = more(st, a)
	}
	if err != nil {
		if e.Doubt != nil && errors.Is(ctx.Err(), context.DeadlineExceeded) {
			e.Doubt()
		}
		return answer{}, fmt.Errorf("%w: %w", lockquorum.ErrOutcomeUnknown, err)
	}
	return a, nil
}

func readAnswer(st Stream, limit int) (answer, error) {
	b, err := readFrame(st, limit)
	if err != nil {
		return answer{}, err
	}
	return parseAnswer(b)
}

// Do implements lockquorum.Engine. The other device takes for who asks whom the connection proves, so that from is this one.
func (e *Engine) Do(ctx context.Context, _ lockquorum.DeviceID, r lockquorum.Request) (lockquorum.Answer, error) {
	a, err := e.ask(ctx, question{kind: kindDo, shown: r.Shown, request: r}, maxAnswer)
	a.answer.Position = a.at
	return a.answer, err
}

// Read implements lockquorum.Engine.
func (e *Engine) Read(ctx context.Context, _ lockquorum.DeviceID, q lockquorum.Query, shown ...lockquorum.Position) (*lockquorum.View, lockquorum.Position, error) {
	a, err := e.ask(ctx, question{kind: kindRead, query: q, shown: shown}, maxView)
	if err != nil {
		return nil, lockquorum.Position{}, err
	}
	v, err := lockquorum.ParseView(q, a.view)
	return v, a.at, err
}

// Names asks for the names behind keyed hashes; empty: the other device does not know it.
func (e *Engine) Names(ctx context.Context, list []Name) ([]string, error) {
	a, err := e.ask(ctx, question{kind: kindNames, names: list}, maxAnswer)
	if err != nil {
		return nil, err
	}
	if len(a.names) != len(list) {
		return nil, fmt.Errorf("%d names were asked for, and %d come", len(list), len(a.names))
	}
	return a.names, nil
}

// Begin asks the device to begin to vote.
func (e *Engine) Begin(ctx context.Context, b Begin) error {
	_, err := e.ask(ctx, question{kind: kindBegin, begin: b}, maxAnswer)
	return err
}

// Change asks the device, which leads, to have others vote.
func (e *Engine) Change(ctx context.Context, devices []lockquorum.DeviceID) error {
	_, err := e.ask(ctx, question{kind: kindChange, devices: devices}, maxAnswer)
	return err
}

// Certify asks for what the voter says of a document, signed. It is lockquorum.NotLeaderError where another has to be asked.
func (e *Engine) Certify(ctx context.Context, lock lockquorum.LockID, document lockquorum.DocumentID, shown ...lockquorum.Position) (certificate.Signed, error) {
	a, err := e.ask(ctx, question{kind: kindCertify, shown: shown, lock: lock, document: document}, maxAnswer)
	return a.signed, err
}
