package p2p

import (
	"context"
	"sync"

	"chartmesh/trust"
)

// news tells the owner of a host what happened, one thing at a time and in order, from a goroutine that holds no lock.
// Of what waits to be told, the newest state and the newest addresses of a device replace older ones, so that a slow
// owner costs no memory.
type news struct {
	onPeer  func(trust.DeviceID, State)
	onAddrs func(trust.DeviceID, []string)
	wake    chan struct{}

	mu struct {
		sync.Mutex
		order  []trust.DeviceID
		states map[trust.DeviceID]State
		addrs  map[trust.DeviceID][]string
	}
}

func newNews(onPeer func(trust.DeviceID, State), onAddrs func(trust.DeviceID, []string)) *news {
	n := &news{onPeer: onPeer, onAddrs: onAddrs, wake: make(chan struct{}, 1)}
	n.mu.states = map[trust.DeviceID]State{}
	n.mu.addrs = map[trust.DeviceID][]string{}
	return n
}

func (n *news) queueLocked(d trust.DeviceID) {
	_, state := n.mu.states[d]
	if _, addrs := n.mu.addrs[d]; !state && !addrs {
		n.mu.order = append(n.mu.order, d)
	}
}

func (n *news) state(d trust.DeviceID, s State) {
	if n.onPeer == nil {
		return
	}
	n.mu.Lock()
	n.queueLocked(d)
	n.mu.states[d] = s
	n.mu.Unlock()
	n.signal()
}

func (n *news) addresses(d trust.DeviceID, addrs []string) {
	if n.onAddrs == nil {
		return
	}
	n.mu.Lock()
	n.queueLocked(d)
	n.mu.addrs[d] = addrs
	n.mu.Unlock()
	n.signal()
}

func (n *news) signal() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

func (n *news) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.wake:
		}
		for n.tell() {
		}
	}
}

func (n *news) tell() bool {
	n.mu.Lock()
	if len(n.mu.order) == 0 {
		n.mu.Unlock()
		return false
	}
	d := n.mu.order[0]
	n.mu.order = n.mu.order[1:]
	state, hasState := n.mu.states[d]
	addrs, hasAddrs := n.mu.addrs[d]
	delete(n.mu.states, d)
	delete(n.mu.addrs, d)
	n.mu.Unlock()
	if hasAddrs {
		n.onAddrs(d, addrs)
	}
	if hasState {
		n.onPeer(d, state)
	}
	return true
}
