package replica

import (
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
)

// SalvagedKinds are the kinds of key that a Refill takes: what does not follow from anything else.
func SalvagedKinds() []storage.Kind {
	return []storage.Kind{storage.Meta.Kind, storage.Member.Kind, storage.Chunk.Kind, storage.Branch.Kind, storage.Gone.Kind, storage.Loose.Kind,
		storage.Skip.Kind, storage.Checkpoint.Kind, storage.Word.Kind, storage.Assent.Kind, storage.Ack.Kind, storage.Peer.Kind, storage.Saving.Kind}
}

// A Refill fills a new store with what was salvaged from a damaged one. Chunks beyond a gap of their log are kept, and not
// counted before the gap is filled by a peer. Everything that follows from chunks is left to the applier.
type Refill struct {
	store   storage.Store
	batch   storage.Batch
	members map[trust.EntryID]trust.Entry
	event   uint64
	chunks  int
}

// NewRefill begins to fill a store that nothing is in.
func NewRefill(store storage.Store) *Refill {
	return &Refill{store: store, members: map[trust.EntryID]trust.Entry{}}
}

// Take keeps a salvaged pair, whose tag was right: it is as this device once stored it. Of several values of one key the
// last counts.
func (f *Refill) Take(ctx context.Context, key, value []byte) error {
	key, value = slices.Clone(key), slices.Clone(value)
	if len(key) == 0 {
		return nil
	}
	switch key[0] {
	case storage.Member.Number():
		if e, err := trust.ParseEntry(value); err == nil {
			f.members[e.ID()] = e
		}
		return nil
	case storage.Meta.Number():
		switch n, _ := storage.Meta.Parse(key); n {
		case metaEvent:
			if last, err := parseCounter(value); err == nil {
				f.event = max(f.event, last)
			}
			return nil
		case MetaInvites, MetaPorts:
		default:
			return nil
		}
	case storage.Chunk.Number():
		f.chunks++
	}
	f.batch.Put(key, value)
	if f.batch.Size() < importCommitBytes {
		return nil
	}
	return f.flush(ctx)
}

func (f *Refill) flush(ctx context.Context) error {
	if err := f.store.Commit(ctx, &f.batch); err != nil {
		return fmt.Errorf("keep what was salvaged: %w", err)
	}
	f.batch = storage.Batch{}
	return nil
}

// Members adds membership entries that are known from elsewhere than the damaged store.
func (f *Refill) Members(entries []trust.Entry) {
	for _, e := range entries {
		f.members[e.ID()] = e
	}
}

// Damaged says what is known of the store that the new one takes the place of.
type Damaged struct {
	Folder string // where it lies now; empty if there is none
	Reason string
	Heads  []storage.Head // its log heads, as far as they are known
	Device trust.DeviceID // this one
	Log    chunk.LogID    // that it wrote last
}

