package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"chartmesh/crdt"
	"chartmesh/wire"
)

// The pipe. Both sides open with a hello; then every frame is a length (4 bytes, big endian) and a body:
//
//	hello    "CMENGINE", version (1); the parent's goes on with the child's memory in bytes (8)
//	call     verb (1), number (8), document (32), payload
//	answer   status (1), number (8), payload; a failure's is a reason (1) and the number of an instruction
//
// Calls are answered in the order in which they were sent.
const (
	magic        = "CMENGINE"
	pipeVersion  = 1
	callHead     = 1 + 8 + 32
	answerHead   = 1 + 8
	helloLen     = len(magic) + 1
	lengthPrefix = 4
)

// verb says what a call wants.
type verb uint8

const (
	verbLoad   verb = 1
	verbApply  verb = 2
	verbEdit   verb = 3
	verbRead   verb = 4
	verbSave   verb = 5
	verbForget verb = 6
)

// status says how a call ended.
type status uint8

const (
	statusDone      status = 1
	statusNotLoaded status = 2
	statusFailed    status = 3
)

var errFrame = errors.New("frame")

// newFrame begins a call; seal ends it.
func newFrame(v verb, number uint64, doc crdt.DocumentID) *wire.Writer {
	w := &wire.Writer{}
	w.Raw(make([]byte, lengthPrefix))
	w.Byte(byte(v))
	w.Uint64(number)
	w.Raw(doc[:])
	return w
}

// newAnswer begins an answer; seal ends it.
func newAnswer(s status, number uint64) *wire.Writer {
	w := &wire.Writer{}
	w.Raw(make([]byte, lengthPrefix))
	w.Byte(byte(s))
	w.Uint64(number)
	return w
}

// seal writes the length in front, counting extra bytes that follow what w holds.
func seal(w *wire.Writer, extra int) ([]byte, error) {
	b := w.Bytes()
	n := len(b) - lengthPrefix + extra
	if n > maxFrame {
		return nil, fmt.Errorf("%w: %d bytes are over the limit", errFrame, n)
	}
	binary.BigEndian.PutUint32(b, uint32(n))
	return b, nil
}

// readFrame reads a body of at least atLeast bytes into buf or, when that is too small, into new memory.
func readFrame(r io.Reader, buf []byte, atLeast int) ([]byte, error) {
	var length [lengthPrefix]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(length[:]))
	if n < atLeast || n > maxFrame {
		return nil, fmt.Errorf("%w: length", errFrame)
	}
	if n > cap(buf) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	_, err := io.ReadFull(r, buf)
	return buf, err
}

func hello() []byte { return append([]byte(magic), pipeVersion) }

// readHello checks the other side's magic and version.
func readHello(r io.Reader) error {
	var b [helloLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return fmt.Errorf("read hello: %w", err)
	}
	if string(b[:len(magic)]) != magic {
		return fmt.Errorf("%w: hello", errFrame)
	}
	if b[len(magic)] != pipeVersion {
		return fmt.Errorf("%w: version", errFrame)
	}
	return nil
}

// outcome turns an answer into its payload or its error.
func outcome(s status, payload []byte) ([]byte, error) {
	switch s {
	case statusDone:
		return payload, nil
	case statusNotLoaded:
		return nil, crdt.ErrNotLoaded
	case statusFailed:
		r := wire.NewReader(payload)
		f := &failure{reason: reason(r.Byte()), at: r.Uvarint(maxInstructions)}
		if err := r.Close(); err != nil || reasonText[f.reason] == "" {
			return nil, fmt.Errorf("%w: failure", errFrame)
		}
		return nil, f
	}
	return nil, fmt.Errorf("%w: status", errFrame)
}
