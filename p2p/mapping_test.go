package p2p

import (
	"net"
	"testing"
	"time"
)

// TestMapTurn: a router that did not answer in time, or before the host listened, is asked again soon, and a new one at once.
func TestMapTurn(t *testing.T) {
	home, away := net.IPv4(192, 168, 178, 1), net.IPv4(10, 0, 0, 1)
	now := time.Unix(0, 0)
	var turn mapTurn
	ask := func(gateway net.IP, err error, want time.Duration) {
		t.Helper()
		for begun := now; !turn.comes(gateway, now); now = now.Add(mapLook) {
			if now.Sub(begun) > mapAgain {
				t.Fatal("it is never asked again")
			}
		}
		turn.next(gateway, err, now)
		if got := turn.at.Sub(now); got != want {
			t.Errorf("asked again after %v, want %v", got, want)
		}
	}
	for _, want := range []time.Duration{mapLook, 2 * mapLook, 4 * mapLook} {
		ask(home, errNoPorts, want)
	}
	ask(home, nil, mapAgain)
	ask(home, errNoPorts, mapLook)
	if !turn.comes(away, now) {
		t.Error("another router is not asked at once")
	}
	ask(away, errNoPorts, mapLook)
	for range 10 {
		ask(away, errNoPorts, min(2*turn.wait, mapLater))
	}
	if turn.wait != mapLater {
		t.Errorf("after ten failures it waits %v", turn.wait)
	}
	if !turn.comes(nil, now) { // no router: asked of none, and as soon as there is one
		t.Error("the network that is gone goes unnoticed")
	}
	turn.next(nil, errNoPorts, now)
	if !turn.comes(home, now) {
		t.Error("the network that is back goes unnoticed")
	}
}
