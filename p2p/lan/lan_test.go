package lan

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/internal/fuzzing"
	"chartmesh/trust"
)

func tagger(practice string) Tagger {
	return func(m []byte) ([16]byte, error) {
		h := hmac.New(sha256.New, []byte(practice))
		h.Write(m)
		return [16]byte(h.Sum(nil)), nil
	}
}

func device(n byte) trust.DeviceID { return trust.DeviceID{n} }

func packet(t testing.TB, practice string, n byte) []byte {
	t.Helper()
	a := Announcement{Nonce: Nonce{n}, UDP: 4801, TCP: 4802}
	if err := a.Sign(tagger(practice), device(n)); err != nil {
		t.Fatal(err)
	}
	b, err := a.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestPackets(t *testing.T) {
	b := packet(t, "a", 1)
	p := Parse(b)
	if p.Asks || len(p.Announcements) != 1 || p.Announcements[0].UDP != 4801 || p.Announcements[0].TCP != 4802 {
		t.Fatalf("%+v", p)
	}
	members := []trust.DeviceID{device(3), device(1), device(2)}
	if d, ok := p.Announcements[0].By(tagger("a"), members); !ok || d != device(1) {
		t.Errorf("sent by %v, %v", d, ok)
	}
	if _, ok := p.Announcements[0].By(tagger("b"), members); ok {
		t.Error("another practice's key knows the sender")
	}
	if _, ok := p.Announcements[0].By(tagger("a"), members[:1]); ok {
		t.Error("a device that is no member was found")
	}
	for change, bent := range map[string]func(*Announcement){
		"nonce": func(a *Announcement) { a.Nonce[15]++ }, "udp": func(a *Announcement) { a.UDP++ }, "tcp": func(a *Announcement) { a.TCP = 0 },
	} {
		a := p.Announcements[0]
		bent(&a)
		if _, ok := a.By(tagger("a"), members); ok {
			t.Errorf("the tag does not cover %s", change)
		}
	}
	q, err := AppendQuery(nil)
	if err != nil || !Parse(q).Asks || len(b) > 300 {
		t.Errorf("%v, %d bytes", err, len(b))
	}
	// Nothing of it tells whose it is: of two announcements only the ports are the same.
	other := Announcement{Nonce: Nonce{9}, UDP: 4801, TCP: 4802}
	if err := other.Sign(tagger("a"), device(1)); err != nil {
		t.Fatal(err)
	}
	first, id := p.Announcements[0], device(1)
	if first.Tag == other.Tag || bytes.Contains(b, id[:]) || bytes.Contains(b, []byte("chartmesh")) {
		t.Error("announcements of one device can be linked")
	}
}

// FuzzParse: whatever comes, what is understood is written and read again as the same.
func FuzzParse(f *testing.F) {
	f.Add(packet(f, "a", 1))
	var inviting Announcement
	inviting.UDP = 4801
	inviting.Invite([]Locator{1, 2})
	b, err := inviting.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	q, err := AppendQuery(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q)
	f.Fuzz(func(t *testing.T, b []byte) {
		var p Packet
		fuzzing.Allocates(t, len(b), 64, 64<<10, func() { p = Parse(b) })
		if len(p.Announcements) > maxRecords {
			t.Errorf("%d announcements", len(p.Announcements))
		}
		for _, a := range p.Announcements {
			again, err := a.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if r := Parse(again); len(r.Announcements) != 1 || r.Announcements[0] != a {
				t.Errorf("%+v became %+v", a, r)
			}
		}
	})
}

// TestSchedule: after a change four announcements under one new nonce within ten seconds, then about one a minute; questions
// are answered at most once a second; the nonce lasts an hour.
func TestSchedule(t *testing.T) {
	s := schedule{random: rand.New(rand.NewPCG(1, 2))}
	begun := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	now := begun
	s.changed(now)
	var sent []time.Duration
	renewed := 0
	run := func(until time.Time) {
		for !now.After(until) {
			announce, renew, _, again := s.due(now)
			if announce {
				sent = append(sent, now.Sub(begun))
			}
			if renew {
				renewed++
			}
			if !again.After(now) {
				t.Fatalf("at %v: again at %v", now, again)
			}
			now = again
		}
	}
	run(begun.Add(10 * time.Second))
	if !slices.Equal(sent, burst) || renewed != 1 {
		t.Errorf("after a change: %v, %d nonces", sent, renewed)
	}
	run(begun.Add(2 * time.Hour))
	if n := len(sent); n < 95 || n > 155 || renewed < 2 || renewed > 3 {
		t.Errorf("%d announcements and %d nonces in two hours", n, renewed)
	}
	before := len(sent)
	for range 1000 { // somebody asks a hundred times a second
		s.asked(now)
		if announce, _, _, _ := s.due(now); announce {
			sent = append(sent, now.Sub(begun))
		}
		now = now.Add(10 * time.Millisecond)
	}
	if n := len(sent) - before; n < 9 || n > 12 {
		t.Errorf("%d answers in ten seconds", n)
	}
}

// bus is a network in memory.
type bus struct {
	mu    sync.Mutex
	conns map[*busConn]bool
}

type busConn struct {
	bus  *bus
	at   netip.Addr
	in   chan []byte
	from chan netip.Addr
	done chan struct{}
	once sync.Once
	sent int
}

func (b *bus) open(at string) *busConn {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.conns == nil {
		b.conns = map[*busConn]bool{}
	}
	c := &busConn{bus: b, at: netip.MustParseAddr(at), in: make(chan []byte, 100), from: make(chan netip.Addr, 100), done: make(chan struct{})}
	b.conns[c] = true
	return c
}

func (c *busConn) Interfaces(bool) ([]Interface, error) {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	return []Interface{{Index: 1, Addrs: []netip.Addr{c.at}}}, nil
}

func (c *busConn) move(at string) {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	c.at = netip.MustParseAddr(at)
}

func (c *busConn) count() int {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	return c.sent
}

func (c *busConn) Send(_ Interface, p []byte) error {
	c.bus.mu.Lock()
	defer c.bus.mu.Unlock()
	c.sent++
	for o := range c.bus.conns {
		o.in <- bytes.Clone(p)
		o.from <- c.at
	}
	return nil
}

func (c *busConn) Receive(b []byte) (int, netip.Addr, error) {
	select {
	case p := <-c.in:
		return copy(b, p), <-c.from, nil
	case <-c.done:
		return 0, netip.Addr{}, errors.New("closed")
	}
}

func (c *busConn) Close() error {
	c.once.Do(func() { close(c.done) })
	return nil
}

// TestPortOfIPv4: what is announced is where something listens on the interface, over IPv4.
func TestPortOfIPv4(t *testing.T) {
	on := Interface{Index: 1, Addrs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}
	for listen, want := range map[string]uint16{
		"0.0.0.0:1": 1, "[::]:2": 0, "[::]:2 0.0.0.0:1": 1, "10.0.0.1:3": 3, "10.0.0.2:4": 0, "[fd00::1]:5 10.0.0.1:3": 3, "127.0.0.1:6": 0,
	} {
		var list []netip.AddrPort
		for at := range strings.FieldsSeq(listen) {
			list = append(list, netip.MustParseAddrPort(at))
		}
		if got := port(list, on); got != want {
			t.Errorf("of %s port %d is announced, want %d", listen, got, want)
		}
	}
}

// TestRun: devices of one practice find each other at once, at the address that a packet came from; another practice's is
// not heard; a device that moves is found again, and is told that it did.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &bus{}
		var mu sync.Mutex
		found := map[trust.DeviceID]map[trust.DeviceID]netip.AddrPort{}
		moved := map[trust.DeviceID]int{}
		online := true
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		start := func(n byte, practice, at string) *busConn {
			conn := network.open(at)
			mu.Lock()
			found[device(n)] = map[trust.DeviceID]netip.AddrPort{}
			mu.Unlock()
			listen := func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:4801")} }
			wg.Go(func() {
				Run(ctx, Config{
					Device: device(n), Tag: tagger(practice), Listen: listen, TCP: listen, Open: func() (Conn, error) { return conn, nil },
					Members: func() []trust.DeviceID { return []trust.DeviceID{device(1), device(2), device(3)} },
					Online: func() bool {
						mu.Lock()
						defer mu.Unlock()
						return online || n != 2
					},
					Found: func(d trust.DeviceID, at netip.Addr, udp, _ uint16) {
						mu.Lock()
						defer mu.Unlock()
						found[device(n)][d] = netip.AddrPortFrom(at, udp)
					},
					Moved: func() {
						mu.Lock()
						defer mu.Unlock()
						moved[device(n)]++
					},
				})
			})
			return conn
		}
		at := func(by, of byte) string {
			mu.Lock()
			defer mu.Unlock()
			if a, ok := found[device(by)][device(of)]; ok {
				return a.String()
			}
			return ""
		}
		start(1, "a", "10.0.0.1")
		two := start(2, "a", "10.0.0.2")
		start(3, "b", "10.0.0.3")
		time.Sleep(2 * time.Second) // virtual
		if at(1, 2) != "10.0.0.2:4801" || at(2, 1) != "10.0.0.1:4801" {
			t.Errorf("two of a practice: %q, %q", at(1, 2), at(2, 1))
		}
		if at(1, 3)+at(2, 3)+at(3, 1)+at(3, 2) != "" {
			t.Error("another practice's device was heard")
		}
		two.move("10.0.7.2")
		time.Sleep(6 * time.Second)
		where := at(1, 2)
		mu.Lock()
		if where != "10.0.7.2:4801" || moved[device(2)] != 1 || moved[device(1)] != 0 {
			t.Errorf("after a move: %q, told %v", where, moved)
		}
		online = false
		mu.Unlock()
		synctest.Wait() // what was on its way is out
		before := two.count()
		time.Sleep(10 * time.Minute)
		if two.count() != before {
			t.Error("a device that is offline announces itself")
		}
		cancel()
		wg.Wait()
	})
}

