package replica

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"chartmesh/agent/api"
	"chartmesh/storage"
	"chartmesh/wire"
)

// Event is what subscribers and clients hear of a commit, after it. It is the API's own type, since it is stored as shown.
type Event = api.Event

const (
	maxEvents   = 1 << 17 // of one commit
	eventsKept  = 200_000 // a device keeps at least so many
	pruneAtOnce = 10_000
)

// eventsApart is how many cursors are left out when the folder may have gone back: more than it gave since and than it keeps, so that
// a client whose cursor is of a history that is gone is told to read anew, and misses nothing.
const eventsApart = 1 << 20

// marshalEvents writes the events of one commit; their cursors are consecutive and end at the record's key.
func marshalEvents(events []Event) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(uint64(len(events)))
	w.Varint(events[0].Time.UnixMilli())
	for _, e := range events {
		w.String(e.Kind)
		w.String(e.Resource)
		w.String(e.Version)
		w.String(e.Conflict)
		w.String(e.Peer)
		w.Bool(e.Local)
	}
	return w.Bytes()
}

func parseEvents(last uint64, b []byte) ([]Event, error) {
	r := open(b)
	n := r.Uvarint(maxEvents)
	if n == 0 || n > last {
		r.Fail("number of events")
	}
	at := time.UnixMilli(r.Varint()).UTC()
	var events []Event
	for i := range n {
		e := Event{
			Cursor: last - n + 1 + i, Time: at, Kind: r.String(maxText), Resource: r.String(maxText),
			Version: r.String(maxText), Conflict: r.String(maxText), Peer: r.String(maxText), Local: r.Bool(),
		}
		if r.Err() != nil {
			return nil, r.Err()
		}
		events = append(events, e)
	}
	return events, r.Close()
}

func lastEvent(v storage.Reader) (last uint64, err error) {
	b, err := v.Get(storage.Meta.Key(metaEvent))
	if err != nil {
		return 0, storage.IgnoreNotFound(err)
	}
	r := open(b)
	last = r.Uvarint(1<<64 - 1)
	return last, r.Close()
}

func marshalCounter(n uint64) []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Uvarint(n)
	return w.Bytes()
}

// Events calls fn with every event after since; with follow, also with those to come until ctx ends. Events are stored
// with what they tell, so that a slow or absent reader misses none.
func (r *Replica) Events(ctx context.Context, since uint64, follow bool, fn func(Event) error) error {
	for {
		changed := r.Changed()
		var batch []Event
		err := r.store.View(func(v storage.Reader) error {
			oldest, err := oldestEvent(v)
			if err != nil {
				return err
			}
			last, err := lastEvent(v)
			if err != nil {
				return err
			}
			if since > 0 && since+1 < oldest || since > last { // the latter is a cursor of before the folder went back
				return &api.Error{Code: api.CodeGone, Message: "events from there on are not kept",
					Hint: "read the records anew, then go on from the last cursor"}
			}
			return v.Scan(storage.Event.All(), storage.Event.Key(since+1), func(key, value []byte) error {
				last, err := storage.Event.Parse(key)
				if err != nil {
					return err
				}
				events, err := parseEvents(last, value)
				if err != nil {
					return err
				}
				for _, e := range events {
					if e.Cursor > since {
						batch = append(batch, e)
					}
				}
				if len(batch) >= 1000 {
					return storage.ErrStop
				}
				return nil
			})
		})
		if err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		for _, e := range batch {
			if err := fn(e); err != nil {
				return err
			}
			since = e.Cursor
		}
		if len(batch) > 0 {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// oldestEvent returns the first cursor that is still held; 1 if there is none.
func oldestEvent(v storage.Reader) (oldest uint64, err error) {
	oldest = 1
	err = v.Scan(storage.Event.All(), nil, func(key, value []byte) error {
		last, err := storage.Event.Parse(key)
		if err != nil {
			return err
		}
		events, err := parseEvents(last, value)
		if err != nil {
			return err
		}
		oldest = events[0].Cursor
		return storage.ErrStop
	})
	return oldest, err
}

// PruneEvents forgets events beyond those that a device keeps.
func (r *Replica) PruneEvents(ctx context.Context) error {
	r.mu.Lock()
	last := r.mu.event
	r.mu.Unlock()
	if last <= eventsKept {
		return nil
	}
	var b storage.Batch
	err := r.store.View(func(v storage.Reader) error {
		return v.Scan(storage.Event.All(), nil, func(key, _ []byte) error {
			at, err := storage.Event.Parse(key)
			if err != nil {
				return err
			}
			if at+eventsKept > last || b.Len() == pruneAtOnce {
				return storage.ErrStop
			}
			b.Delete(bytes.Clone(key))
			return nil
		})
	})
	if err != nil {
		return fmt.Errorf("prune events: %w", err)
	}
	if b.Len() == 0 {
		return nil
	}
	return r.store.Commit(ctx, &b)
}

// Tell records events that belong to no change of a document: peers that come and go, members that join.
func (r *Replica) Tell(ctx context.Context, events ...Event) error {
	r.write.Lock()
	defer r.write.Unlock()
	t := r.begin(ctx)
	t.events = events
	return t.commit(ctx)
}
