package anchor

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// ErrVotes says that the anchor keeps leases and numbers of a practice, as far as it knows.
var ErrVotes = errors.New("this anchor keeps leases and numbers of the practice: without it they may stop")

// Drop takes a practice off the anchor: its devices are let in no more, and what is held of it is deleted. They keep everything. Errors are
// ErrUnknown and, unless it is to be dropped all the same, ErrVotes.
//
// Who is connected is told first: else he would go on counting on what is not held any more. If it is not dropped after all, he finds out
// by the next session. Then the record goes, and a note of its number comes in its place: what a crash leaves is deleted by the next Run, and no number is
// given twice.
func (a *Anchor) Drop(ctx context.Context, id trust.EntryID, althoughVoter bool) error {
	a.admission.Lock()
	defer a.admission.Unlock()
	p := a.find(id)
	switch {
	case p == nil:
		return ErrUnknown
	case !althoughVoter && a.votes(p):
		return ErrVotes
	}
	p.dropped.Store(true)
	a.host.Forget(p)
	b := storage.Batch{Frees: true}
	b.Delete(storage.Practice.Key(id))
	b.Put(storage.Dropped.Key(p.Number), marshalDropped(false))
	if err := a.store.Commit(ctx, &b); err != nil {
		p.dropped.Store(false)
		return fmt.Errorf("drop practice: %w", err)
	}
	a.remove(p)
	a.quorums.drop(p)
	if p.share != nil {
		p.share.End()
	}
	a.log.Info("a practice was dropped", "practice", p.id)
	select {
	case a.sweep <- struct{}{}:
	default:
	}
	return nil
}

// remove forgets a practice.
func (a *Anchor) remove(p *practice) {
	a.mu.Lock()
	delete(a.mu.practices, p.id)
	a.mu.of.put(p, nil)
	a.mu.former.put(p, nil)
	roots := map[trust.DeviceID]bool{}
	for root, of := range a.mu.roots {
		if of == p {
			delete(a.mu.roots, root)
			roots[root] = true
		}
	}
	rest := a.listLocked()
	a.mu.Unlock()
	for _, q := range rest { // a root key that several name was the first one's
		if st := q.State(); st != nil && slices.ContainsFunc(st.Roots(), func(root trust.DeviceID) bool { return roots[root] }) {
			a.index(q)
		}
	}
}

// sweepEvery is when it is tried again to delete what dropped practices left.
const sweepEvery = time.Minute

// sweepDropped deletes what dropped practices left, until ctx ends.
func (a *Anchor) sweepDropped(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		if err := a.sweepAll(ctx); err != nil && ctx.Err() == nil {
			a.log.Warn("what a dropped practice left was not deleted; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.sweep:
		case <-tick.C:
		}
	}
}

func (a *Anchor) sweepAll(ctx context.Context) error {
	a.admission.Lock() // of one that is being dropped a session may still commit something
	left, _, err := a.readDropped()
	a.admission.Unlock()
	for _, number := range left {
		err = errors.Join(err, a.sweepOne(ctx, number))
	}
	a.deleting.Store(int64(len(left)))
	if err == nil {
		a.deleting.Store(0)
	}
	return err
}

// sweepKeys is how much is deleted in one commit.
const sweepKeys = 512

// sweepOne deletes what is under a number, and notes last that it is done.
func (a *Anchor) sweepOne(ctx context.Context, number uint64) error {
	prefix := storage.Within.Key(number)
	var from []byte
	for done := false; !done; {
		b := storage.Batch{Frees: true}
		err := a.store.View(func(v storage.Reader) error {
			return v.Keys(prefix, from, func(key []byte) error {
				from = append([]byte(nil), key...)
				if b.Delete(from); b.Len() == sweepKeys {
					return storage.ErrStop
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("read what a dropped practice left: %w", err)
		}
		if done = b.Len() < sweepKeys; done {
			b.Delete(storage.Taken.Key(number))
			b.Put(storage.Dropped.Key(number), marshalDropped(true))
		}
		if err := a.store.Commit(ctx, &b); err != nil {
			return fmt.Errorf("delete what a dropped practice left: %w", err)
		}
	}
	return nil
}

// readDropped returns the numbers of dropped practices of which something may be left, and the first number after all of them.
func (a *Anchor) readDropped() (left []uint64, next uint64, err error) {
	err = a.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Dropped.All(), nil, func(key, value []byte) error {
			number, err := storage.Dropped.Parse(key)
			if err != nil {
				return err
			}
			next = max(next, number+1)
			done, err := parseDropped(value)
			if !done {
				left = append(left, number)
			}
			return err
		})
	})
	if err != nil {
		return nil, 0, fmt.Errorf("read dropped practices: %w", err)
	}
	return left, next, nil
}

// marshalDropped makes what is noted of a number whose practice was dropped:
//
//	1 | 1 if all that was under it is deleted, 0
func marshalDropped(done bool) []byte {
	var w wire.Writer
	w.Byte(1)
	w.Bool(done)
	return w.Bytes()
}

func parseDropped(b []byte) (done bool, err error) {
	r := wire.NewReader(b)
	if r.Byte() != 1 {
		r.Fail("version")
	}
	done = r.Bool()
	return done, r.Close()
}
