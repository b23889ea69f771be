package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// change is a text of a source file that stands otherwise in another version of the program.
type change struct{ pkg, file, old, new string }

// buildAs builds the program as a version with other ranges would be: from the same sources but for some lines. Nothing of it is part
// of the program itself.
func buildAs(t *testing.T, version string, changes ...change) string {
	t.Helper()
	dir := t.TempDir()
	overlay := map[string]string{}
	for i, c := range changes {
		out, err := exec.Command("go", "list", "-trimpath=false", "-f", "{{.Dir}}", c.pkg).Output()
		must(t, err)
		path := filepath.Join(strings.TrimSpace(string(out)), c.file)
		text, err := os.ReadFile(path)
		must(t, err)
		if bytes.Count(text, []byte(c.old)) != 1 {
			t.Fatalf("%s does not say %q once", path, c.old)
		}
		overlay[path] = filepath.Join(dir, fmt.Sprint(i, ".go"))
		must(t, os.WriteFile(overlay[path], bytes.Replace(text, []byte(c.old), []byte(c.new), 1), 0o600))
	}
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "overlay.json"), text, 0o600))
	bin := filepath.Join(dir, "chartmesh")
	out, err := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-ldflags", "-X main.release="+version, "-o", bin,
		"chartmesh/cmd/chartmesh").CombinedOutput()
	if err != nil {
		t.Fatalf("build %s: %v: %s", version, err, out)
	}
	return bin
}

// update lets a site go on with another version.
func (s *site) update(bin string) {
	s.t.Helper()
	s.stop()
	s.bin = bin
	s.start()
}

// says polls until a site's status and its text for people are as wanted.
func (s *site) says(what string, ok func(st api.Status, text string) bool) {
	s.t.Helper()
	var st api.Status
	var text string
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); wait(s.t, 50*time.Millisecond) {
		var err error
		st, err = s.client.Status(s.t.Context(), "")
		must(s.t, err)
		if text = s.mustRun("status"); ok(st, text) {
			return
		}
	}
	s.t.Fatalf("%s: never %s: %+v\n%s", s.name, what, st, text)
}

// TestVersionsApart: two devices whose protocols have no version in common pause, and say why on both sides. Edits go on, and
// are exchanged once both are updated.
func TestVersionsApart(t *testing.T) {
	old := buildAs(t, "1.0.0")
	next := buildAs(t, "2.0.0", change{"chartmesh/p2p/session", "session.go", "var Protocol = Range{1, 2}", "var Protocol = Range{3, 4}"})
	root := t.TempDir()
	a, b := newSite(t, root, "surgery"), newSite(t, root, "branch")
	a.bin, b.bin = old, old
	a.mustRun("init", "--practice", "Praxis", "--site", "surgery", "--device", "surgery")
	a.start()
	b.mustRun("join", a.invite(), "--site", "branch", "--device", "branch")
	b.start()
	_, err := a.put([]byte(`{"resourceType":"Patient","id":"p1"}`), false)
	must(t, err)
	b.inSync()
	a.inSync()

	b.update(next)
	for s, other := range map[*site]string{a: "2.0.0", b: "1.0.0"} {
		s.says("incompatible", func(st api.Status, text string) bool {
			p := st.Peers[0]
			return p.State == "incompatible" && p.Version == other && strings.Contains(p.Reason, `"1.0.0" (protocol 1 to 2`) &&
				strings.Contains(p.Reason, `"2.0.0" (protocol 3 to 4`) && !st.InSync &&
				strings.HasPrefix(text, "offline: ") && strings.Contains(strings.SplitN(text, "\n", 2)[0], "1.0.0") &&
				strings.Contains(strings.SplitN(text, "\n", 2)[0], "2.0.0")
		})
		_, err := s.put(fmt.Appendf(nil, `{"resourceType":"Patient","id":"of-%s"}`, s.name), false)
		must(t, err)
		s.says("one change here only", func(st api.Status, text string) bool {
			return st.NotElsewhere == 1 && st.Peers[0].LacksChunks == 1 && strings.Contains(text, "on this device alone")
		})
	}
	t.Log(a.mustRun("status"))
	a.stop() // over a restart, too
	a.start()

	a.update(next)
	a.inSync()
	b.inSync()
	for _, s := range []*site{a, b} {
		s.get("Patient/of-surgery")
		s.get("Patient/of-branch")
		s.says("all elsewhere", func(st api.Status, _ string) bool { return st.NotElsewhere == 0 && st.Peers[0].State == "in-sync" })
	}
	if x, y := a.export(), b.export(); !bytes.Equal(x, y) {
		t.Errorf("exports differ:\n%s\n%s", x, y)
	}
}

