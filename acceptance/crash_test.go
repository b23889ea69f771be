//go:build unix

package acceptance

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// poison is what is added to the program for these tests: it panics, in goroutines that no recover of its own reaches, with
// the very record that it holds at that moment. It is laid over the sources when the test's program is built, so that the
// real one has no such switch.
var poison = []struct{ file, at, insert string }{
	{"agent/records.go", "func (a *Agent) Put(ctx context.Context, user string, resource json.RawMessage, force bool) (api.Written, error) {\n",
		"\tpoison(resource)\n"},
	{"agent/records.go", "func (a *Agent) Import(ctx context.Context, user string, batch api.ImportBatch) (api.ImportResult, error) {\n",
		"\tfor _, r := range batch.Resources {\n\t\tpoison(r)\n\t}\n"},
	{"agent/zz_poison.go", "", poisonAgent},
	{"crdt/engine/child.go", "func (s *server) serve(body []byte) error {\n", "\tpoison(body)\n"},
	{"crdt/engine/zz_poison.go", "", poisonEngine},
	{"cmd/chartmesh/join.go", "return fhir.ReadFile(name, r, func(it fhir.Item) error {\n", "\t\t\tpoison(it.Raw)\n"},
	{"cmd/chartmesh/zz_poison.go", "", poisonCommand},
	{"cmd/chartmesh/cli.go", "func (c *cli) guarded() error {\n", "\tif os.Getenv(\"UNGUARDED\") != \"\" {\n\t\treturn nil\n\t}\n"},
}

const (
	poisonAgent = `package agent

import (
	"errors"
	"fmt"
	"strings"
)

func poison(b []byte) {
	switch s := string(b); {
	case strings.Contains(s, "poison-agent-error"):
		go func() { panic(fmt.Errorf("store: %w", errors.New(s))) }()
		select {}
	case strings.Contains(s, "poison-agent"):
		go func() { panic(s) }()
		select {}
	}
}
`
	poisonEngine = `package engine

import "bytes"

func poison(b []byte) {
	if bytes.Contains(b, []byte("poison-engine")) {
		panic("engine: " + string(b))
	}
}
`
	poisonCommand = `package main

import "strings"

func poison(b []byte) {
	if s := string(b); strings.Contains(s, "poison-command") {
		go func() { panic(s) }()
		select {}
	}
}
`
)

// poisoned builds the program with the poison in it.
func poisoned(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, p := range poison {
		path, err := filepath.Abs(filepath.Join("..", p.file))
		must(t, err)
		text := p.insert
		if p.at != "" {
			from := path
			if before := overlay.Replace[path]; before != "" {
				from = before
			}
			old, err := os.ReadFile(from)
			must(t, err)
			if strings.Count(string(old), p.at) != 1 {
				t.Fatalf("%s has changed: there is no place for the poison", p.file)
			}
			text = strings.Replace(string(old), p.at, p.at+p.insert, 1)
		}
		to := filepath.Join(dir, fmt.Sprintf("%d.go", i))
		must(t, os.WriteFile(to, []byte(text), 0o600))
		overlay.Replace[path] = to
	}
	b, err := json.Marshal(overlay)
	must(t, err)
	config := filepath.Join(dir, "overlay.json")
	must(t, os.WriteFile(config, b, 0o600))
	program := filepath.Join(dir, "chartmesh")
	out, err := exec.Command("go", "build", "-overlay", config, "-o", program, "chartmesh/cmd/chartmesh").CombinedOutput()
	if err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	return program
}

// patient is a record with the name to look for and a word that makes the program panic.
func patient(id, word string) []byte {
	return fmt.Appendf(nil, `{"resourceType":"Patient","id":%q,"name":[{"family":%q}],"address":[{"text":%q}]}`, id, canary, word+" "+canary)
}

