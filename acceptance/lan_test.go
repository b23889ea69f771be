package acceptance

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// cable is two network namespaces with a wire between them.
type cable struct {
	t    *testing.T
	name [2]string
}

func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

func newCable(t *testing.T) *cable {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("network namespaces need the command ip")
	}
	c := &cable{t: t}
	for i := range c.name {
		c.name[i] = fmt.Sprintf("cm%d-%d", os.Getpid(), i)
		if out, err := exec.Command("ip", "netns", "add", c.name[i]).CombinedOutput(); err != nil {
			t.Skipf("this machine makes no network namespaces: %s", out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", c.name[i]).Run() })
	}
	ip(t, "-n", c.name[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", c.name[1])
	for _, ns := range c.name {
		ip(t, "-n", ns, "link", "set", "lo", "up")
		ip(t, "-n", ns, "link", "set", "wire", "up")
	}
	return c
}

// address gives an end of the wire an address in place of the one that it has.
func (c *cable) address(end int, addr string) {
	c.t.Helper()
	ip(c.t, "-n", c.name[end], "addr", "flush", "dev", "wire")
	ip(c.t, "-n", c.name[end], "addr", "add", addr, "dev", "wire")
}

// TestFindEachOtherOnTheLAN: after both devices got other addresses while they were off, and again when one gets another
// while it runs, they find each other by multicast alone, and say that it is the local network.
func TestFindEachOtherOnTheLAN(t *testing.T) {
	heavy(t)
	c := newCable(t)
	c.address(0, "10.77.0.1/24")
	c.address(1, "10.77.0.2/24")
	root := t.TempDir()
	at := func(end int, name string) *site {
		s := newSite(t, root, name)
		s.netns, s.listen = c.name[end], "/ip4/0.0.0.0/udp/0/quic-v1"
		return s
	}
	a, b := at(0, "surgery"), at(1, "branch")
	a.mustRun("init", "--practice", "Praxis", "--site", a.name, "--device", a.name)
	a.start()
	b.mustRun("join", a.invite(), "--site", b.name, "--device", b.name)
	b.start()
	b.inSync()

	a.stop()
	b.stop()
	c.address(0, "10.77.0.101/24")
	c.address(1, "10.77.0.102/24")
	a.start()
	b.start()
	begun := time.Now()
	b.inSync()
	a.inSync()
	t.Logf("in sync %v after both had moved", time.Since(begun).Round(10*time.Millisecond))

	for _, s := range []*site{a, b} { // who was dialled hears the other's announcement a moment later
		for {
			st, err := s.client.Status(t.Context(), "")
			must(t, err)
			way := st.Peers[0].Way
			if way == "LAN quic" {
				break
			}
			if time.Since(begun) > 30*time.Second {
				t.Fatalf("the way is %q", way)
			}
			wait(t, 50*time.Millisecond)
		}
	}

	c.address(1, "10.77.0.203/24")
	begun = time.Now()
	_, err := a.put([]byte(`{"resourceType":"Basic","id":"after","code":{"text":"moved"}}`), false)
	must(t, err)
	for {
		if _, err := b.run("get", "Basic/after"); err == nil {
			break
		}
		if time.Since(begun) > 30*time.Second {
			t.Fatal("an edit does not arrive where a device got another address")
		}
		wait(t, 50*time.Millisecond)
	}
	t.Logf("an edit arrived %v after a device got another address", time.Since(begun).Round(10*time.Millisecond))
	a.inSync()
	metrics, err := b.run("metrics")
	must(t, err)
	if strings.Contains(metrics, "chartmesh_network_changes_total 0\n") || strings.Contains(metrics, "chartmesh_mdns_announcements_total 0\n") {
		t.Errorf("nothing of it is counted: %s", metrics)
	}

	// Without it they would not have met.
	a.stop()
	b.stop()
	c.address(0, "10.77.0.11/24")
	c.address(1, "10.77.0.12/24")
	a.noMDNS, b.noMDNS = true, true
	a.start()
	b.start()
	if _, err := b.run("status", "--wait", "in-sync", "--timeout", "3s"); err == nil {
		t.Error("they meet without multicast: the test shows nothing")
	}
}
