package natbed

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"os"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// The router's two sides.
const (
	wan   = "wan"
	inner = "lan"
)

// Router says how a router translates. The zero value is that of most homes: it keeps the port where it can, takes the same one for
// every destination, and lets in only answers.
type Router struct {
	RandomPorts bool   // another port for every destination ("symmetric")
	NoUDP       bool   // no UDP is let out
	OnlyPort    uint16 // nothing is let out but TCP to this port; 0: all is
	Maps        bool   // it passes on ports when it is asked (NAT-PMP, RFC 6886)
}

// gates is a router that runs.
type gates struct {
	*Machine
	Router
}

// rules is a table of rules that is being written.
type rules struct {
	conn  *nftables.Conn
	table *nftables.Table
}

// open begins to write the router's rules.
func (g *gates) open() (*rules, func(), error) {
	f, err := os.Open("/run/netns/" + g.Netns)
	if err != nil {
		return nil, nil, err
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(f.Fd())))
	if err != nil {
		_ = f.Close()
		return nil, nil, err
	}
	return &rules{conn: conn, table: conn.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "router"})}, func() { _ = f.Close() }, nil
}

func (r *rules) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority *nftables.ChainPriority) *nftables.Chain {
	return r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: priority})
}

func (r *rules) add(to *nftables.Chain, parts ...[]expr.Any) {
	var all []expr.Any
	for _, p := range parts {
		all = append(all, p...)
	}
	r.conn.AddRule(&nftables.Rule{Table: r.table, Chain: to, Exprs: all})
}

// translate writes the router's rules.
func (g *gates) translate() error {
	r, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	out := r.chain("postrouting", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource)
	r.add(out, device(expr.MetaKeyOIFNAME, wan), []expr.Any{&expr.Masq{FullyRandom: g.RandomPorts, Random: g.RandomPorts}})
	r.chain("prerouting", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest)

	forward := r.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, nftables.ChainPriorityFilter)
	if g.NoUDP || g.OnlyPort != 0 {
		r.add(forward, protocol(unix.IPPROTO_UDP), verdict(expr.VerdictDrop))
	}
	if g.OnlyPort != 0 {
		r.add(forward, device(expr.MetaKeyIIFNAME, inner), protocol(unix.IPPROTO_TCP), port(expr.CmpOpNeq, g.OnlyPort), verdict(expr.VerdictDrop))
	}
	r.add(forward, tracked(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	r.add(forward, device(expr.MetaKeyIIFNAME, wan), tracked(expr.CtKeySTATUS, destinationTranslated), verdict(expr.VerdictAccept))
	r.add(forward, device(expr.MetaKeyIIFNAME, wan), verdict(expr.VerdictDrop))

	in := r.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, nftables.ChainPriorityFilter)
	r.add(in, tracked(expr.CtKeySTATE, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED), verdict(expr.VerdictAccept))
	r.add(in, device(expr.MetaKeyIIFNAME, wan), verdict(expr.VerdictDrop)) // it answers nobody: an answer would take the port
	return r.conn.Flush()
}

// passOn has what comes for a port passed on.
func (g *gates) passOn(proto byte, outer uint16, to net.IP, own uint16) error {
	r, done, err := g.open()
	if err != nil {
		return err
	}
	defer done()
	r.add(&nftables.Chain{Name: "prerouting", Table: r.table}, device(expr.MetaKeyIIFNAME, wan), protocol(proto), port(expr.CmpOpEq, outer), []expr.Any{
		&expr.Immediate{Register: 1, Data: to.To4()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(own)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1, RegProtoMin: 2},
	})
	return r.conn.Flush()
}

// forget has the kernel drop every connection that it follows.
func (g *gates) forget() (err error) {
	f, err := os.Open("/run/netns/" + g.Netns)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: int(f.Fd())})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	_, err = c.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_CTNETLINK<<8 | deleteConnections, Flags: netlink.Request | netlink.Acknowledge},
		Data:   make([]byte, 4), // of every family
	})
	return err
}

// deleteConnections is the kernel's IPCTNL_MSG_CT_DELETE.
const deleteConnections = 2

// destinationTranslated is the kernel's IPS_DST_NAT.
const destinationTranslated = 1 << 5

func device(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: padded}}
}

func protocol(number byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{number}}}
}

func port(op expr.CmpOp, number uint16) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.BigEndian.PutUint16(number)},
	}
}

// tracked matches what has one of the bits.
func tracked(key expr.CtKey, bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Register: 1, Key: key},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func verdict(kind expr.VerdictKind) []expr.Any { return []expr.Any{&expr.Verdict{Kind: kind}} }

// NAT-PMP, RFC 6886.
const (
	mappingPort    = 5351
	opAddress      = 0
	opUDP, opTCP   = 1, 2
	answerBit      = 128
	lifetime       = 3600
	unsupportedOp  = 5
	outOfResources = 4
)

// serveMapping answers who asks that ports be passed on.
func (g *gates) serveMapping() {
	t := g.bed.t
	t.Helper()
	var c net.PacketConn
	if err := g.within(func() (err error) {
		c, err = new(net.ListenConfig).ListenPacket(context.Background(), "udp4", ":5351")
		return err
	}); err != nil {
		t.Fatalf("map ports: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 64)
		for {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := g.mapping(buf[:n], from.(*net.UDPAddr).IP); answer != nil {
				_, _ = c.WriteTo(answer, from)
			}
		}
	}()
	t.Cleanup(func() {
		_ = c.Close()
		<-ended
	})
}

// mapping answers one request.
func (g *gates) mapping(req []byte, from net.IP) []byte {
	if len(req) < 2 || req[0] != 0 || req[1] >= answerBit {
		return nil
	}
	head := func(size int, result uint16) []byte {
		b := make([]byte, size)
		b[1] = answerBit + req[1]
		binary.BigEndian.PutUint16(b[2:], result)
		binary.BigEndian.PutUint32(b[4:], 1) // seconds since it began
		return b
	}
	switch {
	case req[1] == opAddress:
		b := head(12, 0)
		copy(b[8:], net.ParseIP(g.Addr).To4())
		return b
	case (req[1] == opUDP || req[1] == opTCP) && len(req) >= 12:
		proto := byte(unix.IPPROTO_UDP)
		if req[1] == opTCP {
			proto = unix.IPPROTO_TCP
		}
		own, outer := binary.BigEndian.Uint16(req[4:]), binary.BigEndian.Uint16(req[6:])
		if outer == 0 {
			outer = own
		}
		b := head(16, 0)
		if binary.BigEndian.Uint32(req[8:]) != 0 {
			if err := g.passOn(proto, outer, from, own); err != nil {
				return head(16, outOfResources)
			}
			binary.BigEndian.PutUint32(b[12:], lifetime)
		}
		binary.BigEndian.PutUint16(b[8:], own)
		binary.BigEndian.PutUint16(b[10:], outer)
		return b
	}
	return head(8, unsupportedOp)
}