// TestCrashesLeaveNothing forces panics that carry a patient, in the agent, in its engine and in a command, and imports
// that fail: neither stderr nor logs, folders, temporary files or core files hold the name afterwards. The system is set to
// leave core files, and the runtime to print all it can.
func TestCrashesLeaveNothing(t *testing.T) {
	heavy(t)
	var unlimited syscall.Rlimit
	must(t, syscall.Getrlimit(syscall.RLIMIT_CORE, &unlimited))
	must(t, syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{Cur: unlimited.Max, Max: unlimited.Max}))
	t.Cleanup(func() { _ = syscall.Setrlimit(syscall.RLIMIT_CORE, &unlimited) })
	program := poisoned(t)
	root, files := t.TempDir(), t.TempDir() // what a user has to import holds the name, of course
	temp, cwd := filepath.Join(root, "tmp"), filepath.Join(root, "cwd")
	must(t, os.Mkdir(temp, 0o700))
	must(t, os.Mkdir(cwd, 0o700))
	a := newSite(t, root, "surgery")
	a.bin, a.cwd, a.env = program, cwd, []string{"TMPDIR=" + temp, "GOTRACEBACK=crash"}
	a.mustRun("init", "--practice", "Praxis", "--site", "surgery", "--device", "surgery")
	a.start()
	_, err := a.put(patient("before", "harmless"), false)
	must(t, err)

	var said bytes.Buffer // by commands
	note := func(out string, err error) {
		said.WriteString(out)
		if err != nil {
			said.WriteString(err.Error() + "\n")
		}
	}
	died := func(how string) {
		t.Helper()
		<-a.gone // it ended by itself
		a.cmd = nil
		if !strings.Contains(a.log.String(), "chartmesh/agent.poison.func") {
			t.Errorf("%s: the log does not say where: %s", how, a.log)
		}
		a.start()
	}
	write := func(name string, b []byte) string {
		path := filepath.Join(files, name)
		must(t, os.WriteFile(path, b, 0o600))
		return path
	}

	// The agent, by a write and in an import.
	for _, word := range []string{"poison-agent", "poison-agent-error"} {
		if _, err := a.put(patient(word, word), false); err == nil {
			t.Fatal("the agent took poison")
		} else {
			note("", err)
		}
		died(word)
		out, err := a.run("import", write(word+".json", patient(word, word)))
		if err == nil {
			t.Error("an import went through a crash")
		}
		note(out, err)
		died("import of " + word)
	}

	// The engine: the agent lives, the write fails, the next one is fine.
	engine := a.engine()
	if _, err := a.put(patient("poison-engine", "poison-engine"), false); err == nil {
		t.Error("the engine took poison")
	} else {
		note("", err)
	}
	if again := a.engine(); again == engine {
		t.Error("the engine did not end")
	}
	_, err = a.put(patient("after", "harmless"), false)
	must(t, err)

	// Imports that fail, with and without an agent, and a command that panics itself.
	whole := patient("whole", "harmless")
	broken := []string{
		write("cut.json", whole[:len(whole)-10]),
		write("cut.ndjson", append(append([]byte{}, whole...), whole[:70]...)),
		write("twice.json", append(append([]byte{}, whole[:len(whole)-1]...), fmt.Appendf(nil, `,"id":%q}`, canary)...)),
		write("id.json", fmt.Appendf(nil, `{"resourceType":"Patient","id":%q}`, canary)),
		write("kind.json", fmt.Appendf(nil, `{"resourceType":%q,"id":"k"}`, canary)),
		write("bytes.json", append(append([]byte{}, whole...), "\xff\xfe"+canary...)),
		write("gzip.json.gz", append([]byte{0x1f, 0x8b}, whole...)),
	}
	fail := func() {
		for _, file := range broken {
			out, err := a.run("import", file)
			if err == nil {
				t.Errorf("%s went through", filepath.Base(file))
			}
			note(out, err)
		}
		out, err := a.run("import", write("command.json", patient("poison-command", "poison-command")))
		if err == nil || !strings.Contains(err.Error(), "main.poison.func1(...)") {
			t.Errorf("the command that panicked says: %v", err)
		}
		note(out, err)
	}
	fail()
	a.stop()
	fail()
	note(a.run("import", write("engine.json", patient("poison-engine", "poison-engine"))))

	must(t, os.WriteFile(filepath.Join(root, "said"), append(said.Bytes(), a.log.Bytes()...), 0o600))
	found, n := search(t, root)
	if len(found) > 0 {
		t.Errorf("the name is readable: %v", found)
	}
	if cores, err := os.ReadDir(cwd); err != nil || len(cores) > 0 {
		t.Errorf("left in the working folder: %v, %v", cores, err)
	}
	if !strings.Contains(a.log.String(), "engine process ended") {
		t.Error("the log does not say that the engine ended")
	}
	t.Logf("%d files and %d bytes of stderr and answers searched", n, said.Len()+a.log.Len())

	// Without its guard the same program does print the name, so the search would have seen it.
	a.env = append(a.env, "UNGUARDED=1")
	_, err = a.run("import", write("control.json", patient("poison-command", "poison-command")))
	if err == nil || !strings.Contains(err.Error(), canary) {
		t.Errorf("the control does not print the name: %v", err)
	}
}
