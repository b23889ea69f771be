package logs

import (
	"context"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
)

// dropLoose removes checkpoints and words that came before their turn and whose turn will not come, since a skip stands in
// their place by now. Kept is what another skip rests on, or what is held with a reason. It is for Open: a peer of a session
// that goes on counts on what it has sent.
func (s *Set) dropLoose(ctx context.Context) error {
	var batch storage.Batch
	err := s.store.View(func(v storage.Reader) error {
		past := map[chunk.ID][]byte{}
		if err := v.Keys(storage.Loose.All(), nil, func(key []byte) error {
			scope, log, counter, id, err := storage.Loose.Parse(key)
			if err != nil || counter > s.End(scope, log).Counter {
				return err
			}
			_, err = v.Get(storage.Held.Key(storage.Ref{Scope: scope, Log: log, Counter: counter, ID: id}))
			if err != nil {
				past[id] = append([]byte(nil), key...)
			}
			return storage.IgnoreNotFound(err)
		}); err != nil || len(past) == 0 {
			return err
		}
		if err := v.Scan(storage.Skip.All(), nil, func(_, value []byte) error {
			skip, err := chunk.ParseSkip(value)
			delete(past, skip.Checkpoint.ID)
			delete(past, skip.Word.ID)
			return err
		}); err != nil {
			return err
		}
		for _, key := range past {
			batch.Delete(key)
		}
		return nil
	})
	if err == nil && batch.Len() > 0 {
		err = s.store.Commit(ctx, &batch)
	}
	if err != nil {
		return fmt.Errorf("remove what is loose and past: %w", err)
	}
	return nil
}
