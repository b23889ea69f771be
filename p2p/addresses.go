package p2p

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/record"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"golang.org/x/time/rate"

	"chartmesh/trust"
	"chartmesh/wire"
)

// AddressesProtocol is the libp2p protocol by which a member asks another where those members are that it is not connected to. One request
// and one answer, each behind its length, four bytes, big endian:
//
//	request  "cmad" 1 | count | devices…     whom the asking device seeks
//	answer   "cmad" 1 | count | records…     of those to whom the other has a direct connection: libp2p's signed peer records
//
// A record is signed by the device that it is of: who passes it on can hold it back, and not change it. Anchors take no part.
const AddressesProtocol protocol.ID = "/chartmesh/addresses/1"

var addressesMagic = []byte{'c', 'm', 'a', 'd', 1}

var errPeerRecord = errors.New("not a signed peer record")

// whereabouts are what is told of where a member is, and to it.
type whereabouts struct {
	record    []byte         // what it has signed of where it is, as it said it itself; nil: nothing
	seq       uint64         // of that, or of what another passed on
	hearsay   []ma.Multiaddr // where it is by what others passed on since it was last connected
	asks      *rate.Limiter  // of its questions where others are; nil: it has asked none
	answering bool           // one of them
}

// sought are the devices that one seeks.
type sought []trust.DeviceID

func (q sought) encode() []byte {
	var w wire.Writer
	w.Raw(addressesMagic)
	w.Uvarint(uint64(len(q)))
	for _, d := range q {
		w.Raw(d[:])
	}
	return w.Bytes()
}

func parseSought(b []byte) (q sought, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(addressesMagic)), addressesMagic) {
		r.Fail("magic or version")
	}
	for range r.Uvarint(maxSought) {
		var d trust.DeviceID
		r.Fixed(d[:])
		if r.Err() != nil {
			break
		}
		q = append(q, d)
	}
	return q, r.Close()
}

// peerRecords are signed peer records as they came: nothing of them is known before parsePeerRecord.
type peerRecords [][]byte

func (a peerRecords) encode() []byte {
	var w wire.Writer
	w.Raw(addressesMagic)
	w.Uvarint(uint64(len(a)))
	for _, rec := range a {
		w.Blob(rec)
	}
	return w.Bytes()
}

func parsePeerRecords(b []byte) (a peerRecords, err error) {
	r := wire.NewReader(b)
	if !bytes.Equal(r.Raw(len(addressesMagic)), addressesMagic) {
		r.Fail("magic or version")
	}
	for range r.Uvarint(maxSought) {
		rec := r.Blob(maxRecord)
		if r.Err() != nil {
			break
		}
		a = append(a, rec)
	}
	return a, r.Close()
}

// parsePeerRecord checks a signed peer record and returns what its device says of itself.
func parsePeerRecord(b []byte) (device trust.DeviceID, rec *peer.PeerRecord, err error) {
	e, content, err := record.ConsumeEnvelope(b, peer.PeerRecordEnvelopeDomain)
	if err != nil {
		return device, nil, errPeerRecord // libp2p's own words may repeat what came
	}
	rec, ok := content.(*peer.PeerRecord)
	if !ok || !rec.PeerID.MatchesPublicKey(e.PublicKey) {
		return device, nil, errPeerRecord
	}
	if device, err = DeviceOf(rec.PeerID); err != nil {
		return device, nil, errPeerRecord
	}
	return device, rec, nil
}

// toldPlaces leaves of where a device says that it is what may be dialled on another's word: addresses, no names, of the ways that there are.
// Those of one machine mean the same device only where they were told on that machine.
func toldPlaces(list []ma.Multiaddr, here bool) (places []ma.Multiaddr) {
	for _, a := range list {
		if len(places) == maxAddrs {
			break
		}
		ip, err := manet.ToIP(a)
		a, id := peer.SplitAddr(a)
		if err != nil || id != "" || len(a.Bytes()) > maxAddrBytes || wayOf(a) == wayUnknown || isRelayed(a) ||
			ip.IsUnspecified() || ip.IsMulticast() || ip.Equal(net.IPv4bcast) || ip.IsLoopback() && !here || slices.ContainsFunc(places, a.Equal) {
			continue
		}
		places = append(places, a)
	}
	return places
}

// tellsWith reports whether this device and another tell each other where members are: both are some. An anchor is none, and is told nothing.
func (h *Host) tellsWith(d trust.DeviceID) bool {
	return h.cfg.Relay == nil && d != h.self && h.cfg.Admit(d) && (h.cfg.Blind == nil || !h.cfg.Blind(d))
}

