package acceptance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chartmesh/agent/api"
)

// needRoot skips what mounts file systems where that is not allowed.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	if out, err := exec.Command("losetup", "-f").CombinedOutput(); err != nil {
		t.Skipf("there is no loop device here: %s", out)
	}
}

func do(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// image is an ext4 file system in a file, mounted.
type image struct {
	t          *testing.T
	file, on   string
	mounted    bool
	copyTarget string
}

func newImage(t *testing.T, megabytes int) *image {
	t.Helper()
	dir := t.TempDir()
	i := &image{t: t, file: filepath.Join(dir, "image"), on: filepath.Join(dir, "on"), copyTarget: filepath.Join(dir, "copy")}
	must(t, os.Mkdir(i.on, 0o700))
	must(t, os.WriteFile(i.file, nil, 0o600))
	must(t, os.Truncate(i.file, int64(megabytes)<<20))
	do(t, "mkfs.ext4", "-q", "-F", "-m", "0", i.file) // root, too, meets its end
	i.mount()
	t.Cleanup(i.unmount)
	return i
}

func (i *image) mount() {
	i.t.Helper()
	do(i.t, "mount", "-o", "loop", i.file, i.on)
	i.mounted = true
}

func (i *image) unmount() {
	if !i.mounted {
		return
	}
	for range 100 {
		if exec.Command("umount", i.on).Run() == nil {
			i.mounted = false
			return
		}
		<-time.After(50 * time.Millisecond) // a process that was killed lets go of its files a little later
	}
	i.t.Errorf("%s stays mounted", i.on)
}

// cut puts what a power cut at this moment would leave in the place of the file system: what has reached the disk, and
// nothing of what is on its way there.
func (i *image) cut(after func()) {
	i.t.Helper()
	do(i.t, "cp", "--sparse=always", i.file, i.copyTarget)
	after()
	i.unmount()
	must(i.t, os.Rename(i.copyTarget, i.file))
	i.mount()
}

func cuts() int {
	if n, err := strconv.Atoi(os.Getenv("CUTS")); err == nil {
		return n
	}
	return 10
}

// powerCuts has an agent write and cuts its power at random moments. It returns what was acknowledged and is missing, after
// the first cut that lost something.
func powerCuts(t *testing.T, program string, n int) (lost []string, cut, acknowledged int) {
	random := seed(t)
	disk := newImage(t, 192)
	s := newSite(t, disk.on, "surgery")
	s.bin = program
	s.env = []string{"CHARTMESH_LEAST_FREE_MB=1"}
	s.mustRun("init", "--practice", "Praxis", "--site", s.name, "--device", s.name)
	do(t, "sync")
	s.start()
	l := &ledger{written: map[string]int{}, over: 1 << 30} // of what came during the copy nothing is known
	for cut < n {
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i := range 3 {
			writers.Go(func() { l.writer(ctx, s, func() *site { return s }, fmt.Sprintf("w%d-%d", cut, i)) })
		}
		wait(t, time.Duration(100+random.IntN(1500))*time.Millisecond)
		before := l.now()
		before.over = l.over
		// The process stands still in the middle of whatever it does, and so does what it wrote.
		must(t, s.cmd.Process.Signal(syscall.SIGSTOP))
		disk.cut(func() {
			cancel()
			must(t, s.cmd.Process.Signal(syscall.SIGKILL))
			<-s.gone
			_ = s.client.Close()
			s.cmd = nil
			writers.Wait()
		})
		cut++
		if err := s.tryStart(); err != nil {
			return []string{"the agent does not start: " + s.log.String()}, cut, 0
		}
		lost, acknowledged = before.missing(t, s)
		if st, err := s.client.Status(t.Context(), ""); err != nil || st.Store.Repair != nil {
			lost = append(lost, fmt.Sprintf("the store was damaged: %+v, %v", st.Store, err))
		}
		if len(lost) > 0 {
			return lost, cut, acknowledged
		}
		l = before // what was written since then may be there or not
	}
	s.verify()
	s.stop()
	return nil, cut, acknowledged
}

// TestPowerCuts shows that nothing acknowledged is lost by a power cut, and that the same test finds what is lost by a store
// that does not sync.
func TestPowerCuts(t *testing.T) {
	heavy(t)
	needRoot(t)
	t.Run("as it is", func(t *testing.T) {
		lost, cut, n := powerCuts(t, "", cuts())
		if len(lost) > 0 {
			t.Errorf("cut %d of the power: %v", cut, lost)
		}
		t.Logf("%d cuts of the power, %d acknowledged writes, none missing", cut, n)
	})
	t.Run("without syncing", func(t *testing.T) {
		program := mutant(t, "storage/open.go", "o.SyncWrites = true", "o.SyncWrites = false")
		lost, cut, _ := powerCuts(t, program, max(cuts(), 10))
		if len(lost) == 0 {
			t.Fatalf("%d cuts of the power find nothing: the test shows nothing", cut)
		}
		t.Logf("cut %d shows: %s", cut, lost[0])
	})
}

// mutant builds the program with one text of one file replaced.
func mutant(t *testing.T, file, old, replacement string) string {
	t.Helper()
	at, err := filepath.Abs(filepath.Join("..", filepath.FromSlash(file)))
	must(t, err)
	text := readFile(at)
	if strings.Count(text, old) != 1 {
		t.Fatalf("%s does not hold %q once", file, old)
	}
	dir := t.TempDir()
	bent := filepath.Join(dir, "bent.go")
	must(t, os.WriteFile(bent, []byte(strings.Replace(text, old, replacement, 1)), 0o600))
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{at: bent}})
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "overlay.json"), overlay, 0o600))
	program := filepath.Join(dir, "chartmesh")
	do(t, "go", "build", "-overlay", filepath.Join(dir, "overlay.json"), "-o", program, "chartmesh/cmd/chartmesh")
	return program
}

