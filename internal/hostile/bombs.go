package hostile

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
)

// envelope makes an Automerge chunk of a type around its contents, with a checksum that fits.
func envelope(kind byte, contents []byte) []byte {
	b := append([]byte{0x85, 0x6f, 0x4a, 0x83, 0, 0, 0, 0, kind}, binary.AppendUvarint(nil, uint64(len(contents)))...)
	return mend(append(b, contents...))
}

// mend makes the checksum of a bent change fit again.
func mend(raw []byte) []byte {
	if len(raw) > 8 {
		sum := sha256.Sum256(raw[8:])
		copy(raw[4:8], sum[:4])
	}
	return raw
}

// operationBomb claims n operations in some 60 bytes: runs of one row, repeated.
func operationBomb(actor crdt.Actor, n int64) []byte {
	run := func(value ...byte) []byte { return append(signed(n), value...) }
	columns := []struct {
		number byte
		data   []byte
	}{{0x15, run(1, 'k')}, {0x34, binary.AppendUvarint(nil, uint64(n))}, {0x42, run(1)}, {0x56, run(0)}, {0x70, run(0)}}
	b := append([]byte{0, 16}, actor[:]...)
	b = append(b, 1, 1, 0, 0, 0, byte(len(columns)))
	for _, c := range columns {
		b = append(b, c.number, byte(len(c.data)))
	}
	for _, c := range columns {
		b = append(b, c.data...)
	}
	return envelope(1, b)
}

func signed(v int64) (b []byte) {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// zstdBomb is a frame of n bytes that says nothing of its size: blocks of one byte, repeated.
func zstdBomb(n int) []byte {
	b := []byte{0x28, 0xb5, 0x2f, 0xfd, 0, 0x68} // no size, a window of 8 MiB
	const block = 128 << 10
	for ; n > 0; n -= block {
		head := uint32(1<<1 | min(n, block)<<3)
		if n <= block {
			head |= 1
		}
		b = append(b, byte(head), byte(head>>8), byte(head>>16), 0)
	}
	return b
}

// packedBomb is a packed body that says it inflates to the cap, and whose frame inflates to n bytes.
func packedBomb(n int) []byte {
	frame := zstdBomb(n)
	b := append([]byte{1}, binary.AppendUvarint(nil, chunk.MaxBody)...)
	b = append(b, binary.AppendUvarint(nil, uint64(len(frame)))...)
	return append(b, frame...)
}

// CrowdChange makes Patient/crowd, and then n values of one field beside each other.
func CrowdChange(actor crdt.Actor, n int) []byte {
	total := int64(n)
	cols := []struct {
		number byte
		data   []byte
	}{
		{0x01, append([]byte{0, 1}, append(signed(total), 0)...)},                                                          // object actor: null, then 0
		{0x02, append([]byte{0, 1}, append(signed(total), 1)...)},                                                          // object counter: null, then 1
		{0x15, slices.Concat(signed(-1), []byte{13}, []byte("Patient/crowd"), signed(total), []byte{6}, []byte("gender"))}, // key
		{0x34, binary.AppendUvarint(nil, uint64(total+1))},                                                                 // insert: false
		{0x42, slices.Concat(signed(-1), []byte{0}, signed(total), []byte{1})},                                             // make map, then put
		{0x56, slices.Concat(signed(-1), []byte{0}, signed(total), binary.AppendUvarint(nil, 4<<4|6))},                     // null, then strings of 4
		{0x57, nil},
		{0x70, append(signed(total+1), 0)}, // no predecessors
	}
	for i := range n {
		cols[6].data = fmt.Appendf(cols[6].data, "%04d", i)
	}
	b := append([]byte{0, 16}, actor[:]...)
	b = append(b, 1, 1, 0, 0, 0, byte(len(cols)))
	for _, c := range cols {
		b = append(b, c.number)
		b = binary.AppendUvarint(b, uint64(len(c.data)))
	}
	for _, c := range cols {
		b = append(b, c.data...)
	}
	return envelope(1, b)
}
