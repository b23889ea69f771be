package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/api/apitest"
)

func write(t *testing.T, name, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(name, ".gz") {
		var buf bytes.Buffer
		z := gzip.NewWriter(&buf)
		if _, err := z.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
		if err := z.Close(); err != nil {
			t.Fatal(err)
		}
		content = buf.String()
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestImport(t *testing.T) {
	both(t, func(t *testing.T, f *folder) {
		dir := t.TempDir()
		bundle := `{"resourceType":"Bundle","type":"collection","entry":[{"resource":{"resourceType":"Patient","id":"b1"}},` +
			`{"resource":{"resourceType":"Patient","id":"b2","v":1}},{"resource":{"resourceType":"Patient"`
		write(t, filepath.Join(dir, "a.json"), bundle+`,"id":"b2","v":2}}]}`)
		write(t, filepath.Join(dir, "sub", "b.ndjson.gz"), `{"resourceType":"Patient","id":"n1"}`+"\n"+`{"resourceType":"Patient","id":"b1","v":3}`+"\n"+`{"oops"`+"\n")
		write(t, filepath.Join(dir, "c.json"), `{"resourceType":"Patient","id":"c1"}`)
		write(t, filepath.Join(dir, "d.xml"), `<Patient/>`)
		write(t, filepath.Join(dir, ".e.json"), `{"resourceType":"Patient","id":"hidden"}`)
		r := f.run(t.Context(), "", "import", dir, "--json")
		var sum imported
		if err := json.Unmarshal([]byte(r.out), &sum); err != nil {
			t.Fatalf("%v: %+v", err, r)
		}
		if r.code != api.ExitRefused || sum.Created != 4 || sum.Resources != 4 || sum.Repeated != 2 || sum.Files != 3 || !sum.Complete ||
			len(sum.Refused) != 1 {
			t.Fatalf("imported %+v, exit code %d", sum, r.code)
		}
		if no := sum.Refused[0]; no.File != filepath.Join(dir, "sub", "b.ndjson.gz") || no.Line != 3 || no.Entry != nil || no.Reason == "" ||
			strings.Contains(no.Reason, "oops") {
			t.Errorf("refused %+v", no)
		}
		if !strings.Contains(r.err, "1 of 7 items refused") {
			t.Errorf("stderr: %s", r.err)
		}
		for id, want := range map[string]string{"b1": `"v":3`, "b2": `"v":2`, "n1": `{`, "c1": `{`} {
			if out := f.run(t.Context(), "", "get", "Patient/"+id, "--json").out; !strings.Contains(out, want) {
				t.Errorf("%s is %s, the last one has %s", id, out, want)
			}
		}
		f.steps(t, []step{
			{args: "get Patient/hidden", code: 3},
			{args: "import " + filepath.Join(dir, "a.json"), out: []string{"2 of 2 resources from 1 file in ", "0 created, 1 changed, 1 unchanged, 0 refused\n",
				"1 item came again later"}},
			{args: "import -", stdin: p1, out: []string{"1 created"}},
			{args: "import - -", stdin: p1, code: 2},
			{args: "import " + t.TempDir(), code: 2, err: []string{"no *.json"}},
			{args: "import /nonexistent", code: 1},
		})
		f.agent.Fail("Import", &api.Error{Code: api.CodeDamaged, Message: "a value is damaged"})
		f.steps(t, []step{{args: "import " + filepath.Join(dir, "a.json") + " --json", code: 10, out: []string{`"complete": false`},
			err: []string{"the import ended after 0 resources: a value is damaged"}}})
	})
}

// recording notes the batches that arrive.
type recording struct {
	*apitest.Agent
	mu      sync.Mutex
	batches [][]string
	refuse  string
}

func (r *recording) Import(_ context.Context, _ string, batch api.ImportBatch) (result api.ImportResult, err error) {
	var ids []string
	for i, raw := range batch.Resources {
		var head struct{ ID string }
		if err := json.Unmarshal(raw, &head); err != nil {
			return result, err
		}
		ids = append(ids, head.ID)
		if head.ID == r.refuse {
			result.Refused = append(result.Refused, api.ImportError{Index: i, Reason: "too many conflicts"},
				api.ImportError{Index: -1, Reason: "nobody knows which"})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches = append(r.batches, ids)
	return result, nil
}

// TestBatches holds that a Bundle is one batch unless it is too large, and that single resources travel together.
func TestBatches(t *testing.T) {
	items := map[string][]item{}
	add := func(file string, unit, entry int, ids ...string) {
		for _, id := range ids {
			at := entry
			if entry >= 0 {
				at = len(items[file])
			}
			items[file] = append(items[file], item{unit: unit, line: len(items[file]) + 1, entry: at, ref: api.Ref{Type: "P", ID: id},
				raw: []byte(`{"id":"` + id + `"}`)})
		}
	}
	var many []string
	for n := range api.MaxImportResources + 1 {
		many = append(many, fmt.Sprintf("m%d", n))
	}
	add("1", 0, -1, "a")
	add("2", 0, -1, "b")
	add("3", 0, 0, "c", "d")
	add("3", 1, 0, "e")
	add("4", 0, 0, "f")
	add("5", 0, 0, many...)
	add("6", 0, -1, many[:maxRun]...) // come again
	add("6", 1, -1, "g", "bad")
	items["6"][0].err = errors.New("not a resource")
	r := &recording{Agent: apitest.New(), refuse: "bad"}
	var errs bytes.Buffer
	run := &importRun{agent: r, p: &printer{out: &bytes.Buffer{}, err: &errs}, begun: time.Now(), read: readItems(items)}
	for _, name := range []string{"1", "2", "3", "4", "5", "6"} {
		run.files = append(run.files, importFile{name, func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("")), nil }})
	}
	err := run.run(t.Context(), false)
	if refused, ok := errors.AsType[refusedError](err); !ok || refused.refused != 3 {
		t.Fatalf("import: %v", err)
	}
	want := [][]string{{"a", "b"}, {"c", "d"}, {"e"}, {"f"}, append([]string{"m0"}, many[maxRun:]...), append(slices.Clone(many[1:maxRun]), "g"), {"bad"}}
	slices.SortFunc(r.batches, compareBatches) // two are under way at once
	slices.SortFunc(want, compareBatches)
	if len(r.batches) != len(want) {
		t.Fatalf("%d batches, want %d", len(r.batches), len(want))
	}
	for i := range want {
		if !slices.Equal(r.batches[i], want[i]) {
			t.Errorf("batch %.60v, want %.60v", r.batches[i], want[i])
		}
	}
	if no := run.mu.result.Refused; no[0].File != "6" || no[0].Line != 1 || no[1].Line != maxRun+2 || no[1].Reason != "too many conflicts" ||
		no[2].File != "6" || no[2].Line != 0 {
		t.Errorf("refused %+v", no)
	}

	// The same without what comes again is more than one batch takes.
	r.batches = nil
	run = &importRun{agent: r, p: &printer{out: &bytes.Buffer{}, err: &errs}, begun: time.Now(), read: readItems(items), files: run.files[4:5]}
	errs.Reset()
	if err := run.run(t.Context(), false); err != nil || len(r.batches) != 2 || !strings.Contains(errs.String(), "imported in several") {
		t.Errorf("a large Bundle: %v, %d batches, stderr %q", err, len(r.batches), errs.String())
	}
}

func compareBatches(a, b []string) int { return strings.Compare(a[0], b[0]) }

// readItems gives the items of each file, whatever it holds.
func readItems(items map[string][]item) func(string, io.Reader, func(item) error) error {
	return func(name string, _ io.Reader, fn func(item) error) error {
		for _, it := range items[name] {
			if err := fn(it); err != nil {
				return err
			}
		}
		return nil
	}
}

// TestChanged holds that a file which changes between the two passes is an error and not a loss.
func TestChanged(t *testing.T) {
	f := newFolder(t)
	reads := 0
	j := f.joins()
	j.read = func(_ string, _ io.Reader, fn func(item) error) error {
		reads++
		id := fmt.Sprintf("p%d", reads)
		return fn(item{entry: -1, ref: api.Ref{Type: "Patient", ID: id}, raw: []byte(`{"resourceType":"Patient","id":"` + id + `"}`)})
	}
	var out, errs bytes.Buffer
	c := &cli{in: strings.NewReader(p1), out: &out, err: &errs, env: func(string) string { return "" }, joins: j}
	if code := c.run(t.Context(), []string{"import", "-", "--data", f.dir, "--user", "a"}); code != 4 || !strings.Contains(errs.String(), "a file changed") {
		t.Errorf("exit code %d, stderr %s", code, errs.String())
	}
}

func TestProgressLine(t *testing.T) {
	now := time.Date(2026, 11, 2, 8, 0, 0, 0, time.Local)
	for _, test := range []struct {
		done, total int
		passed      time.Duration
		want        string
	}{
		{0, 18108, time.Second, "0 of 18,108 resources"},
		{9054, 18108, 6 * time.Second, "9,054 of 18,108 resources, 1,509/s, 6.0 s left, done at 08:00:06"},
		{1, 1, time.Second, "1 of 1 resource, 1/s, 0.0 ms left, done at 08:00:00"},
	} {
		if got := progressLine(test.done, test.total, test.passed, now); got != test.want {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}