// fill takes the room of a disk until at most so many bytes are left, and returns the file.
func fill(t *testing.T, dir string, leave uint64) string {
	t.Helper()
	name := filepath.Join(dir, "filler")
	f, err := os.OpenFile(name, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(t, err)
	defer func() { _ = f.Close() }()
	for size := 1 << 20; size >= 4096; {
		var st syscall.Statfs_t
		must(t, syscall.Statfs(dir, &st))
		free := st.Bavail * uint64(st.Bsize)
		if free <= leave || free-leave < uint64(size) {
			size /= 2
			continue
		}
		if _, err := f.Write(make([]byte, size)); err != nil {
			size /= 2
		}
	}
	return name
}

// TestFullDisk fills a small disk while two agents write: what is refused says why, nothing acknowledged is lost, and it
// goes on by itself when there is room.
func TestFullDisk(t *testing.T) {
	heavy(t)
	needRoot(t)
	for name, disk := range map[string]func(t *testing.T) string{
		"ext4": func(t *testing.T) string { return newImage(t, 160).on },
		"tmpfs": func(t *testing.T) string {
			on := t.TempDir()
			do(t, "mount", "-t", "tmpfs", "-o", "size=160m", "tmpfs", on)
			t.Cleanup(func() {
				if out, err := exec.Command("umount", on).CombinedOutput(); err != nil {
					t.Errorf("umount: %s", out)
				}
			})
			return on
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Run("guarded", func(t *testing.T) { fullGuarded(t, disk(t)) })
			t.Run("behind the guard", func(t *testing.T) { fullBehind(t, disk(t), seed(t)) })
		})
	}
}

const leastFree = 40 // MB

