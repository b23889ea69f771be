package agent_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chartmesh/agent"
	"chartmesh/agent/api"
)

// openAs opens the folder without a network, in another way than usual.
func (m *machine) openAs(cfg agent.Config) {
	m.t.Helper()
	m.t.Setenv("XDG_STATE_HOME", m.state)
	cfg.Dir, cfg.Listen = m.dir, []string{"/ip4/127.0.0.1/udp/0/quic-v1"}
	a, err := agent.Open(cfg)
	must(m.t, err)
	m.Agent = a
	m.stop = func() {
		m.stop = func() {}
		must(m.t, a.Close())
	}
	m.t.Cleanup(func() { m.stop() })
}

// TestRestoredOnFullDisk puts an older copy of a folder back in its place and opens it while the disk is full, twice: it
// can be read, nothing is written in it, and with the first opening that has room one new log begins.
func TestRestoredOnFullDisk(t *testing.T) {
	a, b := pair(t)
	a.set("p1", "birthDate", "1961-01-01")
	a.meets(b)
	a.stop()
	restore := a.save(false)
	a.run()
	a.set("p1", "birthDate", "1962-02-02")
	a.meets(b)
	a.stop()

	restore()
	for range 2 {
		a.openAs(agent.Config{LeastFree: 1 << 62})
		if res, err := a.Get(t.Context(), api.Ref{Type: "Patient", ID: "p1"}, ""); err != nil || !strings.Contains(string(res.JSON), "1961") {
			t.Errorf("it shows %s, %v", res.JSON, err)
		}
		if _, err := a.Put(t.Context(), "user", []byte(`{"resourceType":"Patient","id":"p2"}`), false); err == nil {
			t.Error("it writes on a full disk")
		}
		a.stop()
	}
	a.run()
	a.set("p1", "birthDate", "1963-03-03")
	st := a.meets(b)
	if st.NewLog == nil || st.NewLog.Logs != 2 || !strings.Contains(st.NewLog.Reason, "older than it was") || st.Branches != 0 {
		t.Errorf("it says %+v, %d branches", st.NewLog, st.Branches)
	}
	a.kept("1962-02-02", "1963-03-03")
	a.stop()
	a.open()
	if st, err := a.Status(t.Context(), ""); err != nil || st.NewLog.Logs != 2 {
		t.Errorf("after a restart it says %+v, %v", st.NewLog, err)
	}
}

// TestRefilledBeginsOneLog damages the store, which is set aside and filled anew: an edit goes under one new log, and the
// witness, which knows more of the old one, does not ask for another.
func TestRefilledBeginsOneLog(t *testing.T) {
	a, b := pair(t)
	a.set("p1", "birthDate", "1961-01-01")
	a.meets(b)
	a.stop()
	must(t, os.Remove(filepath.Join(a.dir, "records", "store", "MANIFEST")))
	a.openAs(agent.Config{Repair: true})
	a.set("p2", "gender", "male")
	a.stop()
	a.run()
	if st := a.meets(b); st.NewLog == nil || st.NewLog.Logs != 2 || !strings.Contains(st.NewLog.Reason, "damaged") || st.Branches != 0 {
		t.Errorf("it says %+v, %d branches", st.NewLog, st.Branches)
	}
	a.kept("1961-01-01", `"p2"`)
}
