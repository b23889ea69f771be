package p2p

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
	"chartmesh/wire"
)

// IntroduceProtocol is the libp2p protocol by which a relay brings newcomers to devices that have an invitation open. One request and one
// answer, each behind its length, four bytes, big endian:
//
//	"cmin" 1 | 1 | count | locators…   of a member: it takes newcomers, who ask for one of these or for itself; none: it does not any more
//	      1                            the relay lets them through, until the member's connection ends or an hour is over
//	"cmin" 1 | 2 | locator             of anybody, while some member of some practice takes newcomers
//	      count | devices…             those who take newcomers with that locator
//
// A locator is the public part of an invitation's words. The relay learns it, and which device takes newcomers; the secret it cannot guess
// without being counted by the inviter, since it takes part in the exchange at best as who stands between (see exchange.go).
const IntroduceProtocol protocol.ID = "/chartmesh/introduce/1.0.0"

var introduceMagic = []byte{'c', 'm', 'i', 'n', 1}

const (
	introduceTakes = 1
	introduceAsks  = 2

	maxLocators    = 64
	maxIntroduced  = 4 // devices with one locator
	maxIntroduceIn = 512
)

// errAsked ends requests that come too fast.
var errAsked = errors.New("too many ask for invitations")

// introduction is a request: what a member takes, or what a newcomer asks for.
type introduction struct {
	asks  bool
	takes []lan.Locator // of who asks: one
}

func (q introduction) encode() []byte {
	var w wire.Writer
	w.Raw(introduceMagic)
	if q.asks {
		w.Byte(introduceAsks)
		w.Uvarint(uint64(q.takes[0]))
		return w.Bytes()
	}
	w.Byte(introduceTakes)
	w.Uvarint(uint64(len(q.takes)))
	for _, l := range q.takes {
		w.Uvarint(uint64(l))
	}
	return w.Bytes()
}

func parseIntroduction(b []byte) (q introduction, err error) {
	r := wire.NewReader(b)
	if m := r.Raw(len(introduceMagic)); !slices.Equal(m, introduceMagic) {
		r.Fail("magic or version")
	}
	n := uint64(1)
	switch r.Byte() {
	case introduceTakes:
		n = r.Uvarint(maxLocators)
	case introduceAsks:
		q.asks = true
	default:
		r.Fail("kind of request")
	}
	for range n {
		if r.Err() != nil {
			break
		}
		q.takes = append(q.takes, lan.Locator(r.Uvarint(1<<32-1)))
	}
	return q, r.Close()
}

// introduced is the answer to who asks.
type introduced []trust.DeviceID

func (a introduced) encode() []byte {
	var w wire.Writer
	w.Uvarint(uint64(len(a)))
	for _, d := range a {
		w.Raw(d[:])
	}
	return w.Bytes()
}

func parseIntroduced(b []byte) (a introduced, err error) {
	r := wire.NewReader(b)
	for range r.Uvarint(maxIntroduced) {
		var d trust.DeviceID
		r.Fixed(d[:])
		if r.Err() != nil {
			break
		}
		a = append(a, d)
	}
	return a, r.Close()
}

// takers are the devices that take newcomers through a relay.
type takers struct {
	mu struct {
		sync.Mutex
		of map[trust.DeviceID]taking
	}
}

type taking struct {
	locators []lan.Locator
	conn     network.Conn
	until    time.Time
}

func (t *takers) set(d trust.DeviceID, x taking) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mu.of == nil {
		t.mu.of = map[trust.DeviceID]taking{}
	}
	if delete(t.mu.of, d); len(x.locators) > 0 {
		t.mu.of[d] = x
	}
}

func (t *takers) open(d trust.DeviceID) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.openLocked(d, time.Now())
}

func (t *takers) openLocked(d trust.DeviceID, now time.Time) bool {
	x, ok := t.mu.of[d]
	if ok && (x.conn.IsClosed() || now.After(x.until)) {
		delete(t.mu.of, d)
		return false
	}
	return ok
}

// any reports whether somebody takes newcomers.
func (t *takers) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now, some := time.Now(), false
	for d := range t.mu.of {
		some = t.openLocked(d, now) || some
	}
	return some
}

