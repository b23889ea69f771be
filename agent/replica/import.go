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

// Caps of one change of an import; what is larger is split. They keep a change far below the validator's caps, and a
// commit small.
const (
	importChangeBytes = 1 << 20 // of canonical JSON
	importCommitBytes = 4 << 20
)

// incoming is one resource of an import batch.
type incoming struct {
	index int // in the batch
	ref   fhirRef
	obj   fhir.Object
	json  []byte
	base  []crdt.ChangeHash // nil: nobody edited it since its last import
}

// Import writes a batch of resources, one change per document. Each is set against what was last imported of it, so that
// an old file reverts nothing: equal to that changes nothing, else the difference is applied there, concurrent with what
// people edited since.
func (r *Replica) Import(ctx context.Context, user string, batch api.ImportBatch) (api.ImportResult, error) {
	var result api.ImportResult
	last := map[fhirRef]int{}
	items := make([]*incoming, 0, len(batch.Resources))
	for i, raw := range batch.Resources {
		obj, ref, err := parseResource(raw)
		if err != nil {
			result.Refused = append(result.Refused, api.ImportError{Index: i, Reason: err.Error()})
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
	r.write.Lock()
	defer r.write.Unlock()
	jobs, err := r.importJobs(ctx, items, &result)
	if err != nil {
		return result, err
	}
	t := r.begin()
	for len(jobs) > 0 {
		j := jobs[0]
		jobs = jobs[1:]
		changed, opened, err := t.edit(ctx, j.job, r.by(user), chunk.OriginImport)
		if errors.Is(err, errTooLarge) {
			if len(j.want) > 1 {
				jobs = append(j.halves(), jobs...)
				continue
			}
			result.Refused = append(result.Refused, api.ImportError{Index: j.index[j.keys()[0]], Reason: "too large or too deep for one record"})
			continue
		}
		if err != nil {
			t.abort(ctx)
			return result, errors.Join(err, r.takeBackBy(ctx, err))
		}
		result.Conflicts += opened
		if changed {
			result.Created += len(j.created)
			result.Changed += len(j.want) - len(j.created)
		} else {
			result.Unchanged += len(j.want)
		}
		if t.batch.Size() > importCommitBytes {
			if err := t.commit(ctx); err != nil {
				return result, fmt.Errorf("commit: %w", err)
			}
			r.evict(ctx)
			t = r.begin()
		}
	}
	if err := t.commit(ctx); err != nil {
		return result, fmt.Errorf("commit: %w", err)
	}
	r.evict(ctx)
	return result, nil
}

type importJob struct {
	job
	created map[string]bool // root keys that are new
	index   map[string]int  // root key to its place in the batch
	bytes   int
}

// halves splits a job that does not fit one change.
func (j *importJob) halves() []*importJob {
	keys := j.keys()
	var out []*importJob
	for _, part := range [][]string{keys[:len(keys)/2], keys[len(keys)/2:]} {
		h := &importJob{job: j.job, created: map[string]bool{}, index: j.index}
		h.want, h.json = map[string]crdt.Value{}, map[string][]byte{}
		for _, k := range part {
			h.want[k], h.json[k] = j.want[k], j.json[k]
			if j.created[k] {
				h.created[k] = true
			}
		}
		out = append(out, h)
	}
	return out
}

// importJobs sorts out what there is to do, by document and base, in a stable order.
func (r *Replica) importJobs(ctx context.Context, items []*incoming, result *api.ImportResult) ([]*importJob, error) {
	t := r.begin()
	type place struct {
		doc   crdt.DocumentID
		based bool
		base  string
	}
	open := map[place]*importJob{}
	var jobs []*importJob
	for _, in := range items {
		j, v, err := t.locate(in.obj, in.ref)
		if err != nil {
			return nil, err
		}
		known, err := r.sinceImport(ctx, j, v, in)
		if err != nil {
			return nil, err
		}
		if known {
			result.Unchanged++
			continue
		}
		value, err := fhir.ToValue(in.obj)
		if err != nil {
			result.Refused = append(result.Refused, api.ImportError{Index: in.index, Reason: err.Error()})
			continue
		}
		at := place{j.doc, in.base != nil, joinHashes(in.base)}
		job := open[at]
		if job == nil || job.bytes+len(in.json) > importChangeBytes {
			j.base, j.want, j.json = in.base, map[string]crdt.Value{}, map[string][]byte{}
			job = &importJob{job: j, created: map[string]bool{}, index: map[string]int{}}
			open[at] = job
			jobs = append(jobs, job)
		}
		job.want[in.ref.key()], job.json[in.ref.key()] = value, in.json
		job.index[in.ref.key()] = in.index
		job.bytes += len(in.json)
		if v == nil || v.Removed {
			job.created[in.ref.key()] = true
		}
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
	defer r.evict(ctx)
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
