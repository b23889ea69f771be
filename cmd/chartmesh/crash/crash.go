// Package crash keeps what a dying process leaves behind free of what it was working on.
//
// Go prints the value of a panic, and it may be a patient's name: from any goroutine, those of libraries included, which
// no recover of ours reaches. What is printed goes to file descriptor 2, and nothing within a process can look at it
// first. So a guarded process has for its descriptor 2 a pipe to a monitor, a small child of the same binary, which
// outlives it by a moment and passes on what it knows to hold no data: that it was a panic, the names of functions and
// the lines of the source. Values, arguments, registers and whatever else was printed there stay behind.
//
// Guarantees: Harden forbids core files and, on Linux, the reading of memory by other processes of the user. After Guard
// nothing that reaches descriptor 2 is passed on as it is. What the program itself says goes to the file that Stderr
// returns, which is the real one.
package crash

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const (
	monitorArgument = "crash-monitor"
	monitorMark     = "CHARTMESH_CRASH_MONITOR"
)

// Options say how the monitor reports. The zero value is for a command at a terminal.
type Options struct {
	Format string // text or json: one record of a log; empty: lines for a person
	File   string // a log file that gets the record too
}

// Main runs the monitor and ends the process if this process is one, else it returns at once. It must come first in main
// and in TestMain of every binary that calls Guard.
func Main() {
	if len(os.Args) != 4 || os.Args[1] != monitorArgument || os.Getenv(monitorMark) == "" {
		return
	}
	// The end of the pipe ends the monitor, not a signal that was meant for the agent and reached the group.
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	_ = Harden() // the text in its memory may hold data; without it the guarded process would not have come so far
	Watch(os.Stdin, Options{Format: os.Args[2], File: os.Args[3]}.report(os.Stderr))
	os.Exit(0)
}

// Guard gives this process a monitor, which reports to stderr, a file from Stderr. It is called once.
func Guard(stderr *os.File, opts Options) error {
	read, write, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("start crash monitor: %w", err)
	}
	defer func() { _, _ = read.Close(), write.Close() }()
	path, err := executable()
	if err != nil {
		return fmt.Errorf("start crash monitor: %w", err)
	}
	cmd := exec.Cmd{
		Path: path, Args: []string{os.Args[0], monitorArgument, opts.Format, opts.File},
		Env:   []string{monitorMark + "=1", "GOMAXPROCS=1", "GOTRACEBACK=none", "SYSTEMROOT=" + os.Getenv("SYSTEMROOT")},
		Stdin: read, Stderr: stderr, SysProcAttr: attributes(),
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start crash monitor: %w", err)
	}
	// It ends after this process, so nobody waits for it.
	if err := cmd.Process.Release(); err != nil {
		return fmt.Errorf("start crash monitor: %w", err)
	}
	if err := replaceStderr(write); err != nil {
		return fmt.Errorf("start crash monitor: %w", err)
	}
	return nil
}

// report returns what to do with a Report.
func (o Options) report(stderr io.Writer) func(Report) {
	return func(r Report) {
		if o.Format == "" {
			_, _ = fmt.Fprintf(stderr, "chartmesh: error: it crashed: %s\nchartmesh: hint: please report the lines that follow; they hold no data\n%s",
				r.Cause, r.Stack)
			return
		}
		o.record(stderr, r)
		if o.File == "" {
			return
		}
		// Of the guarded process's rotation there is nothing to heed: it is dead, or will not notice one record more.
		f, err := os.OpenFile(o.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
		if err != nil {
			return
		}
		o.record(f, r)
		_ = f.Close()
	}
}

func (o Options) record(w io.Writer, r Report) {
	var handler slog.Handler = slog.NewTextHandler(w, nil)
	if o.Format == "json" {
		handler = slog.NewJSONHandler(w, nil)
	}
	message := "a goroutine crashed"
	if r.Ended {
		message = "the process crashed"
	}
	slog.New(handler).Error(message, "cause", r.Cause, "stack", r.Stack)
}

// Caught returns what may be said of a panic that was recovered: its kind and the stack.
func Caught(value any, stack []byte) string {
	var f Filter
	// The runtime indents the further lines of a value, by which the filter knows them.
	f.Write([]byte("panic: " + strings.ReplaceAll(fmt.Sprint(value), "\n", "\n\t") + "\n"))
	f.Write(stack)
	r, _ := f.End()
	return r.Cause + "\n" + r.Stack
}

// quiet is how long nothing must come before what has come is taken for a whole report of a process that lives on.
const quiet = 2 * time.Second

// Watch reads what a guarded process prints until it ends, and calls report with what may be said of it.
func Watch(from io.Reader, report func(Report)) {
	chunks := make(chan []byte)
	go func() {
		defer close(chunks)
		for {
			b := make([]byte, 32<<10)
			n, err := from.Read(b)
			if n > 0 {
				chunks <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	var f Filter
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		select {
		case b, more := <-chunks:
			if !more {
				if r, any := f.End(); any {
					r.Ended = true
					report(r)
				}
				return
			}
			f.Write(b)
			timer.Reset(quiet)
		case <-timer.C:
			if r, any := f.End(); any {
				report(r)
			}
			timer.Reset(time.Hour)
		}
	}
}
