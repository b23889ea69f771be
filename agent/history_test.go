package agent_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
)

// machine is a device whose folder, and what stands outside of it, can be copied and put back.
type machine struct {
	t     *testing.T
	name  string
	dir   string
	state string // its user's state directory
	*agent.Agent
	stop func()
}

func newMachine(t *testing.T, name string) *machine {
	return &machine{t: t, name: name, dir: filepath.Join(t.TempDir(), "data"), state: t.TempDir()}
}

// open opens the folder without a network.
func (m *machine) open() {
	m.t.Helper()
	m.t.Setenv("XDG_STATE_HOME", m.state)
	a, err := agent.Open(agent.Config{Dir: m.dir, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}})
	must(m.t, err)
	m.Agent = a
	m.stop = func() {
		m.stop = func() {}
		must(m.t, a.Close())
	}
	m.t.Cleanup(func() { m.stop() })
}

// run opens the folder and brings it onto the network.
func (m *machine) run() {
	m.t.Helper()
	m.open()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	a, closing := m.Agent, m.stop
	go func() { ran <- a.Run(ctx) }()
	m.stop = func() {
		cancel()
		if err := <-ran; err != nil {
			m.t.Error(err)
		}
		closing()
		m.stop = func() {}
	}
	poll := time.NewTicker(5 * time.Millisecond) // until it listens
	defer poll.Stop()
	for {
		if st, err := a.Status(ctx, ""); err == nil && len(st.Addresses) > 0 {
			return
		}
		select {
		case err := <-ran:
			m.t.Fatalf("the agent of %s ended: %v", m.name, err)
		case <-poll.C:
		}
	}
}

// pair founds a practice on one machine and has another join it; both run.
func pair(t *testing.T) (a, b *machine) {
	t.Helper()
	a, b = newMachine(t, "surgery"), newMachine(t, "branch")
	_, err := agent.Init(a.dir, agent.InitOptions{Practice: "Practice", Site: a.name, Device: a.name})
	must(t, err)
	a.run()
	invite, err := a.Invite(t.Context(), api.InviteRequest{Role: "member", Expires: time.Hour, Yes: true})
	must(t, err)
	_, err = agent.Join(t.Context(), b.dir, agent.JoinOptions{Code: invite.Code, Site: b.name, Device: b.name})
	must(t, err)
	b.run()
	return a, b
}

// copyTree copies a folder's content into another that is there; what is there is removed first, the folder itself stays.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	must(t, os.MkdirAll(to, 0o700))
	old, err := os.ReadDir(to)
	must(t, err)
	for _, e := range old {
		must(t, os.RemoveAll(filepath.Join(to, e.Name())))
	}
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil || rel == "." {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if !e.Type().IsRegular() {
			return nil // a socket
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), b, 0o600)
	}))
}

// save copies the folder, and the state directory if outside is set, and returns what puts them back in their place.
func (m *machine) save(outside bool) (restore func()) {
	m.t.Helper()
	dir, state := m.t.TempDir(), m.t.TempDir()
	copyTree(m.t, m.dir, dir)
	copyTree(m.t, m.state, state)
	return func() {
		m.t.Helper()
		copyTree(m.t, dir, m.dir)
		if outside {
			copyTree(m.t, state, m.state)
		}
	}
}

// set writes one field of a patient, which is made if it is not there.
func (m *machine) set(id, field, value string) {
	m.t.Helper()
	obj := map[string]any{"resourceType": "Patient", "id": id}
	if res, err := m.Get(m.t.Context(), api.Ref{Type: "Patient", ID: id}, ""); err == nil {
		must(m.t, json.Unmarshal(res.JSON, &obj))
	}
	obj[field] = value
	b, err := json.Marshal(obj)
	must(m.t, err)
	_, err = m.Put(m.t.Context(), "user of "+m.name, b, false)
	must(m.t, err)
}

// meets waits until this machine and another, which both run, hold and show the same, and returns the status of this one.
func (m *machine) meets(o *machine) api.Status {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(m.t.Context(), time.Minute)
	defer cancel()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		st, err := m.WaitInSync(ctx, "")
		other, otherErr := o.WaitInSync(ctx, "")
		if err != nil || otherErr != nil {
			m.t.Fatalf("%s and %s: %v, %v: %+v, %+v", m.name, o.name, err, otherErr, st, other)
		}
		if st.NotElsewhere+other.NotElsewhere == 0 && m.export() == o.export() {
			return st
		}
		select {
		case <-ctx.Done():
			m.t.Fatalf("%s and %s: %+v, %+v", m.name, o.name, st, other)
		case <-poll.C:
		}
	}
}

func (m *machine) export() string {
	m.t.Helper()
	var b bytes.Buffer
	must(m.t, m.Export(m.t.Context(), &b, api.ExportOptions{}))
	return b.String()
}

// kept fails unless every value is shown or listed in an open conflict.
func (m *machine) kept(values ...string) {
	m.t.Helper()
	conflicts, err := m.Conflicts(m.t.Context())
	must(m.t, err)
	listed, err := json.Marshal(conflicts)
	must(m.t, err)
	for _, v := range values {
		if all := m.export() + string(listed); !strings.Contains(all, v) {
			m.t.Errorf("%s neither shows nor lists %s: %s", m.name, v, all)
		}
	}
}

func (m *machine) hears(kind string) bool {
	m.t.Helper()
	found := false
	must(m.t, m.Events(m.t.Context(), 0, false, func(e api.Event) error {
		found = found || e.Kind == kind
		return nil
	}))
	return found
}

