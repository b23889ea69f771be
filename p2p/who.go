package p2p

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/sec"
	ma "github.com/multiformats/go-multiaddr"
)

// Addresses reads where a device may be reached, as people type it: a multiaddr, or an IP address and a port, which then is tried for
// QUIC and TCP.
func Addresses(text string) ([]string, error) {
	if at, err := netip.ParseAddrPort(text); err == nil && at.Port() != 0 {
		var list []string
		for _, a := range placesAt(at.Addr().Unmap(), at.Port(), at.Port()) {
			list = append(list, a.String())
		}
		return list, nil
	}
	a, err := ma.NewMultiaddr(text)
	if err != nil || len(text) > maxAddrBytes || (wayOf(a) == wayUnknown || isRelayed(a)) {
		return nil, errors.New("not an address: give IP:PORT, or /ip4/…/udp/…/quic-v1 as `chartmesh status` shows it")
	}
	return []string{a.String()}, nil
}

// soughtAt returns the addresses of an announcement that somebody hears who seeks. A device on this machine that listens on loopback
// alone speaks there, and yet seems to speak from elsewhere.
func soughtAt(at netip.Addr, udp, tcp uint16) []ma.Multiaddr {
	addrs := placesAt(at, udp, tcp)
	list, err := net.InterfaceAddrs()
	if err == nil && slices.ContainsFunc(list, func(a net.Addr) bool {
		p, err := netip.ParsePrefix(a.String())
		return err == nil && p.Addr() == at
	}) {
		addrs = append(addrs, placesAt(netip.AddrFrom4([4]byte{127, 0, 0, 1}), udp, tcp)...)
	}
	return addrs
}

// whoIs asks at the addresses of one device who is there. Words, announcements and what people type name no device; who dials is told by
// the handshake, which fails since another was expected, before this side has said who it is.
func whoIs(ctx context.Context, h host.Host, addrs []ma.Multiaddr) (peer.ID, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	type answer struct {
		id  peer.ID
		err error
	}
	answers := make(chan answer, len(addrs))
	for _, a := range addrs {
		go func() { // ends with ctx, which ends here
			id, err := whoIsAt(ctx, h, a)
			answers <- answer{id, err}
		}()
	}
	failed := errors.New("no device can be reached there")
	for range addrs {
		got := <-answers
		if got.err == nil {
			return got.id, nil
		}
		failed = errors.Join(failed, got.err)
	}
	return "", failed
}

func whoIsAt(ctx context.Context, h host.Host, addr ma.Multiaddr) (peer.ID, error) {
	_, public, err := crypto.GenerateEd25519Key(rand.Reader)
	if err != nil {
		return "", err
	}
	nobody, err := peer.IDFromPublicKey(public)
	if err != nil {
		return "", err
	}
	h.Peerstore().AddAddr(nobody, addr, peerstore.TempAddrTTL)
	defer h.Peerstore().ClearAddrs(nobody)
	_, err = h.Network().DialPeer(ctx, nobody)
	mismatch, ok := errors.AsType[sec.ErrPeerIDMismatch](err)
	if !ok {
		return "", fmt.Errorf("ask who is there: %w", err)
	}
	if _, err := DeviceOf(mismatch.Actual); err != nil {
		return "", err
	}
	return mismatch.Actual, nil
}
