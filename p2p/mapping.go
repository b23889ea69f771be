package p2p

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	natpmp "github.com/jackpal/go-nat-pmp"
	"github.com/libp2p/go-libp2p/core/network"
	basichost "github.com/libp2p/go-libp2p/p2p/host/basic"
	"github.com/libp2p/go-netroute"
	ma "github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// mapper asks the router to pass on what comes for this host's ports: by NAT-PMP (RFC 6886) itself, since libp2p v0.51 does not find the
// router (it asks go-netroute v0.4 for the way to 0.0.0.0, which that refuses), and by UPnP through libp2p.
type mapper struct {
	basichost.NATManager // by UPnP
	net                  network.Network
	cancel               context.CancelFunc
	ended                chan struct{}

	mu struct {
		sync.Mutex
		outside netip.Addr           // of the router; not valid: it grants nothing
		ports   map[mapping]mappedTo // what is granted
	}
}

// mapping is a port of this host.
type mapping struct {
	protocol string // udp or tcp
	port     uint16
}

// mappedTo is the router's port for it.
type mappedTo struct {
	port  uint16
	until time.Time
}

// errNoPorts says that the router grants nothing.
var errNoPorts = errors.New("no public address and port")

func newMapper(n network.Network) basichost.NATManager {
	ctx, cancel := context.WithCancel(context.Background())
	m := &mapper{NATManager: basichost.NewNATManager(n), net: n, cancel: cancel, ended: make(chan struct{})}
	m.mu.ports = map[mapping]mappedTo{}
	go m.run(ctx)
	return m
}

// Close gives the ports back, and ends.
func (m *mapper) Close() error {
	m.cancel()
	<-m.ended
	return m.NATManager.Close()
}

// HasDiscoveredNAT reports whether a router has answered.
func (m *mapper) HasDiscoveredNAT() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mu.outside.IsValid() || m.NATManager.HasDiscoveredNAT()
}

// GetMapping returns where a listen address is reached from outside; nil: nowhere.
func (m *mapper) GetMapping(listen ma.Multiaddr) ma.Multiaddr {
	if a := m.mapped(listen); a != nil {
		return a
	}
	return m.NATManager.GetMapping(listen)
}

func (m *mapper) mapped(listen ma.Multiaddr) ma.Multiaddr {
	key, rest, ok := portOf(listen)
	if !ok {
		return nil
	}
	m.mu.Lock()
	to, granted := m.mu.ports[key]
	outside := m.mu.outside
	m.mu.Unlock()
	if !granted || !outside.IsValid() || time.Now().After(to.until) {
		return nil
	}
	var addr net.Addr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(outside, to.port))
	if key.protocol == "udp" {
		addr = net.UDPAddrFromAddrPort(netip.AddrPortFrom(outside, to.port))
	}
	a, err := manet.FromNetAddr(addr)
	if err != nil {
		return nil
	}
	return ma.Join(a, rest)
}

// portOf returns the port of a listen address of IPv4 that others can reach, and what stands behind it.
func portOf(listen ma.Multiaddr) (m mapping, rest ma.Multiaddr, ok bool) {
	ip, after := ma.SplitFirst(listen)
	if ip == nil || len(after) == 0 || ip.Protocol().Code != ma.P_IP4 || manet.IsIPLoopback(listen) {
		return m, nil, false
	}
	port, rest := ma.SplitFirst(after)
	if code := port.Protocol().Code; code != ma.P_UDP && code != ma.P_TCP {
		return m, nil, false
	}
	return mapping{port.Protocol().Name, binary.BigEndian.Uint16(port.RawValue())}, rest, true
}

// run asks again and again until ctx ends.
func (m *mapper) run(ctx context.Context) {
	defer close(m.ended)
	tick := time.NewTicker(mapLook)
	defer tick.Stop()
	var turn mapTurn
	for {
		gateway, ports := router(), m.listens()
		if about := aboutOf(gateway, ports); turn.comes(about, time.Now()) {
			if about.router != turn.asked.router {
				m.forget()
			}
			err := errNoPorts
			if gateway != nil {
				err = m.ask(ctx, gateway, ports)
			}
			turn.next(about, err, time.Now())
		}
		select {
		case <-ctx.Done():
			m.giveBack()
			return
		case <-tick.C:
		}
	}
}

