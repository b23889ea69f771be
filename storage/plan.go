package storage

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"github.com/dgraph-io/badger/v4"
)

// A plan is what a commit writes to the engine: one entry for each key, large values as segments.
//
// The engine takes a transaction of at most 15 % of its memtable, and memory grows with the memtable many times over, so
// that a batch may be larger than a transaction. Such a commit is several transactions, parts, at one serial. The last
// part of every commit holds the serial record, and readers read at the serial of the last commit that is whole; what
// a commit that was cut short left behind is undone when the store is opened (recover). So a commit is whole or absent
// whatever its size.
type plan struct {
	tags    *tagger
	large   map[[32]byte]uint64 // the store's large values: how many segments each has, by the hash of its key
	resized map[[32]byte]uint64 // what becomes of them
	entries []entry
	at      map[string]int
}

// entry is one put, or one delete if record is nil.
type entry struct{ key, record []byte }

// size is what the engine counts, and a little more.
func (e entry) size() int64 { return int64(len(e.key) + len(e.record) + 32) }

func newPlan(tags *tagger, large map[[32]byte]uint64) *plan {
	return &plan{tags: tags, large: large, at: make(map[string]int)}
}

func (p *plan) set(key, record []byte) {
	if i, ok := p.at[string(key)]; ok {
		p.entries[i].record = record
		return
	}
	p.at[string(key)] = len(p.entries)
	p.entries = append(p.entries, entry{key, record})
}

// add plans one operation, after all that were added before.
func (p *plan) add(op op) {
	if len(op.value) <= segmentLen && len(p.large) == 0 && len(p.resized) == 0 {
		p.addWhole(op) // without hashing the key: there are no segments at all
		return
	}
	at := sha256.Sum256(op.key)
	had, ok := p.resized[at]
	if !ok {
		had = p.large[at]
	}
	has := uint64(0)
	if len(op.value) > segmentLen {
		has = p.addSegments(op, at)
	} else {
		p.addWhole(op)
	}
	for n := has; n < had; n++ {
		p.set(keySegment.Key(at, n), nil)
	}
	if had != has {
		if p.resized == nil {
			p.resized = make(map[[32]byte]uint64)
		}
		p.resized[at] = has
	}
}

func (p *plan) addWhole(op op) {
	if op.delete {
		p.set(op.key, nil)
		return
	}
	p.set(op.key, p.tags.seal(op.key, formWhole, op.value))
}

func (p *plan) addSegments(op op, at [32]byte) uint64 {
	d := description{length: uint64(len(op.value)), sum: sha256.Sum256(op.value)}
	for rest := op.value; len(rest) > 0; d.segments++ {
		part := rest[:min(len(rest), segmentLen)]
		rest = rest[len(part):]
		key := keySegment.Key(at, d.segments)
		p.set(key, p.tags.seal(key, formWhole, part))
	}
	p.set(op.key, p.tags.seal(op.key, formSegmented, d.append()))
	return d.segments
}

// done tells the store's large values what the plan, which is durable now, made of them.
func (p *plan) done() {
	for at, n := range p.resized {
		if n == 0 {
			delete(p.large, at)
		} else {
			p.large[at] = n
		}
	}
}

// write makes entries durable at one serial. It returns after the last part, or at the first that fails.
func (d *disk) write(entries []entry, serial uint64) error {
	// The record also keeps the engine's highest version where it is: the engine forgets the version of a delete when it
	// drops it, and would begin again below.
	key := keySerial.Key(0)
	entries = append(entries, entry{key, d.tags.seal(key, formWhole, nil)})

	const slack = 8
	maxSize, maxCount := d.db.MaxBatchSize()-slack*64, d.db.MaxBatchCount()-slack
	for part := 1; len(entries) > 0; part++ {
		n, size := 0, int64(0)
		for n < len(entries) && int64(n) < maxCount && size+entries[n].size() < maxSize {
			size += entries[n].size()
			n++
		}
		if n == 0 {
			return fmt.Errorf("an entry of %d bytes: %w", entries[0].size(), ErrTooLarge)
		}
		if err := d.writePart(entries[:n], serial); err != nil {
			return err
		}
		entries = entries[n:]
		if d.afterPart != nil && len(entries) > 0 {
			if err := d.afterPart(part); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *disk) writePart(entries []entry, serial uint64) error {
	txn := d.db.NewTransactionAt(math.MaxUint64, true)
	defer txn.Discard()
	for _, e := range entries {
		var err error
		if e.record == nil {
			err = txn.Delete(e.key)
		} else {
			err = txn.Set(e.key, e.record)
		}
		if err != nil {
			return err
		}
	}
	return txn.CommitAt(serial, nil)
}

// recover finds the last whole commit and undoes what one that was cut short left above it: every key that it touched
// gets back, at a serial above, what it held. The versions below are still there, since the engine discards only what
// lies below the last whole commit. Cut short itself, it is done again.
func (d *disk) recover() error {
	highest := d.db.MaxVersion()
	if highest == 0 { // nothing was ever committed
		return nil
	}
	whole, err := d.lastSerial(highest)
	if err != nil {
		return err
	}
	if whole < highest {
		entries, err := d.undo(whole, highest)
		if err != nil {
			return err
		}
		highest++
		gerr := guarded(func() { err = d.write(entries, highest) })
		if err = errors.Join(gerr, reasonOf(err)); err != nil {
			return fmt.Errorf("undo a commit that was cut short: %w", err)
		}
		d.log.Info("undid a commit that was cut short", "entries", len(entries))
	}
	d.serial.Store(highest)
	return nil
}

func (d *disk) lastSerial(highest uint64) (uint64, error) {
	r := &diskReader{disk: d, txn: d.db.NewTransactionAt(highest, false)}
	defer r.discard()
	var serial uint64
	err := r.each(keySerial.All(), nil, badger.IteratorOptions{}, func(_ []byte, item *badger.Item) error {
		serial = item.Version()
		return nil
	})
	if err == nil && serial == 0 {
		err = fmt.Errorf("%w: its serial record is missing", ErrDamaged)
	}
	return serial, err
}

// undo returns, for every key with a version above whole, what it held then.
func (d *disk) undo(whole, highest uint64) ([]entry, error) {
	now := &diskReader{disk: d, txn: d.db.NewTransactionAt(highest, false)}
	defer now.discard()
	then := &diskReader{disk: d, txn: d.db.NewTransactionAt(whole, false)}
	defer then.discard()
	var entries []entry
	// All versions, since deletes are shown with them alone.
	o := badger.IteratorOptions{AllVersions: true, SinceTs: whole}
	err := now.each(nil, nil, o, func(key []byte, _ *badger.Item) error {
		if n := len(entries); n > 0 && bytes.Equal(entries[n-1].key, key) {
			return nil
		}
		record, err := then.record(key)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		entries = append(entries, entry{bytes.Clone(key), record})
		return nil
	})
	return entries, err
}
