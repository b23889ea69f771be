package bench

import (
	"bytes"
	"crypto/ed25519"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/chacha20poly1305"
)

// A limit is what nothing that does the same can beat: the same bytes through the disk, the compressor, the cipher or the
// loopback device alone.
type limit struct {
	name string
	once func()
}

// limitTime is how long a limit is measured.
var limitTime = 300 * time.Millisecond

// beside measures limits right after what they limit, on the same machine in the same mood, and reports how many times as
// long the benchmark took as all of them together. It returns what each took, in nanoseconds.
func beside(b *testing.B, limits ...limit) (each []float64) {
	b.Helper()
	took := float64(b.Elapsed()) / float64(b.N)
	var floor float64
	for _, l := range limits {
		ns := l.measure()
		b.ReportMetric(ns, l.name+"-ns")
		floor += ns
		each = append(each, ns)
	}
	b.ReportMetric(floor, "limit-ns")
	b.ReportMetric(took/floor, "x-limit")
	return each
}

// measure returns how many nanoseconds it takes.
func (l limit) measure() float64 {
	l.once() // the first goes through cold caches
	n, begun := 0, time.Now()
	for n == 0 || time.Since(begun) < limitTime {
		l.once()
		n++
	}
	return float64(time.Since(begun)) / float64(n)
}

// fsynced appends size bytes to a file on the disk of the stores and syncs it.
func fsynced(b *testing.B, size int) limit {
	b.Helper()
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	must(b, err)
	b.Cleanup(func() { _ = f.Close() })
	line := bytes.Repeat([]byte{1}, max(size, 1))
	written := 0
	return limit{"fsync", func() {
		if written > 256<<20 { // no limit needs more room than a store
			must(b, f.Truncate(0))
			_, err := f.Seek(0, io.SeekStart)
			must(b, err)
			written = 0
		}
		n, err := f.Write(line)
		must(b, err)
		must(b, f.Sync())
		written += n
	}}
}

// times is a limit that counts several times.
func times(n int, l limit) limit {
	return limit{l.name, func() {
		for range n {
			l.once()
		}
	}}
}

// compressed puts plain through the compressor.
func compressed(b *testing.B, plain []byte) limit {
	b.Helper()
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(b, err)
	b.Cleanup(func() { _ = z.Close() })
	var out []byte
	return limit{"zstd", func() { out = z.EncodeAll(plain, out[:0]) }}
}

// inflated takes plain out of its compressed form.
func inflated(b *testing.B, plain []byte) limit {
	b.Helper()
	w, err := zstd.NewWriter(nil)
	must(b, err)
	packed := w.EncodeAll(plain, nil)
	r, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1))
	must(b, err)
	b.Cleanup(r.Close)
	var out []byte
	return limit{"zstd", func() {
		out, err = r.DecodeAll(packed, out[:0])
		must(b, err)
	}}
}

// encrypted puts size bytes through the cipher.
func encrypted(b *testing.B, size int) limit {
	b.Helper()
	a, err := chacha20poly1305.NewX(make([]byte, chacha20poly1305.KeySize))
	must(b, err)
	plain, nonce := make([]byte, size), make([]byte, chacha20poly1305.NonceSizeX)
	var out []byte
	return limit{"aead", func() { out = a.Seal(out[:0], nonce, plain, nil) }}
}

// signed signs a hash.
func signed(b *testing.B) limit {
	b.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	digest := make([]byte, 32)
	return limit{"sign", func() { ed25519.Sign(key, digest) }}
}

// verified checks the signature of a hash.
func verified(b *testing.B) limit {
	b.Helper()
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	digest := make([]byte, 32)
	signature := ed25519.Sign(key, digest)
	public := key.Public().(ed25519.PublicKey)
	return limit{"verify", func() {
		if !ed25519.Verify(public, digest, signature) {
			fatal(b, "a signature does not verify")
		}
	}}
}

// cached reads a file of size bytes that was read a moment ago.
func cached(b *testing.B, size int) limit {
	b.Helper()
	name := filepath.Join(b.TempDir(), "file")
	must(b, os.WriteFile(name, make([]byte, size), 0o600))
	return limit{"file", func() {
		_, err := os.ReadFile(name)
		must(b, err)
	}}
}

// loopback is a pair of connected sockets.
func loopback(b *testing.B) (near, far net.Conn) {
	b.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(b, err)
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- c
	}()
	near, err = net.Dial("tcp", l.Addr().String())
	must(b, err)
	far, ok := <-accepted
	if !ok {
		fatal(b, "nobody accepted")
	}
	return near, far
}

// roundTrip is a hundred bytes there and back over plain TCP.
func roundTrip(b *testing.B) limit {
	b.Helper()
	near, far := loopback(b)
	b.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	go func() { _, _ = io.Copy(far, far) }()
	message := make([]byte, 100)
	return limit{"trip", func() {
		_, err := near.Write(message)
		must(b, err)
		_, err = io.ReadFull(near, message)
		must(b, err)
	}}
}

// connected makes a plain TCP connection, sends size bytes there and gets as many back.
func connected(b *testing.B, size int) limit {
	b.Helper()
	message := make([]byte, max(size, 1))
	return limit{"connect", func() {
		near, far := loopback(b)
		for _, dir := range [][2]net.Conn{{near, far}, {far, near}} {
			_, err := dir[0].Write(message)
			must(b, err)
			_, err = io.ReadFull(dir[1], message)
			must(b, err)
		}
		_ = near.Close()
		_ = far.Close()
	}}
}

// copied sends size bytes over plain TCP and waits until the other side has them all.
func copied(b *testing.B, size int) limit {
	b.Helper()
	near, far := loopback(b)
	b.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	go func() {
		for {
			if _, err := io.CopyN(io.Discard, far, int64(size)); err != nil {
				return
			}
			if _, err := far.Write([]byte{1}); err != nil {
				return
			}
		}
	}()
	block, done := make([]byte, 64<<10), make([]byte, 1)
	return limit{"tcp", func() {
		for left := size; left > 0; left -= len(block) {
			_, err := near.Write(block[:min(left, len(block))])
			must(b, err)
		}
		_, err := io.ReadFull(near, done)
		must(b, err)
	}}
}
