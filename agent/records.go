package agent

import (
	"context"
	"encoding/json"
	"io"

	"chartmesh/agent/api"
)

// The records' part of api.Agent is the replica's; what it writes is pushed by the applier's loop, which every commit
// wakes.

// Get returns a resource as it stands, or one of its versions.
func (a *Agent) Get(ctx context.Context, ref api.Ref, version string) (api.Resource, error) {
	return a.records.Get(ctx, ref, version)
}

// Put writes one resource.
func (a *Agent) Put(ctx context.Context, user string, resource json.RawMessage, force bool) (api.Written, error) {
	return a.records.Put(ctx, user, resource, force)
}

// Delete removes one resource.
func (a *Agent) Delete(ctx context.Context, user string, ref api.Ref) (api.Written, error) {
	return a.records.Delete(ctx, user, ref)
}

// History lists a resource's changes.
func (a *Agent) History(ctx context.Context, ref api.Ref) ([]api.Revision, error) {
	return a.records.History(ctx, ref)
}

// Find searches by name, birth date and identifier.
func (a *Agent) Find(ctx context.Context, text string, limit int) ([]api.Match, error) {
	return a.records.Find(ctx, text, limit)
}

// Import writes a batch.
func (a *Agent) Import(ctx context.Context, user string, batch api.ImportBatch) (api.ImportResult, error) {
	return a.records.Import(ctx, user, batch)
}

// Export writes resources to w.
func (a *Agent) Export(ctx context.Context, w io.Writer, opts api.ExportOptions) error {
	return a.records.Export(ctx, w, opts)
}

// Conflicts lists the open conflicts.
func (a *Agent) Conflicts(ctx context.Context) ([]api.Conflict, error) {
	return a.records.Conflicts(ctx)
}

// Conflict returns one of them.
func (a *Agent) Conflict(ctx context.Context, id string) (api.Conflict, error) {
	return a.records.Conflict(ctx, id)
}

// Resolve settles one.
func (a *Agent) Resolve(ctx context.Context, user, id string, decision api.Decision) (api.Written, error) {
	return a.records.Resolve(ctx, user, id, decision)
}

// Events tells what happened.
func (a *Agent) Events(ctx context.Context, since uint64, follow bool, fn func(api.Event) error) error {
	return a.records.Events(ctx, since, follow, fn)
}
