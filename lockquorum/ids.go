package lockquorum

import (
	"cmp"
	"encoding/hex"
	"fmt"

	"chartmesh/trust"
	"chartmesh/wire"
)

// LockID is the keyed hash of a lock's name.
type LockID [32]byte

// DocumentID is the keyed hash of a protected document's ID.
type DocumentID [32]byte

// Heads is the keyed hash of a document's heads, in their order; zeros: it has none that are certified.
type Heads [32]byte

// CircleID is the keyed hash of the name of a circle of numbers.
type CircleID [32]byte

// ItemID is the keyed hash of what is numbered.
type ItemID [32]byte

// RangeID is the keyed hash of the name of a number space that is divided among sites.
type RangeID [32]byte

// SessionID is drawn by chance when a client's process starts, so that a copy of it is another session.
type SessionID [16]byte

// DeviceID names the device whose client speaks; it is its key in the membership log.
type DeviceID = trust.DeviceID

func (id LockID) String() string     { return hex.EncodeToString(id[:8]) }
func (id DocumentID) String() string { return hex.EncodeToString(id[:8]) }
func (h Heads) String() string       { return hex.EncodeToString(h[:8]) }
func (id CircleID) String() string   { return hex.EncodeToString(id[:8]) }
func (id ItemID) String() string     { return hex.EncodeToString(id[:8]) }
func (id RangeID) String() string    { return hex.EncodeToString(id[:8]) }
func (id SessionID) String() string  { return hex.EncodeToString(id[:8]) }

// Token orders the leases of a practice. It is the place of the command that granted the lease: the epoch of the quorum, which rises when
// the voters are founded anew, and the index in its log. No two leases of one lock have the same, and a later one has a larger.
type Token struct{ Epoch, Index uint64 }

// Compare is negative if t is of an earlier lease than u.
func (t Token) Compare(u Token) int {
	return cmp.Or(cmp.Compare(t.Epoch, u.Epoch), cmp.Compare(t.Index, u.Index))
}

// IsZero reports whether t is of no lease.
func (t Token) IsZero() bool { return t == Token{} }

// A Place is that of any command. Whatever an earlier epoch did is before whatever a later one does.
type Place = Token

func (t Token) String() string { return fmt.Sprintf("%d.%d", t.Epoch, t.Index) }

// SeriesID names a series of a circle: by the epoch of the quorum that began it, and its place among the circle's series, counted from one.
// A quorum that is founded anew may not know the last series of the one before, but it gives none of their names.
type SeriesID struct{ Epoch, N uint64 }

func (id SeriesID) String() string { return fmt.Sprintf("%d.%d", id.Epoch, id.N) }

// id is what all IDs are that a State keeps maps by.
type id interface{ ~[16]byte | ~[32]byte }

func compareIDs[K id](a, b K) int {
	for i := range len(a) {
		if c := cmp.Compare(a[i], b[i]); c != 0 {
			return c
		}
	}
	return 0
}

// readID takes an ID.
func readID[K id](r *wire.Reader) (key K) {
	for i, b := range r.Raw(len(key)) {
		key[i] = b
	}
	return key
}
