package ranges

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"chartmesh/lockquorum"
	"chartmesh/wire"
)

// A folder that is put back from an older copy must not give a number again. So how far a part was used stands outside of the folder too, in a
// file of its own: a copy of the folder elsewhere on the machine gives from other parts.

// Place names a part of one log.
type Place struct {
	Range lockquorum.RangeID
	Log   [32]byte
	Min   int64
}

// Marks keep outside of the folder how far parts were used.
type Marks interface {
	// Read returns the first number of a part that was not given; false: nothing says so.
	Read(Place) (int64, bool, error)
	// Write makes it durable.
	Write(Place, int64) error
	// Remove forgets what was written.
	Remove(Place) error
}

// Files are Marks in files of a folder.
type Files struct {
	Dir    string // for what belongs to the machine
	Device lockquorum.DeviceID
}

const (
	markFormat = "chartmesh range mark\nversion 1\nnext %d\n"
	maxMark    = 4096
)

var errMark = errors.New("the mark is not what was written")

func encodeMark(next int64) []byte {
	text := fmt.Sprintf(markFormat, next)
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf(nil, "%ssum %x\n", text, sum[:16])
}

func parseMark(b []byte) (next int64, err error) {
	if _, err := fmt.Sscanf(string(b), markFormat, &next); err != nil || next < 0 || string(encodeMark(next)) != string(b) {
		return 0, errMark
	}
	return next, nil
}

func (f Files) path(at Place) string {
	var w wire.Writer
	w.String("chartmesh range mark 1")
	w.Raw(f.Device[:])
	w.Raw(at.Range[:])
	w.Raw(at.Log[:])
	w.Uvarint(uint64(at.Min))
	sum := sha256.Sum256(w.Bytes())
	return filepath.Join(f.Dir, "range-"+hex.EncodeToString(sum[:16]))
}

// Read implements Marks.
func (f Files) Read(at Place) (int64, bool, error) {
	info, err := os.Lstat(f.path(at))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxMark {
		return 0, false, errMark
	}
	b, err := os.ReadFile(f.path(at))
	if err != nil {
		return 0, false, err
	}
	next, err := parseMark(b)
	return next, err == nil, err
}

// Write implements Marks. A crash leaves the old file or the new one.
func (f Files) Write(at Place, next int64) (err error) {
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	w, err := os.CreateTemp(f.Dir, "range.new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(w.Name()) }()
	if _, err = w.Write(encodeMark(next)); err == nil {
		err = w.Sync()
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(w.Name(), f.path(at))
}

// Remove implements Marks.
func (f Files) Remove(at Place) error {
	if err := os.Remove(f.path(at)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
