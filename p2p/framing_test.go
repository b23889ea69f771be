package p2p

import (
	"bytes"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"golang.org/x/time/rate"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p/session"
)

// bytesStream is a stream of what a peer has sent.
type bytesStream struct {
	network.Stream
	io.Reader
	written bytes.Buffer
}

func (s *bytesStream) Read(b []byte) (int, error)       { return s.Reader.Read(b) }
func (s *bytesStream) Write(b []byte) (int, error)      { return s.written.Write(b) }
func (s *bytesStream) SetReadDeadline(time.Time) error  { return nil }
func (s *bytesStream) SetWriteDeadline(time.Time) error { return nil }

func framed(t testing.TB, frames ...session.Frame) []byte {
	s := &bytesStream{}
	w := newFrameWriter(s, make(chan struct{}))
	for _, f := range frames {
		if err := w.write(f); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.flush(); err != nil {
		t.Fatal(err)
	}
	return s.written.Bytes()
}

// TestSlowEnoughToLive: what is taken slowly, since others owe too much already, is taken fast enough for a sender that ends the link when
// a piece does not go out in time.
func TestSlowEnoughToLive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		owing := &owed{limiter: rate.NewLimiter(1, RateBurst)}
		frame := bytes.Repeat([]byte{7}, 4*pieceSize)
		in := newFrameReader(&bytesStream{Reader: bytes.NewReader(framed(t, frame, frame))})
		in.await = func(n int) { await(t.Context(), owing, n) }
		begun := time.Now()
		for range 2 {
			if _, err := in.read(session.MaxFrame); err != nil {
				t.Fatal(err)
			}
		}
		// A muxer makes room by half of its window, which is four pieces.
		if each := time.Since(begun) / 8; 2*each >= writeStall {
			t.Errorf("a piece took %v", each)
		}
	})
}

// owed is a replica of whose rate nothing is left.
type owed struct {
	Limited
	limiter *rate.Limiter
}

func (o *owed) Rate() *rate.Limiter { return o.limiter }

// FuzzFraming reads a stream of frames, and the same bytes as a message of the join protocol: what comes off it is what
// stood on it, and a length is believed only as far as bytes come.
func FuzzFraming(f *testing.F) {
	read := func(b []byte, r io.Reader) (again []byte, err error) {
		in := newFrameReader(&bytesStream{Reader: r})
		for {
			frame, err := in.read(session.MaxFrame)
			if err != nil {
				return again, err
			}
			again = binary.BigEndian.AppendUint32(again, uint32(len(frame)))
			again = append(again, frame...)
		}
	}
	seeds := [][]byte{framed(f, session.Frame(fuzzing.Canary)), framed(f, session.Frame{1}, bytes.Repeat([]byte{2}, 70_000), session.Frame{3})}
	fuzzing.Seeds(f, func(b []byte) error {
		again, err := read(b, bytes.NewReader(b))
		if err == io.EOF && bytes.Equal(again, b) {
			return nil
		}
		return err
	}, seeds...)
	f.Add([]byte{0, 0x80, 0, 0, 1, 2, 3})       // 8 MiB are promised
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1, 2}) // and 4 GiB
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		var again []byte
		var err error
		fuzzing.Allocates(t, len(b), 16, 2<<20+128<<10, func() { again, err = read(b, bytes.NewReader(b)) })
		fuzzing.Quiet(t, err)
		if !bytes.HasPrefix(b, again) {
			t.Fatalf("%x was read as %x", b, again)
		}
		if err == io.EOF && len(again) != len(b) {
			t.Fatalf("%d of %d bytes were read, and it says that it was all", len(again), len(b))
		}
		if slow, err2 := read(b, iotest.OneByteReader(bytes.NewReader(b))); len(b) < 1<<12 && (!bytes.Equal(slow, again) || (err == io.EOF) != (err2 == io.EOF)) {
			t.Fatalf("byte by byte %x is read as %x: %v", b, slow, err2)
		}
		var message []byte
		fuzzing.Allocates(t, len(b), 8, 8<<10, func() { message, err = readJoin(&bytesStream{Reader: bytes.NewReader(b)}, MaxJoinAnswer) })
		fuzzing.Quiet(t, err)
		if err == nil && !bytes.HasPrefix(b, append(binary.BigEndian.AppendUint32(nil, uint32(len(message))), message...)) {
			t.Fatalf("%x was read as message %x", b, message)
		}
	})
}

// FuzzAddresses takes what a peer, a code or the store says of where a device is: what is kept can be dialled, and what a
// code carries is an IP address and a port.
func FuzzAddresses(f *testing.F) {
	for _, list := range []string{
		"/ip4/192.168.7.9/udp/4001/quic-v1", "/ip6/fd00::1/tcp/4001", "/ip4/1.2.3.4/tcp/1\n/ip6/::1/udp/65535/quic-v1",
	} {
		addrs := strings.Split(list, "\n")
		if got := codeAddrs(addrs); !slices.Equal(got, addrs) {
			f.Fatalf("%q is written into a code as %q", addrs, got)
		}
		if got := parseAddrs(addrs); len(got) != len(addrs) {
			f.Fatalf("of %q %d can be dialled", addrs, len(got))
		}
		f.Add(list)
	}
	f.Add("192.0.2.1:4801")
	f.Add("[fd00::1]:4801")
	f.Add("/ip4/1.2.3.4/tcp/1/p2p/12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA")
	f.Add("192.0.2.7:4801\n[2001:db8::1]:4801")
	f.Add("/unix/" + fuzzing.Canary)
	f.Add("/ip6zone/x/ip6/fe80::1/udp/1/quic-v1/webtransport")
	f.Fuzz(func(t *testing.T, list string) {
		addrs := strings.Split(list, "\n")
		known := parseAddrs(addrs)
		if len(known) > maxAddrs {
			t.Errorf("%d addresses are kept", len(known))
		}
		for _, a := range known {
			if len(a.String()) == 0 {
				t.Error("an address is empty")
			}
		}
		for _, text := range addrs {
			typed, err := Addresses(text)
			fuzzing.Quiet(t, err)
			if n := len(parseAddrs(typed)); err == nil && (n == 0 || n != len(typed)) {
				t.Errorf("%q is read as %q", text, typed)
			}
		}
		got := codeAddrs(addrs)
		if again := codeAddrs(got); !slices.Equal(again, got) {
			t.Errorf("%q is written into a code as %q, and that as %q", addrs, got, again)
		}
		if len(got) > MaxCodeAddrs {
			t.Errorf("a code would carry %d addresses", len(got))
		}
		if got := parseAddrs(got); len(got) > maxAddrs {
			t.Errorf("%d addresses of a code are kept", len(got))
		}
	})
}
