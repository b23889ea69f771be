package natbed

import (
	"context"
	"errors"
	"net"
	"os"
	"strconv"
	"testing"
	"time"
)

// echo answers on a machine, and says from where it was called.
func echo(t *testing.T, m *Machine, addr string) string {
	t.Helper()
	var c net.PacketConn
	var l net.Listener
	err := m.within(func() (err error) {
		if c, err = new(net.ListenConfig).ListenPacket(t.Context(), "udp4", addr); err != nil {
			return err
		}
		_, port, err := net.SplitHostPort(c.LocalAddr().String())
		if err != nil {
			return err
		}
		l, err = new(net.ListenConfig).Listen(t.Context(), "tcp4", ":"+port)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		buf := make([]byte, 64)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = c.WriteTo([]byte(from.String()), from)
		}
	}()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte(conn.RemoteAddr().String()))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = errors.Join(c.Close(), l.Close()) })
	_, port, _ := net.SplitHostPort(c.LocalAddr().String())
	return port
}

// call asks an echo from where it was called, from a port of the machine's.
func call(t *testing.T, m *Machine, network string, from int, to string) (seen string, took time.Duration, err error) {
	t.Helper()
	begun := time.Now()
	err = m.within(func() error {
		d := net.Dialer{Timeout: time.Second}
		if network == "udp4" {
			d.LocalAddr = &net.UDPAddr{Port: from}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		c, err := d.DialContext(ctx, network, to)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		if err := c.SetDeadline(time.Now().Add(time.Second)); err != nil {
			return err
		}
		if network == "udp4" {
			if _, err := c.Write([]byte("?")); err != nil {
				return err
			}
		}
		buf := make([]byte, 64)
		n, err := c.Read(buf)
		seen = string(buf[:n])
		return err
	})
	return seen, time.Since(begun), err
}

// TestRouters: each kind of router does what it says, and a round trip takes as long as it says.
func TestRouters(t *testing.T) {
	b := New(t)
	one, two := b.Public("one"), b.Public("two")
	ports := []string{echo(t, one, ":443"), echo(t, two, ":5000")}
	at := []string{net.JoinHostPort(one.Addr, ports[0]), net.JoinHostPort(two.Addr, ports[1])}
	plain, random := b.Behind("plain", Router{}), b.Behind("random", Router{RandomPorts: true})
	blocked, web := b.Behind("blocked", Router{NoUDP: true}), b.Behind("web", Router{OnlyPort: 443})
	double := b.Behind("double", Router{}, Router{})

	for i, to := range at {
		seen, took, err := call(t, plain, "udp4", 4000, to)
		if want := plain.Routers[0].Addr + ":4000"; err != nil || seen != want {
			t.Errorf("behind a plain router it is seen as %q and not as %q by %d: %v", seen, want, i, err)
		}
		if took < 2*Delay || took > 2*Delay+500*time.Millisecond {
			t.Errorf("a round trip takes %v", took)
		}
		if seen, _, err := call(t, double, "udp4", 4000, to); err != nil || seen != double.Routers[0].Addr+":4000" {
			t.Errorf("behind two routers it is seen as %q: %v", seen, err)
		}
	}
	first, _, err := call(t, random, "udp4", 4000, at[0])
	second, _, err2 := call(t, random, "udp4", 4000, at[1])
	if err != nil || err2 != nil || first == second {
		t.Errorf("a router of random ports takes %q and %q: %v %v", first, second, err, err2)
	}
	if _, _, err := call(t, blocked, "udp4", 4000, at[0]); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("UDP gets out: %v", err)
	}
	if _, _, err := call(t, blocked, "tcp4", 0, at[1]); err != nil {
		t.Errorf("TCP does not get out: %v", err)
	}
	if _, _, err := call(t, web, "tcp4", 0, at[0]); err != nil {
		t.Errorf("TCP to the port that is open does not get out: %v", err)
	}
	for _, network := range []string{"tcp4", "udp4"} {
		if _, _, err := call(t, web, network, 4000, at[1]); err == nil {
			t.Errorf("%s gets out by another port", network)
		}
	}

	// Nobody gets in who was not called; with a mapping everybody does.
	inside := echo(t, plain, ":6000")
	for _, network := range []string{"tcp4", "udp4"} {
		if _, _, err := call(t, one, network, 0, net.JoinHostPort(plain.Routers[0].Addr, inside)); err == nil {
			t.Errorf("%s gets in through a plain router", network)
		}
	}
	mapping := b.Behind("mapping", Router{Maps: true})
	inside = echo(t, mapping, ":6000")
	number, _ := strconv.Atoi(inside)
	err = mapping.within(func() error {
		c, err := new(net.Dialer).DialContext(t.Context(), "udp4", "192.168.178.1:5351")
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		for _, op := range []byte{opUDP, opTCP} {
			req := []byte{0, op, 0, 0, byte(number >> 8), byte(number), 0, 0, 0, 0, 1, 0}
			if _, err := c.Write(req); err != nil {
				return err
			}
			if n, err := c.Read(make([]byte, 64)); err != nil || n != 16 {
				return errors.Join(err, errors.New("no mapping is answered"))
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{"tcp4", "udp4"} {
		if seen, _, err := call(t, one, network, 0, net.JoinHostPort(mapping.Routers[0].Addr, inside)); err != nil {
			t.Errorf("%s does not get in by a mapping: %q %v", network, seen, err)
		}
	}

	before := plain.Routers[0].Addr
	plain.Move()
	seen, _, err := call(t, plain, "udp4", 4000, at[0])
	if now := plain.Routers[0].Addr; err != nil || now == before || seen != now+":4000" {
		t.Errorf("after a move from %s to %s it is seen as %q: %v", before, now, seen, err)
	}
}
