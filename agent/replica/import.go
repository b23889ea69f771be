package replica

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"chartmesh/agent/api"
	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
)

// Caps of one change of an import; what is larger is split. They keep a change far below the validator's caps, a commit small,
// and the turn so short that an edit waits for some tens of milliseconds.
const (
	importChangeBytes = 64 << 10 // of canonical JSON
	importCommitBytes = 1 << 20
)

// incoming is one resource of an import batch.
type incoming struct {
	index int // in the batch
	ref   fhirRef
	obj   fhir.Object
	json  []byte
	base  []crdt.ChangeHash // nil: nobody edited it since its last import
	fresh bool              // there is no such resource, or it was removed
}

// Import writes a batch of resources, one change per document or, where that would be large, several. Each is set against
// what was last imported of it, so that an old file reverts nothing: equal to that changes nothing, else the difference is
// applied there, concurrent with what people edited since.
//
// What a lock guards of which ctx has no lease is refused, with the lock's name. Others get their turn between two changes.
func (r *Replica) Import(ctx context.Context, user string, batch api.ImportBatch) (api.ImportResult, error) {
	run := importing{r: r, user: user}
	items := run.parse(batch)
	r.write.lockPatiently()
	defer r.write.Unlock()
	err := run.do(ctx, items)
	return run.result, err
}

// maxRead is how many views stay in memory while an import is sorted.
const maxRead = 256

// importing is one import. Its turn ends and begins anew while it goes on.
type importing struct {
	r      *Replica
	user   string
	t      *transaction
	turn   int // counts them
	result api.ImportResult
}

// importJob is one change to make, found in some turn: by the next, what it is set against may have been edited.
type importJob struct {
	job
	items []*incoming
	bytes int
	turn  int
}

func (run *importing) parse(batch api.ImportBatch) []*incoming {
	last := map[fhirRef]int{}
	items := make([]*incoming, 0, len(batch.Resources))
	for i, raw := range batch.Resources {
		obj, ref, err := parseResource(raw)
		if err != nil {
			run.refuse(i, err.Error())
			continue
		}
		item := &incoming{index: i, ref: ref, obj: obj, json: fhir.AppendCanonical(nil, obj)}
		if at, again := last[ref]; again {
			items[at] = item // the last in order stands
			continue
		}
		last[ref] = len(items)
		items = append(items, item)
	}
	return items
}

func (run *importing) refuse(index int, reason string) {
	run.result.Refused = append(run.result.Refused, api.ImportError{Index: index, Reason: reason})
}

func (run *importing) do(ctx context.Context, items []*incoming) error {
	run.t = run.r.begin(ctx)
	jobs, err := run.sort(ctx, items, true)
	for err == nil && len(jobs) > 0 {
		if err = run.pause(ctx); err != nil {
			break
		}
		if jobs[0].turn != run.turn {
			// Without a pause, so that every turn makes at least one change.
			var again []*importJob
			if again, err = run.sort(ctx, jobs[0].items, false); err != nil {
				break
			}
			if jobs = append(again, jobs[1:]...); len(again) == 0 {
				continue
			}
		}
		j := jobs[0]
		jobs = jobs[1:]
		var halves []*importJob
		if halves, err = run.write(ctx, j); err == nil {
			jobs = append(halves, jobs...)
		}
		if err == nil && run.t.batch.Size() > importCommitBytes {
			err = run.commit(ctx)
		}
	}
	if err != nil {
		run.t.abort(ctx)
		return err
	}
	return run.commit(ctx)
}

// pause lets others have their turn if they wait.
func (run *importing) pause(ctx context.Context) error {
	if !run.r.write.wanted() {
		return nil
	}
	if err := run.commit(ctx); err != nil {
		return err
	}
	run.r.write.Unlock()
	run.r.write.lockPatiently()
	run.turn++
	run.t = run.r.begin(ctx)
	return ctx.Err()
}

