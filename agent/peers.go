package agent

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"chartmesh/agent/replica"
	"chartmesh/p2p"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

const (
	peerFormat   = 1
	maxPeerAddrs = 16
	maxPeerAddr  = 256
)

// peerRecord is what is remembered of another device between runs.
type peerRecord struct {
	Addrs       []string
	LastContact time.Time
}

// peerBook knows where the other devices were last seen.
type peerBook struct {
	mu struct {
		sync.Mutex
		records map[trust.DeviceID]peerRecord
		dirty   map[trust.DeviceID]bool
		waiting chan struct{} // closed and replaced when a peer's state changes
		reached map[trust.DeviceID]bool
	}
	news chan peerNews // for whoever records events; what does not fit is left out
}

// peerNews says that a peer came or went.
type peerNews struct {
	device trust.DeviceID
	online bool
}

func (p *peerBook) load(r *replica.Replica) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mu.records, p.mu.dirty = map[trust.DeviceID]peerRecord{}, map[trust.DeviceID]bool{}
	p.mu.waiting = make(chan struct{})
	p.mu.reached = map[trust.DeviceID]bool{}
	p.news = make(chan peerNews, 256)
	for _, m := range slices.Concat(r.State().Members(), r.State().Anchors()) {
		b, err := r.Small(storage.Peer.Key(m.Device))
		if err != nil {
			return fmt.Errorf("read peer: %w", err)
		}
		if b == nil {
			continue
		}
		rec, err := parsePeer(b)
		if err != nil {
			return fmt.Errorf("read peer: %w", err)
		}
		p.mu.records[m.Device] = rec
	}
	return nil
}

// changed is told by the host when a peer's state changes.
func (p *peerBook) changed(d trust.DeviceID, s p2p.State) {
	p.mu.Lock()
	defer p.mu.Unlock()
	online := s != p2p.Offline && s != p2p.Connecting
	if online != p.mu.reached[d] {
		p.mu.reached[d] = online
		select {
		case p.news <- peerNews{d, online}:
		default:
		}
	}
	if online {
		rec := p.mu.records[d]
		rec.LastContact = time.Now()
		p.mu.records[d], p.mu.dirty[d] = rec, true
	}
	close(p.mu.waiting)
	p.mu.waiting = make(chan struct{})
}

// wait returns a channel that is closed when any peer's state changes.
func (p *peerBook) wait() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.waiting
}

// learnt is told by the host at which addresses a peer can be dialled.
func (p *peerBook) learnt(d trust.DeviceID, addrs []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	rec := p.mu.records[d]
	addrs = slices.Clone(addrs)
	slices.Sort(addrs)
	addrs = slices.Compact(addrs)
	addrs = addrs[:min(len(addrs), maxPeerAddrs)]
	if len(addrs) == 0 || slices.Equal(addrs, rec.Addrs) {
		return
	}
	rec.Addrs = addrs
	p.mu.records[d], p.mu.dirty[d] = rec, true
}

func (p *peerBook) get(d trust.DeviceID) peerRecord {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.mu.records[d]
}

// addresses returns every other member and anchor that can be dialled.
func (p *peerBook) addresses(r *replica.Replica) []p2p.PeerAddr {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []p2p.PeerAddr
	for _, m := range r.State().Members() {
		if m.Device != r.Device() {
			out = append(out, p2p.PeerAddr{Device: m.Device, Addrs: p.mu.records[m.Device].Addrs})
		}
	}
	for _, m := range r.State().Anchors() { // where the administrator said, and where it was found since
		out = append(out, p2p.PeerAddr{Device: m.Device, Addrs: slices.Concat(r.State().Addresses(m.Device), p.mu.records[m.Device].Addrs)})
	}
	return out
}

// known returns where every device was last seen.
func (p *peerBook) known() map[trust.DeviceID][]string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := map[trust.DeviceID][]string{}
	for d, rec := range p.mu.records {
		if len(rec.Addrs) > 0 {
			out[d] = rec.Addrs
		}
	}
	return out
}

// store writes what has changed.
func (p *peerBook) store(ctx context.Context, r *replica.Replica) error {
	p.mu.Lock()
	changed := map[trust.DeviceID]peerRecord{}
	for d := range p.mu.dirty {
		changed[d] = p.mu.records[d]
	}
	clear(p.mu.dirty)
	p.mu.Unlock()
	for d := range changed {
		if err := r.PutSmall(ctx, storage.Peer.Key(d), marshalPeer(changed[d])); err != nil {
			p.mu.Lock()
			for d := range changed {
				p.mu.dirty[d] = true // tried again
			}
			p.mu.Unlock()
			return fmt.Errorf("store peer: %w", err)
		}
	}
	return nil
}

func marshalPeer(rec peerRecord) []byte {
	var w wire.Writer
	w.Byte(peerFormat)
	w.Uvarint(uint64(len(rec.Addrs)))
	for _, a := range rec.Addrs {
		w.String(a)
	}
	w.Varint(rec.LastContact.UnixMilli())
	return w.Bytes()
}

func parsePeer(b []byte) (rec peerRecord, err error) {
	r := wire.NewReader(b)
	if r.Byte() != peerFormat {
		r.Fail("version")
	}
	for range r.Uvarint(maxPeerAddrs) {
		rec.Addrs = append(rec.Addrs, r.String(maxPeerAddr))
	}
	if ms := r.Varint(); ms != (time.Time{}).UnixMilli() { // that is how never is written
		rec.LastContact = time.UnixMilli(ms)
	}
	return rec, r.Close()
}
