package bench

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// BenchmarkLimitCommit is what a durable commit cannot beat: a kilobyte appended to a file and synced.
func BenchmarkLimitCommit(b *testing.B) {
	f, err := os.Create(filepath.Join(b.TempDir(), "log"))
	must(b, err)
	defer f.Close()
	line := bytes.Repeat([]byte{1}, 1<<10)
	for b.Loop() {
		_, err := f.Write(line)
		must(b, err)
		must(b, f.Sync())
	}
}

// BenchmarkLimitCompress is what sealing an import cannot beat: the same JSON through the compressor alone.
func BenchmarkLimitCompress(b *testing.B) {
	batches, _, size := bundles(b, 20)
	var all []byte
	for _, batch := range batches {
		for _, r := range batch.Resources {
			all = append(all, r...)
		}
	}
	z, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(b, err)
	defer z.Close()
	b.SetBytes(int64(size))
	var out []byte
	for b.Loop() {
		out = z.EncodeAll(all, out[:0])
	}
	b.ReportMetric(float64(len(out))/float64(size), "compressed/json")
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
		b.Fatal("nobody accepted")
	}
	b.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	return near, far
}

// BenchmarkLimitLoopback is what a sync on one machine cannot beat: 64 KB writes over plain TCP.
func BenchmarkLimitLoopback(b *testing.B) {
	near, far := loopback(b)
	go func() { _, _ = io.Copy(io.Discard, far) }()
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	for b.Loop() {
		_, err := near.Write(block)
		must(b, err)
	}
}

// BenchmarkLimitRoundTrip is a hundred bytes there and back over plain TCP.
func BenchmarkLimitRoundTrip(b *testing.B) {
	near, far := loopback(b)
	go func() { _, _ = io.Copy(far, far) }()
	message := make([]byte, 100)
	for b.Loop() {
		_, err := near.Write(message)
		must(b, err)
		_, err = io.ReadFull(near, message)
		must(b, err)
	}
}
