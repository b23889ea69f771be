package p2p

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p/session"
	"chartmesh/trust"
	"chartmesh/wire"
)

// link is a running session on a stream: one goroutine reads, one writes.
type link struct {
	device  trust.DeviceID
	stream  network.Stream
	session *session.Session
	replica session.Replica
	since   time.Time
	way     string
	addr    string

	wake   chan struct{} // the session may have something to send
	cancel context.CancelCauseFunc
	gone   chan struct{} // closed when the link is no longer in the host's books
}

// called reports whether the peer opened the connection.
func (l *link) called() bool { return l.stream.Conn().Stat().Direction == network.DirInbound }

func (l *link) wakeWriter() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// end ends the link for a reason.
func (l *link) end(err error) { l.cancel(err) }

// serve runs a session on a stream until it ends, and says how it went.
func (h *Host) serve(ctx context.Context, s network.Stream, device trust.DeviceID) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	cfg := h.cfg.Session
	replica := h.cfg.ReplicaOf(device)
	if replica == nil {
		_ = s.Reset()
		return errNotAdmitted
	}
	cfg.Self, cfg.Peer, cfg.Replica, cfg.Version, cfg.Schema = h.self, device, replica, h.cfg.Version, h.cfg.Schema
	cfg.Feed, cfg.Blind = &h.feed, h.cfg.Blind != nil && h.cfg.Blind(device)
	cfg.Full = func() session.Full { return h.fullOf(replica) }
	l := &link{
		device: device, stream: s, session: session.New(cfg), replica: replica, since: time.Now(),
		way: wayOf(s.Conn().RemoteMultiaddr()), addr: s.Conn().RemoteMultiaddr().String(),
		wake: make(chan struct{}, 1), cancel: cancel, gone: make(chan struct{}),
	}
	if err := h.register(l); err != nil {
		if errors.Is(err, errCrowded) || errors.Is(err, errDropped) {
			cancel(err)
			h.part(ctx, l, err)
		}
		_ = s.Reset()
		return err
	}
	if !h.cfg.Admit(device) {
		cancel(errNotAdmitted) // who ended the links of those who are not, did not see this one
	}
	// Whoever waits for the stream when the link ends must not wait for the peer.
	stop := context.AfterFunc(ctx, func() {
		now := time.Now()
		_ = s.SetReadDeadline(now)
		_ = s.SetWriteDeadline(now.Add(farewell))
	})
	h.log.Info("peer connected", "device", device, "way", l.way)
	l.session.Start(time.Now())
	h.observe(l)

	var beside sync.WaitGroup
	_, going := h.largeOf(replica)
	beside.Go(func() { l.end(l.write(ctx, going)) })
	beside.Go(func() { h.askAgain(ctx, l) })
	l.end(h.read(ctx, l))
	beside.Wait()
	stop()

	err := context.Cause(ctx)
	h.part(ctx, l, err)
	_ = s.Reset()
	if errors.Is(err, errNotAdmitted) || errors.Is(err, errDropped) {
		_ = s.Conn().Close() // it was a member's; if it comes again, it comes as what it is now
	}
	h.unregister(l, err)
	h.logEnd(device, err)
	return err
}

// part tells the peer why the link ends, where that is its business. ctx is the link's, and has ended.
func (h *Host) part(ctx context.Context, l *link, err error) {
	reason, ok := parting(err)
	if !ok {
		return
	}
	s := l.stream
	_ = s.SetWriteDeadline(time.Now().Add(farewell))
	w := newFrameWriter(s, ctx.Done())
	if w.write(l.session.Bye(reason)) == nil && w.flush() == nil && s.CloseWrite() == nil {
		// The peer has read it when it hangs up; a reset before that would take it back.
		_ = s.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.CopyN(io.Discard, s, session.MaxFrame)
	}
}

