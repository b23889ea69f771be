package p2p

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"chartmesh/trust"
)

// ErrRefused says that the inviter refused: the code is wrong, used or expired. It does not say which.
var ErrRefused = errors.New("the invitation was refused: the code is wrong, was used, or has expired")

// InviteID names an invite; it is derived from the code's secret and tells nothing of it.
type InviteID [16]byte

// JoinKey proves knowledge of a code's secret, from which it is derived. The inviter stores it instead of the secret.
type JoinKey [32]byte

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