func (t *takers) with(l lan.Locator) (list introduced) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	for d, x := range t.mu.of {
		if len(list) < maxIntroduced && t.openLocked(d, now) && slices.Contains(x.locators, l) {
			list = append(list, d)
		}
	}
	return list
}

// serveIntroduction answers one request, on the relay's side.
func (h *Host) serveIntroduction(ctx context.Context, s network.Stream, device trust.DeviceID) {
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if !h.cfg.Relay.Serves(device) && !h.gate.inviting() {
		_ = s.Reset() // it was let in for something else
		return
	}
	b, err := readJoin(s, maxIntroduceIn)
	if err == nil {
		var q introduction
		if q, err = parseIntroduction(b); err == nil {
			b, err = h.introduce(s.Conn(), device, q)
		}
	}
	if err != nil || writeJoin(s, b) != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (h *Host) introduce(c network.Conn, device trust.DeviceID, q introduction) ([]byte, error) {
	if q.asks {
		if !h.asks.Allow() { // who tries all locators finds all who take newcomers
			return nil, errAsked
		}
		return h.takers.with(q.takes[0]).encode(), nil
	}
	if !h.cfg.Relay.Serves(device) {
		return nil, errNotAdmitted
	}
	h.takers.set(device, taking{q.takes, c, time.Now().Add(reservationTime)})
	return []byte{1}, nil
}

// takeThrough tells a relay for which invitations this device takes newcomers.
func (h *Host) takeThrough(ctx context.Context, relay peer.ID, locators []lan.Locator) error {
	b, err := askRelay(ctx, h.host, relay, introduction{takes: locators[:min(len(locators), maxLocators)]})
	if err == nil && (len(b) != 1 || b[0] != 1) {
		err = wire.ErrMalformed
	}
	if err != nil {
		return fmt.Errorf("have a relay bring newcomers: %w", err)
	}
	return nil
}

// askRelay sends one request to a relay that is connected.
func askRelay(ctx context.Context, by host.Host, relay peer.ID, q introduction) ([]byte, error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), openTimeout)
	defer cancel()
	s, err := by.NewStream(ctx, relay, IntroduceProtocol)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	if err := writeJoin(s, q.encode()); err != nil {
		return nil, err
	}
	return readJoin(s, maxIntroduceIn)
}

// ErrNoRelay says that an anchor was not reached, or lets no newcomer in now.
var ErrNoRelay = errors.New("the anchor cannot be reached, or nobody takes newcomers through it now")

// through finds the inviters that a newcomer may ask through an anchor: whom the code names, or who has the words' invitation.
func (j *joiner) through(ctx context.Context) ([]peer.AddrInfo, error) {
	relay, addrs := j.cfg.Through, parseAddrs(j.cfg.Through.Addrs)
	id, err := PeerID(relay.Device)
	if err != nil {
		return nil, err
	}
	if err := j.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: addrs}); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoRelay, err)
	}
	list := introduced{j.cfg.Invitation.Inviter}
	if j.cfg.Invitation.Spoken {
		b, err := askRelay(ctx, j.host, id, introduction{asks: true, takes: []lan.Locator{j.cfg.Invitation.Locator}})
		if err == nil {
			list, err = parseIntroduced(b)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNoRelay, err)
		}
	}
	var out []peer.AddrInfo
	for _, d := range list {
		inviter, err := PeerID(d)
		if err != nil {
			continue
		}
		out = append(out, peer.AddrInfo{ID: inviter, Addrs: circuitsBy(relay)})
	}
	return out, nil
}

// askThrough asks those whom an anchor brings the newcomer to, one after the other.
func (j *joiner) askThrough(ctx context.Context) (JoinResult, error) {
	find, cancel := context.WithTimeout(ctx, j.cfg.Timeout)
	defer cancel()
	inviters, err := j.through(find)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: %w", err)
	}
	failed := ErrNobody
	for _, at := range inviters[:min(len(inviters), maxAsked)] {
		r, final, err := j.ask(ctx, at.ID, at.Addrs)
		if err == nil || final {
			r.Inviter.Addrs = nil // where it is, the members know
			return r, err
		}
		failed = err
	}
	return JoinResult{}, failed
}
