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

// nextLease is how long it may take until a lease is granted again when the voter that led was killed. The connections to it are thought to be there for
// longer than that.
const nextLease = 20 * time.Second

// TestQuorumOfThree: three devices keep leases and numbers. The one that leads is killed during a billing run: the others go on, no number is given twice and
// none is left out, and when it comes back it has all of them.
func TestQuorumOfThree(t *testing.T) {
	root := t.TempDir()
	a := found(t, root, "Mitte")
	anchor := newAnchor(t, root, "anker") // two devices that know no address of each other meet through it
	anchor.takes(a)
	b := joinServer(t, root, "Nord", a)
	c := joinServer(t, root, "Sued", a)
	for _, pair := range [][2]*site{{b, a}, {c, a}, {b, c}, {c, b}} {
		pair[0].syncsWith(pair[1].name)
	}
	ctx := t.Context()
	_, err := a.client.OpenCircle(ctx, api.CircleRequest{Name: "invoices", First: 1, Last: 1 << 40})
	must(t, err)
	if _, err := a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"Nord"}}); api.CodeOf(err) != api.CodeInvalid {
		t.Errorf("a quorum of two: %v", err)
	}
	if _, err := b.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"Nord", "Sued"}}); api.CodeOf(err) != api.CodeForbidden {
		t.Errorf("a member changes who votes: %v", err)
	}
	status, err := a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"Nord", "Sued"}})
	must(t, err)
	if len(status.Voters) != 3 || status.State != api.QuorumOK || !strings.Contains(status.Risk, "all voters") || status.Leader.Name != "Mitte" {
		t.Fatalf("the quorum is %+v", status)
	}

	// The billing run: each device numbers invoices of its own, and some that the others number too.
	given := map[string]int64{}
	var mu sync.Mutex
	running, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	assign := func(ctx context.Context, s *site, item string) {
		n, err := s.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: item})
		if err != nil {
			return // it was killed, or is without a quorum for a moment
		}
		mu.Lock()
		defer mu.Unlock()
		if had, ok := given[item]; ok && had != n.Number {
			t.Errorf("%s has the number %d and then %d", item, had, n.Number)
		}
		given[item] = n.Number
	}
	for _, s := range []*site{a, b, c} {
		work.Go(func() {
			for i := 0; running.Err() == nil; i++ {
				item := fmt.Sprintf("Invoice/%s-%d", s.name, i)
				if i%3 == 0 {
					item = fmt.Sprintf("Invoice/all-%d", i)
				}
				assign(running, s, item)
			}
		})
	}
	held, err := a.client.AcquireLease(ctx, "Dr. Berg", api.LeaseRequest{Name: "billing"})
	must(t, err)
	wait(t, time.Second)
	mu.Lock()
	before := len(given)
	mu.Unlock()
	a.kill()
	killed := time.Now()
	free, err := b.client.AcquireLease(ctx, "Dr. Berg", api.LeaseRequest{Name: "lists"})
	took := time.Since(killed)
	must(t, err)
	t.Logf("%d numbers were given when the leader was killed; the next lease was granted after %v", before, took.Round(time.Millisecond))
	if before == 0 || took > nextLease {
		t.Errorf("the next lease was granted after %v", took)
	}
	if free.Token == held.Token {
		t.Errorf("two leases have the token %s", held.Token)
	}
	if os.Getenv("HEAVY") != "" { // it has to run out
		next, err := c.client.AcquireLease(ctx, "Dr. Berg", api.LeaseRequest{Name: "billing"})
		must(t, err)
		t.Logf("the lease of who was killed was granted anew after %v", time.Since(killed).Round(time.Millisecond))
		if next.Token == held.Token {
			t.Errorf("two leases have the token %s", held.Token)
		}
	}
	wait(t, time.Second)
	stop()
	work.Wait()

	a.start()
	a.syncsWith("Nord")
	var report api.NumberReport
	for end := time.Now().Add(time.Minute); ; {
		if report, err = a.client.Numbers(ctx, "invoices"); err == nil || time.Now().After(end) {
			break
		}
		wait(t, 200*time.Millisecond)
	}
	must(t, err)
	items := map[string]int64{}
	for i, n := range report.Numbers {
		if n.Number != int64(i+1) {
			t.Fatalf("number %d stands in the place of %d", n.Number, i+1)
		}
		if _, twice := items[n.Item]; twice && n.Item != "" {
			t.Errorf("%s has two numbers", n.Item)
		}
		items[n.Item] = n.Number
	}
	for item, n := range given {
		if i := slices.IndexFunc(report.Numbers, func(r api.Number) bool { return r.Number == n }); i < 0 || report.Numbers[i].Item != "" && report.Numbers[i].Item != item {
			t.Errorf("%s was given %d, and the report does not say so", item, n)
		}
	}
	t.Logf("%d numbers were given, without a gap", len(report.Numbers))
	if status, err := a.client.Quorum(ctx); err != nil || len(status.Voters) != 3 {
		t.Errorf("who came back says %+v (%v)", status, err)
	}
	status, err = a.client.ChangeQuorum(ctx, api.QuorumChange{Remove: []string{"Nord", "Sued"}})
	must(t, err)
	if len(status.Voters) != 1 || !strings.Contains(status.Risk, "one voter") {
		t.Errorf("one voter is left of %+v", status)
	}

	// They may vote again, as others than they were.
	status, err = a.client.ChangeQuorum(ctx, api.QuorumChange{Add: []string{"Nord", "Sued"}})
	must(t, err)
	if len(status.Voters) != 3 {
		t.Errorf("voters again are %+v", status)
	}
	n, err := b.client.AssignNumber(ctx, api.NumberRequest{Circle: "invoices", Item: "Invoice/last"})
	if err != nil || n.Number != int64(len(report.Numbers))+1 {
		t.Errorf("then %d is given after %d (%v)", n.Number, len(report.Numbers), err)
	}
}
