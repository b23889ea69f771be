package acceptance

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

// TestScale fills a device with the records of a practice, uneven ones of 10,000 patients (SCALE_PATIENTS), and measures
// what people wait for, beside what the machine cannot beat.
func TestScale(t *testing.T) {
	heavy(t)
	scale(t, synthetic.Practice, number(t, "SCALE_PATIENTS", 10_000))
}

// TestScaleDocuments is the same with records over decades: 100,000 documents of 2,250 patients (SCALE_LIVES).
func TestScaleDocuments(t *testing.T) {
	heavy(t)
	scale(t, synthetic.Lifelong, number(t, "SCALE_LIVES", 2_250))
}

func number(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("%s: %q is no number of patients", name, text)
	}
	return n
}

func scale(t *testing.T, kind func(uint64, int) iter.Seq[fhir.Object], patients int) {
	root := t.TempDir()
	file := filepath.Join(root, "practice.ndjson")
	size := writePractice(t, file, kind(1, patients))
	report := &report{t: t}
	report.add("JSON of %d patients", mebibytes(size), "", patients)
	disk := readRate(t, file)

	a := found(t, root, "surgery")
	edits, most := editWhile(t, a), a.watchMemory()
	var done struct {
		Created int     `json:"created"`
		Seconds float64 `json:"seconds"`
	}
	must(t, json.Unmarshal([]byte(a.mustRun("--json", "import", file)), &done))
	waits := edits()
	status := a.status()
	report.add("import", fmt.Sprintf("%.0f resources/s, %d resources, %d documents", float64(done.Created)/done.Seconds,
		done.Created, status.Documents), "1,500/s")
	report.add("an edit during the import", quantiles(waits), "some tens of ms")
	report.add("memory during the import, without mapped files", most(), "300 MB")
	report.add("with the files that the system may take back", a.memory("VmHWM"), "")
	stored, err := folderSize(filepath.Join(a.dir, "records"))
	must(t, err)
	report.add("disk", fmt.Sprintf("%s, %.2f of the JSON", mebibytes(stored), float64(stored)/float64(size)), "")

	a.stop()
	began := time.Now()
	a.start()
	status = a.status()
	report.add("start until `status` answers", time.Since(began).Round(time.Millisecond).String(),
		fmt.Sprintf("3 s; reading the store once: %v", perByte(stored, disk)))
	report.add("memory at rest", a.memory("VmRSS"), "300 MB")
	reads(t, report, a)

	began = time.Now()
	b := join(t, root, "branch", a)
	most, answers := b.watchMemory(), a.watchMemory()
	b.waitInSync(2 * time.Hour)
	took := time.Since(began)
	wire := b.status().Sync[0].BytesReceived
	report.add("first sync", fmt.Sprintf("%v, %.0f resources/s, %s on the wire, %.2f of the JSON", took.Round(time.Second),
		float64(status.Resources)/took.Seconds(), mebibytes(int64(wire)), float64(wire)/float64(size)), "0.2 of the JSON")
	report.add("memory during it, without mapped files", most(), "300 MB")
	report.add("with them", b.memory("VmHWM"), "")
	report.add("memory of who answers, without mapped files", answers(), "300 MB")
	if got := b.status().Resources; got != status.Resources {
		t.Errorf("%d resources after a sync, there are %d", got, status.Resources)
	}
	a.waitInSync(time.Hour)
	must(t, b.client.SetOnline(t.Context(), false))
	must(t, b.client.SetOnline(t.Context(), true))
	p := b.inSync().Sync[0]
	report.add("idle reconnect", fmt.Sprintf("%d bytes, %d round trips", p.BytesSent+p.BytesReceived, p.RoundTrips), "1 KB, 1")
	report.print()
}

// report is a table of what was measured.
type report struct {
	t    testing.TB
	rows [][3]string
}

func (r *report) add(what, figure, aim string, args ...any) {
	row := [3]string{fmt.Sprintf(what, args...), figure, aim}
	r.rows = append(r.rows, row)
	r.t.Logf("%s: %s", row[0], row[1])
}

func (r *report) print() {
	var b strings.Builder
	b.WriteString("\n| what | figure | aim or limit |\n|---|---|---|\n")
	for _, row := range r.rows {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", row[0], row[1], row[2])
	}
	r.t.Log(b.String())
}

func writePractice(t *testing.T, file string, bundles iter.Seq[fhir.Object]) (size int64) {
	t.Helper()
	f, err := os.Create(file)
	must(t, err)
	for bundle := range bundles {
		n, err := f.Write(append(fhir.Canonical(bundle), '\n'))
		must(t, err)
		size += int64(n)
	}
	must(t, f.Close())
	return size
}

