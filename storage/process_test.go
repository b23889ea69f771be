package storage_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/storage"
)

// The tests of this file run the test program again as another process. What it shall do stands in its environment.
const (
	roleVar   = "STORAGE_TEST_ROLE"
	folderVar = "STORAGE_TEST_FOLDER"
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "write":
		roleWrite(os.Getenv(folderVar))
	case "hold":
		roleHold(os.Getenv(folderVar))
	case "read":
		roleRead(os.Getenv(folderVar))
	case "crash":
		roleCrash(os.Getenv(folderVar))
	}
}

func child(t testing.TB, role, dir string) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), roleVar+"="+role, folderVar+"="+dir)
	return cmd
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(3)
}

// roleWrite commits from several goroutines until it is killed, and prints each commit's name once it is acknowledged.
func roleWrite(dir string) {
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		fatal(err)
	}
	var out struct {
		sync.Mutex
		*bufio.Writer
	}
	out.Writer = bufio.NewWriter(os.Stdout)
	run := time.Now().UnixNano()
	for w := range 4 {
		go func() {
			for n := 0; ; n++ {
				name := fmt.Sprintf("%d/%d/%d", run, w, n)
				if err := s.Commit(context.Background(), writerBatch(name)); err != nil {
					fatal(err)
				}
				out.Lock()
				fmt.Fprintln(out.Writer, name)
				_ = out.Flush()
				out.Unlock()
			}
		}()
	}
	select {}
}

// writerBatch makes a batch of one to many pairs, now and then more than one transaction of the engine, that all hold
// the same.
func writerBatch(name string) *storage.Batch {
	h := fnv.New64a()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(h.Sum64(), 0))
	pairs, length := 1+rng.IntN(4), rng.IntN(1000)
	if rng.IntN(16) == 0 {
		pairs, length = 20+rng.IntN(20), 20_000
	}
	var b storage.Batch
	b.Put([]byte("n/"+name), fmt.Appendf(nil, "%d", pairs))
	for p := range pairs {
		b.Put(fmt.Appendf(nil, "p/%s/%d", name, p), pad(name, length))
	}
	return &b
}

func pad(s string, n int) []byte { return []byte(s + strings.Repeat("x", max(0, n-len(s)))) }

// TestKill kills a writing process at random moments. Every commit that it acknowledged is there, and every commit that
// is there is whole.
//
// It cannot tell a store that syncs from one that does not: the system keeps what a killed process wrote.
func TestKill(t *testing.T) {
	rounds := 10
	if os.Getenv("HEAVY") != "" {
		rounds = 58
	}
	dir := filepath.Join(t.TempDir(), "store")
	var acknowledged []string
	for round := range rounds {
		cmd := child(t, "write", dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// The kill comes after a random number of acknowledgements, at whatever the writers do then.
		lines := bufio.NewScanner(pipe)
		for n := 1 + rand.IntN(60); n > 0 && lines.Scan(); n-- {
			acknowledged = append(acknowledged, lines.Text())
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for lines.Scan() {
			acknowledged = append(acknowledged, lines.Text())
		}
		if err := cmd.Wait(); err == nil || stderr.Len() > 0 {
			t.Fatalf("round %d: the writer ended by itself: %v %s", round, err, stderr.String())
		}
		if round == rounds-1 || rand.IntN(3) > 0 { // else the next process finds what this one left
			checkWritten(t, dir, acknowledged)
		}
	}
	t.Logf("%d kills, %d commits acknowledged", rounds, len(acknowledged))
}

func checkWritten(t *testing.T, dir string, acknowledged []string) {
	t.Helper()
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	err = s.View(func(r storage.Reader) error {
		for _, name := range acknowledged {
			if _, err := r.Get([]byte("n/" + name)); err != nil {
				t.Errorf("commit %s was acknowledged: %v", name, err)
			}
		}
		pairs := 0
		if err := r.Scan([]byte("n/"), nil, func(k, v []byte) error {
			var want int
			if _, err := fmt.Sscan(string(v), &want); err != nil {
				return err
			}
			got := 0
			err := r.Scan([]byte("p/"+string(k[2:])+"/"), nil, func(_, v []byte) error {
				if !strings.HasPrefix(string(v), string(k[2:])) {
					t.Errorf("commit %s has a pair of another", k)
				}
				got++
				return nil
			})
			if got != want {
				t.Errorf("commit %s has %d of %d pairs", k, got, want)
			}
			pairs += got
			return err
		}); err != nil {
			return err
		}
		all := 0
		err := r.Scan([]byte("p/"), nil, func(_, _ []byte) error { all++; return nil })
		if all != pairs {
			t.Errorf("%d pairs belong to no commit", all-pairs)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// roleHold opens the store, says so, and holds it until its input ends.
func roleHold(dir string) {
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		fatal(err)
	}
	fmt.Println("open")
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := s.Close(); err != nil {
		fatal(err)
	}
	os.Exit(0)
}

func TestSecondProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "store")
	cmd := child(t, "hold", dir)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "open\n" {
		t.Fatalf("the first process said %q, %v", line, err)
	}
	start := time.Now()
	_, err = storage.Open(dir, testKey, storage.Options{})
	if !errors.Is(err, storage.ErrInUse) {
		t.Errorf("second open: %v, want ErrInUse", err)
	} else if want := fmt.Sprintf("process %d", cmd.Process.Pid); !strings.Contains(err.Error(), want) ||
		!strings.Contains(err.Error(), dir) {
		t.Errorf("the message %q does not say %q and the folder", err, want)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("the answer took %v", took)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	s, err := storage.Open(dir, testKey, storage.Options{})
	if err != nil {
		t.Fatalf("open after the first process ended: %v", err)
	}
	// Within one process, too.
	if _, err := storage.Open(dir, testKey, storage.Options{}); !errors.Is(err, storage.ErrInUse) {
		t.Errorf("open twice in one process: %v, want ErrInUse", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
