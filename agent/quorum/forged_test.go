package quorum

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/certificate"
	"chartmesh/lockquorum/client"
	"chartmesh/trust"
)

// TestMadeUpEpochs: a server that signs that it saw a quorum of a later epoch can end the quorum, as everybody whose word counts. It cannot have it stay ended: what no reseed
// may have founded is left out of account, and reseeds come to be beyond what it said.
func TestMadeUpEpochs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPractice(t, trust.RoleServer)
		a, liar := p.named("A"), p.named("B")
		a.openCircle()
		a.number("Invoice/1")
		says := func(epoch uint64) {
			lie := lockquorum.SignPosition(liar.keys, liar.members().Practice(), lockquorum.Seen{Place: lockquorum.Place{Epoch: epoch, Index: 1}})
			a.service.Carried(t.Context(), liar.keys.Device(), lie.Marshal())
			time.Sleep(5 * time.Second)
		}
		counts := func(epoch uint64, want certificate.Word) {
			if got := (Names{}).Voted(a.members(), epoch, liar.keys.Device()); got != want {
				t.Errorf("of its certificates of epoch %d it is said %d, want %d", epoch, got, want)
			}
		}
		for _, epoch := range []uint64{1<<63 - 1, lockquorum.MaxEpoch, 2 << 32} {
			says(epoch)
			counts(epoch, certificate.Unknown)
		}
		counts(2<<32-1, certificate.Yes)
		a.number("Invoice/2")
		says(2<<32 - 1)
		if n, err := assign(t, a.service, "Invoice/3"); !errors.Is(err, client.ErrNoQuorum) {
			t.Fatalf("a later epoch may have begun, and it is given %+v (%v)", n, err)
		}
		p.remove(a, liar)
		for range 2 {
			_, err := a.service.Reseed(t.Context(), nil, p.ids("B"), false)
			must(t, err)
		}
		a.openCircle()
		counts(2<<32, certificate.Yes)
		counts(4<<32, certificate.Unknown)
		if n := a.number("Invoice/3"); n.Number != 1 {
			t.Errorf("it is given %+v", n)
		}
	})
}
