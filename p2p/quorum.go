package p2p

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/trust"
)

// QuorumProtocol is the libp2p protocol by which devices ask a voter. What is said is the caller's; who says it the connection proves.
const QuorumProtocol protocol.ID = "/chartmesh/quorum/1"

// QuorumStream is a stream of that protocol.
type QuorumStream interface {
	io.ReadWriteCloser
	Reset() error
	SetDeadline(time.Time) error
}

var (
	errNotConnected = errors.New("the device is not connected")
	errPaused       = errors.New("this device is offline")
)

// serveQuorum has the owner answer a stream of a device that belongs.
func (h *Host) serveQuorum(ctx context.Context, s network.Stream, device trust.DeviceID) {
	if h.cfg.Admit(device) {
		h.cfg.Quorum(ctx, s, device)
	}
	_ = s.Reset()
}

// OpenQuorum opens a stream to a device that is connected; it does not call one that is not.
func (h *Host) OpenQuorum(ctx context.Context, device trust.DeviceID) (QuorumStream, error) {
	h.mu.Lock()
	online := h.mu.online && !h.mu.ended
	h.mu.Unlock()
	id, err := PeerID(device)
	switch {
	case !online:
		return nil, errPaused
	case err != nil:
		return nil, err
	case !h.Reaches(device):
		return nil, errNotConnected
	}
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), openTimeout)
	defer cancel()
	return h.host.NewStream(ctx, id, QuorumProtocol)
}

// Reaches reports whether a device that belongs is connected.
func (h *Host) Reaches(device trust.DeviceID) bool {
	id, err := PeerID(device)
	return err == nil && h.cfg.Admit(device) && h.host.Network().Connectedness(id) == network.Connected
}

// RoundTrip returns how long the way to a device and back was when it was last measured; 0: it never was.
func (h *Host) RoundTrip(device trust.DeviceID) time.Duration {
	h.mu.Lock()
	m := h.mu.peers[device]
	if m == nil || m.link == nil {
		defer h.mu.Unlock()
		if m == nil {
			return 0
		}
		return m.last.RTT
	}
	l := m.link
	h.mu.Unlock()
	return l.session.Status().RTT
}

// Doubt says that a connected device has not answered in time: it is asked for a sign of life, and its connection ended if none comes.
func (h *Host) Doubt(device trust.DeviceID) {
	h.mu.Lock()
	m, now := h.mu.peers[device], time.Now()
	if m == nil || m.link == nil || now.Sub(m.doubted) < probePatience {
		h.mu.Unlock()
		return
	}
	l := m.link
	m.doubted = now
	h.mu.Unlock()
	h.probe(l)
}
