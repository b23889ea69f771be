package engine

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"time"

	"chartmesh/crdt"
)

// How the child knows that it is one, and where its pipes are.
const (
	childArgument = "engine-child"
	childMark     = "CHARTMESH_ENGINE_CHILD"
	childIn       = 3
	childOut      = 4
)

// process is one child, from its start to its end. It executes the calls in the order in which they came.
type process struct {
	cmd    *exec.Cmd
	in     *os.File // calls to the child
	out    *os.File // answers from it
	limit  time.Duration
	stderr stderr
	wake   chan struct{} // there is something to write
	ended  chan struct{} // closed when the child is gone and every call has its answer
	mu     struct {
		sync.Mutex
		unsent []*call
		sent   []*call     // and the one that is being written; the first is the one that the child executes
		since  time.Time   // when the first of them became the first
		timer  *time.Timer // its time limit
		cause  string      // why this side ended the child
		closed bool        // by close, so that the end is no accident
		over   bool        // no call is taken any more
	}
}

// call is one call on its way.
type call struct {
	frame   []byte
	number  uint64
	partial bool        // not wholly written, so not begun
	answer  chan result // buffered, so that nobody need wait
}

type result struct {
	payload []byte
	err     error
}

// endedError is the answer to the call in whose execution the child ended.
type endedError struct{ cause string }

func (e *endedError) Error() string {
	return fmt.Sprintf("%v: its process ended: %s", crdt.ErrEngine, e.cause)
}

func (e *endedError) Unwrap() error { return crdt.ErrEngine }

// startProcess starts a child and returns when it has answered the hello.
func startProcess(path string, memory uint64, limit time.Duration) (*process, error) {
	inRead, inWrite, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		_, _ = inRead.Close(), inWrite.Close()
		return nil, err
	}
	p := &process{
		in: inWrite, out: outRead, limit: limit,
		wake: make(chan struct{}, 1), ended: make(chan struct{}),
	}
	p.mu.timer = time.AfterFunc(time.Hour, p.expire)
	p.mu.timer.Stop()
	p.cmd = &exec.Cmd{
		Path:        path,
		Args:        []string{os.Args[0], childArgument},
		Env:         []string{childMark + "=1", "GOTRACEBACK=none", "GOMAXPROCS=2"},
		Stderr:      &p.stderr,
		ExtraFiles:  []*os.File{inRead, outWrite},
		SysProcAttr: attributes(),
	}
	started := make(chan error)
	greeted := make(chan error, 1)
	go p.run(started, greeted)
	err = <-started
	_, _ = inRead.Close(), outWrite.Close()
	if err != nil {
		_, _ = inWrite.Close(), outRead.Close()
		return nil, err
	}
	late := time.AfterFunc(startTimeout, func() { p.kill("no hello in time") })
	defer late.Stop()
	if _, err = p.in.Write(binary.BigEndian.AppendUint64(hello(), memory)); err == nil {
		err = readHello(p.out)
	}
	greeted <- err
	if err != nil {
		p.kill("")
		<-p.ended
		return nil, fmt.Errorf("%s: %w", p.causeOfEnd(), err)
	}
	return p, nil
}

// run starts the child and waits for its end. It keeps its thread for as long, because the death signal of the child is
// bound to the thread that started it.
func (p *process) run(started chan<- error, greeted <-chan error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := p.cmd.Start(); err != nil {
		started <- err
		return
	}
	started <- nil
	var pumps sync.WaitGroup
	gone := make(chan struct{})
	if <-greeted == nil {
		pumps.Go(p.receive)
		pumps.Go(func() { p.send(gone) })
	}
	_ = p.cmd.Wait()
	close(gone)
	_ = p.in.Close() // frees a writer that waits for room in the pipe
	pumps.Wait()     // the last answers may still be in the pipe
	_ = p.out.Close()
	p.finish()
}

// send writes the calls, one frame after the other.
func (p *process) send(gone <-chan struct{}) {
	for {
		c := p.next()
		if c == nil {
			select {
			case <-p.wake:
				continue
			case <-gone:
				return
			}
		}
		_, err := p.in.Write(c.frame)
		if err != nil {
			p.kill("")
			return
		}
		p.mu.Lock()
		c.partial = false
		p.mu.Unlock()
	}
}

// next takes the first unsent call and counts it among the sent.
func (p *process) next() *call {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.mu.unsent) == 0 {
		return nil
	}
	c := p.mu.unsent[0]
	p.mu.unsent = p.mu.unsent[1:]
	c.partial = true
	if p.mu.sent = append(p.mu.sent, c); len(p.mu.sent) == 1 {
		p.watchLocked()
	}
	return c
}

// watchLocked begins the time of the call that is now the first.
func (p *process) watchLocked() {
	p.mu.since = time.Now()
	p.mu.timer.Reset(p.limit)
}

