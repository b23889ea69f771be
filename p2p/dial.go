package p2p

import (
	"bytes"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/trust"
)

// SetPeers replaces what is known of where members live. The host keeps dialling those that are not connected.
// Addresses that cannot be read are left out.
func (h *Host) SetPeers(peers []PeerAddr) {
	h.mu.Lock()
	for _, m := range h.mu.peers {
		m.known = false
	}
	for _, p := range peers[:min(len(peers), maxKnown)] {
		if p.Device == h.self {
			continue
		}
		m, err := h.memberLocked(p.Device)
		if err != nil {
			continue
		}
		addrs := parseAddrs(p.Addrs)
		if !m.known && !slices.EqualFunc(addrs, m.addrs, ma.Multiaddr.Equal) {
			m.failures, m.next = 0, time.Time{} // new addresses are tried at once
		}
		m.known, m.addrs = true, addrs
	}
	h.mu.Unlock()
	h.wakeDialler()
}

func parseAddrs(list []string) []ma.Multiaddr {
	var addrs []ma.Multiaddr
	for _, s := range list {
		if len(addrs) == maxAddrs || len(s) > maxAddrBytes {
			continue
		}
		a, err := ma.NewMultiaddr(s)
		if err != nil {
			continue
		}
		if a, _ = peer.SplitAddr(a); a != nil && !slices.ContainsFunc(addrs, a.Equal) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// placesLocked lists where a member may be: heard on the local network, known, told by others.
func (m *member) placesLocked(now time.Time) []ma.Multiaddr {
	return slices.Concat(m.nearLocked(now), m.addrs, m.hearsay)
}

func (h *Host) wakeDialler() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// opens reports whether this side opens the stream with a peer: of two devices the one with the smaller ID does, so
// that there is one stream for each pair.
func (h *Host) opens(d trust.DeviceID) bool { return bytes.Compare(h.self[:], d[:]) < 0 }

// dialler keeps every known peer connected until ctx ends.
func (h *Host) dialler(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	var sweepAt time.Time // not before: whoever connects again and again must not have it done all the time
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.poke:
		case <-timer.C:
		}
		again := sweepAt
		if begun := time.Now(); !begun.Before(sweepAt) {
			h.sweep()
			sweepAt, again = time.Now().Add(sweepShare*time.Since(begun)), time.Time{}
		}
		next := h.reachDue(ctx, time.Now())
		if next.IsZero() || !again.IsZero() && again.Before(next) {
			next = again
		}
		if next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(max(time.Until(next), time.Millisecond))
		}
	}
}

// reachDue begins to reach those whose time has come, and returns the next such time.
func (h *Host) reachDue(ctx context.Context, now time.Time) (next time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.mu.online || h.mu.ended {
		return next
	}
	busy, relays := 0, len(h.cfg.Relays()) > 0
	for _, m := range h.mu.peers {
		if m.reaching {
			busy++
		}
	}
	later := func(at time.Time) {
		if next.IsZero() || at.Before(next) {
			next = at
		}
	}
	for _, m := range h.mu.peers {
		if m.link != nil && m.link.way == wayRelayed && !m.reaching && m.link.called() {
			if now.Before(m.directAt) || busy >= maxParallel {
				later(maxTime(m.directAt, now.Add(backoffFirst)))
				continue
			}
			busy++
			m.reaching, m.directAt = true, now.Add(min(directAfter<<min(m.directs, 10), directMost))
			m.directs++
			h.work.Go(func() { h.goDirect(ctx, m) })
			continue
		}
		if m.link != nil || m.reaching || !h.cfg.Admit(m.device) {
			continue
		}
		connected := len(h.host.Network().ConnsToPeer(m.id)) > 0
		if at := m.knockAt; connected && !at.IsZero() {
			if at.Before(m.knockNext) {
				at = m.knockNext
			}
			if !now.Before(at) {
				if busy >= maxParallel {
					return now.Add(backoffFirst)
				}
				busy++
				m.reaching, m.knockAt, m.knockNext = true, time.Time{}, now.Add(knockSoon)
				h.work.Go(func() { h.knock(ctx, m) })
				continue
			}
			later(at)
		}
		if !connected && m.known && relays && now.Before(m.circuitAt) && len(m.placesLocked(now)) == 0 {
			later(m.circuitAt)
		}
		if connected && !h.opens(m.device) || !connected && (!m.known || len(m.placesLocked(now)) == 0 && (!relays || now.Before(m.circuitAt))) {
			continue
		}
		if now.Before(m.next) {
			later(m.next)
			continue
		}
		if busy >= maxParallel {
			return now.Add(backoffFirst)
		}
		if m.reached && !connected {
			m.reason = "it hangs up on this device"
			if m.refused {
				m.reason = reasonRemoved
			}
		}
		busy++
		m.reaching, m.reached, m.knockAt = true, false, time.Time{}
		h.work.Go(func() { h.reach(ctx, m) })
	}
	return next
}

