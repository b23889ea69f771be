package p2p

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/trust"
)

// Two devices that meet through a relay, each behind a router that lets in only who was called, call each other at the same moment (DCUtR):
// each router then takes the other's call for an answer. Where from a device seems to call is what its relays see.

// hurry bounds how long a punch waits for the other's word, within the process: the library has no other place to say it.
var hurry = sync.OnceFunc(func() { holepunch.StreamTimeout = openTimeout })

// puncher opens ways through routers.
type puncher struct {
	host    *Host
	service *holepunch.Service

	mu struct {
		sync.Mutex
		seen    map[trust.DeviceID]ma.Multiaddr // by each relay: where this device calls from
		punched map[peer.ID]string              // the connection that a punch made, by its ID
	}
}

// startPunching has the host punch whenever somebody comes through a relay.
func (h *Host) startPunching() error {
	hurry()
	id, ok := h.host.(interface{ IDService() identify.IDService })
	if !ok {
		return errors.New("open network: the host does not say who it is")
	}
	p := &puncher{host: h}
	p.mu.seen, p.mu.punched = map[trust.DeviceID]ma.Multiaddr{}, map[peer.ID]string{}
	var err error
	p.service, err = holepunch.NewService(h.host, id.IDService(), p.places, holepunch.DirectDialTimeout(punchTimeout), holepunch.WithTracer(p),
		holepunch.WithAddrFilter(p))
	if err != nil {
		return fmt.Errorf("open network: %w", err)
	}
	h.punch = p
	return nil
}

// saw notes from where a relay sees this device call.
func (p *puncher) saw(e event.EvtPeerIdentificationCompleted) {
	relay, err := DeviceOf(e.Peer)
	if err != nil || e.ObservedAddr == nil || isRelayed(e.Conn.RemoteMultiaddr()) || wayOf(e.ObservedAddr) == wayUnknown ||
		!slices.ContainsFunc(p.host.cfg.Relays(), func(r PeerAddr) bool { return r.Device == relay }) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.seen[relay] = e.ObservedAddr
}

// places returns where others may call this device while it calls them: where it listens, where its relays see it, and, since many routers
// keep the port, at the ports where it listens of each address that they see: who reaches a relay by UDP alone is not seen by TCP.
func (p *puncher) places() []ma.Multiaddr {
	list := slices.DeleteFunc(p.host.host.Addrs(), func(a ma.Multiaddr) bool { return isRelayed(a) || manet.IsIPLoopback(a) })
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, seen := range p.mu.seen {
		ip, _ := ma.SplitFirst(seen)
		if ip == nil {
			continue
		}
		list = append(list, seen)
		for _, a := range p.host.host.Network().ListenAddresses() {
			own, rest := ma.SplitFirst(a)
			if own != nil && own.Protocol().Code == ip.Protocol().Code && wayOf(a) != wayUnknown && !manet.IsIPLoopback(a) {
				list = append(list, ip.Multiaddr().Encapsulate(rest))
			}
		}
	}
	list = ma.Unique(list)
	return list[:min(len(list), maxAddrs)]
}

// FilterLocal leaves of the places what a peer is told: a stranger, who may come through a relay while an invitation is open, nothing.
func (p *puncher) FilterLocal(to peer.ID, list []ma.Multiaddr) []ma.Multiaddr {
	if d, err := DeviceOf(to); err != nil || !p.host.cfg.Admit(d) {
		return nil
	}
	return list
}

// FilterRemote leaves of what a peer says those places that are called: it may name others' in the place of its own.
func (p *puncher) FilterRemote(of peer.ID, list []ma.Multiaddr) []ma.Multiaddr {
	list = slices.DeleteFunc(p.FilterLocal(of, list), func(a ma.Multiaddr) bool {
		way, ip := wayOf(a), net.IP(nil)
		if way == wayDirect+"quic" || way == wayDirect+"tcp" {
			ip, _ = manet.ToIP(a) // of a name there is none
		}
		return ip == nil || len(a.Bytes()) > maxAddrBytes || ip.IsLoopback() || ip.IsUnspecified() || ip.IsMulticast() || ip.Equal(net.IPv4bcast)
	})
	return list[:min(len(list), maxAddrs)]
}

// Trace is told what becomes of a punch.
func (p *puncher) Trace(e *holepunch.Event) {
	end, ok := e.Evt.(*holepunch.EndHolePunchEvt)
	if !ok || !end.Success {
		return
	}
	c := directConn(p.host.host.Network().ConnsToPeer(e.Remote))
	if c == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.punched[e.Remote] = c.ID()
}

// made reports whether a punch made a connection.
func (p *puncher) made(c network.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.punched[c.RemotePeer()] == c.ID()
}

// again punches once more, and reports whether there is a direct connection, or will be one by a punch that is under way.
func (p *puncher) again(ctx context.Context, id peer.ID, l *link) bool {
	if len(p.places()) == 0 {
		return false
	}
	stop := context.AfterFunc(ctx, func() { // what is said through the relay waits for its answer
		<-l.gone
		closeRelayed(p.host.host.Network().ConnsToPeer(id))
	})
	defer stop()
	err := p.service.DirectConnect(id)
	if err != nil {
		p.host.log.Debug("no direct way to a peer", "device", l.device, "error", err)
	}
	return err == nil || errors.Is(err, holepunch.ErrHolePunchActive)
}

func closeRelayed(conns []network.Conn) {
	for _, c := range conns {
		if isRelayed(c.RemoteMultiaddr()) {
			_ = c.Close()
		}
	}
}
