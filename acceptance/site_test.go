package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"chartmesh/agent/api"
	"chartmesh/agent/client"
	"chartmesh/fhir"
	"chartmesh/fhir/synthetic"
)

// binary and anchorBinary build the programs once.
var (
	binary       = sync.OnceValues(func() (string, error) { return build("chartmesh") })
	anchorBinary = sync.OnceValues(func() (string, error) { return build("chartmesh-anchor", "CGO_ENABLED=0") })
)

// built is where the programs are.
var built = sync.OnceValues(func() (string, error) { return os.MkdirTemp("", "chartmesh-acceptance-") })

func build(name string, env ...string) (string, error) {
	dir, err := built()
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-o", path, "chartmesh/cmd/"+name)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build %s: %w: %s", name, err, out)
	}
	return path, nil
}

// heavy leaves a test out that takes minutes, unless HEAVY is set.
func heavy(t *testing.T) {
	t.Helper()
	if os.Getenv("HEAVY") == "" {
		t.Skip("HEAVY=1 runs it")
	}
}

func TestMain(m *testing.M) {
	state, err := os.MkdirTemp("", "chartmesh-state-")
	if err != nil {
		panic(err)
	}
	_ = os.Setenv("XDG_STATE_HOME", state) // for every agent that is started
	code := m.Run()
	_ = os.RemoveAll(state)
	if dir, err := built(); err == nil {
		_ = os.RemoveAll(dir)
	}
	os.Exit(code)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%v (%v)", err, errors.Unwrap(err))
	}
}

// site is one device: a folder and, while it runs, its agent process.
type site struct {
	t      testing.TB
	name   string
	dir    string
	client *client.Client
	cmd    *exec.Cmd
	gone   chan struct{}
	log    *bytes.Buffer // of all runs
	env    []string
	tcp    bool
	bin    string // another program than binary's; empty: that
	cwd    string // where its processes run; empty: here
	netns  string // the network namespace that they run in; empty: this one
	listen string // empty: loopback
	noMDNS bool
	all    bool   // it listens at all interfaces, as agents do that are told nothing
	level  string // of the log; empty: the agent's own

	cleaned bool // its end is registered
}

// program returns the program that the site runs.
func (s *site) program() string {
	s.t.Helper()
	if s.bin != "" {
		return s.bin
	}
	path, err := binary()
	must(s.t, err)
	return path
}

func newSite(t testing.TB, root, name string) *site {
	return &site{t: t, name: name, dir: filepath.Join(root, name), log: new(bytes.Buffer)}
}

// command returns the program with arguments, ready to run.
func (s *site) command(args ...string) *exec.Cmd {
	s.t.Helper()
	line := append([]string{s.program(), "--data", s.dir}, args...)
	if s.netns != "" {
		line = append([]string{"ip", "netns", "exec", s.netns}, line...) // which becomes the program
	}
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env, cmd.Dir = append(os.Environ(), s.env...), s.cwd
	return cmd
}

// run runs a command on the site's folder and returns its stdout.
func (s *site) run(args ...string) (string, error) {
	s.t.Helper()
	cmd := s.command(args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("chartmesh %s: %w: %s", args[0], err, errs.String())
	}
	return out.String(), nil
}

func (s *site) mustRun(args ...string) string {
	s.t.Helper()
	out, err := s.run(args...)
	must(s.t, err)
	return out
}

// start runs the agent and waits until it says that it is ready.
func (s *site) start() {
	s.t.Helper()
	if err := s.tryStart(); err != nil {
		s.t.Fatalf("agent of %s does not start: %v: %s", s.name, err, s.log)
	}
}

// tryStart is start for an agent that may end instead.
func (s *site) tryStart() error {
	s.t.Helper()
	listen := "/ip4/127.0.0.1/udp/0/quic-v1"
	if s.tcp {
		listen = "/ip4/127.0.0.1/tcp/0"
	}
	if s.listen != "" {
		listen = s.listen
	}
	args := []string{"agent", "--listen", listen}
	if s.all {
		args = args[:1]
	}
	if s.noMDNS {
		args = append(args, "--no-mdns")
	}
	if s.level != "" {
		args = append(args, "--log-level", s.level)
	}
	s.cmd = s.command(args...)
	s.cmd.Stderr = s.log
	out, err := s.cmd.StdoutPipe()
	must(s.t, err)
	must(s.t, s.cmd.Start())
	s.gone = make(chan struct{})
	ready := make(chan error, 1)
	go func() {
		r := bufio.NewReader(out)
		_, err := r.ReadString('\n')
		ready <- err
		_, _ = io.Copy(io.Discard, r)
		_ = s.cmd.Wait()
		close(s.gone)
	}()
	if err := <-ready; err != nil {
		<-s.gone
		s.cmd = nil
		return err
	}
	s.client, err = client.Dial(s.dir)
	must(s.t, err)
	if !s.cleaned {
		s.cleaned = true
		s.t.Cleanup(func() {
			s.stop()
			if s.t.Failed() {
				s.t.Logf("log of %s:\n%s", s.name, s.log)
			}
		})
	}
	return nil
}

