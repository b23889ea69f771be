package crash_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/cmd/chartmesh/crash"
)

const canary = "Zwetschgenknödel"

// crashing makes the test binary a guarded program that crashes in the way that it names.
const crashing = "CHARTMESH_TEST_CRASH"

func TestMain(m *testing.M) {
	crash.Main()
	if way := os.Getenv(crashing); way != "" {
		die(way)
	}
	os.Exit(m.Run())
}

type patient struct{ name, city string }

func (p patient) Error() string { return "cannot store " + p.name }

// work has a name to look for in the trace, and arguments that hold data.
//
//go:noinline
func work(way string, name string, raw [8]byte) {
	switch way {
	case "string":
		panic(name)
	case "error":
		panic(patient{name, name})
	case "wrapped":
		panic(fmt.Errorf("store: %w", errors.New(name)))
	case "lines":
		panic("first\ngoroutine 1 [running]:\n" + name + "(0x1)\n\t/" + name + ".go:1\npanic: " + name)
	case "struct":
		panic(&patient{name, name})
	case "index":
		_ = raw[len(name)+len(way)]
	case "again":
		defer func() { panic(recover().(string) + name) }()
		panic(name)
	case "noise":
		fmt.Fprintln(os.Stderr, name)
		os.Exit(0)
	case "abort":
		fmt.Println("ready")
		<-time.After(time.Hour) // which is no deadlock
	}
}

func die(way string) {
	if err := crash.Harden(); err != nil {
		panic(err)
	}
	stderr, err := crash.Stderr()
	if err != nil {
		panic(err)
	}
	if err := crash.Guard(stderr, crash.Options{Format: os.Getenv("FORMAT"), File: os.Getenv("FILE")}); err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintln(stderr, "the program's own words")
	go work(way, canary, [8]byte([]byte(canary[:8])))
	select {}
}

func program(t *testing.T, way string, env ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, os.Args[0])
	cmd.Dir = t.TempDir()
	cmd.Env = append(append(os.Environ(), crashing+"="+way), env...)
	return cmd
}

// TestNothingOfAPanicIsPrinted holds for every way to panic, and every setting of GOTRACEBACK, that what reaches the real
// stderr names the function and never the value, and that no core file is left.
func TestNothingOfAPanicIsPrinted(t *testing.T) {
	for _, way := range []string{"string", "error", "wrapped", "lines", "struct", "index", "again"} {
		for _, level := range []string{"single", "system", "crash"} {
			t.Run(way+"/"+level, func(t *testing.T) {
				t.Parallel()
				cmd := program(t, way, "GOTRACEBACK="+level)
				out, err := cmd.CombinedOutput()
				if err == nil {
					t.Fatal("it did not crash")
				}
				if !bytes.Contains(out, []byte("crash_test.work(...)")) || !bytes.Contains(out, []byte("the program's own words\n")) ||
					!bytes.Contains(out, []byte("crash_test.go:")) {
					t.Errorf("the report says too little: %s", out)
				}
				for _, leak := range []string{canary, canary[:8], "Zwetsch", "cannot store", "0x"} {
					if bytes.Contains(out, []byte(leak)) {
						t.Errorf("%q is printed: %s", leak, out)
					}
				}
				if left, err := filepath.Glob(filepath.Join(cmd.Dir, "*")); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
			})
		}
	}
}

func TestRuntimeErrorsAreNamed(t *testing.T) {
	out, _ := program(t, "index").CombinedOutput()
	if !regexp.MustCompile(`it crashed: panic: runtime error: index out of range \[\d+\] with length 8\n`).Match(out) {
		t.Errorf("%s", out)
	}
}

// TestNoiseIsDropped: what somebody prints on stderr by mistake is no report.
func TestNoiseIsDropped(t *testing.T) {
	out, err := program(t, "noise").CombinedOutput()
	if err != nil || string(out) != "the program's own words\n" {
		t.Errorf("%s, %v", out, err)
	}
}

// TestAbort: SIGABRT still shows what every goroutine does.
func TestAbort(t *testing.T) {
	cmd := program(t, "abort")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGABRT); err != nil {
		t.Fatal(err)
	}
	if cmd.Wait() == nil || !strings.Contains(errs.String(), "signal SIGABRT") || !strings.Contains(errs.String(), "crash_test.work(...)") {
		t.Errorf("%s", errs.String())
	}
}

