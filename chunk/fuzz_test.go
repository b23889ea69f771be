package chunk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/klauspost/compress/zstd"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

// FuzzUnpack takes packed bodies apart, with no dictionary and with the first.
func FuzzUnpack(f *testing.F) {
	for _, dict := range []uint32{0, Dictionary1} {
		var seeds [][]byte
		for _, n := range []int{0, 10, 1000, 40_000} {
			packed, err := pack(bytes.Repeat([]byte("Observation/"+fuzzing.Canary), n)[:n], dict)
			if err != nil {
				f.Fatal(err)
			}
			if _, err := unpack(packed, dict); err != nil {
				f.Fatalf("seed is refused: %v", err)
			}
			f.Add(packed, dict != 0)
			seeds = append(seeds, packed)
		}
		fuzzing.Bent(f, seeds, dict != 0)
	}
	f.Add(craft(0, 3, []byte("abc")), false)
	f.Add(craft(1, MaxBody, []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0, 0, 0, 1, 3, 0, 0}), false)
	// The decoders' own tables are made once, and are no frame's doing.
	for _, dict := range []uint32{0, Dictionary1} {
		c, err := codecOf(dict)
		if err != nil {
			f.Fatal(err)
		}
		c.decoder()
	}
	f.Fuzz(func(t *testing.T, b []byte, known bool) {
		dict := uint32(0)
		if known {
			dict = Dictionary1
		}
		r := wire.NewReader(b)
		method, size, data := r.Byte(), r.Uvarint(MaxBody), r.Blob(MaxBody)
		var plain []byte
		var err error
		// What a body says that it inflates to is allocated, and no more: zstd's own tables, whatever a frame says.
		fuzzing.Allocates(t, int(size), 1, 2<<20, func() { plain, err = unpack(b, dict) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if len(plain) > MaxBody {
			t.Fatal("over the cap")
		}
		// The same content has one packed form per method and compressed data.
		if !bytes.Equal(craft(method, size, data), b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}

func FuzzParseChanges(f *testing.F) {
	c := &Changes{
		Document: [32]byte{1}, TimeMillis: -5, Author: "Ärztin " + fuzzing.Canary, Origin: OriginImport,
		Changes:    []Change{{Branch: 0, Raw: []byte(fuzzing.Canary)}, {Branch: 2, Raw: []byte("two")}},
		Authorship: []Authorship{{Branch: 0, Seq: 1}, {Branch: 2, Seq: 300, Newest: [32]byte{9}}},
	}
	var w wire.Writer
	c.append(&w)
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := parseChanges(b)
		return err
	}, w.Bytes())
	f.Add(claim(MaxChangeCount, 0, 0))
	f.Add(claim(1, 256, 300))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []Kind{KindChanges, KindCertificate} {
			var body Body
			var err error
			fuzzing.Allocates(t, len(b), 40, 48<<10, func() { body, err = parseBody(kind, b, nil) })
			fuzzing.Quiet(t, err)
			if err != nil {
				continue
			}
			var w wire.Writer
			body.append(&w)
			if !bytes.Equal(w.Bytes(), b) {
				t.Fatal("does not re-encode to the same bytes")
			}
		}
	})
}

// claim is a body that says it has many changes and words, with few bytes behind.
func claim(changes, words uint64, rest int) []byte {
	var w wire.Writer
	w.Raw(make([]byte, 32))
	w.Varint(1)
	w.String("a")
	w.Byte(byte(OriginEdit))
	w.Uvarint(changes)
	if words > 0 {
		w.Byte(0)
		w.Blob([]byte{1})
		w.Uvarint(words)
	}
	w.Raw(make([]byte, rest))
	return w.Bytes()
}

