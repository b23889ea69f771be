package bench

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"

	"chartmesh/agent"
	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

const (
	seed = 1
	// patience is how long anything may take; a benchmark that waits longer has found a bug.
	patience = 2 * time.Minute
)

func TestMain(m *testing.M) {
	agent.ChildMain() // the engine is this binary, run again
	state, err := os.MkdirTemp("", "chartmesh-state-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("XDG_STATE_HOME", state)
	code := m.Run()
	_ = os.RemoveAll(state)
	os.Exit(code)
}

// benchmarks are all of this package; TestBenchmarks holds the list against the source.
var benchmarks = map[string]func(*testing.B){
	"Seal": BenchmarkSeal, "Open": BenchmarkOpen, "Edit": BenchmarkEdit, "Apply": BenchmarkApply, "Compact": BenchmarkCompact,
	"EditVisible": BenchmarkEditVisible, "Import": BenchmarkImport, "FirstSync": BenchmarkFirstSync,
	"Reconnect": BenchmarkReconnect, "Read": BenchmarkRead, "Stored": BenchmarkStored,
}

// TestBenchmarks goes through every benchmark once, with little to do, so that one that no longer works is noticed before
// somebody needs its figure.
func TestBenchmarks(t *testing.T) {
	var declared []string
	files, err := filepath.Glob("*_test.go")
	must(t, err)
	for _, name := range files {
		source, err := os.ReadFile(name)
		must(t, err)
		for _, m := range regexp.MustCompile(`(?m)^func Benchmark(\w+)\(`).FindAllSubmatch(source, -1) {
			declared = append(declared, string(m[1]))
		}
	}
	slices.Sort(declared)
	if listed := slices.Sorted(maps.Keys(benchmarks)); !slices.Equal(listed, declared) {
		t.Fatalf("the list has %q, the files %q", listed, declared)
	}
	many, long, edits, bytes := importPatients, limitTime, compactEdits, storedBytes
	importPatients, limitTime, compactEdits, storedBytes = 2, 0, 70, 200_000
	defer func() { importPatients, limitTime, compactEdits, storedBytes = many, long, edits, bytes }()
	must(t, flag.Set("test.benchtime", "1x"))
	for _, name := range declared {
		t.Run(name, func(t *testing.T) {
			// testing.Benchmark says nothing of why a benchmark failed.
			failed = func(what string) { t.Error(what) }
			defer func() { failed = nil }()
			if r := testing.Benchmark(benchmarks[name]); r.N == 0 && !t.Failed() && !parents[name] {
				t.Error("it did not run to its end")
			}
		})
	}
}

// parents are the benchmarks that are made of others, whose results testing.Benchmark adds up to nothing.
var parents = map[string]bool{"Seal": true, "Open": true, "Read": true, "Stored": true}

// failed is told why a benchmark fails, if set.
var failed func(what string)

func must(b testing.TB, err error) {
	b.Helper()
	if err != nil {
		fatal(b, err)
	}
}

func fatal(b testing.TB, what ...any) {
	b.Helper()
	if failed != nil {
		failed(fmt.Sprint(what...))
	}
	b.Fatal(what...)
}

func within(b testing.TB) context.Context {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	b.Cleanup(cancel)
	return ctx
}

// site is an agent on the network.
type site struct {
	*agent.Agent
	name, dir string
	stop      func()
}

func (s *site) run(b testing.TB) {
	b.Helper()
	a, err := agent.Open(agent.Config{Dir: s.dir, Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1", "/ip4/127.0.0.1/tcp/0"}})
	must(b, err)
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- a.Run(ctx) }()
	s.Agent = a
	stopped := false
	s.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ran; err != nil && ctx.Err() == nil {
			b.Error(err)
		}
		must(b, a.Close())
	}
	b.Cleanup(s.stop)
	for end := time.Now().Add(patience); ; {
		status, err := a.Status(ctx, "")
		must(b, err)
		if len(status.Addresses) > 0 {
			return
		}
		select {
		case err := <-ran:
			fatal(b, fmt.Sprintf("the agent ended: %v", err))
		case <-time.After(5 * time.Millisecond):
		}
		if time.Now().After(end) {
			fatal(b, "the agent found no address")
		}
	}
}

// found makes a practice with one site.
func found(b testing.TB) *site {
	b.Helper()
	dir := filepath.Join(b.TempDir(), "surgery")
	_, err := agent.Init(dir, agent.InitOptions{Practice: "Practice", Site: "surgery", Device: "surgery"})
	must(b, err)
	s := &site{name: "surgery", dir: dir}
	s.run(b)
	return s
}

// admit makes a member's folder; nothing runs on it yet.
func admit(b testing.TB, to *site, name string) *site {
	b.Helper()
	ctx := within(b)
	invite, err := to.Invite(ctx, api.InviteRequest{Role: "member", Expires: time.Hour, Yes: true})
	must(b, err)
	s := &site{name: name, dir: filepath.Join(b.TempDir(), name)}
	_, err = agent.Join(ctx, s.dir, agent.JoinOptions{Code: invite.Code, Site: name, Device: name})
	must(b, err)
	return s
}

// join adds a site; it is empty and begins to sync.
func join(b testing.TB, to *site, name string) *site {
	b.Helper()
	s := admit(b, to, name)
	s.run(b)
	return s
}

func (s *site) inSync(b testing.TB, with *site) api.Status {
	b.Helper()
	status, err := s.WaitInSync(within(b), with.name)
	must(b, err)
	return status
}

// bundles are the records of n patients, one batch each, with how many resources and bytes of compact JSON they are.
func bundles(b testing.TB, n int) (batches []api.ImportBatch, resources, size int) {
	b.Helper()
	for o := range synthetic.Patients(seed, n) {
		var batch api.ImportBatch
		must(b, fhir.ReadFile("bundle.json", bytes.NewReader(fhir.Canonical(o)), func(it fhir.Item) error {
			if it.Err != nil {
				return it.Err
			}
			raw := fhir.Canonical(it.Resource)
			batch.Resources = append(batch.Resources, raw)
			size += len(raw)
			return nil
		}))
		resources += len(batch.Resources)
		batches = append(batches, batch)
	}
	return batches, resources, size
}

func (s *site) load(b testing.TB, batches []api.ImportBatch) {
	b.Helper()
	for _, batch := range batches {
		result, err := s.Import(context.Background(), "Dr. Adler", batch)
		must(b, err)
		if len(result.Refused) > 0 {
			fatal(b, fmt.Sprintf("an import refused %d resources", len(result.Refused)))
		}
	}
}

// patient is one patient's resource, and how to give it the next birth date.
type patient struct {
	ref  api.Ref
	next int
}

// somePatients creates patients by hand, a document each.
func (s *site) somePatients(b testing.TB, n int) []*patient {
	b.Helper()
	var made []*patient
	for i := range n {
		p := &patient{ref: api.Ref{Type: "Patient", ID: fmt.Sprintf("bench-%d", i)}}
		s.edit(b, p)
		made = append(made, p)
	}
	return made
}

// edit changes a field and returns the version written.
func (s *site) edit(b testing.TB, p *patient) string {
	b.Helper()
	written, err := s.Put(context.Background(), "Dr. Adler", s.edited(b, p), false)
	must(b, err)
	return written.Version
}

// edited is what an edit sends: the resource as read, with another birth date.
func (s *site) edited(b testing.TB, p *patient) json.RawMessage {
	b.Helper()
	p.next++
	o := map[string]any{"resourceType": p.ref.Type, "id": p.ref.ID, "name": []any{map[string]any{"family": "Bench"}}}
	if p.next > 1 {
		res, err := s.Get(context.Background(), p.ref, "")
		must(b, err)
		o = nil
		must(b, json.Unmarshal(res.JSON, &o))
	}
	o["birthDate"] = fmt.Sprintf("%04d-%02d-%02d", 1920+p.next/336%100, 1+p.next/28%12, 1+p.next%28)
	body, err := json.Marshal(o)
	must(b, err)
	return body
}
