package p2p_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	ma "github.com/multiformats/go-multiaddr"

	"chartmesh/internal/fuzzing"
	"chartmesh/p2p"
	"chartmesh/trust"
)

const (
	rootNow    = 90 // the number of the identity that the recovery code in force gives
	rootBefore = 91
)

func roots(d trust.DeviceID) p2p.RootKey {
	switch d {
	case newIdentity(rootNow).Device():
		return p2p.RootInForce
	case newIdentity(rootBefore).Device():
		return p2p.RootReplaced
	}
	return p2p.RootNone
}

func newSurvivor(t *testing.T, listen []string) *site {
	m := &members{}
	m.set1(newIdentity(1).Device(), true)
	s := newSite(t, 1, m, func(c *p2p.Config) { c.Root, c.Listen = roots, listen })
	s.answers(t)
	return s
}

// answers waits until the site runs.
func (s *site) answers(t *testing.T) {
	t.Helper()
	wait(t, "it answers", func() bool {
		_, err := call(t, 92, p2p.Bare(s.Addresses()))
		return errors.Is(err, p2p.ErrOtherCode)
	})
}

func call(t *testing.T, i int, addrs []string, entries ...[]byte) (p2p.Reply, error) {
	t.Helper()
	c, err := p2p.NewCaller(newIdentity(i))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}()
	return c.Call(t.Context(), addrs, entries)
}

// TestRecover: who has the code gets the membership log and enters something in it, at an address without a name; nobody else gets a
// word, and who has the code gets nothing but that protocol.
func TestRecover(t *testing.T) {
	for name, listen := range map[string][]string{"quic": quicOnly, "tcp": tcpOnly} {
		t.Run(name, func(t *testing.T) {
			s := newSurvivor(t, listen)
			bare := p2p.Bare(s.Addresses())
			r, err := call(t, rootNow, bare)
			if err != nil || r.Peer.Device != s.id.Device() || len(r.Entries) != 1 || !slices.Equal(r.Peer.Addrs, bare) {
				t.Fatalf("%v, %+v", err, r)
			}
			r, err = call(t, rootNow, bare, []byte("\x00add"))
			if err != nil || len(r.Entries) != 2 || !slices.ContainsFunc(r.Entries, func(e []byte) bool { return bytes.Equal(e, []byte("\x00add")) }) {
				t.Fatalf("%v, %q", err, r.Entries)
			}
			if r, err = call(t, rootBefore, bare, []byte("\x00evil")); !errors.Is(err, p2p.ErrReplacedCode) || r.Entries != nil {
				t.Errorf("with a replaced code: %v, %q", err, r.Entries)
			}
			if r, err = call(t, 92, bare, []byte("\x00evil")); !errors.Is(err, p2p.ErrOtherCode) || r.Entries != nil {
				t.Errorf("with another's code: %v, %q", err, r.Entries)
			}
			if r, err = call(t, rootNow, bare, []byte("\x01cut short")); err == nil || errors.Is(err, p2p.ErrOtherCode) {
				t.Errorf("what cannot be taken: %v, %q", err, r.Entries)
			}
			if r, err = call(t, rootNow, bare); err != nil || len(r.Entries) != 2 {
				t.Errorf("what others brought was taken: %v, %q", err, r.Entries)
			}
		})
	}
	t.Run("nobody there", func(t *testing.T) {
		s := newSurvivor(t, tcpOnly)
		bare := p2p.Bare(s.Addresses())
		s.stop()
		if _, err := call(t, rootNow, bare); err == nil || errors.Is(err, p2p.ErrOtherCode) {
			t.Errorf("%v", err)
		}
	})
	t.Run("no other protocol", func(t *testing.T) {
		s := newSurvivor(t, quicOnly)
		h := newStranger(t, rootNow)
		id, err := p2p.PeerID(s.id.Device())
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		if err := h.Connect(ctx, peer.AddrInfo{ID: id, Addrs: parse(t, s.Addresses())}); err != nil {
			t.Fatal(err)
		}
		stream, err := h.NewStream(ctx, id, p2p.SyncProtocol)
		if err == nil {
			_ = stream.SetReadDeadline(time.Now().Add(3 * time.Second))
			if n, err := stream.Read(make([]byte, 1)); n != 0 || err == nil {
				t.Error("who has the recovery code is spoken to as a member")
			}
		}
		if len(s.Peers()) != 0 {
			t.Errorf("it is a peer: %+v", s.Peers())
		}
	})
}

