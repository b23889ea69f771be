package agent

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/storage"
	"chartmesh/wire"
)

// dataVersion counts what is kept in the store: it grows with every kind of value, and every form of one, that builds before
// would not read. A build opens what it and older builds wrote; the first to open a folder notes its number there, before
// it writes anything of its own, so that an older one refuses the folder instead of taking what it cannot read for damage.
//
//	1  2026-11-22  first; noted nowhere
//	2  2026-11-25  this note; checkpoints and skips
//	3  2026-11-26  invitations of the second form, notes of lost branch chunks, recovery entries that the new root key signs
//	4  2026-11-26  keys of epochs that members say
//	5  2026-11-26  what devices confirmed: as far as they read it, and when
const dataVersion = 5

const (
	writtenFormat = 1
	maxVersion    = 256
)

// written is the note.
type written struct {
	data    uint64
	version string // of the program that noted it
}

func (w written) marshal() []byte {
	var b wire.Writer
	b.Byte(writtenFormat)
	b.Uvarint(w.data)
	b.String(w.version)
	return b.Bytes()
}

// parseWritten reads a note. What newer programs append to it is passed over, and so is their format's number: the first
// fields stay what they are for ever, since they are what old programs read.
func parseWritten(b []byte) (w written, err error) {
	r := wire.NewReader(b)
	if r.Byte() < writtenFormat {
		r.Fail("version")
	}
	w.data, w.version = r.Uvarint(1<<64-1), r.String(maxVersion)
	if err := r.Err(); err != nil {
		return written{}, fmt.Errorf("read what wrote the folder: %w", err)
	}
	return w, nil
}

// readWritten returns the note of a store; the zero value where builds before the first note wrote it.
func readWritten(store storage.Store) (w written, err error) {
	err = store.View(func(v storage.Reader) error {
		b, err := v.Get(storage.Meta.Key(replica.MetaWritten))
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err == nil {
			w, err = parseWritten(b)
		}
		return err
	})
	return w, err
}

// checkWritten refuses a store with values that this build does not read.
func (a *Agent) checkWritten() (written, error) {
	w, err := readWritten(a.store)
	if err != nil {
		return w, openError(a.cfg.Dir, err)
	}
	if w.data > dataVersion {
		return w, &api.Error{Code: api.CodeIncompat,
			Message: fmt.Sprintf("%s was written by chartmesh %s, whose data has version %d; this is chartmesh %s, which reads up to %d",
				a.cfg.Dir, w.version, w.data, a.cfg.Version, dataVersion),
			Hint: newerHint}
	}
	return w, nil
}

const newerHint = "nothing was changed; install that version, or a newer one, and start it again"

// noteWritten notes that this build wrote the store, if it is the first with its data version.
func (a *Agent) noteWritten(before written) error {
	if before.data >= dataVersion {
		return nil
	}
	version := a.cfg.Version
	var b storage.Batch
	b.Put(storage.Meta.Key(replica.MetaWritten), written{dataVersion, version[:min(len(version), maxVersion)]}.marshal())
	if err := a.store.Commit(context.Background(), &b); err != nil {
		return fmt.Errorf("note what wrote the folder: %w", err)
	}
	return nil
}
