package bench

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/anchor"
	"chartmesh/chunk"
	"chartmesh/p2p"
	"chartmesh/p2p/session"
	"chartmesh/trust"
)

// storedBytes is how much the author holds, about.
var storedBytes = 100_000_000

var (
	byQUIC = []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	byTCP  = []string{"/ip4/127.0.0.1/tcp/0"}
)

// storedWays are how the author reaches who has nothing: itself, or by a relay, both listening nowhere.
var storedWays = []struct {
	name           string
	listen, relays []string
	anchor         bool
}{
	{name: "quic", listen: byQUIC}, {name: "tcp", listen: byTCP},
	{name: "relayed-quic", listen: []string{}, relays: byQUIC}, {name: "relayed-tcp", listen: []string{}, relays: byTCP},
	{name: "anchor-quic", listen: byQUIC, anchor: true}, {name: "anchor-tcp", listen: byTCP, anchor: true},
}

// BenchmarkStored is from the first word to one who holds nothing until the author has its word that it has stored all. A device
// applies meanwhile, as it does in life; an anchor does not. Its limits are the bytes over plain TCP and to the disk, synced
// each MiB; disk-64K is what the disk takes when it is synced for each frame.
func BenchmarkStored(b *testing.B) {
	for _, of := range []struct {
		name       string
		body, part int // of a chunk; of storedBytes, one in so many
	}{{"bundles", 40 << 10, 1}, {"forms", 1 << 10, 5}} {
		b.Run(of.name, func(b *testing.B) {
			author := desks(b, 1)[0]
			author.photos(b, storedBytes/of.part/of.body, of.body)
			chunks, _, size, err := author.StoredChunks()
			must(b, err)
			for _, way := range storedWays {
				b.Run(way.name, func(b *testing.B) {
					b.SetBytes(size)
					for b.Loop() {
						b.StopTimer()
						trip := author.toward(b, way.listen, way.relays, way.anchor)
						<-trip.begun
						b.StartTimer()
						select {
						case <-trip.acked:
						case <-time.After(patience):
							fatal(b, "it was never said that all is stored")
						}
						b.StopTimer()
						trip.end()
						b.StartTimer()
					}
					b.ReportMetric(float64(size)/float64(chunks), "chunk-B")
					took := float64(b.Elapsed()) / float64(b.N)
					each := beside(b, copied(b, int(size)), times(int(size)>>20+1, fsynced(b, 1<<20)))
					b.ReportMetric(each[0]/took, "of-tcp")
					b.ReportMetric(float64(size)*1e3/each[1], "disk-1M-MB/s")
					b.ReportMetric(float64(size)*1e3/times(int(size)>>16+1, fsynced(b, 64<<10)).measure(), "disk-64K-MB/s")
				})
			}
		})
	}
}

// photos imports n patients, a chunk of about size bytes each: no compressor makes a photo smaller.
func (d *desk) photos(b testing.TB, n, size int) {
	b.Helper()
	rng := rand.NewChaCha8([32]byte{seed})
	photo := make([]byte, size)
	for done := 0; done < n; {
		var batch api.ImportBatch
		for held := 0; held < 4<<20 && done < n; held += size {
			_, err := rng.Read(photo)
			must(b, err)
			raw, err := json.Marshal(map[string]any{"resourceType": "Patient", "id": fmt.Sprintf("bench-%d", done), "photo": []any{
				map[string]any{"contentType": "image/jpeg", "data": base64.StdEncoding.EncodeToString(photo)},
			}})
			must(b, err)
			batch.Resources = append(batch.Resources, raw)
			done++
		}
		result, err := d.Import(context.Background(), "Dr. Adler", batch)
		must(b, err)
		if result.Created != len(batch.Resources) {
			fatal(b, fmt.Sprintf("of %d patients %d were imported", len(batch.Resources), result.Created))
		}
	}
}

// trip is the author's chunks on their way to another.
type trip struct {
	begun, acked chan struct{}
	end          func()
}

// watched is the author's replica, which sees a session begin, and who holds all.
type watched struct {
	*replica.Replica
	peer  trust.DeviceID
	scope trust.ScopeID
	log   chunk.LogID
	last  uint64
	begun chan struct{}
	acked chan struct{}
}

func (w *watched) Hello(peer trust.DeviceID) session.Local {
	if peer == w.peer {
		signal(w.begun)
	}
	return w.Replica.Hello(peer)
}

func (w *watched) Acked(ctx context.Context, from trust.DeviceID, ack session.Ack) error {
	if from == w.peer && ack.Scope == w.scope && ack.Stored[w.log].Counter >= w.last {
		signal(w.acked)
	}
	return w.Replica.Acked(ctx, from, ack)
}

