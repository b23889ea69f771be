package storage

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/dgraph-io/badger/v4"
)

// disk is the Store on disk.
//
// Commits are serial and numbered: the serial is the engine's version number, so that a reader names the last durable
// commit and neither waits for one that is under way nor sees it. Batches that wait while one commit syncs share the
// next: the engine itself syncs once for each transaction.
type disk struct {
	dir  string
	lock *folderLock
	db   *badger.DB
	log  *slog.Logger
	tags *tagger

	serial atomic.Uint64 // of the last durable commit
	guard  guard
	heads  *headKeeper

	turn      chan struct{}        // holds one token; its owner commits and may use what follows
	large     map[[32]byte]uint64  // how many segments each large value has, by the hash of its key
	afterPart func(part int) error // for tests: called between the parts of a commit

	queue struct {
		sync.Mutex
		waiting []*request
		failed  error
		closed  bool
	}
	views struct {
		sync.Mutex
		reading map[uint64]int // how many views read at each serial
		closed  bool
		idle    chan struct{} // takes a token when the last view ends after closed is set
	}
}

// maxGroup is how large a commit of several batches may become, so that it is one transaction of the engine.
const maxGroup = 128 << 10

// request is a batch that waits for its commit.
type request struct {
	batch *Batch
	done  chan struct{} // closed when err stands
	err   error
}

// Commit implements Store.
func (d *disk) Commit(ctx context.Context, b *Batch) error {
	if err := b.check(); err != nil {
		return err
	}
	if err := d.guard.check(b.Frees); err != nil {
		return err
	}
	return d.commit(ctx, b)
}

// commit is Commit for keys of the store's own, too.
func (d *disk) commit(ctx context.Context, b *Batch) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	r := &request{batch: b, done: make(chan struct{})}
	if err := d.enqueue(r); err != nil || len(b.ops) == 0 {
		return err
	}
	for {
		select {
		case <-r.done:
			return r.err
		case d.turn <- struct{}{}:
			d.commitWaiting()
			<-d.turn
		case <-ctx.Done():
			if d.withdraw(r) {
				return context.Cause(ctx)
			}
			<-r.done
			return r.err
		}
	}
}

func (d *disk) enqueue(r *request) error {
	d.queue.Lock()
	defer d.queue.Unlock()
	switch {
	case d.queue.closed:
		return ErrClosed
	case d.queue.failed != nil:
		return d.queue.failed
	}
	if len(r.batch.ops) > 0 {
		d.queue.waiting = append(d.queue.waiting, r)
	}
	return nil
}

