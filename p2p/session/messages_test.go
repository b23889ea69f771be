package session

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"chartmesh/chunk"
	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
	"chartmesh/wire"
)

func samples() []message {
	v := chunk.Vector{{1}: {Counter: 1, Tip: chunk.Tip{9}}, {2}: {Counter: 1 << 40}}
	return []message{
		&hello{flags: helloFirst | helloAsk, protocol: Range{1, 2}, schema: Range{1, 1}, version: "0.1.0", clock: 1790000000000000,
			practice: trust.EntryID{1}, headsHash: [32]byte{2}, heads: []trust.EntryID{{3}, {4}}, sent: 5, seen: 300,
			scopes: []wireDigest{{scope: trust.ScopeID{1}, digest: digest{flags: digestAtEnd, applied: [32]byte{7}}},
				{scope: trust.ScopeID{2}}}, extra: []extra{{extraCarried, []byte("carried")}, {9, []byte("later")}}},
		&hello{protocol: Range{1, 1}, schema: Range{1, 1}},
		&entries{hop: 2, entries: [][]byte{[]byte("one"), []byte("two")}},
		&vector{hop: 300, flags: vectorWait, scope: trust.ScopeID{1}, seen: 7, vector: v},
		&vector{},
		&chunks{scope: trust.ScopeID{1}, seq: 1, flags: chunksDigest, digest: digest{vectorHash: [32]byte{1}}, chunks: [][]byte{[]byte("x")}},
		&chunks{scope: trust.ScopeID{1}, seq: 200, flags: chunksBranch, chunks: [][]byte{[]byte("x"), []byte("yy")}},
		&ack{hop: 4, seen: 3, scope: trust.ScopeID{1}, time: 1790000000000, digest: digest{flags: 1}, stored: v, signature: [64]byte{1}},
		&ping{nonce: 1},
		&pong{nonce: 1, clock: -1},
		&bye{reason: ReasonIncompatible, protocol: Range{1, 1}, schema: Range{2, 3}, version: "x"},
	}
}

// TestFrames holds that what is written is read, and that no shorter or changed length of it is.
func TestFrames(t *testing.T) {
	seen := map[byte]bool{}
	for _, m := range samples() {
		f := m.encode()
		seen[f[0]] = true
		got, err := decode(f)
		if err != nil {
			t.Errorf("kind %d: %v", f[0], err)
			continue
		}
		if !bytes.Equal(got.encode(), f) {
			t.Errorf("kind %d comes back as something else", f[0])
		}
		for n := range f {
			if _, err := decode(f[:n]); err == nil {
				t.Errorf("kind %d is read though cut to %d of %d bytes", f[0], n, len(f))
			}
		}
	}
	for kind := byte(kindHello); kind <= kindBye; kind++ {
		if !seen[kind] {
			t.Errorf("no sample of kind %d", kind)
		}
	}
}

var update = flag.Bool("update", false, "write testdata/frames.txt anew; a change of it is a change of the protocol")

// TestVectors holds the bytes of one frame of each kind, which docs/spec/sync-session.md points at.
func TestVectors(t *testing.T) {
	var b strings.Builder
	for _, m := range samples() {
		fmt.Fprintf(&b, "%T %x\n", m, []byte(m.encode()))
	}
	const file = "testdata/frames.txt"
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if b.String() != string(want) {
		t.Errorf("frames are encoded otherwise than %s has them:\n%s", file, b.String())
	}
}

func FuzzFrame(f *testing.F) {
	var seeds [][]byte
	for _, m := range samples() {
		seeds = append(seeds, m.encode())
	}
	fuzzing.Seeds(f, func(b []byte) error {
		_, err := decode(b)
		return err
	}, seeds...)
	f.Add([]byte{kindReservedFirst, 1})
	f.Add(append([]byte{kindChunks, 0}, append(make([]byte, 16), 1, 0, 0x80, 0x20)...)) // 4,096 chunks are promised
	f.Fuzz(func(t *testing.T, b []byte) {
		var m message
		var err error
		fuzzing.Allocates(t, len(b), 32, 32<<10, func() { m, err = decode(b) })
		fuzzing.Quiet(t, err)
		switch {
		case errors.Is(err, errUnknownKind):
		case err != nil && !errors.Is(err, wire.ErrMalformed):
			t.Fatalf("%x: %v", b, err)
		case err != nil:
		default:
			if again := m.encode(); !bytes.Equal(again, b) {
				t.Fatalf("%x becomes %x", b, again)
			}
		}
	})
}
