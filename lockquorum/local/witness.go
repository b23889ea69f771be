package local

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"chartmesh/trust"
	"chartmesh/wire"
)

// A voter that is put back from an older copy must not vote. So how far it came stands outside of its folder too, by device alone: a copy
// elsewhere on this machine is not to vote either. It is not synced: what it is there for is no crash.

// Witness keeps how far a voter came, outside of its folder.
type Witness interface {
	// Read returns what was written last; false: nothing was.
	Read() (Reached, bool, error)
	Write(Reached) error
}

// Reached is how far the voter of a number came. A device that votes again has another number.
type Reached struct{ Epoch, Voter, Term, Index uint64 }

// File is a Witness in a file.
type File struct{ Path string }

// FileOf returns the witness of a device's voter, in a folder for what belongs to the machine. An anchor has one for each practice.
func FileOf(dir string, device trust.DeviceID, practice ...trust.EntryID) File {
	var w wire.Writer
	w.String("chartmesh quorum witness 1")
	w.Raw(device[:])
	for _, p := range practice {
		w.Raw(p[:])
	}
	sum := sha256.Sum256(w.Bytes())
	return File{filepath.Join(dir, "quorum-"+hex.EncodeToString(sum[:16]))}
}

// StateFolder is where a user's programs keep what belongs to the machine and not to a folder.
func StateFolder() (string, error) {
	if dir := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "chartmesh"), nil
	}
	if runtime.GOOS == "windows" {
		dir, err := os.UserCacheDir() // %LocalAppData%, which does not roam
		return filepath.Join(dir, "chartmesh"), err
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", err
	}
	if runtime.GOOS == "darwin" {
		return filepath.Join(home, "Library", "Application Support", "chartmesh"), nil
	}
	return filepath.Join(home, ".local", "state", "chartmesh"), nil
}

const (
	witnessFormat = "chartmesh quorum witness\nversion 1\nepoch %d\nvoter %d\nterm %d\nindex %d\n"
	maxWitness    = 4096
)

var errWitness = errors.New("the witness is not what was written")

func (r Reached) encode() []byte {
	text := fmt.Sprintf(witnessFormat, r.Epoch, r.Voter, r.Term, r.Index)
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf(nil, "%ssum %x\n", text, sum[:16])
}

func parseReached(b []byte) (r Reached, err error) {
	if _, err := fmt.Sscanf(string(b), witnessFormat, &r.Epoch, &r.Voter, &r.Term, &r.Index); err != nil || string(r.encode()) != string(b) {
		return Reached{}, errWitness
	}
	return r, nil
}

// Read implements Witness.
func (f File) Read() (Reached, bool, error) {
	info, err := os.Lstat(f.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return Reached{}, false, nil
	}
	if err != nil {
		return Reached{}, false, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxWitness {
		return Reached{}, false, errWitness
	}
	b, err := os.ReadFile(f.Path)
	if err != nil {
		return Reached{}, false, err
	}
	r, err := parseReached(b)
	return r, err == nil, err
}

// Write implements Witness. A crash leaves the old file or the new one.
func (f File) Write(r Reached) (err error) {
	if err := os.MkdirAll(filepath.Dir(f.Path), 0o700); err != nil {
		return err
	}
	next, err := os.CreateTemp(filepath.Dir(f.Path), "quorum.new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(next.Name()) }()
	_, err = next.Write(r.encode())
	if e := next.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(next.Name(), f.Path)
}