// TestSeek: who asks hears of every device at once, and of each once, without the practice's key, or of those alone that have the
// invitation; nobody hears of who asks.
func TestSeek(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &bus{}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		heard := 0
		for n := byte(1); n <= 2; n++ {
			conn := network.open("10.0.0." + string('0'+rune(n)))
			listen := func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:4801")} }
			wg.Go(func() {
				Run(ctx, Config{
					Device: device(n), Tag: tagger("a"), Listen: listen, TCP: listen, Open: func() (Conn, error) { return conn, nil },
					Members: func() []trust.DeviceID { return []trust.DeviceID{device(9)} }, Online: func() bool { return true },
					Invites: func() []Locator { return []Locator{Locator(n)} },
					Found:   func(trust.DeviceID, netip.Addr, uint16, uint16) { heard++ },
				})
			})
		}
		time.Sleep(time.Minute) // virtual; nothing is due by itself
		for what, x := range map[string]struct {
			wanted func(Announcement) bool
			places []string
		}{
			"anybody":       {func(Announcement) bool { return true }, []string{"10.0.0.1:4801", "10.0.0.2:4801"}},
			"an invitation": {func(a Announcement) bool { return a.Invites(2) }, []string{"10.0.0.2:4801"}},
			"nobody":        {func(a Announcement) bool { return a.Invites(3) }, nil},
		} {
			var places []string
			var mu sync.Mutex
			var conns []*busConn
			search, stop := context.WithCancel(ctx)
			wg.Go(func() {
				err := Seek(search, func() (Conn, error) {
					conn := network.open("10.0.0.9")
					mu.Lock()
					defer mu.Unlock()
					conns = append(conns, conn)
					return conn, nil
				}, x.wanted, func(at netip.Addr, udp, tcp uint16) {
					if udp == tcp {
						places = append(places, netip.AddrPortFrom(at, udp).String())
					}
				})
				if err != nil {
					t.Error(err)
				}
			})
			time.Sleep(7 * time.Second)
			stop()
			synctest.Wait()
			slices.Sort(places)
			if !slices.Equal(places, x.places) {
				t.Errorf("%s: found %v", what, places)
			}
			if heard != 0 || len(conns) != 2 || conns[0].count() != 4 || conns[1].count() != 4 {
				t.Errorf("%s: who seeks was heard %d times", what, heard)
			}
			time.Sleep(10 * time.Second)
		}
		cancel()
		wg.Wait()
	})
}