// expire ends the child when the first call has had its time.
func (p *process) expire() {
	p.mu.Lock()
	late := len(p.mu.sent) > 0 && time.Since(p.mu.since) >= p.limit
	p.mu.Unlock()
	if late {
		p.kill("a call took too long")
	}
}

// receive takes answers until the pipe ends or makes no sense.
func (p *process) receive() {
	in := bufio.NewReaderSize(p.out, 64<<10)
	for {
		body, err := readFrame(in, nil, answerHead)
		if errors.Is(err, errFrame) {
			p.kill("its answer made no sense")
			return
		}
		if err != nil {
			p.kill("")
			return
		}
		payload, err := outcome(status(body[0]), body[answerHead:])
		if errors.Is(err, errFrame) || !p.deliver(binary.BigEndian.Uint64(body[1:]), result{payload, err}) {
			p.kill("its answer made no sense")
			return
		}
	}
}

// deliver answers the first call, which must have that number.
func (p *process) deliver(number uint64, r result) bool {
	p.mu.Lock()
	if len(p.mu.sent) == 0 || p.mu.sent[0].number != number {
		p.mu.Unlock()
		return false
	}
	c := p.mu.sent[0]
	p.mu.sent[0] = nil
	p.mu.sent = p.mu.sent[1:]
	if len(p.mu.sent) > 0 {
		p.watchLocked()
	} else {
		p.mu.timer.Stop()
	}
	p.mu.Unlock()
	c.answer <- r
	return true
}

// enqueue puts calls at the end, one right behind the other; false when the child is gone.
func (p *process) enqueue(calls ...*call) bool {
	p.mu.Lock()
	over := p.mu.over
	if !over {
		p.mu.unsent = append(p.mu.unsent, calls...)
	}
	p.mu.Unlock()
	if over {
		return false
	}
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// withdraw takes back a call that has not been sent; one that has been is executed, and nobody waits for its answer.
func (p *process) withdraw(c *call) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.mu.unsent, c); i >= 0 {
		p.mu.unsent = slices.Delete(p.mu.unsent, i, i+1)
	}
}

// kill ends the child. Without a cause it is because the pipes say that it has ended already.
func (p *process) kill(cause string) {
	p.mu.Lock()
	if p.mu.cause == "" {
		p.mu.cause = cause
	}
	p.mu.Unlock()
	_ = p.cmd.Process.Kill()
}

// finish answers what is left: the call that was being executed may be to blame, the others never began.
func (p *process) finish() {
	cause := p.causeOfEnd()
	p.mu.Lock()
	p.mu.over = true
	p.mu.timer.Stop()
	sent, unsent, closed := p.mu.sent, p.mu.unsent, p.mu.closed
	p.mu.sent, p.mu.unsent = nil, nil
	p.mu.Unlock()
	for i, c := range slices.Concat(sent, unsent) {
		switch {
		case closed:
			c.answer <- result{err: ErrClosed}
		case i == 0 && len(sent) > 0 && !c.partial:
			c.answer <- result{err: &endedError{cause}}
		default:
			c.answer <- result{err: crdt.ErrNotLoaded}
		}
	}
	close(p.ended)
}

// causeOfEnd says in fixed words why the child ended; to be called when it has.
func (p *process) causeOfEnd() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mu.cause == "" {
		p.mu.cause = cmp.Or(p.stderr.class(), p.cmd.ProcessState.String())
	}
	return p.mu.cause
}

// alive reports whether calls are taken.
func (p *process) alive() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.mu.over
}

// close lets the child end by itself, then makes it.
func (p *process) close() {
	p.mu.Lock()
	p.mu.closed = true
	p.mu.Unlock()
	_ = p.in.Close()
	late := time.AfterFunc(closeTimeout, func() { p.kill("closed") })
	defer late.Stop()
	<-p.ended
}

// stderr keeps the beginning of what the child prints for as long as it takes to classify it. The text may hold what is
// in a document, so it goes nowhere.
type stderr struct {
	mu   sync.Mutex
	text []byte
}

func (s *stderr) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text = append(s.text, b[:min(len(b), maxStderr-len(s.text))]...)
	return len(b), nil
}

// class names what the text is about, or nothing, and forgets the text.
func (s *stderr) class() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := s.text
	s.text = nil
	for _, c := range []struct{ mark, class string }{
		{"memory allocation of", "out of memory"},
		{"cannot allocate memory", "out of memory"},
		{"out of memory", "out of memory"},
		{"panicked at", "the library panicked"},
		{"SIGSEGV", "memory was damaged"},
		{"panic:", "the engine panicked"},
		{"fatal error:", "the engine panicked"},
	} {
		if bytes.Contains(text, []byte(c.mark)) {
			return c.class
		}
	}
	return ""
}
