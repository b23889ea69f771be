package acceptance

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"chartmesh/agent/api"
)

// buffer is what a process has said so far.
type buffer struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.all.Write(p)
}

func (b *buffer) Bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Clone(b.all.Bytes())
}

// running is an anchor's process, with its folder.
type running struct {
	t         testing.TB
	name, dir string
	listen    []string
	netns     string // the network namespace that it runs in; empty: this one
	env       []string
	addresses []string // with /p2p/
	said, log buffer   // stdout and stderr of all runs
	cmd       *exec.Cmd
	gone      chan struct{}
}

const (
	overQUIC = "/ip4/127.0.0.1/udp/0/quic-v1"
	overTCP  = "/ip4/127.0.0.1/tcp/0"
)

// newAnchor starts an anchor that listens on loopback. It ends with the test.
func newAnchor(t testing.TB, root, name string, listen ...string) *running {
	t.Helper()
	if listen == nil {
		listen = []string{overQUIC, overTCP}
	}
	a := &running{t: t, name: name, dir: filepath.Join(root, name), listen: listen}
	a.open()
	return a
}

// open starts an anchor, which ends with the test.
func (a *running) open() {
	a.t.Helper()
	a.start()
	t := a.t
	t.Cleanup(func() {
		if a.cmd != nil {
			a.stop()
		}
		if t.Failed() {
			t.Logf("log of the anchor %s:\n%s", a.name, a.log.Bytes())
		}
	})
}

// start runs the anchor, always where it listened first, and returns when it says that it runs.
func (a *running) start() {
	a.t.Helper()
	path, err := anchorBinary()
	must(a.t, err)
	line := []string{path, "run", "--data", a.dir, "--listen", strings.Join(a.listen, ",")}
	if a.netns != "" {
		line = append([]string{"ip", "netns", "exec", a.netns}, line...) // which becomes the program
	}
	a.cmd = exec.Command(line[0], line[1:]...)
	a.cmd.Env = append(os.Environ(), a.env...)
	a.cmd.Stderr = &a.log
	out, err := a.cmd.StdoutPipe()
	must(a.t, err)
	must(a.t, a.cmd.Start())
	a.gone = make(chan struct{})
	first := make(chan []string, 1)
	go func() {
		r := bufio.NewReader(io.TeeReader(out, &a.said))
		var addresses []string
		for len(addresses) < len(a.listen) {
			line, err := r.ReadString('\n')
			if err != nil {
				break
			}
			if _, addr, ok := strings.Cut(strings.TrimSpace(line), "chartmesh anchor add "); ok {
				addresses = append(addresses, addr)
			}
		}
		first <- addresses
		_, _ = io.Copy(io.Discard, r)
		_ = a.cmd.Wait()
		close(a.gone)
	}()
	if a.addresses = <-first; len(a.addresses) < len(a.listen) {
		a.t.Fatalf("the anchor %s does not start: %s", a.name, a.log.Bytes())
	}
	a.listen = nil
	for _, addr := range a.addresses {
		at, _, _ := strings.Cut(addr, "/p2p/")
		a.listen = append(a.listen, at)
	}
}

func (a *running) end(sig syscall.Signal) {
	a.t.Helper()
	must(a.t, a.cmd.Process.Signal(sig))
	select {
	case <-a.gone:
	case <-time.After(30 * time.Second):
		a.t.Errorf("the anchor %s does not end", a.name)
		_ = a.cmd.Process.Kill()
		<-a.gone
	}
	a.cmd = nil
}

func (a *running) stop() { a.t.Helper(); a.end(syscall.SIGINT) }
func (a *running) kill() { a.t.Helper(); a.end(syscall.SIGKILL) }

// over returns an address of the anchor by transport, "quic" or "tcp".
func (a *running) over(transport string) string {
	a.t.Helper()
	i := slices.IndexFunc(a.addresses, func(addr string) bool { return strings.Contains(addr, "/"+transport) })
	if i < 0 {
		a.t.Fatalf("the anchor %s does not listen over %s", a.name, transport)
	}
	return a.addresses[i]
}

// at returns who an anchor is, and where.
func (a *running) at(transport string) peer.AddrInfo {
	a.t.Helper()
	m, err := multiaddr.NewMultiaddr(a.over(transport))
	must(a.t, err)
	info, err := peer.AddrInfoFromP2pAddr(m)
	must(a.t, err)
	return *info
}

// asks says something over the control socket, and returns the answer as it came.
func (a *running) asks(method, path string, body any) []byte {
	a.t.Helper()
	text, err := json.Marshal(body)
	must(a.t, err)
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(a.dir, "control.sock"))
	}}}
	req, err := http.NewRequestWithContext(a.t.Context(), method, "http://anchor"+path, bytes.NewReader(text))
	must(a.t, err)
	resp, err := c.Do(req)
	must(a.t, err)
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	must(a.t, err)
	if resp.StatusCode != http.StatusOK {
		a.t.Fatalf("the anchor %s refuses: %s", a.name, b)
	}
	return b
}

func (a *running) admit(token string) []byte {
	a.t.Helper()
	return a.asks(http.MethodPost, "/v1/admit", map[string]string{"token": token})
}

// holds is what an anchor says of itself and of its first practice.
type holds struct {
	Connected int `json:"connected"`
	Practices []struct {
		Known   bool   `json:"known"`
		Devices int    `json:"devices"`
		Chunks  uint64 `json:"chunks"`
		Voter   struct {
			Awake bool   `json:"awake"`
			Index uint64 `json:"index"`
			Out   string `json:"out"`
		} `json:"voter"`
	} `json:"practices"`
}

func (a *running) status() (s holds) {
	a.t.Helper()
	must(a.t, json.Unmarshal(a.asks(http.MethodGet, "/v1/status", nil), &s))
	return s
}

// chunks returns how many chunks the anchor holds of its first practice.
func (a *running) chunks() uint64 {
	a.t.Helper()
	return a.status().Practices[0].Chunks
}

// takes makes the anchor one of a site's practice, and waits until it has heard all that the site has.
func (a *running) takes(s *site, addresses ...string) {
	s.t.Helper()
	if addresses == nil {
		addresses = a.addresses
	}
	added, err := s.client.AddAnchor(s.t.Context(), api.AnchorRequest{Addresses: addresses, Name: a.name})
	must(s.t, err)
	a.admit(added.Token)
	s.syncsWith(a.name)
}

// syncsWith waits until a site is in sync with one other.
func (s *site) syncsWith(name string) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), 90*time.Second)
	defer cancel()
	_, err := s.client.WaitInSync(ctx, name)
	must(s.t, err)
}

// memory returns a figure of the process's memory in bytes, by its name in /proc.
func (a *running) memory(figure string) int64 {
	a.t.Helper()
	return figureOf(a.t, a.cmd.Process.Pid, figure)
}

func figureOf(t testing.TB, pid int, figure string) (kibibytes int64) {
	t.Helper()
	for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/status", pid))) {
		if rest, ok := strings.CutPrefix(line, figure+":"); ok {
			if _, err := fmt.Sscan(rest, &kibibytes); err == nil {
				return kibibytes << 10
			}
		}
	}
	t.Fatalf("the system says no %s of process %d", figure, pid)
	return 0
}