// reach dials a peer, if need be, and opens and serves the stream, if that is this side's part.
func (h *Host) reach(ctx context.Context, m *member) {
	dial, cancel := context.WithTimeout(ctx, dialTimeout)
	h.mu.Lock()
	addrs := m.placesLocked(time.Now())
	if now := time.Now(); !now.Before(m.circuitAt) {
		addrs, m.circuitAt = append(addrs, h.circuits(m.device)...), now.Add(circuitAgain)
	}
	m.stopDial = cancel
	h.mu.Unlock()
	err := h.connect(dial, m.id, addrs)
	cancel()
	var s network.Stream
	if err == nil && h.opens(m.device) {
		open, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), openTimeout)
		s, err = h.host.NewStream(open, m.id, SyncProtocol)
		cancel()
	}
	h.mu.Lock()
	m.reaching, m.stopDial = false, nil
	h.waitLocked(m) // until a session has shown that the peer takes us
	if m.reached = err == nil; !m.reached {
		m.reason = "cannot reach it"
	} else if s == nil && m.link == nil {
		m.knockAt = time.Now().Add(knockAfter)
	}
	h.mu.Unlock()
	if s != nil {
		_ = h.serve(ctx, s, m.device)
	}
	h.wakeDialler()
}

func (h *Host) connect(ctx context.Context, id peer.ID, addrs []ma.Multiaddr) error {
	if len(h.host.Network().ConnsToPeer(id)) > 0 {
		return nil
	}
	err := h.dial(ctx, id, addrs)
	if err != nil && len(h.host.Network().ConnsToPeer(id)) > 0 {
		return nil // the peer dialled us meanwhile
	}
	return err
}

// dial dials a peer although there may be a connection.
func (h *Host) dial(ctx context.Context, id peer.ID, addrs []ma.Multiaddr) error {
	if s, ok := h.host.Network().(*swarm.Swarm); ok {
		s.Backoff().Clear(id) // waiting is the dialler's part, and the swarm's is longer
	}
	h.host.Peerstore().ClearAddrs(id)
	h.host.Peerstore().AddAddrs(id, addrs, peerstore.TempAddrTTL)
	return h.host.Connect(ctx, peer.AddrInfo{ID: id})
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// waitLocked sets when a peer is tried next: exponential backoff with full jitter.
func (h *Host) waitLocked(m *member) {
	most := min(backoffFirst<<min(m.failures, 10), backoffMost)
	m.failures++
	wait := rand.N(most)
	if !h.opens(m.device) {
		wait += turnFirst // the peer most likely dials too
	}
	m.next = time.Now().Add(wait)
}

// dialable reports whether an address that has worked may be dialled again, given those that are known otherwise. What both opened over TCP
// at one moment must not be, without that being agreed: if the other does the same by chance, there is one connection in which both are
// clients, and when that has failed the routers keep its place for a while. QUIC has no such trouble.
func dialable(a ma.Multiaddr, known ...[]ma.Multiaddr) bool {
	return wayOf(a) != wayDirect+"tcp" || slices.ContainsFunc(known, func(list []ma.Multiaddr) bool { return slices.ContainsFunc(list, a.Equal) })
}

// learn takes up where a peer says it listens.
func (h *Host) learn(e event.EvtPeerIdentificationCompleted) {
	device, err := DeviceOf(e.Peer)
	if err != nil || !h.cfg.Admit(device) {
		return
	}
	remote := e.Conn.RemoteMultiaddr()
	h.mu.Lock()
	m, err := h.memberLocked(device)
	if err != nil {
		h.mu.Unlock()
		return
	}
	m.keepRecordLocked(e.SignedPeerRecord)
	list := make([]ma.Multiaddr, 0, maxAddrs)
	if e.Conn.Stat().Direction == network.DirOutbound && !isRelayed(remote) && dialable(remote, e.ListenAddrs, m.addrs, m.near) {
		list = append(list, remote) // it has worked
	}
	for _, a := range e.ListenAddrs {
		if len(list) == maxAddrs {
			break
		}
		loop := manet.IsIPLoopback(a)
		if wayOf(a) == wayUnknown || isRelayed(a) || len(a.Bytes()) > maxAddrBytes || manet.IsIPUnspecified(a) ||
			loop && !manet.IsIPLoopback(remote) || slices.ContainsFunc(list, a.Equal) {
			continue
		}
		list = append(list, a)
	}
	if len(list) == 0 {
		h.mu.Unlock()
		return
	}
	for _, a := range m.addrs {
		if len(list) < maxAddrs && !slices.ContainsFunc(list, a.Equal) {
			list = append(list, a)
		}
	}
	if slices.ContainsFunc(list, func(a ma.Multiaddr) bool { return !slices.ContainsFunc(m.addrs, a.Equal) }) {
		m.directSoonLocked()
	}
	m.addrs, m.hearsay = slices.Clone(list), nil
	h.mu.Unlock()
	h.wakeDialler()
	texts := make([]string, len(list))
	for i, a := range list {
		texts[i] = a.String()
	}
	h.news.addresses(device, texts)
}
