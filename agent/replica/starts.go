package replica

import (
	"context"
	"fmt"

	"chartmesh/storage"
)

// A chunk that ends the whole program, and not just the engine, would end it again at every start. So the starts are
// counted in which the applier began and came no further: after some it takes one chunk at a time, and after more it
// blames the first.
const (
	carefulAfter = 2
	blameAfter   = 4
)

// starts counts them. The count is written before the first batch of a run and cleared with the first that succeeds.
type starts struct {
	stuck   uint64 // starts before this one without progress; 0 once this one has made some
	noted   bool   // this one is counted
	cleared bool   // and not any more, since it made progress
}

func readStarts(v storage.Reader) (n uint64, err error) {
	b, err := v.Get(storage.Meta.Key(metaStarts))
	if err != nil {
		return 0, storage.IgnoreNotFound(err)
	}
	r := open(b)
	n = r.Uvarint(1<<64 - 1)
	return n, r.Close()
}

// beginApplying counts this start if there is something to apply, and says how many chunks a batch may have.
func (r *Replica) beginApplying(ctx context.Context) (most int, err error) {
	if !r.starts.noted {
		if _, ok := r.begin(ctx).next(); !ok {
			return applyChunks, nil
		}
		var b storage.Batch
		b.Put(storage.Meta.Key(metaStarts), marshalCounter(r.starts.stuck+1))
		if err := r.store.Commit(ctx, &b); err != nil {
			return 0, fmt.Errorf("count a start: %w", err)
		}
		r.starts.noted = true
	}
	if r.starts.stuck >= carefulAfter {
		return 1, nil
	}
	return applyChunks, nil
}

// blame holds the chunk at hand responsible when too many starts came no further than it.
func (r *Replica) blame(at storage.Ref) {
	if r.starts.stuck >= blameAfter {
		r.failing[at] = "the program ended whenever it tried it"
	}
}

// progress clears the count in the commit that is the progress.
func (t *transaction) progress() {
	if !t.r.starts.cleared {
		t.batch.Put(storage.Meta.Key(metaStarts), marshalCounter(0))
	}
}
