// Package storage keeps a device's state on disk: sealed chunks, membership entries, and what was derived from them.
//
// Nouns: a [Store] is an ordered map from keys to values, a [Batch] what changes together, a [Reader] a snapshot of what
// is durable. layout.go names every key. [Open] gives the store on disk, [NewTwin] one in memory that can crash.
//
// Guarantees: when Commit returns nil the batch is on stable storage, whole. A reader sees a batch when it is durable and
// not before. A value that comes back is the value that was put under that key: each carries a tag that every read checks
// ([ErrDamaged]). When a commit fails on its way to disk, its batch is there whole or not at all, which the next open
// tells, and until then the store commits nothing more ([ErrFailed]): a disk that failed once cannot be trusted to have
// kept what it says it kept.
//
// What keys and values mean is the callers'. Keys may hold what a patient is searched by, so they are encrypted at rest as
// values are, and no error and no log line of this package holds a byte of either.
package storage

import (
	"context"
	"errors"
	"fmt"
)

var (
	// ErrNotFound says that a key has no value.
	ErrNotFound = errors.New("not found")
	// ErrDamaged says that a stored value is not what was written.
	ErrDamaged = errors.New("stored data is damaged")
	// ErrInUse says that another process has the folder open.
	ErrInUse = errors.New("the folder is in use by another process")
	// ErrTooLarge says that a batch, a key or a value is over its limit; see limits.go.
	ErrTooLarge = errors.New("batch is too large for one commit")
	// ErrClosed says that the store has been closed.
	ErrClosed = errors.New("store is closed")
	// ErrFailed says that a commit before this one failed on its way to disk, so that the store must be opened again
	// before it commits anything more. Reads go on, of what was durable before.
	ErrFailed = errors.New("the store failed and must be opened again")
	// ErrNewer says that a newer version wrote the folder.
	ErrNewer = errors.New("the folder was written by a newer version")
	// ErrWrongKey says that the key does not open the folder.
	ErrWrongKey = errors.New("the key does not open this folder")
	// ErrForeign says that the folder holds something that is not a store.
	ErrForeign = errors.New("the folder holds something else")
)

// IgnoreNotFound returns nil for ErrNotFound, and any other error as it is.
func IgnoreNotFound(err error) error {
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// IgnoreDamaged returns nil for ErrDamaged, and any other error as it is.
func IgnoreDamaged(err error) error {
	if errors.Is(err, ErrDamaged) {
		return nil
	}
	return err
}

// Reader reads a snapshot.
type Reader interface {
	// Get returns a copy of key's value, ErrNotFound or ErrDamaged.
	Get(key []byte) ([]byte, error)
	// Scan calls fn for every pair whose key begins with prefix, ascending, starting at the first key >= from (nil: at
	// the first). fn may keep neither slice. An error of fn ends the scan and is returned; ErrStop ends it without.
	Scan(prefix, from []byte, fn func(key, value []byte) error) error
	// Keys is Scan without the values, which are neither read nor checked.
	Keys(prefix, from []byte, fn func(key []byte) error) error
}

// ErrStop ends a Scan early without an error.
var ErrStop = errors.New("stop")

// Sizer is a Store that knows how many bytes it takes on disk.
type Sizer interface {
	Size() (int64, error)
}

// Store is a durable ordered map. Keys have 1 to MaxKey bytes and begin with none of the reserved ones ([ErrKey]). It is
// safe for concurrent use; of concurrent commits to one key any may be last.
type Store interface {
	// View calls fn with a snapshot, which ends with the call.
	View(fn func(Reader) error) error
	// Commit makes b durable, or fails. ctx counts until the batch is on its way to disk, and no longer. An empty batch
	// does nothing. b may be used again afterwards, and its slices changed.
	Commit(ctx context.Context, b *Batch) error
	// Close waits for views and commits under way, and is idempotent.
	Close() error
}

// Batch is a set of puts and deletes that Commit makes durable together. The zero value is empty.
type Batch struct {
	// Frees says that the batch makes room: it is committed although the disk is nearly full, as long as a quarter of what is left
	// free is there.
	Frees bool

	ops   []op
	size  int
	inset int // how much of each key is a Part's, and counts for no limit
}

type op struct {
	key, value []byte
	delete     bool
}

// Put sets key to value; of several for one key the last counts. The batch keeps the slices.
func (b *Batch) Put(key, value []byte) {
	b.ops = append(b.ops, op{key: key, value: value})
	b.size += len(key) + len(value) + perOp
}

// Delete removes key, which need not exist.
func (b *Batch) Delete(key []byte) {
	b.ops = append(b.ops, op{key: key, delete: true})
	b.size += len(key) + perOp
}

// Size returns what the batch counts against MaxBatch.
func (b *Batch) Size() int { return b.size }

// Len returns the number of puts and deletes.
func (b *Batch) Len() int { return len(b.ops) }

// check refuses what would not fit one commit, before anything is written.
func (b *Batch) check() error {
	if b.size > MaxBatch {
		return fmt.Errorf("commit %d bytes: %w", b.size, ErrTooLarge)
	}
	for _, op := range b.ops {
		switch {
		case len(op.key) == 0:
			return fmt.Errorf("commit an empty key: %w", ErrKey)
		case reserved(op.key[0]):
			return fmt.Errorf("commit a key of the store's own: %w", ErrKey)
		case op.delete && mirrored(op.key[0]):
			return fmt.Errorf("remove a %s, which is only ever replaced: %w", kindOf(op.key), ErrKey)
		case len(op.key)-b.inset > MaxKey:
			return fmt.Errorf("commit a %s key of %d bytes: %w", kindOf(op.key), len(op.key)-b.inset, ErrTooLarge)
		case len(op.value) > MaxValue:
			return fmt.Errorf("commit a %s of %d bytes: %w", kindOf(op.key), len(op.value), ErrTooLarge)
		}
	}
	return nil
}
