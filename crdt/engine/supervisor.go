package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"chartmesh/crdt"
	"chartmesh/wire"
)

// Config says how the child is held. The zero value is ready for use.
type Config struct {
	Memory      int64         // bytes of address space that the child may take beyond what it starts with; 0: 2 GiB
	CallTimeout time.Duration // after which a call that is being executed ends the child; 0: 30 s
	Logger      *slog.Logger  // told when the child ends by accident; nil: nobody
}

// A Supervisor is a crdt.Engine whose documents live in a child process. Calls for different documents may wait at once;
// the child executes them in the order in which they came.
//
// When the child ends, the call that it was executing gets crdt.ErrEngine, the others crdt.ErrNotLoaded; the next call
// starts another child, which holds no document. While none can be started, calls get ErrStart. A caller whose context
// ends gets its error, and its document is forgotten.
type Supervisor struct {
	config  Config
	path    string
	number  atomic.Uint64
	start   chan struct{} // held by who starts a child, in the end by Close
	closing chan struct{} // closed by Close
	logs    sync.WaitGroup
	mu      struct {
		sync.Mutex
		process   *process
		starts    int
		failures  int       // starts that failed, since the last good one
		notBefore time.Time // for the next start
		last      error     // of the last start
		closed    bool
	}
}

var _ crdt.Engine = (*Supervisor)(nil)

// Start starts the child. The binary must call ChildMain first in its main.
func Start(config Config) (*Supervisor, error) {
	if !supported {
		return nil, ErrUnsupported
	}
	path, err := executable()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	return startAt(path, config)
}

func startAt(path string, config Config) (*Supervisor, error) {
	if os.Getenv(childMark) != "" {
		return nil, fmt.Errorf("%w: this is a child already: its main does not begin with ChildMain", ErrStart)
	}
	if config.Memory < 0 || config.CallTimeout < 0 {
		return nil, fmt.Errorf("%w: negative limit", ErrStart)
	}
	if config.Memory == 0 {
		config.Memory = defaultMemory
	}
	if config.CallTimeout == 0 {
		config.CallTimeout = defaultCallTimeout
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Supervisor{config: config, path: path, start: make(chan struct{}, 1), closing: make(chan struct{})}
	if _, err := s.child(context.Background()); err != nil {
		return nil, err
	}
	return s, nil
}

// child returns the running child and starts one if there is none.
func (s *Supervisor) child(ctx context.Context) (*process, error) {
	if p, err := s.running(); p != nil || err != nil {
		return p, err
	}
	select {
	case s.start <- struct{}{}:
		defer func() { <-s.start }()
	case <-s.closing:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if p, err := s.running(); p != nil || err != nil {
		return p, err
	}
	if err := s.tooSoon(); err != nil {
		return nil, err
	}
	p, err := startProcess(s.path, uint64(s.config.Memory), s.config.CallTimeout)
	if err != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.mu.last = err
		s.mu.notBefore = time.Now().Add(min(firstBackoff<<min(s.mu.failures, 16), maxBackoff))
		s.mu.failures++
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	if !s.take(p) {
		p.close()
		return nil, ErrClosed
	}
	return p, nil
}

// take makes p the child, unless the supervisor was closed meanwhile.
func (s *Supervisor) take(p *process) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return false
	}
	s.mu.process, s.mu.failures = p, 0
	s.mu.starts++
	s.logs.Go(func() { s.report(p) })
	return true
}

// running returns the child if it takes calls.
func (s *Supervisor) running() (*process, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.closed {
		return nil, ErrClosed
	}
	if p := s.mu.process; p != nil && p.alive() {
		return p, nil
	}
	return nil, nil
}

// tooSoon refuses a start shortly after one that failed.
func (s *Supervisor) tooSoon() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait := time.Until(s.mu.notBefore); wait > 0 {
		return fmt.Errorf("%w: next attempt in %v: %w", ErrStart, wait.Round(time.Millisecond), s.mu.last)
	}
	return nil
}

// report logs the end of a child that nobody wanted.
func (s *Supervisor) report(p *process) {
	<-p.ended
	p.mu.Lock()
	closed := p.mu.closed
	p.mu.Unlock()
	if !closed {
		s.config.Logger.Warn("engine process ended", "cause", p.causeOfEnd())
	}
}

// do makes one call. The writer holds the frame from newFrame with the payload.
func (s *Supervisor) do(ctx context.Context, doc crdt.DocumentID, v verb, payload func(*wire.Writer)) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, s.abandon(doc, err)
	}
	number := s.number.Add(1)
	w := newFrame(v, number, doc)
	payload(w)
	frame, err := seal(w, 0)
	if err != nil {
		return nil, s.abandon(doc, fmt.Errorf("%w: %w", crdt.ErrEngine, err))
	}
	c := &call{frame: frame, number: number, answer: make(chan result, 1)}
	p, err := s.child(ctx)
	if err != nil {
		return nil, s.abandon(doc, err)
	}
	if !p.enqueue(c) {
		return nil, crdt.ErrNotLoaded
	}
	select {
	case r := <-c.answer:
		return r.payload, r.err
	case <-ctx.Done():
		p.withdraw(c)
		return nil, s.abandon(doc, ctx.Err())
	}
}

