package crash

import (
	"bytes"
	"regexp"
	"strings"
)

// Report is what may be said of a crash.
type Report struct {
	Cause string // "panic: its value is withheld"
	Stack string // goroutines with functions and lines, without arguments
	Ended bool   // with the process
}

const (
	maxLine  = 8 << 10   // bytes of a line; the runtime prints none so long
	maxStack = 128 << 10 // bytes of a Report's stack
)

// The lines of a traceback as the Go runtime prints them (Go 1.26). What fits none of these is left out. The value of a
// panic comes before the first goroutine, and the runtime indents its lines after the first, so that none of them begins
// like a line of ours.
var (
	goroutineLine = regexp.MustCompile(`^goroutine (\d+) .*\[([a-zA-Z0-9 ,()-]{1,100})\]:$`)
	functionLine  = regexp.MustCompile(`^([\pL\pN_./\-()*\[\],·~%@+]+)\([0-9a-fx{}, .?_]*\)$`)
	creatorLine   = regexp.MustCompile(`^created by ([\pL\pN_./\-()*\[\],·~%@+]+)( in goroutine \d+)?$`)
	sourceLine    = regexp.MustCompile(`^\t([^\t:]{1,300}\.(?:go|s|c|h)):(\d+)(?: \+0x[0-9a-f]+)?(?: fp=0x.*)?$`)
	signalLine    = regexp.MustCompile(`^\[signal (SIG[A-Z]+|0x[0-9a-f]+)(?::| )`)
	quitLine      = regexp.MustCompile(`^(SIG[A-Z]+): `)
	fatalLine     = regexp.MustCompile(`^fatal error: ([a-zA-Z0-9 :;,.'!_()/+-]{1,100})$`)
	// harmless are panics of the runtime's own, whose texts hold numbers at most.
	harmless = regexp.MustCompile(`^panic: (runtime error: (?:` +
		`index out of range \[-?\d+\](?: with length \d+)?|` +
		`slice bounds out of range \[[-:\d]*\](?: with (?:capacity|length) \d+)?|` +
		`invalid memory address or nil pointer dereference|integer divide by zero|integer overflow|` +
		`makeslice: (?:len|cap) out of range|negative shift amount|` +
		`cannot convert slice with length \d+ to array or pointer to array with length \d+)|` +
		`assignment to entry in nil map|close of closed channel|close of nil channel|send on closed channel)` +
		`(?: \[recovered(?:, repanicked)?\])?$`)
)

// Filter takes what a process prints and keeps what may be said of it. The zero value is ready.
type Filter struct {
	line    []byte
	long    bool // the line is longer than any of the runtime's, and is dropped
	cause   string
	traced  bool // a goroutine has come
	inside  bool // the last line kept was a function, so a source line belongs to it
	stack   bytes.Buffer
	clipped bool
}

// Write takes the next bytes.
func (f *Filter) Write(b []byte) {
	for len(b) > 0 {
		i := bytes.IndexByte(b, '\n')
		if i < 0 {
			f.append(b)
			return
		}
		f.append(b[:i])
		if !f.long {
			f.take(strings.TrimSuffix(string(f.line), "\r"))
		}
		f.line, f.long = f.line[:0], false
		b = b[i+1:]
	}
}

func (f *Filter) append(b []byte) {
	if f.long = f.long || len(f.line)+len(b) > maxLine; !f.long {
		f.line = append(f.line, b...)
	}
}

// End returns what has come, if it was a crash, and begins anew.
func (f *Filter) End() (Report, bool) {
	if !f.long && len(f.line) > 0 {
		f.take(string(f.line))
	}
	r := Report{Cause: f.cause, Stack: f.stack.String()}
	any := f.cause != "" || f.traced
	if r.Cause == "" {
		r.Cause = "a trace was printed"
	}
	*f = Filter{}
	return r, any
}

// take judges one line.
func (f *Filter) take(line string) {
	if m := goroutineLine.FindStringSubmatch(line); m != nil {
		f.traced, f.inside = true, false
		f.keep("goroutine " + m[1] + " [" + m[2] + "]:")
		return
	}
	if f.traced && begins(line) {
		f.traced = false // another panic, whose value follows
	}
	if !f.traced {
		f.head(line)
		return
	}
	if m := functionLine.FindStringSubmatch(line); m != nil {
		f.inside = true
		f.keep(m[1] + "(...)")
	} else if m := creatorLine.FindStringSubmatch(line); m != nil {
		f.inside = true
		f.keep("created by " + m[1] + m[2])
	} else if m := sourceLine.FindStringSubmatch(line); m != nil && f.inside {
		f.inside = false
		f.keep("\t" + m[1] + ":" + m[2])
	}
}

// begins reports whether a crash begins with the line; libp2p prints the last form when it has caught a panic.
func begins(line string) bool {
	return strings.HasPrefix(line, "panic: ") || strings.HasPrefix(line, "fatal error: ") || strings.HasPrefix(line, "caught panic: ")
}

// head judges a line before the first goroutine: only what says the kind of the crash is kept.
func (f *Filter) head(line string) {
	switch {
	case f.cause != "":
		if m := signalLine.FindStringSubmatch(line); m != nil && !strings.Contains(f.cause, "signal") {
			f.cause += " (signal " + m[1] + ")"
		}
	case harmless.MatchString(line):
		f.cause = line
	case begins(line) && !strings.HasPrefix(line, "fatal error: "):
		f.cause = "panic: its value is withheld, since it may hold data"
	case fatalLine.MatchString(line):
		f.cause = line
	case strings.HasPrefix(line, "fatal error: "):
		f.cause = "fatal error: its text is withheld, since it may hold data"
	case quitLine.MatchString(line):
		f.cause = "signal " + quitLine.FindStringSubmatch(line)[1]
	}
}

func (f *Filter) keep(line string) {
	if f.stack.Len()+len(line) < maxStack {
		f.stack.WriteString(line + "\n")
	} else if !f.clipped {
		f.clipped = true
		f.stack.WriteString("…\n")
	}
}
