package ranges

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/lockquorum"
	"chartmesh/storage"
)

// Refill has the quorum give this device one part more of a range, where it has no number left. Asked again after no answer came, it is the same part.
func (a *Allocator) Refill(ctx context.Context, id lockquorum.RangeID) error {
	a.ask.Lock()
	defer a.ask.Unlock()
	for range maxUsed {
		if has, err := a.hasNumbers(id); has || err != nil { // it was asked meanwhile
			return err
		}
		if err := a.refill(ctx, id); err != nil {
			return fmt.Errorf("ask for more numbers: %w", err)
		}
	}
	return nil
}

// maxUsed is how many parts on end may turn out to have been used before.
const maxUsed = 32

func (a *Allocator) refill(ctx context.Context, id lockquorum.RangeID) error {
	log := a.cfg.Log.Current()
	if !a.cfg.Log.Continues(log) {
		return ErrNotReady
	}
	asked, err := a.hasAsked(id, log)
	if err != nil {
		return err
	}
	if !asked { // what the State has and this folder does not know was lost here, and is not to be taken for new
		st, err := a.cfg.Quorum.Read(ctx)
		if err != nil {
			return err
		}
		if err := a.learn(ctx, st, lockquorum.RangeID{}); err != nil {
			return err
		}
	}
	have, err := a.noteAsked(ctx, id, log)
	if err != nil {
		return err
	}
	if err := a.cfg.Quorum.Take(ctx, id, log, have); err != nil {
		return err
	}
	st, err := a.cfg.Quorum.Read(ctx)
	if err != nil {
		return err
	}
	return a.learn(ctx, st, id)
}

// hasNumbers reports whether this device has a number to give.
func (a *Allocator) hasNumbers(id lockquorum.RangeID) (bool, error) {
	a.write.Lock()
	defer a.write.Unlock()
	records, err := a.records(id)
	if err != nil {
		return false, err
	}
	_, i := a.first(id, records)
	return i >= 0, nil
}

// hasAsked reports whether the quorum was asked for a part that this folder may not have heard of.
func (a *Allocator) hasAsked(id lockquorum.RangeID, log [32]byte) (bool, error) {
	a.write.Lock()
	defer a.write.Unlock()
	records, err := a.records(id)
	return records[log].asked, err
}

// noteAsked notes that the quorum is asked for a part more, and returns how many there are.
func (a *Allocator) noteAsked(ctx context.Context, id lockquorum.RangeID, log [32]byte) (have int, err error) {
	a.write.Lock()
	defer a.write.Unlock()
	records, err := a.records(id)
	if err != nil {
		return 0, err
	}
	rec := records[log]
	if rec.asked {
		return len(rec.parts), nil
	}
	rec.asked = true
	var b storage.Batch
	b.Put(storage.Range.Key(id, log), rec.marshal())
	return len(rec.parts), a.cfg.Store.Commit(ctx, &b)
}

// learn notes what the State says of this device's parts. The range of which a part was asked for, and the answer has come, is answered; zeros: none is.
func (a *Allocator) learn(ctx context.Context, st *lockquorum.View, answered lockquorum.RangeID) error {
	a.write.Lock()
	defer a.write.Unlock()
	ids, err := a.ranges()
	if err != nil {
		return err
	}
	known := map[lockquorum.RangeID]bool{}
	for _, id := range append(st.Ranges(), ids...) {
		if known[id] {
			continue
		}
		known[id] = true
		if err := a.learnOf(ctx, id, st.Range(id), id == answered); err != nil {
			return err
		}
	}
	return nil
}

func (a *Allocator) learnOf(ctx context.Context, id lockquorum.RangeID, list []lockquorum.Part, answered bool) error {
	records, err := a.records(id)
	if err != nil {
		return err
	}
	current := a.cfg.Log.Current()
	changed, marks := map[[32]byte]bool{}, map[Place]int64{}
	there := map[Place]bool{}
	for _, p := range list {
		if p.Owner != a.cfg.Device {
			continue
		}
		at := Place{id, p.Log, p.Min}
		there[at] = true
		rec := records[p.Log]
		if i := rec.find(p.Min); i >= 0 {
			if rec.parts[i].agree(p) {
				changed[p.Log], marks[at] = true, p.Max+1 // an older copy of this folder must not go on with it
			}
			continue
		}
		if p.Log != current {
			continue
		}
		q := of(p)
		used, err := a.wasUsed(at)
		if err != nil {
			return err
		}
		if !q.void && (!rec.asked || used) {
			a.log.Error("this folder does not know how far a part of a range was used, and gives no number of it", "first", p.Min, "last", p.Max)
			q.void, q.from = true, p.Max+1
		} else if !q.void {
			marks[at] = p.Min
		}
		rec.add(q)
		records[p.Log], changed[p.Log] = rec, true
	}
	for log, rec := range records {
		for i := range rec.parts {
			if p := &rec.parts[i]; !p.void && !there[Place{id, log, p.min}] {
				a.log.Error("the quorum was founded anew without a part of this device, which gives no number of it any more", "first", p.min, "last", p.max)
				p.void, p.from, changed[log] = true, p.max+1, true
			}
		}
	}
	if rec := records[current]; answered && rec.asked {
		rec.asked = false
		records[current], changed[current] = rec, true
	}
	var b storage.Batch
	for log := range changed {
		b.Put(storage.Range.Key(id, log), records[log].marshal())
	}
	if err := a.cfg.Store.Commit(ctx, &b); err != nil {
		return err
	}
	for at, next := range marks {
		if err := a.mark(at, next); err != nil {
			return err
		}
	}
	return nil
}

