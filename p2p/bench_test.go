package p2p_test

import (
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"chartmesh/p2p"
	"chartmesh/trust"
)

// BenchmarkPush measures from the call of Push at one host to the end of Arrive at another, in memory on loopback.
func BenchmarkPush(b *testing.B) {
	for way, listen := range map[string][]string{"quic": quicOnly, "tcp": tcpOnly} {
		b.Run(way, func(b *testing.B) {
			x, y, _ := pair(b, listen)
			arrived := make(chan time.Time, 16)
			y.OnArrive = func(trust.DeviceID, trust.ScopeID) { arrived <- time.Now() }
			x.SetPeers([]p2p.PeerAddr{y.at()})
			wait(b, "both agree", agreed(x, y))
			times := make([]time.Duration, 0, b.N)
			body := make([]byte, 700)
			for b.Loop() {
				x.Edit(clinical, body)
				began := time.Now()
				x.Push(clinical)
				times = append(times, (<-arrived).Sub(began))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Microseconds()), "µs-p50")
			b.ReportMetric(float64(times[len(times)*99/100].Microseconds()), "µs-p99")
		})
	}
}

// BenchmarkFirstSync measures a first sync of 20 MB of chunks of 2 KB.
func BenchmarkFirstSync(b *testing.B) {
	for way, listen := range map[string][]string{"quic": quicOnly, "tcp": tcpOnly} {
		b.Run(way, func(b *testing.B) {
			const chunks, size = 10000, 2000
			b.SetBytes(chunks * size)
			for b.Loop() {
				b.StopTimer()
				x, y, _ := pair(b, listen)
				for range chunks {
					x.Edit(clinical, make([]byte, size))
				}
				x.SetPeers([]p2p.PeerAddr{y.at()})
				b.StartTimer()
				wait(b, "both agree", agreed(x, y))
				b.StopTimer()
				x.stop()
				y.stop()
				b.StartTimer()
			}
		})
	}
}

// TestMemoryPerConnection reports what a connected peer costs one host (run with HEAVY=1).
func TestMemoryPerConnection(t *testing.T) {
	if os.Getenv("HEAVY") == "" {
		t.Skip("HEAVY=1 runs it")
	}
	m := &members{}
	const n = 20
	for i := range n + 1 {
		m.set1(newIdentity(i).Device(), true)
	}
	for way, listen := range map[string][]string{"quic": quicOnly, "tcp": tcpOnly} {
		hub := newSite(t, 0, m, func(c *p2p.Config) { c.Listen = listen })
		var spokes []*site
		for i := range n {
			s := newSite(t, i+1, m, func(c *p2p.Config) { c.Listen = listen })
			spokes = append(spokes, s)
		}
		before := heap()
		for _, s := range spokes {
			s.SetPeers([]p2p.PeerAddr{hub.at()})
		}
		wait(t, "all agree", func() bool {
			return !slices.ContainsFunc(spokes, func(s *site) bool { return !agreed(hub, s)() })
		})
		t.Logf("%s: %d KB for both ends of a connection", way, (heap()-before)/n/1024)
		hub.stop()
		for _, s := range spokes {
			s.stop()
		}
	}
}

func heap() uint64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return s.HeapInuse + s.StackInuse
}