// TestRecord: an agent's crash is one record of its log, on stderr and in its file.
func TestRecord(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	out, _ := program(t, "string", "FORMAT=json", "FILE="+file).CombinedOutput()
	logged, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, printed, _ := bytes.Cut(out, []byte("\n"))
	for where, b := range map[string][]byte{"stderr": printed, "file": logged} {
		var record struct{ Level, Msg, Cause, Stack string }
		if err := json.Unmarshal(b, &record); err != nil || record.Level != "ERROR" || record.Msg != "the process crashed" ||
			!strings.Contains(record.Stack, "work(...)") || strings.Contains(string(b), canary) {
			t.Errorf("%s: %s, %v", where, b, err)
		}
	}
}

// TestCaughtPanic: a library that catches a panic and prints it makes a report although the process lives on.
func TestCaughtPanic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		read, write := pipe()
		var reports []crash.Report
		done := make(chan struct{})
		go func() {
			crash.Watch(read, func(r crash.Report) { reports = append(reports, r) })
			close(done)
		}()
		write("caught panic: " + canary + "\ngoroutine 7 [running]:\nruntime/debug.Stack()\n\t/go/stack.go:26 +0x5e\nmain.f({0x" + "ab, 0x1})\n\t/m.go:1 +0x2\n\n")
		time.Sleep(3 * time.Second) // virtual
		if len(reports) != 1 || reports[0].Ended || strings.Contains(fmt.Sprint(reports), canary) ||
			reports[0].Stack != "goroutine 7 [running]:\nruntime/debug.Stack(...)\n\t/go/stack.go:26\nmain.f(...)\n\t/m.go:1\n" {
			t.Errorf("%+v", reports)
		}
		write("")
		<-done
		if len(reports) != 1 {
			t.Errorf("the end is taken for a crash: %+v", reports)
		}
	})
}

// channel is a pipe that works in a bubble.
type channel struct {
	bytes chan []byte
	left  []byte
}

func (c *channel) Read(b []byte) (int, error) {
	for len(c.left) == 0 {
		next, more := <-c.bytes
		if !more {
			return 0, errors.New("closed")
		}
		c.left = next
	}
	n := copy(b, c.left)
	c.left = c.left[n:]
	return n, nil
}

// pipe returns a reader and what writes to it; the empty text closes it.
func pipe() (*channel, func(string)) {
	c := &channel{bytes: make(chan []byte)}
	return c, func(s string) {
		if s == "" {
			close(c.bytes)
			return
		}
		c.bytes <- []byte(s)
	}
}

// kept is every line that a report may have.
var kept = regexp.MustCompile(`^(goroutine \d+ \[[a-zA-Z0-9 ,()-]+\]:|[\pL\pN_./\-()*\[\],·~%@+]+\(\.\.\.\)|created by [\pL\pN_./\-()*\[\],·~%@+]+( in goroutine \d+)?|\t[^\t:]+\.(go|s|c|h):\d+|…)$`)

// FuzzFilter: whatever is printed, a report has lines of the known forms alone, whole or cut anywhere.
func FuzzFilter(f *testing.F) {
	f.Add("panic: "+canary+"\n\ngoroutine 1 [running]:\nmain.main()\n\t/m.go:3 +0x1d\nexit status 2\n", uint8(7))
	f.Add("fatal error: "+canary+"\n[signal SIGBUS: bus error code=0x2 addr=0x1 pc=0x2]\n\ngoroutine 1 gp=0xc0 m=0 [select, 5 minutes]:\nx.y[...](0x1?)\n", uint8(1))
	f.Add(strings.Repeat("goroutine 1 [running]:\n", 10_000), uint8(200))
	f.Fuzz(func(t *testing.T, text string, step uint8) {
		var whole, cut crash.Filter
		whole.Write([]byte(text))
		for rest := []byte(text); len(rest) > 0; {
			n := min(int(step)+1, len(rest))
			cut.Write(rest[:n])
			rest = rest[n:]
		}
		a, anyA := whole.End()
		b, anyB := cut.End()
		if a != b || anyA != anyB {
			t.Errorf("cut: %+v, whole: %+v", b, a)
		}
		for line := range strings.Lines(a.Stack) {
			if !kept.MatchString(strings.TrimSuffix(line, "\n")) {
				t.Errorf("kept %q", line)
			}
		}
		if len(a.Stack) > 200<<10 {
			t.Errorf("%d bytes of stack", len(a.Stack))
		}
	})
}
