package p2p

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/p2p/lan"
	"chartmesh/trust"
	"chartmesh/wire"
)

// serveJoin answers a newcomer, on the inviter's side.
func (h *Host) serveJoin(ctx context.Context, s network.Stream, device trust.DeviceID) {
	if h.gate.knocking(s.Conn().RemotePeer()) && !h.cfg.Invites.Open() {
		_ = s.Reset() // it was let in for something else
		return
	}
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	impatient := time.AfterFunc(joinPatience, cancel)
	defer impatient.Stop()
	say, err := h.exchange(ctx, s, device)
	if err != nil && say == nil {
		_ = s.Reset() // it hung up, or does not speak the protocol
		return
	}
	impatient.Stop()
	var entries [][]byte
	if err == nil {
		entries, err = h.redeem(ctx, s, say)
	}
	var last []byte
	why, told := errors.AsType[Refusal](err)
	if !told {
		why = RefusedNow
	}
	switch {
	case err == nil:
		h.log.Info("device joined", "device", device)
		last = say.say(answer{kind: saysWelcome, entries: entries})
	default:
		h.log.Warn("join refused", "device", device, "reason", err)
		if last = say.refusal(why); !say.proven {
			// Who has proven nothing learns nothing by time either.
			select {
			case <-time.After(time.Until(began.Add(refusalDelay))):
			case <-ctx.Done():
			}
		}
	}
	_ = s.SetDeadline(time.Now().Add(joinPatience))
	if writeJoin(s, last) != nil {
		_ = s.Reset()
		return
	}
	_ = s.CloseWrite()
	_, _ = io.CopyN(io.Discard, s, 1) // until the newcomer hangs up
	_ = s.Close()
	if err == nil {
		h.MembershipChanged()
	} else if say.proven {
		_ = s.Conn().Close() // its time as a stranger may have run out while it waited
	}
}

// exchange hears what a stranger says and whether it knows the secret. With an error and an answering that is not nil the
// stranger is refused; with none but an error there is nobody to say it to.
func (h *Host) exchange(ctx context.Context, s network.Stream, device trust.DeviceID) (*answering, error) {
	b, err := readJoin(s, maxJoinHello)
	if err != nil {
		return nil, err
	}
	m, err := parseHello(b)
	if err != nil {
		return &answering{}, fmt.Errorf("%w: %w", RefusedUnknown, err)
	}
	terms, err := h.cfg.Invites.Terms(m.invite)
	if err != nil {
		return &answering{}, err
	}
	a := challengeTo(b, m, terms, h.self, device)
	if err := writeJoin(s, a.challenge); err != nil {
		return nil, err
	}
	if b, err = readJoin(s, maxJoinProof); err != nil {
		return nil, err
	}
	p, err := parseProof(b)
	if err != nil {
		return nil, err
	}
	// From here on the other side can learn whether a guess is right, be it by our silence. The stream's end does not end
	// the counting.
	if err := h.cfg.Invites.Count(context.WithoutCancel(ctx), m.invite); err != nil {
		return a, err
	}
	if err := a.judge(p); err != nil {
		return a, fmt.Errorf("%w: %w", RefusedUnknown, err)
	}
	a.proven = true
	return a, nil
}

// redeem has the invite's keeper admit a newcomer who has proven the code. It may wait for a person meanwhile; if the newcomer
// hangs up, it does not.
func (h *Host) redeem(ctx context.Context, s network.Stream, a *answering) ([][]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, confirmLimit)
	defer cancel()
	device := a.newcomer.Device
	h.mu.Lock()
	h.mu.proven[device]++
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if h.mu.proven[device]--; h.mu.proven[device] == 0 {
			delete(h.mu.proven, device)
		}
	}()
	return h.cfg.Invites.Redeem(ctx, a.invite, a.newcomer, func() {
		if writeJoin(s, a.say(answer{kind: saysWaiting})) != nil {
			cancel()
			return
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if !h.mu.ended {
			h.work.Go(func() {
				defer cancel()
				_, _ = io.CopyN(io.Discard, s, 1) // the newcomer has no more to say: it hung up
			})
		}
	})
}

