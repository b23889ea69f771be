package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"chartmesh/agent/replica"
	"chartmesh/chunk"
	"chartmesh/lockquorum/local"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// A folder that is put back from an older copy, in its old place, looks like the one that it was. So a witness stands
// outside of it: a small file in the user's state directory that says how often the folder was opened and how far it had
// written its log (docs/spec/keyring.md). A folder that says less has gone back, and begins a new log before it writes. The
// witness holds no secret and names no practice. Without one everything works, and only peers notice (replica.Replica).

// witness is what is known outside of a folder.
type witness struct {
	generation uint64 // grows whenever the folder is opened; also in the store
	log        chunk.LogID
	chunks     uint64 // held of that log, in all scopes
}

const witnessFormat = "chartmesh witness\nversion 1\ngeneration %d\nlog %x\nchunks %d\n"

func (w witness) encode() []byte {
	text := fmt.Sprintf(witnessFormat, w.generation, w.log[:], w.chunks)
	sum := sha256.Sum256([]byte(text))
	return fmt.Appendf(nil, "%ssum %x\n", text, sum[:16])
}

var errWitness = errors.New("the witness is not what was written")

func parseWitness(b []byte) (w witness, err error) {
	var log []byte
	if _, err := fmt.Sscanf(string(b), witnessFormat, &w.generation, &log, &w.chunks); err != nil || len(log) != len(w.log) {
		return witness{}, errWitness
	}
	copy(w.log[:], log)
	if string(w.encode()) != string(b) {
		return witness{}, errWitness
	}
	return w, nil
}

const maxWitness = 4096

// witnessPath names the witness of a folder. It is told by device and folder, so that copies have their own.
func witnessPath(dir string, device trust.DeviceID) (string, error) {
	state, err := local.StateFolder()
	if err != nil {
		return "", err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	var w wire.Writer
	w.String("chartmesh witness 1")
	w.Raw(device[:])
	w.String(dir)
	sum := sha256.Sum256(w.Bytes())
	return filepath.Join(state, "witness-"+hex.EncodeToString(sum[:16])), nil
}

func readWitness(path string) (witness, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return witness{}, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxWitness {
		return witness{}, errWitness
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return witness{}, err
	}
	return parseWitness(b)
}

// writeWitness replaces the file, so that a crash leaves the old one or the new one.
func writeWitness(path string, w witness) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), "witness.new-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(w.encode())
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// watch is an open folder's side of its witness.
type watch struct {
	path       string // empty: there is no place for one
	generation uint64
	counted    bool // the store says generation
	failed     bool // the last try to bring the witness up to date
	last       witness
}

// openWitness compares the folder with its witness, begins a new log if the folder has gone back, and counts this opening
// in both. The store comes first: a crash in between leaves a folder that says more than its witness, which is no alarm,
// and nothing has been written in it that the witness lacks. Without room it is counted when there is some, and a new log
// begins with the next edit; until then nothing is written.
func (a *Agent) openWitness(ctx context.Context) error {
	generation, err := readGeneration(a.records)
	if err != nil {
		return err
	}
	path, err := witnessPath(a.cfg.Dir, a.keys.Device())
	var w witness
	if err == nil {
		w, err = readWitness(path)
	}
	switch {
	case err == nil && a.keys.Fresh(): // a new log has begun already
	case err == nil && (w.generation > generation || !a.knows(w)):
		a.log.Warn("this folder is older than it was: it was put back from a copy, and goes on under a new log",
			"opened", generation, "opened_before", w.generation)
		if err := a.records.BeginLog(ctx, replica.LogRestored); err != nil {
			a.log.Warn("the new log is not begun yet; nothing is written until it is", "error", err)
		}
	case errors.Is(err, os.ErrNotExist) && generation > 0:
		a.log.Info("nothing outside the folder says how far it was; if it was put back from a copy, other devices will notice")
	case err != nil && !errors.Is(err, os.ErrNotExist):
		a.log.Warn("what is kept outside the folder cannot be read; if the folder was put back from a copy, other devices will notice",
			"error", err)
	}
	a.watch = watch{path: path, generation: max(generation, w.generation) + 1}
	a.keepWitness(ctx)
	return nil
}

// knows reports whether the folder holds what its witness has seen.
func (a *Agent) knows(w witness) bool {
	for _, l := range a.records.OwnLogs() {
		if l.ID == w.log {
			return a.records.WrittenIn(w.log) >= w.chunks
		}
	}
	return false
}

// keepWitness brings the witness up to date with what was written, and says once when that fails; it is called again. One
// goroutine at a time may call it.
func (a *Agent) keepWitness(ctx context.Context) {
	err := a.bringWitness(ctx)
	if err != nil && !a.watch.failed {
		a.log.Warn("what is kept outside the folder is not up to date; if the folder is put back from a copy, perhaps only other devices notice",
			"error", err)
	}
	a.watch.failed = err != nil
}

func (a *Agent) bringWitness(ctx context.Context) error {
	log, chunks, known := a.records.Written()
	if a.watch.generation == 0 || !known {
		return nil // not opened, or a new log is to begin: who opens the folder after a crash must find out again
	}
	if !a.watch.counted {
		if err := a.records.PutSmall(ctx, storage.Meta.Key(replica.MetaWitness), marshalGeneration(a.watch.generation)); err != nil {
			return fmt.Errorf("count the opening of the folder: %w", err)
		}
		a.watch.counted = true
	}
	next := witness{generation: a.watch.generation, log: log, chunks: chunks}
	if a.watch.path == "" || next == a.watch.last {
		return nil
	}
	if err := writeWitness(a.watch.path, next); err != nil {
		return err
	}
	a.watch.last = next
	return nil
}

func marshalGeneration(n uint64) []byte {
	var w wire.Writer
	w.Byte(1)
	w.Uvarint(n)
	return w.Bytes()
}

func readGeneration(records *replica.Replica) (uint64, error) {
	b, err := records.Small(storage.Meta.Key(replica.MetaWitness))
	if err != nil || b == nil {
		return 0, err
	}
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	n := r.Uvarint(1<<64 - 1)
	if err := r.Close(); err != nil {
		return 0, fmt.Errorf("read how often the folder was opened: %w", err)
	}
	return n, nil
}
