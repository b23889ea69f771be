package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"

	"chartmesh/wire"
)

// codec compresses under one dictionary, or none. Its encoders are made when first needed: each keeps tables of some
// hundred KB, and a device that only relays needs none.
type codec struct {
	dict    []byte
	id      uint32
	small   func() *zstd.Encoder
	large   func() *zstd.Encoder
	decoder func() *zstd.Decoder
}

// concurrency bounds how many bodies one codec works on at a time; more wait. Of large ones it is one: that encoder's tables
// take 8 MiB, which are copied for each body.
const concurrency = 2

var registry struct {
	sync.RWMutex
	codecs map[uint32]*codec
}

var plainCodec = newCodec(0, nil)

// zstdDictMagic begins a trained dictionary.
const zstdDictMagic = 0xEC30A437

// RegisterDictionary makes a zstd dictionary known under an ID: a trained one, whose own ID must be the same, or any
// bytes. All devices that are to open what is sealed under it must have it. Registering the same twice is no error.
func RegisterDictionary(id uint32, dict []byte) error {
	if id == 0 || len(dict) < 8 || len(dict) > MaxDictionary {
		return fmt.Errorf("register dictionary %d: %w", id, wire.ErrMalformed)
	}
	if trained(dict) && binary.LittleEndian.Uint32(dict[4:]) != id {
		return fmt.Errorf("register dictionary %d: it names itself %d", id, binary.LittleEndian.Uint32(dict[4:]))
	}
	c := newCodec(id, bytes.Clone(dict))
	if _, err := zstd.NewReader(nil, c.decoderOptions()...); err != nil {
		return fmt.Errorf("register dictionary %d: %w", id, err)
	}
	registry.Lock()
	defer registry.Unlock()
	if old := registry.codecs[id]; old != nil {
		if !bytes.Equal(old.dict, dict) {
			return fmt.Errorf("register dictionary %d: there is another under this ID", id)
		}
		return nil
	}
	if registry.codecs == nil {
		registry.codecs = map[uint32]*codec{}
	}
	registry.codecs[id] = c
	return nil
}

func trained(dict []byte) bool { return binary.LittleEndian.Uint32(dict) == zstdDictMagic }

// codecOf returns the codec for a dictionary; ErrNewer if it is not registered.
func codecOf(id uint32) (*codec, error) {
	if id == 0 {
		return plainCodec, nil
	}
	registry.RLock()
	defer registry.RUnlock()
	if c := registry.codecs[id]; c != nil {
		return c, nil
	}
	return nil, fmt.Errorf("dictionary %d: %w", id, ErrNewer)
}

func newCodec(id uint32, dict []byte) *codec {
	c := &codec{id: id, dict: dict}
	encoder := func(level zstd.EncoderLevel, concurrency, window int) func() *zstd.Encoder {
		return sync.OnceValue(func() *zstd.Encoder {
			opts := []zstd.EOption{
				zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(concurrency),
				zstd.WithEncoderCRC(false), // the seal is the check
				zstd.WithWindowSize(window), zstd.WithLowerEncoderMem(true),
			}
			switch {
			case dict == nil:
			case trained(dict):
				opts = append(opts, zstd.WithEncoderDict(dict))
			default:
				opts = append(opts, zstd.WithEncoderDictRaw(id, dict))
			}
			e, err := zstd.NewWriter(nil, opts...)
			if err != nil {
				panic("chunk: zstd options: " + err.Error()) // constant options and a checked dictionary
			}
			return e
		})
	}
	c.small = encoder(zstd.SpeedDefault, concurrency, 2*largeBody)
	c.large = encoder(zstd.SpeedBetterCompression, 1, MaxBody/4)
	c.decoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, c.decoderOptions()...)
		if err != nil {
			panic("chunk: zstd options: " + err.Error())
		}
		return d
	})
	return c
}

func (c *codec) decoderOptions() []zstd.DOption {
	opts := []zstd.DOption{
		zstd.WithDecoderConcurrency(concurrency), zstd.WithDecoderMaxMemory(MaxBody),
		zstd.WithDecoderMaxWindow(MaxBody), zstd.WithDecodeAllCapLimit(true), zstd.WithDecoderLowmem(true),
	}
	switch {
	case c.dict == nil:
	case trained(c.dict):
		opts = append(opts, zstd.WithDecoderDicts(c.dict))
	default:
		opts = append(opts, zstd.WithDecoderDictRaw(c.id, c.dict))
	}
	return opts
}

func (c *codec) compress(plain []byte) []byte {
	e := c.small
	if len(plain) > largeBody {
		e = c.large
	}
	return e().EncodeAll(plain, nil)
}

var errInflate = errors.New("compressed data does not inflate to the length that is stated")

// decompress inflates data to exactly size bytes. It writes into a buffer of that capacity and nowhere else, so that no
// frame header can make it allocate.
func (c *codec) decompress(data []byte, size int) ([]byte, error) {
	out, err := c.decoder().DecodeAll(data, make([]byte, 0, size))
	if err != nil || len(out) != size {
		return nil, errInflate // the library's own words may quote the data
	}
	return out, nil
}