func (h *Host) hasProven(d trust.DeviceID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.proven[d] > 0
}

// Join asks the inviter for membership. It runs a host of its own for that time and listens nowhere. ErrRefused means that
// the inviter will not have it, and why.
func Join(ctx context.Context, cfg JoinConfig) (JoinResult, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = joinTimeout
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Newcomer.Device = cfg.Identity.Device()
	if n := cfg.Newcomer; len(n.HPKE) > MaxHPKEKey || len(n.DeviceName) > MaxJoinName || len(n.SiteName) > MaxJoinName {
		return JoinResult{}, errors.New("join: name or key is too long")
	}
	g := newGate(func(trust.DeviceID) bool { return true }, nil) // it dials nobody but whom it means to
	g.open.Store(true)
	h, err := newHost(Config{Identity: cfg.Identity}, g, len(cfg.Through.Addrs) > 0)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: %w", err)
	}
	defer func() { _ = h.Close() }()
	j := joiner{cfg: cfg, host: h}
	if len(cfg.Through.Addrs) > 0 {
		return j.askThrough(ctx)
	}
	if !cfg.Invitation.Spoken {
		id, err := PeerID(cfg.Invitation.Inviter)
		if err != nil {
			return JoinResult{}, fmt.Errorf("join: %w", err)
		}
		addrs := append(parseAddrs(cfg.Addrs), parseAddrs(cfg.Invitation.Addrs)...)
		if len(addrs) == 0 {
			return JoinResult{}, errors.New("join: the code names no address")
		}
		r, _, err := j.ask(ctx, id, addrs)
		return r, err
	}
	return j.askAround(ctx)
}

// joiner is a newcomer that looks for its inviter.
type joiner struct {
	cfg  JoinConfig
	host host.Host
}

// seekOn is how long a newcomer looks for another inviter when one that claimed to be it was not.
const seekOn = 3 * time.Second

// askAround asks those who may have the invitation, one after the other, until one proves that it has.
func (j *joiner) askAround(ctx context.Context) (JoinResult, error) {
	seeking, cancel := context.WithTimeout(ctx, j.cfg.Timeout)
	defer cancel()
	found := make(chan []ma.Multiaddr)
	var failed, unsought error
	sought := make(chan struct{})
	go func() {
		defer close(sought)
		unsought = j.find(seeking, found)
		close(found)
	}()
	defer func() {
		cancel()
		<-sought
	}()
	asked := map[peer.ID]bool{}
	for len(asked) < maxAsked {
		select {
		case <-seeking.Done():
		case addrs, more := <-found:
			if !more {
				failed = errors.Join(failed, unsought)
				break
			}
			id, err := whoIs(seeking, j.host, addrs)
			switch {
			case err != nil:
				failed = errors.Join(failed, err)
				continue
			case asked[id]:
				continue
			}
			asked[id] = true
			r, final, err := j.ask(ctx, id, addrs)
			if err == nil || final {
				return r, err
			}
			failed = err // of those who were asked the last word counts
			time.AfterFunc(seekOn, cancel)
			continue
		}
		break
	}
	switch {
	case ctx.Err() != nil:
		return JoinResult{}, fmt.Errorf("join: %w", ctx.Err())
	case failed != nil:
		return JoinResult{}, fmt.Errorf("join: %w", failed)
	}
	return JoinResult{}, ErrNobody
}

// ErrNobody says that no device that has the invitation was found.
var ErrNobody = errors.New("no device that has this invitation was found")

