package replica

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"chartmesh/chunk"
	"chartmesh/crdt"
	"chartmesh/fhir"
)

// linesBack bounds how many of a person's edits that follow one version are looked at: who sent one more knows what became of
// the one before.
const linesBack = 8

// writtenBefore reports whether the same person wrote on a version of a resource what is to be written on it, as when an answer
// was lost and the edit is sent once more. Beside itself a text would be merged with itself, and stand there twice.
//
// It follows from the changes that are held, so it needs no memory of requests, and holds on another device too once the
// edit has come there.
func (r *Replica) writtenBefore(ctx context.Context, j job, key, by string) (bool, error) {
	d, err := r.document(j.scope, j.doc)
	if err != nil {
		return false, err
	}
	own := map[crdt.ChangeHash]bool{}
	var since []crdt.ChangeHash // not in the version, ancestors first
	for _, c := range d.index.Touched(key) {
		if d.index.IsAncestor(c, j.base) {
			continue
		}
		at := []crdt.ChangeHash{c}
		seen := !slices.ContainsFunc(j.base, func(h crdt.ChangeHash) bool { return !d.index.IsAncestor(h, at) })
		among := !slices.ContainsFunc(since, func(o crdt.ChangeHash) bool { return !own[o] && d.index.IsAncestor(o, at) })
		since = append(since, c)
		if m := d.changes[d.byHash[c]]; m.author != by || m.origin != chunk.OriginEdit || !seen || !among {
			continue
		}
		own[c] = true
		content, err := r.contentAt(ctx, d, key, at)
		if err != nil || bytes.Equal(content, j.json[key]) {
			return err == nil, err
		}
		if len(own) == linesBack {
			break
		}
	}
	return false, nil
}

// stillStands reports whether what an edit made of the version that it names is all in what is shown now.
func (r *Replica) stillStands(ctx context.Context, j job, v *view, key string) (bool, error) {
	if v.Removed {
		return false, nil
	}
	d, err := r.document(j.scope, j.doc)
	if err != nil {
		return false, err
	}
	was, err := r.contentAt(ctx, d, key, j.base)
	if err != nil || was == nil {
		return false, err
	}
	var now, then crdt.Value
	for value, b := range map[*crdt.Value][]byte{&now: v.JSON, &then: was} {
		obj, err := fhir.Parse(b)
		if err != nil {
			return false, fmt.Errorf("read stored resource: %w", err)
		}
		if *value, err = fhir.ToValue(obj); err != nil {
			return false, fmt.Errorf("read stored resource: %w", err)
		}
	}
	return crdt.Onto(crdt.Shown{Value: now}, crdt.Shown{Value: then}, j.want[key]).Equal(now), nil
}
