package p2p

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/protocol"
	"golang.org/x/time/rate"

	"chartmesh/trust"
	"chartmesh/wire"
)

// KnockProtocol is the libp2p protocol by which a device that is not let in brings the membership entries by which it may belong: who
// refuses it may not have heard of them, and would not from anybody else.
//
// Each stream carries one request and one answer, each behind its length, four bytes, big endian:
//
//	request  "cmkn" | 1 | count | entries…      the caller's membership log, parents first
//	answer   1                                  the caller belongs, with these
//	      or 2                                  it does not, and none was taken
//
// The caller gives its log to members alone, as it knows them. The other gives nothing.
const KnockProtocol protocol.ID = "/chartmesh/knock/1.0.0"

// Readmission judges devices that do not belong, as far as is known here.
type Readmission interface {
	// Former reports whether a device belonged and was removed: whether it may knock.
	Former(trust.DeviceID) bool
	// Readmit takes the entries that a device brings if with them it belongs, and reports whether it does now; else it takes none.
	Readmit(ctx context.Context, from trust.DeviceID, entries [][]byte) (bool, error)
}

var knockMagic = []byte{'c', 'm', 'k', 'n', 1}

const (
	knockTaken   = 1
	knockRefused = 2
)

func encodeKnock(entries [][]byte) []byte {
	var w wire.Writer
	w.Raw(knockMagic)
	appendEntries(&w, entries)
	return w.Bytes()
}

func parseKnock(b []byte) ([][]byte, error) {
	r := wire.NewReader(b)
	if m := r.Raw(len(knockMagic)); !slices.Equal(m, knockMagic) {
		r.Fail("magic or version")
	}
	list := readEntries(r)
	return list, r.Close()
}

// knocks are the removed devices that were let in to knock, and when others may come again. A device costs one connection in
// knockSoon, and when it has knocked in vain, one in knockAgain.
type knocks struct {
	rate *rate.Limiter
	mu   struct {
		sync.Mutex
		of map[trust.DeviceID]knock
	}
}

type knock struct {
	in   time.Time // let in; zero: it is done
	next time.Time // not before
	used bool      // it has knocked
}

func newKnocks() *knocks {
	k := &knocks{rate: rate.NewLimiter(strangersPerSecond, strangersBurst)}
	k.mu.of = map[trust.DeviceID]knock{}
	return k
}

// enter lets a device in, if it and all together have not come too often.
func (k *knocks) enter(d trust.DeviceID, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	inside := 0
	for d, o := range k.mu.of {
		switch {
		case now.Sub(o.in) < strangerLimit:
			inside++
		case !now.Before(o.next):
			delete(k.mu.of, d)
		}
	}
	if now.Before(k.mu.of[d].next) || inside >= maxKnocking || !k.rate.AllowN(now, 1) {
		return false
	}
	k.mu.of[d] = knock{in: now, next: now.Add(knockSoon)}
	return true
}

// inside reports whether a device was let in to knock, and is not done.
func (k *knocks) inside(d trust.DeviceID, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return now.Sub(k.mu.of[d].in) < strangerLimit
}

// use reports whether a device may knock. Unless it is readmitted, it may not again for long.
func (k *knocks) use(d trust.DeviceID, now time.Time) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	o := k.mu.of[d]
	if o.used || now.Sub(o.in) >= strangerLimit {
		return false
	}
	k.mu.of[d] = knock{o.in, now.Add(knockAgain), true}
	return true
}

// done says that a device has its answer.
func (k *knocks) done(d trust.DeviceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if o, ok := k.mu.of[d]; ok {
		o.in = time.Time{}
		k.mu.of[d] = o
	}
}

func (k *knocks) readmitted(d trust.DeviceID) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.mu.of, d)
}

