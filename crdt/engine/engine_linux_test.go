//go:build cgo && (amd64 || arm64)

package engine

import (
	"bufio"
	"context"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"chartmesh/crdt"
)

// The linker was told to let symbols pass that it does not find. So every function that am.h declares must be defined in
// a finished binary, and no other one of the library's may be wanting.
func TestNoUnresolvedSymbols(t *testing.T) {
	if testing.Short() {
		t.Skip("builds a binary")
	}
	path := filepath.Join(t.TempDir(), "engine.test")
	if out, err := exec.Command("go", "test", "-c", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	file, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	symbols, err := file.Symbols()
	if err != nil {
		t.Fatal(err)
	}
	dynamic, err := file.DynamicSymbols()
	if err != nil {
		t.Fatal(err)
	}
	defined := map[string]bool{}
	for _, s := range append(symbols, dynamic...) {
		if s.Section != elf.SHN_UNDEF && s.Value != 0 {
			defined[s.Name] = true
		} else if strings.HasPrefix(s.Name, "AM") {
			t.Errorf("%s is not resolved", s.Name)
		}
	}
	header, err := os.ReadFile("am.h")
	if err != nil {
		t.Fatal(err)
	}
	declared := regexp.MustCompile(`(?m)^[A-Za-z].*\b(AM\w+)\(.*\);$`).FindAllSubmatch(header, -1)
	if len(declared) < 40 {
		t.Errorf("only %d declarations found", len(declared))
	}
	for _, d := range declared {
		if !defined[string(d[1])] {
			t.Errorf("%s is declared and not defined", d[1])
		}
	}
}

func TestChildIsConfined(t *testing.T) {
	s := supervised(t, Config{Memory: 512 << 20})
	proc := fmt.Sprintf("/proc/%d/", s.PID())
	limits, err := os.ReadFile(proc + "limits")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{`Max core file size +0 +0`, `Max address space +\d+ +\d+`} {
		if !regexp.MustCompile(pattern).Match(limits) {
			t.Errorf("no %q in\n%s", pattern, limits)
		}
	}
	if environment, err := os.ReadFile(proc + "environ"); err == nil && strings.Count(string(environment), "\x00") > 3 {
		t.Errorf("environment: %q", environment)
	}
	if group, err := syscall.Getpgid(s.PID()); err != nil || group != s.PID() {
		t.Errorf("process group %d: %v", group, err)
	}
	if files, err := os.ReadDir(proc + "fd"); err == nil && len(files) > 12 {
		t.Errorf("%d open files", len(files))
	}
	if m := s.Memory(); m < 1<<20 || m > 100<<20 {
		t.Errorf("memory %d", m)
	}
}

const parentMark = "CHARTMESH_ENGINE_TEST_PARENT"

// TestParent is the parent of TestChildEndsWithItsParent, in a process of its own.
func TestParent(t *testing.T) {
	if os.Getenv(parentMark) == "" {
		t.Skip("part of another test")
	}
	s := supervised(t, Config{})
	bench{t, s}.load(docA)
	fmt.Printf("child %d\n", s.PID())
	<-context.Background().Done() // until it is killed
}

func TestChildEndsWithItsParent(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		parent := exec.Command(os.Args[0], "-test.run=^TestParent$", "-test.timeout=1m")
		parent.Env = append(os.Environ(), parentMark+"=1")
		out, err := parent.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := parent.Start(); err != nil {
			t.Fatal(err)
		}
		line, err := bufio.NewReader(out).ReadString('\n')
		pid, convErr := strconv.Atoi(strings.TrimSpace(strings.TrimPrefix(line, "child ")))
		if stopped && pid > 0 {
			err = syscall.Kill(pid, syscall.SIGSTOP)
		}
		if killErr := parent.Process.Kill(); err != nil || convErr != nil || killErr != nil {
			t.Fatalf("%q: %v %v %v", line, err, convErr, killErr)
		}
		_ = parent.Wait()
		until(t, "the child has ended", func() bool { return !running(pid) })
	}
}

func running(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	rest := string(b[strings.LastIndexByte(string(b), ')')+1:])
	return strings.Fields(rest)[0] != "Z"
}

// A thousand documents, loaded and forgotten, leave no memory behind.
func TestForgottenDocumentsReturnMemory(t *testing.T) {
	s := supervised(t, Config{})
	b := bench{t, s}
	b.load(docA)
	b.edit(docA, one, chart(25)...)
	saved, err := s.Save(t.Context(), docA)
	if err != nil {
		t.Fatal(err)
	}
	const n = 1000
	before := s.Memory()
	id := func(i int) crdt.DocumentID { return crdt.DocumentID{0xD0, byte(i >> 8), byte(i)} }
	for i := range n {
		if _, err := s.Load(t.Context(), id(i), saved, nil); err != nil {
			t.Fatal(err)
		}
	}
	loaded := s.Memory()
	for i := range n {
		if err := s.Forget(t.Context(), id(i)); err != nil {
			t.Fatal(err)
		}
	}
	after := s.Memory()
	until(t, "memory is returned", func() bool { after = s.Memory(); return after-before < (loaded-before)/20 })
	t.Logf("%d KiB before, %d loaded, %d after: %d bytes a document of %d resources (%d saved)",
		before>>10, loaded>>10, after>>10, (loaded-before)/n, 25, len(saved))
}
