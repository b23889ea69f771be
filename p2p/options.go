package p2p

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/gologshim"
	"github.com/libp2p/go-libp2p/p2p/host/peerstore/pstoremem"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	"github.com/libp2p/go-libp2p/x/rate"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
)

// newHost makes the libp2p host. Every option of libp2p stands here.
//
// QUIC, TCP and WebSocket, all under TLS 1.3 (hybrid post-quantum key exchange, which Noise has not). No discovery, no
// address probing by others. With relayed, other devices are reached, and reach this one, through relays too. What Config.Public
// names is told to others in the place of its own addresses.
func newHost(cfg Config, gater connmgr.ConnectionGater, relayed bool) (host.Host, error) {
	quiet()
	key, err := newTransportKey(cfg.Identity)
	if err != nil {
		return nil, err
	}
	store, err := pstoremem.NewPeerstore()
	if err != nil {
		return nil, fmt.Errorf("make peerstore: %w", err)
	}
	resources, err := placesOf(cfg.Relay != nil, cfg.Admit)
	if err != nil {
		return nil, fmt.Errorf("make resource limits: %w", err)
	}
	listening := libp2p.NoListenAddrs
	if len(cfg.Listen) > 0 {
		listening = libp2p.ListenAddrStrings(cfg.Listen...)
	}
	web, err := webSocket(cfg.Listen)
	if err != nil {
		return nil, err
	}
	mapping := libp2p.Option(func(*libp2p.Config) error { return nil })
	if cfg.MapPorts && listens(cfg.Listen, beyondLoopback) {
		mapping = libp2p.NATManager(newMapper)
	}
	sharing := libp2p.Option(func(*libp2p.Config) error { return nil })
	if onePort(cfg.Listen) {
		sharing = libp2p.ShareTCPListener()
	}
	circuits := libp2p.DisableRelay()
	if relayed {
		circuits = libp2p.EnableRelay()
	}
	told, err := multiaddrs(cfg.Public)
	if err != nil {
		return nil, err
	}
	h, err := libp2p.New(
		listening,
		libp2p.AddrsFactory(func(own []ma.Multiaddr) []ma.Multiaddr {
			if len(told) > 0 {
				return told
			}
			return own
		}),
		libp2p.Identity(key),
		libp2p.Peerstore(store),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(connmgr.NullConnMgr{}),
		libp2p.ConnectionGater(gater),
		libp2p.Transport(quic.NewTransport),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(websocket.New, web...),
		sharing,
		mapping,
		libp2p.Security(tls.ID, tls.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.WithDialTimeout(dialTimeout),
		libp2p.UserAgent("chartmesh"), // without a version: while an invite is open strangers see it
		libp2p.ProtocolVersion("chartmesh/1"),
		circuits,
		libp2p.DisableMetrics(),
		libp2p.DisableIdentifyAddressDiscovery(),
		// A branch that is closed over the week-end is no sign that UDP or IPv6 does not work.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
		libp2p.Ping(false),
		libp2p.SwarmOpts(swarm.WithDialRanker(rank)),
	)
	if err != nil {
		return nil, fmt.Errorf("open network: %w", err)
	}
	return h, nil
}

// onePort reports whether TCP and WebSocket are to share a port: that which is open may be one. To tell them apart libp2p waits for the
// first bytes of 64 connections at a time, 5 s each, so that a few that say nothing keep all others out. Apart, they do not.
func onePort(listen []string) bool {
	plain, web := map[string]bool{}, map[string]bool{}
	for _, a := range parseAddrs(listen) {
		port, err := a.ValueForProtocol(ma.P_TCP)
		if err != nil || port == "0" {
			continue
		}
		if isWeb(a) {
			web[port] = true
		} else {
			plain[port] = true
		}
	}
	for port := range web {
		if plain[port] {
			return true
		}
	}
	return false
}

// listens reports whether something of that is as asked.
func listens(listen []string, as func(ma.Multiaddr) bool) bool {
	return slices.ContainsFunc(listen, func(text string) bool {
		a, err := ma.NewMultiaddr(text)
		return err == nil && as(a)
	})
}

// beyondLoopback reports whether another machine can reach an address.
func beyondLoopback(a ma.Multiaddr) bool { return !manet.IsIPLoopback(a) }

// ErrPublic says that a public address is none.
var ErrPublic = errors.New("not a public address")

// multiaddrs reads addresses under which this device is reached: of ways that others dial.
func multiaddrs(texts []string) (list []ma.Multiaddr, err error) {
	for _, text := range texts {
		a, err := ma.NewMultiaddr(text)
		if err == nil {
			if _, to := ma.SplitFunc(a, func(c ma.Component) bool { return c.Protocol().Code == ma.P_P2P }); len(to) > 0 {
				return nil, fmt.Errorf("%w: %s: leave out /p2p/ and what follows", ErrPublic, text)
			}
		}
		if err != nil || len(text) > maxAddrBytes || wayOf(a) == wayUnknown || isRelayed(a) {
			return nil, fmt.Errorf("%w: %s: give it like /dns4/anchor.example.org/udp/4001/quic-v1", ErrPublic, text)
		}
		list = append(list, a)
	}
	return list, nil
}

// newResources bounds what all peers together can take: a practice has tens of devices, several of them often behind
// one address.
func newResources(relay bool) (network.ResourceManager, error) {
	conns, transient, streams := rcmgr.LimitVal(maxConns), rcmgr.LimitVal(maxTransient), rcmgr.LimitVal(64)
	perAddr, perSecond, memory := maxConnsPerAddr, newConnsPerSecond, rcmgr.LimitVal64(maxNetMemory)
	naming := 4 * transient
	if relay {
		memory = maxNetMemoryAtRelay
		conns, transient, streams = maxConnsAtRelay, maxTransientAtRelay, maxStreamsAtRelay
		perAddr, perSecond = maxReservationsPerAddr, newConnsPerSecondAtRelay
		naming = maxNamingAtRelay
	}
	limits := rcmgr.PartialLimitConfig{
		System: rcmgr.ResourceLimits{
			Conns: conns, ConnsInbound: conns, ConnsOutbound: conns,
			Streams: 16 * conns, StreamsInbound: 16 * conns, StreamsOutbound: 16 * conns,
			Memory: memory, FD: conns,
		},
		Transient: rcmgr.ResourceLimits{
			Conns: transient, ConnsInbound: transient, ConnsOutbound: transient,
			Streams: naming, StreamsInbound: naming, StreamsOutbound: naming,
			Memory: maxNetMemory / 4, FD: transient,
		},
		PeerDefault: rcmgr.ResourceLimits{
			Conns: 8, ConnsInbound: 8, ConnsOutbound: 8, Streams: streams, StreamsInbound: streams, StreamsOutbound: streams,
			Memory: maxNetMemory / 2, FD: 8,
		},
	}
	if relay {
		shareAmongMany(&limits, memory)
	}
	scaled := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaled)
	perHome := rate.Limit{RPS: newConnsPerSecondPerAddr, Burst: 2 * perAddr}
	each := func(bits int) []rcmgr.ConnLimitPerSubnet {
		return []rcmgr.ConnLimitPerSubnet{{PrefixLength: bits, ConnCount: perAddr}}
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(limits.Build(scaled.AutoScale())),
		rcmgr.WithMetricsDisabled(),
		rcmgr.WithLimitPerSubnet(each(32), each(56)),
		rcmgr.WithConnRateLimiters(&rate.Limiter{
			GlobalLimit: rate.Limit{RPS: float64(perSecond), Burst: 4 * perSecond},
			SubnetRateLimiter: rate.SubnetLimiter{
				IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: perHome}}, IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: perHome}},
				GracePeriod: time.Minute,
			},
		}),
	)
}

// quiet keeps libp2p and QUIC from writing to the process's stderr: they name addresses, and their words are not for
// the people who use a practice's machine. What matters is logged by Host.
var quiet = sync.OnceFunc(func() {
	gologshim.SetDefaultHandler(slog.DiscardHandler)
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
})
