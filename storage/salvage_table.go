package storage

import (
	"encoding/binary"
	"fmt"
	"os"

	"github.com/dgraph-io/badger/v4/fb"
	"github.com/dgraph-io/badger/v4/y"
	"github.com/klauspost/compress/snappy"
)

// A table of the engine's:
//
//	blocks | index | length of the index 4 | sum | length of the sum 4
//
// Index and blocks are encrypted, each with its IV (16) at its end. A block, decrypted and decompressed:
//
//	entries | their offsets, 4 each | how many 4 | sum | length of the sum 4
//
// and an entry has the length of what its key shares with the block's first one (2), the length of the rest (2), the rest,
// meta, user meta, expiry as a uvarint, and the record. The numbers of an entry's head are in the machine's order, all
// others big endian.
//
// The engine's own reader gives up a table for one damaged block. This one reads the other blocks; the sums are not looked
// at, since every record has a tag of its own, and what does not parse panics into guarded.

// maxBlock is how large a block is taken to be at most when it is decompressed.
const maxBlock = 16 << 20

// table reads one table and reports whether all of it could be read.
func (s *salvage) table(name string) (whole bool, err error) {
	b, err := os.ReadFile(name)
	if err != nil {
		return false, err
	}
	// Which key a table has stands in the manifest, which may be damaged, too: there are few.
	for _, key := range s.keys {
		var index *fb.TableIndex
		if gerr := guarded(func() { index, err = tableIndex(b, key) }); gerr != nil || err != nil {
			continue
		}
		whole = true
		entries := uint32(0)
		for i := range index.OffsetsLength() {
			n := 0
			gerr := guarded(func() {
				var at fb.BlockOffset
				if !index.Offsets(&at, i) {
					panic("no such block")
				}
				n, err = s.block(b[at.Offset():at.Offset()+at.Len()], key)
			})
			if err != nil {
				return false, err
			}
			whole = whole && gerr == nil
			entries += uint32(n)
		}
		return whole && entries == index.KeyCount(), nil
	}
	return false, fmt.Errorf("%w: a table's index does not read", ErrDamaged)
}

func tableIndex(b, key []byte) (*fb.TableIndex, error) {
	at := len(b) - 4
	at -= int(binary.BigEndian.Uint32(b[at:])) + 4
	length := int(binary.BigEndian.Uint32(b[at:]))
	plain, err := decryptPart(b[at-length:at], key)
	if err != nil {
		return nil, err
	}
	index := fb.GetRootAsTableIndex(plain, 0)
	var last fb.BlockOffset
	if n := index.OffsetsLength(); n == 0 || n > len(b) || !index.Offsets(&last, n-1) ||
		uint64(last.Offset())+uint64(last.Len()) > uint64(len(b)) {
		return nil, ErrDamaged // or the key is another
	}
	return index, nil
}

func decryptPart(b, key []byte) ([]byte, error) {
	const ivLen = 16
	return y.XORBlockAllocate(b[:len(b)-ivLen], key, b[len(b)-ivLen:])
}

// block takes what a block holds and returns how many entries it had; it panics where it does not parse.
func (s *salvage) block(b, key []byte) (n int, err error) {
	plain, err := decryptPart(b, key)
	if err != nil {
		return 0, damageBy(err)
	}
	if size, err := snappy.DecodedLen(plain); err != nil || size > maxBlock {
		panic("not a block")
	}
	if plain, err = snappy.Decode(nil, plain); err != nil {
		panic("not a block")
	}
	end := len(plain) - 4
	end -= int(binary.BigEndian.Uint32(plain[end:])) + 4
	count := int(binary.BigEndian.Uint32(plain[end:]))
	offsets := plain[end-4*count : end]
	plain = plain[:end-4*count]
	var first []byte
	for i := range count {
		// The engine writes offsets as they lie in memory.
		from, to := int(binary.NativeEndian.Uint32(offsets[4*i:])), len(plain)
		if i+1 < count {
			to = int(binary.NativeEndian.Uint32(offsets[4*i+4:]))
		}
		entry := plain[from:to]
		shared, rest := int(binary.NativeEndian.Uint16(entry)), int(binary.NativeEndian.Uint16(entry[2:]))
		key := append(append([]byte(nil), first[:shared]...), entry[4:4+rest]...)
		if i == 0 {
			first = key
		}
		value := entry[4+rest:]
		meta := value[0]
		_, used := binary.Uvarint(value[2:])
		n++
		if meta&metaDelete != 0 {
			continue
		}
		if err := s.take(y.ParseKey(key), value[2+used:], y.ParseTs(key)); err != nil {
			return n, err
		}
	}
	return n, nil
}
