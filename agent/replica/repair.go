package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Numbers of the meta values of repairs.
const (
	metaRepair  byte = 16
	metaRebuild byte = 17
)

// Kinds of events of repairs.
const (
	EventDamaged  = "records-damaged"  // damage was found, and a repair began
	EventRepaired = "records-repaired" // it is over
)

// Repair is the refilling of what a damaged store has lost.
type Repair struct {
	Since  time.Time
	Done   time.Time // zero: it goes on
	Folder string    // the damaged store, set aside; empty if only single chunks were damaged
	Reason string
	Logs   []RepairLog
}

// RepairLog is how far a log was held before the damage, and what became of it.
type RepairLog struct {
	Scope    trust.ScopeID
	Log      chunk.LogID
	Own      bool   // this device wrote it
	Target   uint64 // the last counter that was durable
	Salvaged uint64 // chunks that were read from the damaged store
	Unsure   uint64 // own chunks that were not, and that no other device was known to hold
	Lost     uint64 // what has not come so far; not stored
	Kept     uint64 // of that, and of other histories, what is here and hangs behind what has not come; not stored
}

// Unsure counts own chunks of which it is not known that another device holds them.
func (p Repair) Unsure() (n uint64) {
	for _, l := range p.Logs {
		n += l.Unsure
	}
	return n
}

// Lost counts what has not come so far, own chunks and others'. When the repair is over, no device that was reached had them.
func (p Repair) Lost() (own, others uint64) {
	for _, l := range p.Logs {
		if l.Own {
			own += l.Lost
		} else {
			others += l.Lost
		}
	}
	return own, others
}

// Kept counts the chunks that are here, behind what has not come: no part of the documents, and not told to others, until it has.
func (p Repair) Kept() (n uint64) {
	for _, l := range p.Logs {
		n += l.Kept
	}
	return n
}

// Salvaged counts the chunks that were read from the damaged store.
func (p Repair) Salvaged() (n uint64) {
	for _, l := range p.Logs {
		n += l.Salvaged
	}
	return n
}

func (p *Repair) sort() {
	slices.SortFunc(p.Logs, func(a, b RepairLog) int {
		if c := bytes.Compare(a.Scope[:], b.Scope[:]); c != 0 {
			return c
		}
		return a.Log.Compare(b.Log)
	})
}

const maxRepairLogs = 1 << 16

func (p *Repair) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Varint(p.Since.UnixMilli())
	w.Varint(millisOf(p.Done))
	w.String(p.Folder)
	w.String(p.Reason)
	w.Uvarint(uint64(len(p.Logs)))
	for _, l := range p.Logs {
		w.Raw(l.Scope[:])
		w.Raw(l.Log[:])
		w.Bool(l.Own)
		for _, n := range []uint64{l.Target, l.Salvaged, l.Unsure} {
			w.Uvarint(n)
		}
	}
	return w.Bytes()
}

func millisOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

func parseRepair(b []byte) (p Repair, err error) {
	r := open(b)
	p.Since = time.UnixMilli(r.Varint())
	if ms := r.Varint(); ms != 0 {
		p.Done = time.UnixMilli(ms)
	}
	p.Folder, p.Reason = r.String(maxText), r.String(maxText)
	for range r.Uvarint(maxRepairLogs) {
		var l RepairLog
		r.Fixed(l.Scope[:])
		r.Fixed(l.Log[:])
		l.Own = r.Byte() == 1
		for _, n := range []*uint64{&l.Target, &l.Salvaged, &l.Unsure} {
			*n = r.Uvarint(1<<64 - 1)
		}
		if r.Err() != nil {
			break
		}
		p.Logs = append(p.Logs, l)
	}
	return p, r.Close()
}

func parseCounter(b []byte) (n uint64, err error) {
	r := open(b)
	n = r.Uvarint(1<<64 - 1)
	return n, r.Close()
}

