package logs

import (
	"errors"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// Within reports whether a chunk is at or before one of a cut's positions, along the history that leads there.
//
// As long as a position has not arrived, a log of one history is taken for the one that leads there; when it comes, all is
// looked at again.
func (s *Set) Within(v storage.Reader, cut trust.Cut, scope trust.ScopeID, log chunk.LogID, at chunk.Position) (bool, error) {
	main := &History{Reader: v, Scope: scope, Log: log}
	f, head := s.Fork(scope, log)
	for _, p := range cut {
		if p.Scope != scope || chunk.LogID(p.Log) != log || at.Counter > p.Counter {
			continue
		}
		down := chunk.Position{Counter: p.Counter, Tip: p.Tip}
		// Down the branch that the position ends, if it does, to where it leaves the main history.
		for before, ok := f.Before(down); ok && down.Counter > at.Counter; before, ok = f.Before(down) {
			down = before
		}
		if down.Counter == at.Counter {
			if down == at {
				return true, nil
			}
			continue
		}
		switch end, err := main.At(down.Counter); {
		case errors.Is(err, ErrNotHeld) || err == nil && head.Counter < down.Counter:
			if f.Len() > 0 {
				continue
			}
		case err != nil:
			return false, err
		case end != down:
			continue
		}
		have, err := main.At(at.Counter)
		if err != nil && !errors.Is(err, ErrNotHeld) {
			return false, err
		}
		if err != nil || have == at { // deleted meanwhile, or of the main history
			return true, nil
		}
	}
	return false, nil
}