// FuzzDictionary compresses under bytes that somebody made a dictionary of; what is taken as one works as one.
func FuzzDictionary(f *testing.F) {
	try := func(dict []byte) error {
		c := newCodec(77, dict)
		if _, err := zstd.NewReader(nil, c.decoderOptions()...); err != nil {
			return err
		}
		plain := append([]byte(fuzzing.Canary), dict...)
		got, err := c.decompress(c.compress(plain), len(plain))
		if err == nil && !bytes.Equal(got, plain) {
			err = errors.New("something else came back")
		}
		return err
	}
	trainedAs77 := bytes.Clone(dictionary1)
	binary.LittleEndian.PutUint32(trainedAs77[4:], 77)
	fuzzing.Seeds(f, try, trainedAs77, bytes.Repeat([]byte("Observation/"), 100), []byte("12345678"))
	f.Fuzz(func(t *testing.T, dict []byte) {
		if len(dict) < 8 {
			return // RegisterDictionary refuses it by its length
		}
		if trained(dict) {
			// A trained dictionary is refused with an error, or is one.
			c := newCodec(77, dict)
			if _, err := zstd.NewReader(nil, c.decoderOptions()...); err != nil {
				return
			}
		}
		if err := try(dict); err != nil {
			t.Error(err)
		}
	})
}

// FuzzParseCheckpoint reads the bodies of checkpoints, and of the words on them.
func FuzzParseCheckpoint(f *testing.F) {
	read := func(kind Kind, b, clear []byte) (Body, error) { return parseBody(kind, b, clear) }
	c := sampleCheckpoint()
	c.Parts[0].Author = fuzzing.Canary
	c.Parts[1].Changes[0].Raw = []byte(fuzzing.Canary)
	v := &Cover{Document: [32]byte{7}, Checkpoint: Place{LogID{1}, 5, ID{6}}, OK: true}
	for _, body := range []Body{c, v, sampleProtected()} {
		var w wire.Writer
		body.append(&w)
		clear := body.(clearer).clear()
		if _, err := read(body.Kind(), w.Bytes(), clear); err != nil {
			f.Fatalf("seed is refused: %v", err)
		}
		f.Add(w.Bytes(), clear)
		fuzzing.Bent(f, [][]byte{w.Bytes()}, clear)
	}
	f.Fuzz(func(t *testing.T, b, clear []byte) {
		for _, kind := range []Kind{KindCheckpoint, KindCover} {
			var body Body
			var err error
			fuzzing.Allocates(t, len(b)+len(clear), 512, 128<<10, func() { body, err = read(kind, b, clear) })
			fuzzing.Quiet(t, err)
			if err != nil {
				continue
			}
			var w wire.Writer
			body.append(&w)
			if !bytes.Equal(w.Bytes(), b) || !bytes.Equal(body.(clearer).clear(), clear) {
				t.Fatal("does not re-encode to the same bytes")
			}
		}
	})
}

func FuzzParseSkip(f *testing.F) {
	s := Skip{Scope: [16]byte{1}, Key: LogKey{trust.DeviceID{2}, [16]byte{3}}, Run: Run{From: 3, To: 300, Last: ID{4}},
		Checkpoint: Place{LogID{5}, 6, ID{7}}}
	made, _ := s.AppendBinary(nil)
	s.Word = Place{LogID{8}, 9, ID{10}}
	found, _ := s.AppendBinary(nil)
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := ParseSkip(b)
		return err
	}, made, found)
	f.Fuzz(func(t *testing.T, b []byte) {
		var s Skip
		var err error
		fuzzing.Allocates(t, len(b), 0, 4<<10, func() { s, err = ParseSkip(b) })
		fuzzing.Quiet(t, err)
		if err != nil {
			return
		}
		if !IsSkip(b) {
			t.Error("a skip record does not look like one")
		}
		if s.Log != s.Key.ID() {
			t.Error("it names another log than its key")
		}
		if again, _ := s.AppendBinary(nil); !bytes.Equal(again, b) {
			t.Fatal("does not re-encode to the same bytes")
		}
	})
}
