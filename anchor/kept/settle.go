package kept

import (
	"context"
	"time"

	"chartmesh/trust"
)

// JudgeEvery is how often checkpoints are judged without news: a grace may be over.
const JudgeEvery = time.Hour

// retention is where a practice stands with what checkpoints cover. It belongs to who calls Settle.
type retention struct {
	under  bool // a pass over its checkpoints goes on
	judged time.Time
	state  *trust.State // with which they were judged
}

// Settle deletes what checkpoints cover on which all have agreed, and which have been here for grace: a turn of it, if one is due. It is called
// by one goroutine; more says that another turn is to follow.
func (p *Practice) Settle(ctx context.Context, now time.Time, grace time.Duration) (more bool, err error) {
	h := p.held.Load()
	if h == nil {
		return false, nil
	}
	st, r := h.state.Load(), &p.retention
	if !st.IsAnchor(p.cfg.Self.Device()) {
		return false, nil // it keeps what it has
	}
	if !r.under {
		since := now.Sub(r.judged)
		if !h.logs.News() && st == r.state && since >= 0 && since < JudgeEvery {
			return false, nil
		}
		r.judged, r.state = now, st
	}
	r.under, err = h.logs.Settle(ctx, now, grace)
	return r.under, err
}

// Deleted returns how many chunks Settle has deleted, since ever.
func (p *Practice) Deleted() uint64 {
	if h := p.held.Load(); h != nil {
		return h.logs.Deleted()
	}
	return 0
}

// Held returns how many chunks are held, over all logs and scopes, with those that were deleted.
func (p *Practice) Held() (n uint64) {
	h := p.held.Load()
	if h == nil {
		return 0
	}
	h.logs.Memory.Lock()
	defer h.logs.Memory.Unlock()
	for _, v := range h.logs.Memory.Vectors {
		for _, at := range v {
			n += at.Counter
		}
	}
	return n
}
