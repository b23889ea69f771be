package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Stage is a point in a Twin's Commit.
type Stage int

const (
	// Begin: nothing has happened. An error here fails the commit and leaves no trace.
	Begin Stage = 1
	// Applied: the batch is written but not synced; a crash here loses it. An error here fails the store (ErrFailed).
	Applied Stage = 2
	// Synced: the batch is durable but not acknowledged. An error here fails the store; opened again, it has the batch.
	Synced Stage = 3
)

func (s Stage) String() string {
	switch s {
	case Begin:
		return "begin"
	case Applied:
		return "applied"
	case Synced:
		return "synced"
	}
	return fmt.Sprintf("stage %d", int(s))
}

// A Twin is a Store in memory that can crash, fail and decay on demand. It keeps the contract of the store on disk: a
// reader sees a batch when it is durable and not before, and after a commit that failed on its way nothing is committed
// until it is opened again (Crash). It uses no clock, no goroutine and no randomness.
type Twin struct {
	tags *tagger
	turn chan struct{} // holds one token; its owner commits. A channel, so that a hook may wait in virtual time.

	mu struct {
		sync.Mutex
		durable *tree // what a crash leaves, and what readers see
		hook    func(Stage, int) error
		commits int
		fault   error // injected: answers everything
		failed  error // a commit failed on its way
		closed  bool
		crashed bool
	}
}

var _ Store = (*Twin)(nil)

// NewTwin returns an empty Twin.
func NewTwin() *Twin { return newTwin(nil) }

func newTwin(durable *tree) *Twin {
	t := &Twin{tags: newTagger([32]byte{}), turn: make(chan struct{}, 1)}
	t.mu.durable = durable
	return t
}

// OnCommit has hook called at each stage of every commit, with the commit's number from 1. It runs on the committing
// goroutine without a lock, may call Crash, and an error from it stands for a failure at that stage. Nil removes it.
func (t *Twin) OnCommit(hook func(stage Stage, n int) error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.hook = hook
}

// Fail has every read and commit answer err, which nothing changed for, until Fail(nil).
func (t *Twin) Fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.fault = err
}

// Crash ends t as a power cut would, at any time, a commit's hook included, and returns a new Twin on what was durable.
// Hook and fault are not carried over. t answers ErrClosed from then on; it may be closed already.
func (t *Twin) Crash() *Twin {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.closed, t.mu.crashed = true, true
	return newTwin(t.mu.durable)
}

// Copy returns a twin that holds what is durable now, as a copy of the disk does; this one goes on.
func (t *Twin) Copy() *Twin {
	t.mu.Lock()
	held := t.mu.durable
	t.mu.Unlock()
	return newTwin(held)
}

// Corrupt flips a bit of key's stored value, so that reads of it give ErrDamaged until it is put again, and reports
// whether there is one.
func (t *Twin) Corrupt(key []byte) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	record, ok := t.mu.durable.get(key)
	if !ok {
		return false
	}
	record = bytes.Clone(record)
	record[len(record)-1] ^= 1
	t.mu.durable = t.mu.durable.put(bytes.Clone(key), record)
	return true
}

// Len returns the number of pairs.
func (t *Twin) Len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := 0
	t.mu.durable.scan(nil, func(_, _ []byte) bool { n++; return true })
	return n
}

// Close implements Store. Views under way read on, since their snapshot needs nothing of t.
func (t *Twin) Close() error {
	t.turn <- struct{}{} // let a commit that is under way finish
	defer func() { <-t.turn }()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.mu.closed = true
	return nil
}

// readErrLocked says why nothing can be read, commitErrLocked why nothing can be committed.
func (t *Twin) readErrLocked() error {
	if t.mu.closed {
		return ErrClosed
	}
	return t.mu.fault
}

func (t *Twin) commitErrLocked() error {
	if t.mu.closed || t.mu.failed == nil {
		return t.readErrLocked()
	}
	return t.mu.failed
}

// View implements Store.
func (t *Twin) View(fn func(Reader) error) error {
	t.mu.Lock()
	root, err := t.mu.durable, t.readErrLocked()
	t.mu.Unlock()
	if err != nil {
		return err
	}
	return fn(twinReader{t, root})
}

// Commit implements Store.
func (t *Twin) Commit(ctx context.Context, b *Batch) error {
	if err := b.check(); err != nil {
		return err
	}
	select {
	case t.turn <- struct{}{}:
		defer func() { <-t.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	t.mu.Lock()
	root, hook, err := t.mu.durable, t.mu.hook, t.commitErrLocked()
	if err == nil && len(b.ops) > 0 {
		t.mu.commits++
	}
	n := t.mu.commits
	t.mu.Unlock()
	if err != nil || len(b.ops) == 0 {
		return err
	}
	if hook == nil {
		hook = func(Stage, int) error { return nil }
	}

	if err := hook(Begin, n); err != nil {
		return err
	}
	for _, op := range b.ops {
		if op.delete {
			root = root.del(op.key)
		} else {
			root = root.put(bytes.Clone(op.key), t.tags.seal(op.key, formWhole, op.value))
		}
	}
	if err := hook(Applied, n); err != nil {
		return t.fail(err)
	}
	if err := t.sync(root); err != nil {
		return err
	}
	if err := hook(Synced, n); err != nil {
		return t.fail(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return ErrClosed
	}
	return nil
}

// sync makes root durable, unless a crash or a fault came first.
func (t *Twin) sync(root *tree) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.commitErrLocked(); err != nil {
		if !t.mu.closed {
			t.mu.failed = errors.Join(ErrFailed, err)
		}
		return err
	}
	t.mu.durable = root
	return nil
}

func (t *Twin) fail(err error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.closed {
		return ErrClosed
	}
	t.mu.failed = errors.Join(ErrFailed, err)
	return err
}

// twinReader reads one version of the tree.
type twinReader struct {
	twin *Twin
	root *tree
}

func (r twinReader) err() error {
	r.twin.mu.Lock()
	defer r.twin.mu.Unlock()
	if r.twin.mu.crashed {
		return ErrClosed
	}
	return r.twin.mu.fault
}

func (r twinReader) Get(key []byte) ([]byte, error) {
	if err := r.err(); err != nil {
		return nil, err
	}
	record, ok := r.root.get(key)
	if !ok {
		return nil, ErrNotFound
	}
	_, body, err := r.twin.tags.open(key, record)
	if err != nil {
		return nil, err
	}
	return bytes.Clone(body), nil
}

func (r twinReader) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	return r.each(prefix, from, func(key, record []byte) error {
		_, body, err := r.twin.tags.open(key, record)
		if err != nil {
			return err
		}
		return fn(slices.Clip(key), slices.Clip(body))
	})
}

func (r twinReader) Keys(prefix, from []byte, fn func(key []byte) error) error {
	return r.each(prefix, from, func(key, _ []byte) error { return fn(slices.Clip(key)) })
}

func (r twinReader) each(prefix, from []byte, fn func(key, record []byte) error) error {
	if err := r.err(); err != nil {
		return err
	}
	var end error
	r.root.scan(later(prefix, from), func(key, record []byte) bool {
		if !bytes.HasPrefix(key, prefix) {
			return false
		}
		end = fn(key, record)
		return end == nil
	})
	if errors.Is(end, ErrStop) {
		return nil
	}
	return end
}

// later returns the greater of a scan's prefix and where it starts.
func later(prefix, from []byte) []byte {
	if bytes.Compare(from, prefix) > 0 {
		return from
	}
	return prefix
}
