// Package wire reads and writes the binary layouts of chartmesh's formats.
//
// Nouns: a Writer appends fields to a buffer; a Reader takes them off untrusted bytes. Integers are minimal unsigned
// LEB128 or fixed-width big endian; byte strings carry their length.
//
// Guarantees: a Reader never allocates more than it was given, refuses every encoding but the shortest, keeps the first
// error, and Close fails when bytes are left, so that whatever decodes re-encodes to the same bytes.
//
// What a field means, and how large it may be, is the caller's.
package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ErrMalformed is wrapped by every error of a Reader.
var ErrMalformed = errors.New("malformed")

// Writer appends fields. The zero value is ready for use.
type Writer struct{ buf []byte }

// Bytes returns what has been written.
func (w *Writer) Bytes() []byte { return w.buf }

// Raw appends b without a length.
func (w *Writer) Raw(b []byte) { w.buf = append(w.buf, b...) }

// Byte appends one byte.
func (w *Writer) Byte(b byte) { w.buf = append(w.buf, b) }

// Bool appends a byte, 1 or 0.
func (w *Writer) Bool(v bool) {
	if v {
		w.Byte(1)
	} else {
		w.Byte(0)
	}
}

// Uint16 appends v as two bytes, big endian.
func (w *Writer) Uint16(v uint16) { w.buf = binary.BigEndian.AppendUint16(w.buf, v) }

// Uint64 appends v as eight bytes, big endian.
func (w *Writer) Uint64(v uint64) { w.buf = binary.BigEndian.AppendUint64(w.buf, v) }

// Uvarint appends v as unsigned LEB128.
func (w *Writer) Uvarint(v uint64) { w.buf = binary.AppendUvarint(w.buf, v) }

// Varint appends v as zigzag LEB128.
func (w *Writer) Varint(v int64) { w.buf = binary.AppendVarint(w.buf, v) }

// Blob appends b behind its length.
func (w *Writer) Blob(b []byte) { w.Uvarint(uint64(len(b))); w.Raw(b) }

// String appends s behind its length.
func (w *Writer) String(s string) { w.Uvarint(uint64(len(s))); w.buf = append(w.buf, s...) }

// Reader takes fields off a byte slice. The first error stays; later reads return zero values.
type Reader struct {
	rest []byte
	err  error
}

// NewReader reads b, which it does not copy.
func NewReader(b []byte) *Reader { return &Reader{rest: b} }

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Len returns how many bytes are left.
func (r *Reader) Len() int { return len(r.rest) }

// Rest returns the bytes that are left without taking them.
func (r *Reader) Rest() []byte { return r.rest }

// Close returns the first error, or one when bytes are left.
func (r *Reader) Close() error {
	if r.err == nil && len(r.rest) != 0 {
		r.Fail("bytes after the end")
	}
	return r.err
}

// Fail records an error of the caller's, unless there is one already.
func (r *Reader) Fail(what string) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: %s", ErrMalformed, what)
	}
	r.rest = nil
}

// Raw takes n bytes; the result shares the input's memory.
func (r *Reader) Raw(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > len(r.rest) {
		r.Fail("cut short")
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

// Fixed fills dst.
func (r *Reader) Fixed(dst []byte) { copy(dst, r.Raw(len(dst))) }

// Byte takes one byte.
func (r *Reader) Byte() byte {
	if b := r.Raw(1); b != nil {
		return b[0]
	}
	return 0
}

// Bool takes a byte, 1 or 0.
func (r *Reader) Bool() bool {
	b := r.Byte()
	if b > 1 {
		r.Fail("truth value")
	}
	return b == 1
}

// Uint16 takes two bytes, big endian.
func (r *Reader) Uint16() uint16 {
	if b := r.Raw(2); b != nil {
		return binary.BigEndian.Uint16(b)
	}
	return 0
}

// Uint64 takes eight bytes, big endian.
func (r *Reader) Uint64() uint64 {
	if b := r.Raw(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// Uvarint takes an unsigned LEB128 number of at most limit, in its shortest form.
func (r *Reader) Uvarint(limit uint64) uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.rest)
	switch {
	case n <= 0 || n > 1 && r.rest[n-1] == 0:
		r.Fail("number")
		return 0
	case v > limit:
		r.Fail("number over its limit")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Varint takes a zigzag LEB128 number in its shortest form.
func (r *Reader) Varint() int64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Varint(r.rest)
	if n <= 0 || n > 1 && r.rest[n-1] == 0 {
		r.Fail("number")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

// Blob takes a byte string of at most limit bytes; the result shares the input's memory.
func (r *Reader) Blob(limit int) []byte { return r.Raw(int(r.Uvarint(uint64(limit)))) }

// String takes a string of at most limit bytes.
func (r *Reader) String(limit int) string { return string(r.Blob(limit)) }
