package acceptance

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"
)

// devicesEach is how many devices each practice of TestManyPractices has.
const devicesEach = 3

// TestManyPractices has 1,000 practices (PRACTICES) with three devices each on one anchor, and measures what a practice costs that does
// nothing, connected and not. The devices are real peers with real membership logs, without documents.
func TestManyPractices(t *testing.T) {
	heavy(t)
	n := number(t, "PRACTICES", 1000)
	anchor := newAnchor(t, t.TempDir(), "frankfurt")
	r := &report{t: t}
	each := func(bytes int64) string { return fmt.Sprintf("%.1f KiB a practice", float64(bytes)/1024/float64(n)) }
	empty := anchor.settled()
	r.add("memory of an empty anchor", mebibytes(empty), "")

	offices := make([]*office, n)
	for i := range offices {
		offices[i] = newOffice(t, fmt.Sprintf("Praxis %d", i), devicesEach, anchor)
		for range 5 {
			offices[i].members[0].writes("an edit")
		}
	}
	began := time.Now()
	for _, o := range offices {
		anchor.admit(o.token(anchor))
	}
	took := time.Since(began)
	r.add("%d admissions, one after the other", took.Round(time.Millisecond).String()+fmt.Sprintf(", %v each", (took/time.Duration(n)).Round(time.Microsecond)), "", n)
	r.add("memory of the admitted, of which none has come", mebibytes(anchor.settled()), "")

	for _, transport := range []string{"quic", "tcp"} {
		began = time.Now()
		var all []*member
		for i, o := range offices {
			for j, m := range o.members {
				m.connectFrom([]string{placeOf(transport, i*devicesEach+j)}, anchor.peerOf(transport))
				all = append(all, m)
			}
			if i%20 == 19 { // they come over some minutes, not in one moment
				until(t, time.Minute, "most of those who came are connected", func() bool { return anchor.status().Connected > len(all)-200 })
			}
		}
		until(t, 10*time.Minute, "all devices agree with the anchor", func() bool {
			for _, m := range all {
				if !m.agrees(anchor) {
					return false
				}
			}
			return true
		})
		r.add("until %d devices are in sync over "+transport, time.Since(began).Round(time.Millisecond).String(), "", len(all))
		connected := anchor.settled()
		r.add("memory, all connected over "+transport, fmt.Sprintf("%s: %s, %s", mebibytes(connected), each(connected-empty), sizeOf(t, anchor)), "")
		cpu := anchor.cpuOver(time.Minute)
		r.add("CPU in an idle minute, all connected over "+transport, fmt.Sprintf("%.2f s: %.2f ms a practice", cpu.Seconds(), cpu.Seconds()*1000/float64(n)), "")
		var closing sync.WaitGroup
		for _, m := range all {
			closing.Go(func() { must(t, m.host.Close()) })
		}
		closing.Wait()
		until(t, time.Minute, "nobody is connected", func() bool { return anchor.status().Connected == 0 })
	}
	cpu := anchor.cpuOver(130 * time.Second) // Go collects after two minutes at the latest
	r.add("CPU in an idle minute, none connected", fmt.Sprintf("%.2f s", cpu.Minutes()*60*60/130), "")
	apart := anchor.settled()
	r.add("memory two minutes after none is connected any more", fmt.Sprintf("%s: %s", mebibytes(apart), each(apart-empty)), "")

	for i, p := range anchor.status().Practices {
		if !p.Known || p.Devices != devicesEach || p.Chunks != 5 {
			t.Errorf("practice %d: %+v", i, p)
		}
	}
	anchor.stop()
	began = time.Now()
	anchor.start()
	r.add("start with %d practices", time.Since(began).Round(time.Millisecond).String(), "", n)
	started := anchor.settled()
	r.add("memory after the start", fmt.Sprintf("%s: %s", mebibytes(started), each(started-empty)), "")
	r.print()
}

// placeOf is an address of loopback for each of some thousands of devices.
func placeOf(transport string, i int) string {
	if transport == "tcp" {
		return fmt.Sprintf("/ip4/127.1.%d.%d/tcp/0", i/250, 2+i%250)
	}
	return fmt.Sprintf("/ip4/127.1.%d.%d/udp/0/quic-v1", i/250, 2+i%250)
}

// settled returns the anchor's memory when it has come to rest: the least of some seconds.
func (a *running) settled() (least int64) {
	a.t.Helper()
	for range 20 {
		if rss := a.memory("RssAnon"); least == 0 || rss < least {
			least = rss
		}
		wait(a.t, 500*time.Millisecond)
	}
	return least
}

func sizeOf(t *testing.T, a *running) string {
	return fmt.Sprintf("%d files open, %s with mapped files", descriptors(t, a.cmd.Process.Pid), mebibytes(a.memory("VmRSS")))
}

// cpuOver returns how long the anchor computes in some time.
func (a *running) cpuOver(d time.Duration) time.Duration {
	a.t.Helper()
	before := a.cpu()
	wait(a.t, d)
	return a.cpu() - before
}

func (a *running) cpu() time.Duration {
	a.t.Helper()
	_, rest, _ := strings.Cut(readFile(fmt.Sprintf("/proc/%d/stat", a.cmd.Process.Pid)), ") ")
	fields := strings.Fields(rest)
	var user, system int64
	if len(fields) < 13 {
		a.t.Fatal("the system says no times of the process")
	}
	_, _ = fmt.Sscan(fields[11], &user)
	_, _ = fmt.Sscan(fields[12], &system)
	return time.Duration(user+system) * 10 * time.Millisecond // ticks of Linux
}
