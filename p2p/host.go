package p2p

import (
	"context"
	"errors"

	"chartmesh/trust"
)

// Host is this device on the network.
type Host struct{}

var errNotBuilt = errors.New("not built yet")

// Open binds the sockets; nobody is let in before Run.
func Open(cfg Config) (*Host, error) { return nil, errNotBuilt }

// Run serves and dials until ctx ends, and returns when all of its goroutines are gone.
func (h *Host) Run(ctx context.Context) error { return errNotBuilt }

// Close releases the sockets. It ends Run, if that still runs, and may be called again.
func (h *Host) Close() error { return nil }

// SetPeers replaces what is known of where members live. The host keeps dialling those that are not connected.
func (h *Host) SetPeers(peers []PeerAddr) {}

// Push says that this device has committed chunks of a scope: they go out at once to every connected peer.
func (h *Host) Push(scope trust.ScopeID) {}

// Applied says that the applier of a scope has come to its end.
func (h *Host) Applied(scope trust.ScopeID) {}

// MembershipChanged says that the membership log grew: entries go out, and who is no longer admitted is cut off.
func (h *Host) MembershipChanged() {}

// SetOnline closes all connections and refuses new ones, or takes them up again.
func (h *Host) SetOnline(online bool) {}

// NetworkChanged says that the network is another (cable, Wi-Fi, wake from sleep): all that waits to dial dials now.
func (h *Host) NetworkChanged() {}

// Peers lists the known and the connected peers, by device.
func (h *Host) Peers() []PeerStatus { return nil }

// Addresses lists the multiaddrs of this device, with /p2p/.
func (h *Host) Addresses() []string { return nil }

// Join asks the inviter of a code for membership. It runs a host of its own for that time and listens nowhere.
func Join(ctx context.Context, cfg JoinConfig) (JoinResult, error) { return JoinResult{}, errNotBuilt }