// TestCallAtOnce: calls that one caller makes at once do not take one device's address for another's.
func TestCallAtOnce(t *testing.T) {
	m := &members{}
	var sites []*site
	for i := range 4 {
		sites = append(sites, newSite(t, i+1, m, func(c *p2p.Config) { c.Root = roots }))
		sites[i].answers(t)
	}
	c, err := p2p.NewCaller(newIdentity(rootNow))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	var calls sync.WaitGroup
	for _, s := range sites {
		calls.Go(func() {
			r, err := c.Call(t.Context(), p2p.Bare(s.Addresses()), nil)
			if err != nil || r.Peer.Device != s.id.Device() {
				t.Errorf("%v, %v answered for %v", err, r.Peer.Device, s.id.Device())
			}
		})
	}
	calls.Wait()
}

// TestCallers: no more than a few hold connections with the recovery code, and members are not kept out by them.
func TestCallers(t *testing.T) {
	s := newSurvivor(t, quicOnly)
	id, err := p2p.PeerID(s.id.Device())
	if err != nil {
		t.Fatal(err)
	}
	in := 0
	for range 8 {
		h := newStranger(t, rootNow)
		if h.Connect(t.Context(), peer.AddrInfo{ID: id, Addrs: parse(t, s.Addresses())}) != nil {
			continue
		}
		if stream, err := h.NewStream(t.Context(), id, p2p.RecoverProtocol); err == nil {
			in++
			_ = stream // it stays open
		}
	}
	if in == 0 || in > 4 {
		t.Errorf("%d callers were let in", in)
	}
}

func TestAddresses(t *testing.T) {
	for text, want := range map[string][]string{
		"192.0.2.7:4801":                 {"/ip4/192.0.2.7/udp/4801/quic-v1", "/ip4/192.0.2.7/tcp/4801"},
		"[2001:db8::1]:4801":             {"/ip6/2001:db8::1/udp/4801/quic-v1", "/ip6/2001:db8::1/tcp/4801"},
		"/ip4/192.0.2.7/udp/1/quic-v1":   {"/ip4/192.0.2.7/udp/1/quic-v1"},
		"/ip4/192.0.2.7/tcp/1":           {"/ip4/192.0.2.7/tcp/1"},
		"192.0.2.7":                      nil,
		"192.0.2.7:0":                    nil,
		"practice.example:4801":          nil,
		"/ip4/192.0.2.7":                 nil,
		"/ip4/192.0.2.7/udp/1/quic-v1/x": nil,
	} {
		got, err := p2p.Addresses(text)
		if !slices.Equal(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func FuzzRecoverMessages(f *testing.F) {
	fuzzing.Seeds(f, func(b []byte) error {
		again, err := p2p.ReencodeRecoverRequest(b)
		if err != nil {
			again, err = p2p.ReencodeRecoverAnswer(b)
		}
		if err == nil && !bytes.Equal(again, b) {
			err = errors.New("comes back as something else")
		}
		return err
	}, p2p.EncodeRecoverRequest(nil), p2p.EncodeRecoverRequest([][]byte{[]byte("one"), []byte(fuzzing.Canary)}),
		p2p.EncodeRecoverAnswer(nil), p2p.EncodeRecoverAnswer([][]byte{[]byte(fuzzing.Canary), bytes.Repeat([]byte{7}, 300)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, read := range []func([]byte) ([]byte, error){p2p.ReencodeRecoverRequest, p2p.ReencodeRecoverAnswer} {
			var again []byte
			var err error
			fuzzing.Allocates(t, len(b), 80, 8<<10, func() { again, err = read(b) })
			fuzzing.Quiet(t, err)
			if err == nil && !bytes.Equal(again, b) {
				t.Fatalf("%x becomes %x", b, again)
			}
		}
	})
}

// newStranger is a peer of somebody else's making.
func newStranger(t *testing.T, i int) host.Host {
	t.Helper()
	key, err := crypto.UnmarshalEd25519PrivateKey(newIdentity(i).key)
	if err != nil {
		t.Fatal(err)
	}
	h, err := libp2p.New(libp2p.NoListenAddrs, libp2p.Identity(key))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func parse(t *testing.T, texts []string) (addrs []ma.Multiaddr) {
	t.Helper()
	for _, text := range p2p.Bare(texts) {
		a, err := ma.NewMultiaddr(text)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, a)
	}
	return addrs
}