// serveAddresses tells a member where those are whom it seeks.
func (h *Host) serveAddresses(ctx context.Context, s network.Stream, device trust.DeviceID) {
	ctx, cancel := context.WithTimeout(ctx, tellPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !h.tellsWith(device) || !h.beginTelling(device, time.Now()) {
		_ = s.Reset()
		return
	}
	defer h.endTelling(device)
	b, err := readJoin(s, maxAddressRequest)
	if err == nil {
		var q sought
		if q, err = parseSought(b); err == nil {
			err = writeJoin(s, h.recordsOf(device, q).encode())
		}
	}
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// beginTelling reports whether a member may ask now: one question at a time, and few.
func (h *Host) beginTelling(d trust.DeviceID, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	m, err := h.memberLocked(d)
	if err != nil || m.answering {
		return false
	}
	if m.asks == nil {
		m.asks = rate.NewLimiter(rate.Every(tellEvery), tellBurst)
	}
	m.answering = m.asks.AllowN(now, 1)
	return m.answering
}

func (h *Host) endTelling(d trust.DeviceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.peers[d].answering = false
}

// recordsOf returns the records of the members sought to whom there is a direct connection.
func (h *Host) recordsOf(to trust.DeviceID, q sought) (list peerRecords) {
	for _, d := range q {
		h.mu.Lock()
		m := h.mu.peers[d]
		if m == nil || m.record == nil {
			h.mu.Unlock()
			continue
		}
		id, rec := m.id, m.record
		h.mu.Unlock()
		if d != to && h.tellsWith(d) && directConn(h.host.Network().ConnsToPeer(id)) != nil {
			list = append(list, rec)
		}
	}
	return list
}

// keepRecordLocked keeps what a device has signed of where it is, to be told to others.
func (m *member) keepRecordLocked(e *record.Envelope) {
	if e == nil {
		return
	}
	b, err := e.Marshal()
	if err != nil || len(b) > maxRecord {
		return
	}
	if _, rec, err := parsePeerRecord(b); err == nil && rec.PeerID == m.id {
		m.record, m.seq = b, rec.Seq
	}
}

// askAgain asks a member as long as its link lives.
func (h *Host) askAgain(ctx context.Context, l *link) {
	paced(ctx, func() bool {
		if !h.tellsWith(l.device) {
			return false
		}
		if err := h.askAddresses(ctx, l.stream.Conn()); err != nil && ctx.Err() == nil {
			h.log.Debug("a member does not say where others are", "device", l.device, "error", err)
		}
		return true
	})
}

// paced asks at once, soon again, since who came at the same moment may not be known yet, and then seldom, until ask says no or ctx ends.
func paced(ctx context.Context, ask func() bool) {
	for wait := askSoon; ask(); wait = askLater {
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
	}
}

// askAddresses asks a member where those are that are not connected, and has what it says tried.
func (h *Host) askAddresses(ctx context.Context, c network.Conn) error {
	from, err := DeviceOf(c.RemotePeer())
	if err != nil {
		return err
	}
	q := h.seeks(from)
	if len(q) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), tellPatience)
	defer cancel()
	s, err := h.host.NewStream(ctx, c.RemotePeer(), AddressesProtocol)
	if err != nil {
		return fmt.Errorf("ask where members are: %w", err)
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := writeJoin(s, q.encode()); err != nil {
		return fmt.Errorf("ask where members are: %w", err)
	}
	b, err := readJoin(s, maxAddressAnswer)
	if err != nil {
		return fmt.Errorf("hear where members are: %w", err)
	}
	list, err := parsePeerRecords(b)
	if err != nil {
		return fmt.Errorf("hear where members are: %w", err)
	}
	for _, rec := range list {
		h.told(rec, q, manet.IsIPLoopback(c.RemoteMultiaddr()))
	}
	return nil
}

// seeks lists the members that are not connected, some of them if they are many.
func (h *Host) seeks(from trust.DeviceID) (q sought) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for d, m := range h.mu.peers {
		if len(q) < maxSought && m.known && m.link == nil && d != from && h.tellsWith(d) {
			q = append(q, d)
		}
	}
	return q
}

// told takes up where a member is who was sought, on its own signed word that another has passed on.
func (h *Host) told(b []byte, q sought, here bool) {
	device, rec, err := parsePeerRecord(b)
	if err != nil || !slices.Contains(q, device) || !h.tellsWith(device) {
		return
	}
	places := toldPlaces(rec.Addrs, here)
	h.mu.Lock()
	defer h.mu.Unlock()
	m := h.mu.peers[device]
	if m == nil || m.link != nil || rec.Seq <= m.seq {
		return
	}
	m.seq = rec.Seq
	if slices.EqualFunc(places, m.hearsay, ma.Multiaddr.Equal) {
		return
	}
	m.hearsay = places
	if slices.ContainsFunc(places, func(a ma.Multiaddr) bool { return !slices.ContainsFunc(m.addrs, a.Equal) }) {
		m.failures = 0
		h.soonLocked(m)
		h.wakeDialler()
	}
}