// TestSchemasApart: what a newer version writes is kept and passed on by older ones, which show its resource as it was and do not
// edit it, and read it once they are updated.
func TestSchemasApart(t *testing.T) {
	old := buildAs(t, "1.0.0")
	next := buildAs(t, "1.1.0", change{"chartmesh/fhir", "fhir.go", "const Schema = 1", "const Schema = 2"})
	root := t.TempDir()
	a, b, c := newSite(t, root, "surgery"), newSite(t, root, "branch"), newSite(t, root, "home")
	for _, s := range []*site{a, b, c} {
		s.bin = old
	}
	a.mustRun("init", "--practice", "Praxis", "--site", "surgery", "--device", "surgery")
	a.start()
	for _, s := range []*site{b, c} {
		s.mustRun("join", a.invite(), "--site", s.name, "--device", s.name)
		s.start()
	}
	for _, body := range []string{`{"resourceType":"Patient","id":"p1","gender":"female"}`,
		`{"resourceType":"Observation","id":"o1","status":"final","subject":{"reference":"Patient/p1"}}`} {
		_, err := a.put([]byte(body), false)
		must(t, err)
	}
	c.inSync()
	b.inSync()
	a.inSync()
	c.stop()

	b.update(next)
	_, err := b.put([]byte(strings.Replace(b.json("Patient/p1"), `"female"`, `"other"`, 1)), false)
	must(t, err)
	a.says("parked", func(st api.Status, text string) bool {
		return st.Parked == 1 && strings.Contains(text, "it was written by a newer version")
	})
	b.says("stored and not readable at the older one", func(st api.Status, _ string) bool {
		for _, p := range st.Peers {
			if p.Name == "surgery" {
				return p.Proof.Stored == p.Proof.Chunks && p.Proof.Readable == p.Proof.Chunks-1
			}
		}
		return false
	})
	b.stop()
	c.start() // gets it from the older one
	for _, s := range []*site{a, c} {
		s.says("parked", func(st api.Status, _ string) bool { return st.Parked == 1 })
		shown := s.json("Patient/p1")
		if !strings.Contains(shown, `"female"`) {
			t.Errorf("%s shows %s", s.name, shown)
		}
		_, err := s.put([]byte(strings.Replace(shown, `"female"`, `"male"`, 1)), false)
		if e := api.AsError(err); e == nil || e.Code != api.CodeIncompat || !strings.Contains(e.Message, "Patient/p1 was changed at branch by a newer version") {
			t.Errorf("%s lets it be edited: %v", s.name, err)
		}
		_, err = s.put([]byte(strings.Replace(s.json("Observation/o1"), `"final"`, `"amended"`, 1)), false)
		must(t, err)
		c.inSync()
		a.inSync()
	}
	a.update(next)
	c.update(next)
	b.start()
	for _, s := range []*site{a, b, c} {
		s.says("nothing is parked", func(st api.Status, _ string) bool { return st.Parked == 0 && st.InSync && st.NotElsewhere == 0 })
		if shown := s.json("Patient/p1"); !strings.Contains(shown, `"other"`) {
			t.Errorf("%s shows %s", s.name, shown)
		}
	}
	if x, y := a.export(), b.export(); !bytes.Equal(x, y) {
		t.Errorf("exports differ:\n%s\n%s", x, y)
	}
	_, err = a.put([]byte(strings.Replace(a.json("Patient/p1"), `"other"`, `"male"`, 1)), false)
	must(t, err)
}

// json returns a resource as it is shown.
func (s *site) json(ref string) string {
	s.t.Helper()
	r, err := api.ParseRef(ref)
	must(s.t, err)
	got, err := s.client.Get(s.t.Context(), r, "")
	must(s.t, err)
	return string(got.JSON)
}
