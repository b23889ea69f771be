package p2p

import (
	"context"
	"time"
)

// A machine that slept is known by its clocks: the monotonic one, which all timers follow, stops while the machine sleeps,
// and the wall clock does not. Where it goes on, or where only this process was stopped, the look at the clocks comes far
// too late. A wall clock that was set forward looks the same and costs no more than a few round trips.
const (
	wakeEvery = 2 * time.Second // between looks at the clocks
	wakeJump  = 5 * time.Second // by which the wall clock must have run ahead
	wakeLate  = 20 * time.Second
)

// wakeWatch compares two looks at the clocks. The zero value has seen none.
type wakeWatch struct {
	seen bool
	wall time.Time
	mono time.Duration
}

// look returns for how long the machine has slept since the last look, 0 if it has not.
func (w *wakeWatch) look(wall time.Time, mono time.Duration) time.Duration {
	wall = wall.Round(0) // without the monotonic reading, which Sub would prefer
	byWall, byMono := wall.Sub(w.wall), mono-w.mono
	first := !w.seen
	w.seen, w.wall, w.mono = true, wall, mono
	switch {
	case first:
		return 0
	case byWall-byMono > wakeJump:
		return byWall - byMono
	case byMono > wakeLate:
		return byMono
	}
	return 0
}

// clocks returns the wall clock and the monotonic one since begun.
func clocks(begun time.Time) func() (time.Time, time.Duration) {
	return func() (time.Time, time.Duration) {
		now := time.Now()
		return now, now.Sub(begun)
	}
}

// watchWakes calls woke after every sleep until ctx ends.
func watchWakes(ctx context.Context, clocks func() (time.Time, time.Duration), woke func(time.Duration)) {
	var w wakeWatch
	w.look(clocks())
	tick := time.NewTicker(wakeEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if slept := w.look(clocks()); slept > 0 {
				woke(slept)
			}
		}
	}
}
