package acceptance

import (
	"context"
	"crypto/rand"
	order "encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"

	"chartmesh/p2p"
)

// flood is what many who are no members do to an anchor.
type flood struct {
	t       *testing.T
	anchor  *running
	from    func(i int) net.IP
	tried   atomic.Int64
	refused atomic.Int64 // that did not get as far as a connection
}

// lasts is how long each kind of flood lasts at least: one that is over in a moment would show little.
const lasts = 15 * time.Second

// The addresses that a flood comes from: many, or the one that the members have.
func elsewhere(i int) net.IP   { return net.IPv4(127, 0, byte(1+i/250%8), byte(2+i%250)) }
func sameAsMembers(int) net.IP { return net.IPv4(127, 0, 0, 1) }

// parallel runs do for every number below n, and on until it has lasted, so many at once.
func (f *flood) parallel(n, atOnce int, do func(i int)) {
	var next atomic.Int64
	var all sync.WaitGroup
	began := time.Now()
	for range atOnce {
		all.Go(func() {
			for f.t.Context().Err() == nil {
				i := int(next.Add(1)) - 1
				if i >= n && time.Since(began) > lasts {
					return
				}
				do(i)
				f.tried.Add(1)
			}
		})
	}
	all.Wait()
}

func (f *flood) dial(i int) (net.Conn, error) {
	at := f.anchor.at("tcp").Addrs[0]
	port, err := at.ValueForProtocol(6)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: f.from(i)}, Timeout: 5 * time.Second}
	return d.DialContext(f.t.Context(), "tcp", "127.0.0.1:"+port)
}

// silent connects and says nothing, or what is given, until it is hung up on.
func (f *flood) silent(n, atOnce int, say []byte) {
	f.parallel(n, atOnce, func(i int) {
		c, err := f.dial(i)
		if err != nil {
			f.refused.Add(1)
			return
		}
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = c.Write(say)
		_, _ = io.Copy(io.Discard, c)
		_ = c.Close()
	})
}

// negotiates is how libp2p asks for TLS on a TCP connection.
var negotiates = append(delimited([]byte("/multistream/1.0.0\n")), delimited([]byte("/tls/1.0.0\n"))...)

// strangers do whole handshakes with keys that nobody knows.
func (f *flood) strangers(n, atOnce int) {
	f.parallel(n, atOnce, func(i int) {
		c, err := f.dial(i)
		if err != nil {
			f.refused.Add(1)
			return
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := c.Write(negotiates); err != nil {
			return
		}
		if _, err := io.ReadFull(c, make([]byte, len(negotiates))); err != nil {
			return
		}
		security, err := tls.New(tls.ID, signer{newKeys(f.t)}, nil)
		if err != nil {
			f.t.Error(err)
			return
		}
		ctx, cancel := context.WithTimeout(f.t.Context(), 5*time.Second)
		defer cancel()
		if s, err := security.SecureOutbound(ctx, c, f.anchor.at("tcp").ID); err == nil {
			_, _ = io.Copy(io.Discard, s)
		}
	})
}

// initials sends the first packets of QUIC connections, whose contents are noise: the anchor cannot know before it has tried.
func (f *flood) initials(n, atOnce int) {
	port, err := f.anchor.at("quic").Addrs[0].ValueForProtocol(273)
	must(f.t, err)
	to, err := net.ResolveUDPAddr("udp4", "127.0.0.1:"+port)
	must(f.t, err)
	f.parallel(n, atOnce, func(i int) {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: f.from(i)}, to)
		if err != nil {
			f.refused.Add(1)
			return
		}
		packet := make([]byte, 1252)
		_, _ = rand.Read(packet)
		packet[0] = 0xc3                         // Initial, four bytes of packet number
		order.BigEndian.PutUint32(packet[1:], 1) // version
		packet[5], packet[14] = 8, 8             // connection IDs of eight bytes each, at 6 and 15
		packet[23] = 0                           // no token
		order.BigEndian.PutUint16(packet[24:], 0x4000|(1252-26))
		_, _ = c.Write(packet)
		_ = c.Close()
		wait(f.t, time.Millisecond) // as fast as a loopback's buffers take it
	})
}

// members is a practice whose first member writes to the second through an anchor while something else goes on, and of which two
// more, one over each transport, connect anew over and over.
type members struct {
	t      *testing.T
	anchor *running
	office *office
}

