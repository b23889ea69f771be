package natbed

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Delay is how long a packet takes through the core: half a round trip.
const Delay = 20 * time.Millisecond

// Bed is a core to which networks are attached.
type Bed struct {
	t      testing.TB
	prefix string
	core   *Machine
	nets   int
}

// Machine is a network namespace.
type Machine struct {
	bed     *Bed
	Netns   string
	Addr    string   // where it is reached, in its own network
	Routers []*gates // from the core to it
}

var beds atomic.Int64

// New makes a bed for the time of a test, which it skips where that cannot be.
func New(t testing.TB) *Bed {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the command ip, of iproute2")
	}
	b := &Bed{t: t, prefix: fmt.Sprintf("cm%d-%d-", os.Getpid(), beds.Add(1))}
	if out, err := exec.Command("ip", "netns", "add", b.prefix+"probe").CombinedOutput(); err != nil {
		t.Skipf("this machine makes no network namespaces: %s", out)
	}
	_ = exec.Command("ip", "netns", "del", b.prefix+"probe").Run()
	b.core = b.machine("core")
	b.core.forward()
	b.core.slow()
	return b
}

// machine makes a namespace, which goes with the test.
func (b *Bed) machine(name string) *Machine {
	b.t.Helper()
	m := &Machine{bed: b, Netns: b.prefix + name}
	b.do("netns", "add", m.Netns)
	b.t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", m.Netns).Run() })
	m.ip("link", "set", "lo", "up")
	return m
}

func (b *Bed) do(args ...string) {
	b.t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		b.t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func (m *Machine) ip(args ...string) {
	m.bed.t.Helper()
	m.bed.do(append([]string{"-n", m.Netns}, args...)...)
}

// forward has a machine pass packets on.
func (m *Machine) forward() {
	m.bed.t.Helper()
	if err := m.within(func() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0) }); err != nil {
		m.bed.t.Fatalf("forward packets: %v", err)
	}
	for _, of := range []string{"all", "default"} { // answers do not come the way that the packets went
		if err := m.within(func() error {
			return os.WriteFile("/proc/sys/net/ipv4/conf/"+of+"/rp_filter", []byte("0"), 0)
		}); err != nil {
			m.bed.t.Fatalf("forward packets: %v", err)
		}
	}
}

// cable connects two machines: the address of a's end, and of b's.
func cable(a *Machine, at, addrA string, b *Machine, bt, addrB string) {
	a.bed.t.Helper()
	a.ip("link", "add", at, "type", "veth", "peer", "name", bt, "netns", b.Netns)
	for _, end := range []struct {
		m         *Machine
		dev, addr string
	}{{a, at, addrA}, {b, bt, addrB}} {
		end.m.ip("addr", "add", end.addr+"/24", "dev", end.dev)
		end.m.ip("link", "set", end.dev, "up")
	}
}

// attach puts a machine on a public network of its own, and returns its address.
func (b *Bed) attach(m *Machine, dev string) string {
	b.t.Helper()
	b.nets++
	net := fmt.Sprintf("45.33.%d.", b.nets)
	port := fmt.Sprintf("c%d", b.nets)
	cable(b.core, port, net+"1", m, dev, net+"10")
	m.ip("route", "add", "default", "via", net+"1")
	b.core.ip("rule", "add", "iif", port, "lookup", slowTable)
	return net + "10"
}

// Public makes a machine with a public address.
func (b *Bed) Public(name string) *Machine {
	b.t.Helper()
	m := b.machine(name)
	m.Addr = b.attach(m, "e0")
	return m
}

// Behind makes a machine behind routers, the outermost first.
func (b *Bed) Behind(name string, routers ...Router) *Machine {
	b.t.Helper()
	m := b.machine(name)
	outside := (*Machine)(nil)
	for i, r := range routers {
		g := &gates{Machine: b.machine(fmt.Sprintf("%s-r%d", name, i)), Router: r}
		g.forward()
		if outside == nil {
			g.Addr = b.attach(g.Machine, wan)
		} else {
			lan := fmt.Sprintf("192.168.%d.", 10+i)
			cable(outside, inner, lan+"1", g.Machine, wan, lan+"2")
			g.ip("route", "add", "default", "via", lan+"1")
			g.Addr = lan + "2"
		}
		m.Routers = append(m.Routers, g)
		outside = g.Machine
	}
	const lan = "192.168.178." // both sides' networks have the same numbers, as they do
	cable(outside, inner, lan+"1", m, "e0", lan+"20")
	m.ip("route", "add", "default", "via", lan+"1")
	m.Addr = lan + "20"
	for _, g := range m.Routers {
		if err := g.translate(); err != nil {
			b.t.Fatalf("set up router: %v", err)
		}
	}
	if last := m.Routers[len(m.Routers)-1]; last.Maps {
		last.serveMapping()
	}
	return m
}

// Move gives the outermost router another public address, as providers do: what was translated before is lost.
func (m *Machine) Move() {
	m.bed.t.Helper()
	r := m.Routers[0]
	r.ip("link", "del", wan)
	r.Addr = m.bed.attach(r.Machine, wan)
}

// Forget has every router forget what it has translated, as when it is switched off and on.
func (m *Machine) Forget() {
	m.bed.t.Helper()
	for _, r := range m.Routers {
		if err := r.forget(); err != nil {
			m.bed.t.Fatalf("forget translations: %v", err)
		}
	}
}

// within runs a function in a thread of the machine's namespace, which ends with it.
func (m *Machine) within(fn func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread is of no further use
		done <- func() error {
			f, err := os.Open("/run/netns/" + m.Netns)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("enter %s: %w", m.Netns, err)
			}
			return fn()
		}()
	}()
	return <-done
}
