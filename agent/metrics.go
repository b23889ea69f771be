package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"chartmesh/agent/api"
	"chartmesh/p2p"
	"chartmesh/storage"
)

// metrics are the agent's figures. What the agent knows anyway is read when somebody asks; only what would be over by
// then, the time of each commit, is counted as it happens.
//
// Labels have values from fixed lists, and device: a peer ID, which names nobody.
type metrics struct {
	agent    *Agent
	registry *prometheus.Registry
	begun    time.Time

	commits     *prometheus.CounterVec
	commitTime  prometheus.Histogram
	commitBytes prometheus.Counter
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{agent: a, registry: prometheus.NewRegistry(), begun: time.Now()}
	m.commits = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "chartmesh_commits_total", Help: "Commits by outcome."}, []string{"outcome"})
	m.commits.WithLabelValues("durable")
	m.commits.WithLabelValues("failed")
	m.commitTime = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "chartmesh_commit_seconds", Help: "Time until a commit was on stable storage, its fsync included.",
		Buckets: []float64{.0005, .001, .002, .004, .008, .016, .032, .064, .128, .256, .512, 1, 2, 4, 8},
	})
	m.commitBytes = prometheus.NewCounter(prometheus.CounterOpts{Name: "chartmesh_commit_bytes_total", Help: "Bytes of keys and values in commits that became durable."})
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
	if err != nil {
		t.m.commits.WithLabelValues("failed").Inc()
		return err
	}
	t.m.commits.WithLabelValues("durable").Inc()
	t.m.commitTime.Observe(time.Since(begun).Seconds())
	t.m.commitBytes.Add(float64(b.Size()))
	return nil
}

// figure is one metric that is read when somebody asks.
type figure struct {
	name, help string
	kind       prometheus.ValueType
	label      string // "": none
}

var (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue

	figInfo       = figure{"chartmesh_info", "Always 1; the version of this build.", gauge, "version"}
	figUptime     = figure{"chartmesh_uptime_seconds", "Since the folder was opened.", gauge, ""}
	figDocuments  = figure{"chartmesh_documents", "Documents held.", gauge, ""}
	figResources  = figure{"chartmesh_resources", "Resources shown.", gauge, ""}
	figConflicts  = figure{"chartmesh_conflicts", "Open conflicts.", gauge, ""}
	figHeld       = figure{"chartmesh_held_chunks", "Chunks that are stored and not part of their document.", gauge, "state"}
	figElsewhere  = figure{"chartmesh_not_elsewhere_changes", "Changes of this device that no other has acknowledged.", gauge, ""}
	figAnchored   = figure{"chartmesh_at_anchor_only_changes", "Changes of this device that only anchors have acknowledged.", gauge, ""}
	figInSync     = figure{"chartmesh_in_sync", "1 if this device is in sync with all that it reaches.", gauge, ""}
	figLag        = figure{"chartmesh_applier_lag_chunks", "Chunks that are stored and that the applier has not come to.", gauge, ""}
	figEvents     = figure{"chartmesh_events_total", "Events since the folder was made.", counter, ""}
	figPeers      = figure{"chartmesh_peers", "Other devices of the practice by state.", gauge, "state"}
	figBehind     = figure{"chartmesh_peer_behind_chunks", "Chunks that a device has and this one lacks.", gauge, "device"}
	figLacks      = figure{"chartmesh_peer_lacks_chunks", "Chunks that this device has and a device has not confirmed.", gauge, "device"}
	figRTT        = figure{"chartmesh_peer_round_trip_seconds", "Round trip to a connected device.", gauge, "device"}
	figClock      = figure{"chartmesh_peer_clock_offset_seconds", "Clock of a connected device minus that of this one.", gauge, "device"}
	figSessions   = figure{"chartmesh_sessions", "Sessions with other devices now.", gauge, ""}
	figSessionsT  = figure{"chartmesh_sessions_total", "Sessions begun.", counter, ""}
	figChunks     = figure{"chartmesh_chunks_total", "Chunks exchanged.", counter, "direction"}
	figBytes      = figure{"chartmesh_session_bytes_total", "Bytes of sessions.", counter, "direction"}
	figNetwork    = figure{"chartmesh_network_changes_total", "Changes of this machine's addresses, wakes from sleep among them.", counter, ""}
	figWakes      = figure{"chartmesh_wakes_total", "Wakes from sleep, and steps of the clock that look like one.", counter, ""}
	figFound      = figure{"chartmesh_mdns_announcements_total", "Announcements of members on the local network.", counter, ""}
	figRestarts   = figure{"chartmesh_engine_restarts_total", "Engine processes after the first.", counter, ""}
	figMemory     = figure{"chartmesh_memory_bytes", "Memory that a process holds.", gauge, "process"}
	figHeap       = figure{"chartmesh_heap_bytes", "Heap of the agent that is in use.", gauge, ""}
	figGoroutines = figure{"chartmesh_goroutines", "Goroutines of the agent.", gauge, ""}
	figStore      = figure{"chartmesh_store_bytes", "Bytes of the store on disk.", gauge, ""}
	figFree       = figure{"chartmesh_disk_free_bytes", "Bytes that are free where the store is.", gauge, ""}
)

