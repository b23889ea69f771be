package lan

import (
	"context"
	"crypto/rand"
	"log/slog"
	mathrand "math/rand/v2"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"chartmesh/trust"
)

// Config says who this device is, and whom it looks for. All but Invites, Moved, Changes, Open and Logger are needed.
type Config struct {
	Device  trust.DeviceID
	Tag     Tagger
	Members func() []trust.DeviceID // whom to look for
	Listen  func() []netip.AddrPort // of QUIC, where this device listens; unspecified addresses mean every interface
	TCP     func() []netip.AddrPort // the same of TCP
	Online  func() bool             // false: neither speak nor listen
	Invites func() []Locator        // what newcomers may look for here; nil: nothing

	// Found is told of a member's ports at an address, by a goroutine of Run's.
	Found func(device trust.DeviceID, at netip.Addr, udp, tcp uint16)
	// Moved is told that this machine's addresses are others than before; nil: nobody.
	Moved func()
	// Changes makes Run announce at once, for example after a wake from sleep.
	Changes <-chan struct{}

	Open   func() (Conn, error) // nil: the system's multicast
	Logger *slog.Logger         // nil: none
}

// Conn is a multicast socket on several interfaces.
type Conn interface {
	// Interfaces looks which there are, listens on them, and returns them with their IPv4 addresses.
	Interfaces(loopback bool) ([]Interface, error)
	// Send sends to the group on an interface.
	Send(on Interface, packet []byte) error
	// Receive waits for a packet.
	Receive(b []byte) (n int, from netip.Addr, err error)
	Close() error
}

// Interface is one with a network behind it.
type Interface struct {
	Index int
	Addrs []netip.Addr
}

func (i Interface) equal(o Interface) bool {
	return i.Index == o.Index && slices.Equal(i.Addrs, o.Addrs)
}

const (
	lookEvery   = 2 * time.Second // at the interfaces
	reopenAfter = 10 * time.Second
	hearBurst   = 200 // packets with announcements; each costs a hash for each member
	hearRate    = 50  // a second
)

type received struct {
	packet Packet
	from   netip.Addr
}

// Run announces this device and hears others until ctx ends.
func Run(ctx context.Context, cfg Config) {
	if cfg.Open == nil {
		cfg.Open = openMulticast
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	told := false
	for ctx.Err() == nil {
		err := runOnce(ctx, cfg)
		if ctx.Err() != nil {
			return
		}
		if !told {
			told = true
			cfg.Logger.Warn("the local network cannot be searched for devices; trying again", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(reopenAfter):
		}
	}
}

// runOnce runs until its socket fails.
func runOnce(ctx context.Context, cfg Config) error {
	conn, err := cfg.Open()
	if err != nil {
		return err
	}
	heard := make(chan received, 16)
	failed := make(chan error, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		failed <- receive(ctx, conn, heard)
	}()
	defer func() {
		_ = conn.Close()
		<-done
	}()
	d := &driver{cfg: cfg, conn: conn, limit: rate.NewLimiter(hearRate, hearBurst)}
	d.schedule.random = mathrand.New(mathrand.NewPCG(mathrand.Uint64(), mathrand.Uint64()))
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	if err := d.look(time.Now()); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return err
		case r := <-heard:
			d.hear(r, time.Now())
		case <-cfg.Changes:
			if err := d.look(time.Now()); err != nil {
				return err
			}
			d.schedule.changed(time.Now())
		case <-look.C:
			if err := d.look(time.Now()); err != nil {
				return err
			}
		case <-timer.C:
		}
		timer.Reset(max(time.Until(d.send(time.Now())), time.Millisecond))
	}
}

func receive(ctx context.Context, conn Conn, heard chan<- received) error {
	b := make([]byte, maxPacket+1)
	for {
		n, from, err := conn.Receive(b)
		if err != nil {
			return err
		}
		p := Parse(b[:n])
		if !p.Asks && len(p.Announcements) == 0 {
			continue
		}
		select {
		case heard <- received{p, from}:
		case <-ctx.Done():
			return nil
		}
	}
}

// driver does what the schedule says. It belongs to one goroutine.
type driver struct {
	cfg      Config
	conn     Conn
	schedule schedule
	limit    *rate.Limiter
	known    []Interface
	nonce    Nonce
}

// look finds the interfaces, and begins anew if they are others than before.
func (d *driver) look(now time.Time) error {
	loopback := !slices.ContainsFunc(append(d.cfg.Listen(), d.cfg.TCP()...), func(a netip.AddrPort) bool { return !a.Addr().IsLoopback() })
	list, err := d.conn.Interfaces(loopback)
	if err != nil {
		return err
	}
	if d.known != nil && slices.EqualFunc(list, d.known, Interface.equal) {
		return nil
	}
	first := d.known == nil
	d.known = append([]Interface{}, list...)
	d.schedule.changed(now)
	if !first && d.cfg.Moved != nil {
		d.cfg.Moved()
	}
	return nil
}

func (d *driver) hear(r received, now time.Time) {
	if !d.cfg.Online() {
		return
	}
	if r.packet.Asks {
		d.schedule.asked(now)
	}
	for _, a := range r.packet.Announcements {
		if a.Nonce == d.nonce || !d.limit.AllowN(now, 1) {
			continue
		}
		if device, ok := a.By(d.cfg.Tag, d.cfg.Members()); ok {
			d.cfg.Found(device, r.from, a.UDP, a.TCP)
		}
	}
}

// send sends what is due and returns when to look again.
func (d *driver) send(now time.Time) time.Time {
	announce, renew, ask, again := d.schedule.due(now)
	if !announce || !d.cfg.Online() {
		return again
	}
	if renew {
		_, _ = rand.Read(d.nonce[:]) // never fails
	}
	question, err := AppendQuery(nil)
	if err != nil {
		return again
	}
	for _, i := range d.known {
		a := Announcement{Nonce: d.nonce, UDP: port(d.cfg.Listen(), i), TCP: port(d.cfg.TCP(), i)}
		if d.cfg.Invites != nil {
			a.Invite(d.cfg.Invites())
		}
		if a.UDP == 0 && a.TCP == 0 || a.Sign(d.cfg.Tag, d.cfg.Device) != nil {
			continue // without the practice's key there is nothing to say yet
		}
		packet, err := a.Append(nil)
		if err != nil {
			continue
		}
		// An interface may be gone since; the next look tells.
		_ = d.conn.Send(i, packet)
		if ask {
			_ = d.conn.Send(i, question)
		}
	}
	return again
}

// port returns at which port of an interface something listens, 0 for none. Who hears of it dials the IPv4 address that it
// was heard from: what listens for IPv6 alone is not there.
func port(listen []netip.AddrPort, on Interface) uint16 {
	for _, l := range listen {
		if l.Addr() == netip.IPv4Unspecified() || slices.Contains(on.Addrs, l.Addr()) {
			return l.Port()
		}
	}
	return 0
}
