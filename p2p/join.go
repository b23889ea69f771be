package p2p

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/trust"
	"chartmesh/wire"
)

// JoinProtocol is the libp2p protocol by which a stranger with a code becomes a member.
//
// The newcomer, connected to the very device that the code names, sends one request and gets one answer, each behind
// its length, four bytes, big endian:
//
//	request  "cmjn" | 1 | invite ID 16 | device 32 | HPKE key | device name | site name | nonce 32 | MAC 32
//	answer   1 | MAC 32 | count | entries…      or: 2, refused
//
// Both MACs are HMAC-SHA256 under the code's key; the first also covers the inviter's device ID, the second the request.
const JoinProtocol protocol.ID = "/chartmesh/join/1.0.0"

// ErrRefused says that the inviter refused: the code is wrong, used or expired. It does not say which.
var ErrRefused = errors.New("the invitation was refused: the code is wrong, was used, or has expired")

// InviteID names an invite; it is derived from the code's secret and tells nothing of it.
type InviteID [16]byte

// JoinKey proves knowledge of a code's secret, from which it is derived. The inviter stores it instead of the secret.
type JoinKey [32]byte

func (JoinKey) String() string   { return "[key]" }
func (JoinKey) GoString() string { return "[key]" }

// Newcomer is who asks to join.
type Newcomer struct {
	Device trust.DeviceID
	HPKE   []byte // public key
	// Names of the device and of its site. The inviter reads them and seals them into the entry.
	DeviceName, SiteName string
}

// Request is a newcomer's request as the inviter judges it: find the invite by its ID, count the try, ask whether the
// request Proves its key, and only then look at expiry and use.
type Request struct {
	Newcomer Newcomer
	Invite   InviteID

	inviter trust.DeviceID
	nonce   [32]byte
	mac     [32]byte
}

// Response is what a newcomer gets.
type Response struct {
	Key     JoinKey  // the invite's, which vouches for the answer
	Entries [][]byte // the membership log with the newcomer's own entry, parents before children
}

// Invites is where invitations live.
type Invites interface {
	// Open reports whether any invite is open now, or was used so lately that its newcomer may ask again. Strangers are
	// let in, for the join protocol alone, only then.
	Open() bool
	// Redeem judges a request and answers it. When it returns without an error the invite is durably used. The same
	// newcomer (device and HPKE key) asking again gets the same answer. Every error is answered by the same refusal.
	Redeem(ctx context.Context, req Request) (Response, error)
}

// JoinConfig is what a newcomer brings.
type JoinConfig struct {
	Identity Identity
	Code     Code
	Newcomer Newcomer // Device is taken from Identity
	Logger   *slog.Logger
	Timeout  time.Duration // zero: 30 s
}

// JoinResult is what a newcomer got. The answer came from the inviter and was vouched for by the code's secret, and the
// entry that the code names is among the entries; what they say is the caller's to judge.
type JoinResult struct {
	Entries [][]byte
	Inviter PeerAddr
}

// Request makes a newcomer's request from a code and 32 random bytes.
func (c Code) Request(n Newcomer, nonce [32]byte) Request {
	r := Request{Newcomer: n, Invite: c.Invite(), inviter: c.Inviter, nonce: nonce}
	r.mac = r.macUnder(c.Key())
	return r
}

// Proves reports whether the request was made by somebody who knows the code that key was derived from.
func (r Request) Proves(key JoinKey) bool {
	want := r.macUnder(key)
	return hmac.Equal(want[:], r.mac[:])
}

// Same reports whether two requests are of the same newcomer.
func (n Newcomer) Same(o Newcomer) bool { return n.Device == o.Device && slices.Equal(n.HPKE, o.HPKE) }

var joinMagic = []byte{'c', 'm', 'j', 'n', 1}

func (r Request) body() []byte {
	var w wire.Writer
	w.Raw(joinMagic)
	w.Raw(r.Invite[:])
	w.Raw(r.Newcomer.Device[:])
	w.Blob(r.Newcomer.HPKE)
	w.String(r.Newcomer.DeviceName)
	w.String(r.Newcomer.SiteName)
	w.Raw(r.nonce[:])
	return w.Bytes()
}

func (r Request) macUnder(key JoinKey) [32]byte {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("chartmesh join request 1"))
	h.Write(r.inviter[:])
	h.Write(r.body())
	return [32]byte(h.Sum(nil))
}

func (r Request) encode() []byte { return append(r.body(), r.mac[:]...) }

// parseRequest reads a request that came to inviter.
func parseRequest(b []byte, inviter trust.DeviceID) (Request, error) {
	q := Request{inviter: inviter}
	r := wire.NewReader(b)
	if m := r.Raw(len(joinMagic)); !slices.Equal(m, joinMagic) {
		r.Fail("magic or version")
	}
	r.Fixed(q.Invite[:])
	r.Fixed(q.Newcomer.Device[:])
	q.Newcomer.HPKE = slices.Clone(r.Blob(MaxHPKEKey))
	q.Newcomer.DeviceName = r.String(MaxJoinName)
	q.Newcomer.SiteName = r.String(MaxJoinName)
	r.Fixed(q.nonce[:])
	r.Fixed(q.mac[:])
	return q, r.Close()
}

const (
	answerEntries = 1
	answerRefused = 2
)

// answer is what the inviter sends; no entries: refused.
type answer struct {
	mac     [32]byte
	entries [][]byte
}

func (a answer) macUnder(key JoinKey, q Request) [32]byte {
	h := hmac.New(sha256.New, key[:])
	h.Write([]byte("chartmesh join answer 1"))
	h.Write(q.mac[:])
	h.Write(a.list())
	return [32]byte(h.Sum(nil))
}

func (a answer) provenBy(key JoinKey, q Request) bool {
	want := a.macUnder(key, q)
	return hmac.Equal(want[:], a.mac[:])
}

func (a answer) list() []byte {
	var w wire.Writer
	w.Uvarint(uint64(len(a.entries)))
	for _, e := range a.entries {
		w.Blob(e)
	}
	return w.Bytes()
}

func (a answer) encode() []byte {
	var w wire.Writer
	if len(a.entries) == 0 {
		w.Byte(answerRefused)
		return w.Bytes()
	}
	w.Byte(answerEntries)
	w.Raw(a.mac[:])
	w.Raw(a.list())
	return w.Bytes()
}

func parseAnswer(b []byte) (answer, error) {
	var a answer
	r := wire.NewReader(b)
	switch r.Byte() {
	case answerRefused:
		return a, r.Close()
	case answerEntries:
	default:
		r.Fail("kind of answer")
	}
	r.Fixed(a.mac[:])
	n := r.Uvarint(maxJoinEntries)
	if n == 0 || n > uint64(r.Len()) {
		r.Fail("number of entries")
		n = 0
	}
	for range n {
		a.entries = append(a.entries, r.Blob(maxJoinEntry))
	}
	return a, r.Close()
}
