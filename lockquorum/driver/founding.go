package driver

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/trust"
	"chartmesh/wire"
)

// Prepared is a voter of a quorum that is to be founded anew, with all that it begins with. It does not run, and whatever voter the store has goes on, until the entry that
// founds the quorum is known to stand: then TakeUp has it take that voter's place.
type Prepared struct {
	Record
	Entry trust.EntryID // of the membership log, that founds the quorum
}

// Prepare stores a voter that is prepared, in the place of another one that was, in a store that has no voter. It is durable when Prepare returns.
func Prepare(ctx context.Context, store storage.Store, p Prepared, st *lockquorum.State) error {
	return (&StoreDisk{store: store}).Prepare(ctx, p, st)
}

// Prepare is that in the store of a voter, which may run: the two have pieces in common.
func (d *StoreDisk) Prepare(ctx context.Context, p Prepared, st *lockquorum.State) error {
	from := voter.Found(st)
	d.pieces.Lock()
	defer d.pieces.Unlock()
	if err := d.keepFoundLocked(ctx, from); err != nil {
		return fmt.Errorf("prepare voter: %w", err)
	}
	var b storage.Batch
	b.Put(storage.Quorum.Key(itemPrepared), p.marshal())
	b.Put(storage.Quorum.Key(itemBegins), marshalSnapshot(from.Snapshot))
	if err := d.store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("prepare voter: %w", err)
	}
	return nil
}

// LoadPrepared returns the voter that is prepared, and the State that it begins with. It is storage.ErrNotFound if there is none.
func LoadPrepared(store storage.Store) (p Prepared, st *lockquorum.State, err error) {
	err = store.View(func(r storage.Reader) error {
		b, err := r.Get(storage.Quorum.Key(itemPrepared))
		if err != nil {
			return err
		}
		if p, err = parsePrepared(b); err != nil {
			return err
		}
		if b, err = r.Get(storage.Quorum.Key(itemBegins)); err != nil {
			return lost(err)
		}
		snapshot, err := parseSnapshot(b)
		if err != nil {
			return err
		}
		st, err = voter.Restore(snapshot, within{r})
		return err
	})
	if err != nil {
		return Prepared{}, nil, fmt.Errorf("read which voter is prepared: %w", err)
	}
	return p, st, nil
}

// TakeUp has the voter that is prepared take the place of the store's, which must not run: all or nothing.
func TakeUp(ctx context.Context, store storage.Store) error {
	p, st, err := LoadPrepared(store)
	if err != nil {
		return err
	}
	var b storage.Batch
	if err := erase(store, &b); err != nil {
		return fmt.Errorf("take up voter: %w", err)
	}
	b.Delete(storage.Quorum.Key(itemPrepared))
	b.Delete(storage.Quorum.Key(itemBegins))
	b.Put(storage.Quorum.Key(itemVoter), p.Record.marshal())
	from := voter.Found(st)
	d := &StoreDisk{store: store}
	if err := d.keepFoundLocked(ctx, from); err != nil { // none, unless it was prepared by an older version
		return fmt.Errorf("take up voter: %w", err)
	}
	if err := d.put(&b, Write{HardState: from.HardState, Snapshot: from.Snapshot, Replace: true}); err != nil {
		return fmt.Errorf("take up voter: %w", err)
	}
	if err := store.Commit(ctx, &b); err != nil { // the pieces of before go when the voter is opened
		return fmt.Errorf("take up voter: %w", err)
	}
	return nil
}

// Discard removes the voter that is prepared, if there is one: its quorum is never founded, or was followed by another.
func Discard(ctx context.Context, store storage.Store) error {
	var b storage.Batch
	b.Delete(storage.Quorum.Key(itemPrepared))
	b.Delete(storage.Quorum.Key(itemBegins))
	err := store.Commit(ctx, &b) // its pieces go when a voter is opened
	if err != nil {
		return fmt.Errorf("discard the voter that was prepared: %w", err)
	}
	return nil
}

// erase removes all that the voter of a store has.
func erase(store storage.Store, b *storage.Batch) error {
	return store.View(func(r storage.Reader) error {
		for _, item := range []byte{itemVoter, itemHard, itemSnapshot, itemLost} {
			b.Delete(storage.Quorum.Key(item))
		}
		return r.Keys(storage.QuorumEntry.All(), nil, func(key []byte) error {
			b.Delete(append([]byte(nil), key...))
			return nil
		})
	})
}

// marshal writes: 1 | founding entry (32) | entry (32) | epoch | number | log (32).
func (p Prepared) marshal() []byte {
	var w wire.Writer
	w.Byte(recordVersion)
	w.Raw(p.Practice[:])
	w.Raw(p.Entry[:])
	w.Uvarint(p.Epoch)
	w.Uvarint(p.ID)
	w.Raw(p.Log[:])
	return w.Bytes()
}

func parsePrepared(b []byte) (p Prepared, err error) {
	r := wire.NewReader(b)
	version(r)
	r.Fixed(p.Practice[:])
	r.Fixed(p.Entry[:])
	p.Epoch = r.Uvarint(maxIndex)
	if p.ID = r.Uvarint(maxIndex); p.ID == 0 {
		r.Fail("number")
	}
	r.Fixed(p.Log[:])
	return p, r.Close()
}

// End notes that the voter of a store, which must not run, has ended for good: why is voter.ErrLost or voter.ErrOver. What it stored stays, to be read by ReadKept.
func End(ctx context.Context, store storage.Store, why error) error {
	var b storage.Batch
	note(&b, why)
	if err := store.Commit(ctx, &b); err != nil {
		return fmt.Errorf("note that the voter has ended: %w", err)
	}
	return nil
}

func note(b *storage.Batch, why error) {
	value := []byte{recordVersion}
	if errors.Is(why, voter.ErrOver) {
		value = append(value, endedOver)
	}
	b.Put(storage.Quorum.Key(itemLost), value)
}

// ended is what a note says of a voter that has ended for good; nil: there is none.
func ended(r storage.Reader) error {
	b, err := r.Get(storage.Quorum.Key(itemLost))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil
	case err != nil:
		return err
	case len(b) == 2 && b[1] == endedOver:
		return voter.ErrOver
	}
	return voter.ErrLost
}

// How a voter ended, behind the version; nothing: it has lost something.
const endedOver = 2
