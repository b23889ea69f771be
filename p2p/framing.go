package p2p

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"

	"chartmesh/p2p/session"
	"chartmesh/wire"
)

const (
	bufferSize = 4 << 10 // of each side of each link: an anchor has thousands. What is longer passes it by
	pieceSize  = 64 << 10
	ownFrame   = 512 << 10 // of a frame, which each link may have come: one of many chunks is half as long
)

// frameWriter writes frames with their length before them, four bytes, big endian.
type frameWriter struct {
	done   <-chan struct{} // closed when the link ends; its deadline is the last then
	stream network.Stream
	buf    *bufio.Writer
	armed  time.Time
}

func newFrameWriter(s network.Stream, done <-chan struct{}) *frameWriter {
	w := &frameWriter{done: done, stream: s}
	w.buf = bufio.NewWriterSize(stallWriter{w}, bufferSize)
	return w
}

// stallWriter writes in pieces, each of which has its own deadline, so that a slow line is told from a dead one.
type stallWriter struct{ w *frameWriter }

func (s stallWriter) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		piece := b[:min(len(b), pieceSize)]
		s.w.arm()
		m, err := s.w.stream.Write(piece)
		n += m
		if err != nil {
			return n, err
		}
		b = b[m:]
	}
	return n, nil
}

func (w *frameWriter) arm() {
	if now := time.Now(); !w.ended() && now.Sub(w.armed) > time.Second {
		w.armed = now
		_ = w.stream.SetWriteDeadline(now.Add(writeStall))
		if w.ended() { // between the two looks
			_ = w.stream.SetWriteDeadline(now.Add(farewell))
		}
	}
}

func (w *frameWriter) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

func (w *frameWriter) write(f session.Frame) error {
	var head [session.FrameOverhead]byte
	binary.BigEndian.PutUint32(head[:], uint32(len(f)))
	if _, err := w.buf.Write(head[:]); err != nil {
		return err
	}
	_, err := w.buf.Write(f)
	return err
}

func (w *frameWriter) flush() error { return w.buf.Flush() }

// frameReader reads what frameWriter wrote. It allocates as bytes come, not as a length promises.
type frameReader struct {
	stream network.Stream
	buf    *bufio.Reader
	armed  time.Time
	await  func(n int) // called when n bytes have come, before more are taken; nil: nothing is waited for
	coming *large      // nil: nothing is counted
	done   func()      // says that the frame that was read last is not used any more
}

func newFrameReader(s network.Stream) *frameReader {
	r := &frameReader{stream: s, done: func() {}}
	r.buf = bufio.NewReaderSize(silenceReader{r}, bufferSize)
	return r
}

type silenceReader struct{ r *frameReader }

func (s silenceReader) Read(b []byte) (int, error) {
	if now := time.Now(); now.Sub(s.r.armed) > time.Second {
		s.r.armed = now
		_ = s.r.stream.SetReadDeadline(now.Add(silence))
	}
	n, err := s.r.stream.Read(b[:min(len(b), pieceSize)])
	if s.r.await != nil {
		s.r.await(n)
	}
	return n, err
}

// read returns the next frame; the one before is done with.
func (r *frameReader) read(limit int) (session.Frame, error) {
	r.done()
	r.done = func() {}
	var head [session.FrameOverhead]byte
	if _, err := io.ReadFull(r.buf, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n == 0 || n > limit {
		return nil, fmt.Errorf("read frame: %w: %d bytes long", wire.ErrMalformed, n)
	}
	var err error
	if r.done, err = r.coming.take(n); err != nil {
		return nil, err
	}
	var f session.Frame
	if n <= ownFrame {
		f = make(session.Frame, n)
		_, err = io.ReadFull(r.buf, f)
	} else {
		var b bytes.Buffer
		b.Grow(ownFrame)
		_, err = io.CopyN(&b, r.buf, int64(n))
		f = b.Bytes()
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF // the end of a stream inside of a frame is not one between two
	}
	if err != nil {
		return nil, err
	}
	return f, nil
}
