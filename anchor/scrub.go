package anchor

import (
	"context"
	"time"
)

// An anchor reads all that it holds once a week, one practice after the other and in no hurry: what the disk has lost is asked of the devices while
// they have it, and not when one needs it.
const (
	scrubFirst = time.Hour
	scrubEvery = 7 * 24 * time.Hour
	scrubPause = 100 * time.Millisecond // between 64 chunks each
)

// scrub reads all that is held until ctx ends.
func (a *Anchor) scrub(ctx context.Context) {
	timer := time.NewTimer(scrubFirst)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		a.scrubAll(ctx, scrubPause)
		timer.Reset(scrubEvery)
	}
}

func (a *Anchor) scrubAll(ctx context.Context, pause time.Duration) {
	var chunks, damaged uint64
	for _, p := range a.list() {
		if p.broken != nil {
			continue
		}
		done, err := p.Scrub(ctx, pause)
		chunks, damaged = chunks+done.Chunks, damaged+done.Damaged
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !p.dropped.Load():
			a.log.Warn("what is held of a practice was not all read", "practice", p.id, "error", err)
		case done.Damaged > 0:
			a.log.Error("chunks of a practice did not read, and are asked for again: look at the disk", "practice", p.id, "chunks", done.Damaged)
		}
	}
	a.log.Info("all chunks were read", "chunks", chunks, "damaged", damaged)
}
