package p2p

import (
	"net"
	"testing"
	"time"
)

// TestMapTurn: a router that did not answer in time is asked again soon, and a new one at once.
func TestMapTurn(t *testing.T) {
	ports := []mapping{{"tcp", 4801}, {"udp", 4801}}
	home, away := aboutOf(net.IPv4(192, 168, 178, 1), ports), aboutOf(net.IPv4(10, 0, 0, 1), ports)
	now := time.Unix(0, 0)
	var turn mapTurn
	ask := func(gateway mapAbout, err error, want time.Duration) {
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
	gone := aboutOf(nil, ports)
	if !turn.comes(gone, now) { // no router: asked of none, and as soon as there is one
		t.Error("the network that is gone goes unnoticed")
	}
	turn.next(gone, errNoPorts, now)
	if !turn.comes(home, now) {
		t.Error("the network that is back goes unnoticed")
	}
}

// TestMapOnePortAfterAnother: a host listens at one port after another. A router that was asked in between is asked for the others at once, not
// when the time of the first is nearly over.
func TestMapOnePortAfterAnother(t *testing.T) {
	home, now := net.IPv4(192, 168, 178, 1), time.Unix(0, 0)
	var turn mapTurn
	first, both := []mapping{{"tcp", 4801}}, []mapping{{"tcp", 4801}, {"udp", 4801}}
	turn.next(aboutOf(home, nil), errNoPorts, now)
	if !turn.comes(aboutOf(home, first), now) {
		t.Error("the first port is not asked for at once")
	}
	turn.next(aboutOf(home, first), nil, now)
	if !turn.comes(aboutOf(home, both), now) {
		t.Error("the second port is not asked for at once")
	}
	turn.next(aboutOf(home, both), nil, now)
	if turn.comes(aboutOf(home, []mapping{both[1], both[0]}), now.Add(mapLook)) {
		t.Error("the order of the ports makes a difference")
	}
}
