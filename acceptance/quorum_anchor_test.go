package acceptance

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"chartmesh/agent/api"
)

const (
	// leadsAfter is how long it may take until an anchor that votes leads: it has to have been well for 30 s.
	leadsAfter = 45 * time.Second
	// nextNumber is how long it may take until a number is given again when the anchor that led was killed: an election, and noticing that it is gone.
	nextNumber = 4 * time.Second
)

// billing is a billing run: devices number invoices at the same time, each its own and some that the others number too.
type billing struct {
	t     *testing.T
	stop  func()
	work  sync.WaitGroup
	mu    sync.Mutex
	given map[string]int64
	last  time.Time     // when a number was last given
	gap   time.Duration // the longest time without one, since it was last reset
}

func bill(t *testing.T, sites ...*site) *billing {
	ctx, cancel := context.WithCancel(t.Context())
	b := &billing{t: t, stop: cancel, given: map[string]int64{}, last: time.Now()}
	for _, s := range sites {
		b.work.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				item := fmt.Sprintf("Invoice/%s-%d", s.name, i)
				if i%3 == 0 {
					item = fmt.Sprintf("Invoice/all-%d", i)
				}
				n, err := s.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: item})
				if err == nil {
					b.take(item, n.Number)
				}
			}
		})
	}
	return b
}

func (b *billing) take(item string, n int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if had, ok := b.given[item]; ok && had != n {
		b.t.Errorf("%s has the number %d and then %d", item, had, n)
	}
	b.given[item] = n
	b.gap, b.last = max(b.gap, time.Since(b.last)), time.Now()
}

// longest returns the longest time without a number since it was last called.
func (b *billing) longest() time.Duration {
	b.mu.Lock()
	defer b.mu.Unlock()
	gap := max(b.gap, time.Since(b.last))
	b.gap = 0
	return gap.Round(time.Millisecond)
}

// settle ends the run, and holds what was given against what the quorum says: no number twice, and no gap.
func (b *billing) settle(asked *site) {
	b.t.Helper()
	b.stop()
	b.work.Wait()
	report, err := asked.client.Numbers(b.t.Context(), "invoices")
	must(b.t, err)
	items := map[string]int64{}
	for i, n := range report.Numbers {
		if n.Number != int64(i+1) {
			b.t.Fatalf("number %d stands in the place of %d", n.Number, i+1)
		}
		if _, twice := items[n.Item]; twice && n.Item != "" {
			b.t.Errorf("%s has two numbers", n.Item)
		}
		items[n.Item] = n.Number
	}
	for item, n := range b.given {
		if i := slices.IndexFunc(report.Numbers, func(r api.Number) bool { return r.Number == n }); i < 0 || report.Numbers[i].Item != "" && report.Numbers[i].Item != item {
			b.t.Errorf("%s was given %d, and the report does not say so", item, n)
		}
	}
	b.t.Logf("%d numbers were given, without a gap", len(report.Numbers))
}

// awaitLeader waits until a voter leads, as a site says, and returns how long that took.
func (s *site) awaitLeader(name string, patience time.Duration) time.Duration {
	s.t.Helper()
	begun := time.Now()
	for {
		st, err := s.client.Quorum(s.t.Context())
		if err == nil && st.Leader != nil && st.Leader.Name == name {
			return time.Since(begun).Round(100 * time.Millisecond)
		}
		if time.Since(begun) > patience {
			s.t.Fatalf("%s does not lead after %v: %+v (%v)", name, patience, st, err)
		}
		wait(s.t, 100*time.Millisecond)
	}
}

