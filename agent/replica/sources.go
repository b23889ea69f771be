package replica

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/chunk/logs"
	"chartmesh/crdt"
	"chartmesh/storage"
	"chartmesh/trust"
)

// errAwaited says that the chunk of an applied change is not here: it was damaged, and another one may have its place by now.
var errAwaited = fmt.Errorf("%w: a chunk lacks the change that its record names", storage.ErrDamaged)

// sources finds raw changes in stored chunks, and keeps open what it opened last, and every checkpoint.
type sources struct {
	r     *Replica
	v     storage.Reader
	last  logs.Ref
	open  map[crdt.ChangeHash][]byte
	packs map[chunk.ID]map[crdt.ChangeHash][]byte
}

// raw returns the change with a hash out of the chunk at a place, or what stands for it.
func (s *sources) raw(at logs.Ref, hash crdt.ChangeHash) ([]byte, error) {
	if s.open == nil || at != s.last {
		if err := s.read(at); err != nil {
			return nil, err
		}
	}
	raw, ok := s.open[hash]
	if !ok { // it stands beside the chunk that came first, or beyond the first history's end
		var err error
		if raw, _, err = s.r.rawAt(s.v, at, hash); err != nil {
			return nil, err
		}
	}
	return raw, nil
}

func (s *sources) read(at logs.Ref) error {
	found, err := logs.Read(s.v, at)
	if errors.Is(err, logs.ErrNotHeld) {
		s.last, s.open = at, map[crdt.ChangeHash][]byte{}
		return nil
	}
	if err != nil {
		return fmt.Errorf("read chunk: %w", logs.UnreadableAs(at.Main(), err))
	}
	id := found.Chunk.ID()
	if known := s.packs[id]; known != nil {
		s.last, s.open = at, known
		return nil
	}
	body, err := chunk.Open(s.r.keys, found.Chunk)
	if err != nil {
		return fmt.Errorf("open chunk: %w", err)
	}
	s.last, s.open = at, map[crdt.ChangeHash][]byte{}
	switch body := body.(type) {
	case *chunk.Changes:
		s.take(body.Changes)
	case *chunk.Checkpoint:
		for _, p := range body.Parts {
			s.take(p.Changes)
		}
		if s.packs == nil {
			s.packs = map[chunk.ID]map[crdt.ChangeHash][]byte{}
		}
		s.packs[id] = s.open
	}
	return nil // of another kind: then the change is of another history of the log; see raw
}

func (s *sources) take(changes []chunk.Change) {
	for _, c := range changes {
		if hash, ok := hashOf(c.Raw); ok {
			s.open[hash] = c.Raw
		}
	}
}

// rawAt finds a change among what stands at one place of a log, and the chunk that holds it. Usually there is one.
func (r *Replica) rawAt(v storage.Reader, at logs.Ref, hash [32]byte) (raw []byte, sealed chunk.Sealed, err error) {
	found, err := logs.Read(v, at)
	if err == nil {
		raw, err = r.rawIn(found.Chunk, hash)
	} else if err = logs.UnreadableAs(at.Main(), err); errors.Is(err, logs.ErrNotHeld) {
		err = nil // beyond the main history's end
	}
	if err != nil || raw != nil {
		return raw, found.Chunk, err
	}
	err = logs.LooseCheckpoints(v, at, func(loose chunk.Sealed) error {
		if raw, err = r.rawIn(loose, hash); raw != nil {
			sealed = loose
			return storage.ErrStop
		}
		return err
	})
	if err != nil || raw != nil {
		return raw, sealed, err
	}
	return r.rawBeside(v, at, hash)
}

// rawIn returns a change that a chunk holds, or nil.
func (r *Replica) rawIn(sealed chunk.Sealed, hash [32]byte) ([]byte, error) {
	opened, err := chunk.Open(r.keys, sealed)
	if err != nil {
		return nil, fmt.Errorf("open chunk: %w", err)
	}
	for _, p := range partsOf(sealed, opened) {
		for _, c := range p.Changes {
			if h, ok := hashOf(c.Raw); ok && h == hash {
				return c.Raw, nil
			}
		}
	}
	return nil, nil
}

// rawBeside finds a change among what stands beside the main history at one place of a log.
func (r *Replica) rawBeside(v storage.Reader, at logs.Ref, hash [32]byte) (raw []byte, sealed chunk.Sealed, err error) {
	var damaged error
	err = v.Keys(storage.Branch.With3(at.Scope, at.Log, at.Counter), nil, func(key []byte) error {
		_, _, _, id, err := storage.Branch.Parse(key)
		if err != nil {
			return err
		}
		if raw != nil {
			return storage.ErrStop
		}
		place := storage.Ref{Scope: at.Scope, Log: at.Log, Counter: at.Counter, ID: id}
		if sealed, err = logs.ReadBranch(v, place); err == nil {
			raw, err = r.rawIn(sealed, hash)
			return err
		}
		if err = logs.UnreadableAs(place, err); logs.IsUnreadable(err) { // and it may be another one that holds the change
			damaged, err = err, nil
		}
		return err
	})
	if err == nil && raw == nil {
		if err = damaged; err == nil {
			err = errAwaited
		}
	}
	return raw, sealed, err
}

// part is what one CHANGES chunk held, whoever packed it.
type part struct {
	chunk.Part
	device trust.DeviceID
	at     logs.Ref
	fence  chunk.Fence // zero: none, or not known any more
}

// partsOf returns the changes in a chunk: its own, or those that it packs.
func partsOf(sealed chunk.Sealed, body chunk.Body) []part {
	at := logs.Ref{Scope: sealed.Header().Scope, Log: sealed.Log(), Counter: sealed.Header().Counter}
	switch body := body.(type) {
	case *chunk.Changes:
		return []part{{chunk.PartOf(body, 0, at.Counter), sealed.Header().Device, at, sealed.Header().Fence}}
	case *chunk.Checkpoint:
		list := make([]part, len(body.Parts))
		for i, p := range body.Parts {
			list[i] = part{Part: p, device: body.Logs[p.Log].Device, at: at}
		}
		return list
	}
	return nil
}
