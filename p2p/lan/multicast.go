package lan

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"golang.org/x/net/ipv4"
)

var group = &net.UDPAddr{IP: net.IPv4(224, 0, 0, 251), Port: 5353}

// multicast is the system's. Other speakers of multicast DNS on this machine keep the same port open.
type multicast struct {
	conn   *ipv4.PacketConn
	joined map[int]net.Interface
	told   bool // the system tells of a packet where it was sent to
}

func openMulticast() (Conn, error) {
	// Bound to a group's address, Go shares the port and takes packets for any.
	c, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(224, 0, 0, 0), Port: group.Port})
	if err != nil {
		return nil, fmt.Errorf("listen for multicast: %w", err)
	}
	m := &multicast{conn: ipv4.NewPacketConn(c), joined: map[int]net.Interface{}}
	m.told = m.conn.SetControlMessage(ipv4.FlagDst, true) == nil
	if err := errors.Join(m.conn.SetMulticastLoopback(true), m.conn.SetMulticastTTL(255)); err != nil {
		return nil, errors.Join(fmt.Errorf("prepare multicast: %w", err), c.Close())
	}
	return m, nil
}

// Interfaces implements Conn.
func (m *multicast) Interfaces(loopback bool) ([]Interface, error) {
	all, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("look at the interfaces: %w", err)
	}
	list := []Interface{}
	now := map[int]net.Interface{}
	for _, i := range all {
		local := i.Flags&net.FlagLoopback != 0
		if i.Flags&net.FlagUp == 0 || local != loopback || !local && i.Flags&net.FlagMulticast == 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		entry := Interface{Index: i.Index}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() {
				entry.Addrs = append(entry.Addrs, p.Addr())
			}
		}
		if len(entry.Addrs) == 0 {
			continue
		}
		// Joining again fails when nothing has changed, and heals what a sleep or a pulled cable has undone.
		if err := m.conn.JoinGroup(&i, group); err != nil {
			if _, ok := m.joined[i.Index]; !ok {
				continue
			}
		}
		now[i.Index] = i
		list = append(list, entry)
	}
	for index, i := range m.joined {
		if _, still := now[index]; !still {
			_ = m.conn.LeaveGroup(&i, group) // it may be gone
		}
	}
	m.joined = now
	return list, nil
}

// Send implements Conn.
func (m *multicast) Send(on Interface, packet []byte) error {
	i, ok := m.joined[on.Index]
	if !ok {
		return errors.New("send: no such interface")
	}
	if err := m.conn.SetMulticastInterface(&i); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	_, err := m.conn.WriteTo(packet, nil, group)
	return err
}

// Receive implements Conn. What was sent to this machine alone, perhaps from afar, is passed over.
func (m *multicast) Receive(b []byte) (int, netip.Addr, error) {
	for {
		n, head, from, err := m.conn.ReadFrom(b)
		if err != nil {
			return 0, netip.Addr{}, err
		}
		if m.told && (head == nil || !head.Dst.IsMulticast()) {
			continue
		}
		if u, ok := from.(*net.UDPAddr); ok {
			if at := u.AddrPort().Addr().Unmap(); at.Is4() {
				return n, at, nil
			}
		}
	}
}

// Close implements Conn.
func (m *multicast) Close() error { return m.conn.Close() }
