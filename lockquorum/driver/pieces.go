package driver

import (
	"context"
	"errors"
	"fmt"

	"chartmesh/lockquorum"
	"chartmesh/lockquorum/voter"
	"chartmesh/storage"
	"chartmesh/wire"
)

// A snapshot's pieces are stored before the manifest that names them takes the place of the one before, and those that it does not name any more go with
// that. So the manifest that is stored has all its pieces, whenever the process ends. What nobody names is removed when the store is opened.

// keepPart is how many bytes of pieces share a commit.
const keepPart = 4 << 20

// sweepPart is how many pieces are removed in a commit.
const sweepPart = 50_000

// Keep implements Disk.
func (d *StoreDisk) Keep(ctx context.Context, sums []lockquorum.Sum, from lockquorum.Pieces) error {
	d.pieces.Lock()
	defer d.pieces.Unlock()
	return d.keepLocked(ctx, sums, from)
}

func (d *StoreDisk) keepLocked(ctx context.Context, sums []lockquorum.Sum, from lockquorum.Pieces) error {
	var b storage.Batch
	var fresh []lockquorum.Sum
	commit := func() error {
		if err := d.store.Commit(ctx, &b); err != nil {
			return fmt.Errorf("store pieces of a snapshot: %w", err)
		}
		for _, sum := range fresh {
			d.has[sum] = true
		}
		b, fresh = storage.Batch{}, nil
		return nil
	}
	for _, sum := range sums {
		if d.has[sum] {
			continue
		}
		piece, err := from.Piece(sum)
		if err != nil {
			return fmt.Errorf("store pieces of a snapshot: %w", err)
		}
		b.Put(storage.QuorumPiece.Key(sum), piece)
		if fresh = append(fresh, sum); b.Size() >= keepPart {
			if err := commit(); err != nil {
				return err
			}
		}
	}
	return commit()
}

// Piece implements lockquorum.Pieces.
func (d *StoreDisk) Piece(sum lockquorum.Sum) (b []byte, err error) {
	err = d.store.View(func(r storage.Reader) error {
		b, err = r.Get(storage.QuorumPiece.Key(sum))
		return err
	})
	return b, lostPiece(err)
}

// within are the pieces that a Reader sees.
type within struct{ storage.Reader }

func (w within) Piece(sum lockquorum.Sum) ([]byte, error) {
	b, err := w.Get(storage.QuorumPiece.Key(sum))
	return b, lostPiece(err)
}

func lostPiece(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		err = fmt.Errorf("%w: %w", lockquorum.ErrPiece, err)
	}
	return lost(err)
}

// Lacks implements Disk.
func (d *StoreDisk) Lacks(sums []lockquorum.Sum) (list []lockquorum.Sum) {
	d.pieces.Lock()
	defer d.pieces.Unlock()
	for _, sum := range sums {
		if !d.has[sum] {
			list = append(list, sum)
		}
	}
	return list
}

// saveSnapshot is Save of what has a snapshot.
func (d *StoreDisk) saveSnapshot(ctx context.Context, w Write) error {
	d.pieces.Lock()
	defer d.pieces.Unlock()
	named := map[lockquorum.Sum]bool{}
	if lockquorum.IsManifest(w.Snapshot.GetData()) {
		sums, err := lockquorum.SumsOf(w.Snapshot.GetData())
		if err != nil {
			return err
		}
		if err := d.keepLocked(ctx, sums, w.Pieces); err != nil {
			return err
		}
		for _, sum := range sums {
			named[sum] = true
		}
	}
	if err := d.store.View(func(r storage.Reader) error { return begins(r, named) }); err != nil {
		return err
	}
	var b storage.Batch
	if err := d.put(&b, w); err != nil {
		return err
	}
	var gone []lockquorum.Sum
	for sum := range d.has {
		if !named[sum] && len(gone) < sweepPart { // the rest goes with the next one
			gone = append(gone, sum)
			b.Delete(storage.QuorumPiece.Key(sum))
		}
	}
	if err := d.store.Commit(ctx, &b); err != nil {
		return err
	}
	for _, sum := range gone {
		delete(d.has, sum)
	}
	return nil
}

// begins adds the pieces that a voter that is prepared begins with.
func begins(r storage.Reader, named map[lockquorum.Sum]bool) error {
	return manifestAt(r, itemBegins, named)
}

// manifestAt adds the pieces of a snapshot that is stored, if it is.
func manifestAt(r storage.Reader, item byte, named map[lockquorum.Sum]bool) error {
	b, err := r.Get(storage.Quorum.Key(item))
	if errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := parseSnapshot(b)
	if err != nil || !lockquorum.IsManifest(s.GetData()) {
		return err
	}
	sums, err := lockquorum.SumsOf(s.GetData())
	for _, sum := range sums {
		named[sum] = true
	}
	return err
}

// sweep removes the pieces that no snapshot of a store names, and returns those that stay.
func sweep(ctx context.Context, store storage.Store) (has map[lockquorum.Sum]bool, err error) {
	has = map[lockquorum.Sum]bool{}
	var gone []lockquorum.Sum
	err = store.View(func(r storage.Reader) error {
		named := map[lockquorum.Sum]bool{}
		for _, item := range []byte{itemSnapshot, itemBegins} {
			err := manifestAt(r, item, named)
			if err != nil && (item != itemBegins || !errors.Is(err, storage.ErrDamaged) && !errors.Is(err, wire.ErrMalformed)) {
				return err // one that is prepared and does not read hinders nobody: it is prepared again
			}
		}
		return r.Keys(storage.QuorumPiece.All(), nil, func(key []byte) error {
			sum, err := storage.QuorumPiece.Parse(key)
			if err != nil {
				return err
			}
			if has[sum] = named[sum]; !named[sum] {
				delete(has, sum)
				gone = append(gone, sum)
			}
			return nil
		})
	})
	for len(gone) > 0 && err == nil {
		b := storage.Batch{Frees: true}
		for _, sum := range gone[:min(len(gone), sweepPart)] {
			b.Delete(storage.QuorumPiece.Key(sum))
		}
		gone = gone[min(len(gone), sweepPart):]
		err = store.Commit(ctx, &b)
	}
	return has, err
}

// keepFoundLocked stores the pieces that a voter begins with.
func (d *StoreDisk) keepFoundLocked(ctx context.Context, from *voter.Stored) error {
	if from == nil || !lockquorum.IsManifest(from.Snapshot.GetData()) {
		return nil
	}
	sums, err := lockquorum.SumsOf(from.Snapshot.GetData())
	if err == nil && d.has == nil {
		d.has, err = stored(d.store)
	}
	if err != nil {
		return err
	}
	return d.keepLocked(ctx, sums, from.Pieces)
}

// stored returns which pieces a store has.
func stored(store storage.Store) (map[lockquorum.Sum]bool, error) {
	has := map[lockquorum.Sum]bool{}
	return has, store.View(func(r storage.Reader) error {
		return r.Keys(storage.QuorumPiece.All(), nil, func(key []byte) error {
			sum, err := storage.QuorumPiece.Parse(key)
			has[sum] = true
			return err
		})
	})
}
