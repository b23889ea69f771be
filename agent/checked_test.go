package agent

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/replica"
	"chartmesh/internal/fuzzing"
)

// TestChecksOutlive: what checks found is told after a restart, by counts and kinds, and by no ID.
func TestChecksOutlive(t *testing.T) {
	t.Setenv("XDG_STATE_HOME", t.TempDir())
	dir := t.TempDir()
	if _, err := Init(dir, InitOptions{Practice: "P", Site: "S", Device: "D"}); err != nil {
		t.Fatal(err)
	}
	open := func() *Agent {
		a, err := Open(Config{Dir: dir, Offline: true})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	a := open()
	if got := a.lastChecks(); got != (api.Checks{}) {
		t.Errorf("before any check: %+v", got)
	}
	began := time.UnixMilli(1790000000123)
	a.noteVerified(t.Context(), began, api.VerifyReport{Logs: 1, Chunks: 2, Documents: 3, Resources: 4, Values: 5, Took: 6 * time.Second, Found: 7,
		Findings: []api.Finding{{Kind: "view", ID: "9f86d081884c7d65", What: fuzzing.Canary}}, Kinds: map[string]uint64{"view": 4, "log head": 3},
		Repaired: true, Wanted: 8})
	a.noteScrubbed(t.Context(), began, replica.Scrubbed{Chunks: 9, Damaged: 10}, true)
	before := a.lastChecks()
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a = open()
	defer func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	}()
	d, err := a.Diagnose(t.Context())
	if err != nil || !reflect.DeepEqual(d.Checks, before) {
		t.Errorf("%+v after a restart, %+v before, %v", d.Checks, before, err)
	}
	text, err := json.Marshal(d.Checks)
	if err != nil || strings.Contains(string(text), "9f86d0") || strings.Contains(string(text), fuzzing.Canary) ||
		!strings.Contains(string(text), `"kinds":{"log head":3,"view":4}`) || !strings.Contains(string(text), `"damaged":10,"whole":true`) {
		t.Errorf("%s, %v", text, err)
	}
}

// TestAnonymousStatus: what a status says of a repair names devices by their peer IDs alone, whatever their names are.
func TestAnonymousStatus(t *testing.T) {
	const name = "Zwetschgenknödel"
	a := &Agent{cfg: Config{Dir: "/home/" + name + "/data"}}
	s := api.Status{Practice: name, Device: "Zw", Site: name + " 1", PeerID: "12D3KooWaaaaaaaa", Reason: "repairing: 1 of 2 chunks, from " + name + " 2",
		Peers: []api.Peer{{Name: name + " 2", Site: name + " 3", PeerID: "12D3KooWbbbbbbbb", Reason: name}}}
	s.Store.Repair = &api.Repair{Reason: "open /home/" + name + "/data/records: it is gone", From: []string{name + " 2", "not a peer " + name}}
	s.Store.SetAside = []api.SetAside{{Path: "/home/" + name + "/data/records.damaged-20260101T000000Z-2"}, {Path: "records.damaged-" + name}}
	text, err := json.Marshal(anonymous(s, a.names(s)))
	if err != nil || strings.Contains(string(text), name[:9]) || strings.Contains(string(text), "Zw") {
		t.Errorf("%s, %v", text, err)
	}
	for _, want := range []string{`"reason":"open DATA/records: it is gone"`, `"from":["device-bbbbbbbb",""]`, "records.damaged-20260101T000000Z-2", `"other-2"`} {
		if !strings.Contains(string(text), want) {
			t.Errorf("there is no %s in %s", want, text)
		}
	}
}