func (f figure) desc() *prometheus.Desc {
	var labels []string
	if f.label != "" {
		labels = []string{f.label}
	}
	return prometheus.NewDesc(f.name, f.help, labels, nil)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	for _, f := range []figure{figInfo, figUptime, figDocuments, figResources, figConflicts, figHeld, figElsewhere, figAnchored, figInSync, figLag,
		figEvents, figPeers, figBehind, figLacks, figRTT, figClock, figSessions, figSessionsT, figChunks, figBytes, figNetwork, figWakes, figFound,
		figRestarts, figMemory, figHeap, figGoroutines, figStore, figFree} {
		to <- f.desc()
	}
}

// peerStates are the values of the label state of chartmesh_peers.
var peerStates = []p2p.State{p2p.Offline, p2p.Connecting, p2p.Syncing, p2p.InSync, p2p.Diverged, p2p.Incompatible}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	a := m.agent
	put := func(f figure, v float64, label ...string) {
		to <- prometheus.MustNewConstMetric(f.desc(), f.kind, v, label...)
	}
	s, err := a.Status(context.Background(), "")
	if err != nil {
		to <- prometheus.NewInvalidMetric(figInSync.desc(), err)
		return
	}
	put(figInfo, 1, a.cfg.Version)
	put(figUptime, time.Since(m.begun).Seconds())
	put(figDocuments, float64(s.Documents))
	put(figResources, float64(s.Resources))
	put(figConflicts, float64(s.Conflicts))
	put(figHeld, float64(s.Parked), "parked")
	put(figHeld, float64(s.Quarantined), "quarantined")
	put(figHeld, float64(s.Unapplied), "unapplied")
	put(figElsewhere, float64(s.NotElsewhere))
	put(figAnchored, float64(s.AtAnchorOnly))
	inSync := 0.0
	if s.InSync {
		inSync = 1
	}
	put(figInSync, inSync)
	figures := a.records.Figures()
	put(figLag, float64(figures.Lag))
	put(figEvents, float64(figures.Events))
	states := map[string]int{}
	for _, p := range s.Peers {
		states[p.State]++
		put(figBehind, float64(p.BehindChunks), p.PeerID)
		put(figLacks, float64(p.LacksChunks), p.PeerID)
		if p.RTTMillis > 0 {
			put(figRTT, p.RTTMillis/1000, p.PeerID)
			put(figClock, p.ClockMillis/1000, p.PeerID)
		}
	}
	for _, state := range peerStates {
		put(figPeers, float64(states[state.String()]), state.String())
	}
	var t p2p.Traffic
	if host := a.host.Load(); host != nil {
		t = host.Traffic()
	}
	put(figSessions, float64(t.Open))
	put(figSessionsT, float64(t.Sessions))
	put(figChunks, float64(t.ChunksIn), "received")
	put(figChunks, float64(t.ChunksOut), "sent")
	put(figBytes, float64(t.BytesIn), "received")
	put(figBytes, float64(t.BytesOut), "sent")
	put(figNetwork, float64(t.NetworkChanges))
	put(figWakes, float64(t.Wakes))
	put(figFound, float64(t.Announcements))
	put(figRestarts, float64(a.engine.Restarts()))
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	own := resident()
	if own == 0 {
		own = int64(mem.Sys)
	}
	put(figMemory, float64(own), "agent")
	put(figMemory, float64(a.engine.Memory()), "engine")
	put(figHeap, float64(mem.HeapInuse))
	put(figGoroutines, float64(runtime.NumGoroutine()))
	if sizer, ok := a.store.(storage.Sizer); ok {
		if n, err := sizer.Size(); err == nil {
			put(figStore, float64(n))
		}
	}
	if free, err := storage.Free(a.cfg.Dir); err == nil {
		put(figFree, float64(free))
	}
}

// Metrics writes the figures in Prometheus' text form.
func (a *Agent) Metrics(_ context.Context, w io.Writer) error {
	families, err := a.metrics.registry.Gather()
	if err != nil {
		// Its text names metrics and no data, but what it wraps is anybody's.
		return &api.Error{Code: api.CodeInternal, Message: "the figures could not be gathered", Err: err}
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
