//go:build cgo && (linux || darwin) && (amd64 || arm64)

package engine

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"chartmesh/crdt"
)

// until polls, since what is waited for happens in another process.
func until(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("waited too long until %s", what)
		}
		<-time.After(time.Millisecond)
	}
}

func signalChild(t testing.TB, s *Supervisor, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(s.PID(), sig); err != nil {
		t.Fatal(err)
	}
}

// sent waits until n calls are on their way to the child, wholly written.
func sent(t testing.TB, s *Supervisor, n int) {
	t.Helper()
	s.mu.Lock()
	p := s.mu.process
	s.mu.Unlock()
	until(t, "the calls are sent", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.mu.sent) == n && !p.mu.sent[n-1].partial
	})
}

func TestKilledInMidCall(t *testing.T) {
	var log bytes.Buffer
	s := supervised(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	b := bench{t, s}
	b.load(docA)
	b.load(docB)
	first := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "name", text("canary Müller")))
	pid := s.PID()
	signalChild(t, s, syscall.SIGSTOP)
	results := make([]chan error, 2)
	for i, doc := range []crdt.DocumentID{docA, docB} {
		results[i] = make(chan error, 1)
		go func() {
			_, _, err := s.Edit(t.Context(), doc, crdt.Edit{Actor: one, Instructions: []crdt.Instruction{set(0, "P/2", a(crdt.Map))}})
			results[i] <- err
		}()
		sent(t, s, i+1)
	}
	signalChild(t, s, syscall.SIGKILL)
	if err := <-results[0]; !errors.Is(err, crdt.ErrEngine) || errors.Is(err, crdt.ErrNotLoaded) {
		t.Errorf("the call that was executed: %v", err)
	}
	if err := <-results[1]; !errors.Is(err, crdt.ErrNotLoaded) || errors.Is(err, crdt.ErrEngine) {
		t.Errorf("the call that waited: %v", err)
	}
	if _, err := s.Read(t.Context(), docB, nil, nil); !errors.Is(err, crdt.ErrNotLoaded) {
		t.Errorf("another document after the restart: %v", err)
	}
	b.load(docA, first)
	want(t, b.read(docA), `{P/1: {name: "canary Müller"}}`)
	if s.Restarts() != 1 || s.PID() == pid || s.PID() == 0 {
		t.Errorf("restarts %d, PID %d after %d", s.Restarts(), s.PID(), pid)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if strings.Contains(log.String(), "canary") || !strings.Contains(log.String(), "signal: killed") {
		t.Errorf("log: %s", log.String())
	}
}

func TestKilledWhenIdle(t *testing.T) {
	s := supervised(t, Config{})
	b := bench{t, s}
	for i := range 3 {
		b.load(docA)
		pid := s.PID()
		signalChild(t, s, syscall.SIGKILL)
		until(t, "the end is noticed", func() bool { return s.PID() != pid })
		if err := s.Forget(t.Context(), docA); err != nil || s.Restarts() != i {
			t.Errorf("forget: %v; restarts %d", err, s.Restarts())
		}
		if _, err := s.Save(t.Context(), docA); !errors.Is(err, crdt.ErrNotLoaded) {
			t.Errorf("save: %v", err)
		}
	}
	if s.Restarts() != 3 {
		t.Errorf("restarts %d", s.Restarts())
	}
}

func TestTimeLimit(t *testing.T) {
	s := supervised(t, Config{CallTimeout: 100 * time.Millisecond})
	b := bench{t, s}
	b.load(docA)
	signalChild(t, s, syscall.SIGSTOP)
	_, err := s.Save(t.Context(), docA)
	if !errors.Is(err, crdt.ErrEngine) || !strings.Contains(err.Error(), "took too long") {
		t.Errorf("%v", err)
	}
	b.load(docA)
	if s.Restarts() != 1 {
		t.Errorf("restarts %d", s.Restarts())
	}
}

