// Package p2p carries sync sessions between the devices of a practice, over libp2p.
//
// Nouns: a [Host] is this device on the network; its libp2p peer ID is its device ID. A peer is another device. A [Code]
// invites a stranger to join the practice.
//
// Guarantees: nobody but members talks to the host, judged after the handshake has proven who is there; while an invite
// is open a stranger may speak the join protocol and no other, who has the recovery code that of recovery, and who was removed may
// bring membership entries and gets a yes or no. The host keeps a connection to every member whose addresses it knows or is told by another, and one sync
// session with each. The private key never leaves the [Identity].
//
// What is synced, who is a member and where peers live is left to the caller; the session itself to package session.
package p2p

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"

	"chartmesh/p2p/lan"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// Identity is the device's key as operations.
type Identity interface {
	Device() trust.DeviceID
	// SignTransport signs one of libp2p's own messages with the device's Ed25519 key, without a domain of ours.
	SignTransport(message []byte) ([]byte, error)
	// Derive returns bytes that depend on the device's secret and on context, and tell nothing of the key.
	Derive(context string) [32]byte
}

// DefaultListen is where a host listens unless told otherwise.
var DefaultListen = []string{"/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0"}

// Config says what a host is. Identity, Replica or ReplicaOf, and Admit are needed.
type Config struct {
	Identity Identity
	Replica  session.Replica
	// ReplicaOf says what is synced with a device that Admit admits, where that differs: an anchor holds many practices, which never meet.
	// nil: Replica is, with every one.
	ReplicaOf func(trust.DeviceID) session.Replica
	// Admit reports whether a device is a member in good standing. It is asked at every connection and stream.
	Admit   func(trust.DeviceID) bool
	Listen  []string     // multiaddrs; nil: DefaultListen
	Public  []string     // multiaddrs under which it is reached from outside, told in the place of its own; nil: its own
	Logger  *slog.Logger // nil: none
	Version string       // of the product
	Schema  session.Range
	// Invites answers strangers who hold a code; nil: nobody can join here.
	Invites Invites
	Offline bool // begin offline
	// Root says what a key is to the practice as to recovery, by the membership log; nil: whoever has the recovery code gets no answer.
	Root func(trust.DeviceID) RootKey
	// Readmission judges who was removed and says that he belongs; nil: he is a stranger.
	Readmission Readmission

	// Recovered says of what whoever has a recovery code is answered, by the key that follows from it; nil: of Replica.
	Recovered func(trust.DeviceID) session.Replica

	// Quorum answers a stream of the quorum's protocol that a device opened which Admit admits; nil: nobody may. It returns when the stream is
	// not used any more.
	Quorum func(ctx context.Context, s QuorumStream, from trust.DeviceID)

	// Blind reports whether one of the two, this device or the other, applies nothing of what they sync; nil: nobody is.
	Blind func(trust.DeviceID) bool

	// Enters reports whether one more device that Admit admits may connect; nil: any may.
	Enters func(trust.DeviceID) bool

	// Relays names the relays that this device may use, and where they are; nil: none. It is asked often.
	Relays func() []PeerAddr
	// Relay has the host pass bytes on between others; nil: it does not.
	Relay Relay

	// MapPorts asks the router to pass on what comes for the ports that the host listens at (UPnP, NAT-PMP), if that is more than loopback.
	MapPorts bool

	// LAN tags announcements on the local network, under a key that all members have; nil: the network is not searched.
	LAN lan.Tagger
	// Multicast opens another network than the system's, for tests; nil: the system's.
	Multicast func() (lan.Conn, error)

	// OnPeer is told when a peer connects or disconnects, when its state changes, and when Session.Agreed does. OnAddrs
	// is told the addresses at which a peer can be dialled, when they were learnt from it. Both are called one at a
	// time, in order, and must not block.
	OnPeer  func(trust.DeviceID, State)
	OnAddrs func(trust.DeviceID, []string)

	Session session.Config // limits and periods only; who and what is filled in by the host
}

// State is how things stand with a peer.
type State uint8

const (
	Offline      State = 0
	Connecting   State = 1 // a dial is under way
	Syncing      State = 2 // connected, not yet in sync
	InSync       State = 3 // both hold the same chunks
	Diverged     State = 4 // same chunks, not the same applied
	Incompatible State = 5 // no version in common
)

func (s State) String() string {
	switch s {
	case Offline:
		return "offline"
	case Connecting:
		return "connecting"
	case Syncing:
		return "syncing"
	case InSync:
		return "in-sync"
	case Diverged:
		return "diverged"
	case Incompatible:
		return "incompatible"
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// PeerAddr is where a device was last known to be. Addrs are multiaddrs, with or without /p2p/.
type PeerAddr struct {
	Device trust.DeviceID
	Addrs  []string
}

// PeerStatus is a peer at a glance.
type PeerStatus struct {
	Device      trust.DeviceID
	State       State
	Connected   bool
	Way         string // "LAN quic", "direct quic", "direct tcp" …; empty when not connected
	Addr        string // of the peer's end
	RTT         time.Duration
	ClockDiff   time.Duration // the peer's clock minus ours
	Since       time.Time     // connected since
	LastContact time.Time
	Version     string
	Reason      string         // why it is not connected, or not in sync
	Session     session.Status // of the running session, or the last one
}

// PeerID returns the libp2p peer ID of a device.
func PeerID(d trust.DeviceID) (peer.ID, error) {
	pub, err := crypto.UnmarshalEd25519PublicKey(d[:])
	if err != nil {
		return "", fmt.Errorf("peer ID of %s: %w", d, err)
	}
	return peer.IDFromPublicKey(pub)
}

// DeviceOf returns the device of a libp2p peer ID.
func DeviceOf(id peer.ID) (trust.DeviceID, error) {
	var d trust.DeviceID
	pub, err := id.ExtractPublicKey()
	if err != nil {
		return d, fmt.Errorf("device of peer ID: %w", err)
	}
	raw, err := pub.Raw()
	if err != nil || pub.Type() != crypto.Ed25519 || len(raw) != ed25519.PublicKeySize {
		return d, errors.New("device of peer ID: not an Ed25519 key")
	}
	return trust.DeviceID(raw), nil
}
