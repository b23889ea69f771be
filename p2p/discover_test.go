package p2p_test

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"chartmesh/p2p"
	"chartmesh/p2p/lan"
)

// air is a local network in memory on which everybody is at 127.0.0.1.
type air struct {
	mu    sync.Mutex
	conns map[*airConn]bool
}

type airConn struct {
	air  *air
	in   chan []byte
	done chan struct{}
	once sync.Once
}

func (a *air) open() (lan.Conn, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c := &airConn{air: a, in: make(chan []byte, 1000), done: make(chan struct{})}
	if a.conns == nil {
		a.conns = map[*airConn]bool{}
	}
	a.conns[c] = true
	return c, nil
}

func (c *airConn) Interfaces(bool) ([]lan.Interface, error) {
	return []lan.Interface{{Index: 1, Addrs: []netip.Addr{netip.MustParseAddr("127.0.0.1")}}}, nil
}

func (c *airConn) Send(_ lan.Interface, p []byte) error {
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	for o := range c.air.conns {
		select {
		case o.in <- bytes.Clone(p):
		default:
		}
	}
	return nil
}

func (c *airConn) Receive(b []byte) (int, netip.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p), netip.MustParseAddr("127.0.0.1"), nil
	case <-c.done:
		return 0, netip.Addr{}, errors.New("closed")
	}
}

func (c *airConn) Close() error {
	c.once.Do(func() { close(c.done) })
	c.air.mu.Lock()
	defer c.air.mu.Unlock()
	delete(c.air.conns, c)
	return nil
}

func practiceTag(m []byte) ([16]byte, error) {
	h := hmac.New(sha256.New, []byte("the practice"))
	h.Write(m)
	return [16]byte(h.Sum(nil)), nil
}

// TestFoundOnTheLAN: two devices that know nothing of each other's addresses find each other, and again when both have
// moved to other ports. One that is no member, with the practice's key, is not dialled and lets nobody in.
func TestFoundOnTheLAN(t *testing.T) {
	network := &air{}
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	m.set1(newIdentity(2).Device(), true)
	near := func(c *p2p.Config) { c.LAN, c.Multicast = practiceTag, network.open }
	a, b := newSite(t, 1, m, near), newSite(t, 2, m, near)
	stranger := newSite(t, 3, m, near)
	know := func() {
		for _, s := range []*site{a, b, stranger} { // who belongs, and nothing of where they are
			s.SetPeers([]p2p.PeerAddr{{Device: a.id.Device()}, {Device: b.id.Device()}, {Device: stranger.id.Device()}})
		}
	}
	know()
	wait(t, "both agree", agreed(a, b))
	a.edit("one")
	wait(t, "it arrives", same(a, b))

	before := strings.Join(append(a.Addresses(), b.Addresses()...), " ")
	a.stop()
	b.stop()
	a.open(t)
	b.open(t)
	know()
	if after := strings.Join(append(a.Addresses(), b.Addresses()...), " "); before == after {
		t.Fatal("nobody has moved")
	}
	wait(t, "both agree again", agreed(a, b))
	if len(stranger.Peers()) > 0 {
		for _, p := range stranger.Peers() {
			if p.Connected {
				t.Errorf("the stranger is connected: %+v", p)
			}
		}
	}
	// The other may have heard of this one first and have dialled it; announcements go on for seconds after a start.
	wait(t, "an announcement is counted", func() bool { return a.Traffic().Announcements > 0 })
}

// relay passes on what goes between two devices until it is told to drop everything without a word.
type relay struct {
	listener net.Listener
	mu       sync.Mutex
	dead     bool
}

func (r *relay) copy(to, from net.Conn) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		r.mu.Lock()
		dead := r.dead
		r.mu.Unlock()
		if dead {
			if err != nil {
				return
			}
			continue
		}
		if n > 0 {
			if _, err := to.Write(b[:n]); err != nil {
				return
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				_ = to.Close()
			}
			return
		}
	}
}

// TestDeadSessionEndsSoon: a session whose path has died without a sign is noticed within seconds of a change of the
// network, or of somebody's doubt, and the device reaches its peer by another path at once.
func TestDeadSessionEndsSoon(t *testing.T) {
	a, b := endsSoon(t, func(a, b *site) { a.NetworkChanged(); b.NetworkChanged() })
	if changes := a.Traffic().NetworkChanges + b.Traffic().NetworkChanges; changes < 4 {
		t.Errorf("%d changes are counted", changes)
	}
	endsSoon(t, func(a, b *site) { a.Doubt(b.id.Device()); b.Doubt(a.id.Device()) })
}

// endsSoon has a path die after somebody was told what he is told again then, while it lived.
func endsSoon(t *testing.T, tell func(a, b *site)) (a, b *site) {
	a, b, _ = pair(t, tcpOnly)
	to, err := multiaddr.NewMultiaddr(b.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	bare, _ := multiaddr.SplitLast(to)
	target, err := manet.ToNetAddr(bare)
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{}
	if r.listener, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.listener.Close() })
	go func() {
		for {
			in, err := r.listener.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			dead := r.dead
			r.mu.Unlock()
			if dead {
				continue // it stays open, and nothing comes of it
			}
			out, err := net.Dial("tcp", target.String())
			if err != nil {
				_ = in.Close()
				continue
			}
			go r.copy(out, in)
			go r.copy(in, out)
		}
	}()
	through, err := manet.FromNetAddr(r.listener.Addr())
	if err != nil {
		t.Fatal(err)
	}
	a.SetPeers([]p2p.PeerAddr{{Device: b.id.Device(), Addrs: []string{through.String()}}})
	wait(t, "both agree", agreed(a, b))
	since := a.peer(b.id.Device()).Since
	r.mu.Lock()
	r.dead = true
	r.mu.Unlock()
	begun := time.Now()
	tell(a, b)
	a.SetPeers([]p2p.PeerAddr{b.at()})
	wait(t, "both agree again", func() bool {
		return agreed(a, b)() && a.peer(b.id.Device()).Since.After(since) && b.peer(a.id.Device()).Since.After(since)
	})
	if took := time.Since(begun); took > 12*time.Second {
		t.Errorf("it took %v", took)
	}
	since = a.peer(b.id.Device()).Since
	tell(a, b) // the path lives: nothing happens
	wait(t, "the path shows that it lives", func() bool { return a.peer(b.id.Device()).LastContact.After(begun) })
	if !a.peer(b.id.Device()).Since.Equal(since) {
		t.Error("a path that lives was ended")
	}
	return a, b
}
