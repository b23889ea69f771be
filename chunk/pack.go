package chunk

import (
	"bytes"
	"fmt"
	"math/bits"

	"chartmesh/wire"
)

// How a packed body is stored. The numbers are part of the format.
const (
	methodStored = 0
	methodZstd   = 1
)

// largeBody is from where better compression is worth its time. Its tables are made anew for each body: of 8 KiB that takes
// five times as long as the body, and saves a twentieth.
const largeBody = 32 << 10

// pack compresses a body if that makes it smaller, and pads it:
//
//	method | length of the body | length of the data | data | zeros up to a PADMÉ length
func pack(plain []byte, dict uint32) ([]byte, error) {
	if len(plain) > MaxBody {
		return nil, ErrTooLarge
	}
	c, err := codecOf(dict)
	if err != nil {
		return nil, err
	}
	method, data := byte(methodStored), plain
	if z := c.compress(plain); len(z) < len(plain) {
		method, data = methodZstd, z
	}
	var w wire.Writer
	w.Byte(method)
	w.Uvarint(uint64(len(plain)))
	w.Uvarint(uint64(len(data)))
	w.Raw(data)
	w.Raw(make([]byte, padme(len(w.Bytes()))-len(w.Bytes())))
	return w.Bytes(), nil
}

// unpack is pack's other side. What it allocates is what the packed body says and the cap allows, never what a frame
// inside says.
func unpack(packed []byte, dict uint32) ([]byte, error) {
	r := wire.NewReader(packed)
	method := r.Byte()
	size := int(r.Uvarint(MaxBody))
	data := r.Blob(MaxBody)
	if err := r.Err(); err != nil {
		return nil, fmt.Errorf("unpack body: %w", err)
	}
	for _, b := range r.Rest() {
		if b != 0 {
			return nil, fmt.Errorf("unpack body: %w: padding", wire.ErrMalformed)
		}
	}
	if len(packed) != padme(len(packed)-r.Len()) {
		return nil, fmt.Errorf("unpack body: %w: length of the padding", wire.ErrMalformed)
	}
	switch {
	case method == methodStored && size == len(data):
		return bytes.Clone(data), nil
	case method == methodZstd && size > len(data):
		c, err := codecOf(dict)
		if err != nil {
			return nil, err
		}
		return c.decompress(data, size)
	}
	return nil, fmt.Errorf("unpack body: %w: method and length", wire.ErrMalformed)
}

// padme returns the length to which PADMÉ pads n bytes: at most 12 % more, and only O(log log n) bits of n show.
func padme(n int) int {
	if n < 2 {
		return n
	}
	e := bits.Len(uint(n)) - 1
	s := bits.Len(uint(e))
	mask := 1<<(e-s) - 1
	return (n + mask) &^ mask
}
