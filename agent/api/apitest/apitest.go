// Package apitest has an agent in memory, for tests of what stands on [api.Agent]: handlers, client and commands.
//
// It keeps whole resources and numbers their versions; it has no documents, no peers and no disk. Conflicts, peers and
// failures are put in by the test.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"chartmesh/agent/api"
)

// Agent is an api.Agent in memory. The zero value is not ready: see New.
type Agent struct {
	mu struct {
		sync.Mutex
		status    api.Status
		inSync    chan struct{} // closed when SetInSync is called
		resources map[api.Ref][]api.Revision
		conflicts map[string]api.Conflict
		decisions map[string]api.Decision
		held      []api.HeldDetail
		erasures  []api.Erasure
		events    []api.Event
		more      chan struct{} // closed and replaced with every event
		fail      map[string]error
		writes    int
	}
}

var _ api.Agent = (*Agent)(nil)

// Begun is when the first change of every test was made; each further one is a second later.
var Begun = time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)

// New returns an agent without resources, online and alone.
func New() *Agent {
	a := &Agent{}
	a.mu.status = api.Status{Practice: "Praxis Test", Device: "Empfang", Site: "Mitte", PeerID: "12D3KooWtest", Version: "test",
		Running: true, State: "offline", Addresses: []string{"/ip4/127.0.0.1/udp/1/quic-v1"}, Peers: []api.Peer{}, Sync: []api.PeerSync{}}
	a.mu.inSync = make(chan struct{})
	a.mu.resources = map[api.Ref][]api.Revision{}
	a.mu.conflicts = map[string]api.Conflict{}
	a.mu.decisions = map[string]api.Decision{}
	a.mu.more = make(chan struct{})
	a.mu.fail = map[string]error{}
	return a
}

// Fail makes the next calls of a method ("Put") return err; nil ends that.
func (a *Agent) Fail(method string, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.fail[method] = err
}

// AddConflict opens a conflict.
func (a *Agent) AddConflict(c api.Conflict) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.conflicts[c.ID] = c
	a.mu.status.Conflicts = len(a.mu.conflicts)
}

// Decided returns the decision that closed a conflict.
func (a *Agent) Decided(id string) (api.Decision, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	d, ok := a.mu.decisions[id]
	return d, ok
}

// Change edits what Status says.
func (a *Agent) Change(fn func(*api.Status)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn(&a.mu.status)
}

// SetInSync lets WaitInSync return.
func (a *Agent) SetInSync() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.mu.status.InSync, a.mu.status.State = true, "online"
	close(a.mu.inSync)
}

func (a *Agent) failing(method string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.mu.fail[method]
}

