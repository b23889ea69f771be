//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"

	"chartmesh/crdt"
	"chartmesh/wire"
)

// ChildMain runs the engine and ends the process if this process is the child of a Supervisor, else it returns at once.
// It must come first in main and in TestMain of every binary that calls Start, before flags and arguments are looked at.
func ChildMain() {
	if len(os.Args) != 2 || os.Args[1] != childArgument || os.Getenv(childMark) == "" {
		return
	}
	// The end of the pipes ends the child, not a signal that was meant for the agent and reached the group.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := runChild(os.NewFile(childIn, "calls"), os.NewFile(childOut, "answers")); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

func runChild(in, out *os.File) error {
	// One thread enters the library, so that one arena serves it.
	runtime.LockOSThread()
	oneArena()
	if err := readHello(in); err != nil {
		return err
	}
	var memory [8]byte
	if _, err := io.ReadFull(in, memory[:]); err != nil {
		return err
	}
	if err := confine(binary.BigEndian.Uint64(memory[:])); err != nil {
		return err
	}
	if _, err := out.Write(hello()); err != nil {
		return err
	}
	go endWithParent(out)
	s := server{in: bufio.NewReaderSize(in, 64<<10), fd: int(in.Fd()), out: out, docs: newDocuments()}
	return s.run()
}

// endWithParent ends the process when nobody is left to read the answers, even while the library is busy.
func endWithParent(out *os.File) {
	fds := []unix.PollFd{{Fd: int32(out.Fd())}}
	for {
		n, err := unix.Poll(fds, -1)
		if n > 0 || err != nil && !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			os.Exit(0)
		}
	}
}

// A server answers calls one after the other.
type server struct {
	in   *bufio.Reader
	fd   int // in's, to wait on
	out  io.Writer
	docs *documents
	body []byte
}

func (s *server) run() error {
	for {
		s.idle()
		body, err := readFrame(s.in, s.body, callHead)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.serve(body); err != nil {
			return err
		}
		if s.body = body; cap(body) > maxBatch/8 {
			s.body = nil
		}
	}
}

// idle gives memory back when nothing is asked for a moment.
func (s *server) idle() {
	if s.in.Buffered() > 0 || !s.docs.due() {
		return
	}
	n, err := unix.Poll([]unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN}}, int(trimAfter.Milliseconds()))
	if n == 0 && err == nil {
		s.docs.trim()
	}
}

func (s *server) serve(body []byte) error {
	r := wire.NewReader(body)
	v := verb(r.Byte())
	number := r.Uint64()
	var id crdt.DocumentID
	r.Fixed(id[:])
	answer := newAnswer(statusDone, number)
	long, err := s.call(v, id, r, answer)
	if long != nil {
		defer long.free()
	}
	if err == nil {
		return s.write(answer, long)
	}
	if errors.Is(err, crdt.ErrNotLoaded) {
		return s.write(newAnswer(statusNotLoaded, number), nil)
	}
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{reason: reasonRequest}
	}
	answer = newAnswer(statusFailed, number)
	answer.Byte(byte(f.reason))
	answer.Uvarint(f.at)
	return s.write(answer, nil)
}

func (s *server) write(answer *wire.Writer, long *buffer) error {
	var tail []byte
	if long != nil {
		tail = long.bytes()
	}
	const together = 64 << 10
	n := len(tail)
	if n <= together {
		answer.Raw(tail)
		tail, n = nil, 0
	}
	b, err := seal(answer, n)
	if err != nil {
		return err
	}
	if _, err = s.out.Write(b); err == nil && len(tail) > 0 {
		_, err = s.out.Write(tail)
	}
	return err
}

// call decodes the payload and runs the verb. What is long comes back in the library's memory.
func (s *server) call(v verb, id crdt.DocumentID, r *wire.Reader, answer *wire.Writer) (long *buffer, err error) {
	ctx := context.Background()
	var state crdt.State
	refuse := func() error {
		_ = s.docs.Forget(ctx, id)
		return fail(reasonRequest)
	}
	switch v {
	case verbLoad:
		saved := r.Blob(maxFrame)
		changes := readChanges(r)
		if r.Close() != nil {
			return nil, refuse()
		}
		state, err = s.docs.Load(ctx, id, saved, changes)
	case verbApply:
		changes := readChanges(r)
		if r.Close() != nil {
			return nil, refuse()
		}
		state, err = s.docs.Apply(ctx, id, changes)
	case verbEdit:
		e := readEdit(r)
		if r.Close() != nil {
			return nil, refuse()
		}
		var raw []byte
		if raw, state, err = s.docs.Edit(ctx, id, e); err == nil {
			answer.Blob(raw)
		}
	case verbRead:
		heads := readMoment(r)
		keys := readKeys(r)
		if r.Close() != nil {
			return nil, refuse()
		}
		return s.docs.read(ctx, id, keys, heads)
	case verbSave:
		if r.Close() != nil {
			return nil, refuse()
		}
		return s.docs.save(ctx, id)
	case verbForget:
		return nil, s.docs.Forget(ctx, id)
	default:
		return nil, refuse()
	}
	if err == nil {
		appendHashes(answer, state.Heads)
	}
	return nil, err
}
