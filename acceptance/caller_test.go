package acceptance

import (
	"bytes"
	"context"
	"crypto/rand"
	order "encoding/binary"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/crypto/pb"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	tls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"

	"chartmesh/chunk"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// signer lets libp2p speak with a device's key.
type signer struct{ p2p.Identity }

func (s signer) Type() pb.KeyType { return pb.KeyType_Ed25519 }

func (s signer) Sign(message []byte) ([]byte, error) { return s.SignTransport(message) }

func (s signer) GetPublic() crypto.PubKey {
	d := s.Device()
	key, err := crypto.UnmarshalEd25519PublicKey(d[:])
	if err != nil {
		panic(err) // a keyring's key is one
	}
	return key
}

func (s signer) Raw() ([]byte, error) {
	b := make([]byte, 64)
	_, err := rand.Read(b)
	return b, err
}

func (s signer) Equals(k crypto.Key) bool {
	o, ok := k.(signer)
	return ok && o.Device() == s.Device()
}

// caller is a hand-made client, which speaks as a device what it likes and notes every byte that it gets.
type caller struct {
	t    testing.TB
	host host.Host
	sync []byte // said on a session that the anchor opens
	mu   sync.Mutex
	got  map[string][]byte
}

// callerHost makes a client of libp2p that dials alone.
func callerHost(t testing.TB, keys p2p.Identity, listen ...string) host.Host {
	t.Helper()
	listening := libp2p.NoListenAddrs
	if len(listen) > 0 {
		listening = libp2p.ListenAddrStrings(listen...)
	}
	h, err := libp2p.New(listening, libp2p.Identity(signer{keys}), libp2p.Transport(quic.NewTransport), libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Security(tls.ID, tls.New), libp2p.Muxer(yamux.ID, yamux.DefaultTransport), libp2p.DisableRelay(), libp2p.DisableMetrics(),
		libp2p.ResourceManager(&network.NullResourceManager{}), libp2p.UDPBlackHoleSuccessCounter(nil), libp2p.DisableIdentifyAddressDiscovery())
	must(t, err)
	t.Cleanup(func() { _ = h.Close() })
	return h
}

func newCaller(t testing.TB, keys p2p.Identity) *caller {
	t.Helper()
	c := &caller{t: t, host: callerHost(t, keys), got: map[string][]byte{}}
	c.host.SetStreamHandler(p2p.SyncProtocol, func(s network.Stream) { // of two devices it depends on their keys who opens it
		_ = s.SetDeadline(time.Now().Add(listening))
		if _, err := s.Write(c.sync); err == nil {
			c.note("sync", s)
		}
	})
	for _, proto := range []protocol.ID{p2p.IntroduceProtocol, hopProtocol, stopProtocol} {
		c.host.SetStreamHandler(proto, func(s network.Stream) {
			_ = s.SetDeadline(time.Now().Add(listening))
			c.note("is called for "+string(proto), s)
		})
	}
	return c
}

// listening is how long a caller waits for more.
const listening = 4 * time.Second

func (c *caller) note(name string, r io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		c.mu.Lock()
		c.got[name] = append(c.got[name], buf[:n]...)
		c.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// says opens a stream, says something on it, and notes what comes.
func (c *caller) says(to peer.AddrInfo, x attempt) {
	ctx, cancel := context.WithTimeout(c.t.Context(), listening)
	defer cancel()
	if err := c.host.Connect(ctx, to); err != nil {
		return
	}
	s, err := c.host.NewStream(ctx, to.ID, x.proto)
	if err != nil {
		return
	}
	defer func() { _ = s.Reset() }()
	_ = s.SetDeadline(time.Now().Add(listening))
	if _, err := s.Write(x.say); err == nil {
		c.note(x.name, s)
	}
}

// heard returns every byte that the caller got, by what it had said.
func (c *caller) heard() map[string][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string][]byte{}
	for name, b := range c.got {
		out[name] = bytes.Clone(b)
	}
	return out
}

const (
	hopProtocol      protocol.ID = "/libp2p/circuit/relay/0.2.0/hop"
	stopProtocol     protocol.ID = "/libp2p/circuit/relay/0.2.0/stop"
	identifyProtocol protocol.ID = "/ipfs/id/1.0.0"
	pushProtocol     protocol.ID = "/ipfs/id/push/1.0.0"
)

// framed puts a message behind its length, as sync, introduction and recovery do.
func framed(b []byte) []byte { return append(order.BigEndian.AppendUint32(nil, uint32(len(b))), b...) }

// delimited puts one behind its length as a varint, as libp2p does.
func delimited(b []byte) []byte { return append(order.AppendUvarint(nil, uint64(len(b))), b...) }

// reserve is libp2p's request for a place at a relay, circuit the one for a connection to somebody.
func reserve() []byte { return delimited([]byte{0x08, 0}) }

func circuit(to trust.DeviceID) []byte {
	id, err := p2p.PeerID(to)
	if err != nil {
		panic(err) // a keyring's key is one
	}
	who := append([]byte{0x0a, byte(len(id))}, id...)
	return delimited(append([]byte{0x08, 1, 0x12, byte(len(who))}, who...))
}

// statusOf returns the status in a relay's answer, 0 if there is none.
func statusOf(answer []byte) uint64 {
	_, n := order.Uvarint(answer)
	for b := answer[max(n, 0):]; len(b) > 1; {
		key := b[0]
		v, n := order.Uvarint(b[1:])
		if n <= 0 {
			return 0
		}
		b = b[1+n:]
		if key == 5<<3 {
			return v
		}
		if key&7 == 2 {
			if v > uint64(len(b)) {
				return 0
			}
			b = b[v:]
		}
	}
	return 0
}

// asksForAll is a session's beginning that asks for all that a practice has: a HELLO of who knows of its founding alone, and a
// VECTOR of who holds nothing.
func asksForAll(t testing.TB, as trust.DeviceID, to trust.DeviceID, knows *member) []byte {
	t.Helper()
	s := session.New(session.Config{Self: as, Peer: to, Replica: greedy{knows}, Version: "made", Schema: session.Range{Min: 1, Max: 1<<16 - 1}, Blind: true})
	s.Start(time.Now())
	hello, err := s.Next(t.Context(), time.Now())
	must(t, err)
	scope := knows.scope()
	vector := append(append([]byte{3, 1}, scope[:]...), 0, 0)
	none, err := chunk.Vector{}.AppendBinary(nil)
	must(t, err)
	return append(framed(hello), framed(append(append(vector, byte(len(none))), none...))...)
}

// greedy says of itself that it has nothing but the founding entry.
type greedy struct{ *member }

func (g greedy) Hello(trust.DeviceID) session.Local {
	practice := g.state.Load().Practice()
	return session.Local{Practice: practice, Heads: []trust.EntryID{practice}, Scopes: []session.ScopeDigest{{Scope: g.scope()}}}
}