// commit makes what was written durable, and begins anew.
func (run *importing) commit(ctx context.Context) error {
	if err := run.t.commit(ctx); err != nil {
		return fmt.Errorf("commit: %w", err)
	}
	run.r.evict(ctx)
	run.t = run.r.begin(ctx)
	return nil
}

// write makes one change, or returns halves of a job that does not fit one.
func (run *importing) write(ctx context.Context, j *importJob) ([]*importJob, error) {
	j.want, j.json = map[string]crdt.Value{}, map[string][]byte{}
	created := 0
	for _, in := range j.items {
		value, err := fhir.ToValue(in.obj)
		if err != nil {
			run.refuse(in.index, err.Error())
			continue
		}
		j.want[in.ref.key()], j.json[in.ref.key()] = value, in.json
		if in.fresh {
			created++
		}
	}
	if len(j.want) == 0 {
		return nil, nil
	}
	changed, opened, err := run.t.edit(ctx, j.job, run.r.by(run.user), chunk.OriginImport)
	switch {
	case errors.Is(err, errTooLarge) && len(j.items) > 1:
		return []*importJob{j.part(0, len(j.items)/2), j.part(len(j.items)/2, len(j.items))}, nil
	case errors.Is(err, errTooLarge):
		run.refuse(j.items[0].index, "too large or too deep for one record")
		return nil, nil
	case errors.Is(err, errErased):
		for _, in := range j.items {
			run.refuse(in.index, errErased.Message)
		}
		return nil, nil
	case err != nil:
		return nil, err
	}
	run.result.Conflicts += opened
	if changed {
		run.result.Created += created
		run.result.Changed += len(j.want) - created
	} else {
		run.result.Unchanged += len(j.want)
	}
	return nil, nil
}

// part is a job for some of its items.
func (j *importJob) part(from, to int) *importJob {
	p := *j
	p.items = j.items[from:to:to]
	return &p
}

// sort finds out what there is to do, by document and base, in a stable order.
func (run *importing) sort(ctx context.Context, items []*incoming, pause bool) ([]*importJob, error) {
	type place struct {
		doc   crdt.DocumentID
		based bool
		base  string
	}
	open := map[place]*importJob{}
	var jobs []*importJob
	for _, in := range items {
		if pause {
			if err := run.pause(ctx); err != nil {
				return nil, err
			}
		}
		j, v, err := run.t.locate(in.obj, in.ref)
		if errors.Is(err, errErased) {
			run.refuse(in.index, errErased.Message)
			continue
		}
		if err != nil {
			return nil, err
		}
		if device, err := run.t.newerAt(j.doc, in.ref.key()); err != nil {
			return nil, err
		} else if device != "" {
			run.refuse(in.index, "it was changed at "+device+" by a newer version of chartmesh")
			continue
		}
		if j.over {
			if !v.Removed && bytes.Equal(v.JSON, in.json) {
				run.result.Unchanged++
				continue
			}
			v = nil // it is made anew
		}
		in.base = nil
		known, err := run.ofSeveral(ctx, &j, &v, in)
		in.fresh = v == nil || v.Removed
		if beside := in.base; err == nil && !known {
			if known, err = run.r.sinceImport(ctx, j, v, in); beside != nil {
				in.base = beside
			}
		}
		if err != nil {
			return nil, err
		}
		if len(run.t.docs) == 0 { // else what was just written may not leave memory before it is committed
			run.r.evict(ctx)
			if len(run.t.views) > maxRead {
				run.t = run.r.begin(ctx)
			}
		}
		may := run.t.mayWriteAt
		if known {
			may = func(ctx context.Context, j job) error { return run.t.again(ctx, j, in.ref.key()) }
		}
		if err := may(ctx, j); err != nil {
			refused, ok := errors.AsType[*api.Error](err)
			if !ok {
				return nil, err
			}
			run.result.Refused = append(run.result.Refused, api.ImportError{Index: in.index, Reason: refused.Message, Lock: lacksLease(ctx, j)})
			continue
		}
		if known {
			run.result.Unchanged++
			continue
		}
		at := place{j.doc, in.base != nil, joinHashes(in.base)}
		job := open[at]
		if job == nil || job.bytes+len(in.json) > importChangeBytes {
			j.base = in.base
			job = &importJob{job: j, turn: run.turn}
			open[at] = job
			jobs = append(jobs, job)
		} else {
			job.drafts = append(job.drafts, j.drafts...)
		}
		job.items = append(job.items, in)
		job.bytes += len(in.json)
	}
	slices.SortStableFunc(jobs, func(a, b *importJob) int {
		return cmp.Or(bytes.Compare(a.doc[:], b.doc[:]), cmp.Compare(len(a.base), len(b.base)))
	})
	return jobs, nil
}

