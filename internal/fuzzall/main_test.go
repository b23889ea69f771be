package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestRead takes the counts off what go test has been seen to print.
func TestRead(t *testing.T) {
	const good = `fuzz: elapsed: 0s, gathering baseline coverage: 0/37 completed
fuzz: elapsed: 0s, gathering baseline coverage: 37/37 completed, now fuzzing with 2 workers
fuzz: elapsed: 3s, execs: 31728 (10572/sec), new interesting: 28 (total: 65)
fuzz: elapsed: 6s, execs: 99786 (8676/sec), new interesting: 34 (total: 71)
PASS
ok  	chartmesh/wire	6.109s
`
	if got, want := read(good), (outcome{execs: 99786, interesting: 34, corpus: 71}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	const bad = `fuzz: elapsed: 0s, gathering baseline coverage: 0/3 completed
fuzz: elapsed: 1s, execs: 310 (300/sec), new interesting: 2 (total: 5)
--- FAIL: FuzzReader (0.52s)
    --- FAIL: FuzzReader (0.00s)
        wire_test.go:74: ff by 03: number
    
    Failing input written to testdata/fuzz/FuzzReader/8d1d1be1d9bbbd94
    To re-run:
    go test -run=FuzzReader/8d1d1be1d9bbbd94
FAIL
`
	got := read(bad)
	if got.execs != 310 || got.input != "testdata/fuzz/FuzzReader/8d1d1be1d9bbbd94" {
		t.Errorf("%+v", got)
	}
	if text := withoutProgress(bad); strings.Contains(text, "elapsed") || !strings.Contains(text, "number") {
		t.Errorf("%q", text)
	}
	if got := read("chartmesh/wire: build failed"); got != (outcome{}) {
		t.Errorf("%+v", got)
	}
}

// TestRun fuzzes a module of two targets, one of which fails on what no seed is.
func TestRun(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("builds the standard library for fuzzing: set HEAVY=1")
	}
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module planted\n\ngo 1.26\n",
		"planted_test.go": `package planted

import "testing"

func FuzzGood(f *testing.F) {
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, b []byte) {})
}

func FuzzBad(f *testing.F) {
	f.Add([]byte("seed"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 0 && b[0] == 'X' {
			t.Error("found")
		}
	})
}
`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out bytes.Buffer
	err := run(context.Background(), &out, dir, 40*time.Second, regexp.MustCompile(""), 1)
	if !errors.Is(err, errCrashers) {
		t.Errorf("%v\n%s", err, out.String())
	}
	inputs, _ := filepath.Glob(filepath.Join(dir, "testdata", "fuzz", "FuzzBad", "*"))
	if len(inputs) != 1 {
		t.Fatalf("%d inputs are kept\n%s", len(inputs), out.String())
	}
	for _, want := range []string{"2 targets, 20s each", "found", "again: go test -run '^FuzzBad$/^" + filepath.Base(inputs[0]) + "$' ./.", "1 of 2 failed"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if !regexp.MustCompile(`FuzzGood +[1-9]\d* .*ok`).MatchString(out.String()) {
		t.Errorf("FuzzGood ran nothing:\n%s", out.String())
	}
	if err := run(context.Background(), &out, dir, time.Second, regexp.MustCompile("FuzzNone"), 1); err == nil || errors.Is(err, errCrashers) {
		t.Errorf("no target: %v", err)
	}
}
