package logs

import (
	"errors"
	"fmt"

	"chartmesh/chunk"
	"chartmesh/storage"
	"chartmesh/trust"
)

// mainPosition returns where the main history stands at a counter; zero if that is not held, or does not read.
func mainPosition(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (chunk.Position, error) {
	p, err := (&History{Reader: v, Scope: scope, Log: log}).At(counter)
	if errors.Is(err, storage.ErrDamaged) { // ErrNotHeld, too
		return chunk.Position{}, nil
	}
	return p, err
}

// History reads where a log's main history stands, at one counter after another.
type History struct {
	Reader storage.Reader
	Scope  trust.ScopeID
	Log    chunk.LogID
	run    chunk.Covered // what a checkpoint stands for, as read last
}

// At returns where the main history stands at a counter; ErrNotHeld if there is neither a chunk nor what stands for it.
func (h *History) At(counter uint64) (chunk.Position, error) {
	if counter == 0 {
		return chunk.Position{}, nil
	}
	sealed, err := ReadChunk(h.Reader, h.Scope, h.Log, counter)
	if err == nil {
		return sealed.Position(), nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return chunk.Position{}, err
	}
	if counter < h.run.From || counter > h.run.To {
		if err := h.readRun(counter); err != nil {
			return chunk.Position{}, err
		}
	}
	tip, _ := h.run.TipAt(counter)
	return chunk.Position{Counter: counter, Tip: tip}, nil
}

// readRun reads what a skip over a counter stands for.
func (h *History) readRun(counter uint64) error {
	skip, found, err := ReadSkip(h.Reader, h.Scope, h.Log, counter)
	if err != nil {
		return err
	}
	if !found {
		return ErrNotHeld
	}
	sealed, err := readCheckpoint(h.Reader, h.Scope, skip.Checkpoint)
	if errors.Is(err, storage.ErrNotFound) {
		return ErrNotHeld
	}
	if err != nil {
		return err
	}
	covers, err := sealed.Covers()
	if err != nil {
		return fmt.Errorf("read checkpoint: %w: %w", storage.ErrDamaged, err)
	}
	run, ok := covers.Find(h.Log, counter)
	if !ok {
		return fmt.Errorf("read checkpoint: %w: a skip names it, and it does not cover that", storage.ErrDamaged)
	}
	h.run = run
	return nil
}

// Holding is what stands in a log for one counter: a chunk, or a skip whose checkpoint is here.
type Holding struct {
	End    End // where the log stands after it
	Sealed chunk.Sealed
	Skip   *chunk.Skip
}

// Follows reports whether h comes right after a log that ends at head.
func (h Holding) Follows(head End) bool {
	if h.Skip != nil {
		covers, err := h.Sealed.Covers()
		run, ok := covers.Find(h.Skip.Log, h.Skip.To)
		return err == nil && ok && run.Joins(head.Position())
	}
	return h.Sealed.Follows(head.ID, head.Counter)
}

// HeldBy says by what a counter of a log is held: the one place that knows. ErrNotHeld, storage.ErrDamaged and
// chunk.ErrNewer say why it is not, or not readable.
func HeldBy(v storage.Reader, scope trust.ScopeID, log chunk.LogID, counter uint64) (Holding, error) {
	sealed, err := ReadChunk(v, scope, log, counter)
	if err == nil {
		if h := sealed.Header(); h.Scope != scope || sealed.Log() != log || h.Counter != counter {
			return Holding{}, fmt.Errorf("read chunk: %w: it stands in another's place", storage.ErrDamaged)
		}
		return Holding{End: End{counter, sealed.ID()}, Sealed: sealed}, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return Holding{}, fmt.Errorf("read chunk: %w", err)
	}
	skip, found, err := ReadSkip(v, scope, log, counter)
	if err != nil {
		return Holding{}, fmt.Errorf("read chunk: %w", err)
	}
	if !found {
		return Holding{}, ErrNotHeld
	}
	sealed, err = readCheckpoint(v, scope, skip.Checkpoint)
	if errors.Is(err, storage.ErrNotFound) {
		return Holding{}, ErrNotHeld
	}
	if err != nil {
		return Holding{}, fmt.Errorf("read checkpoint: %w", err)
	}
	return Holding{End: End{skip.To, skip.Last}, Sealed: sealed, Skip: &skip}, nil
}

// Onwards returns where a log ends that is held up to head, given what is stored behind it. That is more than nothing
// after a repair: chunks beyond a gap are kept, and counted when the gap is filled.
func Onwards(v storage.Reader, scope trust.ScopeID, log chunk.LogID, head End) End {
	for {
		h, err := HeldBy(v, scope, log, head.Counter+1)
		if err != nil || !h.Follows(head) {
			return head
		}
		head = h.End
	}
}