// serveKnock answers a device that does not belong and says that it should.
func (h *Host) serveKnock(ctx context.Context, s network.Stream, device trust.DeviceID) {
	ctx, cancel := context.WithTimeout(ctx, knockPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	former, admitted, now := h.cfg.Readmission.Former(device), h.cfg.Admit(device), time.Now()
	belongs := !former && admitted                                                                    // it may have been let in by somebody else's word meanwhile
	in := h.gate.knocks.inside(device, now) || former && admitted && h.gate.knocks.enter(device, now) // as another practice's
	if !belongs && !in {
		_ = s.Reset() // it was let in for something else, or is one that was cut off
		return
	}
	if !belongs {
		defer func() {
			if !belongs {
				h.gate.knocks.done(device)
				h.wakeDialler() // which closes the connection
			}
		}()
		var err error
		if belongs, err = h.hearKnock(ctx, s, device); err != nil {
			h.log.Warn("membership entries of a removed device were not looked at", "device", device, "error", err)
			_ = s.Reset()
			return
		}
		h.log.Info("a removed device came with membership entries", "device", device, "belongs", belongs)
	}
	answer := byte(knockRefused)
	if belongs {
		answer = knockTaken
	}
	if writeJoin(s, []byte{answer}) != nil {
		_ = s.Reset()
		return
	}
	_ = s.CloseWrite()
	_, _ = io.Copy(io.Discard, io.LimitReader(s, maxKnock)) // until the caller hangs up
	_ = s.Close()
}

// hearKnock takes one device at a time, so that all of them together cost no more than one.
func (h *Host) hearKnock(ctx context.Context, s network.Stream, device trust.DeviceID) (belongs bool, err error) {
	select {
	case h.hearing <- struct{}{}:
		defer func() { <-h.hearing }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	if !h.gate.knocks.use(device, time.Now()) {
		return false, errNotAdmitted
	}
	b, err := readJoin(s, maxKnock)
	if err != nil {
		return false, fmt.Errorf("read entries: %w", err)
	}
	entries, err := parseKnock(b)
	if err != nil {
		return false, fmt.Errorf("read entries: %w", err)
	}
	if belongs, err = h.cfg.Readmission.Readmit(ctx, device, entries); err != nil {
		return false, fmt.Errorf("take membership entries: %w", err)
	}
	if belongs {
		h.gate.knocks.readmitted(device)
		h.MembershipChanged()
	}
	return belongs, nil
}

// knock gives this device's membership log to a member that seems not to let it in. When that changed something, the connection
// begins anew, as a member's.
func (h *Host) knock(ctx context.Context, m *member) {
	replica := h.cfg.ReplicaOf(m.device)
	if replica == nil { // it was removed meanwhile
		h.mu.Lock()
		m.reaching = false
		h.mu.Unlock()
		return
	}
	offer := sha256.New()
	for _, head := range replica.Hello(m.device).Heads {
		offer.Write(head[:])
	}
	heads := [32]byte(offer.Sum(nil))
	h.mu.Lock()
	again := heads == m.offered && time.Since(m.offeredAt) < knockSame
	h.mu.Unlock()
	var conn network.Conn
	belongs, err := false, error(nil)
	if !again {
		belongs, conn, err = h.offer(ctx, m, replica.EntriesSince(nil))
	}
	h.mu.Lock()
	m.reaching = false
	if conn != nil && err == nil {
		m.offeredAt, m.offered, m.refused = time.Now(), heads, !belongs
		m.knockNext = m.offeredAt.Add(knockAgain)
		if belongs {
			m.offered, m.reached = [32]byte{}, false
			m.failures, m.next = 0, time.Time{}
		} else {
			m.reason = reasonRemoved
		}
		if m.link != nil && belongs {
			conn = nil // it was only slow
		}
	}
	h.mu.Unlock()
	switch {
	case err != nil:
		h.mu.Lock()
		if m.link == nil {
			m.reason = reasonUnheard
		}
		h.mu.Unlock()
		h.log.Debug("a device that does not let this one in does not hear why it should", "device", m.device, "error", err)
	case conn != nil:
		h.log.Info("a device that did not let this one in was given the membership log", "device", m.device, "lets_in", belongs)
		_ = conn.Close()
	}
	h.wakeDialler()
}

func (h *Host) offer(ctx context.Context, m *member, entries [][]byte) (belongs bool, c network.Conn, err error) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(ctx, "connected"), knockPatience)
	defer cancel()
	s, err := h.host.NewStream(ctx, m.id, KnockProtocol)
	if err != nil {
		return false, nil, err
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	unsent := writeJoin(s, encodeKnock(entries)) // an answer may come before it was read
	b, err := readJoin(s, 1)
	switch {
	case err != nil:
		return false, nil, errors.Join(unsent, err)
	case len(b) != 1 || b[0] != knockTaken && b[0] != knockRefused:
		return false, nil, fmt.Errorf("read answer: %w", wire.ErrMalformed)
	}
	return b[0] == knockTaken, s.Conn(), nil
}
