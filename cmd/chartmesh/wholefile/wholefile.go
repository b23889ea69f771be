// Package wholefile writes files in clear that get their names when they are complete.
//
// A file that is never completed leaves nothing: where the system can make a file without a name, it has none until then, so
// that it is gone with the process, however that ends. Elsewhere it lies beside, hidden, and what a process left that was killed
// is removed by the next one that writes a file of that name. A file that is there is replaced at once, or not at all.
//
// That the records in it are in clear is the caller's to say.
package wholefile

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// File is a file that is being written.
type File struct {
	file *os.File
	name string
	// beside is the name that it has meanwhile; empty: none.
	beside string
	done   bool
}

// Create begins a file, which only its owner may read.
func Create(name string) (*File, error) {
	removeLeft(name)
	f := &File{name: name}
	var err error
	if f.file, err = nameless(filepath.Dir(name)); err != nil {
		return nil, err
	}
	if f.file == nil {
		if f.file, err = os.CreateTemp(filepath.Dir(name), prefix(name)+"*"); err != nil { // 0600
			return nil, err
		}
		f.beside = f.file.Name()
	}
	if err := lock(f.file); err != nil {
		return nil, errors.Join(fmt.Errorf("lock the file: %w", err), f.Discard())
	}
	return f, nil
}

// prefix is how the names of unfinished files begin.
func prefix(name string) string { return "." + filepath.Base(name) + ".unfinished-" }

func (f *File) Write(b []byte) (int, error) { return f.file.Write(b) }

// Commit makes the file durable and gives it its name. After an error there is none.
func (f *File) Commit() error {
	if f.done {
		return fs.ErrClosed
	}
	err := f.file.Sync()
	if err == nil && f.beside == "" {
		err = f.link()
	}
	if !renamesOpen { // nor would another process remove it while it is open
		err = errors.Join(err, f.file.Close())
	}
	if err == nil && f.beside != "" {
		err = os.Rename(f.beside, f.name)
	}
	if err != nil {
		return errors.Join(err, f.Discard())
	}
	f.done = true
	if renamesOpen {
		err = f.file.Close()
	}
	return errors.Join(err, syncFolder(filepath.Dir(f.name)))
}

// link gives a file without a name its own, or, if that is taken, one beside.
func (f *File) link() error {
	err := link(f.file, f.name)
	if !errors.Is(err, fs.ErrExist) {
		if err == nil {
			f.done = true
		}
		return err
	}
	beside := filepath.Join(filepath.Dir(f.name), prefix(f.name)+rand.Text())
	if err = link(f.file, beside); err == nil {
		f.beside = beside
	}
	return err
}

// Discard forgets a file that was not committed.
func (f *File) Discard() error {
	if f.done {
		return nil
	}
	f.done = true
	err := f.file.Close()
	if errors.Is(err, fs.ErrClosed) {
		err = nil
	}
	if f.beside != "" {
		err = errors.Join(err, os.Remove(f.beside))
	}
	return err
}

// removeLeft removes what processes left that were killed while they wrote a file of this name. It is there to leave less behind,
// and in nobody's way if it cannot.
func removeLeft(name string) {
	list, err := os.ReadDir(filepath.Dir(name))
	if err != nil {
		return
	}
	for _, e := range list {
		if e.Type().IsRegular() && strings.HasPrefix(e.Name(), prefix(name)) {
			removeUnlocked(filepath.Join(filepath.Dir(name), e.Name()))
		}
	}
}
