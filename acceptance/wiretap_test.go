package acceptance

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"

	"chartmesh/p2p"
	"chartmesh/trust"
	"chartmesh/trust/keyring"
)

// anchorKeys are the keys of an anchor, as docs/spec/anchor.md has them follow from its identity file.
type anchorKeys struct{ seed []byte }

func (a *running) keys() anchorKeys {
	a.t.Helper()
	b, err := os.ReadFile(filepath.Join(a.dir, "identity"))
	must(a.t, err)
	if len(b) != 5+ed25519.SeedSize || !bytes.HasPrefix(b, []byte("cmai\x01")) {
		a.t.Fatalf("the identity file has another form: %d bytes", len(b))
	}
	return anchorKeys{b[5:]}
}

func (k anchorKeys) Device() trust.DeviceID {
	return trust.DeviceID(ed25519.NewKeyFromSeed(k.seed).Public().(ed25519.PublicKey))
}

func (k anchorKeys) SignTransport(message []byte) ([]byte, error) {
	return ed25519.Sign(ed25519.NewKeyFromSeed(k.seed), message), nil
}

func (k anchorKeys) Derive(context string) (out [32]byte) {
	b, err := hkdf.Expand(sha256.New, k.seed, "chartmesh anchor: "+context, len(out))
	if err != nil {
		panic(err) // 32 bytes can always be had
	}
	copy(out[:], b)
	return out
}

// wiretap is a man in the middle who has everybody's keys: to the devices it is the anchor, to the anchor it is the devices. It hands
// on every stream of the anchor's protocols and keeps what is said on it, in clear, as the anchor sees it.
type wiretap struct {
	t      testing.TB
	anchor peer.AddrInfo // where the anchor itself is
	as     host.Host     // to the devices
	keys   map[trust.DeviceID]p2p.Identity

	mu struct {
		sync.Mutex
		devices map[peer.ID]host.Host // to the anchor
		said    map[protocol.ID]*bytes.Buffer
	}
}

// newWiretap listens for devices, whose keys are added with knows.
func newWiretap(t testing.TB, a *running, through peer.AddrInfo) *wiretap {
	t.Helper()
	w := &wiretap{t: t, anchor: through, as: callerHost(t, a.keys(), overTCP), keys: map[trust.DeviceID]p2p.Identity{}}
	w.mu.devices, w.mu.said = map[peer.ID]host.Host{}, map[protocol.ID]*bytes.Buffer{}
	for _, proto := range []protocol.ID{p2p.SyncProtocol, p2p.IntroduceProtocol, p2p.QuorumProtocol, hopProtocol} {
		w.as.SetStreamHandler(proto, func(s network.Stream) {
			device, err := w.device(s.Conn().RemotePeer())
			if err != nil {
				_ = s.Reset()
				return
			}
			w.handOn(s, device, w.anchor.ID)
		})
	}
	w.as.Network().Notify(&network.NotifyBundle{DisconnectedF: func(_ network.Network, c network.Conn) {
		w.mu.Lock()
		device := w.mu.devices[c.RemotePeer()]
		w.mu.Unlock()
		if device != nil && len(w.as.Network().ConnsToPeer(c.RemotePeer())) == 0 {
			_ = device.Network().ClosePeer(w.anchor.ID)
		}
	}})
	return w
}

// knows takes the keys of a site's device.
func (w *wiretap) knows(s *site) {
	w.t.Helper()
	keys, err := keyring.Open(s.dir, nil)
	must(w.t, err)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.keys[keys.Device()] = keys
}

// address is where the devices find it.
func (w *wiretap) address() string {
	return w.as.Addrs()[0].String() + "/p2p/" + w.as.ID().String()
}

// device returns the host that is a device to the anchor, connected.
func (w *wiretap) device(id peer.ID) (host.Host, error) {
	d, err := p2p.DeviceOf(id)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	keys := w.keys[d]
	if keys == nil {
		return nil, errors.New("nobody's keys")
	}
	h := w.mu.devices[id]
	if h == nil {
		h = callerHost(w.t, keys)
		for _, proto := range []protocol.ID{p2p.SyncProtocol, p2p.QuorumProtocol, stopProtocol} {
			h.SetStreamHandler(proto, func(s network.Stream) { w.handOn(s, w.as, id) })
		}
		w.mu.devices[id] = h
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return h, h.Connect(ctx, w.anchor)
}

// handOn opens the same stream onwards, and copies both ways.
func (w *wiretap) handOn(in network.Stream, by host.Host, to peer.ID) {
	ctx, cancel := context.WithTimeout(network.WithNoDial(context.Background(), "connected"), 10*time.Second)
	defer cancel()
	out, err := by.NewStream(ctx, to, in.Protocol())
	if err != nil {
		_ = in.Reset()
		return
	}
	var both sync.WaitGroup
	copied := func(to, from network.Stream) {
		if _, err := io.Copy(io.MultiWriter(to, w.keeper(in.Protocol())), from); err != nil {
			_, _ = to.Reset(), from.Reset()
			return
		}
		_ = to.CloseWrite()
	}
	both.Go(func() { copied(out, in) })
	both.Go(func() { copied(in, out) })
	both.Wait()
	_, _ = in.Close(), out.Close()
}

type keeper struct {
	w     *wiretap
	proto protocol.ID
}

func (w *wiretap) keeper(proto protocol.ID) io.Writer { return keeper{w, proto} }

func (k keeper) Write(p []byte) (int, error) {
	k.w.mu.Lock()
	defer k.w.mu.Unlock()
	b := k.w.mu.said[k.proto]
	if b == nil {
		b = new(bytes.Buffer)
		k.w.mu.said[k.proto] = b
	}
	return b.Write(p)
}

// said returns what was said so far, by protocol.
func (w *wiretap) said() map[protocol.ID][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := map[protocol.ID][]byte{}
	for proto, b := range w.mu.said {
		out[proto] = bytes.Clone(b.Bytes())
	}
	return out
}
