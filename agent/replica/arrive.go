package replica

import (
	"context"
	"slices"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Arrive takes chunks that a peer sent into the logs. When it returns nil, what the vectors then name is durable. Chunks that are
// known, that leave a gap, or that this device cannot judge yet are passed over; the vector tells the peer so.
func (r *Replica) Arrive(ctx context.Context, from trust.DeviceID, chunks [][]byte) error {
	if len(chunks) == 0 {
		return nil
	}
	if err := r.judgeOwn(ctx, from, chunks); err != nil {
		return err
	}
	apart, err := r.logs.Arrive(ctx, from, chunks)
	if err != nil {
		return r.takeBackRead(err) // what a skip rests on does not read
	}
	for _, skip := range apart {
		if err := r.rejoin(ctx, skip); err != nil {
			return err
		}
	}
	return nil
}

// rejoin takes a skip of another history of a log than came first.
func (r *Replica) rejoin(ctx context.Context, skip chunk.Skip) error {
	r.write.Lock() // the applier follows the main history
	defer r.write.Unlock()
	return r.logs.Rejoin(ctx, skip, follower{r}, func(checkpoint chunk.ID) bool { return r.packs[checkpoint] })
}

// follower is how the documents follow the logs.
type follower struct{ r *Replica }

var (
	_ logs.Follower = follower{}
	_ logs.Switcher = follower{}
)

// Coming sees to it that documents are looked at again if a chunk that comes may say which history a cut is of.
func (f follower) Coming(b *storage.Batch, sealed chunk.Sealed, beside bool) (again bool) {
	h := sealed.Header()
	right, cut := f.r.State().Right(h.Device, h.Scope)
	if right != trust.RightUntil {
		return false
	}
	again = beside || slices.ContainsFunc(cut, func(p trust.CutPosition) bool {
		return p.Scope == h.Scope && chunk.LogID(p.Log) == sealed.Log() && p.Counter == h.Counter
	})
	if again {
		b.Delete(storage.Meta.Key(metaReviewed))
	}
	return again
}

// Came queues chunks that came once more, after their turn, for another look: one of them may be held.
func (f follower) Came(c logs.Came) {
	r := f.r
	for _, g := range c.Grown {
		for n := g.From + 1; n <= min(g.To, r.mu.applied[g.Scope][g.Log].Counter); n++ {
			r.mu.woken = append(r.mu.woken, storage.Ref{Scope: g.Scope, Log: g.Log, Counter: n})
			r.refilled.Store(true)
		}
	}
	if c.Beside > 0 {
		r.branched.Store(true)
	}
	if c.Again {
		r.recut.Add(1)
	}
}

func (f follower) Changed() { f.r.notify() }

// Followed returns the cursor of a log.
func (f follower) Followed(log logs.Name) chunk.Position {
	f.r.mu.Lock()
	defer f.r.mu.Unlock()
	return f.r.mu.applied[log.Scope][log.Log]
}

// Switch commits a batch with the cursor.
func (f follower) Switch(ctx context.Context, b *storage.Batch, log logs.Name, to *chunk.Position, branched *trust.DeviceID) error {
	t := f.r.beginPlain()
	t.batch = *b
	if to != nil {
		t.cursors[log.Scope] = chunk.Vector{log.Log: *to}
	}
	if branched != nil {
		name, _ := f.r.names(*branched)
		t.events = append(t.events, Event{Kind: "log-branched", Peer: name})
	}
	return t.commit(ctx)
}