// parting returns the BYE that a link's end calls for, if any.
func parting(err error) (session.Reason, bool) {
	_, incompatible := errors.AsType[*session.IncompatibleError](err)
	switch {
	case incompatible:
		return session.ReasonIncompatible, true
	case errors.Is(err, session.ErrWrongPractice):
		return session.ReasonWrongPractice, true
	case errors.Is(err, session.ErrFlood):
		return session.ReasonFlood, true
	case errors.Is(err, wire.ErrMalformed), errors.Is(err, session.ErrBadSignature):
		return session.ReasonMalformed, true
	case errors.Is(err, errReplaced):
		return session.ReasonReplaced, true
	case errors.Is(err, errCrowded):
		return session.ReasonCrowded, true
	case errors.Is(err, errDropped):
		return session.ReasonDropped, true
	case errors.Is(err, errClosing), errors.Is(err, context.Canceled):
		return session.ReasonClosing, true
	}
	return 0, false // the stream is broken, or the peer said BYE, or it is none of the peer's business
}

func (h *Host) logEnd(device trust.DeviceID, err error) {
	level := slog.LevelInfo
	if reason, ok := parting(err); ok && !slices.Contains([]session.Reason{session.ReasonClosing, session.ReasonReplaced, session.ReasonDropped}, reason) {
		level = slog.LevelWarn
	}
	h.log.Log(context.Background(), level, "peer disconnected", "device", device, "reason", err)
}

// register makes l the link of its device. An older one, which may be half dead, goes first.
func (h *Host) register(l *link) error {
	for {
		h.mu.Lock()
		m, err := h.memberLocked(l.device)
		switch {
		case err != nil:
			h.mu.Unlock()
			return err
		case h.mu.ended || !h.mu.online:
			h.mu.Unlock()
			return errClosing
		case gone(l.replica): // asked where Forget sees the link if it is not
			h.mu.Unlock()
			return errDropped
		case m.link == nil && h.crowdedLocked(l.replica):
			h.mu.Unlock()
			return errCrowded
		case m.link == nil:
			h.ofLocked(l.replica).open++
			m.link, m.reason, m.incompt, m.reached, m.knockAt = l, "", false, false, time.Time{}
			m.directAt, m.directs = time.Now().Add(directAfter), 0
			h.mu.Unlock()
			if l.way != wayRelayed {
				closeRelayed(h.host.Network().ConnsToPeer(m.id))
			}
			return nil
		}
		old := m.link
		h.mu.Unlock()
		old.end(errReplaced)
		<-old.gone
	}
}

func (h *Host) unregister(l *link, err error) {
	l.session.End()
	status := l.session.Status()
	h.mu.Lock()
	m := h.mu.peers[l.device]
	m.link = nil
	m.last = status
	h.mu.past.add(status)
	if of := h.mu.of[l.replica]; of != nil { // nil: it was forgotten meanwhile
		of.open--
		of.past.add(status)
		of.contact = maxTime(of.contact, status.LastFrame)
	}
	m.incompt = status.Incompatible
	m.reason = reasonOf(err)
	switch heard := !status.LastFrame.IsZero(); {
	case heard:
		if m.refused = false; h.takenForAnothers(l.device, err) {
			m.knockAt = time.Now()
		}
	case m.refused:
		m.reason = reasonRemoved
		fallthrough
	case h.opens(l.device):
		m.knockAt = time.Now() // it said no word
	}
	if status.LastFrame.After(m.contact) {
		m.contact = status.LastFrame
	}
	h.waitLocked(m)
	h.mu.Unlock()
	close(l.gone)
	h.tell(l.device)
	h.wakeDialler()
}

// takenForAnothers reports whether a session ended because an anchor takes this device for one of another practice: any practice can name
// any device, and the own one may have removed this one there.
func (h *Host) takenForAnothers(peer trust.DeviceID, err error) bool {
	bye, said := errors.AsType[*session.ByeError](err)
	return h.cfg.Replica != nil && h.cfg.Blind != nil && h.cfg.Blind(peer) &&
		(errors.Is(err, session.ErrWrongPractice) || said && bye.Reason == session.ReasonWrongPractice)
}

// Why a peer does not let this device in: it has said so, or it did not hear what speaks for this device.
const (
	reasonRemoved = "it does not let this device in: as far as it knows, this one was removed"
	reasonUnheard = "it does not let this device in, and did not hear why it should"
)

