package api

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	socketName = "agent.sock"
	// socketPathName is a file that names the socket when the folder's own path is too long for one.
	socketPathName = "agent.sock.path"
	// maxSocketPath is what every system's sockaddr_un holds with the zero at its end (104 on macOS, 108 on Linux).
	maxSocketPath = 103
)

// Listen opens the folder's socket. Its protection is the file system's: the folder is 0700 and the socket 0600, so
// only programs of the same user (and the system's administrator) reach the API; there is no password on it. On Windows
// the folder's access list, inherited from the user's profile, does the same.
//
// The caller holds the folder's lock, so that a socket whose agent does not answer is a dead one's and is replaced. One
// that answers is CodeInUse all the same. Closing the listener removes the socket.
func Listen(dir string) (net.Listener, error) {
	if err := private(dir); err != nil {
		return nil, err
	}
	if old, err := SocketPath(dir); err == nil {
		conn, err := net.DialTimeout("unix", old, time.Second)
		if err == nil {
			_ = conn.Close()
			return nil, &Error{Code: CodeInUse, Message: "an agent already serves this folder", Hint: "see chartmesh status"}
		}
		if err := removeSocket(dir, old); err != nil {
			return nil, err
		}
	}
	path := filepath.Join(dir, socketName)
	if len(path) > maxSocketPath {
		short, err := shortFolder()
		if err != nil {
			return nil, err
		}
		path = filepath.Join(short, socketName)
		if err := os.WriteFile(filepath.Join(dir, socketPathName), []byte(path+"\n"), 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("name the socket: %w", err), os.Remove(short))
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("listen on the folder's socket: %w", err), removeSocket(dir, path))
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("protect the folder's socket: %w", err), l.Close(), removeSocket(dir, path))
	}
	return &listener{Listener: l, dir: dir, path: path}, nil
}

type listener struct {
	net.Listener
	dir, path string
}

func (l *listener) Close() error {
	err := l.Listener.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return errors.Join(err, removeSocket(l.dir, l.path))
}

// SocketPath returns where the socket of dir is, whether or not somebody listens on it. CodeUnavailable: there is none.
func SocketPath(dir string) (string, error) {
	none := &Error{Code: CodeUnavailable, Message: "no agent runs on " + dir, Hint: "start one with: chartmesh agent"}
	path := filepath.Join(dir, socketName)
	if len(path) <= maxSocketPath {
		if _, err := os.Lstat(path); err != nil {
			none.Err = err
			return "", none
		}
		return path, nil
	}
	named, err := os.ReadFile(filepath.Join(dir, socketPathName))
	if err != nil {
		none.Err = err
		return "", none
	}
	path = strings.TrimSuffix(string(named), "\n")
	if len(path) > maxSocketPath || filepath.Base(path) != socketName || !filepath.IsAbs(path) {
		return "", &Error{Code: CodeDamaged, Message: "the file " + socketPathName + " does not name a socket"}
	}
	// A socket outside the data folder lies where other users may write: had the agent ended and the folder been swept
	// away, one of them could have put another in its place and would be sent what is meant for the agent.
	if err := ownPrivate(filepath.Dir(path)); err != nil {
		none.Err = err
		return "", none
	}
	return path, nil
}

// removeSocket removes path, and if it is not in dir, the folder made for it and the file that names it.
func removeSocket(dir, path string) error {
	var errs []error
	remove := func(name string) {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove the folder's socket: %w", err))
		}
	}
	remove(path)
	if filepath.Dir(path) != filepath.Clean(dir) {
		remove(filepath.Dir(path))
		remove(filepath.Join(dir, socketPathName))
	}
	return errors.Join(errs...)
}

// shortFolder makes a private folder with a path that leaves room for a socket.
func shortFolder() (string, error) {
	var last error
	for _, parent := range []string{os.Getenv("XDG_RUNTIME_DIR"), os.TempDir(), "/tmp"} {
		if parent == "" || len(filepath.Join(parent, "chartmesh-0123456789", socketName)) > maxSocketPath {
			continue
		}
		dir, err := os.MkdirTemp(parent, "chartmesh-*") // 0700
		if err == nil {
			return dir, nil
		}
		last = err
	}
	return "", &Error{Code: CodeUnavailable, Err: last, Message: "there is no folder with a path short enough for a socket",
		Hint: "choose a data folder with a shorter path, or set XDG_RUNTIME_DIR"}
}

// private makes sure that dir is this user's alone.
func private(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("look at the data folder: %w", err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return &Error{Code: CodeForbidden, Message: "others may read the data folder, and that cannot be changed", Err: err}
	}
	return nil
}

// Serve answers with handler on the folder's socket until ctx ends; then it takes no new request, ends the streams,
// gives what is under way a moment to finish, and removes the socket.
func Serve(ctx context.Context, dir string, handler http.Handler) error {
	l, err := Listen(dir)
	if err != nil {
		return err
	}
	return ServeOn(ctx, l, handler)
}

// ServeOn is Serve on a listener, which it closes.
func ServeOn(ctx context.Context, l net.Listener, handler http.Handler) error {
	requests := context.WithValue(context.WithoutCancel(ctx), shutdownKey{}, ctx)
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: headerTimeout,
		MaxHeaderBytes:    maxHeader,
		BaseContext:       func(net.Listener) context.Context { return requests },
		// net/http logs panics with their values here; the handler has logged what may be logged.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
	}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(l) }()
	select {
	case err := <-ended:
		return errors.Join(fmt.Errorf("serve the API: %w", err), l.Close())
	case <-ctx.Done():
	}
	late, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	err := server.Shutdown(late)
	if err != nil {
		err = errors.Join(fmt.Errorf("end requests under way: %w", err), server.Close())
	}
	if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve the API: %w", end))
	}
	return errors.Join(err, l.Close())
}
