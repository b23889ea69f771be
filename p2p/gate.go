package p2p

import (
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	"golang.org/x/time/rate"

	"chartmesh/trust"
)

// gate decides who gets a connection. Who is there is only known after the handshake, so it is judged then; nothing but
// the handshake has been said before.
type gate struct {
	open  atomic.Bool // online
	admit func(trust.DeviceID) bool
	// enters reports whether one more device that admit admits is let in.
	enters func(trust.DeviceID) bool
	// inviting reports whether strangers are let in, most how many at once.
	inviting func() bool
	most     int
	// strangers counts connections of devices that are no members, counted by the network itself.
	strangers func() int
	rate      *rate.Limiter // of strangers let in

	// root says of whom has the recovery code, or one that was replaced. They are let in for the protocol of recovery alone, and counted, each
	// kind by itself: who has an old code must not keep out who has the one in force.
	root    func(trust.DeviceID) RootKey
	callers func(RootKey) int
	old     *rate.Limiter // of replaced codes let in

	// former says who was removed. Such a device is let in, seldom, for the protocol of knocking alone.
	former func(trust.DeviceID) bool
	knocks *knocks
}

var _ connmgr.ConnectionGater = (*gate)(nil)

func newGate(admit func(trust.DeviceID) bool, invites Invites) *gate {
	inviting := func() bool { return invites != nil && invites.Open() }
	return &gate{admit: admit, enters: func(trust.DeviceID) bool { return true }, inviting: inviting, most: maxStrangers, strangers: func() int { return 0 }, callers: func(RootKey) int { return 0 },
		root: func(trust.DeviceID) RootKey { return RootNone }, former: func(trust.DeviceID) bool { return false }, knocks: newKnocks(),
		rate: rate.NewLimiter(strangersPerSecond, strangersBurst), old: rate.NewLimiter(strangersPerSecond, strangersBurst)}
}

// recovers says whether somebody's key is or was the practice's root key.
func (g *gate) recovers(id peer.ID) RootKey {
	d, err := DeviceOf(id)
	if err != nil {
		return RootNone
	}
	return g.root(d)
}

func (g *gate) admits(id peer.ID) bool {
	d, err := DeviceOf(id)
	return err == nil && g.admit(d)
}

// lets says whether a device that was removed may come in now to knock.
func (g *gate) lets(id peer.ID) bool {
	d, err := DeviceOf(id)
	return err == nil && g.former(d) && g.knocks.enter(d, time.Now())
}

// knocking says whether a device was let in to knock.
func (g *gate) knocking(id peer.ID) bool {
	d, err := DeviceOf(id)
	return err == nil && g.knocks.inside(d, time.Now())
}

// InterceptPeerDial lets members be dialled.
func (g *gate) InterceptPeerDial(id peer.ID) bool { return g.open.Load() && g.admits(id) }

// InterceptAddrDial lets any address be dialled; the handshake proves who is there.
func (g *gate) InterceptAddrDial(peer.ID, ma.Multiaddr) bool { return g.open.Load() }

// InterceptAccept lets anybody begin a handshake, as fast as the resource limits allow.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return g.open.Load() }

// InterceptSecured lets members in, who has the recovery code, now and then who was removed and, while an invite is open, a few strangers.
func (g *gate) InterceptSecured(dir network.Direction, id peer.ID, _ network.ConnMultiaddrs) bool {
	switch {
	case !g.open.Load():
		return false
	case g.admits(id):
		d, err := DeviceOf(id)
		return err == nil && (dir != network.DirInbound || g.enters(d) || g.lets(id)) // one practice's member may have been another's
	}
	if root := g.recovers(id); root != RootNone {
		return dir == network.DirInbound && g.callers(root) < maxCallers && (root == RootInForce || g.old.Allow())
	}
	if dir == network.DirInbound && g.lets(id) {
		return true
	}
	return dir == network.DirInbound && g.inviting() && g.rate.Allow() && // before the look at all connections
		g.strangers() < g.most
}

// InterceptUpgraded has nothing to add.
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) {
	return g.open.Load(), 0
}
