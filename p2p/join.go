package p2p

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// JoinProtocol is the libp2p protocol by which a stranger with a code becomes a member. What is said stands in exchange.go.
const JoinProtocol protocol.ID = "/chartmesh/join/2.0.0"

// ErrRefused is every [Refusal].
var ErrRefused = errors.New("the invitation was refused")

// Refusal is why the inviter refused. All but the first two are told only to who has proven that it knows the code.
type Refusal byte

// The numbers are sent.
const (
	RefusedUnknown  Refusal = 1 // no such invitation, or the wrong secret: it does not say which
	RefusedTries    Refusal = 2
	RefusedExpired  Refusal = 3
	RefusedUsed     Refusal = 4
	RefusedDeclined Refusal = 5
	RefusedNow      Refusal = 6
	RefusedSite     Refusal = 7
	RefusedMember   Refusal = 8
)

func (r Refusal) Error() string {
	switch r {
	case RefusedUnknown:
		return "the invitation was refused: the code is wrong, or the invitation is over"
	case RefusedTries:
		return "the invitation was refused: a wrong code was tried too often"
	case RefusedExpired:
		return "the invitation was refused: it has expired"
	case RefusedUsed:
		return "the invitation was refused: another device has used it"
	case RefusedDeclined:
		return "the invitation was refused: the administrator declined this device"
	case RefusedNow:
		return "the invitation was refused for now: the inviting device cannot take this one at the moment"
	case RefusedSite:
		return "the invitation was refused: nobody has said at which site this device is"
	case RefusedMember:
		return "the invitation was refused: this device is a member already"
	}
	return fmt.Sprintf("the invitation was refused, for reason %d", byte(r))
}

// Is makes every refusal ErrRefused.
func (Refusal) Is(target error) bool { return target == ErrRefused }

// InviteID names an invite towards the inviter. That of a code is derived from its secret and tells nothing of it; that of
// words from their public part.
type InviteID [16]byte

// JoinKey is the password of the exchange, derived from a code's secret. The inviter stores it instead of the secret.
type JoinKey [32]byte

func (JoinKey) String() string   { return "[key]" }
func (JoinKey) GoString() string { return "[key]" }

// Invitation is what a newcomer has in hand: what a code or words say.
type Invitation struct {
	ID  InviteID
	Key JoinKey

	Spoken  bool        // words: Locator says whom to look for, and the rest is unknown
	Locator lan.Locator // of words

	Inviter  trust.DeviceID
	Founding [16]byte
	Addrs    []string
}

// ParseInvitation reads a code, a link or words as typed.
func ParseInvitation(text string) (Invitation, error) {
	// A code has digits, from its prefix on; words have none.
	if strings.ContainsAny(text, "0123456789") {
		c, err := ParseCode(text)
		return c.Invitation(), err
	}
	w, err := ParseWords(text)
	return w.Invitation(), err
}

// Newcomer is who asks to join.
type Newcomer struct {
	Device trust.DeviceID
	HPKE   []byte // public key
	// Names of the device and of its site; the site may be left to the invite. Only who knows the code's secret reads them.
	DeviceName, SiteName string
}

var fingerprintEncoding = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

// Fingerprint is what people compare: both screens show the same for one newcomer's keys.
func (n Newcomer) Fingerprint() string {
	h := sha256.New()
	h.Write([]byte("chartmesh fingerprint 1"))
	h.Write(n.Device[:])
	h.Write(n.HPKE)
	text := fingerprintEncoding.EncodeToString(h.Sum(nil)[:10])
	return text[:4] + "-" + text[4:8] + "-" + text[8:12] + "-" + text[12:]
}

// Terms is what the inviter brings to an exchange.
type Terms struct {
	Key      JoinKey
	Role     trust.Role
	Founding trust.EntryID
	HPKE     [32]byte // hash of the inviter's public key
}

// Invites is where invitations live.
type Invites interface {
	// Open reports whether any invite is open now, or was so lately that a newcomer should hear what became of it.
	// Strangers are let in, for the join protocol alone, only then.
	Open() bool
	// Locators lists those of the invites for which Open is true.
	Locators() []lan.Locator
	// Terms finds an invite. The errors are refusals.
	Terms(InviteID) (Terms, error)
	// Count takes a try, durably, before it is known whether the newcomer knows the secret. No error but then is it judged.
	Count(context.Context, InviteID) error
	// Redeem admits a newcomer who has proven that it knows the secret, which gives the try back. Where somebody must confirm
	// it first, waiting is called and it returns when that is decided or ctx ends. When it returns the membership log the
	// invite is durably used; when it returns an error it is as it was. The same newcomer (device and HPKE key) asking again
	// gets the same answer. An error that is no Refusal is answered by RefusedNow.
	Redeem(ctx context.Context, id InviteID, n Newcomer, waiting func()) ([][]byte, error)
}

// JoinConfig is what a newcomer brings.
type JoinConfig struct {
	Identity   Identity
	Invitation Invitation
	Newcomer   Newcomer // Device is taken from Identity
	Addrs      []string // where to ask besides, as multiaddrs without a peer ID; or, of words, instead of looking
	// Through is an anchor through which the inviter is asked, instead of at its own addresses; zero: none.
	Through PeerAddr
	// Multicast opens another network than the system's, for tests; nil: the system's.
	Multicast func() (lan.Conn, error)
	Logger    *slog.Logger
	// Timeout is for finding the inviter and proving the code; confirmation may take until ctx ends. Zero: 30 s.
	Timeout time.Duration
	// Waiting is called when the inviter, who has proven to know the code, asks its administrator; nil: nobody is told.
	Waiting func()
}

// JoinResult is what a newcomer got. The answer came from the inviter and was vouched for by the code's secret, and the
// founding entry that both sides agreed on is among the entries; what they say is the caller's to judge.
type JoinResult struct {
	Entries [][]byte
	Inviter PeerAddr
	Role    trust.Role // that the inviter agreed to
	HPKE    [32]byte   // hash of the inviter's public key
}
