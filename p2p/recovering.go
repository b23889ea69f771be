package p2p

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
)

// serveRecovery answers one request of whoever has the recovery code.
func (h *Host) serveRecovery(ctx context.Context, s network.Stream, root trust.DeviceID) {
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	a, err := h.recover(ctx, s, root)
	if err != nil {
		h.log.Warn("a request with the recovery code failed", "error", err)
		_ = s.Reset()
		return
	}
	if writeJoin(s, a.encode()) != nil {
		_ = s.Reset()
		return
	}
	_ = s.CloseWrite()
	// Until the caller hangs up; of a request that was not looked at it may be sending yet.
	_, _ = io.Copy(io.Discard, io.LimitReader(s, maxRecoverRequest))
	_ = s.Close()
}

func (h *Host) recover(ctx context.Context, s network.Stream, root trust.DeviceID) (recoverAnswer, error) {
	switch h.gate.root(root) {
	case RootReplaced:
		h.log.Warn("somebody came with a recovery code that was replaced", "address", s.Conn().RemoteMultiaddr())
		return nil, nil
	case RootInForce:
	default:
		return nil, errNotAdmitted
	}
	b, err := readJoin(s, maxRecoverRequest)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	q, err := parseRecoverRequest(b)
	if err != nil {
		return nil, fmt.Errorf("read request: %w", err)
	}
	h.log.Info("somebody has the recovery code", "address", s.Conn().RemoteMultiaddr(), "entries", len(q))
	replica := h.cfg.Recovered(root)
	if replica == nil {
		return nil, errNotAdmitted
	}
	if len(q) > 0 {
		if err := replica.AddEntries(ctx, root, q); err != nil {
			return nil, fmt.Errorf("take membership entries: %w", err)
		}
		h.membershipChanged(replica)
	}
	return replica.EntriesSince(nil), nil
}

// Caller is a machine that has the recovery code and nothing else: it calls devices of the practice as the practice's root key. It
// listens nowhere.
type Caller struct{ host host.Host }

// NewCaller makes a caller. The identity is that of the root key.
func NewCaller(id Identity) (*Caller, error) {
	g := newGate(func(trust.DeviceID) bool { return true }, nil)
	g.open.Store(true)
	h, err := newHost(Config{Identity: id}, g, false)
	if err != nil {
		return nil, err
	}
	return &Caller{h}, nil
}

// Close ends all calls.
func (c *Caller) Close() error { return c.host.Close() }

// Reply is what a device answers.
type Reply struct {
	Peer    PeerAddr // the device, and where it was reached
	Entries [][]byte // its membership log; the caller judges it, and whether the device is in it
}

// Search tells found, from one goroutine, where devices of whatever practice announce themselves on the local network, until ctx ends.
func (c *Caller) Search(ctx context.Context, found func(addrs []string)) error {
	anybody := func(lan.Announcement) bool { return true } // what names the practice to its members follows from keys that are not here yet
	return lan.Seek(ctx, nil, anybody, func(at netip.Addr, udp, tcp uint16) {
		if list := soughtAt(at, udp, tcp); len(list) > 0 {
			texts := make([]string, len(list))
			for i, a := range list {
				texts[i] = a.String()
			}
			found(texts)
		}
	})
}

// Call gives the device at one of the addresses, which are of one device, the entries that it may lack, and gets its membership log.
// It is ErrReplacedCode or ErrOtherCode if the device refuses.
func (c *Caller) Call(ctx context.Context, addrs []string, entries [][]byte) (Reply, error) {
	ctx, cancel := context.WithTimeout(ctx, recoverPatience)
	defer cancel()
	at := parseAddrs(addrs)
	if len(at) == 0 {
		return Reply{}, errors.New("recover: no address")
	}
	id, err := whoIs(ctx, c.host, at)
	if err != nil {
		return Reply{}, fmt.Errorf("recover: nothing answers there: %w", err)
	}
	device, err := DeviceOf(id)
	if err != nil {
		return Reply{}, ErrOtherCode
	}
	if err := c.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: at}); err != nil {
		return Reply{}, refusedOr(ctx, err)
	}
	s, err := c.host.NewStream(network.WithNoDial(ctx, "connected"), id, RecoverProtocol)
	if err != nil {
		return Reply{}, refusedOr(ctx, err)
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := writeJoin(s, recoverRequest(entries).encode()); err != nil {
		return Reply{}, refusedOr(ctx, err)
	}
	b, err := readJoin(s, MaxJoinAnswer)
	if err != nil {
		return Reply{}, refusedOr(ctx, err)
	}
	a, err := parseRecoverAnswer(b)
	switch {
	case err != nil:
		return Reply{}, fmt.Errorf("recover: read answer: %w", err)
	case len(a) == 0:
		return Reply{}, ErrReplacedCode
	}
	return Reply{Peer: PeerAddr{Device: device, Addrs: []string{s.Conn().RemoteMultiaddr().String()}}, Entries: a}, nil
}

// refusedOr tells what a call failed of: a device that does not know the root key closes the connection right after the handshake and
// says no word; one that could not do what was asked resets the stream alone.
func refusedOr(ctx context.Context, err error) error {
	if _, reset := errors.AsType[*network.StreamError](err); ctx.Err() != nil || reset {
		return fmt.Errorf("recover: the device there did not answer: %w", err)
	}
	return ErrOtherCode
}
