package main

import (
	"bytes"
	"context"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

// endlessExport is an agent whose export does not end: when as much as it says has been taken, it says so.
type endlessExport struct {
	*apitest.Agent
	taken chan<- struct{}
}

const exportTaken = 16 << 20

// Export implements api.Agent.
func (a endlessExport) Export(ctx context.Context, w io.Writer, _ api.ExportOptions) error {
	line := append(bytes.Repeat([]byte("canary "), 1000), '\n')
	for n := 0; ; n += len(line) {
		if n > exportTaken && a.taken != nil {
			close(a.taken)
			a.taken = nil
			<-ctx.Done()
		}
		if _, err := w.Write(line); err != nil || ctx.Err() != nil {
			return err
		}
	}
}

// TestExportKilled kills an export in the middle: what it has written, in clear, lies nowhere. A file that was there stays, and so does
// nothing of the export that is interrupted as a user does it.
func TestExportKilled(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []os.Signal{os.Kill, os.Interrupt} {
		t.Run(signal.String(), func(t *testing.T) {
			f := newFolder(t)
			taken := make(chan struct{})
			ctx, cancel := context.WithCancel(t.Context())
			served := make(chan error, 1)
			listener, err := api.Listen(f.dir)
			if err != nil {
				t.Fatal(err)
			}
			go func() {
				served <- api.ServeOn(ctx, listener, api.NewHandler(endlessExport{apitest.New(), taken}, api.Options{}))
			}()
			dir := t.TempDir()
			name := filepath.Join(dir, "all.ndjson")
			if err := os.WriteFile(name, []byte("before"), 0o600); err != nil {
				t.Fatal(err)
			}
			cmd := exec.Command(self, "--data", f.dir, "export", "--output", name)
			cmd.Env = append(os.Environ(), asProgram+"=1", "TMPDIR="+dir)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			<-taken
			if err := cmd.Process.Signal(signal); err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err == nil {
				t.Error("it ended as if the export were whole")
			}
			cancel()
			if err := <-served; err != nil {
				t.Error(err)
			}
			var left []string
			if err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
				if err == nil && !e.IsDir() {
					left = append(left, e.Name())
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if b, err := os.ReadFile(name); err != nil || string(b) != "before" || len(left) != 1 {
				t.Errorf("left behind: %q; the file that was there: %q, %v", left, b, err)
			}
		})
	}
}
