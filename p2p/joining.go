package p2p

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/trust"
	"chartmesh/wire"
)

// serveJoin answers one request of a newcomer, on the inviter's side.
func (h *Host) serveJoin(ctx context.Context, s network.Stream, device trust.DeviceID) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()
	b, err := readJoin(s, maxJoinRequest)
	if err != nil {
		_ = s.Reset()
		return
	}
	a, err := h.redeem(ctx, b, device)
	if err != nil {
		// Why is for the log alone; the stranger learns it neither by words nor by time.
		h.log.Warn("join refused", "device", device, "reason", err)
		timer := time.NewTimer(time.Until(began.Add(refusalDelay)))
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	} else {
		h.log.Info("device joined", "device", device)
	}
	if writeJoin(s, a.encode()) != nil {
		_ = s.Reset()
		return
	}
	_ = s.CloseWrite()
	_, _ = io.CopyN(io.Discard, s, 1) // until the newcomer hangs up
	_ = s.Close()
	if err == nil {
		h.MembershipChanged()
	}
}

func (h *Host) redeem(ctx context.Context, b []byte, device trust.DeviceID) (answer, error) {
	q, err := parseRequest(b, h.self)
	if err != nil {
		return answer{}, fmt.Errorf("read request: %w", err)
	}
	if q.Newcomer.Device != device {
		return answer{}, errors.New("the request is for another device than the one that sent it")
	}
	res, err := h.cfg.Invites.Redeem(ctx, q)
	if err != nil {
		return answer{}, err
	}
	if !q.Proves(res.Key) || len(res.Entries) == 0 {
		return answer{}, errors.New("the request does not prove the code")
	}
	a := answer{entries: res.Entries}
	a.mac = a.macUnder(res.Key, q)
	return a, nil
}

// Join asks the inviter of a code for membership. It runs a host of its own for that time and listens nowhere. ErrRefused
// means that the code is wrong, used or expired.
func Join(ctx context.Context, cfg JoinConfig) (JoinResult, error) {
	if cfg.Timeout <= 0 {
		cfg.Timeout = joinTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n := cfg.Newcomer
	n.Device = cfg.Identity.Device()
	if len(n.HPKE) > MaxHPKEKey || len(n.DeviceName) > MaxJoinName || len(n.SiteName) > MaxJoinName {
		return JoinResult{}, errors.New("join: name or key is too long")
	}
	id, err := PeerID(cfg.Code.Inviter)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: %w", err)
	}
	g := newGate(func(d trust.DeviceID) bool { return d == cfg.Code.Inviter }, nil)
	g.open.Store(true)
	h, err := newHost(cfg.Identity, g, nil)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: %w", err)
	}
	defer func() { _ = h.Close() }()
	addrs := parseAddrs(cfg.Code.Addrs)
	if len(addrs) == 0 {
		return JoinResult{}, errors.New("join: the code names no address")
	}
	if err := h.Connect(ctx, peer.AddrInfo{ID: id, Addrs: addrs}); err != nil {
		return JoinResult{}, fmt.Errorf("join: the inviting device cannot be reached, or takes no newcomers now: %w", err)
	}
	s, err := h.NewStream(network.WithNoDial(ctx, "connected"), id, JoinProtocol)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: the inviting device takes no newcomers now: %w", err)
	}
	defer func() { _ = s.Reset() }()
	defer context.AfterFunc(ctx, func() { _ = s.Reset() })()

	var nonce [32]byte
	_, _ = rand.Read(nonce[:]) // never fails
	q := cfg.Code.Request(n, nonce)
	if err := writeJoin(s, q.encode()); err != nil {
		return JoinResult{}, fmt.Errorf("join: send request: %w", err)
	}
	b, err := readJoin(s, MaxJoinAnswer)
	if err != nil {
		return JoinResult{}, fmt.Errorf("join: read answer: %w", err)
	}
	a, err := parseAnswer(b)
	switch {
	case err != nil:
		return JoinResult{}, fmt.Errorf("join: read answer: %w", err)
	case len(a.entries) == 0:
		return JoinResult{}, ErrRefused
	case !a.provenBy(cfg.Code.Key(), q):
		return JoinResult{}, errors.New("join: the answer is not vouched for by the code")
	case !slices.ContainsFunc(a.entries, func(e []byte) bool { return cfg.Code.Founds(sha256.Sum256(e)) }):
		return JoinResult{}, errors.New("join: the answer is of another practice than the code")
	}
	return JoinResult{Entries: a.entries, Inviter: inviterAddr(cfg.Code, s.Conn().RemoteMultiaddr())}, nil
}

// inviterAddr lists the inviter's addresses, first the one that worked.
func inviterAddr(c Code, worked ma.Multiaddr) PeerAddr {
	addrs := []string{worked.String()}
	for _, a := range c.Addrs {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return PeerAddr{Device: c.Inviter, Addrs: addrs}
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