// Repair returns the last repair, and how many chunks of those that it misses are held.
func (r *Replica) Repair() (p Repair, have, of uint64, err error) {
	b, err := r.Small(storage.Meta.Key(metaRepair))
	if err != nil || b == nil {
		return Repair{}, 0, 0, err
	}
	if p, err = parseRepair(b); err != nil {
		return p, 0, 0, fmt.Errorf("read repair: %w", err)
	}
	r.mu.Lock()
	ends := make([]logs.End, len(p.Logs))
	for i := range p.Logs {
		l := &p.Logs[i]
		f := r.mu.Forks[l.Scope][l.Log]
		ends[i] = r.mu.Ends[l.Scope][l.Log]
		held := min(r.mu.Vectors[l.Scope][l.Log].Counter, l.Target)
		l.Lost = l.Target - held + f.Missing()
		l.Kept = uint64(f.Kept(ends[i]))
		have, of = have+held, of+held+l.Lost
	}
	r.mu.Unlock()
	err = r.store.View(func(v storage.Reader) error {
		for i := range p.Logs {
			l := &p.Logs[i]
			if l.Lost == 0 {
				continue
			}
			from := storage.Chunk.Key(l.Scope, l.Log, ends[i].Counter+1)
			if err := v.Keys(storage.Chunk.With2(l.Scope, l.Log), from, func([]byte) error { l.Kept++; return nil }); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return p, 0, 0, fmt.Errorf("count what is kept behind a gap: %w", err)
	}
	return p, have, of, nil
}

// EndRepair notes that a repair is over. It is for whoever knows that all that can come for now has.
func (r *Replica) EndRepair(ctx context.Context) (Repair, error) {
	r.write.Lock()
	defer r.write.Unlock()
	p, _, _, err := r.Repair()
	if err != nil || p.Since.IsZero() || !p.Done.IsZero() {
		return p, err
	}
	p.Done = r.now()
	t := r.begin(ctx)
	t.batch.Put(storage.Meta.Key(metaRepair), p.marshal())
	t.events = []Event{{Kind: EventRepaired}}
	return p, t.commit(ctx)
}

// takeBack has nothing claimed any more of a chunk that does not read, so that the peers send it again. The caller holds
// Replica.write.
func (r *Replica) takeBack(ctx context.Context, at storage.Ref, why error) error {
	ref := logs.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter}
	own := at.Log == r.logID(at.Scope)
	taken, err := r.logs.TakeBack(ctx, at, why, func(b *storage.Batch, end uint64) error {
		if own && at.ID == [32]byte{} { // its own log ends there; it goes on under a new one, since a counter must never be used twice
			if err := r.beginLog(ctx, LogDamaged); err != nil {
				return err
			}
		}
		return r.noteDamage(b, ref, own, end)
	})
	if err != nil || !taken {
		return err
	}
	r.mu.Lock()
	// A held chunk that was woken has its turn when it is here again.
	r.mu.woken = slices.DeleteFunc(r.mu.woken, func(w storage.Ref) bool {
		return w == at || at == (logs.Ref{Scope: w.Scope, Log: w.Log, Counter: w.Counter}).Main() && !r.mu.BesideLocked(w)
	})
	r.mu.Unlock()
	r.takenBack.Store(true)
	r.notify()
	return nil
}

// takeBackBy takes back what an error says about a chunk, if it says that. The caller holds Replica.write.
func (r *Replica) takeBackBy(ctx context.Context, err error) error {
	if bad, ok := errors.AsType[*logs.Unreadable](err); ok {
		return r.takeBack(ctx, bad.At, bad.Err)
	}
	return nil
}

// noteDamage adds a chunk to the repair that goes on, or begins one.
func (r *Replica) noteDamage(batch *storage.Batch, at logs.Ref, own bool, target uint64) error {
	p, _, _, err := r.Repair()
	if err != nil {
		return err
	}
	if p.Since.IsZero() || !p.Done.IsZero() {
		// What did not come in the one before is missing still.
		still := slices.DeleteFunc(p.Logs, func(l RepairLog) bool { return l.Lost == 0 })
		p = Repair{Since: r.now(), Reason: "single chunks are damaged", Logs: still}
	}
	p.add(at, own, target, r.ackedElsewhere(at))
	batch.Put(storage.Meta.Key(metaRepair), p.marshal())
	return nil
}

// TakenBack reports, once, that vectors claim less than before: sessions must begin anew, since within one a peer does not
// take back what it was told.
func (r *Replica) TakenBack() bool { return r.takenBack.Swap(false) }

// ackedElsewhere reports whether another device said that it holds a chunk.
func (r *Replica) ackedElsewhere(at logs.Ref) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, scopes := range r.mu.acked {
		if s := scopes[at.Scope]; s != nil && s.logs[at.Log] != nil && s.logs[at.Log].at.Counter >= at.Counter {
			return true
		}
	}
	return false
}

// add notes a chunk that is missing from a log that was held up to target.
func (p *Repair) add(at logs.Ref, own bool, target uint64, elsewhere bool) {
	i := slices.IndexFunc(p.Logs, func(l RepairLog) bool { return l.Scope == at.Scope && l.Log == at.Log })
	if i < 0 {
		i = len(p.Logs)
		p.Logs = append(p.Logs, RepairLog{Scope: at.Scope, Log: at.Log, Own: own})
	}
	l := &p.Logs[i]
	l.Target = max(l.Target, target)
	if l.Own && !elsewhere {
		l.Unsure++
	}
	p.sort()
}

// reasonEarlier is why a chunk is unapplied whose document needs a damaged one.
const reasonEarlier = "an earlier chunk of its document is damaged"

// retryUnapplied gives every unapplied chunk another turn, or those alone that need an earlier one. The caller holds
// Replica.write.
func (r *Replica) retryUnapplied(all bool) error {
	maps.DeleteFunc(r.failing, func(_ storage.Ref, why string) bool { return why == reasonEarlier })
	return r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Held.All(), nil, func(key, value []byte) error {
			at, err := storage.Held.Parse(key)
			if err != nil {
				return err
			}
			h, err := parseHeld(value)
			if err == nil && h.State == Unapplied && (all || h.Reason == reasonEarlier) {
				r.mu.Lock()
				r.mu.woken = append(r.mu.woken, at)
				r.mu.Unlock()
			}
			return err
		})
	})
}
