package storage

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// LOCK is locked by the process that has the store open, and tells the next one how far that process came:
//
//	process number, padded to 10 | space | state, padded to 7 | newline
//
// It is overwritten in place, so that a full disk does not keep a store from saying that it was closed.
const (
	stateOpening = "opening"
	stateOpen    = "open"    // the engine has a log, whatever becomes of the process
	stateClosing = "closing" // the engine may have none any more
	stateClosed  = "closed"  // everything is in tables
)

// folderLock is the lock on a store's folder, held.
type folderLock struct {
	file   *os.File
	before string // the state that the last process left; empty if there was none, or an older version's
}

// acquireLock takes the folder's lock and leaves the process's number in it.
func acquireLock(name string) (*folderLock, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		if errors.Is(err, ErrInUse) {
			if pid, _ := readLock(name); pid != "" {
				err = fmt.Errorf("%w (process %s)", ErrInUse, pid)
			}
		}
		_ = f.Close()
		return nil, err
	}
	l := &folderLock{file: f}
	_, l.before = readLock(name)
	if err := l.write(stateOpening); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// readLock returns what a lock's file says, and nothing of what it cannot make sense of.
func readLock(name string) (pid, state string) {
	b, err := os.ReadFile(name)
	if err != nil || len(b) > 64 {
		return "", ""
	}
	fields := strings.Fields(string(b))
	if len(fields) == 0 || len(fields) > 2 {
		return "", ""
	}
	if _, err := strconv.ParseUint(fields[0], 10, 64); err != nil {
		return "", ""
	}
	if len(fields) == 2 {
		state = fields[1]
	}
	return fields[0], state
}

// write says in the file how far this process has come; it is not durable before sync.
func (l *folderLock) write(state string) error {
	_, err := l.file.WriteAt(fmt.Appendf(nil, "%-10d %-7s\n", os.Getpid(), state), 0)
	return err
}

// say makes the state durable.
func (l *folderLock) say(state string) error {
	if err := l.write(state); err != nil {
		return fmt.Errorf("write %s: %w", fileLock, err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("write %s: %w", fileLock, err)
	}
	return nil
}

func (l *folderLock) release() error { return l.file.Close() }

// EndedInOrder reports whether the last process that had the store in dir open closed it, or none ever had it open. What
// comes after another end should be opened in a process of its own first: the engine replays its logs, and what is
// damaged there may end the process.
func EndedInOrder(dir string) bool {
	name := filepath.Join(dir, fileLock)
	if _, err := os.Stat(name); errors.Is(err, os.ErrNotExist) {
		return true
	}
	_, state := readLock(name)
	return state == stateClosed
}

// InUse returns ErrInUse if somebody has the store in dir open.
func InUse(dir string) error {
	l, err := Lock(filepath.Join(dir, fileLock))
	if err != nil {
		return err
	}
	return l.Close()
}

// Lock takes the lock of a file, which it makes if it is not there, until it is closed or the process ends. ErrInUse says
// that somebody has it.
func Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := lockFile(f); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}