// wasUsed reports whether a part that is new to this folder may not be new: a mark stands for it, of whatever log of this folder. A quorum that was founded anew without it grants
// the same numbers again. While marks cannot be read nothing is noted: else part after part would be taken and thrown away.
func (a *Allocator) wasUsed(at Place) (bool, error) {
	for _, at.Log = range append(a.cfg.Log.All(), at.Log) {
		_, marked, err := a.cfg.Marks.Read(at)
		switch {
		case marked, errors.Is(err, errMark): // one that does not read stands for something
			return true, nil
		case err != nil:
			return false, fmt.Errorf("%w: %w", ErrMark, err)
		}
	}
	return false, nil
}

// agree takes on what the State says of a part that this folder knows, and reports whether that is something new.
func (p *part) agree(of lockquorum.Part) bool {
	switch {
	case p.void:
		return false
	case of.Void:
		p.void, p.from = true, min(max(of.From, p.min), p.max+1)
	case p.max != of.Max || p.increment != of.Increment: // a quorum founded anew gave some of it to another
		p.void, p.from = true, p.max+1
	default:
		return false
	}
	return true
}

// Tend reads what the quorum says, gives back what a log of before left behind, and takes what was set aside for this device, and more where it has little
// left.
func (a *Allocator) Tend(ctx context.Context) error {
	a.ask.Lock()
	defer a.ask.Unlock()
	if err := a.tend(ctx); err != nil {
		return fmt.Errorf("tend ranges: %w", err)
	}
	return nil
}

func (a *Allocator) tend(ctx context.Context) error {
	if !a.cfg.Log.Continues(a.cfg.Log.Current()) {
		return ErrNotReady
	}
	st, err := a.cfg.Quorum.Read(ctx)
	if err != nil {
		return err
	}
	if err := a.learn(ctx, st, lockquorum.RangeID{}); err != nil {
		return err
	}
	var failed []error
	for _, id := range st.Ranges() {
		if err := a.tendOf(ctx, id, st); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (a *Allocator) tendOf(ctx context.Context, id lockquorum.RangeID, st *lockquorum.View) error {
	back, more, err := a.due(ctx, id, st)
	if err != nil {
		return err
	}
	for _, p := range back {
		if err := a.cfg.Quorum.GiveBack(ctx, id, p.Min, p.From); err != nil {
			return err
		}
		a.log.Warn("what is left of a part of a range was given back", "first", p.Min, "last", p.Max, "not_given_from", p.From)
	}
	if more {
		return a.refill(ctx, id)
	}
	return nil
}

// due returns the parts of a range that are to be given back, with the first number of each that was not given, and whether this device is to ask for
// more. Before the quorum is told it is noted, here and in the mark, that nothing more is given from them.
func (a *Allocator) due(ctx context.Context, id lockquorum.RangeID, st *lockquorum.View) (back []lockquorum.Part, more bool, err error) {
	a.write.Lock()
	defer a.write.Unlock()
	records, err := a.records(id)
	if err != nil {
		return nil, false, err
	}
	var b storage.Batch
	marks := map[Place]int64{}
	current := a.cfg.Log.Current()
	_, settled := records[current]
	for _, p := range st.Range(id) {
		if p.Owner != a.cfg.Device || p.Void {
			continue
		}
		if p.Log == ([32]byte{}) {
			more = true
			continue
		}
		at, rec := Place{id, p.Log, p.Min}, records[p.Log]
		i := rec.find(p.Min)
		switch {
		case i < 0 && (a.cfg.Log.Replaced(p.Log) || !settled && slices.Contains(a.cfg.Log.All(), p.Log)): // it was granted after the copy was made
			q := of(p)
			q.void, q.from = true, a.notGiven(at, p, q)
			rec.add(q)
			p.From = q.from
		case i < 0: // the folder that this one was copied from may go on, and takes parts
			continue
		case rec.parts[i].void: // the quorum has not heard of it
			p.From = min(max(rec.parts[i].from, p.Min), p.Max+1)
			back = append(back, p)
			continue
		case rec.parts[i].next > p.Max, a.usable(p.Log) && !a.isAhead(at, rec.parts[i]): // it is used up, or in use
			continue
		default:
			q := &rec.parts[i]
			q.void, q.from = true, a.notGiven(at, p, *q)
			p.From = q.from
		}
		back, marks[at] = append(back, p), p.Max+1
		records[p.Log] = rec
		b.Put(storage.Range.Key(id, p.Log), rec.marshal())
	}
	if !settled && len(records) > 0 { // from now on what is granted to a log of before is not this folder's
		b.Put(storage.Range.Key(id, current), record{}.marshal())
	}
	if err := a.cfg.Store.Commit(ctx, &b); err != nil {
		return nil, false, err
	}
	for at, next := range marks {
		if err := a.mark(at, next); err != nil {
			return nil, false, err
		}
	}
	if d, ok := st.Defined(id); ok && d.Part > 0 && len(records) > 0 && st.Free(id) > 0 {
		_, low := a.left(id, records)
		more = more || low
	}
	return back, more, nil
}

// notGiven returns the first number of a part that certainly was not given, by what this folder knows of it: the one after the last unless the folder
// that gave from it is gone, and the mark says how far it came.
func (a *Allocator) notGiven(at Place, p lockquorum.Part, had part) int64 {
	if a.cfg.Log.Replaced(at.Log) {
		if next, ok, err := a.cfg.Marks.Read(at); ok && err == nil {
			return min(max(next, had.next, p.Min), p.Max+1)
		}
	}
	return p.Max + 1
}
