package acceptance

import (
	"bytes"
	"fmt"
	"os"
	"testing"

	"chartmesh/fhir"
)

// load fills a site: with the files of CHARTMESH_TESTDATA if it is set, else with made patients.
func (s *site) load() { s.loadPatients(60) }

func (s *site) loadPatients(n int) {
	if dir := os.Getenv("CHARTMESH_TESTDATA"); dir != "" {
		s.t.Log(s.mustRun("--json", "import", dir))
		return
	}
	s.patients(1, n)
}

// TestReconnect shows what a reconnect costs: with nothing to do, and with 20 edits on each side while apart.
func TestReconnect(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	a.load()
	b := join(t, root, "branch", a)
	b.inSync()
	for range 3 {
		must(t, b.client.SetOnline(t.Context(), false))
		must(t, b.client.SetOnline(t.Context(), true))
		st := b.inSync()
		p := st.Sync[0]
		t.Logf("nothing to do, %d documents: %d bytes sent, %d received, %d round trips", st.Documents, p.BytesSent,
			p.BytesReceived, p.RoundTrips)
		if p.BytesSent+p.BytesReceived > 1024 || p.RoundTrips != 1 || p.ChunksSent+p.ChunksRecv != 0 {
			t.Errorf("an idle reconnect costs %+v", p)
		}
	}
	must(t, b.client.SetOnline(t.Context(), false))
	for i := range 20 {
		for _, s := range []*site{a, b} {
			_, err := s.put(fmt.Appendf(nil, `{"resourceType":"Basic","id":"apart-%s-%d","code":{"text":"x"}}`, s.name, i), false)
			must(t, err)
		}
	}
	must(t, b.client.SetOnline(t.Context(), true))
	p := b.inSync().Sync[0]
	t.Logf("20 edits on each side: %d bytes sent, %d received, %d and %d chunks", p.BytesSent, p.BytesReceived, p.ChunksSent, p.ChunksRecv)
	if p.ChunksSent != 20 || p.ChunksRecv != 20 {
		t.Errorf("%d chunks sent and %d received", p.ChunksSent, p.ChunksRecv)
	}
	a.inSync() // that the other side is says nothing of this one's applier
	if !bytes.Equal(a.export(), b.export()) {
		t.Error("the exports differ")
	}
}

// TestCut cuts a first sync at about half and shows that only the rest crosses afterwards.
func TestCut(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "surgery")
	a.loadPatients(600) // so that a frame, which may be lost, is little of it
	whole := len(a.export())
	c := join(t, root, "measure", a)
	total := c.inSync().Sync[0].BytesReceived
	c.stop()
	b := newSite(t, root, "branch")
	b.mustRun("join", a.invite(), "--site", "branch", "--device", "branch")
	b.start()
	var half uint64
	for half < total/2 {
		st, err := b.client.Status(t.Context(), "surgery")
		must(t, err)
		if len(st.Sync) == 1 {
			half = st.Sync[0].BytesReceived
		}
		if st.InSync {
			t.Fatal("the sync was over before it could be cut: load more")
		}
	}
	b.kill()
	b.start()
	rest := b.inSync().Sync[0].BytesReceived
	t.Logf("%d bytes of JSON; whole sync %d bytes; cut at %d (%.0f %%); after it %d (%.0f %%)", whole, total, half,
		100*float64(half)/float64(total), rest, 100*float64(rest)/float64(total))
	if float64(rest) > 0.55*float64(total) {
		t.Errorf("after a cut at half %d of %d bytes cross", rest, total)
	}
	if !bytes.Equal(a.export(), b.export()) {
		t.Error("the exports differ")
	}
}

// TestExamples puts every resource of CHARTMESH_EXAMPLES and reads each back equal.
func TestExamples(t *testing.T) {
	heavy(t)
	name := os.Getenv("CHARTMESH_EXAMPLES")
	if name == "" {
		t.Skip("CHARTMESH_EXAMPLES names no file")
	}
	a := found(t, t.TempDir(), "surgery")
	f, err := os.Open(name)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	want := map[string]fhir.Object{}
	must(t, eachLine(f, func(line []byte) {
		o, err := fhir.Parse(line)
		must(t, err)
		file := t.TempDir() + "/r.json"
		must(t, os.WriteFile(file, line, 0o600))
		a.mustRun("put", "--force", file)
		want[o.Type()+"/"+o.ID()] = o
	}))
	got := map[string]fhir.Object{}
	must(t, eachLine(bytes.NewReader(a.export()), func(line []byte) {
		o, err := fhir.Parse(line)
		must(t, err)
		got[o.Type()+"/"+o.ID()] = o
	}))
	if len(got) != len(want) {
		t.Errorf("%d resources came back, %d were put", len(got), len(want))
	}
	for ref, o := range want {
		if !fhir.Equal(got[ref], o) {
			t.Errorf("%s does not come back equal", ref)
		}
		shown := fhir.RestoreMeta(a.get(ref), o)
		if !fhir.Equal(shown, o) {
			t.Errorf("%s is not shown equal but for what the agent sets", ref)
		}
	}
	t.Logf("%d resources put and read back", len(want))
}