func newMembers(t *testing.T, a *running) *members {
	t.Helper()
	m := &members{t: t, anchor: a, office: newOffice(t, "Praxis Berg", 5, a)}
	a.admit(m.office.token(a))
	for i, transport := range []string{"quic", "tcp", "quic", "tcp"} {
		m.office.members[i].connect(a.peerOf(transport))
	}
	until(t, 30*time.Second, "all are connected", func() bool {
		return !slices.ContainsFunc(m.office.members[:4], func(x *member) bool { return !x.agrees(a) })
	})
	return m
}

// work has the members work until the returned function is called, which says how long each edit took to the other member, and each
// new connection.
func (m *members) work() (done func() (edits, connects []time.Duration)) {
	stop := make(chan struct{})
	var all sync.WaitGroup
	var mu sync.Mutex
	var edits, connects []time.Duration
	going := func() bool {
		select {
		case <-stop:
			return false
		case <-time.After(50 * time.Millisecond):
			return true
		}
	}
	arrives := func(patience time.Duration, so func() bool) (time.Duration, bool) {
		for began := time.Now(); ; wait(m.t, 2*time.Millisecond) {
			if took := time.Since(began); so() {
				return took, true
			} else if took > patience {
				return took, false
			}
		}
	}
	all.Go(func() {
		from, to := m.office.members[0], m.office.members[1]
		for going() {
			scope, log, n := from.writes("an edit")
			took, ok := arrives(2*patience, func() bool { return to.logs.Position(scope, log).Counter >= n })
			if !ok {
				m.t.Errorf("edit %d did not arrive within %v", n, took)
			}
			mu.Lock()
			edits = append(edits, took)
			mu.Unlock()
		}
	})
	for _, x := range m.office.members[2:4] {
		all.Go(func() {
			for going() {
				x.host.SetOnline(false)
				x.host.SetOnline(true)
				took, ok := arrives(2*patience, func() bool { return x.agrees(m.anchor) })
				if !ok {
					m.t.Errorf("a member did not connect anew within %v", took)
				}
				mu.Lock()
				connects = append(connects, took)
				mu.Unlock()
			}
		})
	}
	return func() ([]time.Duration, []time.Duration) {
		close(stop)
		all.Wait()
		return edits, connects
	}
}

// patience is how long a member may be held up.
const patience = 30 * time.Second

// descriptors counts the open files of a process.
func descriptors(t testing.TB, pid int) int {
	t.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	must(t, err)
	return len(list)
}

