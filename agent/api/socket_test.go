package api_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

// folders returns a data folder with a short path and one too long for a socket.
func folders(t *testing.T) map[string]string {
	t.Helper()
	t.Setenv("XDG_RUNTIME_DIR", "")
	short, err := os.MkdirTemp("", "cm")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(short) })
	long := filepath.Join(short, strings.Repeat("x", 110))
	if err := os.Mkdir(long, 0o755); err != nil {
		t.Fatal(err)
	}
	return map[string]string{"short": short, "long": long}
}

func TestListen(t *testing.T) {
	for name, dir := range folders(t) {
		t.Run(name, func(t *testing.T) {
			if _, err := api.SocketPath(dir); api.CodeOf(err) != api.CodeUnavailable {
				t.Fatalf("before: %v", err)
			}
			l, err := api.Listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			path, err := api.SocketPath(dir)
			if err != nil {
				t.Fatal(err)
			}
			if runtime.GOOS != "windows" {
				for file, want := range map[string]os.FileMode{path: 0o600, dir: 0o700, filepath.Dir(path): 0o700} {
					if info, err := os.Stat(file); err != nil || info.Mode().Perm() != want {
						t.Errorf("%s: %v, %v; want %o", file, info.Mode(), err, want)
					}
				}
			}
			if _, err := api.Listen(dir); api.CodeOf(err) != api.CodeInUse {
				t.Errorf("second agent: %v", err)
			}
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			if err := l.Close(); err != nil {
				t.Errorf("second close: %v", err)
			}
			if _, err := os.Lstat(path); !os.IsNotExist(err) {
				t.Errorf("the socket is still there: %v", err)
			}
			if entries, err := os.ReadDir(dir); err != nil || name == "long" && len(entries) != 0 {
				t.Errorf("left in the folder: %v, %v", entries, err)
			}
		})
	}
}

// TestStale holds that the socket of an agent that died is replaced.
func TestStale(t *testing.T) {
	for name, dir := range folders(t) {
		t.Run(name, func(t *testing.T) {
			// A listener that does not remove its socket is what a killed agent leaves.
			first, err := api.Listen(dir)
			if err != nil {
				t.Fatal(err)
			}
			path, err := api.SocketPath(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(path, path+".kept"); err != nil {
				t.Fatal(err)
			}
			named, _ := os.ReadFile(filepath.Join(dir, "agent.sock.path"))
			if name == "long" {
				if err := os.Mkdir(filepath.Dir(path)+"x", 0o700); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(filepath.Dir(path) + "x") })
				moved := filepath.Join(filepath.Dir(path)+"x", "agent.sock")
				if err := os.Rename(path+".kept", moved); err != nil {
					t.Fatal(err)
				}
				named, path = []byte(moved+"\n"), moved
			}
			if err := first.Close(); err != nil {
				t.Fatal(err)
			}
			if name == "long" {
				if err := os.WriteFile(filepath.Join(dir, "agent.sock.path"), named, 0o600); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Rename(path+".kept", path); err != nil {
				t.Fatal(err)
			}
			if _, err := net.Dial("unix", path); err == nil {
				t.Fatal("the stale socket answers")
			}
			second, err := api.Listen(dir)
			if err != nil {
				t.Fatalf("replace a stale socket: %v", err)
			}
			if err := second.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// TestStrangersSocket holds that a socket in a folder which others may write is not trusted.
func TestStrangersSocket(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("access lists decide on Windows")
	}
	dir := folders(t)["long"]
	l, err := api.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	path, err := api.SocketPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := api.SocketPath(dir); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("a folder open to others: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "agent.sock.path"), []byte("relative/agent.sock\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := api.SocketPath(dir); api.CodeOf(err) != api.CodeDamaged {
		t.Errorf("a relative path: %v", err)
	}
}

func TestServeEnds(t *testing.T) {
	dir := folders(t)["short"]
	ctx, cancel := context.WithCancel(t.Context())
	l, err := api.Listen(dir)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- api.ServeOn(ctx, l, api.NewHandler(apitest.New(), api.Options{})) }()
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("serve: %v", err)
	}
	if _, err := api.SocketPath(dir); api.CodeOf(err) != api.CodeUnavailable {
		t.Errorf("afterwards: %v", err)
	}
}