// forget forgets what another router granted.
func (m *mapper) forget() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mu.outside, m.mu.ports = netip.Addr{}, map[mapping]mappedTo{}
}

// listens lists the ports that others can reach, each once.
func (m *mapper) listens() (list []mapping) {
	for _, listen := range m.net.ListenAddresses() {
		if key, _, ok := portOf(listen); ok && !slices.Contains(list, key) {
			list = append(list, key)
		}
	}
	return list
}

// mapAbout is what a router is asked.
type mapAbout struct{ router, ports string }

func aboutOf(gateway net.IP, ports []mapping) mapAbout {
	var names []string
	for _, p := range ports {
		names = append(names, fmt.Sprintf("%s/%d", p.protocol, p.port))
	}
	slices.Sort(names)
	return mapAbout{gateway.String(), strings.Join(names, " ")}
}

// mapTurn says when the router is asked: in time to keep the ports; after a failure soon, and then less and less often, since it may only have
// been slow; and at once when there is another router, or when the host listens at other ports: it begins with one after another.
type mapTurn struct {
	asked mapAbout
	at    time.Time
	wait  time.Duration // after a failure; zero: it granted the ports
}

func (t *mapTurn) comes(about mapAbout, now time.Time) bool {
	return about != t.asked || !now.Before(t.at)
}

func (t *mapTurn) next(about mapAbout, err error, now time.Time) {
	if about != t.asked {
		t.asked, t.wait = about, 0
	}
	if err == nil {
		t.wait, t.at = 0, now.Add(mapAgain)
		return
	}
	t.wait = min(max(2*t.wait, mapLook), mapLater)
	t.at = now.Add(t.wait)
}

// router returns the router that stands before the internet, as this host's routes have it; nil if there is none.
func router() net.IP {
	routes, err := netroute.New()
	if err != nil {
		return nil
	}
	_, gateway, _, err := routes.Route(net.IPv4(1, 1, 1, 1)) // any public address: nothing is sent there
	if err != nil || !gateway.IsPrivate() {
		return nil
	}
	return gateway
}

// ask has ports mapped, or mapped for longer. It is errNoPorts if none is.
func (m *mapper) ask(ctx context.Context, gateway net.IP, ports []mapping) error {
	client, granted := natpmp.NewClientWithTimeout(gateway, mapPatience), errNoPorts
	answer, err := client.GetExternalAddress()
	if err != nil {
		return err
	}
	outside := netip.AddrFrom4(answer.ExternalIPAddress)
	if at, err := manet.FromIP(outside.AsSlice()); err != nil || !manet.IsPublicAddr(at) { // it stands behind another router, or a provider's
		return errNoPorts
	}
	for _, key := range ports {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		m.mu.Lock()
		want := m.mu.ports[key].port
		m.mu.Unlock()
		if want == 0 {
			want = key.port
		}
		got, err := client.AddPortMapping(key.protocol, int(key.port), int(want), int(mapFor/time.Second))
		if err != nil || got.MappedExternalPort == 0 {
			return errors.Join(errNoPorts, err)
		}
		life := min(time.Duration(got.PortMappingLifetimeInSeconds)*time.Second, mapFor)
		m.mu.Lock()
		m.mu.outside, m.mu.ports[key] = outside, mappedTo{got.MappedExternalPort, time.Now().Add(life)}
		m.mu.Unlock()
		granted = nil
	}
	return granted
}

// giveBack ends what is mapped.
func (m *mapper) giveBack() {
	m.mu.Lock()
	ports := m.mu.ports
	m.mu.ports = map[mapping]mappedTo{}
	m.mu.Unlock()
	gateway := router()
	if len(ports) == 0 || gateway == nil {
		return
	}
	client, err := natpmp.NewClientWithTimeout(gateway, mapPatience), error(nil)
	for key := range ports {
		if err == nil {
			_, err = client.AddPortMapping(key.protocol, int(key.port), 0, 0) // else it ends by itself
		}
	}
}