func reasonOf(err error) string {
	switch {
	case err == nil, errors.Is(err, errClosing), errors.Is(err, context.Canceled):
		return "this device is offline"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, network.ErrReset):
		return "the connection was lost"
	}
	return err.Error()
}

// read takes frames off the stream until it ends.
func (h *Host) read(ctx context.Context, l *link) error {
	r := newFrameReader(l.stream)
	r.await = func(n int) { await(ctx, l.replica, n) }
	r.coming, _ = h.largeOf(l.replica)
	defer func() { r.done() }()
	for {
		f, err := r.read(session.MaxFrame)
		if err != nil {
			return err
		}
		res, err := l.session.Handle(ctx, time.Now(), f)
		l.wakeWriter()
		if err != nil {
			return err
		}
		if len(res.Arrived) > 0 || res.Entries {
			h.relay(l, res)
		}
		h.observe(l)
	}
}

// relay tells the other sessions what one of them brought.
func (h *Host) relay(from *link, res session.Result) {
	now := time.Now()
	for _, l := range h.links() {
		if l == from || l.replica != from.replica {
			continue
		}
		if len(res.Arrived) > 0 {
			l.session.Relayed(now, res.Arrived)
		}
		if res.Entries {
			l.session.LocalEntries(now)
		}
		l.wakeWriter()
	}
	if res.Entries {
		h.membershipChanged(from.replica)
	}
}

// write sends what the session has to say, as the stream takes it.
func (l *link) write(ctx context.Context, going *large) error {
	w := newFrameWriter(l.stream, ctx.Done())
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		for {
			f, err := l.session.Next(ctx, time.Now())
			if err != nil {
				return err
			}
			if f == nil {
				break
			}
			giveBack, err := going.take(len(f))
			if err == nil {
				err = w.write(f)
			}
			if giveBack(); err != nil {
				return err
			}
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		if err := w.flush(); err != nil {
			return err
		}
		wait := time.Hour
		if d := l.session.Deadline(); !d.IsZero() {
			wait = max(time.Until(d), time.Millisecond)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// observe tells the owner when a link's state is another than it was.
func (h *Host) observe(l *link) {
	s := l.session.Status()
	h.mu.Lock()
	m := h.mu.peers[l.device]
	if m == nil || m.link != l {
		h.mu.Unlock()
		return
	}
	if s.InSync || time.Since(l.since) > backoffMost {
		m.failures = 0 // a session that breaks down again and again is not tried again and again at once
	}
	t := telling{stateOf(s), s.Agreed}
	news := t != m.told
	m.told = t
	h.mu.Unlock()
	if news {
		h.news.state(l.device, t.state)
	}
}

// tell tells the owner of a device without a link.
func (h *Host) tell(d trust.DeviceID) {
	h.mu.Lock()
	m := h.mu.peers[d]
	if m == nil || m.link != nil {
		h.mu.Unlock()
		return
	}
	t := telling{state: Offline}
	if m.incompt {
		t.state = Incompatible
	}
	news := t != m.told
	m.told = t
	h.mu.Unlock()
	if news {
		h.news.state(d, t.state)
	}
}

// Ways of a link. What is direct may be said more exactly (wayNow).
const (
	wayRelayed   = "relayed" // a relay passes it on
	wayDirect    = "direct " // before the transport
	wayUnknown   = "unknown"
	wayLAN       = "LAN "     // in place of direct: to an address of the local network
	wayPunched   = "punched " // in place of direct: both called each other at one moment
	wayMapped    = "mapped "  // in place of direct: it came in through a port of this side's router
	wayWebSocket = "websocket"
)

func wayOf(a ma.Multiaddr) string {
	if isRelayed(a) {
		return wayRelayed
	}
	way := wayUnknown
	for _, c := range a {
		switch c.Protocol().Code {
		case ma.P_QUIC_V1:
			return wayDirect + "quic"
		case ma.P_TCP:
			way = wayDirect + "tcp"
		case ma.P_WS, ma.P_WSS:
			return wayDirect + wayWebSocket
		}
	}
	return way
}
