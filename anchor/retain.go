package anchor

import (
	"context"
	"time"

	"chartmesh/trust"
)

// Chunks that a checkpoint covers are deleted when every device that writes has found it good, as devices delete them
// (docs/spec/log-and-vector.md, "Deletion"), by one goroutine for all practices, in turns.
const (
	// DefaultGrace is how long what a checkpoint covers is kept after it came, though every device has found it good.
	DefaultGrace = 7 * 24 * time.Hour

	retainEvery = 5 * time.Second // how often it is looked which practices have news
	judgeEvery  = time.Hour       // how often checkpoints are judged without news: a grace may be over
	longTurns   = time.Second     // a pass that takes longer rests in between
	retainShare = 20              // of the time one part in so many is a practice's at most: a member can leave very many checkpoints without words
)

// retention is where a practice stands with it. It is the goroutine's.
type retention struct {
	under  bool // a pass over its checkpoints goes on
	judged time.Time
	state  *trust.State  // with which they were judged
	took   time.Duration // by the pass so far
	rest   time.Time     // until then it has no turn
}

// retain deletes what checkpoints cover until ctx ends.
func (a *Anchor) retain(ctx context.Context) {
	tick := time.NewTicker(retainEvery)
	defer tick.Stop()
	for {
		more := true
		for more && ctx.Err() == nil {
			more = a.settle(ctx)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// settle does one turn of each practice that has something to settle, and reports whether one has more.
func (a *Anchor) settle(ctx context.Context) (more bool) {
	for _, p := range a.list() {
		if ctx.Err() != nil {
			return false
		}
		r, now := &p.retention, time.Now()
		if wait := r.rest.Sub(now); wait > 0 && wait < judgeEvery {
			continue
		}
		again, err := p.settle(ctx, now, a.cfg.Grace)
		if r.took += time.Since(now); !again || r.took > longTurns {
			r.rest, r.took, again = time.Now().Add(min(retainShare*r.took, judgeEvery-time.Second)), 0, false
		}
		if err != nil && ctx.Err() == nil && !p.dropped.Load() {
			a.log.Error("what checkpoints of a practice cover is not deleted; it is tried again", "practice", p.id, "after", judgeEvery, "error", err)
		}
		more = more || again
	}
	return more
}

// settle does a turn of a practice, if it is due.
func (p *practice) settle(ctx context.Context, now time.Time, grace time.Duration) (more bool, err error) {
	h := p.held.Load()
	if h == nil || p.broken != nil {
		return false, nil
	}
	st, r := h.state.Load(), &p.retention
	if !st.IsAnchor(p.self.Device()) {
		return false, nil // it keeps what it has
	}
	if !r.under {
		since := now.Sub(r.judged)
		if !h.logs.News() && st == r.state && since >= 0 && since < judgeEvery {
			return false, nil
		}
		r.judged, r.state = now, st
	}
	r.under, err = h.logs.Settle(ctx, now, grace)
	return r.under, err
}
