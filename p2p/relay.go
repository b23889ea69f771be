package p2p

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// Where two devices cannot reach each other, a relay that both reach passes the bytes of a connection between them (circuit relay v2). It
// sees ciphertext: the connection's handshake is theirs, as on any other way. A device is reached by every relay at which it has a
// reservation, which it keeps with each that it is connected to.

// Relay says for whom a host passes bytes on.
type Relay interface {
	// Serves reports whether a device may be reached through this host.
	Serves(trust.DeviceID) bool
	// Passes reports whether one device may reach another through this host.
	Passes(from, to trust.DeviceID) bool
}

// relayACL asks a Relay on behalf of libp2p.
type relayACL struct {
	Relay
	takers *takers
}

func (a relayACL) AllowReserve(id peer.ID, _ ma.Multiaddr) bool {
	d, err := DeviceOf(id)
	return err == nil && a.Serves(d)
}

func (a relayACL) AllowConnect(from peer.ID, _ ma.Multiaddr, to peer.ID) bool {
	src, err := DeviceOf(from)
	if err != nil {
		return false
	}
	dst, err := DeviceOf(to)
	return err == nil && (a.Passes(src, dst) || a.takers.open(dst) && a.Serves(dst))
}

// startRelay has the host pass bytes on, without the limits that are meant for strangers.
func (h *Host) startRelay() error {
	r := relay.DefaultResources()
	r.Limit = nil
	r.MaxReservations, r.MaxReservationsPerIP, r.MaxReservationsPerASN = maxReservations, maxReservationsPerAddr, maxReservations
	r.MaxCircuits, r.BufferSize, r.ReservationTTL = maxCircuits, relayBuffer, reservationTime
	service, err := relay.New(h.host, relay.WithResources(r), relay.WithACL(relayACL{h.cfg.Relay, &h.takers}))
	if err != nil {
		return fmt.Errorf("open relay: %w", err)
	}
	h.relaying = service
	return nil
}

// reservation is a place at a relay, by which others reach this device.
type reservation struct {
	conn    string    // the ID of the connection that it hangs on
	renewAt time.Time // or, if there is none, tried again
	held    bool
	takes   []lan.Locator // newcomers with these are brought
	told    bool          // the relay has heard that
}

// keepReservations keeps a reservation with every relay that this host is connected to, until ctx ends.
func (h *Host) keepReservations(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	places := map[trust.DeviceID]reservation{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-h.reserve:
		case <-timer.C:
		}
		next := time.Hour
		for _, r := range h.cfg.Relays() {
			if at, ok := h.reserveAt(ctx, r.Device, places); ok {
				next = min(next, max(time.Until(at), time.Second))
			}
		}
		timer.Reset(next)
	}
}

// reserveAt sees to the reservation at one relay, and returns when to look again; not ok if it is not connected, of which the host hears.
func (h *Host) reserveAt(ctx context.Context, relay trust.DeviceID, places map[trust.DeviceID]reservation) (again time.Time, ok bool) {
	id, err := PeerID(relay)
	if err != nil {
		return again, false
	}
	conn := directConn(h.host.Network().ConnsToPeer(id))
	if conn == nil {
		delete(places, relay)
		return again, false
	}
	if p := places[relay]; p.conn == conn.ID() && time.Now().Before(p.renewAt) {
		if p.held {
			h.takeAt(ctx, relay, id, &p)
			places[relay] = p
		}
		return p.next(), true
	}
	ask, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), openTimeout)
	defer cancel()
	got, err := client.Reserve(ask, h.host, peer.AddrInfo{ID: id})
	p := reservation{conn: conn.ID(), renewAt: time.Now().Add(reserveAgain), held: err == nil}
	if err == nil {
		p.renewAt = time.Now().Add(time.Until(got.Expiration) / 2)
	} else if ctx.Err() == nil && !conn.IsClosed() { // else it does not let this device in
		h.log.Info("a relay gives no place; it is asked again", "relay", relay, "error", err)
	}
	if was := places[relay]; p.held && (!was.held || was.conn != p.conn) {
		h.log.Info("this device can be reached through a relay", "relay", relay)
		h.mu.Lock()
		for _, m := range h.mu.peers { // whoever came before is reached through it now, and whoever comes after reaches this device
			if m.link == nil {
				m.circuitAt = time.Time{}
				h.soonLocked(m)
			}
		}
		h.mu.Unlock()
		h.wakeDialler()
	}
	if p.held {
		h.takeAt(ctx, relay, id, &p)
	}
	places[relay] = p
	return p.next(), true
}

