package agent

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/agent/quorum"
)

// Import writes a batch. What locks guard of which this device holds no lease is written last, lock by lock: a lease is taken, what was written under it is
// committed, and it is given back. Where none is to be had, that much is refused.
func (a *Agent) Import(ctx context.Context, user string, batch api.ImportBatch) (api.ImportResult, error) {
	out, err := underLeases(ctx, a, func(ctx context.Context) (api.ImportResult, error) { return a.records.Import(ctx, user, batch) })
	if err != nil {
		return out, err
	}
	guarded := map[string][]int{}
	refused := out.Refused
	out.Refused = nil
	for _, r := range refused {
		if r.Lock == "" {
			out.Refused = append(out.Refused, r)
		} else {
			guarded[r.Lock] = append(guarded[r.Lock], r.Index)
		}
	}
	var locks []string
	for lock := range guarded {
		locks = append(locks, lock)
	}
	slices.Sort(locks) // one at a time, so that no two imports wait for each other
	for _, lock := range locks {
		got, err := a.importUnder(ctx, user, lock, batch, guarded[lock])
		if err != nil {
			return out, err
		}
		out.Created += got.Created
		out.Changed += got.Changed
		out.Unchanged += got.Unchanged
		out.Conflicts += got.Conflicts
		out.Refused = append(out.Refused, got.Refused...)
	}
	slices.SortFunc(out.Refused, func(a, b api.ImportError) int { return cmp.Compare(a.Index, b.Index) })
	return out, nil
}

// importUnder writes some resources of a batch under a lease that it takes for them.
func (a *Agent) importUnder(ctx context.Context, user, lock string, batch api.ImportBatch, which []int) (out api.ImportResult, err error) {
	part := api.ImportBatch{}
	for _, i := range which {
		part.Resources = append(part.Resources, batch.Resources[i])
	}
	s, err := a.exclusive()
	if err == nil {
		err = s.Use(ctx, lock, func(h quorum.Held) error {
			out, err = writeUnder(ctx, a, []quorum.Held{h}, func(ctx context.Context) (api.ImportResult, error) { return a.records.Import(ctx, user, part) })
			return err
		})
	} else {
		err = errors.Join(quorum.ErrNotHad, err)
	}
	if errors.Is(err, quorum.ErrNotHad) {
		why := api.AsError(err)
		for _, i := range which {
			out.Refused = append(out.Refused, api.ImportError{Index: i, Lock: lock, Reason: "it is written under a lease of the lock " + lock + ": " + why.Message})
		}
		return out, nil
	}
	for i := range out.Refused {
		out.Refused[i].Index = which[out.Refused[i].Index]
	}
	return out, err
}
