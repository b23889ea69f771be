package storage

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dgraph-io/badger/v4"
)

// A value longer than one segment is stored as several, under keys that its own key's hash names, so that no value
// reaches the engine's value log: that log answers with an empty value where it is damaged, and needs cleaning.
//
// The record under the value's own key has the form formSegmented and the body
//
//	number of segments 8 | length 8 | SHA-256 of the value 32
//
// Every segment but the last has segmentLen bytes.
const segmentLen = 512 << 10

type description struct {
	segments, length uint64
	sum              [32]byte
}

func (d description) append() []byte {
	b := binary.BigEndian.AppendUint64(nil, d.segments)
	b = binary.BigEndian.AppendUint64(b, d.length)
	return append(b, d.sum[:]...)
}

func parseDescription(b []byte) (d description, ok bool) {
	if len(b) != 8+8+32 {
		return d, false
	}
	d.segments = binary.BigEndian.Uint64(b)
	d.length = binary.BigEndian.Uint64(b[8:])
	copy(d.sum[:], b[16:])
	return d, d.length <= MaxBatch && d.segments == (d.length+segmentLen-1)/segmentLen
}

// largeChanges are the large values that a transaction writes and removes, by the hash of their keys: how many segments
// each has. They become the store's when the transaction is durable.
type largeChanges struct {
	before, now map[[32]byte]uint64
}

func newLargeChanges(before map[[32]byte]uint64) *largeChanges { return &largeChanges{before: before} }

// none reports whether there is no large value at all, so that no key needs to be hashed.
func (l *largeChanges) none() bool { return len(l.before) == 0 && len(l.now) == 0 }

func (l *largeChanges) segments(at [32]byte) uint64 {
	if n, ok := l.now[at]; ok {
		return n
	}
	return l.before[at]
}

func (l *largeChanges) set(at [32]byte, segments uint64) {
	if l.now == nil {
		l.now = make(map[[32]byte]uint64)
	}
	l.now[at] = segments
}

func (l *largeChanges) apply() {
	for at, n := range l.now {
		if n == 0 {
			delete(l.before, at)
		} else {
			l.before[at] = n
		}
	}
}

func (d *disk) writeOp(txn *badger.Txn, large *largeChanges, op op) error {
	if len(op.value) <= segmentLen && large.none() {
		return d.writeWhole(txn, op)
	}
	at := sha256.Sum256(op.key)
	had := large.segments(at)
	has := uint64(0)
	if len(op.value) > segmentLen {
		desc := description{length: uint64(len(op.value)), sum: sha256.Sum256(op.value)}
		for rest := op.value; len(rest) > 0; desc.segments++ {
			part := rest[:min(len(rest), segmentLen)]
			rest = rest[len(part):]
			key := keySegment.Key(at, desc.segments)
			if err := txn.Set(key, d.tags.seal(key, formWhole, part)); err != nil {
				return err
			}
		}
		has = desc.segments
		if err := txn.Set(op.key, d.tags.seal(op.key, formSegmented, desc.append())); err != nil {
			return err
		}
	} else if err := d.writeWhole(txn, op); err != nil {
		return err
	}
	for n := has; n < had; n++ {
		if err := txn.Delete(keySegment.Key(at, n)); err != nil {
			return err
		}
	}
	if had != has {
		large.set(at, has)
	}
	return nil
}

func (d *disk) writeWhole(txn *badger.Txn, op op) error {
	if op.delete {
		return txn.Delete(op.key)
	}
	return txn.Set(op.key, d.tags.seal(op.key, formWhole, op.value))
}

// whole returns the value that a record's parts stand for.
func (r *diskReader) whole(key []byte, form byte, body []byte) ([]byte, error) {
	switch form {
	case formWhole:
		return body, nil
	case formSegmented:
	default:
		return nil, damaged(key, "unknown form")
	}
	desc, ok := parseDescription(body)
	if !ok {
		return nil, damaged(key, "malformed description of segments")
	}
	at := sha256.Sum256(key)
	value := make([]byte, 0, desc.length)
	for n := range desc.segments {
		segment := keySegment.Key(at, n)
		record, err := r.record(segment)
		if errors.Is(err, ErrNotFound) {
			return nil, damaged(key, fmt.Sprintf("segment %d is missing", n))
		}
		if err != nil {
			return nil, err
		}
		_, part, err := r.disk.tags.open(segment, record)
		if err != nil {
			return nil, err
		}
		value = append(value, part...)
	}
	if uint64(len(value)) != desc.length || sha256.Sum256(value) != desc.sum {
		return nil, damaged(key, "segments do not make the value")
	}
	return value, nil
}

// readLarge finds the large values, by their segments.
func (d *disk) readLarge() error {
	d.large = make(map[[32]byte]uint64)
	return d.View(func(r Reader) error {
		return r.(*diskReader).scanKeys(keySegment.All(), func(key []byte) error {
			at, n, err := keySegment.Parse(key)
			if err != nil {
				return errors.Join(ErrDamaged, err)
			}
			d.large[at] = max(d.large[at], n+1)
			return nil
		})
	})
}