// next returns when to look again: invitations that are open end some time.
func (p reservation) next() time.Time {
	if soon := time.Now().Add(reserveAgain); len(p.takes) > 0 && soon.Before(p.renewAt) {
		return soon
	}
	return p.renewAt
}

// takeAt has a relay bring those newcomers whom this device takes now, if it does not already.
func (h *Host) takeAt(ctx context.Context, relay trust.DeviceID, id peer.ID, p *reservation) {
	var takes []lan.Locator
	if h.cfg.Invites != nil && h.cfg.Invites.Open() {
		takes = h.cfg.Invites.Locators()
	}
	if p.told && slices.Equal(takes, p.takes) {
		return
	}
	if err := h.takeThrough(ctx, id, takes); err != nil {
		if ctx.Err() == nil {
			h.log.Warn("newcomers are not brought through a relay", "relay", relay, "error", err)
		}
		p.renewAt = time.Now().Add(reserveAgain)
		return
	}
	p.takes, p.told = takes, true
}

// directConn returns a connection that no relay passes on.
func directConn(conns []network.Conn) network.Conn {
	for _, c := range conns {
		if !isRelayed(c.RemoteMultiaddr()) {
			return c
		}
	}
	return nil
}

func isRelayed(a ma.Multiaddr) bool {
	_, err := a.ValueForProtocol(ma.P_CIRCUIT)
	return err == nil
}

// circuits returns how a device can be reached through relays.
func (h *Host) circuits(d trust.DeviceID) (list []ma.Multiaddr) {
	for _, r := range h.cfg.Relays() {
		if r.Device != d && r.Device != h.self {
			by := circuitsBy(r)
			list = append(list, by[:min(len(by), maxCircuitAddrs)]...)
		}
	}
	return list
}

// circuitsBy returns the addresses of whoever has a place at a relay.
func circuitsBy(r PeerAddr) (list []ma.Multiaddr) {
	id, err := PeerID(r.Device)
	if err != nil {
		return nil
	}
	tail, err := ma.NewMultiaddr("/p2p/" + id.String() + "/p2p-circuit")
	if err != nil {
		return nil
	}
	for _, a := range parseAddrs(r.Addrs) {
		if !isRelayed(a) {
			list = append(list, a.Encapsulate(tail))
		}
	}
	return list
}

// goDirect tries to reach a peer whose link a relay passes on. When that succeeds the link begins anew, on the new connection. Who was
// called through the relay tries, and the other does not: two who dial apart get in each other's way.
func (h *Host) goDirect(ctx context.Context, m *member) {
	dial, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, "it is reached through a relay"), dialTimeout)
	defer cancel()
	h.mu.Lock()
	addrs, link := slices.Concat(m.nearLocked(time.Now()), m.addrs), m.link
	h.mu.Unlock()
	if link != nil && (h.punch == nil || !h.punch.again(ctx, m.id, link)) && len(addrs) > 0 {
		_ = h.dial(dial, m.id, addrs) // it stays as it is, and is tried again
	}
	h.mu.Lock()
	m.reaching = false
	h.mu.Unlock()
	if link != nil && directConn(h.host.Network().ConnsToPeer(m.id)) != nil {
		link.end(errReplaced)
	}
	h.wakeDialler()
}