// TestAnchorVotes: an anchor takes over from the device that founded the practice, whoever knew that one alone finds it, and a device takes over again. An anchor
// that was put back from a copy answers nothing.
func TestAnchorVotes(t *testing.T) {
	root := t.TempDir()
	a := found(t, root, "Mitte")
	anchor := newAnchor(t, root, "anker")
	anchor.takes(a)
	b := joinServer(t, root, "Nord", a)
	b.syncsWith("anker")
	ctx := t.Context()
	_, err := a.client.OpenCircle(ctx, api.CircleRequest{Name: "invoices", First: 1, Last: 1000})
	must(t, err)
	number := func(s *site, item string, want int64) {
		t.Helper()
		n, err := s.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: item})
		if err != nil || n.Number != want {
			t.Fatalf("%s is given %d (%v)", item, n.Number, err)
		}
	}
	number(a, "Invoice/1", 1)
	number(b, "Invoice/2", 2)
	status, err := a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"anker"}})
	must(t, err)
	if len(status.Voters) != 1 || status.Voters[0].Name != "anker" || !status.Voters[0].Anchor || status.State != api.QuorumOK || status.Leader.Name != "anker" {
		t.Fatalf("the quorum is %+v", status)
	}
	number(a, "Invoice/3", 3)
	number(b, "Invoice/4", 4) // it knew Mitte alone
	number(b, "Invoice/3", 3)
	a.kill()
	number(b, "Invoice/5", 5)

	anchor.stop()
	old := root + "/old"
	must(t, os.CopyFS(old, os.DirFS(anchor.dir)))
	anchor.start()
	b.syncsWith("anker")
	number(b, "Invoice/6", 6)
	a.start()
	a.syncsWith("anker")
	number(a, "Invoice/7", 7)
	_, err = a.client.ChangeQuorum(ctx, api.QuorumChange{Remove: []string{"anker"}})
	must(t, err)
	number(a, "Invoice/8", 8)
	number(b, "Invoice/9", 9) // it knew the anchor alone
	_, err = a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"anker"}})
	must(t, err)
	number(b, "Invoice/10", 10)

	anchor.kill()
	must(t, os.RemoveAll(anchor.dir))
	must(t, os.Rename(old, anchor.dir))
	anchor.start()
	b.syncsWith("anker")
	until(t, time.Minute, "the anchor says that its voter stays out", func() bool {
		n, err := b.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: "Invoice/11"})
		if api.CodeOf(err) != api.CodeUnavailable {
			t.Fatalf("an anchor that was put back from a copy gives %d (%v)", n.Number, err)
		}
		return anchor.status().Practices[0].Voter.Out != ""
	})
	if _, err := b.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: "Invoice/11"}); !strings.Contains(fmt.Sprint(err), "anker") || !strings.Contains(fmt.Sprint(err), "stays out") {
		t.Errorf("a device says: %v", err)
	}
}

// TestAnchorLeads: an anchor and two devices vote. The anchor leads once it has been well for 30 s; it is killed during a billing run, and the devices go on; it comes
// back and leads again. No number is given twice, and none is left out.
func TestAnchorLeads(t *testing.T) {
	heavy(t)
	root := t.TempDir()
	a := found(t, root, "Mitte")
	anchor := newAnchor(t, root, "anker")
	anchor.takes(a)
	b := joinServer(t, root, "Nord", a)
	for _, pair := range [][2]*site{{b, a}, {a, b}} {
		pair[0].syncsWith(pair[1].name)
	}
	b.syncsWith("anker")
	ctx := t.Context()
	_, err := a.client.OpenCircle(ctx, api.CircleRequest{Name: "invoices", First: 1, Last: 1 << 40})
	must(t, err)
	status, err := a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"anker", "Nord"}})
	must(t, err)
	if len(status.Voters) != 3 {
		t.Fatalf("the quorum is %+v", status)
	}
	run := bill(t, a, b)
	t.Logf("the anchor leads %v after the change; the longest time without a number was %v", a.awaitLeader("anker", leadsAfter), run.longest())
	for i := range 3 {
		wait(t, time.Second)
		t.Logf("the longest time without a number while the anchor leads: %v", run.longest())
		anchor.kill()
		killed := time.Now()
		_, err := b.client.AcquireLease(ctx, "Dr. Berg", api.LeaseRequest{Name: fmt.Sprintf("lists-%d", i)})
		must(t, err)
		lease := time.Since(killed).Round(time.Millisecond)
		wait(t, 3*time.Second)
		gap := run.longest()
		t.Logf("the anchor was killed: the next lease after %v, the longest time without a number %v", lease, gap)
		if gap > nextNumber || lease > nextNumber {
			t.Errorf("nothing was given for %v and %v", gap, lease)
		}
		anchor.start()
		t.Logf("it was started again, and leads after %v; the longest time without a number was %v", a.awaitLeader("anker", leadsAfter+30*time.Second), run.longest())
	}
	run.settle(b)
}