// withdraw takes r off the queue and reports whether it was still there.
func (d *disk) withdraw(r *request) bool {
	d.queue.Lock()
	defer d.queue.Unlock()
	for i, w := range d.queue.waiting {
		if w == r {
			d.queue.waiting = append(d.queue.waiting[:i], d.queue.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// commitWaiting commits the oldest of the batches that wait, and with it as many as make a small commit. The caller has
// the turn.
func (d *disk) commitWaiting() {
	d.queue.Lock()
	n, size := 0, 0
	for n < len(d.queue.waiting) && (n == 0 || size+d.queue.waiting[n].batch.size <= maxGroup) {
		size += d.queue.waiting[n].batch.size
		n++
	}
	group := d.queue.waiting[:n:n]
	d.queue.waiting = d.queue.waiting[n:]
	err := d.queue.failed
	d.queue.Unlock()
	if n == 0 {
		return
	}
	if err == nil {
		if err = d.commitGroup(group); err != nil {
			d.queue.Lock()
			d.queue.failed = fmt.Errorf("%w: %w", ErrFailed, err)
			d.queue.Unlock()
		}
	}
	for _, r := range group {
		r.err = err
		close(r.done)
	}
}

// commitGroup makes batches durable together. Any error of it is a failure of the store: what
// a batch can be at fault for was checked before.
func (d *disk) commitGroup(group []*request) error {
	serial := d.serial.Load() + 1
	p := newPlan(d.tags, d.large)
	for _, r := range group {
		for _, op := range r.batch.ops {
			p.add(op)
		}
	}
	var err error
	gerr := guarded(func() { err = d.write(p.entries, serial) })
	if gerr != nil {
		return fmt.Errorf("commit: %w", gerr)
	}
	if err != nil {
		return fmt.Errorf("commit: %w", reasonOf(err))
	}
	p.done()
	d.serial.Store(serial)
	d.discard()
	d.heads.note(serial, group)
	return nil
}

// discard lets the engine drop versions that no view reads.
func (d *disk) discard() {
	d.views.Lock()
	defer d.views.Unlock()
	oldest := d.serial.Load()
	for serial := range d.views.reading {
		oldest = min(oldest, serial)
	}
	d.db.SetDiscardTs(oldest)
}

// View implements Store.
func (d *disk) View(fn func(Reader) error) error {
	d.views.Lock()
	if d.views.closed {
		d.views.Unlock()
		return ErrClosed
	}
	serial := d.serial.Load() // under the lock, so that discard cannot pass it
	d.views.reading[serial]++
	d.views.Unlock()
	defer func() {
		d.views.Lock()
		defer d.views.Unlock()
		if d.views.reading[serial]--; d.views.reading[serial] == 0 {
			delete(d.views.reading, serial)
		}
		if d.views.closed && len(d.views.reading) == 0 {
			d.views.idle <- struct{}{}
		}
	}()
	r := &diskReader{disk: d, txn: d.db.NewTransactionAt(serial, false)}
	defer r.discard()
	return fn(r)
}

// Close implements Store: no more views and commits, wait for those under way, note what is durable, close the engine,
// and let go of the folder last.
func (d *disk) Close() error {
	d.queue.Lock()
	closed := d.queue.closed
	d.queue.closed = true
	waiting := d.queue.waiting
	d.queue.waiting = nil
	d.queue.Unlock()
	for _, r := range waiting {
		r.err = ErrClosed
		close(r.done)
	}
	d.turn <- struct{}{}
	defer func() { <-d.turn }()
	if closed { // and by now, since its closer has had the turn, done
		return nil
	}

	d.discard()
	d.views.Lock()
	d.views.closed = true
	busy := len(d.views.reading) > 0
	d.views.Unlock()
	if busy {
		<-d.views.idle
	}

	// What is durable is noted first; that the engine may have no log any more, before it has none.
	err := errors.Join(d.heads.end(), d.lock.say(stateClosing))
	if err = errors.Join(err, d.closeEngine()); err == nil {
		err = d.lock.say(stateClosed)
	}
	if err = errors.Join(err, d.lock.release()); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

func (d *disk) closeEngine() error {
	var err error
	gerr := guarded(func() { err = d.db.Close() })
	return errors.Join(gerr, reasonOf(err))
}

// eachVersion calls fn for every pair of a kind of small values, with the serial of the commit that put it.
func (r *diskReader) eachVersion(prefix []byte, fn func(key, value []byte, serial uint64)) error {
	return r.each(prefix, nil, badger.IteratorOptions{}, func(key []byte, item *badger.Item) error {
		record, err := r.record(key)
		if err != nil {
			return err
		}
		form, body, err := r.disk.tags.open(key, record)
		if err == nil {
			body, err = r.whole(key, form, body)
		}
		if err == nil {
			fn(bytes.Clone(key), bytes.Clone(body), item.Version())
		}
		return err
	})
}

// diskReader reads one version.
type diskReader struct {
	disk *disk
	txn  *badger.Txn
}

func (r *diskReader) discard() {
	// The engine panics when an iterator is left open, which only happens after another panic.
	_ = guarded(r.txn.Discard)
}

// Get implements Reader.
func (r *diskReader) Get(key []byte) ([]byte, error) {
	if len(key) == 0 || reserved(key[0]) {
		return nil, ErrNotFound
	}
	return r.get(key)
}

// get is Get for keys of the store's own, too.
func (r *diskReader) get(key []byte) ([]byte, error) {
	record, err := r.record(key)
	if err != nil {
		return nil, err
	}
	form, body, err := r.disk.tags.open(key, record)
	if err != nil {
		return nil, err
	}
	return r.whole(key, form, body)
}

// record returns a copy of what the engine holds for key.
func (r *diskReader) record(key []byte) (record []byte, err error) {
	gerr := guarded(func() {
		var item *badger.Item
		if item, err = r.txn.Get(key); err == nil {
			record, err = item.ValueCopy(nil)
		}
	})
	switch {
	case gerr != nil:
		return nil, fmt.Errorf("read %s: %w", kindOf(key), gerr)
	case errors.Is(err, badger.ErrKeyNotFound):
		return nil, ErrNotFound
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", kindOf(key), damageBy(err))
	}
	return record, nil
}

// Scan implements Reader.
func (r *diskReader) Scan(prefix, from []byte, fn func(key, value []byte) error) error {
	if len(prefix) > 0 && reserved(prefix[0]) {
		return nil
	}
	if len(prefix) == 0 {
		from = later([]byte{firstKind}, from)
	}
	var record []byte
	return r.each(prefix, from, badger.IteratorOptions{}, func(key []byte, item *badger.Item) error {
		var err error
		if gerr := guarded(func() { record, err = item.ValueCopy(record) }); gerr != nil {
			return fmt.Errorf("scan %s: %w", kindOf(key), gerr)
		}
		if err != nil {
			return fmt.Errorf("scan %s: %w", kindOf(key), damageBy(err))
		}
		form, body, err := r.disk.tags.open(key, record)
		if err != nil {
			return err
		}
		if body, err = r.whole(key, form, body); err != nil {
			return err
		}
		return fn(key, body)
	})
}

// Keys implements Reader.
func (r *diskReader) Keys(prefix, from []byte, fn func(key []byte) error) error {
	if len(prefix) > 0 && reserved(prefix[0]) {
		return nil
	}
	if len(prefix) == 0 {
		from = later([]byte{firstKind}, from)
	}
	return r.each(prefix, from, badger.IteratorOptions{}, func(key []byte, _ *badger.Item) error { return fn(key) })
}

// each calls fn for every key of the engine's, the store's own included.
func (r *diskReader) each(
	prefix, from []byte, o badger.IteratorOptions, fn func(key []byte, item *badger.Item) error,
) error {
	var it *badger.Iterator
	var item *badger.Item
	var key []byte
	step := func(move func()) error {
		gerr := guarded(func() {
			move()
			if item = nil; it.ValidForPrefix(prefix) {
				item = it.Item()
				key = item.KeyCopy(key)
			}
		})
		if gerr != nil {
			return fmt.Errorf("scan %s: %w", kindOf(prefix), gerr)
		}
		return nil
	}
	o.Prefix = prefix // and no prefetching, which would read, and panic, in goroutines of its own
	if gerr := guarded(func() { it = r.txn.NewIterator(o) }); gerr != nil {
		return fmt.Errorf("scan %s: %w", kindOf(prefix), gerr)
	}
	defer func() { _ = guarded(it.Close) }()

	err := step(func() { it.Seek(later(prefix, from)) })
	for err == nil && item != nil {
		if err = fn(key, item); err == nil {
			err = step(it.Next)
		}
	}
	if errors.Is(err, ErrStop) {
		return nil
	}
	return err
}
