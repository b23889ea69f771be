package anchor

import (
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chartmesh/internal/figures"
	"chartmesh/storage"
)

// metrics are the anchor's figures. What it knows anyway is read when somebody asks; only what would be over by then, the time of each
// commit, is counted as it happens.
//
// Labels have values from fixed lists, but practice and number, which name none to others and are there where Config.MetricsPerPractice says so.
type metrics struct {
	anchor   *Anchor
	registry *prometheus.Registry
	begun    time.Time
	commits  *figures.Commits
}

func newMetrics(a *Anchor) *metrics {
	m := &metrics{anchor: a, registry: prometheus.NewRegistry(), begun: time.Now(), commits: figures.NewCommits("chartmesh_anchor")}
	m.registry.MustRegister(m.commits, m)
	return m
}

var (
	figInfo       = figures.Gauge("chartmesh_anchor_info", "Always 1; the version of this build, and where it stands.", "version", "region")
	figUptime     = figures.Gauge("chartmesh_anchor_uptime_seconds", "Since the folder was opened.")
	figHealthy    = figures.Gauge("chartmesh_anchor_healthy", "1 if it stores what it is sent.")
	figPractices  = figures.Gauge("chartmesh_anchor_practices", "Practices by state.", "state")
	figUsedUp     = figures.Gauge("chartmesh_anchor_practices_used_up", "Practices of which no more is taken, since their share is used up.")
	figDeleting   = figures.Gauge("chartmesh_anchor_practices_deleting", "Dropped practices of which something is left.")
	figVoters     = figures.Gauge("chartmesh_anchor_voters", "Voters on leases and numbers, by state.", "state")
	figHeldBytes  = figures.Gauge("chartmesh_anchor_held_bytes", "Bytes of keys and values held, of all practices.")
	figHeldChunks = figures.Gauge("chartmesh_anchor_held_chunks", "Chunks held, of all practices.")
	figSessions   = figures.Gauge("chartmesh_anchor_sessions", "Devices with a session now.")
	figSessionsT  = figures.Counter("chartmesh_anchor_sessions_total", "Sessions that are there or were.")
	figBytes      = figures.Counter("chartmesh_anchor_session_bytes_total", "Bytes of sessions.", "direction")
	figChunks     = figures.Counter("chartmesh_anchor_chunks_total", "Chunks exchanged.", "direction")
	figStore      = figures.Gauge("chartmesh_anchor_store_bytes", "Bytes of the store on disk.")
	figFree       = figures.Gauge("chartmesh_anchor_disk_free_bytes", "Bytes that are free where the store is.")
	figHeap       = figures.Gauge("chartmesh_anchor_heap_bytes", "Heap that is in use.")
	figGoroutines = figures.Gauge("chartmesh_anchor_goroutines", "Goroutines.")

	figOneBytes     = figures.Gauge("chartmesh_anchor_practice_bytes", "Bytes of keys and values held of a practice.", "practice", "number")
	figOneChunks    = figures.Gauge("chartmesh_anchor_practice_chunks", "Chunks held of a practice.", "practice", "number")
	figOneShare     = figures.Gauge("chartmesh_anchor_practice_share", "Part of a practice's quota that is used.", "practice", "number")
	figOneConnected = figures.Gauge("chartmesh_anchor_practice_sessions", "Devices of a practice with a session now.", "practice", "number")
	figOneMoved     = figures.Counter("chartmesh_anchor_practice_session_bytes_total", "Bytes of a practice's sessions.", "practice", "number", "direction")
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	figures.Describe(to, figInfo, figUptime, figHealthy, figPractices, figUsedUp, figDeleting, figVoters, figHeldBytes, figHeldChunks, figSessions,
		figSessionsT, figBytes, figChunks, figStore, figFree, figHeap, figGoroutines, figOneBytes, figOneChunks, figOneShare, figOneConnected,
		figOneMoved)
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	a := m.anchor
	put := func(f figures.Figure, v float64, labels ...string) { f.Put(to, v, labels...) }
	put(figInfo, 1, a.cfg.Version, a.cfg.Region)
	put(figUptime, time.Since(m.begun).Seconds())
	put(figHealthy, figures.OneIf(a.Healthy() == nil))
	moved := a.host.Moved()
	states := map[string]int{"held": 0, "waiting": 0, "left": 0, "damaged": 0}
	voters := map[string]int{"awake": 0, "resting": 0, "out": 0}
	var usedUp int
	var held storage.Amount
	for _, p := range a.list() {
		states[p.stateName()]++
		if v := a.quorums.voter(p); v != nil {
			voters[v.state()]++
		}
		if p.UsedUp() {
			usedUp++
		}
		if p.share != nil {
			one := p.share.Held()
			held.Bytes += one.Bytes
			held.Chunks += one.Chunks
		}
		if !a.cfg.MetricsPerPractice {
			continue
		}
		u, number := usageOf(p, moved[p]), strconv.FormatUint(p.Number, 10) // two IDs may begin alike
		put(figOneBytes, float64(u.Bytes), u.ID, number)
		put(figOneChunks, float64(u.Chunks), u.ID, number)
		put(figOneShare, u.Share, u.ID, number)
		put(figOneConnected, float64(u.Connected), u.ID, number)
		put(figOneMoved, float64(u.BytesIn), u.ID, number, "received")
		put(figOneMoved, float64(u.BytesOut), u.ID, number, "sent")
	}
	for state, n := range states {
		put(figPractices, float64(n), state)
	}
	for state, n := range voters {
		put(figVoters, float64(n), state)
	}
	put(figUsedUp, float64(usedUp))
	put(figDeleting, float64(a.deleting.Load()))
	put(figHeldBytes, float64(held.Bytes))
	put(figHeldChunks, float64(held.Chunks))
	t := a.host.Traffic()
	put(figSessions, float64(t.Open))
	put(figSessionsT, float64(t.Sessions))
	put(figBytes, float64(t.BytesIn), "received")
	put(figBytes, float64(t.BytesOut), "sent")
	put(figChunks, float64(t.ChunksIn), "received")
	put(figChunks, float64(t.ChunksOut), "sent")
	if sizer, ok := a.store.(storage.Sizer); ok {
		if n, err := sizer.Size(); err == nil {
			put(figStore, float64(n))
		}
	}
	if free, err := storage.Free(a.cfg.Dir); err == nil {
		put(figFree, float64(free))
	}
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	put(figHeap, float64(mem.HeapInuse))
	put(figGoroutines, float64(runtime.NumGoroutine()))
}

// stateName says how a practice stands: held, waiting for its membership log, left by it, or damaged.
func (p *practice) stateName() string {
	st := p.State()
	switch {
	case p.broken != nil:
		return "damaged"
	case st == nil:
		return "waiting"
	case !p.IsAnchor():
		return "left"
	}
	return "held"
}

// Metrics writes the figures in Prometheus' text form.
func (a *Anchor) Metrics(w io.Writer) error { return figures.Write(w, a.metrics.registry) }
