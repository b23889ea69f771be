package anchor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

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

	commits     *prometheus.CounterVec
	commitTime  prometheus.Histogram
	commitBytes prometheus.Counter
}

func newMetrics(a *Anchor) *metrics {
	m := &metrics{anchor: a, registry: prometheus.NewRegistry(), begun: time.Now()}
	m.commits = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chartmesh_anchor_commits_total", Help: "Commits by outcome."}, []string{"outcome"})
	for _, outcome := range []string{"durable", "no-room", "failed"} {
		m.commits.WithLabelValues(outcome)
	}
	m.commitTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "chartmesh_anchor_commit_seconds", Help: "Time until a commit was on stable storage, its fsync included.",
		Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1, 2, 4, 8},
	})
	m.commitBytes = prometheus.NewCounter(prometheus.CounterOpts{Name: "chartmesh_anchor_commit_bytes_total", Help: "Bytes of keys and values in commits that became durable."})
	m.registry.MustRegister(m.commits, m.commitTime, m.commitBytes, m)
	return m
}

// timed is a Store whose commits are counted.
type timed struct {
	storage.Store
	m *metrics
}

func (t timed) Commit(ctx context.Context, b *storage.Batch) error {
	begun := time.Now()
	err := t.Store.Commit(ctx, b)
	switch {
	case errors.Is(err, storage.ErrNoRoom):
		t.m.commits.WithLabelValues("no-room").Inc()
	case err != nil:
		t.m.commits.WithLabelValues("failed").Inc()
	default:
		t.m.commits.WithLabelValues("durable").Inc()
		t.m.commitTime.Observe(time.Since(begun).Seconds())
		t.m.commitBytes.Add(float64(b.Size()))
	}
	return err
}

// figure is one metric that is read when somebody asks.
type figure struct {
	name, help string
	kind       prometheus.ValueType
	labels     []string
}

var (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue

	figInfo       = figure{"chartmesh_anchor_info", "Always 1; the version of this build, and where it stands.", gauge, []string{"version", "region"}}
	figUptime     = figure{"chartmesh_anchor_uptime_seconds", "Since the folder was opened.", gauge, nil}
	figHealthy    = figure{"chartmesh_anchor_healthy", "1 if it stores what it is sent.", gauge, nil}
	figPractices  = figure{"chartmesh_anchor_practices", "Practices by state.", gauge, []string{"state"}}
	figUsedUp     = figure{"chartmesh_anchor_practices_used_up", "Practices of which no more is taken, since their share is used up.", gauge, nil}
	figDeleting   = figure{"chartmesh_anchor_practices_deleting", "Dropped practices of which something is left.", gauge, nil}
	figHeldBytes  = figure{"chartmesh_anchor_held_bytes", "Bytes of keys and values held, of all practices.", gauge, nil}
	figHeldChunks = figure{"chartmesh_anchor_held_chunks", "Chunks held, of all practices.", gauge, nil}
	figSessions   = figure{"chartmesh_anchor_sessions", "Devices with a session now.", gauge, nil}
	figSessionsT  = figure{"chartmesh_anchor_sessions_total", "Sessions that are there or were.", counter, nil}
	figBytes      = figure{"chartmesh_anchor_session_bytes_total", "Bytes of sessions.", counter, []string{"direction"}}
	figChunks     = figure{"chartmesh_anchor_chunks_total", "Chunks exchanged.", counter, []string{"direction"}}
	figStore      = figure{"chartmesh_anchor_store_bytes", "Bytes of the store on disk.", gauge, nil}
	figFree       = figure{"chartmesh_anchor_disk_free_bytes", "Bytes that are free where the store is.", gauge, nil}
	figHeap       = figure{"chartmesh_anchor_heap_bytes", "Heap that is in use.", gauge, nil}
	figGoroutines = figure{"chartmesh_anchor_goroutines", "Goroutines.", gauge, nil}

	figOneBytes     = figure{"chartmesh_anchor_practice_bytes", "Bytes of keys and values held of a practice.", gauge, []string{"practice", "number"}}
	figOneChunks    = figure{"chartmesh_anchor_practice_chunks", "Chunks held of a practice.", gauge, []string{"practice", "number"}}
	figOneShare     = figure{"chartmesh_anchor_practice_share", "Part of a practice's quota that is used.", gauge, []string{"practice", "number"}}
	figOneConnected = figure{"chartmesh_anchor_practice_sessions", "Devices of a practice with a session now.", gauge, []string{"practice", "number"}}
	figOneMoved     = figure{"chartmesh_anchor_practice_session_bytes_total", "Bytes of a practice's sessions.", counter, []string{"practice", "number", "direction"}}
)

func (f figure) desc() *prometheus.Desc { return prometheus.NewDesc(f.name, f.help, f.labels, nil) }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range []figure{figInfo, figUptime, figHealthy, figPractices, figUsedUp, figDeleting, figHeldBytes, figHeldChunks, figSessions,
		figSessionsT, figBytes, figChunks, figStore, figFree, figHeap, figGoroutines, figOneBytes, figOneChunks, figOneShare, figOneConnected,
		figOneMoved} {
		to <- f.desc()
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	a := m.anchor
	put := func(f figure, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(f.desc(), f.kind, v, labels...)
	}
	put(figInfo, 1, a.cfg.Version, a.cfg.Region)
	put(figUptime, time.Since(m.begun).Seconds())
	put(figHealthy, oneIf(a.Healthy() == nil))
	moved := a.host.Moved()
	states := map[string]int{"held": 0, "waiting": 0, "left": 0, "damaged": 0}
	var usedUp int
	var held storage.Amount
	for _, p := range a.list() {
		states[p.stateName()]++
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

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

// Metrics writes the figures in Prometheus' text form.
func (a *Anchor) Metrics(w io.Writer) error {
	families, err := a.metrics.registry.Gather()
	if err != nil {
		return fmt.Errorf("gather the metrics: %w", err)
	}
	enc := expfmt.NewEncoder(w, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		err = errors.Join(err, enc.Encode(f))
	}
	if err != nil {
		return fmt.Errorf("write the metrics: %w", err)
	}
	return nil
}