// during runs something beside working members, prints what they met with, and holds that it was bearable.
func (m *members) during(what string, do func()) {
	m.t.Helper()
	done := m.work()
	began := time.Now()
	stop := make(chan struct{})
	var watching sync.WaitGroup
	var most int64
	files := 0
	watching.Go(func() {
		for {
			most, files = max(most, m.anchor.memory("VmRSS")), max(files, descriptors(m.t, m.anchor.cmd.Process.Pid))
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	do()
	if rest := 3*time.Second - time.Since(began); rest > 0 {
		wait(m.t, rest)
	}
	took := time.Since(began)
	edits, connects := done()
	close(stop)
	watching.Wait()
	m.t.Logf("%s, %v: edits %s; connecting anew %s; the anchor at most %s, %d files", what, took.Round(100*time.Millisecond), quantiles(edits), quantiles(connects), mebibytes(most), files)
	if len(edits) == 0 || len(connects) == 0 {
		m.t.Errorf("%s: nothing was measured", what)
		return
	}
	if worst := slices.Max(edits); worst > patience {
		m.t.Errorf("%s: an edit took %v", what, worst)
	}
	if worst := slices.Max(connects); worst > patience {
		m.t.Errorf("%s: a member took %v to connect", what, worst)
	}
}

// TestFlood: 100,000 attempts to connect (FLOOD) do not hinder members: of those who connect and say nothing, or not all, of strangers, and
// of packets of noise, from many addresses and from the one that the members have. Then everything is as it was.
func TestFlood(t *testing.T) {
	heavy(t)
	total := number(t, "FLOOD", 100_000)
	anchor := newAnchor(t, t.TempDir(), "frankfurt")
	m := newMembers(t, anchor)
	pid := anchor.cmd.Process.Pid
	m.during("nothing else", func() {})
	rss, files := anchor.memory("VmRSS"), descriptors(t, pid)
	for where, from := range map[string]func(int) net.IP{"from elsewhere": elsewhere, "from the members' address": sameAsMembers} {
		f := &flood{t: t, anchor: anchor, from: from}
		part := total / 20
		m.during(fmt.Sprintf("%d silent connections %s", 4*part, where), func() { f.silent(4*part, 2000, nil) })
		m.during(fmt.Sprintf("%d half handshakes %s", 2*part, where), func() { f.silent(2*part, 2000, append(slices.Clone(negotiates), 0x16, 0x03, 0x01, 0x02, 0x00, 0x01)) })
		m.during(fmt.Sprintf("%d strangers' handshakes %s", part, where), func() { f.strangers(part, 64) })
		m.during(fmt.Sprintf("%d QUIC initials of noise %s", 3*part, where), func() { f.initials(3*part, 16) })
		t.Logf("%s, %d attempts, of which %d did not get a connection", where, f.tried.Load(), f.refused.Load())
	}
	m.recovers(rss, files)
}

// recovers holds that the anchor's memory and files come back.
func (m *members) recovers(rss int64, files int) {
	m.t.Helper()
	pid := m.anchor.cmd.Process.Pid
	until(m.t, 2*time.Minute, "the anchor's files come back", func() bool { return descriptors(m.t, pid) <= files+8 })
	m.during("afterwards", func() {})
	m.t.Logf("before: %s, %d files; afterwards: %s, %d files", mebibytes(rss), files, mebibytes(m.anchor.memory("VmRSS")), descriptors(m.t, pid))
	if after := m.anchor.memory("VmRSS"); after > rss+rss/2+64<<20 {
		m.t.Errorf("the anchor took %s before, and takes %s afterwards", mebibytes(rss), mebibytes(after))
	}
}

// TestHostileSessions: a member who speaks to the anchor as he likes hinders no other: with frames that are too long, frames that come
// byte by byte, sessions that never begin, and thousands of streams.
func TestHostileSessions(t *testing.T) {
	heavy(t)
	anchor := newAnchor(t, t.TempDir(), "frankfurt")
	m := newMembers(t, anchor)
	pid := anchor.cmd.Process.Pid
	hostile := m.office.members[4].keys
	m.during("nothing else", func() {})
	rss, files := anchor.memory("VmRSS"), descriptors(t, pid)
	for _, transport := range []string{"quic", "tcp"} {
		at := anchor.at(transport)
		for _, x := range []struct {
			what string
			do   func(network.Stream)
		}{
			{"frames of 4 GiB", func(s network.Stream) { says(s, []byte{0xff, 0xff, 0xff, 0xff, 1}) }},
			{"frames of 8 MiB that never come", func(s network.Stream) { says(s, []byte{0, 0x80, 0, 0, 1}); until8(s) }},
			{"frames that come byte by byte", func(s network.Stream) {
				slowly(t, s, asksForAll(t, hostile.Device(), anchor.device(), m.office.members[4]))
			}},
			{"sessions that do not begin", func(s network.Stream) { until8(s) }},
			{"frames of noise", func(s network.Stream) { b := make([]byte, 64<<10); _, _ = rand.Read(b); says(s, framed(b)); until8(s) }},
		} {
			for _, proto := range []protocol.ID{p2p.SyncProtocol, p2p.IntroduceProtocol, hopProtocol} {
				m.during(fmt.Sprintf("%s on 8 connections over %s, %s", x.what, transport, proto), func() { m.streams(hostile, at, proto, x.do) })
			}
		}
	}
	m.recovers(rss, files)
}

func says(s network.Stream, b []byte) { _, _ = s.Write(b) }

// until8 holds a stream for 8 s, or until the anchor ends it.
func until8(s network.Stream) {
	_ = s.SetReadDeadline(time.Now().Add(8 * time.Second))
	_, _ = io.Copy(io.Discard, s)
}

func slowly(t *testing.T, s network.Stream, b []byte) {
	for i := range min(8, len(b)) {
		if _, err := s.Write(b[i : i+1]); err != nil {
			return
		}
		wait(t, time.Second)
	}
}

// streams opens 8 connections as somebody, with 200 streams on each, and does the same on every one.
func (m *members) streams(as p2p.Identity, at peer.AddrInfo, proto protocol.ID, do func(network.Stream)) {
	var all sync.WaitGroup
	opened := atomic.Int64{}
	for range 8 {
		c := callerHost(m.t, as)
		all.Go(func() {
			defer func() { _ = c.Close() }()
			ctx, cancel := context.WithTimeout(m.t.Context(), 20*time.Second)
			defer cancel()
			if err := c.Connect(ctx, at); err != nil {
				return
			}
			var each sync.WaitGroup
			for range 200 {
				s, err := c.NewStream(network.WithNoDial(ctx, "connected"), at.ID, proto)
				if err != nil {
					break
				}
				opened.Add(1)
				_ = s.SetDeadline(time.Now().Add(10 * time.Second))
				each.Go(func() {
					do(s)
					_ = s.Reset()
				})
			}
			each.Wait()
		})
	}
	all.Wait()
	if opened.Load() == 0 {
		m.t.Errorf("no stream of %s was opened", proto)
	}
}
