package p2p

import (
	"errors"
	"net"
	"net/netip"
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/trust"
)

// apart has places for those who come from where a member has come from, and others for everybody else: whoever fills the places of an
// anchor with connections that come to nothing leaves those of the members. It knows addresses since it was started.
type apart struct {
	network.ResourceManager // for who comes from a known address, and for streams of members
	others                  network.ResourceManager
	admits                  func(peer.ID) bool

	mu struct {
		sync.Mutex
		known map[netip.Prefix]struct{}
	}
}

// placesOf returns the places of a host: a relay's are apart, as many of each kind.
func placesOf(relay bool, admit func(trust.DeviceID) bool) (network.ResourceManager, error) {
	admits := func(p peer.ID) bool {
		d, err := DeviceOf(p)
		return err == nil && (admit == nil || admit(d)) // nil: nobody comes in
	}
	known, err := newResources(relay)
	if err != nil {
		return nil, err
	}
	if !relay {
		return newNaming(known, maxUnnamed, admits), nil
	}
	others, err := newResources(true)
	if err != nil {
		return nil, errors.Join(err, known.Close())
	}
	r := &apart{ResourceManager: newNaming(known, maxUnnamedAtRelay, nil), others: newNaming(others, maxUnnamed, nil), admits: admits}
	r.mu.known = map[netip.Prefix]struct{}{}
	return r, nil
}

// shareAmongMany raises libp2p's limits on what all devices together have of one protocol: they are meant for few, and follow the machine's memory.
func shareAmongMany(l *rcmgr.PartialLimitConfig, memory rcmgr.LimitVal64) {
	const streams = 4 * maxConnsAtRelay
	all := rcmgr.ResourceLimits{Streams: streams, StreamsInbound: streams, StreamsOutbound: streams, Memory: memory}
	one := rcmgr.ResourceLimits{Streams: 2 * maxCircuits, StreamsInbound: 2 * maxCircuits, StreamsOutbound: 2 * maxCircuits, Memory: maxNetMemory / 8}
	l.PeerDefault.Memory = one.Memory
	l.Service = map[string]rcmgr.ResourceLimits{identify.ServiceName: all, relay.ServiceName: all}
	l.ServicePeer = map[string]rcmgr.ResourceLimits{relay.ServiceName: one}
	l.Protocol = map[protocol.ID]rcmgr.ResourceLimits{
		SyncProtocol: all, QuorumProtocol: all, IntroduceProtocol: all, RecoverProtocol: all, KnockProtocol: all, identify.ID: all, identify.IDPush: all, proto.ProtoIDv2Hop: all, proto.ProtoIDv2Stop: all,
	}
	l.ProtocolPeer = map[protocol.ID]rcmgr.ResourceLimits{QuorumProtocol: one, proto.ProtoIDv2Hop: one, proto.ProtoIDv2Stop: one}
}

// home returns what counts as one address: of IPv6 a network, in which a device changes its own.
func home(ip netip.Addr) (netip.Prefix, bool) {
	ip = ip.Unmap().WithZone("")
	bits := ip.BitLen()
	if ip.Is6() {
		bits = 64
	}
	p, err := ip.Prefix(bits)
	return p, err == nil
}

func homeOf(a ma.Multiaddr) (netip.Prefix, bool) {
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Prefix{}, false
	}
	ip, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.Prefix{}, false
	}
	return home(ip)
}

// came notes that a member came from an address.
func (r *apart) came(from ma.Multiaddr) {
	at, ok := homeOf(from)
	if !ok {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.mu.known[at]; !known && len(r.mu.known) >= maxHomes {
		for some := range r.mu.known { // any: who comes from there is noted anew
			delete(r.mu.known, some)
			break
		}
	}
	r.mu.known[at] = struct{}{}
}

// of returns the places for who comes from an address.
func (r *apart) of(at netip.Prefix, ok bool) network.ResourceManager {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.mu.known[at]; ok && known {
		return r.ResourceManager
	}
	return r.others
}

// OpenConnection takes a place for a connection.
func (r *apart) OpenConnection(dir network.Direction, usefd bool, addr ma.Multiaddr) (network.ConnManagementScope, error) {
	if dir == network.DirOutbound {
		return r.ResourceManager.OpenConnection(dir, usefd, addr)
	}
	return r.of(homeOf(addr)).OpenConnection(dir, usefd, addr)
}

// OpenStream takes a place for a stream.
func (r *apart) OpenStream(p peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	if !r.admits(p) {
		return r.others.OpenStream(p, dir)
	}
	return r.ResourceManager.OpenStream(p, dir)
}

// VerifySourceAddress reports whether who comes from an address has to show that it is his.
func (r *apart) VerifySourceAddress(addr net.Addr) bool {
	at, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return true
	}
	return r.of(home(at.Addr())).VerifySourceAddress(addr)
}

// Close ends both.
func (r *apart) Close() error { return errors.Join(r.ResourceManager.Close(), r.others.Close()) }
