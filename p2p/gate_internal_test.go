package p2p

import (
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"chartmesh/trust"
)

func strangerID(t testing.TB, i int) peer.ID {
	t.Helper()
	seed := sha256.Sum256(fmt.Appendf(nil, "stranger %d", i))
	id, err := PeerID(trust.DeviceID(ed25519.NewKeyFromSeed(seed[:]).Public().(ed25519.PublicKey)))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// TestFloodIsNotCounted: strangers who come faster than they are let in cost no look at all connections each.
func TestFloodIsNotCounted(t *testing.T) {
	counted := 0
	g := newGate(func(trust.DeviceID) bool { return false }, nil)
	g.inviting, g.strangers = func() bool { return true }, func() int { counted++; return 0 }
	g.open.Store(true)
	in := 0
	for i := range 1000 {
		if g.InterceptSecured(network.DirInbound, strangerID(t, i), nil) {
			in++
		}
	}
	if in < strangersBurst || counted > 2*in {
		t.Errorf("%d of 1000 are let in, and connections were counted %d times", in, counted)
	}
}

// connections is a network with some connections.
type connections struct {
	network.Network
	peers []peer.ID
}

func (s connections) Peers() []peer.ID { return s.peers }

// still is a host that has a network.
type still struct {
	host.Host
	connections
}

func (s still) Network() network.Network { return s.connections }

// TestSweepRests: whoever connects again and again does not have the host look at all connections all the time.
func TestSweepRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var looks atomic.Int64 // milliseconds
		admit := func(trust.DeviceID) bool {
			time.Sleep(time.Millisecond) // as of a thousand connections
			looks.Add(1)
			return true
		}
		h := &Host{cfg: Config{Admit: admit}, gate: newGate(admit, nil), poke: make(chan struct{}, 1), host: still{connections: connections{peers: []peer.ID{strangerID(t, 1)}}}}
		h.mu.peers = map[trust.DeviceID]*member{}
		ctx, cancel := context.WithCancel(t.Context())
		go h.dialler(ctx)
		begun := time.Now()
		for range 1000 {
			h.wakeDialler()
			time.Sleep(time.Millisecond)
		}
		if took, n := time.Since(begun), looks.Load(); n == 0 || n > took.Milliseconds()/5 {
			t.Errorf("of %v it looked at connections for %d ms", took, n)
		}
		looks.Store(0)
		h.wakeDialler()
		time.Sleep(time.Second)
		if looks.Load() == 0 {
			t.Error("it did not look afterwards")
		}
		cancel()
		synctest.Wait()
	})
}
