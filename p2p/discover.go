package p2p

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// discover announces this device on the local network and hears of others until ctx ends. Whom it hears of is dialled like
// anybody whose addresses are known; the gate stays as it is.
func (h *Host) discover(ctx context.Context) {
	var invites func() []lan.Locator
	if h.cfg.Invites != nil {
		invites = h.cfg.Invites.Locators
	}
	lan.Run(ctx, lan.Config{
		Device: h.self, Tag: h.cfg.LAN, Open: h.cfg.Multicast, Logger: h.log, Members: h.members, Changes: h.announce,
		Listen: func() []netip.AddrPort { return h.listening(ma.P_UDP) }, TCP: func() []netip.AddrPort { return h.listening(ma.P_TCP) },
		Online: h.gate.open.Load, Invites: invites, Found: h.found, Moved: h.NetworkChanged,
	})
}

// members lists whom to look for.
func (h *Host) members() []trust.DeviceID {
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []trust.DeviceID
	for _, m := range h.mu.peers {
		if m.known {
			list = append(list, m.device)
		}
	}
	return list
}

// listening returns where a transport listens, unspecified addresses included.
func (h *Host) listening(transport int) []netip.AddrPort {
	var list []netip.AddrPort
	for _, a := range h.host.Network().ListenAddresses() {
		if _, err := a.ValueForProtocol(transport); err != nil {
			continue
		}
		// QUIC is the one thing that listens on UDP.
		base, _ := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_QUIC_V1 })
		na, err := manet.ToNetAddr(base)
		if err != nil {
			continue
		}
		if at, err := netip.ParseAddrPort(na.String()); err == nil {
			list = append(list, at)
		}
	}
	return list
}

// found takes note of where a member was heard on the local network.
func (h *Host) found(device trust.DeviceID, at netip.Addr, udp, tcp uint16) {
	if !h.cfg.Admit(device) {
		return
	}
	addrs := placesAt(at, udp, tcp)
	if len(addrs) == 0 {
		return
	}
	h.mu.Lock()
	m, err := h.memberLocked(device)
	if err != nil {
		h.mu.Unlock()
		return
	}
	h.mu.past.Announcements++
	moved := !slices.EqualFunc(addrs, m.near, ma.Multiaddr.Equal)
	m.near, m.heard = addrs, time.Now()
	link := m.link
	if moved && link == nil {
		m.failures = 0
		m.directSoonLocked()
		h.soonLocked(m)
		if m.stopDial != nil {
			m.stopDial() // it may hang on an address of yesterday
		}
	}
	h.mu.Unlock()
	if moved && link != nil && !slices.ContainsFunc(addrs, func(a ma.Multiaddr) bool { return sameIP(a, link.stream.Conn().RemoteMultiaddr()) }) {
		h.probe(link) // it speaks from elsewhere now: is it still at the other end?
	}
	h.wakeDialler()
}

// placesAt returns the addresses of ports of QUIC and TCP at an IP address; 0: none.
func placesAt(at netip.Addr, udp, tcp uint16) (addrs []ma.Multiaddr) {
	ip, err := manet.FromIPAndZone(at.AsSlice(), at.Zone())
	if err != nil {
		return nil
	}
	for _, way := range []struct {
		port       uint16
		head, tail string
	}{{udp, "udp", "/quic-v1"}, {tcp, "tcp", ""}} {
		if way.port == 0 {
			continue
		}
		if rest, err := ma.NewMultiaddr("/" + way.head + "/" + strconv.Itoa(int(way.port)) + way.tail); err == nil {
			addrs = append(addrs, ip.Encapsulate(rest))
		}
	}
	return addrs
}

// nearLocked returns where a member was heard lately.
func (m *member) nearLocked(now time.Time) []ma.Multiaddr {
	if now.Sub(m.heard) > heardFor {
		return nil
	}
	return m.near
}

// soonLocked has a peer that waits to be dialled dialled soon, but not at the same moment as all others.
func (h *Host) soonLocked(m *member) {
	if soon := time.Now().Add(rand.N(soonMost)); m.next.After(soon) {
		m.next = soon
	}
}

// directSoonLocked has a direct way to a peer sought anew: there may be one now.
func (m *member) directSoonLocked() { m.directAt, m.directs = time.Time{}, 0 }

func sameIP(a, b ma.Multiaddr) bool {
	x, errX := manet.ToIP(a)
	y, errY := manet.ToIP(b)
	return errX == nil && errY == nil && x.Equal(y)
}

// wayNow says how a link goes now. What is direct to an address at which the peer announces itself, which near are, is the local network.
func (h *Host) wayNow(l *link, near []ma.Multiaddr) string {
	c := l.stream.Conn()
	remote := c.RemoteMultiaddr()
	rest, direct := strings.CutPrefix(l.way, wayDirect)
	same := func(a ma.Multiaddr) bool { return sameIP(a, remote) && !manet.IsIPLoopback(a) }
	switch {
	case !direct:
		return l.way
	case slices.ContainsFunc(near, same):
		return wayLAN + rest
	case h.punch != nil && h.punch.made(c):
		return wayPunched + rest
	case c.Stat().Direction == network.DirInbound && manet.IsPublicAddr(remote) && h.isMapped():
		return wayMapped + rest
	}
	return l.way
}

// isMapped reports whether a router has told this device that it passes on what comes for it: it has a public address that is on none of
// its interfaces.
func (h *Host) isMapped() bool {
	own, err := h.host.Network().InterfaceListenAddresses()
	public := func(list []ma.Multiaddr) bool { return slices.ContainsFunc(list, manet.IsPublicAddr) }
	return err == nil && h.cfg.MapPorts && !public(own) && public(h.host.Addrs())
}

// probe asks a link's peer for a sign of life and ends the link if none comes: a session that a sleep, a pulled cable or a
// new address has killed would else be noticed by the transport's time-out, half a minute later.
func (h *Host) probe(l *link) {
	asked := time.Now()
	l.session.Probe(asked)
	l.wakeWriter()
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mu.ended {
		return
	}
	h.work.Go(func() {
		timer := time.NewTimer(probePatience)
		defer timer.Stop()
		select {
		case <-l.gone:
			return
		case <-timer.C:
		}
		if !l.session.Status().LastFrame.After(asked) {
			l.end(errSilent)
			// The connection is as dead as the session, and must not be taken for one that works.
			_ = l.stream.Conn().Close()
		}
	})
}

// NetworkChanged says that the network is another (cable, Wi-Fi, a new address): all that waits to dial dials soon, sessions
// must show that they live, and the device announces itself.
func (h *Host) NetworkChanged() { h.changed(false) }

// woke says that the machine slept: connections are most likely dead.
func (h *Host) woke(slept time.Duration) {
	h.log.Info("woke from sleep", "after", slept.Round(time.Second))
	h.changed(true)
}

func (h *Host) changed(woke bool) {
	h.mu.Lock()
	h.mu.past.NetworkChanges++
	if woke {
		h.mu.past.Wakes++
	}
	linked := map[peer.ID]bool{}
	for _, m := range h.mu.peers {
		m.failures = 0
		h.soonLocked(m)
		if m.link != nil || m.reaching {
			linked[m.id] = true
		}
	}
	h.mu.Unlock()
	for _, l := range h.links() {
		h.probe(l)
	}
	if woke {
		for _, c := range h.host.Network().Conns() {
			if !linked[c.RemotePeer()] {
				_ = c.Close()
			}
		}
	}
	select {
	case h.announce <- struct{}{}:
	default:
	}
	h.wakeDialler()
}
