// Package logfile writes a log to a file that does not grow without end.
//
// Nouns: a [File] is the file at a path and its older parts beside it: path.1 is the newest of them.
//
// Guarantees: every Write goes whole into one part, in order, or fails; none is lost when the parts move on. The parts
// are this user's alone. When moving them fails, the file grows on, since a log that is too long beats one that ends.
package logfile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"
)

// File is an open log. Its methods are safe for concurrent use.
type File struct {
	path string
	size int64
	keep int

	mu struct {
		sync.Mutex
		file   *os.File
		length int64
	}
}

// Open opens the log at path, which it makes if need be. A part that would grow beyond size bytes is set aside; keep
// older parts are kept.
func Open(path string, size int64, keep int) (*File, error) {
	f := &File{path: path, size: size, keep: keep}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.openLocked(); err != nil {
		return nil, fmt.Errorf("open the log: %w", err)
	}
	return f, nil
}

func (f *File) openLocked() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New(f.path + " is not a regular file")
	}
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		err = file.Chmod(0o600)
	}
	if err != nil {
		return errors.Join(err, file.Close())
	}
	if f.mu.file != nil {
		_ = f.mu.file.Close() // everything was written; there is nothing to flush
	}
	f.mu.file, f.mu.length = file, info.Size()
	return nil
}

// Write appends one or more whole lines.
func (f *File) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.file == nil {
		return 0, fs.ErrClosed
	}
	if f.mu.length > 0 && f.mu.length+int64(len(b)) > f.size {
		f.rotateLocked()
	}
	n, err := f.mu.file.Write(b)
	f.mu.length += int64(n)
	return n, err
}

// rotateLocked moves every part one on and begins a new one. The old file stays open until there is a new one.
func (f *File) rotateLocked() {
	if _, err := os.Lstat(f.path); errors.Is(err, fs.ErrNotExist) {
		_ = f.openLocked() // moved already, and no new one could be made then
		return
	}
	for i := f.keep; i > 0; i-- {
		if err := os.Rename(f.part(i-1), f.part(i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return
		}
	}
	if f.keep == 0 && os.Remove(f.path) != nil {
		return
	}
	_ = f.openLocked() // failing, the old file is written on under its new name
}

func (f *File) part(i int) string {
	if i == 0 {
		return f.path
	}
	return f.path + "." + strconv.Itoa(i)
}

// Close closes the file. It is idempotent.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.mu.file == nil {
		return nil
	}
	err := f.mu.file.Close()
	f.mu.file = nil
	return err
}
