package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// TestRotateStorageKilled kills the program while it encrypts the store anew, at moments over the whole of it: the next command finds every
// record, and the change can be made again.
func TestRotateStorageKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	home := t.TempDir()
	data := filepath.Join(home, "data")
	program := func(args ...string) *exec.Cmd {
		cmd := exec.Command(self, append([]string{"--data", data}, args...)...)
		cmd.Env = append(os.Environ(), asProgram+"=1", "HOME="+home, "XDG_STATE_HOME="+filepath.Join(home, "state"), "CHARTMESH_USER=Dr. Berg")
		return cmd
	}
	run := func(args ...string) []byte {
		t.Helper()
		cmd := program(args...)
		var errs bytes.Buffer
		cmd.Stderr = &errs
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, &errs)
		}
		return out
	}
	run("init", "--practice", "Praxis Berg", "--site", "Mitte", "--device", "Empfang")
	var lines bytes.Buffer
	for i := range 50 {
		fmt.Fprintf(&lines, `{"resourceType":"Patient","id":"p%d","name":[{"family":"Berg"}]}`+"\n", i)
	}
	file := filepath.Join(home, "patients.ndjson")
	if err := os.WriteFile(file, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	run("import", file)
	want := run("export")
	began := time.Now()
	run("keyring", "rotate-storage")
	took := time.Since(began)
	const kills = 8
	for i := range kills {
		cmd := program("keyring", "rotate-storage")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(took*time.Duration(i+1)/kills, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed, or done before
		kill.Stop()
		if got := run("export"); !bytes.Equal(got, want) {
			t.Fatalf("killed after %d/%d: %d bytes of records, before %d", i+1, kills, len(got), len(want))
		}
	}
	run("keyring", "rotate-storage")
	if got := run("export"); !bytes.Equal(got, want) {
		t.Error("records are missing at the end")
	}
}
