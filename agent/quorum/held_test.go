package quorum

import (
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/agent/api"
	"chartmesh/lockquorum/remote"
	"chartmesh/storage"
	"chartmesh/trust"
)

// TestHeldOverAStart: a voter that an administrator reads, to found the quorum anew, gives nothing for as long as that may take, also when its agent is started again
// meanwhile and its clock was set back; then it goes on.
func TestHeldOverAStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleAdmin)
		a, b := p.named("A"), p.named("B")
		a.waitState(api.QuorumOK)
		_, err := a.service.OpenCircle(t.Context(), api.CircleRequest{Name: "invoices", First: 1, Last: 1000})
		must(t, err)
		if n := a.number("Invoice/1"); n.Number != 1 {
			t.Fatalf("the first number is %d", n.Number)
		}
		held := time.Now()
		_, err = b.service.voter.Remote(a.keys.Device()).Testimony(t.Context(), true)
		must(t, err)
		gives := func() bool {
			t.Helper()
			n, err := assign(t, a.service, "Invoice/2")
			if err == nil && n.Number != 2 {
				t.Fatalf("the second number is %d", n.Number)
			}
			return err == nil
		}
		for range 3 {
			if gives() {
				t.Fatalf("it gives a number %v after it was held", time.Since(held))
			}
			a.end()
			a.start()
		}
		var set storage.Batch // as a clock would have it that was set back by a year
		set.Put(storage.Quorum.Key(10), append([]byte{1}, 0x80, 0xb0, 0xda, 0xb2, 0xc3, 0x6f))
		time.Sleep(remote.Hold - time.Since(held) - time.Second)
		if gives() {
			t.Fatalf("it gives a number %v after it was held", time.Since(held))
		}
		time.Sleep(10 * time.Second)
		if !gives() {
			t.Fatalf("it gives no number %v after it was held", time.Since(held))
		}
		a.end()
		must(t, a.store.Commit(t.Context(), &set))
		a.start()
		begun := time.Now()
		for !gives() {
			if time.Since(begun) > remote.Hold+10*time.Second {
				t.Fatal("a hold that is noted for ever does not end")
			}
			time.Sleep(time.Second)
		}
	})
}