// Status implements api.Agent.
func (a *Agent) Status(_ context.Context, peer string) (api.Status, error) {
	if err := a.failing("Status"); err != nil {
		return api.Status{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if peer != "" && !slices.ContainsFunc(a.mu.status.Peers, func(p api.Peer) bool { return p.Name == peer }) {
		return api.Status{}, &api.Error{Code: api.CodeNotFound, Message: "no such peer"}
	}
	status := a.mu.status
	status.Resources, status.Documents = len(a.mu.resources), len(a.mu.resources)
	return status, nil
}

// WaitInSync implements api.Agent.
func (a *Agent) WaitInSync(ctx context.Context, peer string) (api.Status, error) {
	if err := a.failing("WaitInSync"); err != nil {
		return api.Status{}, err
	}
	select {
	case <-a.mu.inSync:
		return a.Status(ctx, peer)
	case <-ctx.Done():
		if context.Cause(ctx) == context.DeadlineExceeded {
			return api.Status{}, &api.Error{Code: api.CodeTimeout, Message: "not in sync in time", Hint: "no device was reached"}
		}
		return api.Status{}, ctx.Err()
	}
}

// Metrics implements api.Agent.
func (a *Agent) Metrics(_ context.Context, w io.Writer) error {
	if err := a.failing("Metrics"); err != nil {
		return err
	}
	_, err := io.WriteString(w, "# TYPE chartmesh_resources gauge\nchartmesh_resources 0\n")
	return err
}

// Diagnose implements api.Agent.
func (a *Agent) Diagnose(ctx context.Context) (api.Diagnosis, error) {
	if err := a.failing("Diagnose"); err != nil {
		return api.Diagnosis{}, err
	}
	status, err := a.Status(ctx, "")
	return api.Diagnosis{Time: Begun, Version: "test", Status: status, Settings: map[string]string{"mdns": "on"}, Metrics: "m\n",
		Goroutines: "g\n", Log: "l\n", Store: []api.StoreFile{{Name: "store/000001.sst", Bytes: 1, Modified: Begun}}}, err
}

// SetOnline implements api.Agent.
func (a *Agent) SetOnline(_ context.Context, online bool) error {
	a.Change(func(s *api.Status) {
		if s.State = "offline"; online {
			s.State = "online"
		}
	})
	return a.failing("SetOnline")
}

// Compact implements api.Agent.
func (a *Agent) Compact(context.Context) (api.Compaction, error) {
	return api.Compaction{Checkpoints: 1, Deleted: 80, Chunks: 3, Skips: 2, Bytes: 6000}, a.failing("Compact")
}

// Get implements api.Agent.
func (a *Agent) Get(_ context.Context, ref api.Ref, version string) (api.Resource, error) {
	if err := a.failing("Get"); err != nil {
		return api.Resource{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	revisions := a.mu.resources[ref]
	for i := len(revisions) - 1; i >= 0; i-- {
		r := revisions[i]
		if version != "" && r.Version != version {
			continue
		}
		if r.Deleted && version == "" {
			return api.Resource{}, &api.Error{Code: api.CodeDeleted, Message: ref.String() + " was deleted"}
		}
		return api.Resource{Ref: ref, Version: r.Version, Updated: r.Time, Deleted: r.Deleted, JSON: r.JSON}, nil
	}
	return api.Resource{}, &api.Error{Code: api.CodeNotFound, Message: "there is no " + ref.String()}
}

// Put implements api.Agent. A resource that exists needs force.
func (a *Agent) Put(_ context.Context, user string, resource json.RawMessage, force bool) (api.Written, error) {
	if err := a.failing("Put"); err != nil {
		return api.Written{}, err
	}
	return a.write(user, resource, force, "edit")
}

func (a *Agent) write(user string, resource json.RawMessage, force bool, origin string) (api.Written, error) {
	var head struct{ ResourceType, ID string }
	if err := json.Unmarshal(resource, &head); err != nil || head.ResourceType == "" || head.ID == "" {
		return api.Written{}, &api.Error{Code: api.CodeInvalid, Message: "this is not a FHIR resource"}
	}
	ref := api.Ref{Type: head.ResourceType, ID: head.ID}
	a.mu.Lock()
	defer a.mu.Unlock()
	revisions := a.mu.resources[ref]
	outcome := "created"
	if len(revisions) > 0 {
		last := revisions[len(revisions)-1]
		if bytes.Equal(last.JSON, resource) {
			return api.Written{Ref: ref.String(), Version: last.Version, Outcome: "unchanged"}, nil
		}
		if !force {
			return api.Written{}, &api.Error{Code: api.CodeConflict, Message: ref.String() + " exists, and the file names no version",
				Hint: "read it with chartmesh get, or use --force"}
		}
		outcome = "changed"
	}
	r := a.addLocked(ref, api.Revision{Author: user, Origin: origin, JSON: slices.Clone(resource)})
	return api.Written{Ref: ref.String(), Version: r.Version, Outcome: outcome}, nil
}

func (a *Agent) addLocked(ref api.Ref, r api.Revision) api.Revision {
	r.Time = Begun.Add(time.Duration(a.mu.writes) * time.Second)
	a.mu.writes++
	r.Version = fmt.Sprintf("%016x", a.mu.writes)
	r.Device, r.Site = a.mu.status.Device, a.mu.status.Site
	a.mu.resources[ref] = append(a.mu.resources[ref], r)
	kind := "resource-changed"
	if r.Deleted {
		kind = "resource-deleted"
	}
	a.mu.events = append(a.mu.events, api.Event{Cursor: uint64(len(a.mu.events) + 1), Time: r.Time, Kind: kind,
		Resource: ref.String(), Version: r.Version, Local: true})
	close(a.mu.more)
	a.mu.more = make(chan struct{})
	return r
}

// Delete implements api.Agent.
func (a *Agent) Delete(_ context.Context, user string, ref api.Ref) (api.Written, error) {
	if err := a.failing("Delete"); err != nil {
		return api.Written{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.mu.resources[ref]) == 0 {
		return api.Written{}, &api.Error{Code: api.CodeNotFound, Message: "there is no " + ref.String()}
	}
	r := a.addLocked(ref, api.Revision{Author: user, Origin: "delete", Deleted: true})
	return api.Written{Ref: ref.String(), Version: r.Version, Outcome: "deleted"}, nil
}

// History implements api.Agent.
func (a *Agent) History(_ context.Context, ref api.Ref) ([]api.Revision, error) {
	if err := a.failing("History"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	revisions := slices.Clone(a.mu.resources[ref])
	if len(revisions) == 0 {
		return nil, &api.Error{Code: api.CodeNotFound, Message: "there is no " + ref.String()}
	}
	slices.Reverse(revisions)
	return revisions, nil
}

// Stored implements api.Agent: nothing is stored elsewhere.
func (a *Agent) Stored(ctx context.Context, ref api.Ref) (api.StoredResource, error) {
	revisions, err := a.History(ctx, ref)
	stored := api.StoredResource{Ref: ref.String(), Where: api.StoredHere}
	for _, r := range revisions {
		stored.Revisions = append(stored.Revisions, api.StoredRevision{Version: r.Version,
			Stored: api.Stored{Where: api.StoredHere, StoredAt: []string{}, ReadableAt: []string{}}})
	}
	return stored, err
}

// Find implements api.Agent: the text is looked for in the resource's JSON.
func (a *Agent) Find(_ context.Context, text string, limit int) ([]api.Match, error) {
	if err := a.failing("Find"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var matches []api.Match
	for _, ref := range a.refsLocked() {
		last := a.lastLocked(ref)
		if len(matches) < limit && !last.Deleted && strings.Contains(strings.ToLower(string(last.JSON)), strings.ToLower(text)) {
			matches = append(matches, api.Match{Ref: ref.String(), Name: text, BirthDate: "1970-01-01", Identifier: []string{"A123"}})
		}
	}
	return matches, nil
}

func (a *Agent) refsLocked() []api.Ref {
	var refs []api.Ref
	for ref := range a.mu.resources {
		refs = append(refs, ref)
	}
	slices.SortFunc(refs, func(x, y api.Ref) int { return cmp.Or(strings.Compare(x.Type, y.Type), strings.Compare(x.ID, y.ID)) })
	return refs
}

func (a *Agent) lastLocked(ref api.Ref) api.Revision {
	revisions := a.mu.resources[ref]
	return revisions[len(revisions)-1]
}

// Import implements api.Agent.
func (a *Agent) Import(_ context.Context, user string, batch api.ImportBatch) (result api.ImportResult, err error) {
	if err := a.failing("Import"); err != nil {
		return result, err
	}
	for i, resource := range batch.Resources {
		written, err := a.write(user, resource, true, "import")
		switch {
		case err != nil:
			result.Refused = append(result.Refused, api.ImportError{Index: i, Reason: api.AsError(err).Message})
		case written.Outcome == "created":
			result.Created++
		case written.Outcome == "changed":
			result.Changed++
		default:
			result.Unchanged++
		}
	}
	return result, nil
}

// Export implements api.Agent, as lines in either format.
func (a *Agent) Export(_ context.Context, w io.Writer, _ api.ExportOptions) error {
	a.mu.Lock()
	var out bytes.Buffer
	for _, ref := range a.refsLocked() {
		if last := a.lastLocked(ref); !last.Deleted {
			out.Write(last.JSON)
			out.WriteByte('\n')
		}
	}
	a.mu.Unlock()
	if _, err := w.Write(out.Bytes()); err != nil {
		return err
	}
	return a.failing("Export") // after what was there, as if a later value were damaged
}

// Conflicts implements api.Agent.
func (a *Agent) Conflicts(context.Context) ([]api.Conflict, error) {
	if err := a.failing("Conflicts"); err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var conflicts []api.Conflict
	for _, c := range a.mu.conflicts {
		conflicts = append(conflicts, c)
	}
	slices.SortFunc(conflicts, func(x, y api.Conflict) int { return strings.Compare(x.ID, y.ID) })
	return conflicts, nil
}

// Conflict implements api.Agent.
func (a *Agent) Conflict(_ context.Context, id string) (api.Conflict, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.mu.conflicts[id]
	if !ok {
		return api.Conflict{}, &api.Error{Code: api.CodeNotFound, Message: "there is no conflict " + id}
	}
	return c, nil
}

// Resolve implements api.Agent.
func (a *Agent) Resolve(_ context.Context, _, id string, decision api.Decision) (api.Written, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.mu.conflicts[id]
	if !ok {
		return api.Written{}, &api.Error{Code: api.CodeNotFound, Message: "there is no conflict " + id}
	}
	if decision.Choose != nil && *decision.Choose >= len(c.Values) {
		return api.Written{}, &api.Error{Code: api.CodeInvalid, Message: "the conflict has no such value"}
	}
	delete(a.mu.conflicts, id)
	a.mu.decisions[id] = decision
	a.mu.writes++
	return api.Written{Ref: c.Resource, Version: fmt.Sprintf("%016x", a.mu.writes), Outcome: "resolved"}, nil
}

// Verify implements api.Agent: one damaged view, which a repair mends.
func (a *Agent) Verify(_ context.Context, opts api.VerifyOptions, progress func(api.VerifyProgress)) (api.VerifyReport, error) {
	if err := a.failing("Verify"); err != nil {
		return api.VerifyReport{}, err
	}
	progress(api.VerifyProgress{Stage: "logs", Done: 3, Of: 4})
	r := api.VerifyReport{Logs: 2, Chunks: 1042, Documents: 17, Resources: 55, Values: 812, Took: 1200 * time.Millisecond, Found: 1,
		Findings: []api.Finding{{Kind: "view", ID: "9f86d081884c7d65", What: "it differs from its document"}}}
	if opts.Repair {
		r.Repaired, r.Clean = true, true
	}
	return r, nil
}

// Events implements api.Agent.
func (a *Agent) Events(ctx context.Context, since uint64, follow bool, fn func(api.Event) error) error {
	if err := a.failing("Events"); err != nil {
		return err
	}
	for {
		a.mu.Lock()
		var next []api.Event
		if since < uint64(len(a.mu.events)) {
			next = slices.Clone(a.mu.events[since:])
		}
		more := a.mu.more
		a.mu.Unlock()
		for _, e := range next {
			if err := fn(e); err != nil {
				return err
			}
			since = e.Cursor
		}
		if len(next) > 0 {
			continue
		}
		if !follow {
			return nil
		}
		select {
		case <-more:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