func fullGuarded(t *testing.T, on string) {
	a := found(t, t.TempDir(), "surgery")
	b := newSite(t, on, "branch")
	b.env = []string{fmt.Sprintf("CHARTMESH_LEAST_FREE_MB=%d", leastFree)}
	b.mustRun("join", a.invite(), "--site", b.name, "--device", b.name)
	b.start()
	b.inSync()
	b.patients(1, 2)
	filler := fill(t, on, (leastFree-5)*1_000_000)
	_, err := b.put([]byte(`{"resourceType":"Basic","id":"late","code":{"text":"x"}}`), false)
	if e := api.AsError(err); api.CodeOf(err) != api.CodeFull || !strings.Contains(e.Message, "MB are free") || e.Hint == "" {
		t.Fatalf("a write on a full disk: %v", err)
	}
	out, err := b.run("put", writeFile(t, `{"resourceType":"Basic","id":"late","code":{"text":"x"}}`))
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 13 {
		t.Errorf("the command: %v %s", err, out)
	}
	// Reading goes on, and so does what others write, elsewhere.
	st, err := b.client.Status(t.Context(), "")
	must(t, err)
	if st.Store.State != api.StoreReadOnly || !strings.Contains(st.Reason, "read-only") {
		t.Errorf("the status says %q, %+v", st.Reason, st.Store)
	}
	if len(b.export()) == 0 {
		t.Error("nothing can be read")
	}
	_, err = a.put([]byte(`{"resourceType":"Basic","id":"meanwhile","code":{"text":"x"}}`), false)
	must(t, err)
	// Stopped and started it is the same.
	b.stop()
	b.start()
	if st, err = b.client.Status(t.Context(), ""); err != nil || st.Store.State != api.StoreReadOnly {
		t.Errorf("after a restart the status says %+v, %v", st.Store, err)
	}
	must(t, os.Remove(filler))
	b.inSync()
	a.inSync()
	if _, err := b.put([]byte(`{"resourceType":"Basic","id":"late","code":{"text":"x"}}`), false); err != nil {
		t.Errorf("with room again: %v", err)
	}
	b.inSync()
	a.inSync()
	if string(a.export()) != string(b.export()) {
		t.Error("the exports differ")
	}
	b.verify()
}

// fullBehind fills the disk faster than the guard can see: there is none, so that the engine meets the end of the disk.
func fullBehind(t *testing.T, on string, random *rand.Rand) {
	s := newSite(t, on, "surgery")
	s.bin = mutant(t, "agent/store.go", "LeastFree: a.leastFree()}", "LeastFree: 0 * a.leastFree()}")
	s.env = []string{"CHARTMESH_LEAST_FREE_MB=1"}
	s.mustRun("init", "--practice", "Praxis", "--site", s.name, "--device", s.name)
	s.start()
	l := &ledger{written: map[string]int{}, over: 1}
	ended := 0
	for round := range 4 {
		ctx, cancel := context.WithCancel(t.Context())
		var writers sync.WaitGroup
		for i := range 3 {
			writers.Go(func() { l.writer(ctx, s, func() *site { return s }, fmt.Sprintf("w%d-%d", round, i)) })
		}
		wait(t, time.Duration(50+random.IntN(300))*time.Millisecond)
		filler := fill(t, on, 0)
		select {
		case <-s.gone: // the engine has met the end of the disk
		case <-time.After(5 * time.Second):
		}
		cancel()
		writers.Wait()
		select {
		case <-s.gone:
			ended++
			_ = s.client.Close()
			s.cmd = nil
			if err := s.tryStart(); err == nil {
				t.Error("an agent starts on a disk without room")
			} else if !strings.Contains(s.log.String(), "MB are free") {
				t.Errorf("an agent that does not start on a full disk says %s", s.log)
			}
			must(t, os.Remove(filler))
			s.start()
		default:
			must(t, os.Remove(filler))
		}
		l.check(t, s)
	}
	st, err := s.client.Status(t.Context(), "")
	must(t, err)
	if st.Store.Repair != nil {
		t.Errorf("a full disk counts as damage: %+v", *st.Store.Repair)
	}
	s.verify()
	n := l.check(t, s)
	if ended == 0 {
		t.Error("a full disk ended no agent: the test shows little")
	}
	t.Logf("the disk was filled 4 times and ended the agent %d times; %d acknowledged writes, none missing", ended, n)
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "resource.json")
	must(t, os.WriteFile(name, []byte(text), 0o600))
	return name
}
