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
const segmentLen = 128 << 10

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
	return d, d.length <= MaxValue && d.segments == (d.length+segmentLen-1)/segmentLen
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
		return r.(*diskReader).each(keySegment.All(), nil, badger.IteratorOptions{}, func(key []byte, _ *badger.Item) error {
			at, n, err := keySegment.Parse(key)
			if err != nil {
				return errors.Join(ErrDamaged, err)
			}
			d.large[at] = max(d.large[at], n+1)
			return nil
		})
	})
}
