package anchor

import (
	"context"
	"time"

	"chartmesh/anchor/kept"
)

// Chunks that a checkpoint covers are deleted when every device that writes has found it good, as devices delete them
// (docs/spec/log-and-vector.md, "Deletion"), by one goroutine for all practices, in turns.
const (
	// DefaultGrace is how long what a checkpoint covers is kept after it came, though every device has found it good.
	DefaultGrace = 7 * 24 * time.Hour

	retainEvery = 5 * time.Second // how often it is looked which practices have news
	longTurns   = time.Second     // a pass that takes longer rests in between
	retainShare = 20              // of the time one part in so many is a practice's at most: a member can leave very many checkpoints without words
)

// turns is what a practice has had of them. It is the goroutine's.
type turns struct {
	took time.Duration // by the pass so far
	rest time.Time     // until then it has no turn
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
		if p.broken != nil {
			continue
		}
		r, now := &p.turns, time.Now()
		if wait := r.rest.Sub(now); wait > 0 && wait < kept.JudgeEvery {
			continue
		}
		again, err := p.Settle(ctx, now, a.cfg.Grace)
		if r.took += time.Since(now); !again || r.took > longTurns {
			r.rest, r.took, again = time.Now().Add(min(retainShare*r.took, kept.JudgeEvery-time.Second)), 0, false
		}
		if err != nil && ctx.Err() == nil && !p.dropped.Load() {
			a.log.Error("what checkpoints of a practice cover is not deleted; it is tried again", "practice", p.id, "after", kept.JudgeEvery, "error", err)
		}
		more = more || again
	}
	return more
}
