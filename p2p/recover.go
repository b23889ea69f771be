package p2p

import (
	"errors"
	"slices"

	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/trust"
	"chartmesh/wire"
)

// RecoverProtocol is the libp2p protocol by which a machine that has the recovery code and nothing else gets the membership log, and
// has itself entered in it.
//
// The caller's peer ID is the practice's root key, which follows from the code: the handshake proves that it holds the code, to this very
// device and for this connection alone, and nobody else is let in. Each stream carries one request and one answer, each
// behind its length, four bytes, big endian:
//
//	request  "cmrc" | 1 | count | entries…      what the device may lack, parents first; none: just asks
//	answer   1 | count | entries…               the device's membership log, after it has taken those
//	      or 2                                  the code was replaced by another
//
// That the device belongs to the practice the log proves: in it stand the device, and the root key with a signature of its own.
const RecoverProtocol protocol.ID = "/chartmesh/recover/1.0.0"

// RootKey is what a key is to the practice, as to recovery.
type RootKey uint8

const (
	RootNone     RootKey = 0 // nothing
	RootInForce  RootKey = 1 // follows from the recovery code in force
	RootReplaced RootKey = 2 // follows from one that was replaced
)

var (
	// ErrReplacedCode says that the recovery code was replaced by another.
	ErrReplacedCode = errors.New("the recovery code was replaced by another")
	// ErrOtherCode says that a device was reached and knows nothing of the recovery code.
	ErrOtherCode = errors.New("the device there does not know the recovery code: it is another practice's, or no device of chartmesh")
)

var recoverMagic = []byte{'c', 'm', 'r', 'c', 1}

// recoverRequest is a list of membership entries.
type recoverRequest [][]byte

func (q recoverRequest) encode() []byte {
	var w wire.Writer
	w.Raw(recoverMagic)
	appendEntries(&w, q)
	return w.Bytes()
}

func parseRecoverRequest(b []byte) (recoverRequest, error) {
	r := wire.NewReader(b)
	if m := r.Raw(len(recoverMagic)); !slices.Equal(m, recoverMagic) {
		r.Fail("magic or version")
	}
	return readEntries(r), r.Close()
}

const (
	recoverEntries  = 1
	recoverReplaced = 2
)

// recoverAnswer is the membership log, or nothing for who comes with a replaced code.
type recoverAnswer [][]byte

func (a recoverAnswer) encode() []byte {
	var w wire.Writer
	if len(a) == 0 {
		w.Byte(recoverReplaced)
		return w.Bytes()
	}
	w.Byte(recoverEntries)
	appendEntries(&w, a)
	return w.Bytes()
}

func parseRecoverAnswer(b []byte) (a recoverAnswer, err error) {
	r := wire.NewReader(b)
	switch r.Byte() {
	case recoverReplaced:
	case recoverEntries:
		if a = readEntries(r); len(a) == 0 {
			r.Fail("number of entries")
		}
	default:
		r.Fail("kind of answer")
	}
	return a, r.Close()
}

func appendEntries(w *wire.Writer, list [][]byte) {
	w.Uvarint(uint64(len(list)))
	for _, e := range list {
		w.Blob(e)
	}
}

func readEntries(r *wire.Reader) (list [][]byte) {
	n := r.Uvarint(trust.MaxEntries)
	if n > uint64(r.Len()) {
		r.Fail("number of entries")
		return nil
	}
	for range n {
		list = append(list, r.Blob(trust.MaxEntry))
	}
	return list
}
