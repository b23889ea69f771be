package agent

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"syscall"
	"time"

	"chartmesh/agent/api"
	"chartmesh/crdt"
	"chartmesh/crdt/engine"
	"chartmesh/storage"
)

// explain gives an error of the records the class and the words that a person needs.
func explain(err error) error {
	var known *api.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	e := &api.Error{Code: api.CodeInternal, Err: err}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		e.Code, e.Message = api.CodeTimeout, "it took too long"
	case errors.Is(err, context.Canceled):
		e.Code, e.Message = api.CodeUnavailable, "it was cancelled"
	case errors.Is(err, storage.ErrNoRoom):
		e.Code, e.Message, e.Hint = api.CodeFull, "nothing was written: "+noRoom(err), hintNoRoom
	case errors.Is(err, syscall.ENOSPC):
		e.Code, e.Message, e.Hint = api.CodeFull, "nothing was written: the disk is full", hintNoRoom
	case errors.Is(err, storage.ErrDamaged):
		e.Code, e.Message = api.CodeDamaged, "this device's copy of it is damaged"
		e.Hint = "run `chartmesh verify --repair`; the other devices have theirs"
	case errors.Is(err, storage.ErrFailed), errors.Is(err, storage.ErrClosed):
		e.Code, e.Message, e.Hint = api.CodeUnavailable, "the store is closed", "start the agent again"
	case errors.Is(err, engine.ErrUnsupported):
		e.Code, e.Message = api.CodeUnavailable, err.Error()
	case errors.Is(err, crdt.ErrEngine), errors.Is(err, crdt.ErrNotLoaded), errors.Is(err, engine.ErrStart):
		e.Code, e.Message, e.Hint = api.CodeUnavailable, "the engine failed: nothing was written", "try again; the log says more"
	default:
		return err
	}
	return e
}

const hintNoRoom = "make room on this device's disk; until then reading, searching and exporting go on, and so does what is sent to the other devices"

// noRoom says how much room there is and how much there must be.
func noRoom(err error) string {
	room, ok := errors.AsType[*storage.NoRoom](err)
	if !ok {
		return storage.ErrNoRoom.Error()
	}
	return room.Error()
}

// The records' part of api.Agent is the replica's; what it writes is pushed by the applier's loop, which every commit
// wakes.

// Get returns a resource as it stands, or one of its versions.
func (a *Agent) Get(ctx context.Context, ref api.Ref, version string) (api.Resource, error) {
	v, err := a.records.Get(ctx, ref, version)
	return v, explain(err)
}

// Put writes one resource. What a lock guards is written if its lease has not just been broken: that is asked, so that it need not be kept aside as late.
func (a *Agent) Put(ctx context.Context, user string, resource json.RawMessage, force bool) (api.Written, error) {
	a.checkLease(ctx, resource)
	return underLeases(ctx, a, func(ctx context.Context) (api.Written, error) { return a.records.Put(ctx, user, resource, force) })
}

// Delete removes one resource.
func (a *Agent) Delete(ctx context.Context, user string, ref api.Ref) (api.Written, error) {
	return underLeases(ctx, a, func(ctx context.Context) (api.Written, error) { return a.records.Delete(ctx, user, ref) })
}

// History lists a resource's changes.
func (a *Agent) History(ctx context.Context, ref api.Ref) ([]api.Revision, error) {
	v, err := a.records.History(ctx, ref)
	return v, explain(err)
}

// Stored says where a resource's changes are stored.
func (a *Agent) Stored(ctx context.Context, ref api.Ref) (api.StoredResource, error) {
	v, err := a.records.Stored(ctx, ref)
	return v, explain(err)
}

// Find searches by name, birth date and identifier.
func (a *Agent) Find(ctx context.Context, text string, limit int) ([]api.Match, error) {
	v, err := a.records.Find(ctx, text, limit)
	return v, explain(err)
}

// Export writes resources to w.
func (a *Agent) Export(ctx context.Context, w io.Writer, opts api.ExportOptions) error {
	return explain(a.records.Export(ctx, w, opts))
}

// Conflicts lists the open conflicts.
func (a *Agent) Conflicts(ctx context.Context) ([]api.Conflict, error) {
	v, err := a.records.Conflicts(ctx)
	return v, explain(err)
}

// Conflict returns one of them.
func (a *Agent) Conflict(ctx context.Context, id string) (api.Conflict, error) {
	v, err := a.records.Conflict(ctx, id)
	return v, explain(err)
}

// Resolve settles one.
func (a *Agent) Resolve(ctx context.Context, user, id string, decision api.Decision) (api.Written, error) {
	return underLeases(ctx, a, func(ctx context.Context) (api.Written, error) { return a.records.Resolve(ctx, user, id, decision) })
}

// Held lists chunks that are held back.
func (a *Agent) Held(ctx context.Context, query api.HeldQuery) (api.HeldPage, error) {
	v, err := a.records.ListHeld(ctx, query)
	return v, explain(err)
}

// HeldChunk shows one of them.
func (a *Agent) HeldChunk(ctx context.Context, id string) (api.HeldDetail, error) {
	v, err := a.records.ShowHeld(ctx, id)
	return v, explain(err)
}

// DecideHeld releases or discards one.
func (a *Agent) DecideHeld(ctx context.Context, user, id string, decision api.HeldDecision) (api.HeldOutcome, error) {
	return underLeases(ctx, a, func(ctx context.Context) (api.HeldOutcome, error) {
		return a.records.DecideHeld(ctx, user, id, decision)
	})
}

// RetryHeld tries again what this machine failed on.
func (a *Agent) RetryHeld(ctx context.Context, id string) (api.HeldRetry, error) {
	v, err := a.records.RetryHeld(ctx, id)
	return v, explain(err)
}

// Events tells what happened.
func (a *Agent) Events(ctx context.Context, since uint64, follow bool, fn func(api.Event) error) error {
	return explain(a.records.Events(ctx, since, follow, fn))
}

// Verify checks everything that is stored.
func (a *Agent) Verify(ctx context.Context, opts api.VerifyOptions, progress func(api.VerifyProgress)) (api.VerifyReport, error) {
	began := time.Now()
	v, err := a.records.Verify(ctx, opts, progress)
	if err == nil {
		a.noteVerified(ctx, began, v)
	}
	return v, explain(err)
}

// Compact packs what can be packed, and says what is stored then.
func (a *Agent) Compact(ctx context.Context) (api.Compaction, error) {
	c, err := a.records.Compact(ctx, true)
	if err != nil {
		return api.Compaction{}, explain(err)
	}
	out := api.Compaction{Checkpoints: c.Checkpoints, Words: c.Words, Deleted: c.Deleted, Waiting: c.Waiting, Contested: c.Contested}
	out.Chunks, out.Skips, out.Bytes, err = a.records.StoredChunks()
	return out, explain(err)
}