// A child that is alive but slow is not ended for the sum of many calls, each of which is quick.
func TestTimeLimitIsPerCall(t *testing.T) {
	s := supervised(t, Config{CallTimeout: 300 * time.Millisecond})
	b := bench{t, s}
	b.load(docA)
	var all sync.WaitGroup
	for range 3 {
		all.Go(func() {
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); {
				if _, err := s.Save(t.Context(), docA); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if s.Restarts() != 0 {
		t.Errorf("restarts %d", s.Restarts())
	}
}

func TestEndedContextWhileTheChildIsBusy(t *testing.T) {
	s := supervised(t, Config{})
	b := bench{t, s}
	b.load(docA)
	b.load(docB)
	signalChild(t, s, syscall.SIGSTOP)
	ctx, cancel := context.WithCancel(t.Context())
	errs := make(chan error, 2)
	for i, doc := range []crdt.DocumentID{docA, docB} {
		go func() {
			_, err := s.Save(ctx, doc)
			errs <- err
		}()
		sent(t, s, i+1)
	}
	cancel()
	for range 2 {
		if err := <-errs; !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	}
	signalChild(t, s, syscall.SIGCONT)
	for _, doc := range []crdt.DocumentID{docA, docB} {
		if _, err := s.Save(t.Context(), doc); !errors.Is(err, crdt.ErrNotLoaded) {
			t.Errorf("still loaded: %v", err)
		}
	}
	if s.Restarts() != 0 {
		t.Errorf("restarts %d", s.Restarts())
	}
}

func TestCloseWhileTheChildIsBusy(t *testing.T) {
	s := supervised(t, Config{})
	b := bench{t, s}
	b.load(docA)
	signalChild(t, s, syscall.SIGSTOP)
	pid := s.PID()
	errs := make(chan error, 1)
	go func() {
		_, err := s.Save(t.Context(), docA)
		errs <- err
	}()
	sent(t, s, 1)
	closed := make(chan error, 1)
	go func() { closed <- s.Close() }()
	until(t, "it is closing", func() bool { return s.PID() == 0 })
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := <-errs; !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
}

func TestMemoryLimit(t *testing.T) {
	s := supervised(t, Config{Memory: 192 << 20})
	b := bench{t, s}
	b.load(docA)
	big := text(strings.Repeat("x", 1<<20))
	for i := range 300 {
		_, _, err := s.Edit(t.Context(), docA, crdt.Edit{Actor: one, Instructions: []crdt.Instruction{set(0, fmt.Sprint("P/", i), big)}})
		if err == nil {
			continue
		}
		if !errors.Is(err, crdt.ErrEngine) || !strings.Contains(err.Error(), "out of memory") {
			t.Errorf("edit %d: %v", i, err)
		}
		b.load(docA)
		if s.Restarts() != 1 {
			t.Errorf("restarts %d", s.Restarts())
		}
		return
	}
	t.Error("no end of memory")
}

func TestStartThatFails(t *testing.T) {
	for _, path := range []string{"/bin/false", "/bin/true", "/nonexistent/engine"} {
		if _, err := startAt(path, Config{}); !errors.Is(err, ErrStart) || errors.Is(err, crdt.ErrEngine) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if _, err := Start(Config{Memory: -1}); !errors.Is(err, ErrStart) {
		t.Errorf("negative memory: %v", err)
	}

	s := supervised(t, Config{})
	path, pid := s.path, s.PID()
	s.path = "/bin/false"
	signalChild(t, s, syscall.SIGKILL)
	until(t, "the end is noticed", func() bool { return s.PID() != pid })
	var last error
	for range 3 {
		if _, last = s.Load(t.Context(), docA, nil, nil); !errors.Is(last, ErrStart) || errors.Is(last, crdt.ErrEngine) {
			t.Errorf("load: %v", last)
		}
	}
	if !strings.Contains(last.Error(), "next attempt") {
		t.Errorf("started again at once: %v", last)
	}
	s.path = path
	until(t, "it starts again", func() bool {
		_, err := s.Load(t.Context(), docA, nil, nil)
		return err == nil
	})
}

func TestChildStartsNoChild(t *testing.T) {
	t.Setenv(childMark, "1")
	if _, err := Start(Config{}); !errors.Is(err, ErrStart) {
		t.Errorf("%v", err)
	}
}

// Several frames' worth of changes go as several calls.
func TestManyBytesOfChanges(t *testing.T) {
	s := supervised(t, Config{})
	b := bench{t, s}
	b.load(docA)
	var changes [][]byte
	for i := range 20 {
		changes = append(changes, b.edit(docA, one, set(0, fmt.Sprint("P/", i), text(strings.Repeat("x", 1<<20)))))
	}
	heads := b.load(docB, changes...)
	if len(heads) != 1 || heads[0] != hash(changes[19]) {
		t.Errorf("heads %v", heads)
	}
	b.load(docB, changes[0])
	if heads = b.apply(docB, changes[1:]...); len(heads) != 1 || heads[0] != hash(changes[19]) {
		t.Errorf("heads %v", heads)
	}
	now, later := batch(changes, 3<<20)
	if len(now) != 2 || len(later) != 18 {
		t.Errorf("%d now, %d later", len(now), len(later))
	}
	if now, later = batch(changes[:1], 1); len(now) != 1 || len(later) != 0 {
		t.Errorf("%d now, %d later", len(now), len(later))
	}
}

// mend corrects the checksum and with it the hash.
func mend(change []byte) []byte {
	sum := sha256.Sum256(change[8:])
	copy(change[4:8], sum[:4])
	return change
}

// Bent changes with good checksums may abort the child; the supervisor and the other callers go on.
func TestBentChanges(t *testing.T) {
	s := supervised(t, Config{CallTimeout: 5 * time.Second})
	b := bench{t, s}
	b.load(docA)
	base := b.edit(docA, one, set(0, "P/1", a(crdt.Map)), set(1, "name", text("canary")), set(1, "[l", a(crdt.List)),
		insert(2, 0, number(1)), set(1, "\"t", a(crdt.Text)), splice(3, 0, 0, "canary"))
	good := b.edit(docA, two, enter(0, "P/1", crdt.OpID{Counter: 1, Actor: one}), set(1, "name", text("other")))
	const seed = 1
	r := rand.New(rand.NewPCG(seed, 0))
	applied, refused, ended := 0, 0, 0
	for i := range 400 {
		bent := bytes.Clone(good)
		for range 1 + r.IntN(3) {
			bent[10+r.IntN(len(bent)-10)] ^= 1 << r.IntN(8)
		}
		if r.IntN(4) == 0 {
			bent = append(bytes.Clone(bent[:9]), binary.AppendUvarint(nil, 1<<40)...)
		}
		b.load(docA, base)
		_, err := s.Apply(t.Context(), docA, [][]byte{mend(bent)})
		var end *endedError
		switch {
		case err == nil:
			applied++
			_, err = s.Read(t.Context(), docA, nil, nil)
		case errors.As(err, &end):
			ended++
			if end.cause != "the library panicked" && end.cause != "out of memory" && !strings.HasPrefix(end.cause, "a call") {
				t.Errorf("cause: %s", end.cause)
			}
		default:
			refused++
		}
		if err != nil && (!errors.Is(err, crdt.ErrEngine) || strings.Contains(err.Error(), "canary")) {
			t.Errorf("seed %d, input %d: %v", seed, i, err)
		}
	}
	t.Logf("applied %d, refused %d, ended the child %d, restarts %d", applied, refused, ended, s.Restarts())
	if refused == 0 {
		t.Error("nothing was refused")
	}
	b.load(docA, base, good)
}

// Many goroutines, each with documents of its own, while the child is killed now and then: nothing hangs, and what a
// call reports is what happened.
func TestManyGoroutines(t *testing.T) {
	s := supervised(t, Config{})
	var workers sync.WaitGroup
	var edits atomic.Int64
	for w := range 8 {
		workers.Go(func() {
			doc := crdt.DocumentID{0xC0, byte(w)}
			var mine [][]byte
			loaded := false
			for len(mine) < 60 {
				if !loaded {
					_, err := s.Load(t.Context(), doc, nil, mine)
					if err != nil && !errors.Is(err, crdt.ErrEngine) && !errors.Is(err, crdt.ErrNotLoaded) {
						t.Errorf("load: %v", err)
						return
					}
					loaded = err == nil
					continue
				}
				raw, _, err := s.Edit(t.Context(), doc, crdt.Edit{Actor: one,
					Instructions: []crdt.Instruction{set(0, fmt.Sprint("P/", len(mine)), number(int64(w)))}})
				if err != nil {
					if !errors.Is(err, crdt.ErrEngine) && !errors.Is(err, crdt.ErrNotLoaded) {
						t.Errorf("edit: %v", err)
						return
					}
					loaded = false
					continue
				}
				mine = append(mine, raw)
				if pid := s.PID(); pid != 0 && edits.Add(1)%50 == 0 {
					_ = syscall.Kill(pid, syscall.SIGKILL)
				}
			}
			for {
				if _, err := s.Load(t.Context(), doc, nil, mine); err != nil {
					continue
				}
				fields, err := s.Read(t.Context(), doc, nil, nil)
				if err != nil {
					continue
				}
				if len(fields) != len(mine) {
					t.Errorf("%d fields after %d edits", len(fields), len(mine))
				}
				return
			}
		})
	}
	workers.Wait()
	if s.Restarts() < 3 {
		t.Errorf("restarts %d", s.Restarts())
	}
}

func TestStderrIsClassifiedAndForgotten(t *testing.T) {
	for text, class := range map[string]string{
		"memory allocation of 99 bytes failed":                   "out of memory",
		"thread '<unnamed>' panicked at 'canary', src/lib.rs:1:": "the library panicked",
		"fatal error: canary":                                    "the engine panicked",
		"canary":                                                 "",
	} {
		var s stderr
		for _, part := range []string{text[:len(text)/2], text[len(text)/2:], strings.Repeat("x", 2*maxStderr)} {
			if n, err := s.Write([]byte(part)); n != len(part) || err != nil {
				t.Errorf("write: %d %v", n, err)
			}
		}
		if len(s.text) > maxStderr {
			t.Errorf("%d bytes kept", len(s.text))
		}
		if got := s.class(); got != class || s.text != nil {
			t.Errorf("%q: %q", text, got)
		}
	}
}
