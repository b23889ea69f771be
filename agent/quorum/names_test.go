package quorum

import (
	"fmt"
	"testing"
	"testing/synctest"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestManyNames: a device that knows no name of a long list asks for all of them, and keeps them in few writes.
func TestManyNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const many = 1500
		p := newPractice(t, trust.RoleMember)
		a, b := p.named("A"), p.named("B")
		a.waitState(api.QuorumOK)
		_, err := a.service.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 1 << 50})
		must(t, err)
		for i := range many {
			if n := a.number(fmt.Sprintf("Invoice/%d", i)); n.Number != int64(i+1) {
				t.Fatalf("number %d is %d", i+1, n.Number)
			}
		}
		commits := 0
		b.store.OnCommit(func(at storage.Stage, _ int) error {
			if at == storage.Begin {
				commits++
			}
			return nil
		})
		report, err := b.service.Numbers(t.Context(), "invoices")
		must(t, err)
		if len(report.Numbers) != many {
			t.Fatalf("%d numbers are reported", len(report.Numbers))
		}
		for i, n := range report.Numbers {
			if n.Item != fmt.Sprintf("Invoice/%d", i) {
				t.Fatalf("number %d is of %q", n.Number, n.Item)
			}
		}
		if commits > 2*many/256+10 {
			t.Errorf("%d writes for %d names", commits, many)
		}
	})
}