func joinHashes(hs []crdt.ChangeHash) string {
	var b []byte
	for _, h := range hs {
		b = append(b, h[:]...)
	}
	return string(b)
}

// sinceImport compares a resource with what was last imported of it. It reports true when there is nothing to do, and
// else sets the base: nil if nobody edited it since.
func (r *Replica) sinceImport(ctx context.Context, j job, v *view, in *incoming) (bool, error) {
	switch {
	case v == nil:
		return false, nil
	case len(v.Imports) == 0:
		// Written by hand, never imported: unless the file says the same, it stands beside what is there, as if it had
		// been imported at another site.
		if !v.Removed && bytes.Equal(v.JSON, in.json) {
			return true, nil
		}
		d, err := r.document(j.scope, j.doc)
		if err != nil {
			return false, err
		}
		in.base = d.before(in.ref.key())
		return false, nil
	case slices.Equal(v.Imports, v.Heads):
		return !v.Removed && bytes.Equal(v.JSON, in.json), nil
	}
	d, err := r.document(j.scope, j.doc)
	if err != nil {
		return false, err
	}
	for _, h := range v.Imports {
		was, err := r.contentAt(ctx, d, in.ref.key(), []crdt.ChangeHash{h})
		if err != nil {
			return false, err
		}
		if bytes.Equal(was, in.json) {
			return true, nil
		}
	}
	in.base = v.Imports
	return false, nil
}

// ofSeveral looks at a resource that stands in several documents, of which reads show one. What is imported is set against
// what was imported before into the document where it belongs, and not put over what another site imported into the one that is
// shown. If a person decided against that document, what is imported stands beside what they chose; what they have seen and
// what was deleted since does not come again.
func (run *importing) ofSeveral(ctx context.Context, j *job, v **view, in *incoming) (known bool, err error) {
	docs, err := run.t.documentsOf(in.ref)
	if err != nil || len(docs) < 2 {
		return false, err
	}
	at, err := run.t.placeOf(in.obj, in.ref)
	if err != nil || at.doc == j.doc || !slices.Contains(docs, at.doc) {
		return false, err
	}
	w, err := run.t.view(at.doc, in.ref.key())
	if err != nil || w == nil {
		return false, err
	}
	if !w.Removed {
		*j, *v = at, w
		return false, nil
	}
	if !(*v).Removed {
		d, err := run.r.document(j.scope, j.doc)
		if err == nil {
			in.base = d.before(in.ref.key())
		}
		return false, err
	}
	return run.r.sinceImport(ctx, at, w, &incoming{ref: in.ref, obj: in.obj, json: in.json})
}

// before returns the heads of everything in a document that knows nothing of a resource: never nil. A change on top of
// them is concurrent with all that was written there, and follows as much else as it can, so that the same branch of this
// device serves every resource.
func (d *document) before(key string) []crdt.ChangeHash {
	knows := map[crdt.ChangeHash]bool{}
	rest := []crdt.ChangeHash{}
	for _, rec := range d.index.Records() { // dependencies first
		if slices.Contains(rec.Keys, key) || slices.ContainsFunc(rec.Deps, func(h crdt.ChangeHash) bool { return knows[h] }) {
			knows[rec.Hash] = true
		} else {
			rest = append(rest, rec.Hash)
		}
	}
	return append([]crdt.ChangeHash{}, d.index.HeadsOf(rest)...)
}