// readRate is how many bytes a second this machine reads of a file that it has just written.
func readRate(t *testing.T, file string) float64 {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer f.Close()
	began := time.Now()
	n, err := io.Copy(struct{ io.Writer }{io.Discard}, f)
	must(t, err)
	return float64(n) / time.Since(began).Seconds()
}

func perByte(bytes int64, rate float64) time.Duration {
	return time.Duration(float64(bytes) / rate * float64(time.Second)).Round(time.Millisecond)
}

// editWhile edits a hundred records, one edit after the other, until the returned function is called; that gives how long
// each took.
func editWhile(t *testing.T, s *site) func() []time.Duration {
	t.Helper()
	put := func(i int) time.Duration {
		began := time.Now()
		_, err := s.put(fmt.Appendf(nil, `{"resourceType":"Basic","id":"edited-%d","code":{"text":"%d"}}`, i%100, i), true)
		if err != nil {
			t.Errorf("edit during an import: %v", err)
		}
		return time.Since(began)
	}
	end := make(chan struct{})
	var all sync.WaitGroup
	var took []time.Duration
	all.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for i := 1; ; i++ {
			select {
			case <-end:
				return
			case <-tick.C:
			}
			took = append(took, put(i))
		}
	})
	return func() []time.Duration {
		close(end)
		all.Wait()
		return took
	}
}

func quantiles(took []time.Duration) string {
	if len(took) == 0 {
		return "none"
	}
	slices.Sort(took)
	at := func(q float64) time.Duration { return took[int(q*float64(len(took)-1))].Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p99 %v, max %v of %d", at(0.5), at(0.99), at(1), len(took))
}

// reads measures get and find, each as a client of the API sees it.
func reads(t *testing.T, report *report, s *site) {
	t.Helper()
	ctx := t.Context()
	var refs []api.Ref
	var names []string
	matches, err := s.client.Find(ctx, "m", api.MaxMatches)
	must(t, err)
	for _, m := range matches {
		ref, err := api.ParseRef(m.Ref)
		must(t, err)
		refs = append(refs, ref)
		names = append(names, strings.ToLower(strings.Trim(strings.Fields(m.Name)[0], ",")))
	}
	if len(refs) == 0 {
		t.Fatal("there is nobody to find")
	}
	random := rand.New(rand.NewPCG(1, 1))
	var took []time.Duration
	for range 1000 {
		began := time.Now()
		_, err := s.client.Get(ctx, refs[random.IntN(len(refs))], "")
		must(t, err)
		took = append(took, time.Since(began))
	}
	report.add("get", quantiles(took), "p50 2 ms")
	find := func(what, text string) {
		var took []time.Duration
		n := 0
		for range 20 {
			began := time.Now()
			matches, err := s.client.Find(ctx, text, 20)
			must(t, err)
			n = len(matches)
			took = append(took, time.Since(began))
		}
		report.add("find %s (%d shown)", quantiles(took), "50 ms", what, n)
	}
	find("by a year, the longest list", "19")
	find("by one letter", "m")
	find("by a name", names[0])
	find("by a name and a year", names[0]+" 19")
	find("nobody", "qqqq")
}

func (s *site) status() api.Status {
	s.t.Helper()
	st, err := s.client.Status(s.t.Context(), "")
	must(s.t, err)
	return st
}

func (s *site) waitInSync(patience time.Duration) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	_, err := s.client.WaitInSync(ctx, "")
	must(s.t, err)
}

// memory returns a figure of /proc/PID/status for the agent and its engine: VmRSS is what they have, VmHWM the most that they
// ever had, mapped files included, and RssAnon what they have without those.
func (s *site) memory(figure string) string {
	agent, engine := s.memories(figure)
	return mebibytes(agent+engine) + ": agent " + mebibytes(agent) + ", engine " + mebibytes(engine)
}

func (s *site) memories(figure string) (agent, engine int64) {
	of := func(pid int) int64 {
		for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/status", pid))) {
			if rest, ok := strings.CutPrefix(line, figure+":"); ok {
				kib, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				return kib << 10
			}
		}
		return 0
	}
	return of(s.cmd.Process.Pid), of(s.engine())
}

// watchMemory looks ten times a second at what the site takes without mapped files, until the returned function is called;
// that gives the most.
func (s *site) watchMemory() func() string {
	end := make(chan struct{})
	var all sync.WaitGroup
	var most, ofAgent, ofEngine int64
	all.Go(func() {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			if agent, engine := s.memories("RssAnon"); agent+engine > most {
				most, ofAgent, ofEngine = agent+engine, agent, engine
			}
			select {
			case <-end:
				return
			case <-tick.C:
			}
		}
	})
	return func() string {
		close(end)
		all.Wait()
		return mebibytes(most) + ": agent " + mebibytes(ofAgent) + ", engine " + mebibytes(ofEngine)
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }

func folderSize(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		info, err := e.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}
