package main

import (
	"context"
	"strings"
	"testing"
	"unicode/utf8"

	"chartmesh/agent/api"
	"chartmesh/internal/fuzzing"
)

// FuzzCommandLine runs command lines, a word a line, with something on stdin: each ends with a code that has a meaning,
// and prints nothing that steers a terminal.
func FuzzCommandLine(f *testing.F) {
	run := func(t testing.TB, line, stdin string) (result, bool) {
		args := strings.Split(line, "\n")
		for _, a := range args {
			// These wait for something or start more than a command.
			if a == "agent" || a == "demo" || strings.HasPrefix(a, "--wait") || strings.HasPrefix(a, "--follow") || a == "-f" ||
				strings.HasPrefix(a, "--data") || strings.HasPrefix(a, "@") || strings.HasPrefix(a, "completion") || strings.HasPrefix(a, "__") {
				return result{}, false
			}
			// Files of this machine are nobody's input here.
			if strings.ContainsAny(a, "/.") && !strings.HasPrefix(a, "Patient/") || strings.Contains(a, "\x00") {
				return result{}, false
			}
		}
		fd := newFolder(t)
		fd.agent.AddConflict(api.Conflict{ID: "c0ffee", Resource: "Patient/1", Path: "name", Values: []api.ConflictValue{
			{Value: []byte(`"a\u001b[2J"`), Author: "Dr. \x1b[2J"}, {Removed: true}}})
		return fd.run(context.Background(), stdin, args...), true
	}
	const berg = `{"resourceType":"Patient","id":"1","name":[{"family":"Berg"}]}`
	for _, seed := range [][2]string{
		{"status", ""}, {"status\n--json", ""}, {"put\n-", berg}, {"import\n-", berg}, {"find\nberg", ""}, {"find\n-", "berg"}, {"conflict\nlist", ""},
		{"conflict\nshow\nc0ffee", ""}, {"conflict\nresolve\nc0ffee\n--choose\n1", ""},
		{"conflict\nresolve\nc0ffee\n--value\n-", `"a"`}, {"export", ""}, {"peer\nlist", ""}, {"version", ""}, {"help\nexit-codes", ""},
		{"events", ""},
	} {
		if r, ok := run(f, seed[0], seed[1]); !ok || r.code != api.ExitOK {
			f.Fatalf("seed %q: %+v", seed, r)
		}
		f.Add(seed[0], seed[1])
	}
	f.Add("get\nPatient/"+fuzzing.Canary, "")
	f.Add("join", "cm1\x1b[2J"+fuzzing.Canary)
	f.Add("invite\n--expires\n-1h", "")
	f.Add("put\n-\n--user\n\x1b]0;x\x07", berg)
	f.Fuzz(func(t *testing.T, line, stdin string) {
		r, ok := run(t, line, stdin)
		if !ok {
			return
		}
		if r.code < 0 || r.code > api.ExitInterrupted {
			t.Errorf("%q ends with %d", line, r.code)
		}
		for _, printed := range []string{r.out, r.err} {
			if bad := strings.IndexFunc(printed, func(c rune) bool { return steers(c) && c != '\n' && c != '\t' }); bad >= 0 || !utf8.ValidString(printed) {
				t.Errorf("%q prints %q", line, printed)
			}
		}
	})
}

// FuzzVisible prints whatever another device may be called.
func FuzzVisible(f *testing.F) {
	for _, s := range []string{"Dr. Adler", "Filiale Süd", "日本"} {
		if visible(s) != s {
			f.Fatalf("%q is printed as %q", s, visible(s))
		}
		f.Add(s)
	}
	f.Add("\x1b[2J\u202e\xff\u009b")
	f.Fuzz(func(t *testing.T, s string) {
		out := visible(s)
		if strings.ContainsFunc(out, steers) || !utf8.ValidString(out) {
			t.Errorf("%q is printed as %q", s, out)
		}
		if utf8.ValidString(s) && !strings.ContainsFunc(s, steers) && out != s {
			t.Errorf("%q is printed as %q", s, out)
		}
		if pretty, err := prettyJSON([]byte(s)); err == nil && strings.ContainsFunc(pretty, func(r rune) bool { return steers(r) && r != '\n' }) {
			t.Errorf("%q is printed as %q", s, pretty)
		}
	})
}
