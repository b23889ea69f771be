package chunk

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

// ID names a chunk: SHA-256 of the whole.
type ID [32]byte

// LogID names a log: a hash of device and nonce.
type LogID [32]byte

// Tag says which document a chunk belongs to, to those who cannot open it: a keyed hash.
type Tag [16]byte

// Actor is the Automerge actor under which a log writes one branch of one document.
type Actor [16]byte

// Secret names a document secret, by which one document can be erased everywhere; zero: none.
type Secret [16]byte

// Kind says what a body is. The numbers are part of the format.
type Kind uint8

const (
	KindChanges      Kind = 1
	KindCheckpoint   Kind = 2
	KindKeys         Kind = 3
	KindBlobManifest Kind = 4
	KindTombstone    Kind = 5
	KindCertificate  Kind = 6
	KindDecision     Kind = 7
	KindCover        Kind = 8
)

var kindNames = map[Kind]string{
	KindChanges: "changes", KindCheckpoint: "checkpoint", KindKeys: "keys", KindBlobManifest: "blob manifest",
	KindTombstone: "tombstone", KindCertificate: "certificate", KindDecision: "decision", KindCover: "cover",
}

func (k Kind) String() string {
	if s, ok := kindNames[k]; ok {
		return s
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

func (id ID) String() string    { return hex.EncodeToString(id[:8]) }
func (id LogID) String() string { return hex.EncodeToString(id[:8]) }
func (t Tag) String() string    { return hex.EncodeToString(t[:4]) }
func (a Actor) String() string  { return hex.EncodeToString(a[:]) }

// Compare orders logs by their bytes.
func (id LogID) Compare(other LogID) int { return bytes.Compare(id[:], other[:]) }

// LogOf returns the ID of the log that device writes under nonce.
func LogOf(device trust.DeviceID, nonce [16]byte) LogID {
	return hash("chartmesh log 1", device[:], nonce[:])
}

// ActorOf returns the Automerge actor of a branch of a document in a log. A new log brings new actors.
func ActorOf(log LogID, document [32]byte, branch byte) Actor {
	h := hash("chartmesh actor 1", log[:], document[:], []byte{branch})
	return Actor(h[:16])
}

// hash returns SHA-256 of label and parts of fixed length, or one last part of any. No label begins another.
func hash(label string, parts ...[]byte) [32]byte {
	var w wire.Writer
	w.Raw([]byte(label))
	for _, p := range parts {
		w.Raw(p)
	}
	return sha256.Sum256(w.Bytes())
}
