package storage

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"fmt"
	"hash"
	"sync"
)

// A record is what is stored for a value: a tag, a form byte, and the value or a description of its segments.
//
//	tag 16 | form 1 | body
//
// The tag is the first half of SHA-256(tag key ‖ length of key ‖ key ‖ form ‖ body). It is keyed because the engine
// encrypts with a stream cipher that does not authenticate: whoever can write to the disk could bend a known value and
// its bare hash together. It covers the key, so that a value that turns up under another key is noticed. Half a SHA-256
// gives away too little of the state to be extended.
type tagger struct {
	key  [32]byte
	pool sync.Pool
}

const (
	tagLen    = 16
	recordLen = tagLen + 1

	formWhole     = 0x01
	formSegmented = 0x02
)

func newTagger(key [32]byte) *tagger {
	return &tagger{key: key, pool: sync.Pool{New: func() any { return &tagState{hash: sha256.New()} }}}
}

type tagState struct {
	hash hash.Hash
	head [36]byte
	sum  [sha256.Size]byte
}

// tag fills dst[:tagLen] with the tag of key and rest.
func (t *tagger) tag(dst, key, rest []byte) {
	s := t.pool.Get().(*tagState)
	defer t.pool.Put(s)
	s.hash.Reset()
	copy(s.head[:32], t.key[:])
	binary.BigEndian.PutUint32(s.head[32:], uint32(len(key)))
	s.hash.Write(s.head[:])
	s.hash.Write(key)
	s.hash.Write(rest)
	copy(dst[:tagLen], s.hash.Sum(s.sum[:0]))
}

// seal returns a record.
func (t *tagger) seal(key []byte, form byte, body []byte) []byte {
	record := make([]byte, recordLen+len(body))
	record[tagLen] = form
	copy(record[recordLen:], body)
	t.tag(record, key, record[tagLen:])
	return record
}

// open checks a record and returns its parts, which share its memory.
func (t *tagger) open(key, record []byte) (form byte, body []byte, err error) {
	if len(record) < recordLen {
		return 0, nil, damaged(key, "shorter than a record")
	}
	var want [tagLen]byte
	t.tag(want[:], key, record[tagLen:])
	if subtle.ConstantTimeCompare(want[:], record[:tagLen]) != 1 {
		return 0, nil, damaged(key, "tag does not match")
	}
	return record[tagLen], record[recordLen:], nil
}

// damaged says what is wrong with a value, naming the kind of its key alone: a key may hold a patient's name.
func damaged(key []byte, what string) error {
	return fmt.Errorf("read %s: %w: %s", kindOf(key), ErrDamaged, what)
}

func kindOf(key []byte) string {
	if len(key) > 0 {
		for _, k := range kinds {
			if k.number == key[0] {
				return k.name
			}
		}
	}
	return "value"
}
