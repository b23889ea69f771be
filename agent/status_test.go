package agent

import (
	"testing"
	"time"
)

func TestClocksApart(t *testing.T) {
	for _, c := range []struct {
		rtt, diff time.Duration
		apart     bool
	}{
		{0, time.Hour, false}, // not measured
		{time.Millisecond, 2 * time.Second, false},
		{time.Millisecond, 2010 * time.Millisecond, true},
		{time.Millisecond, -2010 * time.Millisecond, true},
		{3 * time.Second, 3 * time.Second, false}, // the way back may have taken all of it
		{time.Millisecond, -1 << 63, true},
	} {
		if got := clocksApart(c.rtt, c.diff); got != c.apart {
			t.Errorf("%v after a round trip of %v: %v", c.diff, c.rtt, got)
		}
	}
}