// abandon has a document forgotten whose call failed on this side, and returns err.
func (s *Supervisor) abandon(doc crdt.DocumentID, err error) error {
	if p, _ := s.running(); p != nil {
		number := s.number.Add(1)
		if frame, e := seal(newFrame(verbForget, number, doc), 0); e == nil {
			p.enqueue(&call{frame: frame, number: number, answer: make(chan result, 1)})
		}
	}
	return err
}

// attempts is how often Load begins anew because the child ended while others' calls were in front.
const attempts = 3

func (s *Supervisor) Load(
	ctx context.Context, doc crdt.DocumentID, saved []byte, changes [][]byte,
) (state crdt.State, err error) {
	for range attempts {
		if state, err = s.load(ctx, doc, saved, changes); !errors.Is(err, crdt.ErrNotLoaded) {
			break
		}
	}
	return state, err
}

func (s *Supervisor) load(
	ctx context.Context, doc crdt.DocumentID, saved []byte, changes [][]byte,
) (crdt.State, error) {
	first, rest := batch(changes, maxBatch)
	state, err := s.state(s.do(ctx, doc, verbLoad, func(w *wire.Writer) {
		w.Blob(saved)
		appendChanges(w, first)
	}))
	if err != nil || len(rest) == 0 {
		return state, err
	}
	return s.Apply(ctx, doc, rest)
}

// Apply of very many changes takes several calls; an error among them forgets the document like any other.
func (s *Supervisor) Apply(
	ctx context.Context, doc crdt.DocumentID, changes [][]byte,
) (state crdt.State, err error) {
	for {
		var now [][]byte
		now, changes = batch(changes, maxBatch)
		state, err = s.state(s.do(ctx, doc, verbApply, func(w *wire.Writer) { appendChanges(w, now) }))
		if err != nil || len(changes) == 0 {
			return state, err
		}
	}
}

// batch cuts off what fits into one frame, at least one change.
func batch(changes [][]byte, size int) (now, later [][]byte) {
	for i, c := range changes {
		if size -= len(c); i > 0 && size < 0 {
			return changes[:i], changes[i:]
		}
	}
	return changes, nil
}

// state decodes an answer that holds heads alone.
func (s *Supervisor) state(answer []byte, err error) (crdt.State, error) {
	if err != nil {
		return crdt.State{}, err
	}
	r := wire.NewReader(answer)
	state := crdt.State{Heads: readHashes(r)}
	if err := r.Close(); err != nil {
		return crdt.State{}, fmt.Errorf("%w: decode the answer: %w", crdt.ErrEngine, err)
	}
	return state, nil
}

func (s *Supervisor) Edit(ctx context.Context, doc crdt.DocumentID, e crdt.Edit) ([]byte, crdt.State, error) {
	answer, err := s.do(ctx, doc, verbEdit, func(w *wire.Writer) { appendEdit(w, e) })
	if err != nil {
		return nil, crdt.State{}, err
	}
	r := wire.NewReader(answer)
	raw := r.Blob(maxFrame)
	state := crdt.State{Heads: readHashes(r)}
	if err := r.Close(); err != nil {
		return nil, crdt.State{}, s.abandon(doc, fmt.Errorf("%w: decode the answer: %w", crdt.ErrEngine, err))
	}
	return raw, state, nil
}

func (s *Supervisor) Read(
	ctx context.Context, doc crdt.DocumentID, keys []string, heads []crdt.ChangeHash,
) ([]crdt.Field, error) {
	answer, err := s.do(ctx, doc, verbRead, func(w *wire.Writer) {
		appendMoment(w, heads)
		appendKeys(w, keys)
	})
	if err != nil {
		return nil, err
	}
	fields, err := parseFields(answer)
	if err != nil {
		return nil, s.abandon(doc, fmt.Errorf("%w: %w", crdt.ErrEngine, err))
	}
	return fields, nil
}

func (s *Supervisor) Save(ctx context.Context, doc crdt.DocumentID) ([]byte, error) {
	return s.do(ctx, doc, verbSave, func(*wire.Writer) {})
}

// Forget starts no child: a document that no child holds is forgotten.
func (s *Supervisor) Forget(ctx context.Context, doc crdt.DocumentID) error {
	if p, err := s.running(); p == nil {
		return err
	}
	_, err := s.do(ctx, doc, verbForget, func(*wire.Writer) {})
	if errors.Is(err, crdt.ErrNotLoaded) {
		return nil
	}
	return err
}

// Close ends the child and returns when it is gone; calls that wait get ErrClosed.
func (s *Supervisor) Close() error {
	s.mu.Lock()
	p := s.mu.process
	first := !s.mu.closed
	s.mu.closed = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	close(s.closing)
	s.start <- struct{}{} // waits for a start that is under way
	if p != nil {
		p.close()
	}
	s.logs.Wait()
	return nil
}

// Restarts counts the children after the first.
func (s *Supervisor) Restarts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(s.mu.starts-1, 0)
}

// PID returns the child's process ID, or 0 when none runs.
func (s *Supervisor) PID() int {
	if p, _ := s.running(); p != nil {
		return p.cmd.Process.Pid
	}
	return 0
}

// Memory returns the bytes of memory that the child holds now, or 0 where the system does not tell.
func (s *Supervisor) Memory() int64 {
	if pid := s.PID(); pid != 0 {
		return resident(pid)
	}
	return 0
}
