package agent_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
	"chartmesh/internal/compat"
)

func TestMain(m *testing.M) {
	agent.ChildMain()
	os.Exit(withState(m))
}

// withState runs the tests with a state directory of their own.
func withState(m *testing.M) int {
	dir, err := os.MkdirTemp("", "chartmesh-state-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	_ = os.Setenv("XDG_STATE_HOME", dir)
	return m.Run()
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const compatDir = "../testdata/compat"

// compatState is what a folder must still say when a later build opens it.
type compatState struct {
	Export    string
	Conflicts []api.Conflict
	Revisions int // of Patient/compat
	Status    api.Status
}

func stateOf(t *testing.T, a *agent.Agent) compatState {
	t.Helper()
	var s compatState
	var b bytes.Buffer
	must(t, a.Export(t.Context(), &b, api.ExportOptions{Meta: false}))
	s.Export = b.String()
	var err error
	s.Conflicts, err = a.Conflicts(t.Context())
	must(t, err)
	h, err := a.History(t.Context(), api.Ref{Type: "Patient", ID: "compat"})
	must(t, err)
	s.Revisions = len(h)
	st, err := a.Status(t.Context(), "")
	must(t, err)
	s.Status = api.Status{
		Practice: st.Practice, Device: st.Device, Site: st.Site, PeerID: st.PeerID, Documents: st.Documents,
		Resources: st.Resources, Conflicts: st.Conflicts,
	}
	return s
}

// TestCompat opens every folder that earlier builds wrote: what they held must read the same, and be writable.
func TestCompat(t *testing.T) {
	compat.Each(t, compatDir, func(t *testing.T, dir string, said []byte) {
		var before compatState // as values: a status may have got fields since
		must(t, json.Unmarshal(said, &before))
		want, err := json.MarshalIndent(before, "", "\t")
		must(t, err)
		a, err := agent.Open(agent.Config{Dir: dir, Offline: true})
		must(t, err)
		defer func() { must(t, a.Close()) }()
		got, err := json.MarshalIndent(stateOf(t, a), "", "\t")
		must(t, err)
		if !bytes.Equal(got, want) {
			t.Errorf("the folder says\n%s\nand said\n%s", got, want)
		}
		res, err := a.Get(t.Context(), api.Ref{Type: "Patient", ID: "compat"}, "")
		must(t, err)
		body := strings.Replace(string(res.JSON), `"gender":"female"`, `"gender":"other"`, 1)
		w, err := a.Put(t.Context(), "later", json.RawMessage(body), false)
		must(t, err)
		if w.Outcome != "changed" {
			t.Errorf("an edit in the folder: %+v", w)
		}
	})
}

// TestWriteCompat writes a folder for later builds: CHARTMESH_WRITE_COMPAT names it, as "1" for testdata/compat/1.
func TestWriteCompat(t *testing.T) {
	name := os.Getenv("CHARTMESH_WRITE_COMPAT")
	if name == "" {
		t.Skip("CHARTMESH_WRITE_COMPAT names no folder")
	}
	dir := filepath.Join(t.TempDir(), "data")
	_, err := agent.Init(dir, agent.InitOptions{Practice: "Praxis Kompat", Site: "Mitte", Device: "Empfang"})
	must(t, err)
	a, err := agent.Open(agent.Config{Dir: dir, Offline: true})
	must(t, err)
	put := func(body string) {
		t.Helper()
		_, err := a.Put(t.Context(), "Dr. Früher", json.RawMessage(body), false)
		must(t, err)
	}
	put(`{"resourceType":"Patient","id":"compat","name":[{"family":"Früher","given":["Ada"],"_given":[{"extension":[{"url":"urn:x","valueBoolean":true}]}]}],"gender":"unknown","birthDate":"1950-05-01"}`)
	first, err := a.Get(t.Context(), api.Ref{Type: "Patient", ID: "compat"}, "")
	must(t, err)
	put(strings.Replace(strings.Replace(string(first.JSON), "unknown", "female", 1), "1950-05-01", "1950-05-02", 1))
	put(strings.Replace(string(first.JSON), "1950-05-01", "1951-05-01", 1)) // stale: a conflict
	put(`{"resourceType":"Observation","id":"compat-o","status":"final","code":{"text":"temperature"},"subject":{"reference":"Patient/compat"},"effectiveDateTime":"2025-01-01","valueQuantity":{"value":37.50,"unit":"Cel"},"note":[{"text":"after exercise"}]}`)
	put(`{"resourceType":"Basic","id":"gone","code":{"text":"x"}}`)
	_, err = a.Delete(t.Context(), "Dr. Früher", api.Ref{Type: "Basic", ID: "gone"})
	must(t, err)
	for bundle := range synthetic.Patients(7, 2) {
		var batch api.ImportBatch
		must(t, fhir.ReadFile("made", bytes.NewReader(fhir.Canonical(bundle)), func(it fhir.Item) error {
			batch.Resources = append(batch.Resources, it.Raw)
			return it.Err
		}))
		_, err := a.Import(t.Context(), "importer", batch)
		must(t, err)
	}
	state, err := json.MarshalIndent(stateOf(t, a), "", "\t")
	must(t, err)
	must(t, a.Close())
	compat.Keep(t, dir, append(state, '\n'), filepath.Join(compatDir, name))
}
