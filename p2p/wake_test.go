package p2p

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestWakeWatch(t *testing.T) {
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	type at struct{ wall, mono time.Duration }
	for name, c := range map[string]struct {
		looks []at
		want  time.Duration // at the last
	}{
		"awake":               {[]at{{0, 0}, {2 * time.Second, 2 * time.Second}}, 0},
		"first look":          {[]at{{time.Hour, 0}}, 0},
		"slept":               {[]at{{0, 0}, {time.Hour, 3 * time.Second}}, time.Hour - 3*time.Second},
		"slept and forgotten": {[]at{{0, 0}, {time.Hour, 2 * time.Second}, {time.Hour + 2*time.Second, 4 * time.Second}}, 0},
		"set back":            {[]at{{0, 0}, {-time.Hour, 2 * time.Second}}, 0},
		"slewed":              {[]at{{0, 0}, {4 * time.Second, 2 * time.Second}}, 0},
		"stopped":             {[]at{{0, 0}, {time.Minute, time.Minute}}, time.Minute},
		"a slow machine":      {[]at{{0, 0}, {10 * time.Second, 10 * time.Second}}, 0},
	} {
		var w wakeWatch
		var got time.Duration
		for _, l := range c.looks {
			got = w.look(noon.Add(l.wall), l.mono)
		}
		if got != c.want {
			t.Errorf("%s: slept for %v, not %v", name, got, c.want)
		}
	}
}

// TestWatchWakes: the driver notices a sleep of the machine at its next look, once.
func TestWatchWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var asleep time.Duration // by which the wall clock is ahead
		begun := time.Now()
		clock := func() (time.Time, time.Duration) {
			mu.Lock()
			defer mu.Unlock()
			now := time.Now()
			return now.Add(asleep), now.Sub(begun)
		}
		var woke []time.Duration // guarded by mu
		heard := func() []time.Duration {
			mu.Lock()
			defer mu.Unlock()
			return slices.Clone(woke)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			watchWakes(ctx, clock, func(d time.Duration) {
				mu.Lock()
				defer mu.Unlock()
				woke = append(woke, d)
			})
			close(done)
		}()
		time.Sleep(time.Minute) // virtual
		if woke := heard(); len(woke) > 0 {
			t.Errorf("awake: %v", woke)
		}
		mu.Lock()
		asleep = 8 * time.Hour
		mu.Unlock()
		time.Sleep(3 * time.Second)
		time.Sleep(time.Minute)
		if woke := heard(); len(woke) != 1 || woke[0] != 8*time.Hour {
			t.Errorf("after a night: %v", woke)
		}
		cancel()
		<-done
	})
}
