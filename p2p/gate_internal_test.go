package p2p

import (
	"crypto/ed25519"
	"crypto/sha256"
	"fmt"
	"testing"

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