// find sends the addresses of who may have the invitation, one who may have it at a time. It returns when there are no more.
func (j *joiner) find(ctx context.Context, to chan<- []ma.Multiaddr) error {
	send := func(addrs []ma.Multiaddr) {
		select {
		case to <- addrs:
		case <-ctx.Done():
		}
	}
	if len(j.cfg.Addrs) > 0 {
		send(parseAddrs(j.cfg.Addrs))
		return nil
	}
	invites := func(a lan.Announcement) bool { return a.Invites(j.cfg.Invitation.Locator) }
	return lan.Seek(ctx, j.cfg.Multicast, invites, func(at netip.Addr, udp, tcp uint16) { send(soughtAt(at, udp, tcp)) })
}

// open opens a stream to a device. One that lets in only so many strangers a second is asked again.
func (j *joiner) open(ctx context.Context, id peer.ID, addrs []ma.Multiaddr) (s network.Stream, err error) {
	for try := 0; ; try++ {
		if err = j.host.Connect(ctx, peer.AddrInfo{ID: id, Addrs: addrs}); err == nil {
			if s, err = j.host.NewStream(network.WithNoDial(ctx, "connected"), id, JoinProtocol); err == nil {
				return s, nil
			}
		}
		if try == maxAskedAgain {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(time.Second / strangersPerSecond):
		}
		if w, ok := j.host.Network().(*swarm.Swarm); ok {
			w.Backoff().Clear(id)
		}
	}
}

// ask goes through the exchange with one device. final: it has proven that it knows the secret, so there is no other to ask.
func (j *joiner) ask(ctx context.Context, id peer.ID, addrs []ma.Multiaddr) (r JoinResult, final bool, err error) {
	inviter, err := DeviceOf(id)
	if err != nil {
		return r, false, fmt.Errorf("join: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	impatient := time.AfterFunc(j.cfg.Timeout, cancel)
	defer impatient.Stop()
	s, err := j.open(ctx, id, addrs)
	if err != nil {
		return r, false, fmt.Errorf("join: the inviting device cannot be reached, or takes no newcomers now: %w", err)
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()

	var session [16]byte
	_, _ = rand.Read(session[:]) // never fails
	a := ask(j.cfg.Invitation, inviter, j.cfg.Newcomer, session)
	if err := writeJoin(s, a.hello); err != nil {
		return r, false, fmt.Errorf("join: %w", err)
	}
	b, err := readJoin(s, maxJoinHello)
	if err != nil {
		return r, false, fmt.Errorf("join: read challenge: %w", err)
	}
	proof, err := a.prove(b, j.cfg.Newcomer)
	if err != nil {
		return r, false, fmt.Errorf("join: %w", err)
	}
	if err := writeJoin(s, proof); err != nil {
		return r, false, fmt.Errorf("join: %w", err)
	}
	for done := false; !done; {
		if b, err = readJoin(s, MaxJoinAnswer); err != nil {
			return r, a.heard, fmt.Errorf("join: read answer: %w", err)
		}
		if r.Entries, done, err = a.hear(b); err != nil {
			return JoinResult{}, a.heard, fmt.Errorf("join: %w", err)
		}
		if impatient.Stop(); !done && j.cfg.Waiting != nil {
			j.cfg.Waiting()
		}
	}
	r.Role, r.HPKE = a.challenge.role, a.challenge.hpke
	r.Inviter = PeerAddr{Device: inviter, Addrs: []string{s.Conn().RemoteMultiaddr().String()}}
	for _, m := range addrs {
		if text := m.String(); !slices.Contains(r.Inviter.Addrs, text) {
			r.Inviter.Addrs = append(r.Inviter.Addrs, text)
		}
	}
	return r, true, nil
}

func writeJoin(s network.Stream, b []byte) error {
	_, err := s.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
	return err
}

func readJoin(s network.Stream, limit int) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(s, head[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint32(head[:]))
	if n > limit {
		return nil, fmt.Errorf("%w: %d bytes long", wire.ErrMalformed, n)
	}
	b, err := io.ReadAll(io.LimitReader(s, int64(n)))
	if err == nil && len(b) != n {
		err = io.ErrUnexpectedEOF
	}
	return b, err
}