// Finish makes logs of the chunks, and notes what is missing. It fails with storage.ErrNotFound without a membership log:
// then this device belongs to no practice that it knows of.
func (f *Refill) Finish(ctx context.Context, now time.Time, d Damaged) (Repair, error) {
	st, entries := acceptable(slices.Collect(maps.Values(f.members)))
	if st == nil {
		return Repair{}, fmt.Errorf("membership log: %w", storage.ErrNotFound)
	}
	for _, e := range entries {
		f.batch.Put(storage.Member.Key(e.ID()), e.Bytes())
	}
	if err := f.flush(ctx); err != nil {
		return Repair{}, err
	}
	rep := Repair{Since: now, Folder: d.Folder, Reason: d.Reason}
	byLog := map[logs.Name]*RepairLog{}
	at := func(scope trust.ScopeID, log chunk.LogID) *RepairLog {
		l := byLog[logs.Name{Scope: scope, Log: log}]
		if l == nil {
			l = &RepairLog{Scope: scope, Log: log, Own: log == d.Log}
			byLog[logs.Name{Scope: scope, Log: log}] = l
		}
		return l
	}
	for _, h := range d.Heads {
		scope, log, err := storage.LogHead.Parse(h.Key)
		if err != nil {
			continue
		}
		if head, err := logs.ParseEnd(h.Value); err == nil {
			at(scope, log).Target = head.Counter
		}
	}
	heads := map[logs.Name]logs.End{}
	elsewhere := map[logs.Name]uint64{}
	above := map[logs.Name]uint64{} // how many chunks are here that no device is known to hold
	err := f.store.View(func(v storage.Reader) error {
		if err := v.Scan(storage.Ack.All(), nil, func(key, value []byte) error {
			_, scope, log, err := storage.Ack.Parse(key)
			if err != nil {
				return err
			}
			if a, err := parseStated(value); err == nil {
				ref := logs.Name{Scope: scope, Log: log}
				elsewhere[ref] = max(elsewhere[ref], a.at.Counter)
			}
			return nil
		}); err != nil {
			return err
		}
		return v.Scan(storage.Chunk.All(), nil, func(key, value []byte) error {
			scope, log, counter, err := storage.Chunk.Parse(key)
			if err != nil {
				return err
			}
			sealed, err := chunk.Parse(slices.Clone(value))
			if err != nil {
				if errors.Is(err, chunk.ErrNewer) {
					return nil
				}
				f.batch.Delete(slices.Clone(key))
				return nil
			}
			l, ref := at(scope, log), logs.Name{Scope: scope, Log: log}
			l.Own = l.Own || sealed.Header().Device == d.Device
			l.Target = max(l.Target, counter)
			l.Salvaged++
			if counter > elsewhere[ref] {
				above[ref]++
			}
			if head := heads[ref]; sealed.Follows(head.ID, head.Counter) {
				heads[ref] = logs.End{Counter: counter, ID: sealed.ID()}
			}
			return nil
		})
	})
	if err != nil {
		return Repair{}, fmt.Errorf("look at what was salvaged: %w", err)
	}
	if err := f.store.View(func(v storage.Reader) error { return overSkips(v, heads) }); err != nil {
		return Repair{}, fmt.Errorf("look at what was salvaged: %w", err)
	}
	for ref, head := range heads {
		f.batch.Put(storage.LogHead.Key(ref.Scope, ref.Log), logs.MarshalEnd(head))
	}
	for ref, l := range byLog {
		if known := elsewhere[ref]; l.Own && l.Target > known {
			l.Unsure = l.Target - known - min(above[ref], l.Target-known)
		}
		rep.Logs = append(rep.Logs, *l)
	}
	rep.sort()
	f.batch.Put(storage.Meta.Key(metaRepair), rep.marshal())
	// Clients hold a cursor of the old store. The next event must lie behind it, whatever that was.
	if f.event == 0 {
		f.event = uint64(max(now.UnixMilli(), 1))
	}
	events := []Event{{Kind: EventDamaged, Time: now, Cursor: f.event + 1}}
	f.batch.Put(storage.Event.Key(f.event+1), marshalEvents(events))
	f.batch.Put(storage.Meta.Key(metaEvent), marshalCounter(f.event+1))
	return rep, f.flush(ctx)
}

// overSkips has logs go on over what checkpoints stand for, and what comes behind that.
func overSkips(v storage.Reader, heads map[logs.Name]logs.End) error {
	byLog := map[logs.Name]bool{}
	if err := v.Keys(storage.Skip.All(), nil, func(key []byte) error {
		scope, log, _, err := storage.Skip.Parse(key)
		byLog[logs.Name{Scope: scope, Log: log}] = true
		return err
	}); err != nil {
		return err
	}
	for ref := range byLog {
		if end := logs.Onwards(v, ref.Scope, ref.Log, heads[ref]); end.Counter > 0 {
			heads[ref] = end
		}
	}
	return nil
}

// acceptable returns the state that entries make, and those of them that are part of it.
func acceptable(entries []trust.Entry) (*trust.State, []trust.Entry) {
	if len(entries) == 0 {
		return nil, nil
	}
	st, _ := trust.Replay(entries)
	if st == nil || st.Len() == 0 {
		return nil, nil
	}
	return st, st.Entries()
}
