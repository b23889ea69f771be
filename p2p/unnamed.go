package p2p

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
)

// naming bounds how many streams of one peer have not said yet for which protocol they are. These have few places, of which libp2p
// knows no bound for each, and ten seconds.
type naming struct {
	network.ResourceManager
	most int
	free func(peer.ID) bool // whose streams are not counted; nil: nobody's

	mu struct {
		sync.Mutex
		of map[peer.ID]int
	}
}

func newNaming(m network.ResourceManager, most int, free func(peer.ID) bool) *naming {
	n := &naming{ResourceManager: m, most: most, free: free}
	n.mu.of = map[peer.ID]int{}
	return n
}

// OpenStream takes a place for a stream.
func (n *naming) OpenStream(p peer.ID, dir network.Direction) (network.StreamManagementScope, error) {
	if dir == network.DirOutbound || n.free != nil && n.free(p) {
		return n.ResourceManager.OpenStream(p, dir)
	}
	if !n.enter(p) {
		return nil, network.ErrResourceLimitExceeded
	}
	s, err := n.ResourceManager.OpenStream(p, dir)
	if err != nil {
		n.leave(p)
		return nil, err
	}
	return &unnamed{s, sync.OnceFunc(func() { n.leave(p) })}, nil
}

func (n *naming) enter(p peer.ID) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.of[p] >= n.most {
		return false
	}
	n.mu.of[p]++
	return true
}

func (n *naming) leave(p peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mu.of[p]--; n.mu.of[p] == 0 {
		delete(n.mu.of, p)
	}
}

// unnamed is the place of a stream.
type unnamed struct {
	network.StreamManagementScope
	named func()
}

// SetProtocol notes for which protocol the stream is.
func (u *unnamed) SetProtocol(id protocol.ID) error {
	err := u.StreamManagementScope.SetProtocol(id)
	if err == nil {
		u.named()
	}
	return err
}

// Done gives the place back.
func (u *unnamed) Done() {
	u.named()
	u.StreamManagementScope.Done()
}
