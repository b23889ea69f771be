package agent_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
)

const planted = "Zwetschgenknödel"

// readable returns in which form the planted name stands in b, or nothing.
func readable(b []byte) string {
	for form, look := range map[string]string{
		"as it is": planted, "folded": "zwetschgenknodel", "hex": hex.EncodeToString([]byte(planted)), "part": planted[:6], "other part": "genkn",
		"escaped": strings.ReplaceAll(planted, "ö", `\u00f6`), "base64": base64.StdEncoding.EncodeToString([]byte(planted))[:20],
	} {
		if bytes.Contains(bytes.ToLower(b), bytes.ToLower([]byte(look))) {
			return form
		}
	}
	return ""
}

// plantedAgent is an agent whose practice, site, device, user, patient and folder all have the same name to look for.
func plantedAgent(t *testing.T) *agent.Agent {
	t.Helper()
	dir := filepath.Join(t.TempDir(), planted)
	device := `"` + planted[:6] + `\` + planted[6:] + `" device` // which a log quotes
	_, err := agent.Init(dir, agent.InitOptions{Practice: planted + " practice", Site: planted + " site", Device: device})
	must(t, err)
	var log bytes.Buffer
	for _, handler := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		logger := slog.New(handler)
		logger.Info("a line that names " + device + " in " + dir)
		logger.Info("an error that does", "error", fmt.Errorf("there is no %q", device))
	}
	a, err := agent.Open(agent.Config{Dir: dir, Version: "1.2.3", Offline: true, RecentLog: log.Bytes, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	must(t, err)
	t.Cleanup(func() { must(t, a.Close()) })
	for i := range 5 {
		_, err := a.Put(t.Context(), "Dr. "+planted, json.RawMessage(fmt.Sprintf(
			`{"resourceType":"Patient","id":"%s-%d","name":[{"family":%q}],"identifier":[{"system":"urn:x","value":%q}]}`,
			"zwetschgenknodel", i, planted, planted)), false)
		must(t, err)
	}
	return a
}

func metricsOf(t *testing.T, a *agent.Agent) string {
	t.Helper()
	var b bytes.Buffer
	must(t, a.Metrics(t.Context(), &b))
	return b.String()
}

// TestMetricsNameNobody: with names planted wherever an agent knows one, none is in the metrics, and labels have the names
// that are meant for them.
func TestMetricsNameNobody(t *testing.T) {
	text := metricsOf(t, plantedAgent(t))
	if form := readable([]byte(text)); form != "" {
		t.Errorf("the planted name is readable, %s", form)
	}
	for _, want := range []string{`(?m)^chartmesh_resources 5$`, `chartmesh_info\{version="1.2.3"\} 1`,
		`chartmesh_commits_total\{outcome="durable"\} ([5-9]|\d\d)`, `chartmesh_commits_total\{outcome="no-room"\} 0`, `chartmesh_commit_seconds_count ([5-9]|\d\d)`, // opening commits too
		"chartmesh_events_total 5", "chartmesh_not_elsewhere_changes 5"} {
		if !regexp.MustCompile(want).MatchString(text) {
			t.Errorf("there is no %q in\n%s", want, text)
		}
	}
	for _, m := range regexp.MustCompile(`\{(\w+)=`).FindAllStringSubmatch(text, -1) {
		if !slices.Contains([]string{"version", "state", "device", "direction", "process", "outcome", "le"}, m[1]) {
			t.Errorf("label %s", m[1])
		}
	}
}

// TestMetricsAreDocumented: docs/operations.md and the metrics name the same ones.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../docs/operations.md")
	must(t, err)
	text := metricsOf(t, plantedAgent(t))
	named := func(pattern, in string) []string {
		var names []string
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(in, -1) {
			names = append(names, m[1])
		}
		slices.Sort(names)
		return slices.Compact(names)
	}
	told, there := named("(?m)^\\| `(chartmesh_\\w+)`", string(doc)), named(`(?m)^# TYPE (\w+)`, text)
	for _, name := range there {
		if !slices.Contains(told, name) {
			t.Errorf("docs/operations.md has no %s", name)
		}
	}
	for _, name := range told {
		// Those of a device come with the first other device, and an anchor has others.
		if !slices.Contains(there, name) && !strings.HasPrefix(name, "chartmesh_peer_") && !strings.HasPrefix(name, "chartmesh_anchor_") {
			t.Errorf("there is no %s", name)
		}
	}
	if len(told) < 20 {
		t.Errorf("only %d metrics are documented", len(told))
	}
}

// TestDiagnosisNamesNobody: the same for a diagnosis, the log in it included.
func TestDiagnosisNamesNobody(t *testing.T) {
	a := plantedAgent(t)
	d, err := a.Diagnose(t.Context())
	must(t, err)
	b, err := json.Marshal(d)
	must(t, err)
	if form := readable(b); form != "" {
		t.Errorf("the planted name is readable, %s: %s", form, b)
	}
	if strings.Count(d.Log, "a line that names device-") != 2 || strings.Count(d.Log, "device-") != 4 || !strings.Contains(d.Goroutines, "Diagnose") || len(d.Store) < 5 ||
		d.Status.Resources != 5 || d.Status.Practice != "practice" || d.Status.Site != "site-1" || d.Settings["mdns"] != "on" {
		t.Errorf("the diagnosis says too little: %s", b)
	}
}

// TestDiagnosisOfARepair: a store that was damaged and set aside, findings and files with the planted name beside it: the
// report tells what was found, and names nobody.
func TestDiagnosisOfARepair(t *testing.T) {
	dir := filepath.Join(t.TempDir(), planted)
	open := func(repair bool) *agent.Agent {
		a, err := agent.Open(agent.Config{Dir: dir, Offline: true, Repair: repair})
		must(t, err)
		return a
	}
	_, err := agent.Init(dir, agent.InitOptions{Practice: planted, Site: planted + " site", Device: planted + " device"})
	must(t, err)
	a := open(false)
	for i := range 5 {
		_, err := a.Put(t.Context(), "Dr. "+planted, json.RawMessage(fmt.Sprintf(
			`{"resourceType":"Patient","id":"zwetschgenknodel-%d","name":[{"family":%q}]}`, i, planted)), false)
		must(t, err)
	}
	must(t, a.Close())
	must(t, os.Remove(filepath.Join(dir, "records", "store", "MANIFEST")))
	a = open(true)
	defer func() { must(t, a.Close()) }()
	must(t, os.WriteFile(filepath.Join(dir, "records", planted+".txt"), []byte(planted), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "records.damaged-"+planted), 0o700))
	began := time.Now().Add(-time.Millisecond)
	report, err := a.Verify(t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
	must(t, err)
	d, err := a.Diagnose(t.Context())
	must(t, err)
	b, err := json.Marshal(d)
	must(t, err)
	if form := readable(b); form != "" {
		t.Errorf("the planted name is readable, %s: %s", form, b)
	}
	others := 0
	for _, f := range d.Store {
		if strings.HasPrefix(f.Name, "other-") {
			others++
		}
	}
	if others != 1 {
		t.Errorf("of the store's own files some are not named: %+v", d.Store)
	}
	if r := d.Status.Store.Repair; r == nil || r.Reason == "" || len(d.Status.Store.SetAside) != 2 {
		t.Errorf("the report does not tell of the repair: %+v", d.Status.Store)
	}
	v := d.Checks.Verify
	if v == nil || v.Began.Before(began) || v.Chunks != report.Chunks || !v.Clean || d.Checks.Scrub != nil {
		t.Errorf("of the checks it says %+v, and the report was %+v", d.Checks, report)
	}
}