// signal tells whoever waits, once.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// toward sends all that the author holds to a device of the practice, or to an anchor, which have nothing yet.
func (d *desk) toward(b testing.TB, listen, relays []string, toAnchor bool) trip {
	b.Helper()
	w := &watched{Replica: d.Replica, scope: d.clinical(b), log: chunk.CurrentLog(d.keys), begun: make(chan struct{}, 1), acked: make(chan struct{}, 1)}
	w.last = d.Replica.Vector(w.scope)[w.log].Counter
	if w.last == 0 {
		fatal(b, "the author holds nothing")
	}
	var ends []func()
	var peers []p2p.PeerAddr
	cfg := p2p.Config{Listen: listen}
	if relays != nil {
		at, end := relayHost(b, d, relays)
		ends, peers = append(ends, end), append(peers, at)
		cfg.Relays = func() []p2p.PeerAddr { return []p2p.PeerAddr{at} }
	}
	if toAnchor {
		a, end := d.anchor(b, listen)
		ends = append(ends, end)
		w.peer = a.Device()
		peers = append(peers, p2p.PeerAddr{Device: w.peer, Addrs: a.Addresses()})
		cfg.Listen = []string{}
	} else {
		other := d.admit(b)
		w.peer = other.Device()
		host, end := other.host(b, cfg, other.Replica)
		ends = append(ends, func() { end(); other.close() })
		host.SetPeers(append(peers[:len(peers):len(peers)], p2p.PeerAddr{Device: d.Device()}))
		peers = append(peers, p2p.PeerAddr{Device: w.peer, Addrs: host.Addresses()})
	}
	host, end := d.host(b, cfg, w)
	host.SetPeers(peers)
	return trip{w.begun, w.acked, func() {
		for _, p := range host.Peers() {
			if p.Device == w.peer && (p.Way == "relayed") != (relays != nil) {
				fatal(b, "it went "+p.Way)
			}
		}
		end()
		for _, end := range ends {
			end()
		}
	}}
}

// host brings a desk onto the network, as an agent does, and has it apply what comes.
func (d *desk) host(b testing.TB, cfg p2p.Config, of session.Replica) (*p2p.Host, func()) {
	b.Helper()
	st := func() *trust.State { return d.State() }
	cfg.Identity, cfg.Replica = d.keys, of
	cfg.Admit = func(id trust.DeviceID) bool {
		_, member := st().Member(id)
		return member || st().IsAnchor(id) || isRelay(cfg, id)
	}
	cfg.ReplicaOf = func(id trust.DeviceID) session.Replica {
		if isRelay(cfg, id) {
			return nil
		}
		return of
	}
	cfg.Blind = func(id trust.DeviceID) bool { return st().IsAnchor(id) }
	cfg.Session = session.Config{FramePayload: 64 << 10} // as the agent has it
	h, err := p2p.Open(cfg)
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran, applied := make(chan error, 1), make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	go func() { applied <- d.follow(ctx, h) }()
	return h, func() {
		cancel()
		must(b, errors.Join(<-ran, <-applied, h.Close()))
	}
}

func isRelay(cfg p2p.Config, id trust.DeviceID) bool {
	return cfg.Relays != nil && cfg.Relays()[0].Device == id
}

// follow applies what comes until ctx ends.
func (d *desk) follow(ctx context.Context, h *p2p.Host) error {
	for {
		changed := d.Changed()
		for _, s := range d.State().Scopes() {
			h.Push(s.ID)
		}
		more, err := d.Apply(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case more:
			continue
		}
		for _, s := range d.State().Scopes() {
			h.Applied(s.ID)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// forAll relays for everybody.
type forAll struct{}

func (forAll) Serves(trust.DeviceID) bool { return true }

func (forAll) Passes(trust.DeviceID, trust.DeviceID) bool { return true }

// relayHost passes bytes on between the devices of a practice, of which it holds nothing.
func relayHost(b testing.TB, d *desk, listen []string) (p2p.PeerAddr, func()) {
	b.Helper()
	alone := desks(b, 1)[0]
	h, err := p2p.Open(p2p.Config{
		Identity: alone.keys, ReplicaOf: func(trust.DeviceID) session.Replica { return nil }, Listen: listen, Relay: forAll{},
		Admit: func(id trust.DeviceID) bool { _, member := d.State().Member(id); return member },
	})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	return p2p.PeerAddr{Device: alone.Device(), Addrs: h.Addresses()}, func() {
		cancel()
		must(b, errors.Join(<-ran, h.Close()))
		alone.close()
	}
}

// anchor adds an anchor to the practice, which has nothing of it but its name.
func (d *desk) anchor(b testing.TB, listen []string) (*anchor.Anchor, func()) {
	b.Helper()
	ctx := context.Background()
	a, err := anchor.Open(ctx, anchor.Config{Dir: b.TempDir(), Listen: listen})
	must(b, err)
	must(b, d.Enter(ctx, func(st *trust.State) ([]trust.Entry, error) {
		e, err := d.keys.AddAnchor(st, a.Device(), a.Addresses(), "anchor", time.Now())
		return []trust.Entry{e}, err
	}))
	_, err = a.Admit(ctx, p2p.AnchorToken{Anchor: a.Device(), Practice: d.State().Practice(), Device: d.Device()}.String())
	must(b, err)
	running, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	go func() { ran <- a.Run(running) }()
	return a, func() {
		cancel()
		must(b, errors.Join(<-ran, a.Close()))
	}
}
