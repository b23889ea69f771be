package storage

import (
	"bytes"
	"context"
	"fmt"
)

// copyBatch is how much Copy commits at once.
const copyBatch = 4 << 20

// Copy puts everything that from holds into to, which is empty, checking each value on the way, and returns how many pairs that are. What is
// committed to from meanwhile is left out. When it fails, to is of no use.
func Copy(ctx context.Context, to, from Store) (pairs uint64, err error) {
	err = from.View(func(v Reader) error {
		var b Batch
		flush := func() error {
			if b.Len() == 0 {
				return nil
			}
			err := to.Commit(ctx, &b)
			b = Batch{}
			return err
		}
		err := v.Scan(nil, nil, func(key, value []byte) error {
			b.Put(bytes.Clone(key), bytes.Clone(value))
			pairs++
			if b.Size() < copyBatch {
				return nil
			}
			return flush()
		})
		if err != nil {
			return err
		}
		return flush()
	})
	if err != nil {
		return pairs, fmt.Errorf("copy a store: %w", err)
	}
	return pairs, nil
}