// verify checks everything that the site stores.
func (s *site) verify() {
	s.t.Helper()
	r, err := s.client.Verify(s.t.Context(), api.VerifyOptions{}, func(api.VerifyProgress) {})
	must(s.t, err)
	if !r.Clean {
		s.t.Errorf("verify on %s finds %d things: %+v", s.name, r.Found, r.Findings)
	}
}

// repaired waits until a repair is over and the site in sync.
func (s *site) repaired() api.Status {
	s.t.Helper()
	for end := time.Now().Add(90 * time.Second); ; {
		st := s.inSync()
		if st.Store.Repair == nil || st.Store.Repair.Done != nil {
			return st
		}
		if time.Now().After(end) {
			s.t.Fatalf("the repair of %s does not end: %+v", s.name, st.Store)
		}
		wait(s.t, 100*time.Millisecond)
	}
}

// stop ends the agent in order.
func (s *site) stop() {
	if s.cmd == nil {
		return
	}
	_ = s.client.Close()
	_ = s.cmd.Process.Signal(os.Interrupt)
	<-s.gone
	s.cmd = nil
}

// kill ends the agent as a crash does.
func (s *site) kill() {
	s.t.Helper()
	_ = s.client.Close()
	must(s.t, s.cmd.Process.Signal(syscall.SIGKILL))
	<-s.gone
	s.cmd = nil
}

// engine returns the process ID of the agent's engine child, 0 if there is none at this moment.
func (s *site) engine() int {
	for _, field := range strings.Fields(readFile(fmt.Sprintf("/proc/%d/task/%d/children", s.cmd.Process.Pid, s.cmd.Process.Pid)) + " " + allChildren(s.cmd.Process.Pid)) {
		var pid int
		if _, err := fmt.Sscan(field, &pid); err == nil && strings.Contains(readFile(fmt.Sprintf("/proc/%d/cmdline", pid)), "engine-child") {
			return pid
		}
	}
	return 0
}

// allChildren reads the children of every thread.
func allChildren(pid int) string {
	paths, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	var all strings.Builder
	for _, p := range paths {
		all.WriteString(readFile(p) + " ")
	}
	return all.String()
}

func readFile(path string) string {
	b, _ := os.ReadFile(path)
	return string(b)
}

// found makes the first site of a practice and starts it; join adds one.
func found(t testing.TB, root, name string) *site {
	t.Helper()
	s := newSite(t, root, name)
	s.mustRun("init", "--practice", "Praxis", "--site", name, "--device", name)
	s.start()
	return s
}

func (s *site) invite() string { return s.invites("") }

// invitesServer invites a device that may keep leases and numbers.
func (s *site) invitesServer() string { return s.invites("server") }

func (s *site) invites(role string) string {
	s.t.Helper()
	i, err := s.client.Invite(s.t.Context(), api.InviteRequest{Role: role, Yes: true})
	must(s.t, err)
	return i.Code
}

func join(t testing.TB, root, name string, by *site) *site {
	t.Helper()
	return joinBy(t, root, name, by, by.invite())
}

// joinServer is join of a device that may keep leases and numbers.
func joinServer(t testing.TB, root, name string, by *site) *site {
	t.Helper()
	return joinBy(t, root, name, by, by.invitesServer())
}

func joinBy(t testing.TB, root, name string, by *site, code string) *site {
	t.Helper()
	s := newSite(t, root, name)
	s.tcp = by.tcp
	s.mustRun("join", code, "--site", name, "--device", name)
	s.start()
	return s
}

func (s *site) inSync() api.Status {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	st, err := s.client.WaitInSync(ctx, "")
	must(s.t, err)
	return st
}

func (s *site) put(body []byte, force bool) (api.Written, error) {
	return s.client.Put(s.t.Context(), "user of "+s.name, json.RawMessage(body), force)
}

func (s *site) get(ref string) fhir.Object {
	s.t.Helper()
	r, err := api.ParseRef(ref)
	must(s.t, err)
	got, err := s.client.Get(s.t.Context(), r, "")
	must(s.t, err)
	o, err := fhir.Parse(got.JSON)
	must(s.t, err)
	return o
}

func (s *site) export() []byte {
	s.t.Helper()
	var b bytes.Buffer
	must(s.t, s.client.Export(s.t.Context(), &b, api.ExportOptions{}))
	return b.Bytes()
}

// patients imports made patients and returns their ids.
func (s *site) patients(seed uint64, n int) []string {
	s.t.Helper()
	var ids []string
	for bundle := range synthetic.Patients(seed, n) {
		var batch api.ImportBatch
		must(s.t, fhir.ReadFile("made", bytes.NewReader(fhir.Canonical(bundle)), func(it fhir.Item) error {
			if it.Err != nil {
				return it.Err
			}
			if it.Resource.Type() == "Patient" {
				ids = append(ids, it.Resource.ID())
			}
			batch.Resources = append(batch.Resources, it.Raw)
			return nil
		}))
		res, err := s.client.Import(s.t.Context(), "importer", batch)
		must(s.t, err)
		if len(res.Refused) > 0 {
			s.t.Fatal(res.Refused)
		}
	}
	return ids
}