// TestFolderStartedTwice starts a folder and a copy of it, lets both write, and both meet a third.
func TestFolderStartedTwice(t *testing.T) {
	a, b := pair(t)
	a.set("p1", "birthDate", "1961-01-01")
	a.meets(b)
	a.stop()
	twice := newMachine(t, "copy")
	twice.state = a.state
	copyTree(t, a.dir, twice.dir)

	a.open()
	twice.open() // at the same time
	a.set("p1", "birthDate", "1962-02-02")
	a.set("p2", "gender", "male")
	twice.set("p1", "birthDate", "1963-03-03")
	twice.set("p3", "gender", "female")
	if st, err := twice.Status(t.Context(), ""); err != nil || st.NewLog == nil || !strings.Contains(st.NewLog.Reason, "copied") {
		t.Errorf("the copy says %+v, %v", st.NewLog, err)
	}
	if st, err := a.Status(t.Context(), ""); err != nil || st.NewLog != nil || st.NotElsewhere != 2 {
		t.Errorf("the folder says %+v, %v", st, err)
	}
	a.stop()
	twice.stop()
	for _, m := range []*machine{a, twice, a} {
		m.run()
		m.meets(b)
		m.stop()
	}
	a.open()
	if x, y := a.export(), b.export(); x != y {
		t.Errorf("they differ:\n%s\n%s", x, y)
	}
	for _, m := range []*machine{a, b} {
		m.kept("1962-02-02", "1963-03-03", `"p2"`, `"p3"`)
		if st, err := m.Status(t.Context(), ""); err != nil || st.Conflicts != 1 || st.Quarantined+st.Parked+st.Unapplied > 0 {
			t.Errorf("%s says %+v, %v", m.name, st, err)
		}
	}
}

// TestFolderRestoredInPlace puts an older copy of a folder back in its own place, where it looks like the folder that it
// was. It begins a new log before anything is written, and gets back from its peer what the copy lacked.
func TestFolderRestoredInPlace(t *testing.T) {
	a, b := pair(t)
	a.set("p1", "birthDate", "1961-01-01")
	a.meets(b)
	a.stop()
	restore := a.save(false)
	a.run()
	a.set("p1", "birthDate", "1962-02-02")
	a.set("p2", "gender", "male")
	a.meets(b)
	a.stop()

	restore()
	a.open()
	a.set("p1", "birthDate", "1963-03-03")
	a.set("p1", "language", "de")
	a.stop()
	a.run()
	st := a.meets(b)
	if st.NewLog == nil || st.NewLog.Logs != 2 || !strings.Contains(st.NewLog.Reason, "older than it was") || st.Branches != 0 {
		t.Errorf("it says %+v, %d branches", st.NewLog, st.Branches)
	}
	if !a.hears("log-begun") {
		t.Error("no event tells of the new log")
	}
	if x, y := a.export(), b.export(); x != y {
		t.Errorf("they differ:\n%s\n%s", x, y)
	}
	a.kept("1962-02-02", "1963-03-03", `"p2"`, `"de"`)
	a.stop()
	a.open() // a further start is none: nothing went back
	if st, err := a.Status(t.Context(), ""); err != nil || st.NewLog.Logs != 2 || st.NotElsewhere != 0 {
		t.Errorf("after a restart it says %+v, %v", st.NewLog, err)
	}
}

// TestMachineRolledBack takes a machine back with everything that stands on it, writes on it, and lets it meet its peer,
// which is the only one to know. What nobody else had is gone with the disk, and nothing says otherwise.
func TestMachineRolledBack(t *testing.T) {
	a, b := pair(t)
	a.set("p1", "birthDate", "1961-01-01")
	a.meets(b)
	a.stop()
	restore := a.save(true)
	a.run()
	a.set("p1", "birthDate", "1962-02-02")
	a.set("p1", "gender", "male")
	a.set("p2", "gender", "male")
	a.meets(b)
	b.set("p1", "language", "fr")
	a.stop()
	a.open()
	a.set("p4", "gender", "other") // told to nobody
	a.stop()

	restore()
	a.open()
	a.set("p1", "birthDate", "1963-03-03")
	a.set("p3", "gender", "female")
	if st, err := a.Status(t.Context(), ""); err != nil || st.NewLog != nil {
		t.Fatalf("before it met anybody it says %+v, %v", st.NewLog, err)
	}
	a.stop()
	a.run()
	a.meets(b)
	if st := a.meets(b); st.NewLog == nil || !strings.Contains(st.NewLog.Reason, "another device holds") || st.Branches != 1 {
		t.Errorf("it says %+v, %d branches", st.NewLog, st.Branches)
	}
	if !a.hears("log-begun") || !b.hears("log-branched") || !a.hears("change-written-anew") {
		t.Error("no event tells of it")
	}
	if st, err := b.Status(t.Context(), a.name); err != nil || st.Peers[0].Branches != 1 {
		t.Errorf("the peer says %+v, %v", st.Peers, err)
	}
	if x, y := a.export(), b.export(); x != y {
		t.Errorf("they differ:\n%s\n%s", x, y)
	}
	for _, m := range []*machine{a, b} {
		m.kept("1962-02-02", "1963-03-03", `"male"`, `"p2"`, `"p3"`, `"fr"`)
		if strings.Contains(m.export(), `"p4"`) {
			t.Errorf("%s shows what nobody can have", m.name)
		}
		st, err := m.Status(t.Context(), "")
		if err != nil || st.Quarantined+st.Parked+st.Unapplied > 0 || st.NotElsewhere != 0 {
			t.Errorf("%s says %+v, %v", m.name, st, err)
		}
	}
	revisions, err := b.History(t.Context(), api.Ref{Type: "Patient", ID: "p1"})
	must(t, err)
	anew := 0
	for _, r := range revisions {
		if r.Anew != "" {
			anew++
		}
	}
	if anew == 0 {
		t.Errorf("no revision is said to be written anew: %+v", revisions)
	}
}
