package agent

import (
	"context"
	"errors"
	"io"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"chartmesh/agent/api"
	"chartmesh/internal/figures"
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
	commits  *figures.Commits
}

func newMetrics(a *Agent) *metrics {
	m := &metrics{agent: a, registry: prometheus.NewRegistry(), begun: time.Now(), commits: figures.NewCommits("chartmesh")}
	m.registry.MustRegister(m.commits, m)
	return m
}

var (
	figInfo       = figures.Gauge("chartmesh_info", "Always 1; the version of this build.", "version")
	figUptime     = figures.Gauge("chartmesh_uptime_seconds", "Since the folder was opened.")
	figDocuments  = figures.Gauge("chartmesh_documents", "Documents held.")
	figResources  = figures.Gauge("chartmesh_resources", "Resources shown.")
	figConflicts  = figures.Gauge("chartmesh_conflicts", "Open conflicts.")
	figHeld       = figures.Gauge("chartmesh_held_chunks", "Chunks that are stored and not part of their document.", "state")
	figElsewhere  = figures.Gauge("chartmesh_not_elsewhere_changes", "Changes of this device that no other has acknowledged.")
	figAnchored   = figures.Gauge("chartmesh_at_anchor_only_changes", "Changes of this device that only anchors have acknowledged.")
	figInSync     = figures.Gauge("chartmesh_in_sync", "1 if this device is in sync with all that it reaches.")
	figLag        = figures.Gauge("chartmesh_applier_lag_chunks", "Chunks that are stored and that the applier has not come to.")
	figEvents     = figures.Counter("chartmesh_events_total", "Events since the folder was made.")
	figPeers      = figures.Gauge("chartmesh_peers", "Other devices of the practice by state.", "state")
	figBehind     = figures.Gauge("chartmesh_peer_behind_chunks", "Chunks that a device has and this one lacks.", "device")
	figLacks      = figures.Gauge("chartmesh_peer_lacks_chunks", "Chunks that this device has and a device has not confirmed.", "device")
	figRTT        = figures.Gauge("chartmesh_peer_round_trip_seconds", "Round trip to a connected device.", "device")
	figClock      = figures.Gauge("chartmesh_peer_clock_offset_seconds", "Clock of a connected device minus that of this one.", "device")
	figSessions   = figures.Gauge("chartmesh_sessions", "Sessions with other devices now.")
	figSessionsT  = figures.Counter("chartmesh_sessions_total", "Sessions begun.")
	figChunks     = figures.Counter("chartmesh_chunks_total", "Chunks exchanged.", "direction")
	figBytes      = figures.Counter("chartmesh_session_bytes_total", "Bytes of sessions.", "direction")
	figNetwork    = figures.Counter("chartmesh_network_changes_total", "Changes of this machine's addresses, wakes from sleep among them.")
	figWakes      = figures.Counter("chartmesh_wakes_total", "Wakes from sleep, and steps of the clock that look like one.")
	figFound      = figures.Counter("chartmesh_mdns_announcements_total", "Announcements of members on the local network.")
	figRestarts   = figures.Counter("chartmesh_engine_restarts_total", "Engine processes after the first.")
	figMemory     = figures.Gauge("chartmesh_memory_bytes", "Memory that a process holds.", "process")
	figHeap       = figures.Gauge("chartmesh_heap_bytes", "Heap of the agent that is in use.")
	figGoroutines = figures.Gauge("chartmesh_goroutines", "Goroutines of the agent.")
	figStore      = figures.Gauge("chartmesh_store_bytes", "Bytes of the store on disk.")
	figFree       = figures.Gauge("chartmesh_disk_free_bytes", "Bytes that are free where the store is.")
)

// Describe implements prometheus.Collector.
func (m *metrics) Describe(to chan<- *prometheus.Desc) {
	figures.Describe(to, figInfo, figUptime, figDocuments, figResources, figConflicts, figHeld, figElsewhere, figAnchored, figInSync, figLag,
		figEvents, figPeers, figBehind, figLacks, figRTT, figClock, figSessions, figSessionsT, figChunks, figBytes, figNetwork, figWakes, figFound,
		figRestarts, figMemory, figHeap, figGoroutines, figStore, figFree)
}

// peerStates are the values of the label state of chartmesh_peers.
var peerStates = []p2p.State{p2p.Offline, p2p.Connecting, p2p.Syncing, p2p.InSync, p2p.Diverged, p2p.Incompatible}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(to chan<- prometheus.Metric) {
	a := m.agent
	put := func(f figures.Figure, v float64, labels ...string) { f.Put(to, v, labels...) }
	s, err := a.Status(context.Background(), "")
	if err != nil {
		figInSync.Fail(to, err)
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
	put(figInSync, figures.OneIf(s.InSync))
	applier := a.records.Figures()
	put(figLag, float64(applier.Lag))
	put(figEvents, float64(applier.Events))
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
	err := figures.Write(w, a.metrics.registry)
	if errors.Is(err, figures.ErrGather) {
		return &api.Error{Code: api.CodeInternal, Message: "the figures could not be gathered", Err: err}
	}
	return err
}
